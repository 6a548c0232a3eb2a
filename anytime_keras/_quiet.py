"""What the command line does before Keras is imported.

TensorFlow prints messages to standard error at any log level, and leaves oneDNN off on CPUs without AVX512, where
training is faster with it.
"""

import os
import time

STARTED = time.monotonic()


os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
_kept, _nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
os.dup2(_nothing, 2)
try:
    import keras  # noqa: F401
finally:
    os.dup2(_kept, 2)
    os.close(_kept)
    os.close(_nothing)
