"""The reader's command, which measures an exported network."""

import argparse
import sys

import numpy as np

from anytime_keras.export.reader.exported import ExportedModel


def main():
    parser = argparse.ArgumentParser(description="Measures an exported anytime network on this machine.")
    parser.add_argument("path", nargs="?", help="the export's folder; by default that of this file")
    parser.add_argument("--batch_size", type=int, help="by default that of the export, or 1")
    parser.add_argument("--deadline", type=float, help="seconds; shows which exit answers by then")
    parser.add_argument("--num_threads", type=int)
    try:
        _measure(parser.parse_args())
    except (ValueError, ImportError) as error:
        sys.exit(str(error))


def _measure(args):
    """Prints the milliseconds until each exit, and which exit answers by the deadline."""
    model = ExportedModel(args.path, args.num_threads)
    size = model.batch_size or 1 if args.batch_size is None else args.batch_size
    inputs = model.description["inputs"]
    if any(None in spec["shape"][1:] for spec in inputs):
        raise ValueError("The inputs have unknown sizes. Measure in Python: `ExportedModel(path).calibrate(x)`.")
    x = {spec["key"]: np.zeros([size, *spec["shape"][1:]], spec["dtype"].replace("string", "U1")) for spec in inputs}
    seconds = np.cumsum(model.calibrate(x))
    print(f"{'exit':<16}{'MACs (millions)':>16}{'milliseconds':>16}")
    for cost, until in zip(model.costs, seconds):
        print(f"{cost.exit:<16}{cost.with_all_heads / 1e6:>16.3f}{1e3 * until:>16.3f}")
    if args.deadline is not None:
        answer = model.predict(x, args.deadline)
        print(f"by {args.deadline} s: {answer.exit} after {answer.seconds:.6f} s{', late' if answer.late else ''}")
