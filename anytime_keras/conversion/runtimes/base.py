"""The interface of runtimes and of the parts that they load."""

import importlib

MOST_THREADS = 1024  # runtimes start as many as asked for; a million blocks or ends the process


class Terminated(RuntimeError):
    """Raised by a run of a part that `Part.terminate` stopped."""


class Part:
    """A part of a network that is loaded in a runtime. Thread-safe.

    Args:
        spec: dict, the part's entry in an export's description: `"inputs"` and `"outputs"`, lists of dicts with
            `"name"`, `"shape"` and `"dtype"`, and `"signature"`, a str or None.

    Attributes:
        inputs: list of str, the names of the inputs, in order.
        outputs: list of str, the names of the outputs, in order.
    """

    def __init__(self, spec):
        self.inputs = [tensor["name"] for tensor in spec["inputs"]]
        self.outputs = [tensor["name"] for tensor in spec["outputs"]]

    def __call__(self, arrays):
        """Maps a list of arrays in the order of `inputs` to new arrays in that of `outputs`; may raise `Terminated`."""
        raise NotImplementedError

    def terminate(self):
        """Stops runs in progress, if the runtime can stop inside a part. Thread-safe."""

    def _check_names(self, inputs, outputs):
        """Checks that the file has the tensors of the description."""
        for expected, found in ((self.inputs, inputs), (self.outputs, outputs)):
            if sorted(found) != sorted(expected):
                raise ValueError(
                    f"A part and its description name different tensors: {sorted(found)} and {sorted(expected)}. "
                    "Export the network again."
                )


class Runtime:
    """Loads parts of a network, each with `num_threads` threads; None is the runtime's default."""

    def __init__(self, num_threads=None):
        check_num_threads(num_threads)
        self.num_threads = num_threads

    def load(self, source, spec, batch_size=None):
        """Loads a part, from a path or bytes, and returns a `Part`; its `spec` is as in `Part`.

        `batch_size` is the batch size to run; None is the part's own. Only LiteRT changes it; the parts of other
        runtimes either have a dynamic batch size or run with their own.
        """
        raise NotImplementedError


def check_num_threads(num_threads):
    """Raises ValueError unless a number of threads is None or an int in the range that runtimes can start."""
    if num_threads is not None and (type(num_threads) is not int or not 1 <= num_threads <= MOST_THREADS):
        raise ValueError(f"`num_threads` must be None or an int from 1 to {MOST_THREADS}. Received: {num_threads!r}.")


def installed(module, package):
    """Imports a runtime's module; the error contains the command that installs the package."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f"This needs {package}, which cannot be imported: `pip install {package}`.") from error
