"""Runs an experiment, writes its result as JSON, and shows it in the terminal and on a Markdown page."""

import json
import pathlib
import shlex
import statistics

from anytime_keras import _tables
from anytime_keras.experiments import planning
from anytime_keras.experiments.catalog import EXPERIMENTS
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

    `runs` are `Runs`; `results` is a directory. A `quick` check has a file of its own. Returns the result's path and
    whether all runs are finished.
    """
    chosen = EXPERIMENTS[name]
    planned = chosen.plan(settings)
    ensembles = planning.ensembles(planned) if chosen.kind == "ensembles" else []
    recipes = [one.recipe for one in planned]
    path = pathlib.Path(results) / f"{name}{'_quick' if quick and planned else ''}.json"
    if path.exists() and not quick:
        kept = set(map(runs.place, recipes))
        if any(runs.place(Recipe.from_dict(run["recipe"])) not in kept for run in read(path)["runs"]):
            raise ValueError(f"'{path}' contains runs that these settings omit. Choose another directory of results.")
    for _, members in ensembles:
        runs.need_networks(members)
    path.parent.mkdir(parents=True, exist_ok=True)

    def save():
        ready = [pair for pair in ensembles if all(map(runs.finished, pair[1]))]
        content = {
            "format": FORMAT,
            "experiment": name,
            "title": chosen.title,
            "quick": path.stem.endswith("_quick"),
            "settings": dict(vars(settings)) if planned else None,
            "planned": len(planned),
            "ensembles": [{**labels, **runs.ensemble(members)} for labels, members in ready],
            "runs": [{**one.labels, **runs.measured(one.recipe)} for one in planned if runs.finished(one.recipe)],
        }
        write(path, _to_text(content))

    complete = runs.run(recipes, after=save)
    if complete or any(map(runs.finished, recipes)):
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
    """Reads a result that `reproduce` wrote, and adds its `summary`, see `summaries`, its `table` and `facts`."""
    try:
        content = json.loads(pathlib.Path(path).read_text())
        if content["format"] != FORMAT:
            raise ValueError(f"format {content['format']}")
        chosen = EXPERIMENTS[content["experiment"]]
        content["summary"] = chosen.summarize(content["runs"], content["ensembles"])
        content["table"] = chosen.how.table(content["summary"], chosen.paper)
        content["facts"] = _facts(content, chosen.paper)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"'{path}' must be a result of `anytime-keras reproduce`. Received: {error!r}.") from error
    return content


def paths(results):
    """Lists the results in a directory in the order of the experiments, with quick checks last."""
    every = [pathlib.Path(results) / f"{name}{end}.json" for end in ("", "_quick") for name in EXPERIMENTS]
    return [path for path in every if path.exists()]


def text(path):
    """Returns a result's title and table as text."""
    content = read(path)
    title = f"{content['experiment']}: {content['title']}{' (quick check)' if content['quick'] else ''}"
    return f"{title}\n\n{_tables.table(*content['table'])}"


def write_page(results):
    """Writes the tables and plots of all results in a directory into its page, README.md, and returns its path.

    The text between the generated parts is kept. A result that the page does not show yet gets a section at the end,
    with the paper's claims. The result of a quick check is shown only if there is no full result.
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
            claims = [f"- The paper says: {claim}" for claim in EXPERIMENTS[name].paper.get("claims", [])]
            text += "\n".join(["", f"## {name}: {content['title']}", "", *claims, "", begin, end, ""])
        before, _, rest = text.partition(begin)
        parts = [_markdown(["", "paper", "here"], content["facts"], ":---"), _markdown(*content["table"], "---:")]
        if (figure := EXPERIMENTS[name].how.draw(content["summary"])) is not None:
            figure.savefig(path.with_suffix(".png"), dpi=110)
            parts.append(f"![{content['title']}]({path.stem}.png)")
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
    ends = [f"{name}: {' and '.join(f'{statistics.fmean(e):.2f}' for e in zip(*all))}" for name, all in losses.items()]
    falls = [run["late_fall"] for run in runs if run.get("late_fall") is not None]
    machines = grouped(_machine(run["machine"]) for run in runs).items()
    compared = grouped((run["network"], run["exit"]) for run in runs if run["row"] == "OPT")
    networks = [
        f"{name}: {_listed(dict.fromkeys(compared[name]))}" if name in compared else name
        for name in settings["networks"]
    ]
    epochs_and_seeds = [*_each(settings["epochs"], ": "), *_each(settings["seeds"])]
    return rows + [
        ["networks", _listed(theirs["networks"]), _listed(networks, "; ")],
        ["data", _listed(theirs["datasets"]), _listed({run["dataset"]: _data(run) for run in runs}.values(), "; ")],
        ["epochs, seeds", f"{theirs['epochs']}, not stated", _listed(epochs_and_seeds)],
        ["runs", "–", f"{len(runs)} of {content.get('planned', len(runs))}"],
        ["training loss in the last epoch, first and last exit", "–", _listed(ends, "; ") or "not recorded"],
        [
            "share of the fall in training loss in the last tenth of the epochs, last exit",
            "–",
            f"{min(falls):.2f}% to {max(falls):.2f}%" if falls else "not recorded",
        ],
        ["machine", "–", _listed((f"{name}, {_listed(sorted(set(dates)))}" for name, dates in machines), "; ")],
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


def _each(value, colon=":"):
    """Returns a setting's values as a list; those of a dict with their names."""
    if isinstance(value, dict):
        return [f"{name}{colon}{number}" for name, number in value.items()]
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _listed(values, separator=", "):
    return separator.join(map(str, values))


def command(content):
    """Returns the command line that reproduces a result."""
    parts = ["anytime-keras", "reproduce", content["experiment"], *(["--quick"] if content["quick"] else [])]
    for key, value in (content["settings"] or {}).items():
        separator = ";" if key == "networks" and any(":" in each for each in value) else ","
        parts.append(f"--{'dataset' if key == 'datasets' else key}={_listed(_each(value), separator)}")
    return shlex.join(parts)
