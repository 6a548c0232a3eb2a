"""Runs of a network that others can watch, wait for and stop, and the thread that computes them."""

import math
import numbers
import os
import queue
import threading
import time
import weakref

import numpy as np

from anytime_keras.inference import engines
from anytime_keras.inference.answers import as_array


def check_process(pid):
    """Raises unless this is the process `pid`: in a fork of it, the threads that compute are missing.

    Raises:
        RuntimeError: in a forked process.
    """
    if os.getpid() != pid:
        raise RuntimeError(
            f"A predictor works in the process that made it. Expected: process {pid}. Received: a call in its fork "
            f"{os.getpid()}, where the threads that compute are missing. Start processes with "
            "`multiprocessing.get_context('spawn')`, and make a predictor in each."
        )


class Job(engines.Run):
    """One run of a predictor in the background. Made by `Predictor.start`.

    Args:
        engine: `Engine` to run.
        inputs: what its first stage takes.
        answer: function from an exit's position, its logits and the seconds since `begin` to an `Answer`.
        first: int, see `Run`, or a function that returns it, called when the computation begins.
        last: int, see `Run`; so are `limit` and `needed`.
        begin: float, `time.perf_counter()` of the call that this is for.

    Example:
    >>> import anytime_keras as ak
    >>> model = ak.models.build("resann", num_units=1, channels=4, input_shape=(8, 8, 1), num_classes=10)
    >>> image = np.zeros((1, 8, 8, 1), "float32")
    >>> job = ak.Predictor(model, example=image).start(image)
    >>> job.wait(timeout=60).exit, job.done
    ('exit_3', True)
    """

    def __init__(self, engine, inputs, answer, first=0, last=None, limit=engines.ALWAYS, needed=None, begin=None):
        last = len(engine) - 1 if last is None else last
        super().__init__(first, last, limit, np.zeros(len(engine)) if needed is None else needed)
        self._engine, self._inputs, self._answer = engine, inputs, answer
        self._begin = time.perf_counter() if begin is None else begin
        self._started, self._pid = None, os.getpid()
        self._answers, self._error = [], None
        self._stopped = False
        self._changed, self._ended = threading.Condition(), threading.Event()

    @property
    def done(self):
        """Whether no better answer will come."""
        return self._ended.is_set()

    def latest(self):
        """Returns the best `Answer` so far, or None if there is none yet. Never blocks.

        Raises:
            Exception: what a stage raised, if one did.
        """
        if self._error is not None:
            raise self._error
        return self._answers[-1] if self._answers else None

    def wait(self, timeout=None):
        """Waits until the last answer is there, or `timeout` seconds; returns the best so far, or None.

        Raises:
            ValueError: if `timeout` is no number.
            Exception: what a stage raised, if one did.
        """
        if timeout is not None and (not isinstance(timeout, numbers.Real) or math.isnan(timeout)):
            raise ValueError(f"`timeout` must be a number of seconds, or None. Received: timeout={timeout!r}.")
        check_process(self._pid)
        # Not for `_changed`: to be woken by each answer would take the processor from the next stage.
        self._ended.wait(timeout if timeout is None else min(float(timeout), threading.TIMEOUT_MAX))
        return self.latest()

    def stop(self):
        """Has the computation end after the stage that it is in. Does not wait for that."""
        self._stopped = True
        self._engine.stop(self)

    def answers(self):
        """Yields all answers so far and then those to come, until the last."""
        told = 0
        while True:
            self._wait_for(lambda: len(self._answers) > told)
            self.latest()  # raises what a stage raised
            if told == len(self._answers):
                return
            yield self._answers[told]
            told += 1

    def wait_for_first(self):
        """Waits for any answer, or the end; returns the latest."""
        self._wait_for(lambda: self._answers)
        return self.latest()

    @property
    def waited(self):
        """Seconds from the call to the start of the computation, spent on those before it."""
        return self._started - self._begin

    @property
    def first_seconds(self):
        """Seconds from the start of the computation to the first answer, if there is one."""
        return self._answers[0].seconds - self.waited

    def _wait_for(self, event):
        check_process(self._pid)
        with self._changed:
            self._changed.wait_for(lambda: self.done or event())

    def emit(self, position, logits):
        answer = self._answer(position, as_array(logits).copy(), time.perf_counter() - self._begin)
        with self._changed:
            # Heads run beside later stages: an early answer can come after a better one, and is of no use then.
            if not self._answers or position > self._answers[-1].position:
                self._answers.append(answer)
            self._changed.notify_all()

    def run(self):
        """Computes, in whatever thread calls it; nothing if it was stopped before."""
        self._started = time.perf_counter()
        try:
            if not self._stopped:
                if callable(self.first):
                    self.first = self.first()
                self._engine.run(self._inputs, self)
        except BaseException as error:  # it reaches whoever asks for the answer
            self._error = error
        finally:
            with self._changed:
                self._ended.set()
                self._changed.notify_all()


class Worker:
    """Computes one job at a time, in the caller's thread or in one of its own.

    Attributes:
        lock: held while something is computed.
    """

    def __init__(self):
        self.lock = threading.Lock()
        self._jobs, self._thread, self._starting = queue.SimpleQueue(), None, threading.Lock()
        self._pid = os.getpid()

    def check_process(self):
        """Raises a RuntimeError in a fork of the process that made this worker."""
        check_process(self._pid)

    def here(self, job):
        """Runs a job in this thread, when it is its turn; returns it."""
        with self.lock:
            job.run()
        return job

    def later(self, job):
        """Has the worker's thread run a job after those before it; returns it at once."""
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
        del job  # it holds the predictor, and would keep it until the next one
