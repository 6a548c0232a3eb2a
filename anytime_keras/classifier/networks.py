"""What a `Classifier` needs to know of its network (a functional Keras model, an `EANN` or an exported set)."""

import dataclasses
import inspect
import types

import numpy as np

from anytime_keras import _errors
from anytime_keras.cost import exit_costs
from anytime_keras.export.reader import ExportedModel
from anytime_keras.inference import EANN, Predictor, engines
from anytime_keras.inference.predictor import check_limits, deepest_within
from anytime_keras.inference.stages import chosen_exits
from anytime_keras.inference.state import State

OPTIONS = [name for name in inspect.signature(Predictor).parameters if name not in ("model", "example")]


def first(model):
    """Returns the first member of an ensemble, or the model itself."""
    return model.members[0] if isinstance(model, EANN) else model


def check_options(options):
    """Raises TypeError unless all options are arguments of `Predictor`."""
    for name in options:
        if name not in OPTIONS:
            raise TypeError(f"`Classifier` has no option `{name}`. {_errors.nearest(name, OPTIONS)}")


def check_exits(costs, options):
    """Raises ValueError unless the options `engine` and `exits` fit a Keras model or an ensemble."""
    engines.choice.check(options.get("engine", "auto"), options.get("num_threads"))
    chosen_exits(options.get("exits"), [cost.exit for cost in costs])


def check(name, model, preprocessor, class_names):
    """Raises ValueError unless a network takes the images of a preprocessor and has the given classes."""
    if isinstance(model, ExportedModel):
        shape, *others = [tuple(spec["shape"][1:]) for spec in model.description["inputs"]]
        classes = num_classes(model)
    else:
        shape, *others = [tuple(tensor.shape[1:]) for tensor in first(model).inputs]
        classes = first(model).outputs[-1].shape[-1]
    wanted = preprocessor.image_shape
    if others or len(shape) != 3 or any(side not in (None, want) for side, want in zip(shape, wanted)):
        raise ValueError(
            f"`preprocessor` must return the inputs of '{name}', shape {shape}. Received: a preprocessor for {wanted}."
        )
    if len(class_names) != classes:
        raise ValueError(
            f"`class_names` must name the {classes} classes of '{name}'. Received: {len(class_names)} names."
        )


def costs(model, image_shape):
    """Returns the cost of each exit that a `Predictor` can answer with, a list."""
    if isinstance(model, ExportedModel):
        return model.costs
    if isinstance(model, EANN):
        stages = model.stages()
        return stages.costs(stages.start(np.zeros((1, *image_shape), "float32")))
    return exit_costs(model)


class SetPredictor:
    """What a `Classifier` and a `Server` use of a `Predictor`, on an `ExportedModel`."""

    def __init__(self, reader, example):
        self._reader, self.stream = reader, reader.stream
        self.exit_names, self.costs = list(reader.exit_names), list(reader.costs)
        self._state, self._lock = _state(reader, example), reader._lock

    def prepare(self, example):
        """Measures the latency of the stages for inputs of this size."""
        self._reader.calibrate(example)

    def predict(self, x, deadline=None, budget=None, until=None):
        """As `Predictor.predict`."""
        check_limits(deadline, budget, until)
        if deadline is not None:
            if self._reader.size(x) not in self._reader.times:
                self.prepare(x)
            return self._reader.predict(x, deadline)
        if budget is not None:
            last, late = deepest_within(self._reader.costs, budget)
            answer = next(answer for answer in self.stream(x) if answer.position == last)
            return dataclasses.replace(answer, late=late)
        for answer in self.stream(x):
            if until is not None and until(answer):
                break
        return answer


def _state(reader, example):
    """Returns the `State` of an exported set, without what only a `Predictor` reads: latencies and paces."""
    specs = reader.description["inputs"]
    sizes = [(None, *spec["shape"][1:]) for spec in specs]
    inputs = [types.SimpleNamespace(name=s["name"], dtype=s["dtype"], shape=size) for s, size in zip(specs, sizes)]
    stages = types.SimpleNamespace(exit_names=list(reader.exit_names), inputs=inputs)
    times = {1: types.SimpleNamespace(example=example)}
    return State(stages, _Engine(reader), reader.costs, reader.temperatures, None, None, times, {}, {}, {})


class _Engine:
    """The stages of an exported set with the methods of an `Engine` that a server uses."""

    any_size = True
    straight = None  # a set has no part that runs straight to the last exit

    def __init__(self, reader):
        self._reader, stages = reader, reader._stages
        self.takes, self.starts, self.sigmoid = stages.takes, stages.starts, stages.sigmoid
        self.take, self.array, self.stage = stages.take, stages.array, stages.stage
        self.gives = [(None, num_classes(reader))] * len(stages)

    def __len__(self):
        return len(self._reader._stages)

    def start(self, x):
        return list(self._reader._tensors(x, any_size=True).values())

    def prepare(self, inputs):
        """Does nothing: batches of any size run, if need be in pieces of the set's own."""


def check_set_options(reader, options):
    """Raises ValueError unless the options of a classifier fit an exported set, which has its exits and its runtime."""
    format = reader.description["format"]
    engine = "tensorflow" if format == "saved_model" else format
    if options.get("engine", "auto") not in ("auto", engine):
        raise ValueError(
            f"The exported set in '{reader.path}' runs on {engine}. Received: engine={options['engine']!r}. Omit "
            "`engine`, or export the network for that runtime."
        )
    if others := sorted(name for name, value in options.items() if name != "engine" and value is not None):
        raise ValueError(
            f"An exported set has only the option `engine`. Received: {others} for the set in '{reader.path}'. Its "
            "exits and precision are arguments of `ak.export`, so export the network again to change them; "
            "`num_threads` is an argument of `ExportedModel`."
        )


def num_classes(reader):
    """Returns how many classes the last exit of an exported set has."""
    description = reader.description
    part = description["whole"] or description["stages"][-1]
    return [tensor["shape"][-1] for tensor in part["outputs"] if tensor["exit"] is not None][-1]
