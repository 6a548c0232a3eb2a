"""The callback on models of every form, and its errors."""

import pickle

import keras
import numpy as np
import pytest

import anytime_keras as ak
from tests.weighting.reference import Reference

RNG = np.random.default_rng(0)
X = RNG.normal(size=(48, 4)).astype("float32")
LABELS = RNG.integers(0, 3, 48)
TARGETS = RNG.normal(size=(48, 1)).astype("float32")


def heads(inputs):
    x = keras.layers.Dense(5, activation="tanh")(inputs)
    classes = keras.layers.Dense(3, name="classes")(x)
    value = keras.layers.Dense(1, name="value")(x)
    return classes, value


def crossentropy():
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def list_model():
    inputs = keras.Input((4,))
    return keras.Model(inputs, list(heads(inputs)))


def dict_model():
    inputs = keras.Input((4,))
    classes, value = heads(inputs)
    return keras.Model(inputs, {"value": value, "classes": classes})


class Steps(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.logs = []

    def on_epoch_end(self, epoch, logs=None):
        self.logs.append(dict(logs))


FORMS = {
    "list of losses": (list_model, ["classes", "value"], dict(loss=[crossentropy(), "mse"]), [LABELS, TARGETS]),
    "dict of losses on a list": (
        list_model,
        ["classes", "value"],
        dict(loss={"value": "mse", "classes": crossentropy()}),
        [LABELS, TARGETS],
    ),
    "dict of outputs": (
        dict_model,
        ["value", "classes"],
        dict(loss={"classes": crossentropy(), "value": "mse"}),
        {"classes": LABELS, "value": TARGETS},
    ),
    "with weights": (
        dict_model,
        ["value", "classes"],
        dict(loss={"classes": crossentropy(), "value": "mse"}, loss_weights={"classes": 3.0, "value": 0.5}),
        {"classes": LABELS, "value": TARGETS},
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_any_functional_model_with_several_outputs(form):
    make, names, compiled, y = FORMS[form]
    model, adaloss, steps = make(), ak.AdaLoss(gamma=0.2), Steps()
    model.compile(keras.optimizers.SGD(0.1), **compiled)
    for _ in range(5):  # an epoch is one batch here, so each log is that of a batch
        model.fit(X, y, batch_size=48, shuffle=False, verbose=0, callbacks=[adaloss, steps])
    own = np.array([(compiled.get("loss_weights") or {}).get(name, 1.0) for name in names])
    reference = Reference(2, gamma=0.2, momentum=0.9)
    for logs in steps.logs:
        weights = reference.weights * own
        losses = [logs[f"{name}_loss"] for name in names]
        reference.step(losses)
        np.testing.assert_allclose(logs["loss"], np.dot(weights, losses), rtol=1e-4)
        np.testing.assert_allclose([logs[f"{name}_weight"] for name in names], reference.weights, rtol=1e-4)
    np.testing.assert_allclose(adaloss.averages, reference.averages, rtol=1e-4)


def test_a_weighting_is_a_callback_too():
    results = []
    for make in (lambda: ak.AdaLoss(gamma=0.2), lambda: ak.AdaLossWeighting(gamma=0.2)):
        keras.utils.set_random_seed(0)
        model, callback = dict_model(), make()
        model.compile(keras.optimizers.SGD(0.1), loss={"classes": crossentropy(), "value": "mse"})
        y = {"classes": LABELS, "value": TARGETS}
        for _ in range(2):
            logs = model.fit(X, y, batch_size=24, shuffle=False, verbose=0, callbacks=[callback]).history
        results.append((logs, callback.weights.tolist()))
    assert results[0] == results[1] and min(results[0][1]) < 1
    copied = pickle.loads(pickle.dumps(callback))
    assert copied.weights.tolist() == callback.weights.tolist()
    with pytest.raises(ValueError, match="one weighting"):
        model.fit(X, y, verbose=0, callbacks=[callback, ak.LossWeighting("linear")])


def test_outputs_without_a_loss_are_left_alone():
    inputs = keras.Input((4,))
    classes, value = heads(inputs)
    more = keras.layers.Dense(1, name="more")(value)
    model = keras.Model(inputs, [classes, value, more])
    model.compile("sgd", loss=[crossentropy(), None, "mse"])
    adaloss = ak.AdaLoss()
    model.fit(X, [LABELS, TARGETS, TARGETS], verbose=0, callbacks=[adaloss])
    assert adaloss.exit_names == ["classes", "more"]
    assert adaloss.weights.shape == (2,)


def test_regularisation_stays_outside_the_weighted_sum():
    inputs = keras.Input((4,))
    x = keras.layers.Dense(5, kernel_regularizer=keras.regularizers.L2(0.5))(inputs)
    model = ak.AnytimeModel(inputs, {"a": keras.layers.Dense(3)(x), "b": keras.layers.Dense(3)(x)})
    model.compile(keras.optimizers.SGD(0.0), loss=crossentropy())
    linear = ak.LossWeighting("linear")
    logs = model.fit(X, LABELS, batch_size=48, verbose=0, callbacks=[linear]).history
    penalty = 0.5 * float(keras.ops.sum(model.layers[1].kernel ** 2))
    np.testing.assert_allclose(logs["loss"][0], 0.25 * logs["a_loss"][0] + logs["b_loss"][0] + penalty, rtol=1e-5)


@pytest.mark.parametrize(
    "scheme, expected",
    [
        ("constant", [1, 1, 1]),
        ("linear", [0.25, 0.625, 1]),
        ("half_end", [0.5, 0.5, 1]),
        (ak.SingleExit(2), [0, 1, 0]),
    ],
)
def test_static_schemes_take_effect(scheme, expected):
    inputs = keras.Input((4,))
    model = ak.AnytimeModel(inputs, {f"exit_{n}": keras.layers.Dense(3, name=f"exit_{n}")(inputs) for n in (1, 2, 3)})
    before = [keras.ops.convert_to_numpy(variable) for variable in model.trainable_variables]
    model.compile(keras.optimizers.SGD(0.1), loss=crossentropy())
    logs = model.fit(X, LABELS, batch_size=48, verbose=0, callbacks=[ak.LossWeighting(scheme)]).history
    losses = [logs[f"exit_{n}_loss"][0] for n in (1, 2, 3)]
    np.testing.assert_allclose(logs["loss"][0], np.dot(expected, losses), rtol=1e-5)
    np.testing.assert_allclose([logs[f"exit_{n}_weight"][0] for n in (1, 2, 3)], expected)
    moved = [np.abs(keras.ops.convert_to_numpy(v) - old).max() > 0 for v, old in zip(model.trainable_variables, before)]
    assert moved[::2] == [weight > 0 for weight in expected]


def test_the_users_own_compute_loss_is_kept():
    class Penalised(keras.Model):
        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
            return 100.0 + super().compute_loss(x, y, y_pred, sample_weight, training)

    inputs = keras.Input((4,))
    model = Penalised(inputs, list(heads(inputs)))
    model.compile(keras.optimizers.SGD(0.0), loss=[crossentropy(), "mse"])
    logs = model.fit(X, [LABELS, TARGETS], batch_size=48, verbose=0, callbacks=[ak.LossWeighting("linear")]).history
    np.testing.assert_allclose(logs["loss"][0], 100 + 0.25 * logs["classes_loss"][0] + logs["value_loss"][0], rtol=1e-5)


@pytest.mark.tensorflow
def test_a_train_step_that_bypasses_the_loss_is_reported():
    class Bypassing(keras.Model):
        def train_step(self, data):
            return {"loss": 0.0}

    inputs = keras.Input((4,))
    model = Bypassing(inputs, list(heads(inputs)))
    model.compile("sgd", loss=[crossentropy(), "mse"])
    with pytest.raises(RuntimeError, match="no effect"):
        model.fit(X, [LABELS, TARGETS], verbose=0, callbacks=[ak.AdaLoss()])


def test_one_output_is_refused():
    inputs = keras.Input((4,))
    model = keras.Model(inputs, keras.layers.Dense(3, name="only")(inputs))
    model.compile("sgd", loss=crossentropy())
    with pytest.raises(ValueError, match="two outputs.*only"):
        model.fit(X, LABELS, verbose=0, callbacks=[ak.AdaLoss()])


def test_one_output_with_a_loss_is_refused():
    model = list_model()
    model.compile("sgd", loss=[crossentropy(), None])
    with pytest.raises(ValueError, match="two outputs"):
        model.fit(X, [LABELS, TARGETS], verbose=0, callbacks=[ak.AdaLoss()])


def test_an_uncompiled_model_is_refused():
    with pytest.raises(ValueError, match="compile"):
        list_model().fit(X, [LABELS, TARGETS], verbose=0, callbacks=[ak.AdaLoss()])
    with pytest.raises(ValueError, match="compile"):
        ak.AdaLoss().set_model(list_model())


def test_a_model_without_a_loss_is_refused():
    model = list_model()
    model.compile("sgd")
    with pytest.raises(ValueError, match="compiled with a loss"):
        model.fit(X, [LABELS, TARGETS], verbose=0, callbacks=[ak.AdaLoss()])


def test_a_model_without_a_graph_is_refused():
    class Subclassed(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(3)

        def call(self, x):
            return [self.dense(x), self.dense(x)]

    model = Subclassed()
    model.compile("sgd", loss=[crossentropy(), crossentropy()])
    with pytest.raises(ValueError, match="functional"):
        model.fit(X, [LABELS, LABELS], verbose=0, callbacks=[ak.AdaLoss()])


def test_two_weightings_in_one_fit_are_refused_and_leave_no_trace():
    model = list_model()
    model.compile("sgd", loss=[crossentropy(), "mse"])
    with pytest.raises(ValueError, match="one weighting"):
        model.fit(X, [LABELS, TARGETS], verbose=0, callbacks=[ak.AdaLoss(), ak.LossWeighting("linear")])
    logs = model.fit(X, [LABELS, TARGETS], batch_size=48, verbose=0).history
    np.testing.assert_allclose(logs["loss"][0], logs["classes_loss"][0] + logs["value_loss"][0], rtol=1e-5)


@pytest.mark.parametrize("weighting", ["adalos", 3, None])
def test_an_unknown_scheme_lists_the_known_ones(weighting):
    with pytest.raises(ValueError, match="constant.*linear.*half_end.*adaloss"):
        ak.LossWeighting(weighting)


def test_saved_weights_do_not_contain_the_weighting(tmp_path):
    model = dict_model()
    model.compile("sgd", loss={"classes": crossentropy(), "value": "mse"})
    y = {"classes": LABELS, "value": TARGETS}
    model.save_weights(tmp_path / "before.weights.h5")
    model.fit(X, y, verbose=0, callbacks=[ak.AdaLoss()])
    model.save_weights(tmp_path / "after.weights.h5")
    model.load_weights(tmp_path / "before.weights.h5")
    plain = dict_model()
    plain.compile("sgd", loss={"classes": crossentropy(), "value": "mse"})
    plain.load_weights(tmp_path / "after.weights.h5")


def test_keras_still_has_the_private_attribute_that_we_use():
    model = list_model()
    assert isinstance(model._metrics, list)
    model._metrics.append(metric := keras.metrics.Mean(name="another"))
    assert metric in model.metrics


@pytest.mark.parametrize("anytime", [False, True])
def test_a_model_is_the_same_after_fit(anytime):
    model = dict_model()
    model = ak.AnytimeModel(model.input, model.output) if anytime else model
    model.compile("sgd", loss={"classes": crossentropy(), "value": "mse"}, metrics={"value": "mae"})

    def attributes():
        names = ("compute_loss", "train_step", "make_train_function", "_metrics")
        own = {name: vars(model).get(name) for name in names}
        return set(vars(model)), own, model.metrics, [set(vars(metric)) for metric in model.metrics]

    plain_loss(model)
    before, metrics = attributes(), list(model.metrics)
    plain_loss(model, callbacks=[ak.AdaLoss()])
    assert attributes() == before and model.metrics == metrics


@pytest.mark.tensorflow
def test_tensorboard_shows_each_exits_weight(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    model = list_model()
    model.compile("sgd", loss=[crossentropy(), "mse"])
    adaloss = ak.AdaLoss()
    model.fit(X, [LABELS, TARGETS], verbose=0, callbacks=[adaloss, keras.callbacks.TensorBoard(tmp_path)])
    events = EventAccumulator(str(tmp_path / "train"), size_guidance={"tensors": 0}).Reload()
    import tensorflow as tf

    for name, weight in zip(("classes", "value"), adaloss.weights):
        (event,) = events.Tensors(f"epoch_{name}_weight")
        np.testing.assert_allclose(tf.make_ndarray(event.tensor_proto), weight)


class Refusing(keras.callbacks.Callback):
    def set_model(self, model):
        raise OSError("refused")


def plain_loss(model, **callbacks):
    return model.fit(X, {"classes": LABELS, "value": TARGETS}, batch_size=48, verbose=0, **callbacks).history["loss"][0]


@pytest.mark.parametrize("others, error", [([ak.AdaLoss()], ValueError), ([Refusing()], OSError)])
def test_a_fit_that_was_refused_leaves_no_weighting_behind(others, error):
    model = dict_model()
    model.compile(keras.optimizers.SGD(0.0), loss={"classes": crossentropy(), "value": "mse"})
    plain = plain_loss(model)
    for scheme in (ak.SingleExit(1), "linear"):
        with pytest.raises(error):
            plain_loss(model, callbacks=[ak.LossWeighting(scheme), *others])
    assert plain_loss(model) == pytest.approx(plain, rel=1e-6)
    with pytest.raises(error):
        plain_loss(model, callbacks=[ak.LossWeighting("linear"), *others])
    weighed = plain_loss(model, callbacks=[ak.LossWeighting(ak.SingleExit("value"))])
    assert abs(weighed - plain) > 1e-3, "the next fit with a weighting works"
    with pytest.raises(error):
        plain_loss(model, callbacks=[ak.LossWeighting("linear"), *others])
    losses = model.train_on_batch(X, {"classes": LABELS, "value": TARGETS})
    assert float(np.ravel(losses)[0]) == pytest.approx(plain, rel=1e-6)


def test_a_models_methods_are_restored_afterwards():
    model = dict_model()
    model.compile("sgd", loss={"classes": crossentropy(), "value": "mse"})
    steps, original = [], model.train_step

    def own_step(*args, **kwargs):
        steps.append(1)
        return original(*args, **kwargs)

    model.train_step = own_step
    plain_loss(model, callbacks=[ak.AdaLoss()])
    first = len(steps)
    plain_loss(model)
    assert 0 < first < len(steps) and model.__dict__["train_step"] is own_step
    assert "fit" not in model.__dict__ and "compute_loss" not in model.__dict__


def test_an_interrupted_step_is_traced_again():
    """TensorFlow may keep a partly traced step after an interruption."""
    model, adaloss = dict_model(), ak.AdaLoss()
    model.compile("sgd", loss={"value": "mse", "classes": crossentropy()})

    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            raise KeyboardInterrupt

    targets = {"value": TARGETS, "classes": LABELS}
    with pytest.raises(KeyboardInterrupt):
        model.fit(X, targets, verbose=0, callbacks=[adaloss, Stop()])
    functions = [model.train_function]

    class Note(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            functions.append(model.train_function)

    for _ in range(2):
        model.fit(X, targets, batch_size=48, verbose=0, callbacks=[adaloss, Note()])
    interrupted, again, third = functions
    assert again is not interrupted
    assert third is again, "the step of a fit that ended is used again"


@pytest.mark.long
@pytest.mark.tensorflow
@pytest.mark.parametrize("make", [list_model, dict_model])
def test_any_functional_model_on_two_replicas(make, two_replicas):
    import tensorflow as tf

    results = []
    for strategy in (tf.distribute.get_strategy(), two_replicas):
        keras.utils.set_random_seed(0)
        with strategy.scope():
            model = make()
            model.compile(
                keras.optimizers.SGD(0.1),
                loss={"classes": crossentropy(), "value": "mse"},
                loss_weights={"classes": 2.0, "value": 0.5},
            )
        y = {"classes": LABELS, "value": TARGETS} if make is dict_model else [LABELS, TARGETS]
        adaloss = ak.AdaLoss(gamma=0.2)
        logs = model.fit(X, y, batch_size=8, shuffle=False, verbose=0, callbacks=[adaloss]).history
        results.append((logs, adaloss.averages, model.get_weights()))
    (one, averages, weights), (two, averages_two, weights_two) = results
    for name in one:
        np.testing.assert_allclose(two[name], one[name], rtol=1e-4)
    np.testing.assert_allclose(averages_two, averages, rtol=1e-4)
    for ours, theirs in zip(weights_two, weights):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
