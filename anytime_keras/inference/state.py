"""`State`: everything in a predictor that depends on the choice of exits."""

import dataclasses
import json
import time

import numpy as np

from anytime_keras import _files, runtime
from anytime_keras.conversion import part_cache
from anytime_keras.inference import engines, latency
from anytime_keras.inference.answers import Answer, probabilities
from anytime_keras.inference.engines.files import cut
from anytime_keras.inference.jobs import Job
from anytime_keras.inference.latency import LatencyTable
from anytime_keras.inference.pace import Pace, StepPace, Times
from anytime_keras.inference.progress import silent
from anytime_keras.inference.stages import Stages

ENOUGH_RUNS = 500  # for a 99% quantile


@dataclasses.dataclass(frozen=True)
class State:
    """The stages in use, the engine that runs them, and what is known of them.

    Calls keep their state even if the predictor replaces it.
    """

    stages: Stages
    engine: engines.Engine
    costs: list
    temperatures: list
    latencies: LatencyTable
    no_time: np.ndarray  # zero seconds for each stage, for runs without a deadline
    times: dict  # from prepared size to `Times`
    derived: dict  # from other batch sizes to (size, `Times`); see `times_for`
    costs_by_shapes: dict  # from the inputs' shapes, without the batch axis, to costs
    paces: dict  # from sizes of calls with a deadline to `StepPace` or `Pace`

    @classmethod
    def of(cls, stages, example, policy, temperatures, **options):
        """Creates the state for `stages`.

        Args:
            stages: `Stages`.
            example: see `Predictor`.
            policy: str or None, the dtype in the latency table.
            temperatures: dict by exit name, with default 1.
            options: see `engines.create`.
        """
        inputs = stages.start(example)
        costs = stages.costs(inputs)
        made = engines.create(stages, inputs, **options)
        table = LatencyTable(stages.exit_names, [cost.with_head for cost in costs], policy, made.name)
        ordered = [temperatures.get(name, 1.0) for name in stages.exit_names]
        shapes = {_shapes(inputs): costs}
        return cls(stages, made, costs, ordered, table, np.zeros(len(costs)), {}, {}, shapes, {})

    def costs_of(self, inputs):
        """Returns the exits' costs for the shapes of `inputs`."""
        shapes = _shapes(inputs)
        if shapes not in self.costs_by_shapes:
            self.costs_by_shapes[shapes] = self.stages.costs(inputs)
        return self.costs_by_shapes[shapes]

    def job(self, inputs, first=0, **options):
        return Job(self.engine, inputs, self.answer, first, **options)

    def answer(self, position, logits, seconds, late=False):
        name = self.stages.exit_names[position]
        temperature, sigmoid = self.temperatures[position], self.engine.sigmoid[position]
        return Answer(logits, name, position, seconds, late, temperature, sigmoid)

    def confidences(self, logits):
        """Returns the probability of the likeliest class, an array of shape `(exits, samples)`."""
        each = zip(logits, self.temperatures, self.engine.sigmoid)
        return np.stack([probabilities(*of_exit).max(axis=-1) for of_exit in each])

    def prepare(self, example, worker, seconds=2.0, progress=silent):
        """See `Predictor.prepare`."""
        inputs = self.engine.start(example)
        size = self.stages.size(inputs)
        self.engine.prepare(inputs, worker.lock)
        if size not in self.latencies.direct:
            key = self._latency_key(size)
            if key and (found := part_cache.read(key)):
                self.latencies.add_quantiles(size, **json.loads(found))
            else:
                progress("measuring latencies")
                measure = self._measure_steps if self.engine.steps else self._measure_jobs
                self.latencies.add(size, *measure(inputs, worker, seconds))
                if key and self._is_steady(size):
                    content = {name: getattr(self.latencies, name)[size].tolist() for name in ("direct", "stages")}
                    part_cache.write(key, json.dumps(content).encode())
        elif not self.engine.steps:
            self._measure_jobs(inputs, worker, None)
        self.times[size] = Times.of(self.latencies, size, example, steps=self.engine.steps)
        self.derived.clear()

    def _is_steady(self, size):
        """Returns whether other processes hardly disturbed a measurement, so that it may be kept for later."""
        usual, high = (self.latencies.quantile(size, quantile)[-1] for quantile in (0.5, 0.9))
        return high < latency.STEADY * usual

    def _latency_key(self, size):
        """Returns the key under which the times of this network, size and machine are cached, or None."""
        identity = self.engine.identity(size)
        if identity is None:
            return None
        return _files.digest(["latencies", identity, runtime.machine()["processor"]])

    def _measure_steps(self, inputs, worker, seconds):
        """Runs stage by stage in this thread; returns the seconds to each exit and of each stage, lists per exit."""
        count, ends = len(self.costs), []
        begin = time.perf_counter()
        while len(ends) < 5 or (len(ends) < ENOUGH_RUNS and time.perf_counter() - begin < seconds):
            run = engines.Latest(0, count - 1, engines.ALWAYS, self.no_time)
            worker.run(self.engine, inputs, run)
            ends.append(run.ends)
        ends = np.array(ends[len(ends) // 10 :])  # the first runs warm up
        return ends.T.tolist(), np.diff(ends, axis=1, prepend=0.0).T.tolist()

    def _measure_jobs(self, inputs, worker, seconds):
        """Compiles and runs jobs straight to each exit, and through all stages; returns the seconds of each.

        `seconds` None compiles only.
        """

        def timed(first, limit=engines.NEVER):
            """Returns a dict from position to the seconds until its answer, excluding time in the queue."""
            job = worker.later(self.job(inputs, first, limit=limit))
            return {answer.position: answer.seconds - job.waited for answer in job.answers()}

        exits = range(len(self.costs))
        for first in exits:
            timed(first)
        timed(0, limit=engines.ALWAYS)  # compiles the stages on backends with one program per stage
        direct, stages = [[] for _ in exits], [[] for _ in exits]
        begin = time.perf_counter()
        while seconds is not None and (len(stages[0]) < 5 or time.perf_counter() - begin < seconds):
            for first in exits:
                direct[first].append(timed(first)[first])
            told = timed(0, limit=engines.ALWAYS)
            # A missing answer arrived after a later exit's, so it gets the time of that one.
            ends = [min(told[later] for later in told if later >= position) for position in exits]
            for times, start, end in zip(stages, [0.0, *ends], ends):
                times.append(end - start)
        return direct, stages

    def must_prepare(self, inputs):
        """Returns whether a batch is larger than all that an engine was compiled for, if it compiles for each size."""
        if self.engine.any_size:
            return False
        size = self.stages.size(inputs)
        return isinstance(size, int) and size > max(self.times)

    def times_for(self, inputs):
        """Returns the expected times for inputs of any batch size.

        A batch of a size that is not prepared takes the time of prepared batches in which it could run, or
        of the next larger prepared size. An engine that compiles for each size gets it padded to that size.

        Returns:
            A tuple of the size, its `Times`, and the inputs, which may be padded.

        Raises:
            ValueError: if image sizes are dynamic too and these are not prepared.
        """
        size = self.stages.size(inputs)
        if (times := self.times.get(size)) is not None:
            return size, times, inputs
        if size not in self.derived:
            self.derived[size] = self._derive(size)
        prepared, times = self.derived[size]
        return prepared, times, inputs if self.engine.any_size else engines.base.padded(inputs, prepared)

    def pace(self, size, times):
        """Returns the pace of calls with a deadline of one size; `times` is the result of `times_for`."""
        if size not in self.paces:
            self.paces.setdefault(size, StepPace(times) if self.engine.steps else Pace())
        return self.paces[size]

    def _derive(self, size):
        known = sorted(self.times)
        if not isinstance(size, int):
            raise ValueError(
                f"A deadline needs a size that is prepared. Received: shapes {list(size)}, prepared: {known}. Call "
                "`predictor.prepare(example)` with an example of that size."
            )
        larger = [own for own in known if own >= size]
        if self.engine.steps:
            return size, Times.total([self.times[own] for own in cut(size, known[::-1])])
        if larger:
            return larger[0], self.times[larger[0]]
        return size, Times.total([self.times[known[-1]]] * -(-size // known[-1]))


def _shapes(inputs):
    return tuple(tuple(tensor.shape[1:]) for tensor in inputs)
