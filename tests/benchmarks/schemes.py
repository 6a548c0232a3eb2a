"""Compares weightings on data so easy that the losses of late exits go to zero, and writes `results/schemes.json`.

    python -m tests.benchmarks.schemes                      # ten seeds; stored runs are not repeated
    python -m tests.benchmarks.schemes --candidates         # three seeds of schemes that are not part of the library
    python -m tests.benchmarks.schemes --readme=README.md   # no runs: writes the table into the README
    python -m tests.benchmarks.schemes --candidates --readme=zoo/results/README.md

Trains a ResANN with nine exits on scikit-learn's digits by each scheme, with the paper's schedule, and stores the error
at each exit on validation images (a fifth of the training images) and on test images. Schemes are chosen by validation
errors; the README shows test errors.
"""

import argparse
import contextlib
import json
import pathlib
from unittest import mock

import numpy as np

from anytime_keras import evaluation, runtime, weighting
from anytime_keras.training import Recipe, distillation, train
from tests.benchmarks import candidates
from tests.benchmarks.measuring import RESULTS

FILE = RESULTS / "schemes.json"
# What differs between the schemes: attributes of `Recipe`.
SCHEMES = {
    "CONST": {"weighting": {"name": "constant"}},
    "LINEAR": {"weighting": {"name": "linear"}},
    "AdaLoss": {"weighting": {"name": "adaloss"}},
    "AdaLoss, label smoothing 0.1": {"weighting": {"name": "adaloss"}, "label_smoothing": 0.1},
    "AdaLoss, gamma from 1 to 0.05": {"weighting": {"name": "adaloss", "gamma": [1.0, 0.05]}},
}
AVERAGED_TEACHER = "AdaLoss, averaged teacher"
CANDIDATES = {
    "AdaLoss, gamma by validation": {"weighting": {"name": "validation_gamma"}},
    "AdaLoss, losses of at least a tenth": {"weighting": {"name": "floor"}},
    "AdaLoss, remaining loss": {"weighting": {"name": "remaining_loss"}},
    "last exit first, then AdaLoss": {"weighting": {"name": "last_exit_first", "gamma": [1.0, 0.05]}},
    AVERAGED_TEACHER: {"weighting": {"name": "adaloss"}, "distillation": {"weight": 1.0, "temperature": 1.0}},
}
BEGIN = "<!-- {}: made by `python -m tests.benchmarks.schemes {}` -->"
END = "<!-- end of {} -->"
SHOWN = (1, 2, 3, 5, 7, 9)  # exits in the table


@contextlib.contextmanager
def installed(scheme):
    """Lets recipes name the candidates."""
    teach = candidates.teach_by_average if scheme == AVERAGED_TEACHER else distillation.teach
    with mock.patch.dict(weighting.SCHEMES, candidates.WEIGHTINGS), mock.patch.object(distillation, "teach", teach):
        yield


def recipe(scheme, seed):
    """Returns the recipe of a run."""
    with installed(scheme):
        return Recipe(
            model={"name": "resann", "num_units": 3, "channels": 8},
            data={"data": "digits", "validation": 0.2},
            epochs=40,
            batch_size=32,
            seed=seed,
            steps_per_execution=36,  # an epoch
            **{**SCHEMES, **CANDIDATES}[scheme],
        )


def measured(scheme, seed, commit):
    """Trains by a scheme; returns the errors in percent, and the final weights."""
    with installed(scheme):
        run = train(recipe(scheme, seed), verbose=False)
    errors = {
        split: [100 * point.error for point in evaluation.evaluate(run.model, getattr(run.data, split))]
        for split in ("validation", "test")
    }
    return {
        "scheme": scheme,
        "seed": seed,
        "commit": commit,
        "recipe": run.recipe.to_dict(),
        "images": run.data.sizes,
        "weights": run.weighting.weights.tolist(),
        **errors,
    }


def common_seeds(runs):
    """Returns the seeds of which every one of `SCHEMES` has a run."""
    return set.intersection(*({run["seed"] for run in runs if run["scheme"] == scheme} for scheme in SCHEMES))


def table(content, with_candidates=False):
    """Returns the table as Markdown: test errors, or validation errors with the candidates' as well, on their seeds."""
    split = "validation" if with_candidates else "test"
    runs, seeds = content["runs"], common_seeds(content["runs"])
    if with_candidates:
        seeds &= {run["seed"] for run in runs if run["scheme"] in CANDIDATES}
    lines = [f"| {split} error (%) | seeds | {' | '.join(f'exit {number}' for number in SHOWN)} |"]
    lines.append("| --- |" + " ---: |" * (len(SHOWN) + 1))
    for scheme in [*SCHEMES, *(CANDIDATES if with_candidates else ())]:
        own = [run for run in runs if run["scheme"] == scheme and (scheme in CANDIDATES or run["seed"] in seeds)]
        if own:
            found = np.array([run[split] for run in own])
            cells = [f"{each:.1f}" for each in found.mean(axis=0)]
            if len(own) > 1:
                cells = [f"{cell} ± {each:.1f}" for cell, each in zip(cells, found.std(axis=0, ddof=1))]
            lines.append(f"| {scheme} | {len(own)} | {' | '.join(cells[number - 1] for number in SHOWN)} |")
    first = runs[0]
    where = "../../" if with_candidates else ""
    lines += [
        "",
        f"Digits, ResANN(3, 8) with {len(first['test'])} exits, {first['recipe']['epochs']} epochs, "
        f"{first['images'][split]} {split} images, mean ± standard deviation over seeds, "
        f"measured {content['machine']['date']}: "
        f"[all exits, both splits, recipes]({where}tests/benchmarks/results/schemes.json).",
    ]
    return "\n".join(lines)


def replaced(text, content, with_candidates=False):
    """Returns a page's text with the table between the markers replaced."""
    name = "candidates" if with_candidates else "schemes"
    flags = "--candidates --readme=zoo/results/README.md" if with_candidates else "--readme=README.md"
    begin, end = BEGIN.format(name, flags), END.format(name)
    before, _, rest = text.partition(begin)
    return f"{before}{begin}\n{table(content, with_candidates)}\n{end}{rest.partition(end)[2]}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, help="number of seeds; default: 10, of candidates 3")
    parser.add_argument("--candidates", action="store_true")
    parser.add_argument("--only", default="", help="text in the names of the schemes to run")
    parser.add_argument("--readme", type=pathlib.Path)
    flags = parser.parse_args()
    content = json.loads(FILE.read_text()) if FILE.exists() else {"runs": []}
    if flags.readme:
        flags.readme.write_text(replaced(flags.readme.read_text(), content, flags.candidates))
        return
    commit = runtime.commit(__file__)  # recorded now, because it may change during the runs
    stored = {(run["scheme"], run["seed"]) for run in content["runs"]}
    for seed in range(flags.seeds or (3 if flags.candidates else 10)):
        for scheme in CANDIDATES if flags.candidates else SCHEMES:
            if flags.only in scheme and (scheme, seed) not in stored:
                content["runs"].append(measured(scheme, seed, commit))
                head = {"command": "python -m tests.benchmarks.schemes"}
                content = {**head, "machine": runtime.machine(), "runs": content["runs"]}
                FILE.write_text(json.dumps(content, indent=1) + "\n")
                print(f"{scheme}, seed {seed}: {np.round(content['runs'][-1]['validation'], 1)}", flush=True)


if __name__ == "__main__":
    main()
