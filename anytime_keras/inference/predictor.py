"""`Predictor`: answers by a deadline, within a budget, or better and better until it is stopped."""

import dataclasses
import math
import numbers
import time

import keras
import numpy as np

from anytime_keras.inference import engines
from anytime_keras.inference.answers import Answer, as_array
from anytime_keras.inference.batches import BatchMethods
from anytime_keras.inference.jobs import Job, Worker
from anytime_keras.inference.latency import LatencyTable
from anytime_keras.inference.pace import Pace
from anytime_keras.inference.stages import Stages, in_dtype

MOST_EXITS = 8


class Predictor(BatchMethods):
    """Runs an anytime network so that it stops for real: by a deadline, within a budget, or when it is told to.

    The network is cut at its exits and compiled when the predictor is made; the weights are those of that moment. One
    computation runs at a time, others wait for their turn: a predictor may be used from several threads.

    What `calibrate` and `fit_thresholds` find is kept as the model's `inference` and saved with an `AnytimeModel` (a
    `.keras` file): a later predictor finds it there. It holds for the weights of that moment.

    Args:
        model: functional Keras model whose outputs are its exits, or an `EANN`.
        example: an input of the batch size to answer in time, shape `(batch, ...)`; `prepare` adds others.
        exits: names of the exits to stop at, earliest first; None takes those that `calibrate` left, or chooses, of
            more than 8, eight evenly by cost.
        dtype: Keras dtype policy to compute in, such as `"bfloat16"`; None is the model's own.
        latencies: `LatencyTable`, or the path of one that was saved with `predictor.latencies.to_json(path)`; None
            measures.

    Attributes:
        exit_names: list of str, the exits that are stopped at.
        costs: list of `ExitCost`, one for each of them.
        latencies: `LatencyTable`, of the batch sizes that are prepared.
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
        self._model, self._dtype = model, dtype
        self._worker, self._pace = Worker(), Pace()
        self._found = dict(getattr(model, "inference", None) or {})
        stages = _stages(model, dtype)
        if exits is None:
            exits = self._found.get("exits") or _evenly(stages.costs(stages.start(example)), MOST_EXITS)
        self._build(stages.at(exits), [example], latencies)

    def _build(self, stages, examples, latencies=None):
        """Compiles the stages, and prepares them for the examples' sizes of batch."""
        self._stages, self.exit_names = stages, stages.exit_names
        self.costs = stages.costs(stages.start(examples[0]))
        self.latencies = LatencyTable(self.exit_names, [cost.with_head for cost in self.costs], self._dtype)
        if latencies is not None:
            given = latencies if isinstance(latencies, LatencyTable) else LatencyTable.from_json(latencies)
            given.check(self.latencies)
            self.latencies = given
        self._engine, self._times = engines.engine(stages), {}
        for example in examples:
            self.prepare(example)

    def prepare(self, example, seconds=2.0):
        """Compiles for a size of batch, and measures how long each exit takes unless the table of latencies knows.

        Args:
            example: an input of that size, shape `(batch, ...)`.
            seconds: float, how long to measure, about; five runs of each at least.
        """
        inputs = self._stages.start(example)
        last, size = len(self.exit_names) - 1, inputs[0].shape[0]
        for first in range(last + 1):
            self._timed(inputs, first)
        if size not in self.latencies.direct:
            direct, stages = [[] for _ in self.exit_names], [[] for _ in self.exit_names]
            begin = time.perf_counter()
            while len(stages[0]) < 5 or time.perf_counter() - begin < seconds:
                for first in range(last + 1):
                    direct[first].append(self._timed(inputs, first)[0].seconds)
                told = {answer.position: answer.seconds for answer in self._timed(inputs, 0, limit=engines.ALWAYS)}
                # An answer that a later one overtook was not told: it was there when the later one was.
                ends = [min(told[later] for later in told if later >= position) for position in range(last + 1)]
                for times, start, end in zip(stages, [0.0, *ends], ends):
                    times.append(end - start)
            self.latencies.add(size, direct, stages)
        table = self.latencies
        # A stage that is begun in vain keeps the processor from the thread that waits for the deadline.
        self._times[size] = _Times(
            example=example,
            safe=table.quantile(size, 0.99),
            usual=table.quantile(size, 0.5),
            stages=table.quantile(size, 0.9, stages=True),
        )

    def _again(self, exits):
        """Compiles and prepares everything anew, for fewer exits."""
        self._build(self._stages.at(exits), [times.example for times in self._times.values()])

    def _timed(self, inputs, first, limit=engines.NEVER):
        return list(self._worker.later(self._job(inputs, first, limit=limit)).answers())

    def _job(self, inputs, first=0, last=None, **options):
        return Job(self._engine, inputs, self._answer, first, last, **options)

    def _answer(self, position, logits, seconds):
        return Answer(logits, self.exit_names[position], position, seconds, temperature=self.temperatures[position])

    def predict(self, x, deadline=None, budget=None, until=None):
        """Returns the best `Answer` that can be had; without a limit, the last exit's.

        Args:
            x: input of the model, shape `(batch, ...)`.
            deadline: float, seconds from now. The exit that surely makes it answers first, then later ones as time
                allows; the latest answer is returned at the deadline, or as soon as no better one can come. Where not
                even the first exit makes it, its answer comes late and is marked so.
            budget: float, MACs for each sample: the deepest exit whose cost, its own head included, keeps to it. Where
                not even the first exit does, its answer is returned, marked late. TensorFlow compiles an exit when it
                is first used so.
            until: function of an `Answer`; stage by stage, the first answer for which it returns true, else the last.

        Raises:
            ValueError: if more than one limit is given, or one is no number, or `x` does not fit the model, or its size
                of batch is not prepared, as a deadline needs.
            Exception: what a stage raised, if one did.
        """
        begin = time.perf_counter()
        if sum(limit is not None for limit in (deadline, budget, until)) > 1:
            raise ValueError(
                "Only one of `deadline`, `budget` and `until` can be given. Received: "
                f"deadline={deadline}, budget={budget}, until={until}."
            )
        inputs = self._stages.start(x)
        if until is not None:
            return self._predict_until(inputs, until, begin)
        if deadline is not None and _number("deadline", deadline) != math.inf:
            return self._predict_by(inputs, float(deadline), begin)
        position, late = len(self.exit_names) - 1, False
        if budget is not None:
            _number("budget", budget)
            affordable = [p for p, cost in enumerate(self.costs) if cost.with_head <= budget]
            position, late = max(affordable, default=0), not affordable
        job = self._worker.here(self._job(inputs, position, position, begin=begin))
        return self._handed(job.latest(), begin, late)

    def _predict_by(self, inputs, deadline, begin):
        size, pace = inputs[0].shape[0], self._pace
        if size not in self._times:
            raise ValueError(
                f"A deadline needs a size of batch that is prepared. Received: a batch of {size}, prepared: "
                f"{sorted(self._times)}. Call `predictor.prepare(example)` with an example of that size."
            )
        times = self._times[size]
        end = begin + deadline - pace.margin(deadline)
        limit = time.time() + end - time.perf_counter()

        def first():  # when its turn has come, which may be late
            return pace.first(begin + deadline - time.perf_counter(), times.safe)

        job = self._worker.later(self._job(inputs, first, limit=limit, needed=times.stages, begin=begin))
        answer = job.wait(max(end - time.perf_counter(), 0.0))
        if not job.done:
            pace.overslept(time.perf_counter() - end)
        if answer is None:
            answer = job.wait_for_first()
        pace.saw(job.first_seconds / times.usual[job.first])
        answer = self._handed(answer, begin)
        answer.late = answer.seconds > deadline
        return answer

    def _predict_until(self, inputs, until, begin):
        carried = inputs
        for position in range(len(self.exit_names)):
            with self._worker.lock:
                logits, carried = self._engine.stage(position, carried, inputs)
                logits = as_array(logits)
            answer = self._answer(position, logits, time.perf_counter() - begin)
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
        return self._worker.later(self._job(self._stages.start(x)))

    def stream(self, x):
        """Yields an `Answer` of each exit as soon as it is there; closing the generator stops the computation.

        An answer that a better one overtakes on the way is left out.

        Raises:
            ValueError: if `x` does not fit the model.
            Exception: what a stage raised, if one did.
        """
        inputs = self._stages.start(x)

        def answers():
            job = self._worker.later(self._job(inputs))
            try:
                yield from job.answers()
            finally:
                job.stop()

        return answers()


@dataclasses.dataclass
class _Times:
    """By what deadlines are kept for one size of batch: seconds straight to each exit, in a bad moment and usually, and
    of each stage.
    """

    example: object
    safe: np.ndarray
    usual: np.ndarray
    stages: np.ndarray


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


def _number(name, value):
    if not isinstance(value, numbers.Real) or math.isnan(value):
        raise ValueError(f"`{name}` must be a number. Received: {value!r}.")
    return value
