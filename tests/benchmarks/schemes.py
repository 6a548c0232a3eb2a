"""Compares weightings on data so easy that the losses of late exits go to zero, and writes `results/schemes.json`.

    python -m tests.benchmarks.schemes                      # ten seeds; stored runs are not repeated
    python -m tests.benchmarks.schemes --readme=README.md   # no runs: writes the table into the README

Trains a ResANN with nine exits on scikit-learn's digits by each of `SCHEMES`, with the paper's schedule, and stores the
error at each exit on validation images (a fifth of the training images) and on test images.
"""

import argparse
import json
import pathlib

import numpy as np

from anytime_keras import evaluation, runtime
from anytime_keras.training import Recipe, train
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
BEGIN = "<!-- schemes: made by `python -m tests.benchmarks.schemes --readme=README.md` -->"
END = "<!-- end of schemes -->"
SHOWN = (1, 2, 3, 5, 7, 9)  # exits in the table


def recipe(scheme, seed):
    """Returns the recipe of a run."""
    return Recipe(
        model={"name": "resann", "num_units": 3, "channels": 8},
        data={"data": "digits", "validation": 0.2},
        epochs=40,
        batch_size=32,
        seed=seed,
        steps_per_execution=36,  # an epoch
        **SCHEMES[scheme],
    )


def measured(scheme, seed, commit):
    """Trains by a scheme; returns the errors in percent, and the final weights."""
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


def summary(runs, split="test"):
    """Returns a dict from each scheme to the mean and the standard deviation over seeds of the error at each exit."""
    errors = {
        scheme: np.array([run[split] for run in runs if run["scheme"] == scheme])
        for scheme in dict.fromkeys(run["scheme"] for run in runs)
    }
    return {scheme: (found.mean(axis=0), found.std(axis=0, ddof=1)) for scheme, found in errors.items()}


def table(content):
    """Returns the README's table, as Markdown."""
    lines = [f"| test error (%) | {' | '.join(f'exit {number}' for number in SHOWN)} |"]
    lines.append("| --- |" + " ---: |" * len(SHOWN))
    for scheme, (means, deviations) in summary(content["runs"]).items():
        cells = [f"{means[number - 1]:.1f} ± {deviations[number - 1]:.1f}" for number in SHOWN]
        lines.append(f"| {scheme} | {' | '.join(cells)} |")
    first = content["runs"][0]
    seeds = len({run["seed"] for run in content["runs"]})
    lines += [
        "",
        f"Digits, ResANN(3, 8) with {len(first['test'])} exits, {first['recipe']['epochs']} epochs, "
        f"{first['images']['test']} test images, mean ± standard deviation of {seeds} seeds, "
        f"measured {content['machine']['date']}: "
        "[all exits, validation errors and recipes](tests/benchmarks/results/schemes.json).",
    ]
    return "\n".join(lines)


def replaced(text, content):
    """Returns a README's text with the table between the markers replaced."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{table(content)}\n{END}{after}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--readme", type=pathlib.Path)
    flags = parser.parse_args()
    content = json.loads(FILE.read_text()) if FILE.exists() else {"runs": []}
    if flags.readme:
        flags.readme.write_text(replaced(flags.readme.read_text(), content))
        return
    commit = runtime.commit(__file__)  # recorded now, because it may change during the runs
    stored = {(run["scheme"], run["seed"]) for run in content["runs"]}
    for seed in range(flags.seeds):
        for scheme in SCHEMES:
            if (scheme, seed) not in stored:
                content["runs"].append(measured(scheme, seed, commit))
                head = {"command": f"python -m tests.benchmarks.schemes --seeds={flags.seeds}"}
                content = {**head, "machine": runtime.machine(), "runs": content["runs"]}
                FILE.write_text(json.dumps(content, indent=1) + "\n")
                print(f"{scheme}, seed {seed}: {np.round(content['runs'][-1]['test'], 1)}", flush=True)


if __name__ == "__main__":
    main()
