"""Runs an exported set in place of a `Predictor`."""

import dataclasses

from anytime_keras.inference.answers import Answer
from anytime_keras.inference.predictor import check_limits, deepest_within


class SetPredictor:
    """The methods of `Predictor` that a `Classifier` uses, on an exported set."""

    def __init__(self, reader, **options):
        if options:
            raise ValueError(f"An exported set has its exits and its engine. Received: {sorted(options)}. Omit them.")
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


def num_classes(reader):
    """Returns how many classes the last exit of an exported set has."""
    description = reader.description
    part = description["whole"] or description["stages"][-1]
    return [tensor["shape"][-1] for tensor in part["outputs"] if tensor["exit"] is not None][-1]
