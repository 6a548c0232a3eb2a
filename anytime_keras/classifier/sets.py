"""Runs an exported set in place of a `Predictor`."""

import dataclasses

from anytime_keras.inference.answers import Answer


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
        given = {"deadline": deadline, "budget": budget, "until": until}
        if sum(limit is not None for limit in given.values()) > 1:
            raise ValueError(f"Only one of `deadline`, `budget` and `until` can be given. Received: {given}.")
        if deadline is not None:
            if len(x) not in self._reader.times:
                self.prepare(x)
            return _answer(self._reader.predict(x, deadline))
        if budget is not None:
            macs = [cost.with_head for cost in self._reader.costs]
            affordable = [position for position, own in enumerate(macs) if own <= budget]
            last, late = max(affordable, default=0), not affordable
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
