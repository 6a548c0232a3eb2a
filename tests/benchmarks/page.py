"""Lays the benchmarks' numbers beside what was aimed at: `results/README.md`, made anew by every benchmark.

python -m tests.benchmarks.page
"""

import json
import operator
import pathlib

FOLDER = pathlib.Path(__file__).parent / "results"

MOST, LEAST = operator.le, operator.ge
STEP, THROUGHPUT_CPU, THROUGHPUT_GPU = 1.01, 1.0, 1.2  # aims
WEIGHTING = "a training step with AdaLoss over one with constant weights, {} exits"


def faster(content):
    """The aim of throughput: on a CPU as fast as the published code, on a GPU faster."""
    on_cpu = all("cpu" in device.lower() for device in content["machine"]["devices"])
    return LEAST, THROUGHPUT_CPU if on_cpu else THROUGHPUT_GPU


def told_from_noise(exits):
    """The aim of weighting: noise is how far from 1 the same thing comes out twice, in the same run."""
    return lambda content: (MOST, STEP, abs(content[f"{exits}_exits"]["again"]["ratio"] - 1))


# File, way to the number in it, what it is, and the aim (None for none, or a function of the file's content); the
# benchmark's docstring says how it is measured.
ROWS = [
    *[
        (
            f"weighting_{backend}",
            (f"{exits}_exits", *way, "ratio"),
            WEIGHTING.format(exits) + more,
            told_from_noise(exits),
        )
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
        (
            "weighting_tensorflow",
            (f"{exits}_exits", "host", "ratio"),
            f"the naive way, a callback that assigns weights after each batch, over constant weights, {exits} exits",
            None,
        )
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
        (f"memory_{backend}", ("ratio",), f"memory of a training step with 27 exits over one exit, {what}", None)
        for backend, what in (("tensorflow", "by the process's peak"), ("jax", "by what XLA sets aside"))
    ],
    *[
        (f"inference_{backend}", way, what, aim)
        for backend in ("tensorflow", "jax")
        for batch, images in (("batch_1", "1 image"), ("batch_32", "32 images"))
        for way, what, aim in (
            ((batch, "staged_over_whole", "ratio"), f"8 answers over one graph with all 8, {images}", (MOST, 1.05)),
            (
                (batch, "direct_over_plain", "median_ratio"),
                f"straight to an exit over a plain model of it, {images}",
                (MOST, 1.03),
            ),
            (("deadlines", "alone", batch, "met"), f"share of deadlines met, {images}", (LEAST, 0.999)),
            (
                ("deadlines", "alone", batch, "deepest"),
                f"share of answers as deep as there was time for, {images}",
                (LEAST, 0.95),
            ),
        )
    ],
    *[
        (
            f"inference_{backend}",
            ("early_exit", "ratio"),
            "speed-up by early exit over that in multiply-accumulates",
            (LEAST, 0.8),
        )
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
            within, limit, *noise = aim(content) if callable(aim) else aim
            bound = "at most" if within is MOST else "at least"
            wanted = f"{bound} {limit:g}, {verdict(within, number, limit, *noise)}"
        commit, changed, _ = (content.get("commit") or "").partition("+changes")
        when = f"{content['machine']['date']} {commit[:7]}{changed}"
        yield f"| {what} | [{name}]({path.name}) | {number:.4g} | {wanted} | {when} |"


def verdict(within, number, limit, noise=0.0):
    """Whether an aim was met, as far as noise lets one tell."""
    ends = {within(number + noise, limit), within(number - noise, limit)}
    return "not told from noise" if len(ends) > 1 else "met" if ends == {True} else "missed"


def devices(folder):
    """A sentence that tells what the files were measured on."""
    found = [json.loads(path.read_text())["machine"]["devices"] for path in folder.glob("*.json")]
    kinds = sorted({device.split(":")[0].lower() for each in found for device in each})
    aims = f"{STEP:g} for a step with AdaLoss and {THROUGHPUT_GPU:g} for throughput"
    none = f" The aims for a GPU, {aims}, are not measured." if kinds == ["cpu"] else ""
    return f"Measured on: {', '.join(kinds)}.{none}"


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
        "machine and its load. A ratio of times is of medians of turns, taken side by side in one run. What is more",
        "in the files: the fastest turns, deadlines beside a busy process, `zoo.load`.",
        "",
        devices(folder),
        "",
        "| what | file | measured | aim | when |",
        "| --- | --- | ---: | --- | --- |",
    ]
    page = folder / "README.md"
    page.write_text("\n".join([*head, *lines(folder), "", *notes(folder)]) + "\n")
    return page


if __name__ == "__main__":
    print(write().read_text())
