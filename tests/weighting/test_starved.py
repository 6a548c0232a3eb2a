"""AdaLoss warns of exits with low weights and large losses if another loss is close to zero, and `gamma` as a pair."""

import warnings

import keras
import numpy as np
import pytest

import anytime_keras as ak
from anytime_keras.training import Recipe, train
from anytime_keras.weighting.adaloss import starved_exits
from tests.conftest import BACKEND

RNG = np.random.default_rng(0)
X = RNG.normal(size=(64, 4)).astype("float32")
LABELS = RNG.integers(0, 3, 64)  # do not depend on X, so that their loss stays near ln 3
ZEROS = np.zeros((64, 1), "float32")  # soon predicted exactly


def network(rate=0.1, frozen=()):
    """A model with an output for `LABELS` and one for `ZEROS`; the loss of frozen ones does not change."""
    inputs = keras.Input((4,))
    hard = keras.layers.Dense(3, name="hard", trainable="hard" not in frozen, kernel_initializer="zeros")(inputs)
    easy = keras.layers.Dense(1, name="easy", trainable="easy" not in frozen)(inputs)
    model = keras.Model(inputs, [hard, easy])
    losses = [keras.losses.SparseCategoricalCrossentropy(from_logits=True), "mse"]
    model.compile(keras.optimizers.SGD(rate), loss=losses)
    return model


def told(model, callback, epochs=6, fits=1):
    """Returns the warnings of each `fit`."""
    found = []
    for _ in range(fits):
        with warnings.catch_warnings(record=True) as raised:
            warnings.simplefilter("always")
            model.fit(X, [LABELS, ZEROS], batch_size=4, epochs=epochs, shuffle=False, verbose=0, callbacks=[callback])
        found.append([str(each.message) for each in raised if "weights below 0.1" in str(each.message)])
    return found


def test_it_warns_once_in_a_fit_and_names_the_exit_and_the_remedy():
    first, second = told(network(), ak.AdaLoss(), fits=2)
    assert len(first) == len(second) == 1
    assert "given hard weights below 0.1 for 3 epochs" in first[0]
    assert "gamma=(1.0, 0.05)" in first[0] and "label smoothing" in first[0]


@pytest.mark.parametrize(
    "why, model, callback",
    [
        ("too few epochs", lambda: network(), lambda: ak.AdaLoss()),
        ("a weight of 0.2 still trains", lambda: network(), lambda: ak.AdaLoss(gamma=0.2)),
        ("no loss falls", lambda: network(rate=0.0), lambda: ak.AdaLoss()),
        ("the smallest loss does not fall", lambda: network(frozen=["easy"]), lambda: ak.AdaLoss()),
        ("equal weights at first", lambda: network(), lambda: ak.AdaLoss(gamma=(1.0, 0.05))),
        ("a pair is a choice", lambda: network(), lambda: ak.AdaLoss(gamma=(0.09, 0.05))),
        ("another weighting", lambda: network(), lambda: ak.LossWeighting("linear")),
    ],
)
def test_it_is_silent(why, model, callback):
    assert told(model(), callback(), epochs=2 if why == "too few epochs" else 6) == [[]]


@pytest.mark.parametrize(
    "weights, averages, expected",
    [
        ([0.05, 1.0], [1.8, 0.01], [True, False]),
        ([0.05, 1.0], [1.0, 0.01], [False, False]),  # its loss has fallen to half
        ([0.11, 1.0], [1.8, 0.01], [False, False]),
        ([0.05, 1.0], [1.8, 0.25], [False, False]),  # the smallest loss is not close to zero
        ([0.05, 1.0], [1.8, np.nan], [False, False]),
        ([0.05, 1.0], [np.nan, 0.01], [False, False]),
    ],
)
def test_which_exits_are_starved(weights, averages, expected):
    assert starved_exits(weights, averages, first=[2.3, 2.3]).tolist() == expected


@pytest.mark.long
def test_it_warns_on_the_digits():
    model = {"name": "resann", "num_units": 2, "channels": 4}
    recipe = Recipe(model, "digits", epochs=8, batch_size=32, steps_per_execution=41)
    with pytest.warns(UserWarning, match="given exit_1.* weights below 0.1") as raised:
        train(recipe, verbose=False, engine="scan" if BACKEND == "jax" else "fit")
    assert sum("weights below 0.1" in str(each.message) for each in raised) == 1


# === gamma as a pair ===


class Weights(keras.callbacks.Callback):
    def __init__(self, weighting):
        super().__init__()
        self.weighting, self.rows = weighting, []

    def on_train_batch_end(self, batch, logs=None):
        self.rows.append((self.weighting.averages, self.weighting.weights))


def test_gamma_changes_over_the_batches_of_the_first_fit():
    model, adaloss = network(), ak.AdaLoss(gamma=(0.9, 0.1))
    rows = Weights(adaloss)
    for epochs in (2, 1):  # in the second `fit`, gamma stays at 0.1
        model.fit(X, [LABELS, ZEROS], batch_size=8, epochs=epochs, verbose=0, callbacks=[adaloss, rows])
    assert len(rows.rows) == 24
    for number, (averages, weights) in enumerate(rows.rows, 1):
        gamma = 0.9 - 0.8 * min(number / 16, 1.0)
        np.testing.assert_allclose(weights, (1 - gamma) * averages.min() / averages + gamma, rtol=1e-5)
    assert rows.rows[0][1].min() > 0.8 > rows.rows[-1][1].min()


def test_gamma_as_a_pair_needs_the_number_of_batches():
    batches = ((X[:8], (LABELS[:8], ZEROS[:8])) for _ in range(4))
    model = network()
    with pytest.raises(ValueError, match="unknown length"):
        model.fit(batches, verbose=0, callbacks=[ak.AdaLoss(gamma=(1.0, 0.05))])
    model.fit(X, [LABELS, ZEROS], verbose=0)  # as without a weighting
    with pytest.raises(ValueError, match="custom training loop"):
        ak.AdaLoss(gamma=(1.0, 0.05))(keras.ops.convert_to_tensor([1.0, 2.0]))


@pytest.mark.parametrize("gamma", [(1.0,), (1.0, 2.0), (1.0, 0.5, 0.1), ("a", 0.1), (True, 0.1)])
def test_a_pair_out_of_range_is_refused(gamma):
    with pytest.raises(ValueError, match="pair") as error:
        ak.AdaLoss(gamma=gamma)
    assert repr(gamma) in str(error.value)
