"""The reader's command, which measures an exported network."""

import argparse

import numpy as np

from anytime_keras.export.reader.exported import ExportedModel


def main():
    parser = argparse.ArgumentParser(description="Measures an exported anytime network on this machine.")
    parser.add_argument("path", nargs="?", help="the set's folder; by default that of this file")
    parser.add_argument("--batch_size", type=int, help="by default what the set was exported for, or 1")
    parser.add_argument("--deadline", type=float, help="seconds; tells which exit answers by then")
    parser.add_argument("--num_threads", type=int)
    args = parser.parse_args()
    model = ExportedModel(args.path, args.num_threads)
    size = args.batch_size or model.batch_size or 1
    inputs = model.description["inputs"]
    if any(None in spec["shape"][1:] for spec in inputs):
        parser.error("this set has inputs of open size. Measure it in Python: `ExportedModel(path).calibrate(x)`")
    x = {spec["key"]: np.zeros([size, *spec["shape"][1:]], spec["dtype"].replace("string", "U1")) for spec in inputs}
    seconds = np.cumsum(model.calibrate(x))
    print(f"{'exit':<16}{'MACs (millions)':>16}{'milliseconds':>16}")
    for cost, until in zip(model.costs, seconds):
        print(f"{cost.exit:<16}{cost.with_all_heads / 1e6:>16.3f}{1e3 * until:>16.3f}")
    if args.deadline is not None:
        answer = model.predict(x, args.deadline)
        print(f"by {args.deadline} s: {answer.exit} after {answer.seconds:.6f} s{', late' if answer.late else ''}")
