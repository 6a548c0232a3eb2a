"""Runs a function in a fork of this process and kills the fork at a chosen moment.

TensorFlow survives a fork only while it has not begun to compute; Keras's NumPy backend does at any time, but cannot
convolve in it, since it does so with JAX.
"""

import ctypes
import dataclasses
import os
import pickle
import resource
import select
import signal
import sys
import tempfile
import time
import traceback

# Python's audit events of file operations, raised before each operation.
FILE_EVENTS = ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.chmod", "os.scandir", "os.truncate")
SECONDS = 240  # after these seconds, a child counts as stuck

PARENT_DEATH_SIGNAL = 1


@dataclasses.dataclass
class Moment:
    """When a process is killed, counted from the call of `arm`.

    Attributes:
        kind: "seconds" (SIGKILL from outside), "file" (SIGKILL at a file operation in the folder: open, rename, fsync,
            mkdir, ...), "call" (SIGKILL at a call of a Python or built-in function), "byte" (SIGXFSZ, which kills
            likewise, in the middle of a write that reaches so many bytes into a file).
        at: float or int, the seconds, or the number of the operation, call or byte.
    """

    kind: str
    at: float

    def __str__(self):
        return f"{self.kind} {self.at:.3f}" if self.kind == "seconds" else f"{self.kind} {self.at}"


@dataclasses.dataclass
class End:
    """How a child process ended.

    Attributes:
        signal: int, the signal that killed it, or 0.
        result: what its function returned; None if it was killed or failed.
        error: str, its traceback, or "".
        seconds: float, from `arm` to the end.
    """

    signal: int
    result: object
    error: str
    seconds: float


def with_its_parent():
    """Lets Linux kill this process when its parent ends for any reason."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PARENT_DEATH_SIGNAL, signal.SIGKILL)


def run(deed, folder=None, moment=None, most=SECONDS):
    """Runs `deed(arm)` in a fork and kills it at the moment after it called `arm`.

    Args:
        deed: function of one argument, a function that starts the count of the moment.
        folder: where file operations count.
        moment: `Moment` or None.
        most: float, seconds after which it counts as stuck.

    Returns:
        An `End`.
    """
    armed, arming = os.pipe()
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as answer:
        sys.stdout.flush()
        pid = os.fork()
        if pid == 0:
            os.close(armed)
            with_its_parent()
            _child(deed, folder, moment, arming, output, answer)
        os.close(arming)
        begun, status, stuck = _wait(pid, armed, moment, most)
        os.close(armed)
        seconds = time.monotonic() - begun
        output.seek(0)
        answer.seek(0)
        text, content = output.read().decode(errors="replace"), answer.read()
        killed = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        failed = not killed and os.WEXITSTATUS(status) != 0
        result = pickle.loads(content) if content and not killed and not failed else None
        error = f"stuck for {most} seconds, {text[-3000:]}" if stuck else text[-3000:] if failed else ""
        return End(killed, result, error, seconds)


def in_child(function, *arguments, most=SECONDS):
    """Runs a function in a fork and returns its result; raises with its printed output if it failed."""
    end = run(lambda arm: function(*arguments), most=most)
    assert not end.error and not end.signal, f"signal {end.signal}, {end.error}"
    return end.result


def _child(deed, folder, moment, arming, output, answer):
    code = 1
    try:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
        result = deed(lambda: _arm(folder, moment, arming))
        sys.setprofile(None)
        resource.setrlimit(resource.RLIMIT_FSIZE, resource.getrlimit(resource.RLIMIT_FSIZE)[1:] * 2)
        pickle.dump(result, answer)
        answer.flush()
        code = 0
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(code)


def _arm(folder, moment, arming):
    os.write(arming, b"!")
    if moment is None or moment.kind == "seconds":
        return
    if moment.kind == "byte":
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(moment.at), resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
        return
    left = [moment.at]

    def count(*_):
        left[0] -= 1
        if left[0] <= 0:
            os.kill(os.getpid(), signal.SIGKILL)

    _listen(moment.kind, folder, count)


def _listen(kind, folder, count):
    """Calls `count()` before each file operation in a folder, or before each function call."""
    if kind == "call":
        sys.setprofile(lambda frame, event, argument: count() if event in ("call", "c_call") else None)
        return
    place, fsync = str(folder), os.fsync

    def hear(event, arguments):
        if event in FILE_EVENTS and isinstance(arguments[0], (str, os.PathLike)):
            if os.fspath(arguments[0]).startswith(place):
                count()

    def counted_fsync(descriptor):
        count()
        fsync(descriptor)

    sys.addaudithook(hear)  # stays until the child's end
    os.fsync = counted_fsync


def measure(deed, folder, kind):
    """Returns the range of moments of a kind: the deed's seconds, file operations or calls."""
    if kind == "seconds":
        end = run(deed)
        result = end.seconds
    else:

        def counting(arm):
            number = [0]

            def count(*_):
                number[0] += 1

            def begin():
                arm()
                _listen(kind, folder, count)

            deed(begin)
            sys.setprofile(None)
            return number[0]

        end = run(counting)
        result = end.result
    if end.error or end.signal:
        raise RuntimeError(f"The deed fails without a fault: signal {end.signal}, {end.error}")
    return result


def _wait(pid, armed, moment, most):
    """Waits for the child, and kills it at its moment or if it is stuck.

    Returns:
        When it was armed, its status, and whether it was stuck.
    """
    limit = time.monotonic() + most
    ready, _, _ = select.select([armed], [], [], most)
    begun = time.monotonic()
    due = limit
    if ready and os.read(armed, 1) and moment is not None and moment.kind == "seconds":
        due = begun + moment.at
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return begun, status, time.monotonic() > limit
        if time.monotonic() > min(due, limit):
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.001)
