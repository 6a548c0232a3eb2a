"""`Predictor`: answers by a deadline, within a budget, or better and better until it is stopped."""

import collections
import dataclasses
import math
import numbers
import threading
import time

import keras
import numpy as np

from anytime_keras.inference import engines
from anytime_keras.inference.answers import Answer, as_array
from anytime_keras.inference.batches import BatchMethods
from anytime_keras.inference.jobs import Job, Worker
from anytime_keras.inference.latency import LatencyTable
from anytime_keras.inference.pace import Pace, Times
from anytime_keras.inference.stages import Stages, exits_as_list, in_dtype

MOST_EXITS = 8


class Predictor(BatchMethods):
    """Runs an anytime network so that it stops for real: by a deadline, within a budget, or when it is told to.

    The network is cut at its exits and compiled when the predictor is made; the weights are those of that moment. One
    computation runs at a time, others wait for their turn: a predictor may be used from several threads, but not from
    a forked process, where it raises a RuntimeError.

    What `calibrate` and `fit_thresholds` find is kept as the model's `inference` and saved with an `AnytimeModel` (a
    `.keras` file): a later predictor finds it there. It holds for the weights of that moment.

    Args:
        model: functional Keras model whose outputs are its exits, or an `EANN`.
        example: an input of the size to answer in time, shape `(batch, ...)`; `prepare` adds other sizes of batch and,
            where the model leaves them open, of images or sequences.
        exits: names of the exits to stop at, earliest first; None takes those that `calibrate` left, or chooses, of
            more than 8, eight evenly by cost.
        dtype: Keras dtype policy to compute in, such as `"bfloat16"`; None is the model's own.
        latencies: `LatencyTable`, or the path of one that was saved with `predictor.latencies.to_json(path)`; None
            measures.

    Attributes:
        exit_names: list of str, the exits that are stopped at.
        costs: list of `ExitCost`, one for each of them; for inputs of the example's size.
        latencies: `LatencyTable`, of the sizes that are prepared.
        temperatures: list of float, one for each exit.

    Raises:
        ValueError: if the model is not functional or has a single exit, or `example` or `latencies` do not fit it.

    Example:
    >>> import numpy as np, anytime_keras as ak
    >>> model = ak.models.build("resann", num_units=1, channels=4, input_shape=(8, 8, 1), num_classes=10)
    >>> image = np.zeros((1, 8, 8, 1), "float32")
    >>> predictor = ak.Predictor(model, example=image)
    >>> predictor.predict(image, deadline=60).exit
    'exit_3'
    >>> predictor.predict(image, budget=model.exits[1].macs).exit
    'exit_2'
    >>> [answer.exit for answer in predictor.stream(image)][-1]
    'exit_3'
    """

    def __init__(self, model, example, exits=None, dtype=None, latencies=None):
        self._model, self._worker = model, Worker()
        self._paces = collections.defaultdict(Pace)  # from a size, see `Stages.size`
        self._changing = threading.Lock()  # held by what changes the state, not by what uses it
        self._own = {}
        stages, found = _stages(model, dtype), self._found()
        if exits is None:
            exits = found.get("exits") or _evenly(stages.costs(stages.start(example)), MOST_EXITS)
        state = _State.of(stages.at(exits_as_list(exits)), example, dtype, found.get("temperatures", {}))
        if latencies is not None:
            given = latencies if isinstance(latencies, LatencyTable) else LatencyTable.from_json(latencies)
            given.check(state.latencies)
            state = dataclasses.replace(state, latencies=given.copy())
        state.prepare(example, self._worker)
        self._state = state

    @property
    def exit_names(self):
        return list(self._state.stages.exit_names)

    @property
    def costs(self):
        return list(self._state.costs)

    @property
    def latencies(self):
        return self._state.latencies

    @property
    def temperatures(self):
        return list(self._state.temperatures)

    def _current(self):
        self._worker.check_process()
        return self._state

    @property
    def _stages(self):  # this and the next for `tests/benchmarks`, which time engines by themselves
        return self._state.stages

    @property
    def _engine(self):
        return self._state.engine

    def prepare(self, example, seconds=2.0):
        """Compiles for a size, and measures how long each exit takes unless the table of latencies knows.

        Args:
            example: an input of that size, shape `(batch, ...)`.
            seconds: float, how long to measure, about; five runs of each at least.
        """
        self._worker.check_process()
        with self._changing:
            self._state.prepare(example, self._worker, seconds)

    def _change(self, exits, temperatures):
        """Compiles and prepares for some of the exits, aside, and puts that in place at once."""
        before = self._state
        if exits == before.stages.exit_names:
            self._state = dataclasses.replace(before, temperatures=[temperatures[name] for name in exits])
            return
        examples = [times.example for times in before.times.values()]
        state = _State.of(before.stages.at(exits), examples[0], before.latencies.dtype, temperatures)
        for example in examples:
            state.prepare(example, self._worker)
        self._state = state

    def predict(self, x, deadline=None, budget=None, until=None):
        """Returns the best `Answer` that can be had; without a limit, the last exit's.

        Args:
            x: input of the model, shape `(batch, ...)`.
            deadline: float, seconds from now. The exit that surely makes it answers first, then later ones as time
                allows; the latest answer is returned shortly before the deadline (by how late threads have woken here,
                a fifth of it at most), or as soon as no better one can come. Where not even the first exit makes it,
                its answer comes late and is marked so.
            budget: float, MACs for each sample: the deepest exit whose cost, its own head included, keeps to it. Where
                not even the first exit does, its answer is returned, marked late. TensorFlow compiles an exit when it
                is first used so.
            until: function of an `Answer`; stage by stage, the first answer for which it returns true, else the last.

        Raises:
            ValueError: if more than one limit is given, or one is no number, or `x` does not fit the model, or its size
                is not prepared, as a deadline needs.
            Exception: what a stage raised, if one did.
        """
        begin = time.perf_counter()
        if sum(limit is not None for limit in (deadline, budget, until)) > 1:
            raise ValueError(
                "Only one of `deadline`, `budget` and `until` can be given. Received: "
                f"deadline={deadline}, budget={budget}, until={until}."
            )
        if until is not None and not callable(until):
            raise ValueError(f"`until` must be a function of an `Answer`. Received: until={until!r}.")
        for name, limit in (("deadline", deadline), ("budget", budget)):
            if limit is not None and (not isinstance(limit, numbers.Real) or math.isnan(limit)):
                raise ValueError(f"`{name}` must be a number. Received: {limit!r}.")
        state = self._current()
        inputs = state.stages.start(x)
        if until is not None:
            return self._predict_until(state, inputs, until, begin)
        if deadline is not None and deadline != math.inf:
            return self._predict_by(state, inputs, float(deadline), begin)
        position, late = len(state.costs) - 1, False
        if budget is not None:
            affordable = [p for p, cost in enumerate(state.costs_of(inputs)) if cost.with_head <= budget]
            position, late = max(affordable, default=0), not affordable
        job = self._worker.here(state.job(inputs, position, position, begin=begin))
        return self._handed(job.latest(), begin, late)

    def _predict_by(self, state, inputs, deadline, begin):
        size = state.stages.size(inputs)
        if size not in state.times:
            what = f"a batch of {size}" if isinstance(size, int) else f"shapes {list(size)}"
            raise ValueError(
                f"A deadline needs a size that is prepared. Received: {what}, prepared: {sorted(state.times)}. Call "
                "`predictor.prepare(example)` with an example of that size."
            )
        times, pace = state.times[size], self._paces[size]
        end = begin + deadline - pace.margin(deadline)
        limit = time.time() + end - time.perf_counter()

        def first():  # when its turn has come, which may be late
            return pace.first(begin + deadline - time.perf_counter(), times)

        job = self._worker.later(state.job(inputs, first, limit=limit, needed=times.stages, begin=begin))
        sleeps = end > time.perf_counter()
        answer = job.wait(max(end - time.perf_counter(), 0.0))
        if sleeps and (woke := time.perf_counter()) > end:  # also if the last answer came meanwhile
            pace.overslept(woke - end)
        if answer is None:
            answer = job.wait_for_first()
        pace.saw(job.first_seconds, times.usual[job.first])
        answer = self._handed(answer, begin)
        answer.late = answer.seconds > deadline
        return answer

    def _predict_until(self, state, inputs, until, begin):
        carried = inputs
        for position in range(len(state.engine)):
            with self._worker.lock:
                logits, carried = state.engine.stage(position, carried, inputs)
                logits = as_array(logits)
            answer = state.answer(position, logits, time.perf_counter() - begin)
            if until(answer):
                break
        return answer

    def _handed(self, answer, begin, late=False):
        return dataclasses.replace(answer, seconds=time.perf_counter() - begin, late=late)

    def start(self, x):
        """Computes in the background, stage by stage; returns a `Job` at once.

        Raises:
            ValueError: if `x` does not fit the model.
        """
        state = self._current()
        return self._worker.later(state.job(state.stages.start(x)))

    def stream(self, x):
        """Yields better and better `Answer`s as they come; closing the generator stops the computation.

        Of answers that come while nobody takes one, the best alone is yielded: with stages of a millisecond that may be
        the first and the last exit's. `predict(x, until=answers.append)` collects each exit's in a list.

        Raises:
            ValueError: if `x` does not fit the model.
            Exception: what a stage raised, if one did.
        """
        state = self._current()
        inputs = state.stages.start(x)

        def answers():
            job = self._worker.later(state.job(inputs))
            try:
                yield from job.answers()
            finally:
                job.stop()

        return answers()


@dataclasses.dataclass(frozen=True)
class _State:
    """All that hangs on which exits are stopped at. Whoever uses it keeps it, while the predictor may get another."""

    stages: Stages
    engine: engines.Engine
    costs: list
    temperatures: list
    latencies: LatencyTable
    times: dict  # from a size to its `Times`
    costs_by_shapes: dict  # from the inputs' shapes, without batch, to costs

    @classmethod
    def of(cls, stages, example, dtype, temperatures):
        """Compiles stages; `temperatures` is a dict by exits' names, with 1 for others."""
        inputs = stages.start(example)
        costs = stages.costs(inputs)
        table = LatencyTable(stages.exit_names, [cost.with_head for cost in costs], dtype)
        ordered = [temperatures.get(name, 1.0) for name in stages.exit_names]
        return cls(stages, engines.engine(stages), costs, ordered, table, {}, {_shapes(inputs): costs})

    def costs_of(self, inputs):
        """Returns the exits' costs for inputs of such a size."""
        shapes = _shapes(inputs)
        if shapes not in self.costs_by_shapes:
            self.costs_by_shapes[shapes] = self.stages.costs(inputs)
        return self.costs_by_shapes[shapes]

    def job(self, inputs, first=0, last=None, **options):
        return Job(self.engine, inputs, self.answer, first, last, **options)

    def answer(self, position, logits, seconds):
        name = self.stages.exit_names[position]
        temperature, sigmoid = self.temperatures[position], self.engine.sigmoid[position]
        return Answer(logits, name, position, seconds, temperature=temperature, sigmoid=sigmoid)

    def prepare(self, example, worker, seconds=2.0):
        """See `Predictor.prepare`."""

        def timed(first, limit=engines.NEVER):
            """Returns the seconds to each answer, by position, not counting what others made it wait."""
            job = worker.later(self.job(inputs, first, limit=limit))
            return {answer.position: answer.seconds - job.waited for answer in job.answers()}

        inputs = self.stages.start(example)
        exits, size = range(len(self.costs)), self.stages.size(inputs)
        for first in exits:
            timed(first)
        timed(0, limit=engines.ALWAYS)  # where each stage is a program of its own, this compiles them
        if size not in self.latencies.direct:
            direct, stages = [[] for _ in exits], [[] for _ in exits]
            begin = time.perf_counter()
            while len(stages[0]) < 5 or time.perf_counter() - begin < seconds:
                for first in exits:
                    direct[first].append(timed(first)[first])
                told = timed(0, limit=engines.ALWAYS)
                # An answer that a later one overtook was not told: it was there when the later one was.
                ends = [min(told[later] for later in told if later >= position) for position in exits]
                for times, start, end in zip(stages, [0.0, *ends], ends):
                    times.append(end - start)
            self.latencies.add(size, direct, stages)
        self.times[size] = Times.of(self.latencies, size, example)


def _shapes(inputs):
    return tuple(tuple(tensor.shape[1:]) for tensor in inputs)


def _stages(model, dtype):
    """Cuts a model at all its exits."""
    if not isinstance(model, keras.Model) and hasattr(model, "stages"):
        return model.stages(dtype=dtype)
    stages = Stages(model)
    if len(stages) < 2:
        raise ValueError(
            f"`model` must have two exits or more to be anytime. Received: model '{model.name}' with one output. "
            "Give it exits with `anytime_keras.to_anytime`."
        )
    return stages if dtype is None else Stages(in_dtype(stages.model, dtype))


def _evenly(costs, most):
    """Chooses exits at even steps of cost, the first and the last among them, or all if there are few."""
    if len(costs) <= most:
        return [cost.exit for cost in costs]
    macs = np.array([cost.with_head for cost in costs], float)
    nearest = {int(np.abs(macs - target).argmin()) for target in np.linspace(macs[0], macs[-1], most)}
    return [costs[position].exit for position in sorted(nearest | {0, len(costs) - 1})]
