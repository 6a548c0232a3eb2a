"""Generates `results/README.md`, which compares the benchmarks' numbers with their targets. Every benchmark runs it.

python -m tests.benchmarks.page
"""

import json
import operator
import pathlib

FOLDER = pathlib.Path(__file__).parent / "results"

MOST, LEAST = operator.le, operator.ge
STEP, THROUGHPUT_CPU, THROUGHPUT_GPU = 1.01, 1.0, 1.2  # targets
WEIGHTING = "time of a training step with AdaLoss / with constant weights, {} exits"


def faster(content):
    """Returns the target of throughput: as fast as the published code on a CPU, faster on a GPU."""
    on_cpu = all("cpu" in device.lower() for device in content["machine"]["devices"])
    return LEAST, THROUGHPUT_CPU if on_cpu else THROUGHPUT_GPU


def told_from_noise(exits):
    """Returns the target of weighting. The noise is the deviation from 1 when the same step is measured twice."""
    return lambda content: (MOST, STEP, abs(content[f"{exits}_exits"]["again"]["ratio"] - 1))


# File, keys of the number in it, description, and target (None, or a function of the file's content). The benchmark's
# docstring describes the measurement.
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
            ("jax", [(("adaloss",), ", Keras's `fit`"), (("scan",), ", one program per epoch")]),
        )
        for way, more in ways
        for exits in (5, 27, 51)
    ],
    *[
        (
            f"weighting_{backend}",
            (f"{exits}_exits", "again", "ratio"),
            f"noise: time of a training step with constant weights / measured again, {exits} exits",
            None,
        )
        for backend in ("tensorflow", "jax")
        for exits in (5, 27, 51)
    ],
    *[
        (
            "weighting_tensorflow",
            (f"{exits}_exits", "host", "ratio"),
            f"time of a training step with a callback that assigns weights / with constant weights, {exits} exits",
            None,
        )
        for exits in (5, 27, 51)
    ],
    *[
        ("throughput", (network, "ratio"), f"training throughput of `{network}` / of the published code", faster)
        for network in ("msdnet_cifar_10exits", "msdnet_step4")
    ],
    *[
        ("pipeline_tensorflow", (kind, "ratio"), f"images read per second / trained per second, {kind}", (LEAST, 2.0))
        for kind in ("arrays", "folder", "ilsvrc")
    ],
    *[
        (f"startup_{backend}", ("import", "ratio"), "time of `import anytime_keras` / of `import keras`", (MOST, 1.15))
        for backend in ("tensorflow", "jax")
    ],
    *[
        (f"memory_{backend}", ("ratio",), f"memory of a training step with 27 exits / with one exit, {what}", None)
        for backend, what in (("tensorflow", "peak of the process"), ("jax", "as allocated by XLA"))
    ],
    *[
        (f"inference_{backend}", way, what, aim)
        for backend in ("tensorflow", "jax")
        for batch, images in (("batch_1", "1 image"), ("batch_32", "32 images"))
        for way, what, aim in (
            (
                (batch, "staged_over_whole", "ratio"),
                f"time of 8 staged answers / of one graph with all 8, {images}",
                (MOST, 1.05),
            ),
            (
                (batch, "direct_over_plain", "median_ratio"),
                f"time to one exit / of a plain model with this exit only, {images}",
                (MOST, 1.03),
            ),
            (("deadlines", "alone", batch, "met"), f"fraction of deadlines met, {images}", (LEAST, 0.999)),
            (
                ("deadlines", "alone", batch, "deepest"),
                f"fraction of answers from the deepest exit possible in time, {images}",
                (LEAST, 0.95),
            ),
        )
    ],
    *[
        (
            "deadlines",
            ("engines", engine, beside, name),
            f"{what}, ResANN(5, 16), {label}, {beside.replace('_', ' ')}",
            target,
        )
        for engine, label in (("litert", "LiteRT"), ("openvino", "OpenVINO"))
        for beside, met in (("quiet", 0.999), ("beside_a_busy_process", 0.99))
        for name, what, target in (
            ("met", "fraction of deadlines met", (LEAST, met)),
            ("deepest", "fraction of answers as deep as a clairvoyant's", (LEAST, 0.9)),
            ("depth", "mean depth of the answers in time, 1 for the last exit", None),
            ("naive_met", "fraction of deadlines met by the naive bet", None),
        )
    ],
    *[
        ("engines", ("networks", network, "batch_1", "ratios", key), f"{what}, {network}", (MOST, limit))
        for network in ("resann5x16", "msdnet_cifar_10exits", "msdnet33_small_stem", "resann50")
        for key, what, limit in (
            ("last_litert", "time of `Predictor` to the last exit on LiteRT / of bare LiteRT", 1.10),
            ("stages_litert", "time of all exits, stage by stage, on LiteRT / of bare LiteRT", 1.25),
            ("first_litert", "time to the first exit on LiteRT / of a network with this exit only", 1.15),
            ("auto_over_fastest", "time of `Predictor` to the last exit / of the fastest bare runtime", 1.10),
        )
    ],
    *[
        (
            "engines",
            ("networks", network, "batch_32", "ratios", f"early_{engine}"),
            f"speed-up by early exit on {engine} / speed-up in multiply-accumulates, {network}",
            (LEAST, 0.85),
        )
        for network in ("resann5x16", "msdnet_cifar_10exits")
        for engine in ("litert", "onnx")
    ],
    *[
        (
            f"inference_{backend}",
            ("early_exit", "ratio"),
            "speed-up by early exit / speed-up in multiply-accumulates",
            (LEAST, 0.8),
        )
        for backend in ("tensorflow", "jax")
    ],
    *[
        (file, ("networks", network, *way), f"{what}, {network}", aim)
        for network in ("resann5x16_adaloss", "msdnet_cifar_10exits_adaloss")
        for file, way, what, aim in (
            (
                "serving",
                ("aims", "worst_difference"),
                "right and in time per request: policy `value` minus the best static exit, least of all loads",
                (LEAST, -0.005),
            ),
            (
                "serving_again",
                ("aims", "worst_difference"),
                "the same in more rounds, of the loads that missed the target",
                (LEAST, -0.005),
            ),
            (
                "serving",
                ("aims", "over_last_at_1.3"),
                "right and in time at 1.3 times the capacity: policy `value` / last exit, least of all arrivals",
                (LEAST, 1.5),
            ),
            ("serving", ("first_exit_80", "in_time"), "in time at 80% of the first exit's capacity", (LEAST, 0.99)),
            ("serving_again", ("first_exit_80", "in_time"), "the same in more rounds", (LEAST, 0.99)),
            ("serving", ("http", "difference"), "median through HTTP minus that of the predictor, ms", (MOST, 1.5)),
        )
    ],
    *[
        ("serving_simulated", ("networks", machine, "aims", key), f"{what}, simulated machine `{machine}`", aim)
        for machine in ("one by one", "batches", "2 ms")
        for key, what, aim in (
            (
                "worst_difference",
                "right and in time per request: policy `value` minus the best static exit, least of all loads",
                (LEAST, -0.005),
            ),
            (
                "over_last_at_1.3",
                "right and in time at 1.3 times the capacity: policy `value` / last exit, least of all arrivals",
                (LEAST, 1.5),
            ),
        )
    ],
    *[
        ("soak", (key,), what, aim)
        for key, what, aim in (
            ("requests", "requests to a server, one in ten hostile", None),
            ("seconds", "duration of these requests, seconds", None),
            ("unanswered", "good requests without an answer", (MOST, 0)),
            ("mismatched", "hostile requests without the protocol's error", (MOST, 0)),
            ("growth", "the server's memory at the end / after a fifth of the requests", (MOST, 1.1)),
        )
    ],
    *[
        ("serving_simulated", ("decision", key), f"scheduler's decision {what}, microseconds", (MOST, 50.0))
        for key, what in (
            ("batch_us", "on a batch"),
            ("first_us", "on the first batch at a new usual slack"),
            ("exit_us", "at an exit"),
        )
    ],
    (
        "raw_images",
        ("worst",),
        "accuracy on image files, difference from the manifest in percentage points, largest of all ways",
        (MOST, 0.1),
    ),
    ("finetuning", ("gain",), "accuracy finetuned on 90 photos minus from scratch, percentage points", None),
]


def lines(folder):
    """Yields the rows of the table."""
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
        shown = f"{number:,}" if isinstance(number, int) else f"{number:.4g}"
        yield f"| {what} | [{name}]({path.name}) | {shown} | {wanted} | {when} |"


def verdict(within, number, limit, noise=0.0):
    """Returns whether a target was met, or "within noise" if the noise is too large to decide."""
    ends = {within(number + noise, limit), within(number - noise, limit)}
    return "within noise" if len(ends) > 1 else "met" if ends == {True} else "missed"


def devices(folder):
    """Describes the devices of the measurements."""
    found = [json.loads(path.read_text())["machine"]["devices"] for path in folder.glob("*.json")]
    kinds = sorted({device.split(":")[0].lower() for each in found for device in each})
    aims = f"{STEP:g} for a step with AdaLoss and {THROUGHPUT_GPU:g} for throughput"
    none = f" The targets for a GPU have not been measured: {aims}." if kinds == ["cpu"] else ""
    return f"Measured on: {', '.join(kinds)}.{none}"


def notes(folder):
    """Yields the notes of the measurements."""
    for path in sorted(folder.glob("*.json")):
        if note := json.loads(path.read_text()).get("note"):
            yield f"- {path.stem}: {note}."


def write(folder=FOLDER):
    head = [
        "# Benchmark results and targets",
        "",
        "Generated by `python -m tests.benchmarks.page` from the files in this directory, which record the command,",
        "the machine and its load. Ratios compare median times of alternating measurements in one run. The files also",
        "contain the fastest times, deadlines under load, and `zoo.load`.",
        "",
        devices(folder),
        "",
        "| measurement | file | result | target | date, commit |",
        "| --- | --- | ---: | --- | --- |",
    ]
    page = folder / "README.md"
    page.write_text("\n".join([*head, *lines(folder), "", *notes(folder)]) + "\n")
    return page


if __name__ == "__main__":
    print(write().read_text())
