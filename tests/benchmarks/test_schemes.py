import functools
import json
import pathlib

import keras
import numpy as np
import pytest

from tests.benchmarks import candidates, schemes

ROOT = pathlib.Path(__file__).parents[2]


def content():
    return json.loads(schemes.FILE.read_text())


@pytest.mark.parametrize("page, with_candidates", [("README.md", False), ("zoo/results/README.md", True)])
def test_the_tables_on_the_pages_are_those_of_the_committed_results(page, with_candidates):
    text = (ROOT / page).read_text()
    assert schemes.replaced(text, content(), with_candidates) == text


def test_each_stored_run_has_the_recipe_of_its_scheme():
    runs = content()["runs"]
    assert len(runs) == len({(run["scheme"], run["seed"]) for run in runs})
    for run in runs:
        expected = json.loads(schemes.recipe(run["scheme"], run["seed"]).to_json())
        assert run["recipe"] == expected


@pytest.mark.parametrize("name", candidates.WEIGHTINGS)
def test_candidates_weight_as_described(name):
    """Equal losses at first, then a last exit without loss."""
    gamma = {"gamma": (1.0, 0.05)} if name == "last_exit_first" else {"gamma": 0.0}
    weighting = candidates.WEIGHTINGS[name](**gamma)
    weighting.build(2)
    if name == "last_exit_first":
        weighting._state["planned_steps"].assign(8)
    found = []
    for losses in ([2.0, 2.0], [2.0, 0.0]):
        for _ in range(50):
            weighting.update(keras.ops.convert_to_tensor(losses))
            found.append(weighting.weights.tolist())
    expected = {
        "validation_gamma": ([1.0, 1.0], [1.0, 1.0]),  # gamma is 1 before the first epoch's end
        "floor": ([1.0, 1.0], [0.1, 1.0]),
        "last_exit_first": ([0.0, 1.0], [0.05, 1.0]),
    }
    if name == "remaining_loss":
        assert found[0] == [1.0, 1.0] and found[-1][0] < 0.2 and found[-1][1] == 1.0
    else:
        assert (found[0], found[-1]) == tuple(map(functools.partial(pytest.approx, abs=0.01), expected[name]))


def test_gamma_by_validation_falls_while_the_last_exit_improves():
    weighting = candidates.ValidationGamma()
    weighting.build(2)
    found = []
    for loss in (1.0, 0.8, 0.9, 0.9, 0.9, 0.7):
        weighting._choose_gamma(loss)
        found.append(float(weighting._read("gamma")))
    assert found == [0.5, 0.25, 0.5, 1.0, 1.0, 0.5]


def test_the_table_shows_means_and_deviations_over_seeds():
    """Seed 2 is left out, because one scheme has no run of it."""
    machine, about = {"date": "2026-01-02"}, {"recipe": {"epochs": 40}, "images": {"test": 359}}
    runs = [
        {"scheme": scheme, "seed": seed, "test": (np.arange(9) + 2 * seed).tolist(), **about}
        for scheme in schemes.SCHEMES
        for seed in (0, 1, 2)
        if (scheme, seed) != ("LINEAR", 2)
    ]
    text = schemes.table({"machine": machine, "runs": runs})
    assert "| CONST | 2 | 1.0 ± 1.4 | 2.0 ± 1.4 | 3.0 ± 1.4 | 5.0 ± 1.4 | 7.0 ± 1.4 | 9.0 ± 1.4 |" in text
    assert "40 epochs, 359 test images, mean ± standard deviation over seeds, measured 2026-01-02" in text
