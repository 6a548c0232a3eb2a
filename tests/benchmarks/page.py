"""Lays the benchmarks' numbers beside what was aimed at: `results/README.md`, made anew by every benchmark.

python -m tests.benchmarks.page
"""

import json
import operator
import pathlib

FOLDER = pathlib.Path(__file__).parent / "results"

MOST, LEAST = operator.le, operator.ge
WEIGHTING = "a training step with AdaLoss over one with constant weights, {} exits"


def faster(content):
    """The aim of throughput: on a CPU as fast as the published code, on a GPU faster."""
    on_cpu = all("cpu" in device.lower() for device in content["machine"]["devices"])
    return LEAST, 1.0 if on_cpu else 1.2


# File, way to the number in it, what it is, and the aim (None for none, or a function of the file's content); the
# benchmark's docstring says how it is measured.
ROWS = [
    *[
        (f"weighting_{backend}", (f"{exits}_exits", *way, "ratio"), WEIGHTING.format(exits) + more, (MOST, 1.01))
        for backend, ways in (
            ("tensorflow", [(("adaloss",), "")]),
            ("jax", [(("adaloss",), ", Keras's `fit`"), (("scan",), ", an epoch as one program")]),
        )
        for way, more in ways
        for exits in (5, 27, 51)
    ],
    *[
        (
            f"weighting_{backend}",
            (f"{exits}_exits", "again", "ratio"),
            f"constant weights over the same once more, {exits} exits: how far from 1 equal things come out",
            None,
        )
        for backend in ("tensorflow", "jax")
        for exits in (5, 27, 51)
    ],
    *[
        ("throughput", (network, "ratio"), f"images a second of training `{network}` over the published code's", faster)
        for network in ("msdnet_cifar_10exits", "msdnet_step4")
    ],
    *[
        ("pipeline_tensorflow", (kind, "ratio"), f"images read over images trained: {kind}", (LEAST, 2.0))
        for kind in ("arrays", "folder", "ilsvrc")
    ],
    *[
        (f"startup_{backend}", ("import", "ratio"), "time of `import anytime_keras` over importing Keras", (MOST, 1.15))
        for backend in ("tensorflow", "jax")
    ],
    *[
        (f"memory_{backend}", ("ratio",), "memory of a training step with 27 exits over one exit", None)
        for backend in ("tensorflow", "jax")
    ],
]


def lines(folder):
    """Yields the table's rows, of what was measured."""
    for name, way, what, aim in ROWS:
        path = folder / f"{name}.json"
        content = json.loads(path.read_text()) if path.exists() else {}
        number = content
        for key in way:
            number = number.get(key, {})
        if number == {}:
            yield f"| {what} | {name} | not measured | | |"
            continue
        wanted = ""
        if aim is not None:
            within, limit = aim(content) if callable(aim) else aim
            bound = "at most" if within is MOST else "at least"
            wanted = f"{bound} {limit:g}, {'met' if within(number, limit) else 'missed'}"
        commit, changed, _ = (content.get("commit") or "").partition("+changes")
        when = f"{content['machine']['date']} {commit[:7]}{changed}"
        yield f"| {what} | [{name}]({path.name}) | {number:.4g} | {wanted} | {when} |"


def notes(folder):
    """Yields what was noted when it was measured."""
    for path in sorted(folder.glob("*.json")):
        if note := json.loads(path.read_text()).get("note"):
            yield f"- {path.stem}: {note}."


def write(folder=FOLDER):
    head = [
        "# What was measured, and what was aimed at",
        "",
        "Made by `python -m tests.benchmarks.page` from the files beside this page, which tell the command, the",
        "machine and its load. A ratio of times is of medians of turns, taken side by side in one run. Deadlines,",
        "early exit and `zoo.load` are in the files alone.",
        "",
        "| what | file | measured | aim | when |",
        "| --- | --- | ---: | --- | --- |",
    ]
    page = folder / "README.md"
    page.write_text("\n".join([*head, *lines(folder), "", *notes(folder)]) + "\n")
    return page


if __name__ == "__main__":
    print(write().read_text())
