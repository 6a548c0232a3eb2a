"""Training several networks of the same shape on JAX as one compiled program."""

import json

import keras

from anytime_keras.training import scan
from anytime_keras.training.progress import ProgressBar
from anytime_keras.training.run import Training, title
from anytime_keras.weighting import AdaLossWeighting

NEVER = 2**31 - 1
STATIC = ("constant", "linear", "half_end", "single_exit")
NUMBERS = ("gamma", "momentum", "update_period")  # arguments of AdaLoss that can be variables of one program


def train_side_by_side(recipes, folders=None, resume=False, verbose=True, time_limit=None, checkpoint_every=1):
    """Trains recipes that differ only in seed and weighting, all at once (`jax.vmap`).

    Each run gives the result of `train(recipe, folder, engine="scan")`, to rounding, and can be resumed alone or with
    the others. Small networks leave a large device idle, and several of them may fill it. Whether that is faster
    depends on the device's grouped convolutions, which those of several networks become. On a CPU, training one after
    the other is faster. `tests/benchmarks/training.py` measures it. JAX only.

    Args:
        recipes: list of `Recipe`.
        folders: list of folders to write to, one for each recipe; None to write nothing.
        resume, verbose, time_limit, checkpoint_every: as in `train`. Resumed runs start after the last epoch for
            which all of them have a checkpoint.

    Returns:
        A list of `Run`.

    Raises:
        ValueError: as `train`; if the recipes differ in anything else; or if their weightings differ and one is neither
            static nor AdaLoss with numbers as `gamma`, `momentum` and `update_period` and no other argument.

    Example: two seeds of one configuration.

        model = {"name": "resann", "num_units": 1, "channels": 4}
        recipes = [Recipe.paper(model, "digits", epochs=1, seed=seed) for seed in range(2)]
        runs = train_side_by_side(recipes, ["seed_0", "seed_1"])
    """
    scan.check_backend()
    folders = [None] * len(recipes) if folders is None else list(folders)
    _check(recipes, folders)
    adapt = None if all(recipe.weighting == recipes[0].weighting for recipe in recipes) else AnyWeighting
    data = recipes[0].load_data()
    scan.check_data(data)
    runs = [Training(recipe, folder, resume, data, adapt) for recipe, folder in zip(recipes, folders)]
    try:
        return _train(runs, data, _latest(runs) if resume else None, verbose, time_limit, checkpoint_every)
    finally:
        for run in runs:
            run.release()


def program(recipe):
    """Returns a key that is equal for recipes that one program can train."""
    content = {name: value for name, value in recipe.to_dict().items() if name != "seed"}
    weighting = recipe.weighting
    numbers = weighting["name"] == "adaloss" and weighting.keys() <= {"name", *NUMBERS}
    if weighting["name"] in STATIC or (numbers and not isinstance(weighting.get("gamma"), (list, tuple))):
        del content["weighting"]
    return json.dumps(content, sort_keys=True)


def _train(runs, data, latest, verbose, time_limit, checkpoint_every):
    callbacks = []
    for run in runs:
        name = f"{title(run.recipe)} seed {run.recipe.seed}"
        bar = [ProgressBar(images=data.sizes["train"], title=name, bar=False)] if verbose else []
        own, plan = run.begin(bar, time_limit, checkpoint_every, latest=latest)
        callbacks.append(own)
    results = [None] * len(runs)
    if plan.first < plan.end:
        models, seeds = [run.model for run in runs], [run.recipe.seed for run in runs]
        results = scan.fit(models, data, seeds, plan, callbacks, verbose)
    for run in runs:
        if isinstance(run.weighting, AnyWeighting):
            run.weighting = run.weighting.trained()
    stopped = any(run.stopped for run in runs)
    return [run.finish(result, stopped, verbose) for run, result in zip(runs, results)]


def _check(recipes, folders):
    if not recipes or len(folders) != len(recipes):
        raise ValueError(
            f"`folders` needs one folder per recipe. Received: {len(recipes)} recipes, {len(folders)} folders."
        )
    if recipes[0].minutes is not None:
        raise ValueError(f"Runs side by side need a number of `epochs`. Received: minutes={recipes[0].minutes}.")
    first = recipes[0].to_dict()
    for recipe in recipes[1:]:
        if program(recipe) != program(recipes[0]):
            fields = recipe.to_dict().items()
            differing = [f"{name}={value!r}" for name, value in fields if value != first[name] and name != "seed"]
            raise ValueError(
                "`recipes` may differ only in seed and weighting, and different weightings must be static, or AdaLoss "
                f"with numbers as {', '.join(NUMBERS)} and no other argument. Received: a recipe that differs from "
                f"the first in {', '.join(differing)}. Train them one after the other."
            )


def _latest(runs):
    """Returns the last epoch for which every run has a checkpoint, or 0 if no run has one."""
    epochs = [set(run.checkpoints.epochs()) for run in runs]
    common = set.intersection(*epochs)
    if any(epochs) and not common:
        raise ValueError(
            "Runs resumed side by side must have a checkpoint of the same epoch. Received: epochs "
            f"{[sorted(own) for own in epochs]}. Train them one by one."
        )
    return max(common, default=0)


class AnyWeighting(AdaLossWeighting):
    """An AdaLoss whose settings are variables, so that one program also computes static weightings.

    A static weighting keeps its weights.
    """

    def __init__(self, original):
        self.adaptive = isinstance(original, AdaLossWeighting)
        super().__init__(**(original.get_config() if self.adaptive else {"update_period": NEVER}))
        self.original = original

    def build(self, exits):
        super().build(exits)
        self.original.build(exits)
        if not self.adaptive:
            self._state["weights"].assign(self.original.weights)
        for name, dtype in zip(NUMBERS, ("float32", "float32", "int32")):
            value = keras.ops.convert_to_tensor(getattr(self, name), dtype)
            setattr(self, name, keras.Variable(value, dtype=dtype, trainable=False, autocast=False, name=name))

    @property
    def variables(self):
        return [*super().variables, self.gamma, self.momentum, self.update_period] if self.built else []

    def _warn_of_starved_exits(self):
        if self.adaptive:
            super()._warn_of_starved_exits()

    def get_state(self):
        return super().get_state() if self.adaptive else self.original.get_state()

    def set_state(self, state):
        if self.adaptive:
            super().set_state(state)

    def trained(self):
        self.original.set_state(self.get_state())
        return self.original
