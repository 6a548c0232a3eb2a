"""Background jobs that can be observed, awaited and stopped, and the worker thread that runs them."""

import os
import queue
import threading
import time
import weakref

import numpy as np

from anytime_keras._checks import check_limit
from anytime_keras._forks import check_process
from anytime_keras.inference import engines
from anytime_keras.inference.answers import as_array


class Job(engines.Run):
    """A background run of a predictor, created by `Predictor.start`.

    Args:
        engine: `Engine` to run.
        inputs: inputs of the first stage.
        answer: function from an exit's position, its logits and the seconds since `begin` to an `Answer`.
        first: int, see `Run`; or a function that returns it, called when the computation begins.
        limit, needed: see `Run`.
        begin: float, `time.perf_counter()` at the start of the caller's request.

    Example:
    >>> import anytime_keras as ak
    >>> model = ak.models.build("resann", num_units=1, channels=4, input_shape=(8, 8, 1), num_classes=10)
    >>> image = np.zeros((1, 8, 8, 1), "float32")
    >>> job = ak.Predictor(model, example=image).start(image)
    >>> job.wait(timeout=60).exit, job.done
    ('exit_3', True)
    """

    def __init__(self, engine, inputs, answer, first=0, limit=engines.ALWAYS, needed=None, begin=None):
        super().__init__(first, len(engine) - 1, limit, np.zeros(len(engine)) if needed is None else needed)
        self._engine, self._inputs, self._answer = engine, inputs, answer
        self._begin = time.perf_counter() if begin is None else begin
        self._started, self._pid = None, os.getpid()
        self._answers, self._error = [], None
        self._stopped = False
        self._changed, self._ended = threading.Condition(), threading.Event()

    @property
    def done(self):
        """Whether the job has ended, so that no better answer will follow."""
        return self._ended.is_set()

    def latest(self):
        """Returns the best `Answer` so far, or None if there is none yet. Never blocks.

        Raises:
            Exception: any exception raised by a stage.
        """
        if self._error is not None:
            raise self._error
        return self._answers[-1] if self._answers else None

    def wait(self, timeout=None):
        """Waits for the job to end, at most `timeout` seconds; returns the best answer so far, or None.

        Raises:
            ValueError: if `timeout` is not a number.
            Exception: any exception raised by a stage.
        """
        check_limit("timeout", timeout)
        check_process(self._pid)
        # Do not wait for `_changed`: waking up at each answer would take the processor from the next stage.
        self._ended.wait(timeout if timeout is None else min(float(timeout), threading.TIMEOUT_MAX))
        return self.latest()

    def stop(self):
        """Stops the computation after its current stage. Does not block."""
        self._stopped = True
        self._engine.stop(self)

    def answers(self):
        """Yields the answers so far, then each new answer until the job ends."""
        told = 0
        while True:
            self._wait_for(lambda: len(self._answers) > told)
            self.latest()  # raises what a stage raised
            if told == len(self._answers):
                return
            yield self._answers[told]
            told += 1

    def stream(self):
        """As `answers`; stops the job when the caller asks for no more."""
        try:
            yield from self.answers()
        finally:
            self.stop()

    def wait_for_first(self):
        """Waits for the first answer or the end of the job; returns the latest answer, or None."""
        self._wait_for(lambda: self._answers)
        return self.latest()

    @property
    def waited(self):
        """Seconds in the queue, from the call to the start of the computation."""
        return self._started - self._begin

    @property
    def first_seconds(self):
        """Seconds from the start of the computation to the first answer."""
        return self._answers[0].seconds - self.waited

    def _wait_for(self, event):
        check_process(self._pid)
        with self._changed:
            self._changed.wait_for(lambda: self.done or event())

    def emit(self, position, logits):
        answer = self._answer(position, as_array(logits).copy(), time.perf_counter() - self._begin)
        with self._changed:
            # Heads run in parallel with later stages, so an answer can arrive after a better one. Drop it then.
            if not self._answers or position > self._answers[-1].position:
                self._answers.append(answer)
            self._changed.notify_all()

    def run(self):
        """Runs the job in the calling thread, unless it was stopped before."""
        self._started = time.perf_counter()
        try:
            if not self._stopped:
                if callable(self.first):
                    self.first = self.first()
                self._engine.run(self._inputs, self)
        except BaseException as error:  # raised again in the thread that asks for the answer
            self._error = error
        finally:
            with self._changed:
                self._ended.set()
                self._changed.notify_all()


class Worker:
    """Runs one job at a time, in the caller's thread or in a worker thread.

    Attributes:
        lock: held during each computation.
    """

    def __init__(self):
        self.lock = threading.Lock()
        self._jobs, self._thread, self._starting = queue.SimpleQueue(), None, threading.Lock()
        self._pid = os.getpid()

    def check_process(self):
        """Raises a RuntimeError in a fork of the process that made this worker."""
        check_process(self._pid)

    def run(self, engine, inputs, run):
        """Runs an engine in the calling thread, once the lock is free.

        Args:
            engine: `Engine`.
            inputs: inputs of the first stage.
            run: `engines.Latest`.
        """
        with self.lock:
            run.began = time.perf_counter()
            engine.run(inputs, run)

    def later(self, job):
        """Queues a job for the worker thread and returns it immediately."""
        with self._starting:
            if self._thread is None:
                self._thread = threading.Thread(target=_work, args=(self._jobs, self.lock), daemon=True)
                self._thread.start()
                weakref.finalize(self, self._jobs.put, None)
        self._jobs.put(job)
        return job


def _work(jobs, lock):
    while (job := jobs.get()) is not None:
        with lock:
            job.run()
        del job  # it references the predictor, which would stay alive until the next job
