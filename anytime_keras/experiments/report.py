"""Runs an experiment, writes its result as JSON, and shows a result as a table and a plot."""

import json
import pathlib

from rich.console import Console
from rich.table import Table

from anytime_keras import runtime
from anytime_keras.experiments import experiment
from anytime_keras.training import Recipe
from anytime_keras.training.checkpoint import write

FORMAT = 1
WIDTH = 200  # of a table in a log file, in characters


def reproduce(name, settings, work, results, quick=False):
    """Runs the unfinished training runs of an experiment and writes its result.

    Args:
        name: one of `EXPERIMENTS`.
        settings: `Settings`.
        work: `Work`.
        results: directory for the JSON and the plot.
        quick: bool, whether the settings are those of a quick check, whose result goes to a separate file. No effect
            if nothing is trained.

    Returns:
        The path of the JSON, or None if the time limit was reached.

    Raises:
        ValueError: if the experiment is unknown, `work` reuses results and would overwrite one with fewer runs, or the
            network of a finished ensemble member is missing.

    Example:
    >>> import tempfile
    >>> from anytime_keras import experiments
    >>> folder, chosen = tempfile.mkdtemp(), experiments.EXPERIMENTS["proposition"]
    >>> path = experiments.reproduce("proposition", chosen.settings(), experiments.Work(folder), folder)
    >>> path.name
    'proposition.json'
    """
    chosen = experiment.get(name)
    planned = chosen.plan(settings) if chosen.plan else []
    quick = quick and bool(planned)
    path = pathlib.Path(results) / f"{name}{'_quick' if quick else ''}.json"
    if work.stored and path.exists():
        kept = {work.place(each.recipe) for each in planned}
        if any(work.place(Recipe.from_dict(each["recipe"])) not in kept for each in read(path)["trainings"]):
            raise ValueError(
                f"'{path}' contains runs that these settings omit, and may be their only record. Write to another "
                "directory of results."
            )
    chained = chosen.ensembles(settings) if chosen.ensembles else []
    for _, members in chained:
        work.prepare_ensemble(members)
    path.parent.mkdir(parents=True, exist_ok=True)
    if not work.run([each.recipe for each in planned]):
        return None
    content = {
        "format": FORMAT,
        "experiment": name,
        "title": chosen.title,
        "quick": quick,
        "settings": settings.to_dict() if planned else None,
        "machine": runtime.machine(),
        "ensembles": [{**labels, **work.ensemble(members)} for labels, members in chained],
        "trainings": [
            {**each.labels, "recipe": work.begun(each.recipe).to_dict(), **work.measured(each.recipe)}
            for each in planned
        ],
    }
    content["summary"] = chosen.summarize(content["trainings"], content["ensembles"])
    write(path, to_text(content))
    return path


def to_text(content):
    """Formats a result as JSON, with one line per run."""
    lines = []
    for key, value in content.items():
        if isinstance(value, list) and value:
            inner = ",\n".join(f"  {json.dumps(each, allow_nan=False)}" for each in value)
            lines.append(f' "{key}": [\n{inner}\n ]')
        else:
            lines.append(f' "{key}": {json.dumps(value, allow_nan=False)}')
    return "{\n" + ",\n".join(lines) + "\n}\n"


def read(path):
    """Reads a result written by `reproduce`.

    Args:
        path: path of the JSON.

    Returns:
        A dict with `experiment`, `summary`, `trainings`, `machine`, `settings` and more.

    Raises:
        ValueError: if the file is not a result.

    Example:
    >>> import tempfile
    >>> from anytime_keras import experiments
    >>> folder, chosen = tempfile.mkdtemp(), experiments.EXPERIMENTS["proposition"]
    >>> path = experiments.reproduce("proposition", chosen.settings(), experiments.Work(folder), folder)
    >>> experiments.read(path)["title"]
    'Proposition 4.1: cost inflation, bounds and simulation'
    """
    try:
        content = json.loads(pathlib.Path(path).read_text())
        if content["format"] != FORMAT:
            raise ValueError(f"format {content['format']}")
        content["quick"], content["settings"]
        for part in (content, *content["trainings"]):
            part["machine"]["versions"]
        experiment.get(content["experiment"]).table(content["summary"], experiment.paper()[content["experiment"]])
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"'{path}' must be a result of `anytime-keras reproduce`. Received: {error!r}.") from error
    return content


def paths(results):
    """Lists the results in a directory in the order of the experiments, with quick checks last.

    Args:
        results: path of the directory.

    Returns:
        A list of paths.

    Example:
    >>> import tempfile
    >>> paths(tempfile.mkdtemp())
    []
    """
    every = [pathlib.Path(results) / f"{name}{end}.json" for end in ("", "_quick") for name in experiment.EXPERIMENTS]
    return [path for path in every if path.exists()]


def picture(path):
    """Plots a result to a `.png` file beside it.

    Args:
        path: path of the JSON.

    Returns:
        The plot's path, or None if the experiment has no plot or Matplotlib is not installed.

    Example:
    >>> import tempfile
    >>> from anytime_keras import experiments
    >>> folder, chosen = tempfile.mkdtemp(), experiments.EXPERIMENTS["proposition"]
    >>> path = experiments.reproduce("proposition", chosen.settings(), experiments.Work(folder), folder)
    >>> experiments.picture(path) is None  # this experiment has no plot
    True
    """
    content = read(path)
    draw = experiment.get(content["experiment"]).draw
    if draw is None:
        return None
    try:
        figure = draw(content["summary"])
    except ImportError:
        return None
    drawn = pathlib.Path(path).with_suffix(".png")
    figure.savefig(drawn, dpi=110)
    return drawn


def show(path, file=None):
    """Prints a result as a table.

    Args:
        path: path of the JSON.
        file: file object to print to; defaults to standard output.

    Example:
    >>> import tempfile
    >>> from anytime_keras import experiments
    >>> folder, chosen = tempfile.mkdtemp(), experiments.EXPERIMENTS["proposition"]
    >>> path = experiments.reproduce("proposition", chosen.settings(), experiments.Work(folder), folder)
    >>> with open(path.with_suffix(".txt"), "w") as file:
    ...     experiments.show(path, file)
    """
    content = read(path)
    chosen = experiment.get(content["experiment"])
    theirs = experiment.paper()[content["experiment"]]
    header, rows = chosen.table(content["summary"], theirs)
    table = Table(title=f"{content['experiment']}: {content['title']}{' (quick check)' if content['quick'] else ''}")
    for number, heading in enumerate(header):
        table.add_column(heading, justify="right" if number else "left")
    for row in rows:
        table.add_row(*row)
    console = Console(file=file, highlight=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = WIDTH
    console.print(table)
