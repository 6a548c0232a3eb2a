"""Real CIFAR-10, if it is beside the checkout (`../shared/data`)."""

import pathlib
import subprocess
import sys

import numpy as np
import pytest

import anytime_keras as ak
from anytime_keras.training import Recipe, train

UNPACK = pathlib.Path(__file__).parents[2] / "shared" / "data" / "unpack_cifar10.py"
pytestmark = [
    pytest.mark.skipif(not UNPACK.exists(), reason="CIFAR-10 is not there"),
    pytest.mark.tensorflow,  # one backend is enough
]


@pytest.fixture(scope="module")
def cifar10(tmp_path_factory):
    path = tmp_path_factory.mktemp("cifar10") / "cifar10.npz"
    subprocess.run([sys.executable, UNPACK, "--npz", path], check=True)
    return path


def test_channel_statistics_are_the_published_ones_and_splits_are_balanced(cifar10):
    data = ak.data.load(cifar10, validation=5000)
    np.testing.assert_allclose(data.mean, [0.4914, 0.4822, 0.4465], atol=1e-3)
    np.testing.assert_allclose(data.std, [0.2470, 0.2435, 0.2616], atol=1e-3)
    assert data.sizes == {"train": 45000, "validation": 5000, "test": 10000}
    assert (np.bincount(data.examples["validation"].labels) == 500).all()


def test_the_zoos_network_has_the_accuracy_of_its_manifest(cifar10):
    data = ak.data.load(cifar10, validation=5000, batch_size=500)
    curve = ak.evaluate(ak.zoo.load("resann5x16_adaloss", "cifar10"), data.test)
    entry = ak.zoo.show("resann5x16_adaloss").pick("cifar10")
    assert entry.content["data"]["class_names"][::9] == ["airplane", "truck"]
    stated = entry.accuracies
    assert [1 - error for error in curve.errors] == pytest.approx(stated, abs=0.001)
    assert stated[-1] > 0.85
    assert np.diff(stated).min() > -0.005, "an exit is much less accurate than the one before it"


def test_a_few_hundred_steps_reduce_the_error_and_later_exits_are_better(cifar10, tmp_path):
    with np.load(cifar10) as file:
        arrays = {"x_train": file["x_train"][::5], "y_train": file["y_train"][::5]}
        arrays.update({"x_test": file["x_test"][::5], "y_test": file["y_test"][::5]})
    np.savez(tmp_path / "part.npz", **arrays)
    recipe = Recipe.paper(
        {"name": "resann", "num_units": 1, "channels": 16},
        {"data": str(tmp_path / "part.npz"), "augment": ["pad_crop", "flip"]},
        epochs=2,
    )
    errors = train(recipe, verbose=False).curve.errors
    assert errors[-1] < 0.65 and errors[-1] < errors[0] - 0.03
