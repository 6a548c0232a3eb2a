"""`LatencyTable`: measured latency of each exit on this machine, in quantiles."""

import json
import pathlib

import numpy as np

from anytime_keras import _files, _tables, runtime
from anytime_keras._errors import explained

IDENTITY = ("exit_names", "macs", "dtype", "engine")  # what a table was measured of
SAME = ("backend", "processor", "devices")  # must match for the measured times to be valid
STEADY = 1.5  # most that the 90% quantile may be of the median in a measurement that is cached
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1.0)


class LatencyTable:
    """Latency of each exit in seconds, by input size.

    A size is the batch size (int), or a tuple of all inputs' shapes if other axes are dynamic too; see `Stages.size`.

    Args:
        exit_names: list of str.
        macs: list of int, the exits' costs, which identify the network.
        dtype: str or None, the dtype policy if it is not the network's own.
        engine: str or None, the engine that was measured.

    Attributes:
        direct: dict from size to an array of shape `(exits, quantiles)`: from the input to one exit; straight to it,
            without earlier heads, or stage by stage on engines that run to deadlines like that.
        stages: dict from size to an array of shape `(exits, quantiles)`: from the previous exit's answer to this
            one's; for the first exit, from the input.
        machine: dict, the machine on which the times were measured.

    Example:
    >>> table = LatencyTable(["exit_1", "exit_2"], macs=[100, 300])
    >>> table.add(1, direct=[[0.001, 0.003], [0.004, 0.006]], stages=[[0.001, 0.003], [0.002, 0.004]])
    >>> table.quantile(1, 0.5).round(4).tolist()
    [0.002, 0.005]
    """

    def __init__(self, exit_names, macs, dtype=None, engine=None):
        self.exit_names, self.macs, self.dtype, self.engine = list(exit_names), list(macs), dtype, engine
        self.direct, self.stages = {}, {}
        self.machine = runtime.machine()

    def add(self, size, direct, stages):
        """Adds the measured times of one size: two lists, each with one list of seconds per exit."""
        quantiles = [[np.quantile(times, QUANTILES) for times in rows] for rows in (direct, stages)]
        self.add_quantiles(size, *quantiles)

    def add_quantiles(self, size, direct, stages):
        """Adds the quantiles of one size, two arrays of shape `(exits, quantiles)`."""
        # Replace the dicts, because other threads may be reading or saving the table.
        self.stages = {**self.stages, size: np.array(stages)}
        self.direct = {**self.direct, size: np.array(direct)}

    def quantile(self, size, quantile, stages=False):
        """Returns a quantile of each exit's latency in seconds, an array of shape `(exits,)`."""
        table = (self.stages if stages else self.direct)[size]
        return np.array([np.interp(quantile, QUANTILES, row) for row in table])

    def table(self):
        """Returns the medians and the 99% quantiles as a text table, in milliseconds."""
        rows = []
        for size in sorted(self.direct):
            label = str(size) if isinstance(size, int) else " ".join("x".join(map(str, shape)) for shape in size)
            columns = [self.quantile(size, q, stages) for stages in (False, True) for q in (0.5, 0.99)]
            for name, *numbers in zip(self.exit_names, *columns):
                rows.append([label, name, *(f"{1e3 * number:.3f}" for number in numbers)])
        return _tables.table(["batch", "exit", "direct (ms)", "99%", "stage (ms)", "99%"], rows, left=2)

    __repr__ = table

    def to_json(self, path=None):
        """Returns the table as JSON text, and writes it to a file if `path` is given."""
        content = {name: getattr(self, name) for name in IDENTITY}
        content.update(quantiles=QUANTILES, machine=self.machine)
        for name, table in (("direct", self.direct), ("stages", self.stages)):
            content[name] = {json.dumps(size): rows.tolist() for size, rows in table.items()}
        return _files.to_json(content, path)

    @classmethod
    def from_json(cls, path):
        """Reads a file that `to_json` wrote.

        Raises:
            ValueError: if the file is not a latency table, or was measured on another machine or backend.
        """
        if not isinstance(path, (str, pathlib.Path)):
            raise ValueError(
                "Latencies must be a `LatencyTable` or the path of a saved one. "
                f"Received: {path!r} of type {type(path).__name__}."
            )
        kinds = (OSError, ValueError, KeyError, TypeError, AttributeError)
        end = ". Expected what `LatencyTable.to_json` writes."
        with explained(f"'{path}' is no table of latencies: ", *kinds, end=end, form=repr):
            content = json.loads(pathlib.Path(path).read_text())
            if content["quantiles"] != list(QUANTILES):
                raise ValueError(f"`quantiles` are not {list(QUANTILES)}")
            table = cls(content["exit_names"], content["macs"], content["dtype"], content.get("engine"))
            for name in ("direct", "stages"):
                setattr(table, name, {_size(key): np.array(rows, float) for key, rows in content[name].items()})
            table._check_times()
            here, table.machine = table.machine, content["machine"]
            there = {key: table.machine[key] for key in SAME}
        for key in SAME:
            if there[key] != here[key]:
                raise ValueError(
                    f"'{path}' was measured elsewhere: {key} {there[key]!r}, here {here[key]!r}. Measure again, with "
                    "`latencies=None`."
                )
        return table

    def _check_times(self):
        if set(self.direct) != set(self.stages):
            raise ValueError(
                f"`direct` and `stages` are of different sizes: {sorted(self.direct)}, {sorted(self.stages)}"
            )
        for name, table in (("direct", self.direct), ("stages", self.stages)):
            for size, rows in table.items():
                if rows.shape != (len(self.exit_names), len(QUANTILES)):
                    raise ValueError(f"`{name}` has rows of the wrong length at size {size}")
                # A stage takes 0 seconds if the next stage's answer arrived first.
                possible = np.isfinite(rows).all() and (rows >= 0).all() and (name == "stages" or (rows > 0).all())
                if not (possible and (np.diff(rows, axis=1) >= -1e-9).all()):
                    raise ValueError(f"`{name}` has rows at size {size} that are no seconds in ascending order")

    def check(self, other):
        """Raises a ValueError unless the times are valid and the table is for the same network as `other`."""
        self._check_times()
        for key in IDENTITY:
            unknown = key == "engine" and None in (self.engine, other.engine)
            if not unknown and getattr(self, key) != getattr(other, key):
                raise ValueError(
                    f"`latencies` is of another network: {key} {getattr(self, key)}. Expected {getattr(other, key)}. "
                    "Measure again, with `latencies=None`."
                )


def _size(key):
    """Parses a size from a JSON key such as `1` or `[[1, 32, 32, 3]]`."""
    size = json.loads(key)
    return size if isinstance(size, int) else tuple(tuple(map(int, shape)) for shape in size)
