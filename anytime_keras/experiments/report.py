"""Runs an experiment, writes its result as JSON, and shows it in the terminal and on a Markdown page."""

import json
import pathlib
import shlex
import statistics

from anytime_keras import _tables
from anytime_keras.experiments import catalog
from anytime_keras.experiments.summaries import grouped
from anytime_keras.training import Recipe
from anytime_keras.training.checkpoint import write

FORMAT = 1
INTRODUCTION = """# Reproduction of the paper's results

`anytime-keras reproduce page` generates the parts between markers from the JSON files here. It keeps all other text.
"""
BEGIN, END = "<!-- {}: made by `anytime-keras reproduce page` -->", "<!-- end of {} -->"


def reproduce(name, settings, runs, results, quick=False):
    """Runs the unfinished training runs of an experiment and writes its result after each of them.

    Args:
        name: one of `EXPERIMENTS`.
        settings: `Settings`.
        runs: `Runs`.
        results: directory of the result.
        quick: bool, whether the settings are those of a quick check, whose result goes to a separate file.

    Returns:
        The result's path and a bool, whether all runs are finished. With ensembles, the result is written at the end.

    Raises:
        ValueError: if the experiment is unknown, its result contains runs that the settings omit, or the network of a
            finished ensemble member is missing.

    Example:
    >>> import tempfile
    >>> from anytime_keras import experiments
    >>> folder, chosen = tempfile.mkdtemp(), experiments.EXPERIMENTS["proposition"]
    >>> path, complete = experiments.reproduce("proposition", chosen.settings(), experiments.Runs(folder), folder)
    >>> path.name, complete
    ('proposition.json', True)
    """
    chosen = catalog.get(name)
    planned, ensembles = chosen.plan(settings), chosen.ensembles(settings)
    path = pathlib.Path(results) / f"{name}{'_quick' if quick and planned else ''}.json"
    if path.exists() and not quick:
        kept = {runs.place(one.recipe) for one in planned}
        if any(runs.place(Recipe.from_dict(run["recipe"])) not in kept for run in read(path)["runs"]):
            raise ValueError(f"'{path}' contains runs that these settings omit. Choose another directory of results.")
    for _, members in ensembles:
        runs.need_networks(members)
    path.parent.mkdir(parents=True, exist_ok=True)

    def save(ensembles=()):
        finished = [one for one in planned if runs.finished(one.recipe)]
        content = {
            "format": FORMAT,
            "experiment": name,
            "title": chosen.title,
            "quick": path.stem.endswith("_quick"),
            "settings": dict(vars(settings)) if planned else None,
            "planned": len(planned),
            "ensembles": [{**labels, **runs.ensemble(members)} for labels, members in ensembles],
            "runs": [{**one.labels, **runs.measured(one.recipe)} for one in finished],
        }
        write(path, _to_text(content))

    recipes = [one.recipe for one in planned]
    complete = runs.run(recipes, after=(lambda: None) if ensembles else save)
    if complete:
        save(ensembles)
    elif not ensembles and any(map(runs.finished, recipes)):
        save()
    return path, complete


def _to_text(content):
    """Formats a result as JSON, with one line per run."""
    lines = []
    for key, value in content.items():
        each_line = value if isinstance(value, list) else ()
        inner = ",\n".join(f"  {json.dumps(each, allow_nan=False)}" for each in each_line)
        lines.append(f' "{key}": ' + (f"[\n{inner}\n ]" if inner else json.dumps(value, allow_nan=False)))
    return "{\n" + ",\n".join(lines) + "\n}\n"


def read(path):
    """Reads a result written by `reproduce` and computes its numbers.

    Args:
        path: path of the JSON.

    Returns:
        The content, a dict, with `summary`, see `summaries`, and `table`, a header and rows of str.

    Raises:
        ValueError: if the file is not a result.

    Example:
    >>> import tempfile
    >>> from anytime_keras import experiments
    >>> folder, chosen = tempfile.mkdtemp(), experiments.EXPERIMENTS["proposition"]
    >>> path, _ = experiments.reproduce("proposition", chosen.settings(), experiments.Runs(folder), folder)
    >>> experiments.read(path)["title"]
    'Proposition 4.1: cost inflation, bounds and simulation'
    """
    try:
        content = json.loads(pathlib.Path(path).read_text())
        if content["format"] != FORMAT:
            raise ValueError(f"format {content['format']}")
        chosen = catalog.get(content["experiment"])
        content["summary"] = chosen.summarize(content["runs"], content["ensembles"])
        content["table"] = chosen.table(content["summary"])
        content["facts"] = _facts(content, chosen.paper)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"'{path}' must be a result of `anytime-keras reproduce`. Received: {error!r}.") from error
    return content


def paths(results):
    """Lists the results in a directory in the order of the experiments, with quick checks last."""
    every = [pathlib.Path(results) / f"{name}{end}.json" for end in ("", "_quick") for name in catalog.EXPERIMENTS]
    return [path for path in every if path.exists()]


def show(path):
    """Prints a result as a table, and plots it to a `.png` file, if Matplotlib is installed, whose path it returns."""
    content = read(path)
    print(f"{content['experiment']}: {content['title']}{' (quick check)' if content['quick'] else ''}\n")
    print(_tables.table(*content["table"]))
    return _picture(content, path)


def _picture(content, path):
    try:
        figure = catalog.get(content["experiment"]).draw(content["summary"])
    except ImportError:
        return None
    if figure is None:
        return None
    drawn = pathlib.Path(path).with_suffix(".png")
    figure.savefig(drawn, dpi=110)
    return drawn


def write_page(results):
    """Writes the tables and plots of all results in a directory into its page, README.md.

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
    >>> _ = experiments.reproduce("proposition", chosen.settings(), experiments.Runs(folder), folder)
    >>> experiments.write_page(folder).name
    'README.md'
    """
    found = {}
    for path in paths(results):
        found.setdefault(path.stem.removesuffix("_quick"), path)
    if not found:
        raise ValueError(f"There are no results in '{results}'. Run `anytime-keras reproduce table1 --quick` first.")
    page = pathlib.Path(results) / "README.md"
    text = page.read_text() if page.exists() else INTRODUCTION
    for name, path in found.items():
        begin, end, content = BEGIN.format(name), END.format(name), read(path)
        if begin not in text:
            claims = [f"- The paper says: {claim}" for claim in catalog.EXPERIMENTS[name].paper.get("claims", [])]
            text += "\n".join(["", f"## {name}: {content['title']}", "", *claims, "", begin, end, ""])
        before, _, rest = text.partition(begin)
        parts = [_markdown(["", "paper", "here"], content["facts"], ":---"), _markdown(*content["table"], "---:")]
        picture = _picture(content, path)
        parts += [f"![{content['title']}]({picture.name})"] if picture else []
        parts.append(f"Run again: `{command(content)}` ([{path.name}]({path.name}))")
        text = "\n\n".join([f"{before}{begin}", *parts, f"{end}{rest.partition(end)[2]}"])
    write(page, text)
    return page


def _markdown(header, rows, alignment):
    lines = [header, ["---", *[alignment] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _facts(content, theirs):
    """Lists how the paper's numbers and a result were obtained: what, in the paper, here."""
    settings, runs = content["settings"], content["runs"]
    rows = [["source", theirs["source"], "**quick check, not comparable with the paper**" if content["quick"] else ""]]
    if settings is None:
        return rows
    on = " on {dataset}" if len(settings["datasets"]) > 1 else ""
    losses = grouped(
        (f"{run['row']}{on.format(**run)}", (run["train_loss"][0], run["train_loss"][-1]))
        for run in runs
        if run["train_loss"] and run["row"] != "OPT"
    )
    ends = {name: "{:.2f} and {:.2f}".format(*map(statistics.fmean, zip(*each))) for name, each in losses.items()}
    falls = [run["late_fall"] for run in runs if run.get("late_fall") is not None]
    machines = {name: sorted(set(dates)) for name, dates in grouped(_machine(run["machine"]) for run in runs).items()}
    compared = grouped((run["network"], run["exit"]) for run in runs if run["row"] == "OPT")
    networks = [
        f"{name}: {_listed(dict.fromkeys(compared[name]))}" if name in compared else name
        for name in settings["networks"]
    ]
    data = {run["dataset"]: _data(run) for run in runs}
    epochs = settings["epochs"]
    epochs = [f"{name}: {number}" for name, number in epochs.items()] if isinstance(epochs, dict) else [epochs]
    seeds = settings["seeds"] if isinstance(settings["seeds"], (list, tuple)) else [settings["seeds"]]
    return rows + [
        ["networks", _listed(theirs["networks"]), _listed(networks, "; ")],
        ["data", _listed(theirs["datasets"]), _listed(data.values(), "; ")],
        ["epochs, seeds", f"{theirs['epochs']}, not stated", _listed([*epochs, *seeds])],
        ["runs", "–", f"{len(runs)} of {content.get('planned', len(runs))}"],
        [
            "training loss in the last epoch, first and last exit",
            "–",
            _listed((f"{name}: {end}" for name, end in ends.items()), "; ") or "not recorded",
        ],
        [
            "share of the fall in training loss in the last tenth of the epochs, last exit",
            "–",
            f"{min(falls):.2f}% to {max(falls):.2f}%" if falls else "not recorded",
        ],
        ["machine", "–", _listed((f"{name}, {_listed(dates)}" for name, dates in machines.items()), "; ")],
    ]


def _data(run):
    arguments = run["recipe"]["data"]
    sizes = _listed((f"{count} {split}" for split, count in run["sizes"].items()), " + ")
    last = "; validation: the last training images" if arguments.get("validation") == "last" else ""
    return f"{run['dataset']} ({sizes}{last}; {_listed(arguments.get('augment') or ['no augmentation'])})"


def _machine(machine):
    """Returns a machine with its software, and the date of a run."""
    backend, versions = machine["backend"], machine["versions"]
    software = f"{backend} {versions.get(backend, '')}, Keras {versions.get('keras')}"
    return f"{machine['processor']}, {software}", machine["date"]


def _listed(values, separator=", "):
    return separator.join(map(str, values))


def command(content):
    """Returns the command line that reproduces a result."""
    parts = ["anytime-keras", "reproduce", content["experiment"], *(["--quick"] if content["quick"] else [])]
    for key, value in (content["settings"] or {}).items():
        if isinstance(value, dict):
            value = [f"{name}:{number}" for name, number in value.items()]
        if isinstance(value, (list, tuple)):
            value = _listed(value, ";" if key == "networks" and any(":" in each for each in value) else ",")
        parts.append(f"--{'dataset' if key == 'datasets' else key}={value}")
    return shlex.join(parts)
