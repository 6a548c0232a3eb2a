"""Runs the benchmarks one after the other, each in a separate process, and writes their tables to results/.

    python -m tests.benchmarks                              # all
    python -m tests.benchmarks --only weighting,startup

Close other programs first. Ratios compare alternating measurements, but deadlines depend on the load. Benchmarks that
fail, or lack a requirement (see `throughput`), are listed at the end. `raw_images` and `finetuning`, which measure
accuracy rather than speed, need files of images and are run by themselves.
"""

import argparse
import os
import subprocess
import sys

BENCHMARKS = {
    "weighting": ("tensorflow", "jax"),
    "throughput": ("tensorflow",),  # starts processes of all backends itself
    "pipeline": ("tensorflow",),
    "startup": ("tensorflow", "jax"),
    "memory": ("tensorflow", "jax"),
    "inference": ("tensorflow", "jax"),
    "engines": ("tensorflow",),
    "deadlines": ("tensorflow",),
    "serving": ("tensorflow",),
    "soak": ("tensorflow",),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(BENCHMARKS), help="comma-separated names")
    parser.add_argument("--note", default="", help="a note for the results, such as what else was running")
    flags = parser.parse_args()
    failed = []
    for name in flags.only.split(","):
        if name not in BENCHMARKS:
            parser.error(f"no benchmark {name!r}; there are {', '.join(BENCHMARKS)}")
        for backend in BENCHMARKS[name]:
            print(f"{name} on {backend}", flush=True)
            command = [sys.executable, "-m", f"tests.benchmarks.{name}", "--note", flags.note]
            if subprocess.run(command, env={**os.environ, "KERAS_BACKEND": backend}).returncode:
                failed.append(f"{name} on {backend}")
    sys.exit(f"failed: {', '.join(failed)}" if failed else 0)


if __name__ == "__main__":
    main()
