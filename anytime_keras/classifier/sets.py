"""Runs an exported set in place of a `Predictor`."""

import dataclasses

from anytime_keras.inference.answers import Answer
from anytime_keras.inference.predictor import check_limits, deepest_within
from anytime_keras.inference.reader import ExportedModel


class SetPredictor:
    """The methods of `Predictor` that a `Classifier` uses, on an exported set."""

    def __init__(self, reader):
        self._reader = reader

    def prepare(self, example):
        """Measures the latency of the stages for inputs of this size."""
        self._reader.calibrate(example)

    def predict(self, x, deadline=None, budget=None, until=None):
        """As `Predictor.predict`."""
        check_limits(deadline, budget, until)
        if deadline is not None:
            if len(x) not in self._reader.times:
                self.prepare(x)
            return _answer(self._reader.predict(x, deadline))
        if budget is not None:
            last, late = deepest_within(self._reader.costs, budget)
            answer = next(answer for answer in self._reader.stream(x) if answer.position == last)
            return dataclasses.replace(_answer(answer), late=late)
        for answer in self.stream(x):
            if until is not None and until(answer):
                break
        return answer

    def stream(self, x):
        """As `Predictor.stream`."""
        return map(_answer, self._reader.stream(x))


def _answer(answer):
    return Answer(**{field.name: getattr(answer, field.name) for field in dataclasses.fields(Answer)})


def is_set(model):
    """Returns whether a model is the reader of an exported set."""
    return isinstance(model, ExportedModel)


def check_options(reader, options):
    """Raises ValueError unless the options of a classifier fit an exported set, which has its exits and its runtime."""
    format = reader.description["format"]
    engine = "tensorflow" if format == "saved_model" else format
    if options.get("engine", "auto") not in ("auto", engine):
        raise ValueError(
            f"The set in '{reader.path}' runs on {engine}. Received: engine={options['engine']!r}. Omit `engine`, or "
            "export the network for that runtime."
        )
    if others := sorted(set(options) - {"engine"}):
        raise ValueError(
            f"The set in '{reader.path}' was exported with its exits and its precision. Received: {others}. Omit "
            "them, and export the network anew to change them."
        )


def num_classes(reader):
    """Returns how many classes the last exit of an exported set has."""
    description = reader.description
    part = description["whole"] or description["stages"][-1]
    return [tensor["shape"][-1] for tensor in part["outputs"] if tensor["exit"] is not None][-1]
