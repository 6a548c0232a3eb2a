"""Injects every fault and prints how often each was tried and survived.

    python -m tests.faults [--kills 100] [--seed N] [--only PART] [--share 1.0] [--report FILE.json]

Each backend's faults run in a process of their own. `--kills` is the number of processes killed by SIGKILL in training,
saving, downloading and publishing together; `--share` multiplies the counts of all else; `--only` takes a part of
a fault's name and may come several times. Ends with status 1 if anything was found.
"""

import argparse
import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import subprocess
import sys
import tempfile
import time
import traceback
import zlib

from tests.faults import catalog
from tests.faults.tally import Tally

PACKAGES = ("anytime-keras", "keras", "tensorflow", "jax", "numpy", "h5py", "pillow", "hypothesis")


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--share", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=None, help="default: another one each time")
    parser.add_argument("--only", action="append", default=[])
    parser.add_argument("--exactly", action="append", default=[], help="a fault's whole name; may come several times")
    parser.add_argument("--report")
    parser.add_argument("--inline", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.seed is None:
        options.seed = int.from_bytes(os.urandom(3), "big")
    names = [
        name
        for name in catalog.FAULTS
        if name in options.exactly or any(part in name for part in options.only) or not options.only + options.exactly
    ]
    if not names:
        parser.error(f"there is no such fault; known: {', '.join(catalog.FAULTS)}")
    if options.inline:
        results = run_here(names, options)
    else:
        print(f"seed {options.seed}")
        results = run_apart(names, options)
    if options.report:
        report = {"faults": results} if options.inline else {**about(options), "faults": results}
        pathlib.Path(options.report).write_text(json.dumps(report, indent=1) + "\n")
    if not options.inline:
        print(f"\n{table(results)}")
        return 1 if any(not passed(result) for result in results.values()) else 0


def run_here(names, options):
    """Runs faults in this process."""
    import numpy as np

    results = {}
    for name in names:
        begin = time.monotonic()
        rng = np.random.default_rng([options.seed, zlib.crc32(name.encode())])  # the same with and without `--only`
        try:
            tally = catalog.run(name, catalog.count_of(name, options.kills, options.share), rng)
        except Exception:
            tally = Tally(found=[f"the suite itself failed: {traceback.format_exc()[-1500:]}"])
        seconds = round(time.monotonic() - begin, 1)
        results[name] = dict(vars(tally), backend=catalog.FAULTS[name][0], seconds=seconds)
        print(f"{name}: {tally.survived} of {tally.tried} survived, {seconds} s", flush=True)
        for text in tally.found:
            print(f"  FOUND {text}", flush=True)
    return results


def run_apart(names, options):
    """Runs the faults of each backend in a separate process."""
    results = {}
    for backend in sorted({catalog.FAULTS[name][0] for name in names}, reverse=True):
        own = [name for name in names if catalog.FAULTS[name][0] == backend]
        with tempfile.TemporaryDirectory() as folder:
            report = pathlib.Path(folder) / "report.json"
            command = [sys.executable, "-m", "tests.faults", "--inline", f"--report={report}"]
            command += [f"--kills={options.kills}", f"--share={options.share}", f"--seed={options.seed}"]
            environment = {
                **os.environ,
                "KERAS_BACKEND": backend,
                "JAX_PLATFORMS": "cpu",
                "CUDA_VISIBLE_DEVICES": "-1",
                "TF_CPP_MIN_LOG_LEVEL": "3",
                "OPENBLAS_NUM_THREADS": "1",
            }
            ended = subprocess.run([*command, *(f"--exactly={name}" for name in own)], env=environment)
            if report.exists():
                results.update(json.loads(report.read_text())["faults"])
            for name in own:
                lost = {"tried": 0, "survived": 0, "found": [f"its process ended with {ended.returncode}"], "notes": []}
                results.setdefault(name, {**lost, "backend": backend, "seconds": 0})
    return {name: results[name] for name in names}


def passed(result):
    return result["tried"] > 0 and result["survived"] == result["tried"] and not result["found"]


def table(results):
    width = max(map(len, results))
    lines = [f"{'fault':<{width}} {'tried':>6} {'survived':>9} {'seconds':>8}  found"]
    for name, result in results.items():
        found = "nothing" if passed(result) else f"{len(result['found'])}: {' '.join(result['found'][:1])[:100]}"
        lines.append(f"{name:<{width}} {result['tried']:>6} {result['survived']:>9} {result['seconds']:>8.1f}  {found}")
    killed = sum(result["tried"] for name, result in results.items() if name.startswith("killed"))
    lines.append(f"{killed} processes killed by SIGKILL")
    return "\n".join(lines)


def about(options):
    """Returns the machine, the versions and the date."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            pass
    with open("/proc/cpuinfo") as file:
        processors = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
    return {
        "options": {"kills": options.kills, "share": options.share, "seed": options.seed},
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "versions": versions,
        "hardware": {"processor": f"{len(processors)} x {processors[0]}", "system": platform.platform()},
        "file_system": f"{tempfile.gettempdir()}",
    }


if __name__ == "__main__":
    sys.exit(main())
