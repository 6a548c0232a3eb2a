"""Runs an exported set in place of a `Predictor`."""

import dataclasses
import types

from anytime_keras.inference.predictor import check_limits, deepest_within
from anytime_keras.inference.state import State


class SetPredictor:
    """What a `Classifier` and a `Server` use of a `Predictor`, on an `ExportedModel`."""

    def __init__(self, reader, example):
        self._reader, self.stream = reader, reader.stream
        self.exit_names, self.costs = list(reader.exit_names), list(reader.costs)
        self._state, self._lock = _State(reader, example), reader._lock

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


class _State:
    """What `anytime_keras.serving.runner` reads of a predictor's state: engine, exits, inputs and temperatures."""

    def __init__(self, reader, example):
        specs = reader.description["inputs"]
        sizes = [(None, *spec["shape"][1:]) for spec in specs]
        inputs = [types.SimpleNamespace(name=s["name"], dtype=s["dtype"], shape=size) for s, size in zip(specs, sizes)]
        self.stages = types.SimpleNamespace(exit_names=list(reader.exit_names), inputs=inputs)
        self.engine, self.temperatures = _Engine(reader), list(reader.temperatures)
        self.times = {1: types.SimpleNamespace(example=example)}

    answer = State.answer


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


def check_options(reader, options):
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
