"""Raises KeyboardInterrupt after some time, like a notebook's Stop button."""

import signal


def interrupt(function, seconds):
    """Runs a function; returns whether it was interrupted after the seconds."""

    def stop(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        function()
        return False
    except KeyboardInterrupt:
        return True
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
