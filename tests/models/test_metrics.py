"""A metric that is given once is copied for each exit with all its arguments."""

import threading

import keras
import numpy as np
import pytest

import anytime_keras as ak
from tests import checks

X = np.linspace(-1, 1, 24).reshape(6, 4).astype("float32")
Y = np.array([0, 1, 2, 0, 1, 2])


class Sure(keras.metrics.Metric):
    """The share of outputs above a threshold; has no `get_config`."""

    def __init__(self, threshold=0.5, name="sure"):
        super().__init__(name=name)
        self.threshold = threshold
        self.held = {"means": [keras.metrics.Mean()]}
        self.count = self.add_variable((), "zeros", name="count")

    def update_state(self, y_true, y_pred, sample_weight=None):
        self.count.assign_add(1.0)
        self.held["means"][0].update_state(keras.ops.cast(y_pred > self.threshold, "float32"), sample_weight)

    def result(self):
        return self.held["means"][0].result()


class Above(Sure):
    """A metric with a required argument."""

    def __init__(self, threshold):
        super().__init__(threshold, name="above")


class Locked(Sure):
    def __init__(self):
        super().__init__()
        self.lock = threading.Lock()


def network():
    inputs = keras.Input((4,))
    x = keras.layers.Dense(5, activation="tanh")(inputs)
    return ak.AnytimeModel(inputs, {"a": keras.layers.Dense(3)(x), "b": keras.layers.Dense(3)(x)})


def mean_output(scale):
    return keras.metrics.MeanMetricWrapper(lambda y_true, y_pred: scale * keras.ops.mean(y_pred, -1), "mean_output")


@pytest.mark.parametrize("argument", ["metrics", "weighted_metrics"])
def test_a_metric_keeps_its_arguments_at_each_exit(argument):
    model = network()
    metrics = [Sure(threshold=0.0), Above(0.2), mean_output(2.0), keras.metrics.SparseTopKCategoricalAccuracy(2)]
    model.compile("sgd", loss=checks.crossentropy(), **{argument: metrics})
    for _ in range(2):
        logs = model.evaluate(X, Y, verbose=0, return_dict=True)
        for name, logits in checks.outputs(model, X).items():
            np.testing.assert_allclose(logs[f"{name}_sure"], (logits > 0).mean(), rtol=1e-6)
            np.testing.assert_allclose(logs[f"{name}_above"], (logits > 0.2).mean(), rtol=1e-6)
            np.testing.assert_allclose(logs[f"{name}_mean_output"], 2 * logits.mean(), rtol=1e-5)
    assert not any(np.any(keras.ops.convert_to_numpy(v)) for metric in metrics for v in metric.variables)


def test_a_list_of_metrics_for_each_exit():
    model = network()
    model.compile("sgd", loss=checks.crossentropy(), metrics=[[Sure(0.0)], ["accuracy", Above(0.2)]])
    logs = model.evaluate(X, Y, verbose=0, return_dict=True)
    assert set(logs) == {"loss", "a_loss", "b_loss", "a_sure", "b_accuracy", "b_above"}
    with pytest.raises(ValueError, match="metrics of length 1.*2 exits"):
        model.compile("sgd", loss=checks.crossentropy(), metrics=[["accuracy"]])


def test_a_copy_has_state_of_its_own():
    metric = Sure(0.0)
    copied = ak.models.anytime_model.copy_metric(metric)
    assert len(copied.variables) == len(metric.variables) == 3
    assert not {id(variable) for variable in copied.variables} & {id(variable) for variable in metric.variables}
    copied.update_state(Y, np.ones((2, 2)))
    assert float(copied.result()) == 1.0 and float(metric.result()) == 0.0


def test_a_metric_that_cannot_be_copied_is_refused():
    with pytest.raises(ValueError, match="can be copied.*Locked name=sure.*dict"):
        network().compile("sgd", loss=checks.crossentropy(), metrics=[Locked()])
    model = network()
    model.compile("sgd", loss=checks.crossentropy(), metrics={name: [Locked()] for name in "ab"})
    assert "b_sure" in model.evaluate(X, Y, verbose=0, return_dict=True)


@pytest.mark.long
@pytest.mark.tensorflow
def test_a_copied_metric_on_two_replicas(two_replicas):
    with two_replicas.scope():
        model = network()
        model.compile("sgd", loss=checks.crossentropy(), metrics=[Sure(threshold=0.0)])
    logs = model.evaluate(X, Y, verbose=0, return_dict=True)
    for name, logits in checks.outputs(model, X).items():
        np.testing.assert_allclose(logs[f"{name}_sure"], (logits > 0).mean(), rtol=1e-6)
