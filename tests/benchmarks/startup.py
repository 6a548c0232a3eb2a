"""Measures how long `import anytime_keras` and `zoo.load` take, and writes `results/startup_<backend>.json`.

    python -m tests.benchmarks.startup                       # TensorFlow
    KERAS_BACKEND=jax python -m tests.benchmarks.startup     # JAX

Compares `import anytime_keras` with importing Keras and its backend, alternately and in a fresh process each time; the
target is a ratio of at most 1.15. Then measures `zoo.load` for each trained network, after all imports: verifying the
hash, building the network and assigning the weights.
"""

import keras
import numpy as np

import anytime_keras as ak
from tests.benchmarks import measuring

IMPORT = "import time; start = time.perf_counter(); import {}; print(time.perf_counter() - start)"
LOAD = """
import time, anytime_keras as ak
start = time.perf_counter(); ak.zoo.load({!r}); print(time.perf_counter() - start)
"""


def main():
    parser = measuring.parser(__doc__, seconds=0)
    parser.add_argument("--turns", type=int, default=7)
    flags = parser.parse_args()
    backend = keras.backend.backend()
    taken = {"keras": [], "anytime_keras": []}
    for _ in range(flags.turns + 1):
        for module, seconds in taken.items():
            seconds.append(measuring.in_process(["-c", IMPORT.format(module)], backend))
    taken = {module: seconds[1:] for module, seconds in taken.items()}  # the first reads the files from disk
    table = {"import": {**measuring.ratio(taken, "anytime_keras", "keras"), "turns": flags.turns}, "zoo.load": {}}
    for name in ak.zoo.list(trained=True):
        seconds = [measuring.in_process(["-c", LOAD.format(name)], backend) for _ in range(3)]
        table["zoo.load"][name] = {"seconds": np.median(seconds)}
    measuring.write(f"startup_{backend}", flags, table)


if __name__ == "__main__":
    main()
