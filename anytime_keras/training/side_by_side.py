"""Several networks of one shape trained side by side on JAX, as one compiled program."""

import keras

from anytime_keras.training import scan
from anytime_keras.training.progress import ProgressBar
from anytime_keras.training.run import Training, title
from anytime_keras.weighting import AdaLossWeighting

NEVER = 2**31 - 1
MAY_DIFFER = ("seed", "weighting")


def train_side_by_side(recipes, folders=None, resume=False, verbose=True, time_limit=None, checkpoint_every=1):
    """Trains by several recipes that differ in seed and weighting alone, all at once (`jax.vmap`).

    Every training comes out as `train(recipe, folder, engine="scan")` would have it, to rounding, and resumes
    likewise, alone or with the others. Small networks leave a large device idle; side by side they may fill it. Whether
    they do hangs on how the device computes grouped convolutions, which those of several networks become: on a CPU one
    after the other is faster. `tests/benchmarks/training.py` measures it. JAX only.

    Args:
        recipes: list of `Recipe`.
        folders: list of where to write, one a recipe; None to write nothing.
        resume, verbose, time_limit, checkpoint_every: as in `train`; those that go on start after the last epoch that
            all have a checkpoint of.

    Returns:
        A list of `Run`.

    Raises:
        ValueError: as `train`; if the recipes differ otherwise, or their AdaLosses in `final_extra` or in being of
            first order.

    Example: the seeds of a table's row.

        train_side_by_side([Recipe.paper(model, "cifar10", seed=seed) for seed in range(3)], ["a", "b", "c"])
    """
    scan.check_backend()
    folders = [None] * len(recipes) if folders is None else list(folders)
    _check(recipes, folders)
    final_extra = _final_extra(recipes)
    trainings = []
    for recipe, folder in zip(recipes, folders):
        data = trainings[0].data if trainings else None
        trainings.append(Training(recipe, folder, resume, data, lambda weighting: AnyWeighting(weighting, final_extra)))
    data = trainings[0].data
    scan.check_data(data)
    latest = _latest(trainings) if resume else None
    callbacks = []
    for number, training in enumerate(trainings):
        name = f"{title(training.recipe)} seed {training.recipe.seed}"
        bar = [ProgressBar(images=data.sizes["train"], title=name, bar=False)] if verbose else []
        callbacks.append(training.begin(bar, time_limit, checkpoint_every, latest=latest))
    first, epochs = trainings[0].epoch, recipes[0].epochs
    results = [None] * len(trainings)
    if first < epochs:
        models, seeds = [training.model for training in trainings], [recipe.seed for recipe in recipes]
        results = scan.fit(models, data, seeds, epochs, first, callbacks, verbose)
    stopped = any(training.stopped for training in trainings)
    return [
        training.finish(result, stopped, verbose, training.state and training.state.original())
        for training, result in zip(trainings, results)
    ]


def _check(recipes, folders):
    if not recipes or len(folders) != len(recipes):
        raise ValueError(
            f"`folders` needs one folder a recipe. Received: {len(recipes)} recipes, {len(folders)} folders."
        )
    first = recipes[0].to_dict()
    for recipe in recipes[1:]:
        differing = [
            name for name, value in recipe.to_dict().items() if value != first[name] and name not in MAY_DIFFER
        ]
        if differing:
            raise ValueError(
                f"`recipes` side by side may differ in {' and '.join(MAY_DIFFER)} alone. Received: recipes that differ "
                f"in {', '.join(differing)}. Train them one after the other."
            )


def _final_extra(recipes):
    """The one `final_extra` of all AdaLosses among the recipes."""
    weightings = [recipe.build_weighting() for recipe in recipes]
    adaptive = [weighting for weighting in weightings if isinstance(weighting, AdaLossWeighting)]
    extras = sorted({weighting.final_extra for weighting in adaptive})
    if len(extras) > 1 or any(weighting.first_order for weighting in adaptive):
        raise ValueError(
            "AdaLoss side by side needs one `final_extra` and no `first_order`. "
            f"Received: {[recipe.weighting for recipe in recipes]}. Train them one after the other."
        )
    return extras[0] if extras else 0.0


def _latest(trainings):
    """The last epoch after which every training has a checkpoint, or 0."""
    return max(set.intersection(*(set(training.checkpoints.epochs()) for training in trainings)), default=0)


class AnyWeighting(AdaLossWeighting):
    """Any weighting as an AdaLoss whose settings are state, so that one program serves all.

    A static one starts with its weights, and their update is never due.

    Args:
        weighting: `Weighting`.
        final_extra: float, AdaLoss's.
    """

    def __init__(self, weighting, final_extra=0.0):
        self.adaptive = isinstance(weighting, AdaLossWeighting)
        settings = {"update_period": NEVER, **(weighting.get_config() if self.adaptive else {})}
        super().__init__(**{**settings, "final_extra": final_extra})
        self.weighting = weighting

    def build(self, exits):
        super().build(exits)
        self.weighting.build(exits)
        if not self.adaptive:
            self._weights.assign(self.weighting.weights)
        for name, dtype in (("gamma", "float32"), ("momentum", "float32"), ("update_period", "int32")):
            value = keras.ops.convert_to_tensor(getattr(self, name), dtype)
            setattr(self, name, keras.Variable(value, dtype=dtype, trainable=False, autocast=False, name=name))

    @property
    def variables(self):
        return [*super().variables, self.gamma, self.momentum, self.update_period] if self.built else []

    def get_state(self):
        return super().get_state() if self.adaptive else self.weighting.get_state()

    def set_state(self, state):
        if self.adaptive:
            super().set_state(state)

    def original(self):
        """Returns the weighting itself, with what was learnt."""
        self.weighting.set_state(self.get_state())
        return self.weighting
