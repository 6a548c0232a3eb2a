"""Imports Keras without the greetings that TensorFlow's libraries write to standard error, whatever its log level."""

import contextlib
import os


@contextlib.contextmanager
def _without_stderr():
    kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)


os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
with _without_stderr():
    import keras  # noqa: F401
