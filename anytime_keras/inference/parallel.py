"""`ParallelPredictor`: runs the members of an EANN in parallel processes and returns the best finished answer."""

import contextlib
import multiprocessing
import os
import pathlib
import queue
import tempfile
import time
import traceback
import weakref

import keras
import numpy as np

from anytime_keras import runtime
from anytime_keras._checks import check_int, check_limit
from anytime_keras.inference import engines
from anytime_keras.inference.answers import Answer
from anytime_keras.inference.ensemble import EANN
from anytime_keras.inference.jobs import Job, Worker

READY_SECONDS = 300


class ParallelPredictor(contextlib.AbstractContextManager):
    """Runs the members of an EANN in several processes, first in first out, and returns the best finished answer.

    With M processes, each member starts when the M-th member before it ends, which reduces the cost inflation to that
    of base `base ** M` (Proposition 4.1). Use it as a context manager or call `close` to end the processes. They are
    spawned, so scripts must guard their code with `if __name__ == "__main__":`.

    Args:
        eann: `EANN`.
        example: an input of the batch size to be predicted, shape `(batch, ...)`.
        workers: int, number of processes.
        environments: list of dicts, additional environment variables for each process, such as
            `{"CUDA_VISIBLE_DEVICES": "1"}` to assign a device.
        engine: str, the engine of each process, see `Predictor`.
        num_threads: int, the threads of a file engine in each process; None shares the cores among the processes.

    Raises:
        ValueError: if an argument is invalid.
        RuntimeError: if a process cannot start, or the engine cannot run the network.

    Example, as a script:

        if __name__ == "__main__":
            with ak.inference.ParallelPredictor(eann, images[:1], workers=2) as predictor:
                answer = predictor.predict(images[:1], deadline=0.01)
    """

    def __init__(self, eann, example, workers=2, environments=None, engine="auto", num_threads=None):
        if not isinstance(eann, EANN):
            raise ValueError(f"`eann` must be an `EANN`. Received: {type(eann).__name__}.")
        workers = check_int("workers", workers)
        environments = [{}] * workers if environments is None else list(environments)
        if len(environments) != workers:
            raise ValueError(f"`environments` must be a dict for each of {workers} workers. Received: {environments}.")
        engines.choice.check(engine, num_threads)
        if num_threads is None and engine not in ("tensorflow", "jax"):
            num_threads = max(runtime.cores() // workers, 1)
        self._stages = eann.stages()
        example = [np.asarray(tensor) for tensor in self._stages.start(example)]
        self.exit_names = _exits(eann)
        temperatures = (eann.inference or {}).get("temperatures", {})
        self._temperatures = [temperatures.get(name, 1.0) for name in self.exit_names]
        used = self._stages.at(self.exit_names)
        self._sigmoid = [used.ends_in_sigmoid(position) for position in range(len(used))]
        options = {"name": engine, "num_threads": num_threads}
        self._processes = _Processes(eann, example, environments, options)
        self._worker = Worker()

    def predict(self, x, deadline=None):
        """Returns the best `Answer` of any member by the deadline (seconds from now). None waits for the last exit.

        If there is no answer by the deadline, returns the first one with `late=True`.
        """
        begin = time.perf_counter()
        check_limit("deadline", deadline)
        job = self.start(x)
        answer = job.wait(None if deadline is None else max(begin + deadline - time.perf_counter(), 0.0))
        if answer is None:
            answer = job.wait_for_first()
        job.stop()
        answer.late = deadline is not None and answer.seconds > deadline
        return answer

    def start(self, x):
        """Starts a computation in the background and returns its `Job` immediately."""
        self._worker.check_process()
        inputs = [np.asarray(tensor) for tensor in self._stages.start(x)]
        return self._worker.later(Job(self._processes, inputs, self._answer))

    def stream(self, x):
        """Yields successively better `Answer`s as they arrive."""
        yield from self.start(x).stream()

    def _answer(self, position, logits, seconds):
        name, temperature = self.exit_names[position], self._temperatures[position]
        return Answer(logits, name, position, seconds, temperature=temperature, sigmoid=self._sigmoid[position])

    def close(self):
        """Terminates the processes."""
        self._processes.close()

    def __exit__(self, *_):
        self.close()


class _Processes:
    """The pool of processes, with the interface of an `Engine` for `Job`."""

    def __init__(self, eann, example, environments, options):
        spawn = multiprocessing.get_context("spawn")  # a forked TensorFlow or JAX hangs
        self._count, self._members = len(_exits(eann)), len(eann.members)
        self._tasks, self._results = spawn.Queue(), spawn.Queue()
        self._stopped, self._number = spawn.Value("q", 0), 0
        with tempfile.TemporaryDirectory(prefix="anytime-keras-") as folder:
            eann.save(pathlib.Path(folder, "eann"))
            arguments = (str(pathlib.Path(folder, "eann")), example, options, self._tasks, self._results, self._stopped)
            self._processes = [spawn.Process(target=_serve, args=arguments, daemon=True) for _ in environments]
            self._finalizer = weakref.finalize(self, _end, self._processes, self._tasks)
            for process, own in zip(self._processes, environments):
                with _environment({"KERAS_BACKEND": keras.backend.backend(), **own}):
                    process.start()
            for _ in self._processes:
                self._receive(time.monotonic() + READY_SECONDS)

    def __len__(self):
        return self._count

    def run(self, inputs, run):
        """Computes one input; blocks until every member has finished or stopped."""
        self._check_alive()
        self._number += 1
        run.number = self._number
        if run.limit == engines.NEVER:
            return
        for member in range(self._members):
            self._tasks.put((self._number, member, inputs))
        done = 0
        while done < self._members:
            number, position, logits = self._receive()
            if number != self._number:
                continue  # left over from an earlier run that failed
            if position is None:
                done += 1
            else:
                run.emit(position, logits)

    def stop(self, run):
        run.limit = engines.NEVER
        number = getattr(run, "number", 0)
        with self._stopped.get_lock():
            self._stopped.value = max(self._stopped.value, number)

    def _receive(self, until=None):
        """Returns the next message of any process; raises a RuntimeError if a process failed or died."""
        while True:
            try:
                said = self._results.get(timeout=0.2)
            except queue.Empty:
                self._check_alive()
                if until is not None and time.monotonic() > until:
                    raise RuntimeError(f"The ensemble's processes were not ready in {READY_SECONDS} s.") from None
                continue
            if isinstance(said, str):
                raise RuntimeError(f"A process of the ensemble failed:\n{said}")
            return said

    def _check_alive(self):
        dead = [process.exitcode for process in self._processes if not process.is_alive()]
        if dead:
            raise RuntimeError(f"A process of the ensemble has died, exit code {dead[0]}.")

    def close(self):
        self._finalizer()


def _exits(eann):
    """Returns the names of the exits in use: those selected by `Predictor.calibrate`, else all used exits."""
    return (eann.inference or {}).get("exits") or eann.exit_names


def _end(processes, tasks):
    for _ in processes:
        tasks.put(None)
    for process in processes:
        process.join(timeout=5)
        process.kill()


def _serve(folder, example, options, tasks, results, stopped):
    """The main function of a process: loads all members, then runs those assigned by tasks."""
    try:
        eann = EANN.load(folder)
        names, members = _exits(eann), {}
        for own in eann.exits:
            if own.name in names:
                members.setdefault(own.member, []).append(own.name)
        stages = {member: eann.stages().at(exits) for member, exits in members.items()}
        runs = {member: engines.create(own, own.start(example), **options) for member, own in stages.items()}
        worker = Worker()

        def answers(member, inputs):
            def answer(position, logits, seconds):
                return Answer(logits, members[member][position], position, seconds)

            return worker.later(Job(runs[member], inputs, answer))

        for member in runs:  # compiles
            answers(member, example).wait()
        results.put(("ready", None, None))
        while (task := tasks.get()) is not None:
            number, member, inputs = task
            if member in runs and stopped.value < number:
                job = answers(member, inputs)
                for answer in job.answers():
                    results.put((number, names.index(answer.exit), answer.logits))
                    if stopped.value >= number:
                        job.stop()
            results.put((number, None, None))
    except KeyboardInterrupt:
        pass
    except BaseException:  # reported to the parent process
        results.put(traceback.format_exc())


@contextlib.contextmanager
def _environment(settings):
    """Sets environment variables for processes started within, which read them before any of our code runs.

    Other variables stay untouched, because other threads may read and set them meanwhile.
    """
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
