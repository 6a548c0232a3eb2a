"""Helpers of the benchmarks: alternating measurements, ratios of medians, and result files."""

import argparse
import json
import os
import pathlib
import shlex
import subprocess
import sys
import time

import numpy as np

from anytime_keras import runtime
from tests.benchmarks import page

RESULTS = pathlib.Path(__file__).parent / "results"


def in_turns(functions, seconds, least=10):
    """Runs functions (a dict) alternately, and returns a dict of lists of their seconds."""
    for function in functions.values():  # compile
        function()
        function()
    taken = {name: [] for name in functions}
    begin = time.perf_counter()
    order = list(functions)
    while time.perf_counter() - begin < seconds or len(taken[order[0]]) < least:
        for name in order:
            start = time.perf_counter()
            functions[name]()
            taken[name].append(time.perf_counter() - start)
        order.append(order.pop(0))  # so that no function always follows the same one
    return taken


def ratio(taken, ours, theirs):
    """Compares medians and the fastest times, because times of the same network may vary by a factor of 2."""
    fastest = min(taken[ours]) / min(taken[theirs])
    ours, theirs = np.median(taken[ours]), np.median(taken[theirs])
    return {"ratio": ours / theirs, "ratio_of_fastest": fastest, "seconds": ours, "reference_seconds": theirs}


def parser(doc, seconds):
    """Returns a parser with the common flags of the benchmarks."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--seconds", type=float, default=seconds, help="of each measurement, about")
    made.add_argument("--out", type=pathlib.Path, default=None, help="a JSON file; by default in results/")
    own = map(str, pathlib.Path(__file__).parent.glob("*.py"))
    made.set_defaults(commit=runtime.commit(*own))  # recorded now, because it may change during the run
    made.add_argument("--note", default="", help="what else to write down, such as what ran beside")
    return made


def write(name, flags, table):
    """Writes and prints a benchmark's table, with the machine that it was measured on."""
    own = {key: value for key, value in vars(flags).items() if key not in ("out", "note", "commit")}
    command = ["python", "-m", f"tests.benchmarks.{name.partition('_')[0]}"]
    command += [f"--{key}={_portable(value)}" for key, value in own.items() if value is not None]
    head = {"command": shlex.join(command), "commit": flags.commit}
    head.update(machine=runtime.machine(), load=os.getloadavg(), note=flags.note)
    out = flags.out or RESULTS / f"{name}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({**head, **table}, indent=1, default=float)
    out.write_text(text + "\n")
    print(text)
    if flags.out is None:
        page.write()


def _portable(value):
    """Returns a flag's value, without the directory if it is an absolute path, which differs between machines.

    >>> _portable("/data/cifar10.npz"), _portable(2.0)
    ('cifar10.npz', 2.0)
    """
    return os.path.basename(value) if os.path.isabs(str(value)) else value


def in_process(arguments, backend=None):
    """Runs `python arguments...` in a separate process and returns the JSON in its last line of output."""
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **({"KERAS_BACKEND": backend} if backend else {})}
    done = subprocess.run([sys.executable, *arguments], env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.strip().splitlines()[-1])
