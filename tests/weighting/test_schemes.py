import keras
import numpy as np
import pytest

import anytime_keras as ak
from anytime_keras import weighting


@pytest.mark.parametrize(
    "scheme, num_exits, expected",
    [
        (weighting.ConstantWeighting(), 3, [1, 1, 1]),
        (weighting.LinearWeighting(), 4, [0.25, 0.5, 0.75, 1]),
        (weighting.LinearWeighting(), 1, [1]),
        (weighting.HalfEndWeighting(), 5, [0.25, 0.25, 0.25, 0.25, 1]),
        (weighting.HalfEndWeighting(), 1, [1]),
        (weighting.SingleExit(1), 3, [1, 0, 0]),
        (weighting.SingleExit(3), 3, [0, 0, 1]),
        (weighting.SingleExit(np.int64(3)), 3, [0, 0, 1]),
        (weighting.SingleExit(-1), 3, [0, 0, 1]),
        (weighting.SingleExit("exit_2"), 3, [0, 1, 0]),
    ],
)
def test_values_computed_by_hand(scheme, num_exits, expected):
    scheme.build(num_exits)
    np.testing.assert_allclose(scheme.weights, expected)
    losses = keras.ops.convert_to_tensor(np.arange(1.0, num_exits + 1, dtype="float32"))
    np.testing.assert_allclose(float(scheme(losses)), np.dot(expected, np.arange(1, num_exits + 1)))


def test_a_scheme_is_shown_with_its_arguments():
    assert repr(weighting.LinearWeighting()) == "LinearWeighting()"
    assert repr(weighting.AdaLoss(gamma=0.2)).startswith("AdaLossWeighting(gamma=0.2, momentum=0.9, ")


@pytest.mark.parametrize("exit", [0, True, 1.5, None])
def test_single_exit_refuses_invalid_exits(exit):
    with pytest.raises(ValueError, match="counted from 1"):
        weighting.SingleExit(exit)


@pytest.mark.parametrize("exit", [4, -4, "exit_9"])
def test_single_exit_refuses_an_exit_that_the_model_lacks(exit):
    with pytest.raises(ValueError, match="does not have"):
        weighting.SingleExit(exit).build(3)


def test_the_number_of_exits_may_be_an_integer_of_numpy():
    scheme = weighting.LinearWeighting()
    scheme.build(np.int64(2))
    assert scheme.exit_names == ["exit_1", "exit_2"]


def test_config_round_trip():
    for scheme in (weighting.ConstantWeighting(), weighting.LinearWeighting(), weighting.SingleExit(2)):
        again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(scheme))
        assert type(again) is type(scheme) and again.get_config() == scheme.get_config()


def test_weights_are_unknown_before_the_exits_are():
    with pytest.raises(ValueError, match="build"):
        weighting.AdaLossWeighting().weights


@pytest.mark.parametrize(
    "averages, gamma, final_extra, expected",
    [
        ([4.0, 2.0, 1.0], 0.0, 0.0, [0.25, 0.5, 1.0]),
        ([4.0, 2.0, 1.0], 0.2, 0.0, [0.4, 0.6, 1.0]),
        ([4.0, 2.0, 1.0], 1.0, 0.0, [1.0, 1.0, 1.0]),
        ([1.0, 2.0, 4.0], 0.0, 0.0, [1.0, 0.5, 0.25]),
        ([4.0, 2.0, 1.0], 0.0, 1.0, [0.125, 0.25, 1.0]),
        ([1.0, 2.0, 4.0], 0.1, 1.0, [0.82, 0.46, 1.0]),
        ([3.0], 0.05, 0.0, [1.0]),
    ],
)
def test_adaloss_weights_computed_by_hand(averages, gamma, final_extra, expected):
    got = keras.ops.convert_to_numpy(ak.weighting.adaloss_weights(averages, gamma, final_extra))
    np.testing.assert_allclose(got, expected, rtol=1e-6)
