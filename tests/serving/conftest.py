import keras
import numpy as np
import pytest

import anytime_keras as ak
from tests.inference.networks import Callback, layers

BACKEND = keras.backend.backend()  # networks would be converted for file runtimes first


@pytest.fixture(scope="session")
def digits():
    """A classifier of 8 x 8 digits, and a server for it."""
    classifier = ak.Classifier.from_preset("resann2x16_adaloss_digits", engine=BACKEND, exits=["exit_1", "exit_6"])
    with ak.serving.Server(classifier, max_batch=2) as server:
        yield server


@pytest.fixture(scope="session")
def image():
    images, _ = ak.data.load("digits", batch_size=359).examples["test"].fetch(slice(0, 1))
    return images[0]


def slow_network(function):
    """A network with two exits; `function` is called each time before the second one runs."""
    x = features = keras.Input((4,))
    early = layers.Dense(3, name="early")(x)
    late = layers.Dense(3, name="late")(layers.Dense(8)(Callback(function)(x)))
    return ak.AnytimeModel(features, {"early": early, "late": late})


def sample(seed=0):
    return np.random.default_rng(seed).normal(size=4).astype("float32")
