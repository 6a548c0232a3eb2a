"""Runs an experiment to its JSON, and shows what is in one: a table, and a picture beside it."""

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
    """Runs an experiment, as far as its trainings are not finished, and writes its results.

    Args:
        name: one of `EXPERIMENTS`.
        settings: `Settings`.
        work: `Work`.
        results: folder for the JSON and the picture.
        quick: bool, whether these are the settings of a quick check; such results are kept apart. Without effect where
            nothing is trained.

    Returns:
        The path of the JSON; None if the time limit came first.

    Raises:
        ValueError: if there is no experiment of that name; if the settings leave out rows that it needs; if `work`
            reuses results, and one would be overwritten with less; if a finished network is gone that is to be chained.

    Example:
    >>> import tempfile
    >>> from anytime_keras import experiments
    >>> folder, chosen = tempfile.mkdtemp(), experiments.EXPERIMENTS["proposition"]
    >>> path = experiments.reproduce("proposition", chosen.settings(), experiments.Work(folder), folder)
    >>> path.name
    'proposition.json'
    """
    chosen = experiment.get(name)
    chosen.check(settings)
    planned = chosen.plan(settings) if chosen.plan else []
    quick = quick and bool(planned)
    path = pathlib.Path(results) / f"{name}{'_quick' if quick else ''}.json"
    if work.told and path.exists():
        kept = {work.place(each.recipe) for each in planned}
        lost = [each for each in read(path)["trainings"] if work.place(Recipe.from_dict(each["recipe"])) not in kept]
        if lost:
            raise ValueError(
                f"'{path}' tells {len(lost)} trainings that these settings leave out, and may be all that is left of "
                "them. Write to another folder of results."
            )
    chained = chosen.ensembles(settings) if chosen.ensembles else []
    for _, members in chained:
        work.expect(members)
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
    """A result as JSON, one line a training."""
    lines = []
    for key, value in content.items():
        if isinstance(value, list) and value:
            inner = ",\n".join(f"  {json.dumps(each, allow_nan=False)}" for each in value)
            lines.append(f' "{key}": [\n{inner}\n ]')
        else:
            lines.append(f' "{key}": {json.dumps(value, allow_nan=False)}')
    return "{\n" + ",\n".join(lines) + "\n}\n"


def read(path):
    """Reads what `reproduce` wrote.

    Args:
        path: of the JSON.

    Returns:
        A dict with `experiment`, `summary`, `trainings`, `machine`, `settings` and more.

    Raises:
        ValueError: if the file is something else.

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
        experiment.get(content["experiment"]).lay_out(content["summary"], experiment.paper()[content["experiment"]])
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"'{path}' is no result of `anytime-keras reproduce`: {error!r}.") from error
    return content


def paths(results):
    """Lists the results in a folder, in the experiments' order; a quick check's come after others.

    Args:
        results: the folder.

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
    """Draws a result's picture beside it.

    Args:
        path: of the JSON.

    Returns:
        The picture's path, or None where the experiment has none, or Matplotlib is not there.

    Example:
    >>> import tempfile
    >>> from anytime_keras import experiments
    >>> folder, chosen = tempfile.mkdtemp(), experiments.EXPERIMENTS["proposition"]
    >>> path = experiments.reproduce("proposition", chosen.settings(), experiments.Work(folder), folder)
    >>> experiments.picture(path) is None  # a table alone
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
    """Prints a result as a table, with what it says.

    Args:
        path: of the JSON.
        file: where to print; None is standard output.

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
    header, rows = chosen.lay_out(content["summary"], theirs)
    table = Table(title=f"{content['experiment']}: {content['title']}{' (quick check)' if content['quick'] else ''}")
    for number, heading in enumerate(header):
        table.add_column(heading, justify="right" if number else "left")
    for row in rows:
        table.add_row(*row)
    console = Console(file=file, highlight=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = WIDTH
    console.print(table)
    for sentence in chosen.find(content["summary"], theirs):
        console.print(sentence, markup=False)
