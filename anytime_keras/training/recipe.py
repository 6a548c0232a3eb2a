"""Recipes: what to train, as plain data that is saved with the results and can be loaded again."""

import dataclasses
import inspect

import keras
import numpy as np
from keras import ops

from anytime_keras import _files, data, graph, models, weighting
from anytime_keras._checks import check_choice, check_int, check_number
from anytime_keras._errors import check_known, explained
from anytime_keras.data import sources
from anytime_keras.training import distillation, schedules

GIVEN = "given"  # the name of a network that is not built from the recipe but passed to `train(model=)`
EPOCHS = {"svhn_cropped": 60, "imagenet2012": 90}  # of the paper (section 5.1); other data sets take CIFAR's
DEFAULT_EPOCHS = 300  # of a recipe with neither epochs nor minutes
MOST_MINUTES = 60 * 24 * 365
PRECISIONS = ("float32", "mixed_float16", "mixed_bfloat16", "float16", "bfloat16", "float64")


@dataclasses.dataclass
class Recipe:
    """Everything that determines the result of a training run, apart from the code.

    `model`, `data`, `weighting`, `optimizer` and `schedule` may also be just the name.

    Attributes:
        model: dict with `name` and the arguments of `anytime_keras.models.build`. The image shape and the number of
            classes come from the data. The name `"given"` stands for a network that is passed to `train(model=)`;
            `from` may name its origin.
        data: dict with `data` and the arguments of `anytime_keras.data.load`, except batch size and seed.
        weighting: dict with `name` ("adaloss", "constant", "linear", "half_end", "single_exit", "gradnorm",
            "uncertainty") and its arguments. AdaLoss's `gamma` may be a pair of numbers: see `ak.AdaLoss`.
        optimizer: dict with `name` (Keras's) and its arguments, except the learning rate.
        learning_rate: float, the maximum.
        schedule: dict with `name`. "step" divides the rate by 10 at the `boundaries`, fractions of the run. "cosine"
            rises for `warmup_epochs`, or for `warmup`, a fraction of the run, and then falls to 0. Or "constant".
        weight_decay: float, for kernels of convolutions and linear layers. As in the paper, it is an L2 term of the
            loss: half of it times the squared norm (TensorFlow 1's `l2_loss`), outside the weighted sum.
        label_smoothing: float in [0, 1).
        epochs: int, 300 by default; None with `minutes`.
        minutes: float, the duration of the run, including loading, evaluating and saving. The schedule follows the
            fraction of the time that has passed. None with `epochs`.
        batch_size, seed: ints. Batches are those of all devices together.
        sizes: list of [short side in pixels, fraction of the run], in order, such as
            `[[32, 0.5], [48, 0.3], [64, 0.2]]`, to which training images are resized. None trains at the size of the
            data, which evaluation always uses. With `epochs`, each size lasts for whole epochs.
        init: str, the source of the initial weights: a folder that `train` wrote, or a name of the zoo, followed by a
            colon and the label of its weights if it is not the default (`"resann5x16_adaloss:cifar100"`). If it has
            another number of classes, the last layer of each exit is initialized randomly. None initializes all
            weights randomly.
        precision: Keras's dtype policy.
        steps_per_execution: int, steps per call of TensorFlow's compiled function.
        ema_momentum: float in [0, 1), of a moving average of the weights, which is evaluated in addition to the weights
            (`Run.average`). None for no average.
        distillation: dict with `weight` and `temperature` of the loss with which exits learn from the last one, see
            `anytime_keras.training.distillation`. None for no distillation. AdaLoss uses losses that include it.
        gradient_equilibrium: bool, whether to scale gradients between the stages, see
            `anytime_keras.models.gradient_equilibrium`.
        last_exit: str, the exit after which to end the network. Layers that only later exits need are removed. None
            for all exits.

    Example:
    >>> recipe = Recipe({"name": "resann", "num_units": 2, "channels": 16}, "digits", epochs=30)
    >>> recipe.weighting, recipe.batch_size
    ({'name': 'adaloss'}, 64)
    >>> model = recipe.build_model(recipe.load_data())
    >>> model.num_exits, model.compiled
    (6, True)
    """

    model: dict
    data: dict
    weighting: dict = dataclasses.field(default_factory=lambda: {"name": "adaloss"})
    optimizer: dict = dataclasses.field(default_factory=lambda: {"name": "sgd", "momentum": 0.9})
    learning_rate: float = 0.1
    schedule: dict = dataclasses.field(default_factory=lambda: {"name": "step", "boundaries": [0.5, 0.75]})
    weight_decay: float = 1e-4
    label_smoothing: float = 0.0
    epochs: int | None = None
    batch_size: int = 64
    seed: int = 0
    precision: str = "float32"
    steps_per_execution: int = 1
    ema_momentum: float | None = None
    distillation: dict | None = None
    gradient_equilibrium: bool = False
    last_exit: str | None = None
    minutes: float | None = None
    sizes: list | None = None
    init: str | None = None

    @classmethod
    def paper(cls, model, data, **changes):
        """The paper's recipe for a data set (section 5.1), with the batch size of the authors' code for AdaLoss, 64.

        As in the paper, the last 5000 training images of CIFAR are held out for validation, unless `data` has a
        `validation`. `model` and `data` are as the attributes; `changes` are attributes that differ.

        Example:
        >>> recipe = Recipe.paper({"name": "resann", "num_units": 9, "channels": 16}, "cifar10", epochs=60)
        >>> recipe.learning_rate, recipe.schedule["boundaries"], recipe.weight_decay
        (0.1, [0.5, 0.75], 0.0001)
        """
        data = _named(data, "data")
        name = sources.known_name(data["data"])
        defaults = {} if "minutes" in changes else {"epochs": EPOCHS.get(name, DEFAULT_EPOCHS)}
        if name in ("cifar10", "cifar100"):
            data.setdefault("validation", "last")
        if name == "imagenet2012":
            defaults.update(batch_size=256, schedule={"name": "step", "boundaries": [1 / 3, 2 / 3]})
        return cls(model=_named(model, "name"), data=data, **{**defaults, **changes})

    @classmethod
    def modern(cls, model, data, **changes):
        """A recipe of today: cosine schedule with warm-up, Nesterov momentum, label smoothing, strong decay, cutout.

        Cutout follows the data set's own augmentation, unless `data` has an `augment`. Arguments are those of `paper`.
        """
        data = _named(data, "data")
        if "augment" not in data:
            data["augment"] = [*sources.defaults(data["data"]).augment, "erase"]
        by_time = "minutes" in changes
        defaults = dict(weight_decay=5e-4, label_smoothing=0.1, batch_size=128, epochs=None if by_time else 200)
        defaults["optimizer"] = {"name": "sgd", "momentum": 0.9, "nesterov": True}
        defaults["schedule"] = {"name": "cosine", **({"warmup": 0.05} if by_time else {"warmup_epochs": 5})}
        return cls(model=_named(model, "name"), data=data, **{**defaults, **changes})

    def __post_init__(self):
        for name, value in [*vars(self).items()]:
            plain = keras.tree.map_structure(lambda each: each.item() if isinstance(each, np.generic) else each, value)
            setattr(self, name, plain)  # JSON has no numbers of NumPy
        self.model, self.data = _named(self.model, "name"), _named(self.data, "data")
        self.weighting, self.optimizer = _named(self.weighting, "name"), _named(self.optimizer, "name")
        self.schedule = _named(self.schedule, "name")
        self._check_length()
        for name, low in {"batch_size": 1, "steps_per_execution": 1, "seed": 0}.items():
            setattr(self, name, check_int(name, getattr(self, name), low))
        for name, end in dict(learning_rate=2**31, weight_decay=2**31, label_smoothing=1, ema_momentum=1).items():
            if (number := getattr(self, name)) is not None or name != "ema_momentum":
                expected = f"of 0 or more, below {end}"
                setattr(self, name, check_number(name, number, expected, lambda value: 0 <= value < end))
        check_choice("precision", self.precision, PRECISIONS)
        if self.model["name"] != GIVEN:
            models.registry.check_name(self.model["name"])
        schedules.check_schedule(self.schedule)
        if self.sizes is not None:
            schedules.check_sizes(self.sizes)
        _check_data(self.data)
        if "learning_rate" in self.optimizer:
            raise ValueError(f"`optimizer` must not contain the recipe's `learning_rate`. Received: {self.optimizer}.")
        self._optimizer(1)
        if self.distillation is not None:
            distillation.distilled_loss(None, self.distillation)
        if not isinstance(self.gradient_equilibrium, bool):
            raise ValueError(f"`gradient_equilibrium` must be True or False. Received: {self.gradient_equilibrium!r}.")
        for name, expected in {"last_exit": "an exit's name", "init": "a folder or a name of the zoo"}.items():
            value = getattr(self, name)
            if value is not None and not (isinstance(value, str) and value):
                raise ValueError(f"`{name}` must be None or {expected}. Received: {name}={value!r}.")
        self.build_weighting()

    def _check_length(self):
        if self.minutes is None:
            self.epochs = DEFAULT_EPOCHS if self.epochs is None else check_int("epochs", self.epochs)
            return
        if self.epochs is not None:
            raise ValueError(
                "Only one of `epochs` and `minutes` can be set. Received: "
                f"epochs={self.epochs}, minutes={self.minutes}. Omit one of them."
            )
        expected = f"above 0, {MOST_MINUTES} at most"
        self.minutes = check_number("minutes", self.minutes, expected, lambda each: 0 < each <= MOST_MINUTES)
        if "warmup_epochs" in self.schedule:
            raise ValueError(
                f"With `minutes`, `warmup_epochs` is not possible. Received: schedule={self.schedule}. Pass a fraction "
                "of the time instead, such as `schedule={'name': 'cosine', 'warmup': 0.05}`."
            )
        if isinstance(self.weighting.get("gamma"), (list, tuple)):
            raise ValueError(
                "A pair as `gamma` needs a known number of epochs. Received: "
                f"minutes={self.minutes}, weighting={self.weighting}. Pass `epochs`, or one number as `gamma`."
            )

    def to_dict(self):
        """Returns the recipe as plain data, which `from_dict` reads."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, content):
        """Creates a recipe from a dict of its fields, or raises ValueError if a field is unknown or not valid."""
        if not isinstance(content, dict):
            raise ValueError(f"A recipe must be a dict of its fields. Received: {content!r:.60}.")
        known = [field.name for field in dataclasses.fields(cls)]
        check_known(content, known, "A recipe has no field `{}`.")
        missing = [key for key in ("model", "data") if key not in content]
        if missing:
            raise ValueError(f"A recipe needs {missing}. Received: {sorted(content)}.")
        return cls(**content)

    def to_json(self, path=None):
        """Writes the recipe to a file, if there is a path, and returns it as JSON text."""
        return _files.to_json(self.to_dict(), path)

    @classmethod
    def from_json(cls, path):
        """Reads a recipe from a file that `to_json` wrote."""
        return cls.from_dict(_files.read_json(path, "a recipe written by `Recipe.to_json`"))

    def with_minutes(self, minutes):
        """Returns a copy of the recipe that trains for a number of minutes. The warm-up keeps its share of the run.

        Example:
        >>> Recipe.modern("resann", "digits", epochs=100).with_minutes(20).schedule
        {'name': 'cosine', 'warmup': 0.05}
        """
        schedule = dict(self.schedule)
        if "warmup_epochs" in schedule:
            schedule["warmup"] = min(schedule.pop("warmup_epochs") / self.epochs, 0.5)
        return dataclasses.replace(self, epochs=None, minutes=minutes, schedule=schedule)

    # === What the recipe stands for ===

    def load_data(self):
        """Returns the `DataSet`."""
        return data.load(**self.data, batch_size=self.batch_size, seed=self.seed, one_hot=self.label_smoothing > 0)

    def build_model(self, data_set, model=None):
        """Returns the compiled `AnytimeModel` for a `DataSet`: the given one, or the recipe's if `model` is None."""
        if model is None:
            model = self._untrained(data_set)
        self._check_fit(model, data_set)
        if self.sizes is not None:
            # All families pool globally and take any size; Keras would refuse all but the one that it was built for.
            model.input_spec = keras.layers.InputSpec(shape=(None, None, None, model.inputs[0].shape[-1]))
        if self.last_exit is not None:
            model = _ending_with(model, self.last_exit)
        if self.gradient_equilibrium:
            model = models.gradient_equilibrium(model)
        if self.weight_decay:
            decay_kernels(model, self.weight_decay)
        if data_set.one_hot:
            loss = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=self.label_smoothing)
        else:
            loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        if self.distillation is not None and model.num_exits > 1:
            *students, teacher = model.exit_names
            loss = {**{name: distillation.distilled_loss(loss, self.distillation) for name in students}, teacher: loss}
        optimizer = self._optimizer(data_set.steps_per_epoch)
        model.compile(optimizer, loss, metrics=["accuracy"], steps_per_execution=self.steps_per_execution)
        if self.distillation is not None:
            distillation.teach(model)
        return model

    def _untrained(self, data_set):
        if self.model["name"] == GIVEN:
            raise ValueError(
                f"The recipe's network must be passed to `train(model=)`. Received: None, with model={self.model}."
            )
        dtype = None if self.precision == "float32" else self.precision
        shape = {"input_shape": data_set.image_shape, "num_classes": data_set.num_classes}
        return models.build(**{**shape, "dtype": dtype, **self.model})

    def _check_fit(self, model, data_set):
        """Raises ValueError unless the model fits the data's images and classes."""
        shape, classes = tuple(model.inputs[0].shape[1:]), model.outputs[0].shape[-1]
        if shape != tuple(data_set.image_shape) or classes != data_set.num_classes:
            raise ValueError(
                f"The model must take the images of '{data_set.name}', shape {tuple(data_set.image_shape)}, and have "
                f"{data_set.num_classes} classes. Received: a model for {shape} and {classes} classes, from "
                f"model={self.model}. Leave out `input_shape` and `num_classes`, because they come from the data."
            )

    def rate_at(self, share):
        """Returns the learning rate when a share of the run, from 0 to 1, is done."""
        return schedules.rate_at(self.schedule, self.learning_rate, share)

    def build_weighting(self):
        """Returns the `Weighting`."""
        arguments = dict(self.weighting)
        name = arguments.pop("name")
        schemes = {**weighting.SCHEMES, "single_exit": weighting.SingleExit}
        check_choice("weighting", name, schemes)
        with explained(f"`weighting` '{name}' does not take {sorted(arguments)}: ", TypeError, end="."):
            return schemes[name](**arguments)

    def _optimizer(self, steps_per_epoch):
        arguments = dict(self.optimizer)
        name = arguments.pop("name")
        if self.minutes is not None:
            rate = self.rate_at(0.0)  # a variable, which the clock sets
        else:
            rate = schedules.by_step(self.schedule, self.learning_rate, self.epochs, steps_per_epoch)
        if self.ema_momentum is not None:
            arguments.update(use_ema=True, ema_momentum=self.ema_momentum)
        with explained(f"`optimizer` is not one of Keras's. Received: {self.optimizer}. ", ValueError, TypeError):
            return keras.optimizers.get({"class_name": name, "config": {**arguments, "learning_rate": rate}})


def _check_data(arguments):
    own = ("batch_size", "seed", "one_hot")
    known = [name for name in inspect.signature(data.load).parameters if name not in own]
    if given := [key for key in own if key in arguments]:
        raise ValueError(f"`data` must not contain the recipe's `{given[0]}`. Received: data={arguments}.")
    check_known(arguments, known, "`data` has no argument `{}`.")


def _ending_with(model, last_exit):
    """Returns a network of the layers that the exits up to one need."""
    check_choice("last_exit", last_exit, model.exit_names)
    kept = model.exit_names[: model.exit_names.index(last_exit) + 1]
    outputs = {name: model.output[name] for name in kept}
    return models.AnytimeModel(model.input, outputs, name=model.name, dtype=model.dtype_policy)


def decay_kernels(model, weight_decay):
    """Adds the paper's weight decay to a model's loss: half of `weight_decay` times each kernel's squared norm."""
    for layer in graph.sublayers(model):
        kernel = getattr(layer, "kernel", None)
        if kernel is not None and kernel.regularizer is None:
            kernel.regularizer = _Decay(weight_decay / 2)


class _Decay(keras.regularizers.L2):
    """L2 in the dtype of losses: Keras on TensorFlow cannot add up losses of several."""

    def __call__(self, x):
        return super().__call__(ops.cast(x, keras.config.floatx()))


def _named(value, key):
    value = {key: value} if not isinstance(value, dict) else dict(value)
    if key not in value:
        raise ValueError(f"This part of a recipe needs `{key}`. Received: {value}.")
    if key == "name" and not isinstance(value[key], str):
        raise ValueError(f"The `name` in a part of a recipe must be a str. Received: {value}.")
    return value
