"""Curves: error, loss and cost at each exit, as plain numbers."""

import collections.abc
import dataclasses
import math
import numbers

from anytime_keras import _files, _tables
from anytime_keras._checks import check_choice, check_number
from anytime_keras._errors import explained

COSTS = ("with_all_heads", "with_head", "backbone", "latency")


@dataclasses.dataclass(frozen=True)
class CurvePoint:
    """One exit of a curve.

    Attributes:
        exit: str, the exit's name; None if no exit is within the budget.
        error: float, fraction of misclassified samples, from 0 to 1.
        loss: float, mean cross entropy in nats.
        backbone, with_head, with_all_heads: int, MACs per sample as in `anytime_keras.cost.ExitCost`.
        params: int, parameters up to this exit.
        latency: float or None, seconds from the input to this exit's answer.

    Example:
    >>> point = CurvePoint("exit_1", error=0.25, loss=0.8, backbone=10, with_head=12, with_all_heads=12, params=5)
    >>> f"{point.exit} is right on {1 - point.error:.0%} of the images"
    'exit_1 is right on 75% of the images'
    """

    exit: str | None
    error: float
    loss: float
    backbone: int
    with_head: int
    with_all_heads: int
    params: int
    latency: float | None = None


NO_ANSWER = CurvePoint(None, math.nan, math.nan, 0, 0, 0, 0)


class Curve(collections.abc.Sequence):
    """Error against cost at each exit of a network, a sequence of `CurvePoint`s from the earliest exit to the last.

    Args:
        points: list of `CurvePoint`, in the order of the exits.
        name: str, for tables and legends.
        about: dict of plain data, such as the data set, number of images and machine.
        samples: `Samples` that were measured, or None. Not part of `to_dict`.

    Example:
    >>> macs = 1_000_000
    >>> points = [
    ...     CurvePoint("exit_1", 0.3, 1.0, macs, macs, macs, params=5),
    ...     CurvePoint("exit_2", 0.2, 0.8, 4 * macs, 4 * macs, 4 * macs, params=9),
    ... ]
    >>> curve = Curve(points, "small")
    >>> curve
    Curve('small', 2 exits, error 30.00% to 20.00%, 1M to 4M MACs)
    >>> curve.at(0.5).exit, curve.at(1).error, curve.at(0.1).exit
    ('exit_1', 0.2, None)
    >>> round(curve.area(), 3)
    0.3
    """

    def __init__(self, points, name="", about=None, samples=None):
        if not points or not all(isinstance(point, CurvePoint) for point in points):
            raise ValueError(f"A curve needs at least one `CurvePoint`. Received: {points!r:.60}.")
        self.points, self.name, self.about, self.samples = list(points), name, dict(about or {}), samples

    def __len__(self):
        return len(self.points)

    def __getitem__(self, index):
        return self.points[index]

    def __eq__(self, other):
        return isinstance(other, Curve) and self.to_dict() == other.to_dict()

    def __repr__(self):
        first, last = self.points[0], self.points[-1]
        return (
            f"Curve({self.name!r}, {len(self)} exits, error {first.error:.2%} to {last.error:.2%}, "
            f"{first.with_all_heads / 1e6:.3g}M to {last.with_all_heads / 1e6:.3g}M MACs)"
        )

    def _repr_markdown_(self):
        return f"```\n{self.table()}\n```"

    @property
    def errors(self) -> list[float]:
        """The error at each exit, a list of float."""
        return [point.error for point in self.points]

    def costs(self, cost: str = "with_all_heads") -> list:
        """The cost of each exit, a list: MACs, or seconds for `"latency"`."""
        check_choice("cost", cost, COSTS)
        costs = [getattr(point, cost) for point in self.points]
        if None in costs:
            raise ValueError(
                f"The curve '{self.name}' has no {cost}. Measure it with `evaluate(model, data, latency=True)`."
            )
        return costs

    def at(self, fraction: float, cost: str = "with_all_heads") -> CurvePoint:
        """Returns the `CurvePoint` of the latest exit that costs at most a fraction of the last exit's cost.

        If the budget is below the first exit's cost, the point has exit None and error NaN.

        Args:
            fraction: float, above 0.
            cost: `"with_all_heads"` (MACs including every head so far), `"with_head"`, `"backbone"` or `"latency"`.
        """
        check_number("fraction", fraction, "above 0", lambda number: number > 0)
        costs = self.costs(cost)
        affordable = [point for point, own in zip(self.points, costs) if own <= fraction * costs[-1] * (1 + 1e-9)]
        return affordable[-1] if affordable else NO_ANSWER

    def relative_to(self, other, fractions=None, cost="with_all_heads"):
        """Returns the relative increases in error over another curve, a list of floats in percent, as in the paper.

        This is `100 * (error / other's error - 1)`, NaN where a curve has no exit within the budget or both errors are
        0. For example, 10.0 means an error of 11% where the other curve has 10%.

        Args:
            other: `Curve`.
            fractions: fractions of each curve's last cost at which to compare, such as `(0.25, 0.5, 0.75, 1)`; None
                compares exit by exit.
            cost: as in `at`.
        """
        if not isinstance(other, Curve):
            raise ValueError(f"`other` must be a `Curve`. Received: {type(other).__name__}.")
        if isinstance(fractions, numbers.Real):
            fractions = (fractions,)
        if fractions is not None:
            pairs = [(self.at(fraction, cost).error, other.at(fraction, cost).error) for fraction in fractions]
        elif len(self) == len(other):
            pairs = list(zip(self.errors, other.errors))
        else:
            raise ValueError(
                "Curves must have the same number of exits to be compared exit by exit. "
                f"Received: {len(self)} and {len(other)} exits. Pass `fractions=(0.25, 0.5, 0.75, 1)`."
            )
        return [100 * (own / base - 1) if base else (math.nan if not own else math.inf) for own, base in pairs]

    def area(self, cost: str = "with_all_heads") -> float:
        """Returns the mean error over budgets uniformly distributed from the first exit's cost to the last exit's.

        A budget between two exits uses the earlier one. For a curve of one exit, this is that exit's error.
        """
        costs = self.costs(cost)
        if costs[-1] <= costs[0]:
            return self.errors[-1]
        steps = zip(self.errors, costs, costs[1:])
        return sum(error * (following - own) for error, own, following in steps) / (costs[-1] - costs[0])

    def table(self, columns: dict | None = None) -> str:
        """Returns the curve as a text table.

        Args:
            columns: dict of further columns, from a heading to one number or str per exit.
        """
        headings = ["exit", "MACs (M)", "of last", "error (%)", "loss", "params (k)"]
        last = max(self.points[-1].with_all_heads, 1)
        rows = []
        for point in self.points:
            macs = [f"{point.with_all_heads / 1e6:,.3f}", f"{100 * point.with_all_heads / last:.0f}%"]
            quality = [f"{100 * point.error:.2f}", f"{point.loss:.3f}"]
            rows.append([point.exit, *macs, *quality, f"{point.params / 1e3:,.1f}"])
        columns = dict(columns or {})
        if all(point.latency is not None for point in self.points):
            columns = {"latency (ms)": [f"{1e3 * point.latency:.2f}" for point in self.points], **columns}
        for heading, values in columns.items():
            headings.append(heading)
            rows = [[*row, value if isinstance(value, str) else f"{value:.3f}"] for row, value in zip(rows, values)]
        return _tables.table(headings, rows)

    def calibration(self, bins=15):
        """Compares the exits' confidence with their accuracy, before and after temperatures; returns a `Calibration`.

        Args:
            bins: int, number of intervals of confidence of equal width.

        Raises:
            ValueError: if the curve has no `samples`: it was read from a file, samples were weighted, or exits end in a
                sigmoid.
        """
        from anytime_keras.evaluation.calibration import Calibration

        return Calibration(self._samples(), bins, self.name)

    def monotonicity(self):
        """Counts the samples whose prediction gets worse from an exit to a later one.

        Returns an `anytime_keras.evaluation.Monotonicity`. Raises a ValueError as `calibration` does.
        """
        from anytime_keras.evaluation.monotonicity import Monotonicity

        return Monotonicity(self._samples(), self.name)

    def _samples(self):
        if self.samples is None:
            raise ValueError(
                f"The curve '{self.name}' has no samples: it was read from a file, or measured with sample weights, "
                "labels for each exit, or exits that end in a sigmoid. Measure it with "
                "`anytime_keras.evaluate(model, data)`."
            )
        return self.samples

    def plot(self, path=None, cost="with_all_heads", **kwargs):
        """Plots error against cost; see `anytime_keras.evaluation.plot_curves`."""
        from anytime_keras.evaluation.plots import plot_curves

        return plot_curves([self], path, cost, **kwargs)

    def to_dict(self) -> dict:
        """Returns the curve as plain data for `from_dict`."""
        return {"name": self.name, "about": self.about, "points": [dataclasses.asdict(point) for point in self.points]}

    @classmethod
    def from_dict(cls, content):
        """Creates a curve from the result of `to_dict`; raises a ValueError if that is not valid."""
        what = "A curve must be content written by `Curve.to_json`. Received: "
        with explained(what, TypeError, KeyError, end=".", form=repr):
            points = [CurvePoint(**point) for point in content["points"]]
            for point in points:
                if not 0 <= point.error <= 1 or point.loss < 0 or min(point.with_all_heads, point.params) < 0:
                    raise TypeError(f"'{point.exit}' has values out of range")
            return cls(points, content["name"], content["about"])

    def to_json(self, path=None):
        """Returns the curve as JSON text, and writes it to a file if `path` is given."""
        return _files.to_json(self.to_dict(), path)

    @classmethod
    def from_json(cls, path):
        """Reads a curve from a file written by `to_json`."""
        return cls.from_dict(_files.read_json(path, "a curve written by `Curve.to_json`"))
