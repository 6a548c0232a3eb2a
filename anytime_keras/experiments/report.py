"""Runs an experiment, writes its result as JSON, and shows it in the terminal and on a Markdown page."""

import json
import pathlib
import shlex
from statistics import fmean

from anytime_keras import _files, _tables
from anytime_keras._errors import explained
from anytime_keras.experiments import planning
from anytime_keras.experiments.catalog import EXPERIMENTS, KINDS
from anytime_keras.experiments.summaries import grouped
from anytime_keras.training import Recipe

FORMAT = 1
INTRODUCTION = """# Reproduction of the paper's results

`anytime-keras reproduce page` generates the parts between markers from the JSON files here. It keeps all other text.
"""
FACTS = ["", "paper", "here"]  # the headings of `_facts`
BEGIN, END = "<!-- {}: made by `anytime-keras reproduce page` -->", "<!-- end of {} -->"


def reproduce(name, settings, runs, results, quick=False):
    """Runs the unfinished training runs of an experiment and writes its result to `results` after each of them.

    A `quick` check has a file of its own. Returns the result's path, and whether all runs are finished.
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
    path.parent.mkdir(parents=True, exist_ok=True)  # fails before the runs if it is not possible

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
        _files.put(path, _to_text(content))

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
    kinds = (ValueError, LookupError, TypeError, AttributeError)
    with explained(f"'{path}' must be a result of `anytime-keras reproduce`. Received: ", *kinds, end=".", form=repr):
        content = json.loads(pathlib.Path(path).read_text())
        if content["format"] != FORMAT:
            raise ValueError(f"format {content['format']}")
        chosen = EXPERIMENTS[content["experiment"]]
        content["summary"] = chosen.summarize(content["runs"], content["ensembles"])
        content["table"] = KINDS[chosen.kind].table(content["summary"], chosen.paper)
        content["facts"] = _facts(content, chosen.paper)
    return content


def paths(results):
    """Lists the results in a directory in the order of the experiments, with quick checks last."""
    every = [pathlib.Path(results) / f"{name}{end}.json" for end in ("", "_quick") for name in EXPERIMENTS]
    return [path for path in every if path.exists()]


def write_page(results):
    """Writes the tables and plots of all results in a directory into its page, README.md, and returns its path.

    All other text is kept. A result that the page does not show yet gets a section with the paper's claims at the end.
    The result of a quick check is shown only if there is no full result.
    """
    found = {}
    for path in paths(results):
        found.setdefault(path.stem.removesuffix("_quick"), path)
    if not found:
        raise ValueError(f"There are no results in '{results}'. Run `anytime-keras reproduce table1 --quick` first.")
    page = pathlib.Path(results) / "README.md"
    text = page.read_text(encoding="utf-8") if page.exists() else INTRODUCTION
    for name, path in found.items():
        begin, end, content = BEGIN.format(name), END.format(name), read(path)
        if begin not in text:
            claims = [f"- The paper says: {claim}" for claim in EXPERIMENTS[name].paper.get("claims", [])]
            text += "\n".join(["", f"## {name}: {content['title']}", "", *claims, "", begin, end, ""])
        before, _, rest = text.partition(begin)
        parts = [_tables.markdown(FACTS, content["facts"], others=":---"), _tables.markdown(*content["table"])]
        if (figure := KINDS[EXPERIMENTS[name].kind].draw(content["summary"])) is not None:
            figure.savefig(path.with_suffix(".png"), dpi=110)
            parts.append(f"![{content['title']}]({path.stem}.png)")
        parts.append(f"Run again: `{command(content)}` ([{path.name}]({path.name}))")
        text = "\n\n".join([f"{before}{begin}", *parts, f"{end}{rest.partition(end)[2]}"])
    _files.put(page, text)
    return page


def _facts(content, theirs):
    """Lists how the paper's numbers and a result were obtained: what, in the paper, here."""
    settings, runs = content["settings"], content["runs"]
    rows = [["source", theirs["source"], "**quick check, not comparable with the paper**" if content["quick"] else ""]]
    if settings is None:
        return rows
    on = " on {dataset}" if len(settings["datasets"]) > 1 else ""
    logged = [run for run in runs if run["train_loss"] and run["row"] != "OPT"]
    losses = grouped((run["row"] + on.format(**run), run["train_loss"]) for run in logged).items()
    means = [(name, *(fmean(loss[exit] for loss in each) for exit in (0, -1))) for name, each in losses]
    ends = [f"{name}: {first:.2f} and {last:.2f}" for name, first, last in means]
    falls = [run["late_fall"] for run in runs if run.get("late_fall") is not None]
    fall = f"{min(falls):.2f}% to {max(falls):.2f}%" if falls else "not recorded"
    machines = grouped((_machine(run["machine"]), run["machine"]["date"]) for run in runs).items()
    compared = grouped((run["network"], run["exit"]) for run in runs if run["row"] == "OPT")
    exits = {name: f": {_listed(dict.fromkeys(names))}" for name, names in compared.items()}
    networks = [name + exits.get(name, "") for name in settings["networks"]]
    scale = _listed(_each(settings["epochs"], ": ") + _each(settings["seeds"], ": "))
    return rows + [
        ["networks", _listed(theirs["networks"]), _listed(networks, "; ")],
        ["data", _listed(theirs["datasets"]), _listed({run["dataset"]: _data(run) for run in runs}.values(), "; ")],
        ["epochs, seeds", f"{theirs['epochs']}, not stated", scale],
        ["runs", "–", f"{len(runs)} of {content.get('planned', len(runs))}"],
        ["training loss in the last epoch, first and last exit", "–", _listed(ends, "; ") or "not recorded"],
        ["share of the fall in training loss in the last tenth of the epochs, last exit", "–", fall],
        ["machine", "–", _listed((f"{name}, {_listed(sorted(set(dates)))}" for name, dates in machines), "; ")],
    ]


def _data(run):
    arguments = run["recipe"]["data"]
    sizes = _listed((f"{count} {split}" for split, count in run["sizes"].items()), " + ")
    last = "; validation: the last training images" if arguments.get("validation") == "last" else ""
    return f"{run['dataset']} ({sizes}{last}; {_listed(arguments.get('augment') or ['no augmentation'])})"


def _machine(machine):
    backend, versions = machine["backend"], machine["versions"]
    return f"{machine['processor']}, {backend} {versions.get(backend, '')}, Keras {versions.get('keras')}"


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
