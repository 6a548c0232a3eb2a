"""What the command line does before Keras is imported.

TensorFlow prints messages to standard error at any log level, and leaves oneDNN off on CPUs without AVX512, where
training is faster with it.
"""

import contextlib
import os
import time

STARTED = time.monotonic()


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
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
with _without_stderr():
    import keras  # noqa: F401
