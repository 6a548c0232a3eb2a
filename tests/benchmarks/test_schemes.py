import json
import pathlib

import numpy as np

from tests.benchmarks import schemes

README = pathlib.Path(__file__).parents[2] / "README.md"


def content():
    return json.loads(schemes.FILE.read_text())


def test_the_readmes_table_is_that_of_the_committed_results():
    text = README.read_text()
    assert schemes.replaced(text, content()) == text


def test_each_stored_run_has_the_recipe_of_its_scheme():
    runs = content()["runs"]
    seeds = {run["seed"] for run in runs}
    every = {(scheme, seed) for scheme in schemes.SCHEMES for seed in seeds}
    assert len(seeds) >= 3 and {(run["scheme"], run["seed"]) for run in runs} == every
    for run in runs:
        expected = json.loads(schemes.recipe(run["scheme"], run["seed"]).to_json())
        assert run["recipe"] == expected


def test_the_table_shows_means_and_deviations_over_seeds():
    machine, sizes = {"date": "2026-01-02"}, {"test": 359}
    rows = [{"scheme": "CONST", "seed": seed, "test": (np.arange(9) + 2 * seed).tolist()} for seed in (0, 1)]
    runs = [{**row, "recipe": {"epochs": 40}, "images": sizes} for row in rows]
    text = schemes.table({"machine": machine, "runs": runs})
    assert "| CONST | 1.0 ± 1.4 | 2.0 ± 1.4 | 3.0 ± 1.4 | 5.0 ± 1.4 | 7.0 ± 1.4 | 9.0 ± 1.4 |" in text
    assert "40 epochs, 359 test images, mean ± standard deviation of 2 seeds, measured 2026-01-02" in text
