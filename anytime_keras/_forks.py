"""Detects forks in which a backend can no longer compute. Exports ship this module."""

import os
import threading

_PID = os.getpid()  # of the process that imported this module


def check_process(pid, what="A predictor"):
    """Raises a RuntimeError unless this is the process `pid`, as in a fork, which lacks that one's threads."""
    if os.getpid() != pid:
        raise RuntimeError(
            f"{what} works only in the process that made it. Expected: process {pid}. Received: a call in its fork "
            f"{os.getpid()}, where the threads that compute are missing. Start processes with "
            "`multiprocessing.get_context('spawn')`, and make a new one in each."
        )


def check_fork(compute, backend, seconds=5.0):
    """Raises a RuntimeError if this process is a fork in which the function `compute` does not end within `seconds`.

    TensorFlow and JAX compute in threads, which a fork of a process that has used them lacks.
    """
    if os.getpid() == _PID:
        return
    ended = threading.Event()
    threading.Thread(target=lambda: (compute(), ended.set()), daemon=True).start()
    if not ended.wait(seconds):
        raise RuntimeError(
            f"Process {os.getpid()}, a fork of process {_PID}, cannot compute, because a fork lacks the threads of "
            f"{backend}. Start processes with `multiprocessing.get_context('spawn')`, or fork before the first "
            "computation."
        )
