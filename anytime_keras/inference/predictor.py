"""`Predictor`: anytime inference by a deadline, within a budget, or until stopped."""

import copy
import dataclasses
import math
import threading
import time

from anytime_keras import runtime
from anytime_keras._checks import check_limit, check_number, check_one
from anytime_keras.conversion import converters
from anytime_keras.inference import calibration, early_exit, engines
from anytime_keras.inference.answers import as_array, probabilities
from anytime_keras.inference.batches import BatchMethods
from anytime_keras.inference.jobs import Worker
from anytime_keras.inference.latency import LatencyTable
from anytime_keras.inference.progress import Progress
from anytime_keras.inference.stages import evenly, stages_of
from anytime_keras.inference.state import State

MOST_EXITS = 8
RETURN_SECONDS = 15e-6  # from the last answer to the return of `predict`, where nothing interrupts it
LARGER_SECONDS = 0.5  # for which a larger batch is measured on JAX when it is first asked for


class Predictor(BatchMethods):
    """Answers by a deadline, within a budget, or until stopped, without computing unused stages of a network.

    The constructor cuts the network at its exits, compiles the stages for an engine and reads the current weights:

    - `"litert"`, `"onnx"` and `"openvino"` convert the stages for LiteRT, ONNX Runtime or OpenVINO, which are faster
      than Keras on a CPU. They need the TensorFlow backend, layers that the runtime has, and fixed image sizes.
    - `"tensorflow"` and `"jax"` compile them for Keras's backend, on its default device. They run any network.
    - `"auto"` measures the installed runtimes and TensorFlow on a CPU and takes the fastest to the last exit. Others
      than LiteRT must be 25% faster than it, because they lose more time stage by stage. On other devices and
      backends, it takes the backend's. The environment variable `ANYTIME_KERAS_ENGINES` limits the comparison to the
      runtimes that it lists, such as `litert,onnx`.

    A file engine is used only if its outputs for `example` equal the network's to 1e-5, relative to the largest output
    or 1. Converted stages, and what was measured on this machine, are cached in the folder `ANYTIME_KERAS_CACHE`, by
    default `~/.cache/anytime_keras`; beyond 2 GB, the least recently used entries are removed. Networks with layers of
    other packages are converted each time.

    Predictors are thread-safe: one computation runs at a time, and others wait. In a forked process they raise a
    RuntimeError. `calibrate` and `fit_thresholds` store their results as the model's `inference`, which is saved with
    an `AnytimeModel` (a `.keras` file) and used by later predictors. The results apply only to the weights at that
    time.

    Args:
        model: functional Keras model whose outputs are its exits, or an `EANN`.
        example: an input of the size used most, shape `(batch, ...)`. `prepare` adds other batch sizes and, if these
            dimensions are dynamic, other image sizes or sequence lengths.
        exits: names of the exits to use, earliest first. None uses the exits selected by `calibrate`; without those,
            all exits, or eight spaced evenly by cost if there are more than 8.
        dtype: str; None computes like the model. A Keras dtype policy, such as `"bfloat16"`, for the backend's engine.
            With a file engine, `"float16"` (LiteRT, OpenVINO), `"bfloat16"` (OpenVINO) or `"int8"` (LiteRT, ONNX);
            evaluate the predictor then, because outputs are not compared with the network's. For int8, calibrated
            temperatures are fitted again, to the network's confidences on `representative`.
        latencies: `LatencyTable`, or the path of a table saved with `predictor.latencies.to_json(path)`; None measures
            the latencies.
        engine: str, `"auto"`, `"tensorflow"`, `"jax"`, `"litert"`, `"onnx"` or `"openvino"`.
        num_threads: int, the threads of a file engine; None measures one thread and one per core, and takes one unless
            more are at least 10% faster. TensorFlow's and JAX's threads are set for the whole process.
        representative: for `dtype="int8"`, a few hundred typical inputs, shape `(samples, ...)`.

    Attributes:
        engine: str, the name of the engine in use.
        exit_names: list of str, the exits in use.
        costs: list of `ExitCost`, one per exit, for inputs of the example's size.
        latencies: `LatencyTable` of the prepared sizes.
        temperatures: list of float, one per exit.
        requested: dict, the arguments `engine`, `num_threads` and `representative`.

    Raises:
        ValueError: if the model is not functional or has a single exit, `example` or `latencies` do not fit it, or the
            chosen engine cannot run it.
        ImportError: if the chosen engine's package is not installed.

    Example:
    >>> import numpy as np, anytime_keras as ak
    >>> model = ak.models.build("resann", num_units=1, channels=4, input_shape=(8, 8, 1), num_classes=10)
    >>> image = np.zeros((1, 8, 8, 1), "float32")
    >>> predictor = ak.Predictor(model, example=image)
    >>> predictor
    Predictor(ResANN, MACs: exit_1 0.0208M, exit_2 0.0347M, exit_3 0.0487M)
    >>> predictor.predict(image, deadline=60).exit
    'exit_3'
    >>> predictor.predict(image, budget=model.exits[1].macs).exit
    'exit_2'
    >>> [answer.exit for answer in predictor.stream(image)][-1]
    'exit_3'
    """

    def __init__(
        self,
        model,
        example,
        exits=None,
        dtype=None,
        latencies=None,
        engine="auto",
        num_threads=None,
        representative=None,
    ):
        runtime.check_fork()
        num_threads = engines.choice.check(engine, num_threads)
        if dtype is not None and not isinstance(dtype, str):
            raise ValueError(f"`dtype` must be None or a str, such as 'bfloat16'. Received: dtype={dtype!r}.")
        converters.check_representative("dtype", dtype, representative)
        by_runtime = dtype is not None and (engine in engines.FILE_ENGINES or dtype == "int8")
        self._model, self._worker = model, Worker()
        self._lock = self._worker.lock  # held while a stage runs
        self._changing = threading.Lock()  # held by methods that replace the state, not by its readers
        self._own = {}
        stages, found = stages_of(model, None if by_runtime else dtype), self._found()
        if exits is None:
            exits = found.get("exits") or evenly(stages, example, MOST_EXITS)
        stages, temperatures = stages.at(exits), found.get("temperatures", {})
        if latencies is not None and not isinstance(latencies, LatencyTable):
            latencies = LatencyTable.from_json(latencies)
        self.requested = {"engine": engine, "num_threads": num_threads, "representative": representative}
        self._options = {"num_threads": num_threads}
        if by_runtime:
            self._options["dtype"] = dtype
        elif dtype is not None and engine == "auto":  # a Keras policy
            engine = engines.backend()
        if representative is not None:
            samples = self._options["representative"] = engines.base.arrays(stages.start(representative))
            converters.check_values(samples, stages)
        with Progress(f"Preparing {type(model).__name__} for this machine") as progress:
            state = State.of(stages, example, dtype, temperatures, name=engine, progress=progress, **self._options)
            if latencies is not None:
                latencies.check(state.latencies)
                state = dataclasses.replace(state, latencies=copy.copy(latencies))
            state.prepare(example, self._worker, progress=progress)
            if temperatures and dtype == "int8":
                state = self._with_temperatures(state)
        self._state = state

    def _with_temperatures(self, state):
        """Fits the temperatures of 8-bit stages, so that their confidences equal the network's own, calibrated ones."""
        samples, fitted = self._options["representative"], list(state.temperatures)
        theirs = state.engine.network_logits(samples)
        ours = early_exit.exit_outputs(state.engine, samples, self._worker.lock)
        for position, temperature in enumerate(state.temperatures):
            if not state.engine.sigmoid[position]:
                expected = probabilities(theirs[position], temperature)
                fitted[position] = calibration.fit_temperature(ours[position], expected)
        return dataclasses.replace(state, temperatures=fitted)

    def __repr__(self):
        macs = ", ".join(f"{cost.exit} {cost.with_all_heads / 1e6:.3g}M" for cost in self.costs)
        return f"Predictor({type(self._model).__name__}, MACs: {macs})"

    def __reduce__(self):
        raise TypeError(
            "A `Predictor` holds compiled programs and threads, so it cannot be copied or pickled. Copy or save its "
            "model, and make a predictor of that."
        )

    @property
    def exit_names(self):
        return list(self._state.stages.exit_names)

    @property
    def engine(self):
        return self._state.engine.name

    @property
    def name(self):
        """The model's name."""
        return getattr(self._model, "name", type(self._model).__name__.lower())

    @property
    def dtype(self):
        """The dtype of the computation, a str."""
        first = getattr(self._model, "members", [self._model])[0]
        return self._state.latencies.dtype or first.dtype_policy.name

    @property
    def sigmoid(self):
        """Whether each exit ends in a sigmoid, a list of bool."""
        return list(self._state.engine.sigmoid)

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

    def prepare(self, example, seconds=2.0, budgets=False):
        """Compiles for an input size, and measures the latency of each exit unless `latencies` has that size.

        Args:
            example: an input of that size, shape `(batch, ...)`.
            seconds: float, approximate measuring time. Each exit is run at least five times.
            budgets: bool, whether to also compile the run straight to each exit, which `predict(budget=)` otherwise
                does on its first use.

        Raises:
            ValueError: if `example` does not fit the model, or `seconds` is negative or not finite; on a file engine,
                also if the network's weights have changed since the predictor was made.
        """
        self._worker.check_process()
        check_number("seconds", seconds, "of 0 or more, finite", lambda number: 0 <= number < math.inf)
        with self._changing, Progress(f"Preparing {type(self._model).__name__}") as progress:
            self._state.prepare(example, self._worker, seconds, progress)
            if budgets:
                for position in range(len(self._state.costs)):
                    self._run_to(self._state, self._state.engine.start(example), position)

    def _change(self, exits, temperatures):
        """Compiles and prepares a state for some of the exits, then swaps it in atomically."""
        before = self._state
        if exits == before.stages.exit_names:
            self._state = dataclasses.replace(before, temperatures=[temperatures[name] for name in exits])
            return
        examples = [times.example for times in before.times.values()]
        options = {"name": before.engine.name, **self._options} if before.engine.steps else {"name": engines.backend()}
        state = State.of(before.stages.at(exits), examples[0], before.latencies.dtype, temperatures, **options)
        for example in examples:
            state.prepare(example, self._worker)
        self._state = state

    def predict(self, x, deadline=None, budget=None, until=None):
        """Returns the best `Answer` within one limit; without a limit, the last exit's.

        Args:
            x: input of the model, shape `(batch, ...)`.
            deadline: float, seconds from now. Returns the answer of the deepest exit that can be expected in time. If
                even the first exit is too slow, its answer is returned with `late=True`. File engines run stage by
                stage in the calling thread, while the next stage's usual time in the last calls, at first the time
                that `prepare` measured, fits. TensorFlow and JAX run straight to an exit that is certain to meet the
                deadline, continue in another thread, and return shortly before the deadline at the latest. A batch of
                a size that was not prepared is computed in batches of prepared sizes, the last one padded; TensorFlow
                needs no padding. JAX prepares a larger size in the first call with it, whose answer is late.
            budget: float, MACs per sample. Runs the deepest exit whose cost, including its own head, is within the
                budget; if there is none, the first exit, whose answer has `late=True`. Each exit is compiled on its
                first use with a budget, or all by `prepare(example, budgets=True)`.
            until: function of an `Answer`. Runs stage by stage and returns the first answer for which it returns true,
                or the last answer.

        Raises:
            ValueError: if more than one limit is given, a limit is not a number (or `until` not callable), `x` does
                not fit the model, or a deadline is given and the image size of `x` is not prepared.
            Exception: any exception raised by a stage.
        """
        begin = time.perf_counter()
        check_limits(deadline, budget, until)
        state = self._current()
        inputs = state.engine.start(x)
        if until is not None:
            for answer in self._stage_by_stage(state, inputs, begin):
                if until(answer):
                    break
            return answer
        if deadline is not None and deadline != math.inf:
            return self._predict_by(state, inputs, float(deadline), begin)
        position, late = len(state.costs) - 1, False
        if budget is not None:
            position, late = deepest_within(state.costs_of(inputs), budget)
        logits = self._run_to(state, inputs, position)
        return state.answer(position, logits, time.perf_counter() - begin, late)

    def _run_to(self, state, inputs, position):
        """Runs straight to one exit in this thread and returns its logits."""
        state.engine.prepare_direct(inputs, position)  # without the lock, since converting takes seconds
        run = engines.Latest(position, position, engines.ALWAYS, state.no_time)
        self._worker.run(state.engine, inputs, run)
        return run.logits

    def _predict_by(self, state, inputs, deadline, begin):
        """Runs to a deadline stage by stage in this thread, or in the worker thread; see `Engine.steps`."""
        if state.must_prepare(inputs):
            self.prepare(engines.base.padded(inputs, early_exit.bucket(len(inputs[0]))), LARGER_SECONDS)
            state = self._current()
        size, times, padded = state.times_for(inputs)
        pace = state.pace(size, times)
        if state.engine.steps:
            limit = time.time() + begin + deadline - RETURN_SECONDS - time.perf_counter()
            run = engines.Latest(0, len(state.costs) - 1, limit, pace.needed())
            self._worker.run(state.engine, inputs, run)
            pace.saw(run.ends)
            seconds = time.perf_counter() - begin
            return state.answer(run.position, run.logits, seconds, late=seconds > deadline)
        end = begin + deadline - pace.margin(deadline)
        limit = time.time() + end - time.perf_counter()

        def first():  # evaluated when the job leaves the queue
            return pace.first(begin + deadline - time.perf_counter(), times)

        job = self._worker.later(state.job(padded, first, limit=limit, needed=times.stages, begin=begin))
        sleeps = end > time.perf_counter()
        answer = job.wait(max(end - time.perf_counter(), 0.0))
        if sleeps and (woke := time.perf_counter()) > end:  # even if the last answer arrived meanwhile
            pace.overslept(woke - end)
        if answer is None:
            answer = job.wait_for_first()
        pace.saw(job.first_seconds, times.usual[job.first])
        seconds = time.perf_counter() - begin
        logits = answer.logits[: len(inputs[0])]
        return dataclasses.replace(answer, logits=logits, seconds=seconds, late=seconds > deadline)

    def _stage_by_stage(self, state, inputs, begin):
        """Yields the answer of each exit; runs a stage in this thread when its answer is requested."""
        carried = inputs
        for position in range(len(state.engine)):
            with self._worker.lock:
                logits, carried = state.engine.stage(position, carried, inputs)
                logits = as_array(logits)
            yield state.answer(position, logits, time.perf_counter() - begin)

    def start(self, x):
        """Starts a computation in the background and returns its `Job` immediately.

        Raises:
            ValueError: if `x` does not fit the model.
        """
        state = self._current()
        return self._worker.later(state.job(state.engine.start(x)))

    def stream(self, x):
        """Yields successively better `Answer`s; closing the generator stops the computation.

        File engines compute each answer when it is requested. TensorFlow and JAX compute in the background, and an
        answer that arrives after a later exit's is dropped: with stages of a millisecond, only the answers of the first
        and last exits may remain. `predict(x, until=answers.append)` collects all answers in a list.

        Raises:
            ValueError: if `x` does not fit the model.
            Exception: any exception raised by a stage.
        """
        state = self._current()
        inputs = state.engine.start(x)

        def answers():
            if state.engine.steps:
                yield from self._stage_by_stage(state, inputs, time.perf_counter())
            else:
                yield from self._worker.later(state.job(inputs)).stream()

        return answers()


def deepest_within(costs, budget):
    """Returns the position of the deepest exit within a budget, and whether there is none, which gives the first exit.

    Args:
        costs: list of `ExitCost`.
        budget: float, MACs per sample.
    """
    affordable = [position for position, cost in enumerate(costs) if cost.with_head <= budget]
    return max(affordable, default=0), not affordable


def check_limits(deadline, budget, until):
    """Raises ValueError unless at most one limit of `Predictor.predict` is given, and that is valid."""
    check_one(optional=True, deadline=deadline, budget=budget, until=until)
    if until is not None and not callable(until):
        raise ValueError(f"`until` must be a function of an `Answer`. Received: until={until!r}.")
    check_limit("deadline", deadline)
    check_limit("budget", budget, "of MACs")
