"""A progress line in the terminal for work that takes more than two seconds."""

import contextlib
import sys
import time

QUIET_SECONDS = 2.0


def silent(step):
    """Shows nothing."""


class Progress(contextlib.AbstractContextManager):
    """Shows the current step in one line on stderr, if that is a terminal, once the work has taken `QUIET_SECONDS`.

    Use it as a context manager, which ends the line.

    Args:
        title: str, the start of the line.

    Example:
    >>> with Progress("Preparing") as progress:
    ...     progress("first step")
    """

    def __init__(self, title):
        self._title, self._begin, self._width = title, time.monotonic(), 0

    def __call__(self, step):
        """Announces the next step, a str."""
        seconds = time.monotonic() - self._begin
        if seconds < QUIET_SECONDS or not sys.stderr.isatty():
            return
        text = f"{self._title} ({step}) ..."
        sys.stderr.write("\r" * (self._width > 0) + text.ljust(self._width))
        sys.stderr.flush()
        self._width = len(text)

    def __exit__(self, *_):
        if self._width:
            sys.stderr.write(f" {time.monotonic() - self._begin:.1f} s\n")
