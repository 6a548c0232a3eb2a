import json

import keras
import numpy as np
import pytest

import anytime_keras as ak
from tests import checks
from tests.benchmarks import engines, engines_page, torch_network


def test_ratios_compare_what_was_measured_in_one_round():
    medians = {
        ("predictor_litert", "last"): [1.1, 11.0, 2.2],  # the second round was disturbed
        ("litert", "last"): [1.0, 10.0, 2.0],
        ("predictor_litert", "stages"): [1.2, 12.0, 2.4],
        ("predictor_auto", "last"): [1.5, 15.0, 3.0],
        ("onnx", "last"): [2.0, 20.0, 4.0],
        ("predictor_litert", "full"): [4.0],
        ("predictor_litert", "early"): [2.0],
    }
    found = engines.ratios(medians, {"predictor_litert": {"speed_up_in_macs": 2.5}})
    assert found == pytest.approx(
        {"last_litert": 1.1, "stages_litert": 1.2, "auto_over_fastest": 1.5, "early_litert": 0.8}
    )


def test_the_page_shows_each_network_and_runtime(tmp_path):
    table = {
        "milliseconds": {"predictor_litert": {"last": 1.5, "stages": 1.8, "first": 0.2}, "torch": {"last": 12.34}},
        "ratios": {"last_litert": 1.05},
    }
    content = {
        "machine": {"processor": "A CPU", "date": "2026-01-02"},
        "threads": 2,
        "runtimes": {"torch": "2.0"},
        "note": "by night",
        "networks": {"resann5x16": {"exits": ["exit_1"], "batch_1": table}},
    }
    (tmp_path / "engines.json").write_text(json.dumps(content))
    engines_page.write(tmp_path)
    text = (tmp_path / "engines.md").read_text()
    assert "| resann5x16, batch 1 | 1.50 (1.80) | 12.3 |\n" in text and "| resann5x16, batch 1 | 1.05 |\n" in text
    assert "A CPU, 2 threads, 2026-01-02" in text and "Note: by night." in text
    assert (tmp_path / "engines.png").stat().st_size > 1000


def test_the_committed_page_is_that_of_the_committed_results():
    if not (engines_page.FOLDER / "engines.json").exists():
        pytest.skip("not measured yet")
    content = json.loads((engines_page.FOLDER / "engines.json").read_text())
    assert (engines_page.FOLDER / "engines.md").read_text() == "\n".join(engines_page.lines(content)) + "\n"


def padded():
    image = keras.Input((9, 9, 3))
    x = keras.layers.ZeroPadding2D(((1, 0), (0, 2)))(keras.layers.Conv2D(4, 3, strides=2, padding="same")(image))
    x = keras.layers.MaxPooling2D(3, strides=2, padding="same")(keras.layers.BatchNormalization()(x))
    first = keras.layers.Dense(3)(keras.layers.GlobalAveragePooling2D()(x))
    x = keras.layers.Concatenate()([x, keras.layers.ReLU()(x)])
    return ak.AnytimeModel(image, {"a": first, "b": keras.layers.Dense(3)(keras.layers.GlobalAveragePooling2D()(x))})


def small_resann():
    return ak.models.build("resann", num_units=1, channels=4, input_shape=(8, 8, 3), num_classes=5)


@pytest.mark.long
@pytest.mark.parametrize("make", [small_resann, padded])
def test_the_network_in_pytorch_equals_that_in_keras(make):
    torch = pytest.importorskip("torch")
    model = make()
    checks.scramble(model)
    x = checks.some_input(model, batch=3)
    with torch.inference_mode():
        outputs = torch_network.build(torch_network.describe(model))(torch.from_numpy(x))
    for ours, expected in zip(outputs, checks.outputs(model, x).values(), strict=True):
        np.testing.assert_allclose(ours.numpy(), expected, rtol=1e-4, atol=1e-5)
