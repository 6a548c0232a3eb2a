"""Runs the benchmarks one after the other, each in a process of its own, and writes their tables to results/.

    python -m tests.benchmarks                              # all
    python -m tests.benchmarks --only weighting,startup

Close what else runs on the machine first: ratios are of turns taken side by side, but deadlines are the clock's. A
benchmark that fails, or misses what it needs (`throughput`: see there), is told at the end.
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
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(BENCHMARKS), help="names, comma-separated")
    parser.add_argument("--note", default="", help="what else to write down, such as what ran beside")
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
