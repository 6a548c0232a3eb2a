"""The page that lays the paper's numbers beside ours: made of the results' JSON, and of nothing else."""

import pathlib
import shlex

from anytime_keras.experiments import experiment, report, tables
from anytime_keras.experiments.planning import ADALOSS, label
from anytime_keras.training.checkpoint import write

PAGE = "README.md"
INTRODUCTION = """# The paper's claims, measured again

Made by `anytime-keras reproduce page` from the JSON files beside this page, which hold every exit's error and loss of
every training, its recipe, and what it ran on.

The paper: {reference}

- Increases are relative, in percent: +10 is an error of 11% where the other is 10%.
- The fraction of a cost is that of the last exit's multiply-accumulates, all heads so far included; the number there is
  that of the latest exit whose cost is at most that fraction. A dash: no exit is that early, or the other error is 0.
- OPT is a network trained for one exit alone, one for each place that is compared; what comes after it has no part.
- A mean is over each data set's and network's own mean over its seeds. Numbers in brackets are the lowest and the
  highest of the seeds' means.
- Learning rate 0.1, divided by 10 at 1/2 and 3/4 of the epochs; momentum 0.9; weight decay 1e-4, as in the paper.
- Validation images are held out of training; test images are looked at once, at a training's end.
- To train one cell again: `anytime-keras train --recipe_file=FILE` takes a training's `recipe`, in a file of its own.
  Data that ends with .npz is a file of arrays: x_train, y_train, x_test, y_test. The numbers are the same on the same
  machine by the same code; on another machine, or by later code, they may differ.
"""


def write_page(results):
    """Writes the page for all results in a folder, and draws their pictures again.

    A result of a quick check is shown where there is no other.

    Args:
        results: the folder.

    Returns:
        The page's path.

    Raises:
        ValueError: if the folder holds no result.

    Example:
    >>> import tempfile
    >>> from anytime_keras import experiments
    >>> folder, chosen = tempfile.mkdtemp(), experiments.EXPERIMENTS["proposition"]
    >>> path = experiments.reproduce("proposition", chosen.settings(), experiments.Work(folder), folder)
    >>> experiments.write_page(folder).name
    'README.md'
    """
    results = pathlib.Path(results)
    found = {path.name: path for path in report.paths(results)}
    either = [found.get(f"{name}.json", found.get(f"{name}_quick.json")) for name in experiment.EXPERIMENTS]
    if not found:
        raise ValueError(
            f"There is no result in '{results}'. Make one, such as `anytime-keras reproduce table1 --quick`."
        )
    introduction = INTRODUCTION.format(reference=experiment.paper()["reference"])
    contents = {path: report.read(path) for path in either if path is not None}
    sections = [_section(path, content) for path, content in contents.items()]
    write(results / PAGE, "\n".join([introduction, *map(_line_of_contents, contents.values()), "", *sections]))
    return results / PAGE


def _heading(content):
    return f"{content['experiment']}: {content['title']}"


def _line_of_contents(content):
    """A link to a result's section, with the first that is found there."""
    heading = _heading(content)
    anchor = "".join(letter for letter in heading.lower() if letter.isalnum() or letter in " -").replace(" ", "-")
    if content["quick"]:
        found = "A quick check of the code."
    else:
        chosen = experiment.get(content["experiment"])
        found, *_ = chosen.find(content["summary"], experiment.paper()[content["experiment"]])
    return f"- [{heading}](#{anchor}). {found}"


def _section(path, content):
    chosen = experiment.get(content["experiment"])
    theirs = experiment.paper()[content["experiment"]]
    header, rows = chosen.lay_out(content["summary"], theirs)
    lines = [f"## {_heading(content)}", ""]
    if content["quick"]:
        lines += ["**A quick check of the code: its numbers say nothing about the paper's.**", ""]
    lines += [f"- Paper: {theirs['source']}; {_setting(theirs)}."]
    lines += [f"- The paper says: {claim}" for claim in theirs.get("claims", [])]
    lines += [f"- Here: {made_with(content)}"]
    lines += [f"- By `{command(content)}`."]
    settings = content["settings"] or {}
    if settings.get("without"):
        lines += [f"- Left out here: {'; '.join(settings['without'])}."]
    if settings.get("once"):
        lines += [f"- With the first seed alone, also in the table: {'; '.join(settings['once'])}."]
    lines += [f"- {chosen.note}"] if chosen.note else []
    lines += [f"- {compared}" for compared in places_compared(content)]
    lines += [f"- Differs: {difference}" for difference in differences(content, theirs)]
    weights = last_weights(content["trainings"])
    lines += [f"- {weights}"] if weights else []
    lines += ["", "| " + " | ".join(header) + " |", "| --- |" + " ---: |" * (len(header) - 1)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    lines += ["", *chosen.find(content["summary"], theirs), ""]
    picture = report.picture(path)
    if picture is not None:
        lines += [f"![{content['title']}]({picture.name})", ""]
    lines += [f"Numbers: [{path.name}]({path.name}).", ""]
    return "\n".join(lines)


def _setting(theirs):
    """What the paper's numbers are of, in words."""
    parts = [theirs["setting"]] if "setting" in theirs else []
    if "networks" in theirs:
        where = f"ResANN {', '.join(theirs['networks'])} on {', '.join(theirs['datasets'])}"
        parts = [where, f"{theirs['epochs']} epochs", *parts]
    return "; ".join(parts)


def made_with(content):
    """A sentence that tells how a result was made."""
    settings = content["settings"]
    if settings is None:
        return f"computed; {_machine(content['machine'])}."
    sizes = {
        training["dataset"]: " + ".join(f"{count} {split}" for split, count in training["sizes"].items())
        for training in content["trainings"]
    }
    data = ", ".join(f"{dataset} ({images} images)" for dataset, images in sizes.items())
    machines = sorted({_machine(training["machine"]) for training in content["trainings"]})
    return (
        f"{len(content['trainings'])} trainings of ResANN {', '.join(settings['networks'])} on {data}; "
        f"{settings['epochs']} epochs, batches of {settings['batch_size']}, {settings['precision']}, "
        f"{_seeds(settings)}; {'; '.join(machines)}."
    )


def command(content):
    """The command line that makes a result."""
    parts = ["anytime-keras", "reproduce", content["experiment"], *(["--quick"] if content["quick"] else [])]
    for key, value in (content["settings"] or {}).items():
        flag = "--dataset" if key == "datasets" else f"--{key}"
        if key in ("without", "once"):
            parts += [f"{flag}={row}" for row in value]
        else:
            parts.append(f"{flag}={','.join(map(str, value)) if isinstance(value, list) else value}")
    return shlex.join(parts)


def _seeds(settings):
    """How many seeds, in words."""
    if not isinstance(settings["seeds"], list):
        return f"{settings['seeds']} seed{'s' if settings['seeds'] > 1 else ''}"
    each = [f"{number} on {label(dataset)}" for number, dataset in zip(settings["seeds"], settings["datasets"])]
    return f"seeds: {', '.join(each)}"


def _machine(machine):
    version = machine["versions"].get(machine["backend"], "")
    devices = sorted({str(device).split(":")[0] for device in machine["devices"]})
    return (
        f"{machine['backend']} {version} on {machine['processor']} ({', '.join(devices)}), Keras "
        f"{machine['versions'].get('keras', '')}, {machine['date']}"
    )


def differences(content, theirs):
    """Lists in what a result's settings depart from the paper's, computed from both."""
    settings = content["settings"]
    if settings is None:
        return []
    found = []
    if settings["epochs"] != theirs["epochs"]:
        found.append(
            f"{settings['epochs']} epochs, the paper {theirs['epochs']}: schemes, OPT too, are compared where training "
            "ends here."
        )
    ours = list(dict.fromkeys(training["dataset"] for training in content["trainings"]))
    for what, own in (("networks", settings["networks"]), ("datasets", ours)):
        if set(own) != set(theirs[what]):
            kind = "data sets" if what == "datasets" else what
            found.append(f"{kind} {', '.join(own)}, the paper {', '.join(theirs[what])}.")
    if settings["precision"] != "float32":
        found.append(f"{settings['precision']}; the paper does not tell its precision.")
    processors = {}
    for training in content["trainings"]:
        processors.setdefault(tables.cell(training), set()).add(training["machine"]["processor"])
    if any(len(each) > 1 for each in processors.values()):
        found.append("rows of one seed were trained on different CPUs, which may move numbers, too.")
    one = settings["seeds"] == 1 or isinstance(settings["seeds"], list) and 1 in settings["seeds"]
    one = one or settings.get("once")
    chance = ", so that differences may be chance" if one else ""
    found.append(f"{_seeds(settings)}{chance}; the paper does not say how many it had.")
    return found


def places_compared(content):
    """A sentence for each network that tells which exits a table compares, and what share of its cost they have."""
    found = {}
    for training in content["trainings"] if "fractions" in content["summary"] else ():
        if training["row"] != "OPT":
            curve = tables.curve_of(training)
            points = [curve.at(fraction) for fraction in content["summary"]["fractions"]]
            found[training["network"]] = ", ".join(
                "none"
                if point.exit is None
                else f"{point.exit} ({point.with_all_heads / curve[-1].with_all_heads:.0%})"
                for point in points
            )
    return [f"Exits compared of {network}, and their shares of the cost: {exits}." for network, exits in found.items()]


def last_weights(trainings):
    """A sentence that tells how unequal AdaLoss's weights were at the end, or None where nothing was trained with its
    defaults and with nothing else besides."""
    own = [
        training["weight"]
        for training in trainings
        if training["recipe"]["weighting"] == ADALOSS["weighting"]
        and not (training["recipe"].get("distillation") or training["recipe"].get("gradient_equilibrium"))
        and training["weight"]
    ]
    if not own:
        return None
    return (
        f"AdaLoss's weights at the end: the smallest is {tables.mean([min(each) / max(each) for each in own]):.2f} of "
        "the largest. They part as the losses do; equal weights are CONST's."
    )
