"""Compares MSDNet's training throughput with the published PyTorch code, and writes `results/throughput.json`.

    export ANYTIME_KERAS_MSDNET_PYTORCH=<checkout of https://github.com/kalviny/MSDNet-PyTorch>
    export ANYTIME_KERAS_TORCH_PYTHON=<a Python that has torch; this one by default>
    python -m tests.benchmarks.throughput

A step is forward, backward and SGD with momentum on one batch in memory, with the same network and batch size on both
sides. Each mode runs in a separate process. After a few steps of each mode, the fastest modes of both sides are
measured alternately, with our ResANN(9,16) beside them. `ratio` is ours over theirs in images per second; the target is
1.0 on a CPU and 1.2 on a GPU. `gflop_a_second` counts 6 FLOPs per MAC, image and step: 2 forward and 4 backward.
"""

import atexit
import json
import os
import pathlib
import signal
import subprocess
import sys

import numpy as np

from tests.benchmarks import measuring
from tests.faults import dying

CIFAR = dict(data="cifar10", growthRate=6, grFactor=[1, 2, 4], nChannels=16)
IMAGENET = dict(data="ImageNet", growthRate=16, grFactor=[1, 2, 4, 4], nChannels=32)
NETWORKS = {
    "msdnet_cifar_10exits": (64, dict(CIFAR, nBlocks=10, base=4, step=2, stepmode="even")),
    "msdnet_step4": (16, dict(IMAGENET, nBlocks=5, base=4, step=4, stepmode="even")),
}
TORCH_MODES = (
    "eager",
    "channels_last",
    "channels_last+bfloat16",
    "compile",
    "channels_last+compile",
    "channels_last+bfloat16+compile",
)
KERAS_MODES = (
    "tensorflow float32",
    "tensorflow float32+xla",
    "tensorflow mixed_bfloat16",
    "jax float32",
    "jax mixed_bfloat16",
)


class Worker:
    """A process that trains on request and is stopped in between, because waiting threads may still spin."""

    def __init__(self, command, environment=None):
        self._process = subprocess.Popen(
            command,
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **(environment or {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=dying.with_its_parent,  # a stopped process does not notice that this one ended
        )
        atexit.register(self.close)
        self.ready = self._line()

    def _line(self):
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"a worker ended with status {self._process.wait()}; its own words are above")
        return line

    def seconds(self, steps):
        self._process.send_signal(signal.SIGCONT)
        self._process.stdin.write(f"{steps}\n")
        self._process.stdin.flush()
        seconds = float(self._line())
        self._process.send_signal(signal.SIGSTOP)
        return seconds

    def close(self):
        self._process.kill()
        self._process.wait()


def torch_worker(mode, name):
    batch, config = NETWORKS[name]
    python = os.environ.get("ANYTIME_KERAS_TORCH_PYTHON", sys.executable)
    script = pathlib.Path(__file__).with_name("torch_worker.py")
    return Worker([python, script, os.environ["ANYTIME_KERAS_MSDNET_PYTORCH"], json.dumps(config), str(batch), mode])


def keras_worker(mode, name, batch=None):
    backend, precision = mode.split()
    batch = batch or NETWORKS[name][0]
    command = [sys.executable, "-m", "tests.benchmarks.keras_worker", name, str(batch), precision]
    return Worker(command, {"KERAS_BACKEND": backend})


def best(start, modes, name, steps):
    """Returns the worker of the fastest mode, and the seconds per step of each mode."""
    found, seconds = None, {}
    for mode in modes:
        try:
            worker = start(mode, name)
            worker.seconds(2)  # compiles
            seconds[mode] = min(worker.seconds(steps) for _ in range(3)) / steps
        except RuntimeError as error:
            seconds[mode] = str(error)
            continue
        print(f"{name}: {mode}: {seconds[mode]:.3f} s a step", file=sys.stderr, flush=True)
        if found is None or seconds[mode] < seconds[found[0]]:
            if found is not None:
                found[1].close()
            found = mode, worker
        else:
            worker.close()
    if found is None:
        raise RuntimeError(f"no mode of {modes} works: {seconds}")
    return found, seconds


def compare(name, flags):
    (our_mode, ours), our_seconds = best(keras_worker, flags.keras_modes.split(","), name, flags.steps)
    (their_mode, theirs), their_seconds = best(torch_worker, flags.torch_modes.split(","), name, flags.steps)
    resann = keras_worker(our_mode, "resann9x16", NETWORKS[name][0])
    resann.seconds(2)
    workers = {"ours": ours, "theirs": theirs, "resann9x16": resann}
    taken = {side: [] for side in workers}
    for _ in range(flags.turns):
        for side, worker in workers.items():
            taken[side].append(worker.seconds(flags.steps))
    images = flags.steps * NETWORKS[name][0]
    rates = {side: images / np.median(seconds) for side, seconds in taken.items()}
    macs = {side: int(worker.ready.split()[1]) for side, worker in workers.items() if side != "theirs"}
    for worker in workers.values():
        worker.close()
    return {
        "ratio": rates["ours"] / rates["theirs"],
        "images_a_second": rates,
        "gflop_a_second": {side: rates[side] * 6 * count / 1e9 for side, count in macs.items()},
        "batch_size": NETWORKS[name][0],
        "turns": flags.turns,
        "modes": {"ours": our_mode, "theirs": their_mode},
        "seconds_a_step_of_each_mode": {**our_seconds, **{f"torch {mode}": s for mode, s in their_seconds.items()}},
    }


def main():
    parser = measuring.parser(__doc__, seconds=0)
    parser.add_argument("--networks", default=",".join(NETWORKS))
    parser.add_argument("--keras_modes", default=",".join(KERAS_MODES))
    parser.add_argument("--torch_modes", default=",".join(TORCH_MODES))
    parser.add_argument("--steps", type=int, default=4, help="of a turn")
    parser.add_argument("--turns", type=int, default=10)
    flags = parser.parse_args()
    if "ANYTIME_KERAS_MSDNET_PYTORCH" not in os.environ:
        parser.error("set ANYTIME_KERAS_MSDNET_PYTORCH to a checkout of https://github.com/kalviny/MSDNet-PyTorch")
    python = os.environ.get("ANYTIME_KERAS_TORCH_PYTHON", sys.executable)
    version = subprocess.run(
        [python, "-c", "import torch; print(torch.__version__)"], stdout=subprocess.PIPE, text=True
    )
    table = {"torch": version.stdout.strip()}
    table.update((name, compare(name, flags)) for name in flags.networks.split(","))
    measuring.write("throughput", flags, table)


if __name__ == "__main__":
    main()
