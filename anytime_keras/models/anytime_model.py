"""A functional Keras model with several exits: ordered, named outputs that share one label."""

import copy
import functools
import inspect
import json
import math
import numbers
import pathlib

import keras
import numpy as np

from anytime_keras import _errors
from anytime_keras.cost import exit_costs
from anytime_keras.preprocessing import Preprocessor


class Exit:
    """An exit of an anytime model, with its name and cost.

    `AnytimeModel` creates its exits, from `model` and the exit's `index`, from 0.

    Attributes:
        name: str, the key of its logits in the model's outputs.
        macs: int, multiply-accumulates of one sample up to this exit, including all heads so far.
        params: int, parameters up to this exit, including all heads so far.

    Example:
    >>> import anytime_keras as ak
    >>> model = ak.models.build("resann", num_units=1, channels=4, input_shape=(8, 8, 1), num_classes=10)
    >>> model.exits[0]
    Exit(name='exit_1', macs=20776, params=422)
    """

    def __init__(self, model, index):
        self.name = model.exit_names[index]
        self._model, self._index = model, index

    @property
    def macs(self):
        return self._model._costs()[self._index].with_all_heads

    @property
    def params(self):
        return self._model._costs()[self._index].params

    def __repr__(self):
        return f"Exit(name={self.name!r}, macs={self.macs}, params={self.params})"


@keras.saving.register_keras_serializable(package="anytime_keras")
class AnytimeModel(keras.Model):
    """A functional model whose outputs are the logits of its exits, earliest first.

    `compile` takes one loss and one list of metrics for all exits; `fit`, `evaluate` and `train_on_batch` take one
    label for all exits. Each may also be a dict keyed by exit name. Sample weights are one array for all exits, a list
    in exit order, or a dict keyed by exit name, in which missing exits weigh 1. Saving, mixed precision, distribution
    and `predict` (which returns a dict) work as in any functional Keras model.

    Args:
        inputs: input tensor, or a list or dict of them (`keras.Input`).
        outputs: dict from exit name to logits, shape `(batch, ...)`, in the order in which the exits are computed.
        name: str or None.

    Attributes:
        exits: list of `Exit`, earliest first.
        inference: dict or None, the useful exits, temperatures and thresholds found by `Predictor.calibrate` and
            `Predictor.fit_thresholds`. Saved with the model in a `.keras` file, not in its config or weights.
        preprocessor: `anytime_keras.preprocessing.Preprocessor` from raw images to the model's inputs, or None. Saved
            like `inference`.
        class_names: list of str, or None. Saved like `inference`.

    Raises:
        ValueError: if the outputs are not a dict of tensors.

    Example:
    >>> import keras, anytime_keras as ak
    >>> image = keras.Input((8, 8, 1))
    >>> x = keras.layers.Flatten()(image)
    >>> first = keras.layers.Dense(10)(x)
    >>> second = keras.layers.Dense(10)(keras.layers.Dense(32, activation="relu")(x))
    >>> model = ak.AnytimeModel(image, {"early": first, "late": second})
    >>> [(exit.name, exit.macs) for exit in model.exits]
    [('early', 640), ('late', 3008)]
    >>> model.compile("sgd", loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    """

    def __init__(self, inputs, outputs, name=None, **kwargs):
        named = isinstance(outputs, dict) and all(isinstance(name, str) for name in outputs)
        if not named or not outputs or not all(isinstance(x, keras.KerasTensor) for x in outputs.values()):
            raise ValueError(
                "`outputs` must be a dict from each exit's name to its logits, in the order of the exits. "
                f"Received: outputs={outputs}. For example `AnytimeModel(inputs, "
                f"{{'exit_1': first, 'exit_2': second}})`."
            )
        dtype = kwargs.pop("dtype", None)
        super().__init__(inputs=inputs, outputs=outputs, name=name, **kwargs)
        if dtype is not None:
            self.dtype_policy = keras.dtype_policies.get(dtype)
        self._exit_names = tuple(outputs)
        self.inference = self.preprocessor = self.class_names = None

    @property
    def exit_names(self):
        """List of str, the exits' names, earliest first."""
        return list(self._exit_names)

    @property
    def num_exits(self):
        """int, the number of exits."""
        return len(self._exit_names)

    @property
    def exits(self):
        """List of `Exit`, earliest first, each with its name, MACs and parameters."""
        return [Exit(self, index) for index in range(self.num_exits)]

    def _costs(self):
        shapes = tuple(tuple(weight.shape) for weight in self.weights)  # `enable_lora` and `quantize` change them
        if getattr(self, "_exit_costs", (None, None))[0] != shapes:
            self._exit_costs = shapes, tuple(exit_costs(self))
        return self._exit_costs[1]

    def compile(self, optimizer="rmsprop", loss=None, loss_weights=None, metrics=None, weighted_metrics=None, **kwargs):
        """Configures training as `keras.Model.compile` does, with one loss and one list of metrics for all exits.

        Args:
            optimizer: as in Keras.
            loss: one loss for all exits, or a dict from exit name to loss. Exits missing from the dict are not trained.
            loss_weights: None, one number per exit in order, or a dict keyed by exit name. An adaptive weighting is
                multiplied by them.
            metrics: a list for all exits, each of which gets copies of the metrics; or one list per exit in order, or
                a dict from exit name to list.
            weighted_metrics: likewise, weighted by the sample weights.
            **kwargs: as in Keras.
        """
        weights = self._weights_by_exit(loss, loss_weights)
        for name, value in (("metrics", metrics), ("weighted_metrics", weighted_metrics)):
            kwargs[name] = self._by_exit(name, value, each=_own_metrics)
        super().compile(optimizer, loss=self._by_exit("loss", loss), loss_weights=weights, **kwargs)
        vars(self)["loss_weights"] = weights  # not tracked by Keras, where a weight is a variable

    def _by_exit(self, argument, value, each=lambda value: value):
        """Returns a dict by exit name of the entries of a dict or list, or of `each(value)` for a common value."""
        if value is None:
            return None
        own = isinstance(value, (list, tuple)) and (each is not _own_metrics or any(map(keras.tree.is_nested, value)))
        if own or isinstance(value, dict):
            return by_exit(argument, value, self._exit_names)
        return {name: each(value) for name in self._exit_names}

    def _weights_by_exit(self, loss, loss_weights):
        if loss_weights is None:
            return None
        if not isinstance(loss_weights, (dict, list, tuple)):
            raise ValueError(
                "`loss_weights` must be a list with one number per exit, or a dict by exit name. "
                f"Received: loss_weights={loss_weights}."
            )
        weights = self._by_exit("loss_weights", loss_weights)
        for name, weight in weights.items():
            number = not isinstance(weight, numbers.Real) or (math.isfinite(weight) and weight >= 0)
            if isinstance(weight, str) or not number:
                raise ValueError(
                    f"`loss_weights` must be numbers of 0 or more. Received: {weight!r} for '{name}' of model "
                    f"'{self.name}'."
                )
        return {name: weights.get(name, 1.0) for name in self._by_exit("loss", loss) or {}}

    # Keras recompiles a loaded model whose class overrides `compile` only if the class also defines these methods.
    def get_compile_config(self):
        return super().get_compile_config()

    def compile_from_config(self, config):
        config = keras.saving.deserialize_keras_object(config)
        self.compile(**config)
        if self.optimizer is not None and self.built:
            self.optimizer.build(self.trainable_variables)

    @functools.wraps(keras.Model.fit)
    def fit(self, x=None, y=None, *args, **kwargs):
        return super().fit(x, y, *args, **self._with_sample_weights(y, kwargs))

    @functools.wraps(keras.Model.evaluate)
    def evaluate(self, x=None, y=None, *args, **kwargs):
        return super().evaluate(x, y, *args, **self._with_sample_weights(y, kwargs))

    def _with_sample_weights(self, y, arguments):
        """Puts the sample weights among the arguments into a form that Keras's data adapters accept."""
        changed = dict(arguments)
        if "sample_weight" in arguments:
            changed["sample_weight"] = self._adapted(y, arguments["sample_weight"])
        validation = arguments.get("validation_data")
        if isinstance(validation, (list, tuple)) and len(validation) == 3:
            x, y, weights = validation
            changed["validation_data"] = x, y, self._adapted(y, weights)
        return changed

    def _adapted(self, y, weights):
        weights = self._sample_weights(weights)
        if not isinstance(weights, dict):
            return weights
        given = {name: value for name, value in weights.items() if value is not None}
        if isinstance(y, dict):  # Keras requires the same keys in both
            return {name: given[name] if name in given else np.ones(len(y[name]), "float32") for name in y}
        return given  # without None, which `tf.distribute` does not take

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        y, sample_weight = self._labels(y), self._sample_weights(sample_weight)
        if training and self._training_loss is not None:
            return self._training_loss.compute_loss(super().compute_loss, x, y, y_pred, sample_weight)
        return super().compute_loss(x, y, y_pred, sample_weight, training)

    # The `TrainingLoss` of the weighting that the model trains with during `fit`.
    _training_loss = None

    @property
    def metrics(self):
        """List of metrics; during `fit` with a weighting, with its state."""
        return super().metrics if self._training_loss is None else [*super().metrics, self._training_loss.state]

    def make_train_function(self, force=False):
        """Compiles the training step, as in Keras. Ends a weighting whose `fit` was interrupted, unless `force`."""
        if self._training_loss is not None and not force:
            self._training_loss.abandon()
        return super().make_train_function(force)

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        return super().compute_metrics(x, self._labels(y), y_pred, self._sample_weights(sample_weight))

    # JAX sorts the keys of a dict that a compiled function returns.
    def predict(self, *args, **kwargs):
        return self._in_order(super().predict(*args, **kwargs))

    def predict_on_batch(self, x):
        return self._in_order(super().predict_on_batch(x))

    def _in_order(self, outputs):
        return {name: outputs[name] for name in self._exit_names}

    def _labels(self, y):
        """Returns each exit's label: the common label, or the exit's entry if `y` is a dict."""
        expected = "`y` must be one label for all exits, or a dict with a label for each. Received: "
        if isinstance(y, (list, tuple)):
            raise ValueError(f"{expected}a {type(y).__name__} of {len(y)}.")
        if not isinstance(y, dict):
            return {name: y for name in self._exit_names}
        if missing := [name for name in self._exit_names if name not in y]:
            raise ValueError(f"{expected}labels for {list(y)}, none for {missing}.")
        return {name: y[name] for name in self._exit_names}

    def _sample_weights(self, weights):
        """Returns each exit's sample weights: the common array, or the exit's entry of a list or dict."""
        if not keras.tree.is_nested(weights):  # one array, or None
            return weights
        weights = self._by_exit("sample_weight", weights)
        return {name: weights.get(name) for name in self._exit_names} if weights else None

    # Keras stores these files next to the weights in a `.keras` file.
    def save_assets(self, folder):
        """Writes `inference`, `preprocessor` and `class_names`; Keras calls this when saving a model."""
        config = None if self.preprocessor is None else self.preprocessor.get_config()
        assets = {"inference": self.inference, "preprocessor": config, "class_names": self.class_names}
        for name, content in assets.items():
            if content is not None:
                pathlib.Path(folder, f"{name}.json").write_text(json.dumps(content))

    def load_assets(self, folder):
        """Reads what `save_assets` wrote; Keras calls this when loading a model."""
        files = [pathlib.Path(folder or "", f"{name}.json") for name in ("inference", "class_names", "preprocessor")]
        found = [json.loads(file.read_text()) if file.exists() else None for file in files]
        self.inference, self.class_names, config = found
        self.preprocessor = None if config is None else Preprocessor.from_config(config)

    def get_config(self):
        return {**super().get_config(), "dtype": keras.dtype_policies.serialize(self.dtype_policy)}


class BuiltModel(AnytimeModel):
    """An anytime model built from arguments other than inputs and outputs; `clone_model` makes it an `AnytimeModel`."""

    def _settings(self):
        """Returns the entries that the config of each such model has."""
        dtype = keras.dtype_policies.serialize(self.dtype_policy)
        return {"name": self.name, "trainable": self.trainable, "dtype": dtype}

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        if "__init__" in vars(cls):
            cls.__signature__ = _ClassSignature(cls.__init__)
            cls.__init__ = _of_any_arguments(cls.__init__)

    def __new__(cls, *args, **kwargs):
        # Keras clones a functional model by calling its class like this if the constructor seems to take the arguments.
        if len(args) == 2 and all(isinstance(leaf, keras.KerasTensor) for leaf in keras.tree.flatten(args)):
            return AnytimeModel(*args, **kwargs)
        return super().__new__(cls, *args, **kwargs)


class _ClassSignature:
    """The signature of a class, without `self`. Its instances are callable and have another one."""

    def __init__(self, init):
        self.parameters = list(inspect.signature(init).parameters.values())[1:]

    def __get__(self, instance, owner):
        if instance is not None:
            raise AttributeError("__signature__")
        return inspect.Signature(self.parameters)


def _of_any_arguments(init):
    """Hides a constructor's arguments from Keras, which otherwise clones by layers. The class keeps its signature."""

    def __init__(self, *args, **kwargs):
        init(self, *args, **kwargs)

    return __init__


def by_exit(argument, value, names):
    """Returns a dict by exit name of the entries of a dict, without None, or of a list with one for each exit."""
    if isinstance(value, dict):
        _errors.check_known(value, names, f"`{argument}` must have names of exits as keys. Received: '{{}}'.")
        return {name: value[name] for name in names if value.get(name) is not None}
    if len(value) != len(names):
        received = f"Received: {argument} of length {len(value)} for {len(names)} exits."
        raise ValueError(f"A list for `{argument}` must have an entry for each exit. {received}")
    return dict(zip(names, value))


def _own_metrics(metrics):
    """Copies a list of metrics, so that exits do not share state."""
    metrics = metrics if isinstance(metrics, (list, tuple)) else [metrics]
    return [copy_metric(metric) if isinstance(metric, keras.metrics.Metric) else metric for metric in metrics]


def copy_metric(metric):
    """Returns a copy of a metric with separate state; raises ValueError if an attribute cannot be copied.

    Keras copies a metric through `get_config`, which need not contain every argument. This function copies the
    attributes: it creates new variables and nested metrics and shares layers and losses.
    """
    received = f"`metrics` for all exits must be metrics that can be copied. Received: {metric!r}, which cannot: "
    remedy = ". Pass `metrics` as a dict with a list of new metrics for each exit."
    with _errors.explained(received, Exception, end=remedy):
        copied = _copy(metric, {})
        if len(copied.variables) != len(metric.variables):
            raise RuntimeError("it has variables that none of its attributes holds")
    return copied


def _copy(value, copies):
    """Copies a value; `copies` maps the `id` of each original to its copy, as for `copy.deepcopy`."""
    if id(value) in copies:
        return copies[id(value)]
    if isinstance(value, keras.metrics.Metric):
        copies[id(value)] = copied = object.__new__(type(value))
        keras.metrics.Metric.__init__(copied, dtype=value.dtype, name=value.name)
        attributes = {name: held for name, held in vars(value).items() if name not in vars(copied)}
        for name, held in attributes.items():
            setattr(copied, name, _copy(held, copies))
        return copied
    if isinstance(value, keras.Variable):
        names = ("dtype", "trainable", "aggregation", "synchronization", "name")
        options = {name: getattr(value, name) for name in names}
        copies[id(value)] = keras.Variable(keras.ops.convert_to_numpy(value), **options)
        return copies[id(value)]
    if isinstance(value, (keras.Layer, keras.losses.Loss)):
        return value
    if isinstance(value, dict):
        return {key: _copy(held, copies) for key, held in value.items()}
    if type(value) is tuple:
        return tuple(_copy(held, copies) for held in value)
    if isinstance(value, list):
        return [_copy(held, copies) for held in value]
    return copy.deepcopy(value, copies)
