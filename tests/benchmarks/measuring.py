"""What the benchmarks share: functions that take turns, ratios of their medians, the file that a table goes to."""

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
    """Returns a list of the seconds of each function (a dict), which take turns."""
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
        order.append(order.pop(0))  # so that none comes after the same one always
    return taken


def ratio(taken, ours, theirs):
    """Compares medians, and the fastest turns: of one network alike, some turns take twice as long as others."""
    fastest = min(taken[ours]) / min(taken[theirs])
    ours, theirs = np.median(taken[ours]), np.median(taken[theirs])
    return {"ratio": ours / theirs, "ratio_of_fastest": fastest, "seconds": ours, "reference_seconds": theirs}


def parser(doc, seconds):
    """Returns a parser with the flags that all benchmarks have."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--seconds", type=float, default=seconds, help="of each measurement, about")
    made.add_argument("--out", type=pathlib.Path, default=None, help="a JSON file; by default in results/")
    own = map(str, pathlib.Path(__file__).parent.glob("*.py"))
    made.set_defaults(commit=runtime.commit(*own))  # what is about to run; there may be another by the end
    made.add_argument("--note", default="", help="what else to write down, such as what ran beside")
    return made


def write(name, flags, table):
    """Writes and prints a benchmark's table, with what it was measured on."""
    own = {key: value for key, value in vars(flags).items() if key not in ("out", "note", "commit")}
    command = ["python", "-m", f"tests.benchmarks.{name.partition('_')[0]}"]
    command += [f"--{key}={value}" for key, value in own.items() if value is not None]
    head = {"command": shlex.join(command), "commit": flags.commit}
    head.update(machine=runtime.machine(), load=os.getloadavg(), note=flags.note)
    out = flags.out or RESULTS / f"{name}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({**head, **table}, indent=1, default=float)
    out.write_text(text + "\n")
    print(text)
    if flags.out is None:
        page.write()


def in_process(arguments, backend=None):
    """Runs `python arguments...` in a process of its own and returns the JSON in the last line that it prints."""
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **({"KERAS_BACKEND": backend} if backend else {})}
    done = subprocess.run([sys.executable, *arguments], env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.strip().splitlines()[-1])
