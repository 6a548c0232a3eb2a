"""Generates the tables of the page that compares our numbers with the paper's, from the results' JSON."""

import pathlib
import shlex

from anytime_keras.experiments import experiment, report, tables
from anytime_keras.training.checkpoint import write

PAGE = "README.md"
INTRODUCTION = """# Reproduction of the paper's results

`anytime-keras reproduce page` generates the parts between markers from the JSON files in this directory. It keeps all
other text.

The paper: {reference}
"""
BEGIN, END = "<!-- {}: made by `anytime-keras reproduce page` -->", "<!-- end of {} -->"


def write_page(results):
    """Writes the tables and the plots of all results in a directory into its page.

    The text between the generated parts is kept. A result that the page does not show yet gets a section at the end,
    with the paper's claims. The result of a quick check is shown only if there is no full result.

    Args:
        results: path of the directory.

    Returns:
        The page's path.

    Raises:
        ValueError: if the directory contains no results.

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
    if not found:
        raise ValueError(
            f"There are no results in '{results}'. Run an experiment first, such as "
            "`anytime-keras reproduce table1 --quick`."
        )
    page = results / PAGE
    text = page.read_text() if page.exists() else INTRODUCTION.format(reference=experiment.paper()["reference"])
    for name in experiment.EXPERIMENTS:
        path = found.get(f"{name}.json", found.get(f"{name}_quick.json"))
        if path is not None:
            text = _with_part(text, name, path)
    write(page, text)
    return page


def _with_part(text, name, path):
    """Returns the page's text with the generated part of an experiment replaced, or appended with a heading."""
    begin, end, content = BEGIN.format(name), END.format(name), report.read(path)
    if begin not in text:
        claims = [f"- The paper says: {claim}" for claim in experiment.paper()[name].get("claims", [])]
        text += "\n".join(["", f"## {name}: {content['title']}", "", *claims, "", begin, end, ""])
    before, _, rest = text.partition(begin)
    _, _, after = rest.partition(end)
    theirs = experiment.paper()[name]
    parts = [
        _markdown(["", "paper", "here"], facts(content, theirs, path.name), ":---"),
        _markdown(*experiment.get(name).table(content["summary"], theirs), "---:"),
    ]
    picture = report.picture(path)
    if picture is not None:
        parts.append(f"![{content['title']}]({picture.name})")
    return "\n\n".join([f"{before}{begin}", *parts, f"{end}{after}"])


def _markdown(header, rows, alignment):
    lines = [header, ["---", *[alignment] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def facts(content, theirs, file):
    """Compares how the paper's numbers and a result were obtained.

    Args:
        content: the result, see `report.read`.
        theirs: the paper's entry.
        file: name of the result's file.

    Returns:
        A list of [what, in the paper, here].
    """
    settings, runs = content["settings"], content["trainings"]
    rows = [["numbers", theirs["source"], f"[{file}]({file})"]]
    if "setting" in theirs or content["quick"]:
        warning = "**a quick check of the code, not comparable with the paper**" if content["quick"] else "–"
        rows.append(["setting", theirs.get("setting", "–"), warning])
    if settings is not None:
        sizes = {
            each["dataset"]: " + ".join(f"{count} {split}" for split, count in each["sizes"].items())
            for each in runs
        }
        last = any(each["recipe"].get("data", {}).get("validation") == "last" for each in runs)
        seeds = settings["seeds"] if isinstance(settings["seeds"], list) else [settings["seeds"]]
        rows += [
            ["networks", _listed(theirs["networks"]), _listed(settings["networks"])],
            ["data sets", _listed(theirs["datasets"]), _listed(sizes)],
            ["images", "–", "; ".join(dict.fromkeys(sizes.values()))],
            ["validation images of CIFAR", "the last 5000", "the last 5000" if last else "drawn by class"],
            ["epochs", str(theirs["epochs"]), str(settings["epochs"])],
            ["seeds", "not stated", _listed(seeds)],
            ["batch size, precision", "–", f"{settings['batch_size']}, {settings['precision']}"],
            ["runs", "–", str(len(runs))],
        ]
        for what, key in (("omitted rows", "without"), ("rows with the first seed only", "once")):
            if settings.get(key):
                rows.append([what, "–", "; ".join(settings[key])])
        rows += [["exits compared", "not stated", exits] for exits in exits_compared(content)]
    machines = sorted({_machine(each["machine"]) for each in runs or [content]})
    return [*rows, ["machines", "–", "; ".join(machines)], ["command", "–", f"`{command(content)}`"]]


def _listed(values):
    return ", ".join(map(str, values))


def command(content):
    """Returns the command line that reproduces a result."""
    parts = ["anytime-keras", "reproduce", content["experiment"], *(["--quick"] if content["quick"] else [])]
    for key, value in (content["settings"] or {}).items():
        flag = "--dataset" if key == "datasets" else f"--{key}"
        if key in ("without", "once"):
            parts += [f"{flag}={row}" for row in value]
        else:
            parts.append(f"{flag}={','.join(map(str, value)) if isinstance(value, list) else value}")
    return shlex.join(parts)


def _machine(machine):
    version = machine["versions"].get(machine["backend"], "")
    devices = sorted({str(device).split(":")[0] for device in machine["devices"]})
    return (
        f"{machine['backend']} {version} on {machine['processor']} ({_listed(devices)}), Keras "
        f"{machine['versions'].get('keras', '')}, {machine['date']}"
    )


def exits_compared(content):
    """Lists, for each network, the exits that a table compares, with their fractions of the cost."""
    found = {}
    for training in content["trainings"] if "fractions" in content["summary"] else ():
        if training["row"] != "OPT":
            curve = tables.curve_of(training)
            points = [curve.at(fraction) for fraction in content["summary"]["fractions"]]
            whole = curve[-1].with_all_heads
            found[training["network"]] = _listed(
                "none" if point.exit is None else f"{point.exit} ({point.with_all_heads / whole:.0%})"
                for point in points
            )
    return [f"{network}: {exits}" for network, exits in found.items()]
