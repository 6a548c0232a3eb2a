import itertools

import numpy as np

import anytime_keras as ak
from anytime_keras.evaluation import Monotonicity, Samples
from tests.evaluation.test_calibration import softmax
from tests.evaluation.test_evaluate import X, Y, fixed_answers


def test_falls_equal_a_count_over_all_pairs():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(5, 200, 4)), rng.integers(0, 4, 200)
    names = [f"exit_{number}" for number in range(1, 6)]
    found = Monotonicity(Samples.of(names, logits, labels), "random")
    true = softmax(logits)[:, np.arange(200), labels]
    right = logits.argmax(axis=-1) == labels
    for share, fallen in found.falls.items():
        pairs = [true[early] - true[late] > share for early, late in itertools.combinations(range(5), 2)]
        assert fallen == np.any(pairs, axis=0).mean()
    flips = [right[early] & ~right[late] for early, late in itertools.combinations(range(5), 2)]
    assert found.flips == np.any(flips, axis=0).mean()
    assert found.lost == (right[:-1].any(axis=0) & ~right[-1]).mean()
    assert list(found.accuracies.values()) == right.mean(axis=1).tolist()
    assert list(found.falls) == [0.01, 0.05, 0.1] and found.falls[0.01] > found.falls[0.1]


def test_answers_that_only_improve_never_fall():
    logits = np.array([[[0.0, 0.0]], [[1.5, 0.0]], [[3.0, 0.0]]])
    names = ["a", "b", "c"]
    assert not any(Monotonicity(Samples.of(names, logits, np.array([0]))).falls.values())
    worse = Monotonicity(Samples.of(names, logits, np.array([1])))
    assert all(worse.falls.values()) and worse.lost == 0, "no exit had it right"


def test_a_curve_returns_its_monotonicity():
    found = ak.evaluate(fixed_answers(), (X, Y), batch_size=16).monotonicity()
    true = softmax(np.stack([X, 2 * X[:, ::-1]]))[:, np.arange(50), Y]
    assert found.falls[0.05] == (true[0] - true[1] > 0.05).mean()
