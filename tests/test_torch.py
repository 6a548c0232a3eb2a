"""Inference, evaluation and training on Keras's PyTorch backend, in a separate process."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

pytestmark = [pytest.mark.long, pytest.mark.tensorflow]  # one run is enough
pytest.importorskip("torch")

BEGIN = """
import json, tempfile, numpy as np, keras
import anytime_keras as ak

def small():
    model = ak.models.build("resann", num_units=1, channels=4, input_shape=(8, 8, 1), num_classes=10)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss, metrics=["accuracy"])
    return model

data = ak.data.load("digits", batch_size=64)
found = {"backend": keras.backend.backend()}
"""
INFERENCE = """
from anytime_keras.zoo import catalog, loading
zoo = ak.zoo.load("resann2x16_adaloss_digits")
manifest, home = catalog.find("resann2x16_adaloss_digits")
x, logits = loading.golden(manifest.pick(), home)
outputs = zoo(x)
found["golden"] = max(float(np.abs(keras.ops.convert_to_numpy(outputs[name]) - logits[name]).max()) for name in logits)
curve = ak.zoo.evaluate("resann2x16_adaloss_digits")
found["errors"], found["stated"] = curve.errors, [1 - accuracy for accuracy in curve.about["manifest"]]
base = keras.applications.MobileNet(input_shape=(32, 32, 3), alpha=0.25, weights=None, classes=7)
anytime = ak.to_anytime(base, num_exits=3)
image = np.random.default_rng(0).normal(size=(1, 32, 32, 3)).astype("float32")
last = keras.ops.convert_to_numpy(anytime(image)["exit_3"])
found["last"] = float(np.abs(last - keras.ops.convert_to_numpy(base(image))).max())
zoo.save(tempfile.mkdtemp() + "/model.keras")
found["label"] = ak.Classifier.from_preset("resann2x16_adaloss_digits")(np.zeros((8, 8), "uint8")).label
"""
TRAINING = """
model = small()
history = model.fit(data.train, epochs=2, verbose=0, callbacks=[WEIGHTING], shuffle=False)
found["loss"] = history.history["loss"]
found["weights"] = [history.history[f"{name}_weight"][-1] for name in model.exit_names]
"""


def on_torch(script):
    done = subprocess.run(
        [sys.executable, "-c", BEGIN + script + "\nprint('FOUND', json.dumps(found))"],
        cwd=pathlib.Path(__file__).parents[1],
        env={**os.environ, "KERAS_BACKEND": "torch"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        timeout=3600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.partition("FOUND ")[2])
    assert found["backend"] == "torch"
    return found


def test_networks_are_loaded_evaluated_and_converted():
    found = on_torch(INFERENCE)
    assert found["golden"] < 1e-3 and found["last"] < 1e-5
    assert found["errors"] == pytest.approx(found["stated"], abs=0.003)  # one of 359 images
    assert found["label"] in list("0123456789")


@pytest.mark.parametrize(
    "weighting",
    ["ak.LossWeighting('linear')", "ak.AdaLoss()"],
)
def test_weighted_losses_are_trained(weighting):
    found = on_torch(TRAINING.replace("WEIGHTING", weighting))
    assert found["loss"][1] < found["loss"][0]
    if "linear" in weighting:
        assert found["weights"] == pytest.approx([0.25, 0.625, 1.0])
    else:
        assert max(found["weights"]) == pytest.approx(1.0) and min(found["weights"]) < 1
