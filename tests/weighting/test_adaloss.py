"""AdaLoss: state, loss and trained parameters equal a NumPy reference at every step."""

import keras
import numpy as np
import pytest

import anytime_keras as ak
from tests.conftest import BACKEND
from tests.weighting.reference import Reference, train

NUM_EXITS = 4
MANY_EXITS = 11  # `exit_10` sorts before `exit_2`
SETTINGS = dict(gamma=0.1, momentum=0.8)
LEARNING_RATE = 0.05


def network(num_exits=NUM_EXITS, seed=0, dtype=None):
    """A chain of dense layers whose exits have losses of different size, the same in every call."""

    def dense(units, number, **kwargs):
        initializer = keras.initializers.GlorotUniform(seed=1000 * seed + number)
        return keras.layers.Dense(units, kernel_initializer=initializer, dtype=dtype, **kwargs)

    inputs = keras.Input((4,))
    x, exits = inputs, {}
    for number in range(1, num_exits + 1):
        x = dense(6, number, activation="tanh")(x)
        exits[f"exit_{number}"] = dense(3, 100 + number, name=f"exit_{number}")(x * (0.5 * number))
    return ak.AnytimeModel(inputs, exits)


def batches(count=6, size=8, seed=0):
    rng = np.random.default_rng(seed)
    return [(rng.normal(size=(size, 4)).astype("float32"), rng.integers(0, 3, size)) for _ in range(count)]


def joined(batches):
    return tuple(np.concatenate(arrays) for arrays in zip(*batches))


def crossentropy():
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def parameters(model):
    return [keras.ops.convert_to_numpy(variable) for variable in model.trainable_variables]


class Watch(keras.callbacks.Callback):
    """Records the callback's state and the batch's losses after each batch."""

    def __init__(self, adaloss):
        super().__init__()
        self.adaloss, self.rows, self.sums = adaloss, [], {}

    def on_epoch_begin(self, epoch, logs=None):
        self.sums, self.batch = {}, 0

    def on_train_batch_end(self, batch, logs=None):
        self.batch += 1
        own = {}  # Keras logs the epoch's mean so far
        for name, mean in logs.items():
            own[name] = mean * self.batch - self.sums.get(name, 0.0)
            self.sums[name] = mean * self.batch
        self.rows.append((own, self.adaloss.averages, self.adaloss.weights))


def assert_same_parameters(model, other, **tolerance):
    for ours, theirs in zip(parameters(model), parameters(other)):
        np.testing.assert_allclose(ours, theirs, **tolerance)


@pytest.mark.parametrize(
    "mode, update_period, num_exits",
    [
        ({"jit_compile": False}, 3, MANY_EXITS),
        ({"jit_compile": True}, 1, NUM_EXITS),
        ({"run_eagerly": True}, 1, NUM_EXITS),
        *(
            pytest.param(mode, period, NUM_EXITS, marks=pytest.mark.slow)
            for mode, period in (({"jit_compile": False}, 1), ({"jit_compile": True}, 3), ({"run_eagerly": True}, 3))
        ),
    ],
)
def test_every_step_equals_the_reference(mode, update_period, num_exits):
    data = batches()
    reference = Reference(num_exits, **SETTINGS, update_period=update_period)
    expected_model = network(num_exits)
    expected = train(expected_model, data, reference, crossentropy(), LEARNING_RATE)

    model, adaloss = network(num_exits), ak.AdaLoss(**SETTINGS, update_period=update_period)
    watch = Watch(adaloss)
    model.compile(keras.optimizers.SGD(LEARNING_RATE), loss=crossentropy(), metrics=["accuracy"], **mode)
    model.fit(*joined(data), batch_size=8, shuffle=False, verbose=0, callbacks=[adaloss, watch])

    assert len(watch.rows) == len(expected)
    for (logs, averages, weights), (losses, total, expected_averages, expected_weights) in zip(watch.rows, expected):
        np.testing.assert_allclose([logs[f"{name}_loss"] for name in model.exit_names], losses, rtol=2e-4)
        np.testing.assert_allclose(logs["loss"], total, rtol=2e-4)
        np.testing.assert_allclose(averages, expected_averages, rtol=1e-4)
        np.testing.assert_allclose(weights, expected_weights, rtol=1e-4)
    assert_same_parameters(model, expected_model, rtol=1e-4, atol=1e-5)


def test_training_differs_from_training_without():
    data = joined(batches())
    trained = []
    for callbacks in ([], [ak.AdaLoss(gamma=0.0)]):
        model = network()
        model.compile(keras.optimizers.SGD(LEARNING_RATE), loss=crossentropy())
        model.fit(*data, batch_size=8, shuffle=False, verbose=0, callbacks=callbacks)
        trained.append(np.concatenate([array.ravel() for array in parameters(model)]))
    assert np.abs(trained[0] - trained[1]).max() > 1e-3


@pytest.mark.long
@pytest.mark.parametrize("steps_per_execution", [2, 6])
def test_steps_per_execution(steps_per_execution):
    data = batches()
    reference = Reference(NUM_EXITS, **SETTINGS)
    expected = network()
    train(expected, data, reference, crossentropy(), LEARNING_RATE)

    model, adaloss = network(), ak.AdaLoss(**SETTINGS)
    model.compile(keras.optimizers.SGD(LEARNING_RATE), loss=crossentropy(), steps_per_execution=steps_per_execution)
    model.fit(*joined(data), batch_size=8, shuffle=False, verbose=0, callbacks=[adaloss])
    assert adaloss.steps == len(data)
    np.testing.assert_allclose(adaloss.averages, reference.averages, rtol=1e-4)
    np.testing.assert_allclose(adaloss.weights, reference.weights, rtol=1e-4)
    assert_same_parameters(model, expected, rtol=1e-4, atol=1e-5)


def test_gradient_accumulation_learns_from_every_batch():
    data = batches()
    model, adaloss = network(), ak.AdaLoss(**SETTINGS)
    watch = Watch(adaloss)
    model.compile(keras.optimizers.SGD(LEARNING_RATE, gradient_accumulation_steps=3), loss=crossentropy())
    before = parameters(model)
    model.fit(*joined(data), batch_size=8, shuffle=False, verbose=0, callbacks=[adaloss, watch])
    reference = Reference(NUM_EXITS, **SETTINGS)
    for logs, averages, weights in watch.rows:
        total = reference.step([logs[f"{name}_loss"] for name in model.exit_names])
        np.testing.assert_allclose(logs["loss"], total, rtol=2e-4)
        np.testing.assert_allclose(averages, reference.averages, rtol=1e-3)
        np.testing.assert_allclose(weights, reference.weights, rtol=1e-3)
    assert any(np.abs(array - start).max() > 0 for array, start in zip(parameters(model), before))


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_and_loss_scaling(policy):
    keras.config.set_dtype_policy(policy)
    model, adaloss = network(), ak.AdaLoss(**SETTINGS)
    watch = Watch(adaloss)
    model.compile(keras.optimizers.SGD(LEARNING_RATE), loss=crossentropy())
    assert (type(model.optimizer).__name__ == "LossScaleOptimizer") == (policy == "mixed_float16")
    model.fit(*joined(batches()), batch_size=8, shuffle=False, verbose=0, callbacks=[adaloss, watch])
    reference = Reference(NUM_EXITS, **SETTINGS)
    for logs, averages, weights in watch.rows:
        total = reference.step([logs[f"{name}_loss"] for name in model.exit_names])
        np.testing.assert_allclose(logs["loss"], total, rtol=1e-3)
        np.testing.assert_allclose(averages, reference.averages, rtol=1e-3)
        np.testing.assert_allclose(weights, reference.weights, rtol=1e-3)
    assert adaloss.averages.dtype == "float32"


def test_the_users_loss_weights_are_multiplied():
    data, own = batches(), [0.5 + 0.25 * number for number in range(NUM_EXITS)]
    reference = Reference(NUM_EXITS, **SETTINGS)
    expected = network()
    train(expected, data, reference, crossentropy(), LEARNING_RATE, user_weights=own)

    model, adaloss = network(), ak.AdaLoss(**SETTINGS)
    model.compile(keras.optimizers.SGD(LEARNING_RATE), loss=crossentropy(), loss_weights=own)
    model.fit(*joined(data), batch_size=8, shuffle=False, verbose=0, callbacks=[adaloss])
    np.testing.assert_allclose(adaloss.averages, reference.averages, rtol=1e-4)
    assert_same_parameters(model, expected, rtol=1e-4, atol=1e-5)


def test_the_preset_of_the_authors_code():
    data = batches()
    reference = Reference(NUM_EXITS, gamma=0.07, momentum=0.9, final_extra=1.0)
    train(network(), data, reference, crossentropy(), LEARNING_RATE)
    model, adaloss = network(), ak.AdaLoss(preset="authors_code")
    model.compile(keras.optimizers.SGD(LEARNING_RATE), loss=crossentropy())
    model.fit(*joined(data), batch_size=8, shuffle=False, verbose=0, callbacks=[adaloss])
    np.testing.assert_allclose(adaloss.weights, reference.weights, rtol=1e-4)


def test_a_second_fit_continues_and_a_new_callback_starts_again():
    x, y = joined(batches())
    model, adaloss = network(), ak.AdaLoss()
    model.compile(keras.optimizers.SGD(0.0), loss=crossentropy())
    compute_loss, traces = model.compute_loss, []

    def counted(x=None, y=None, y_pred=None, sample_weight=None, training=True):
        traces.append(1)
        return compute_loss(x, y, y_pred, sample_weight, training)

    model.compute_loss = counted
    model.fit(x, y, batch_size=8, shuffle=False, verbose=0, callbacks=[adaloss])
    traced, averages = len(traces), adaloss.averages
    model.fit(x, y, batch_size=8, shuffle=False, verbose=0, callbacks=[adaloss])
    assert adaloss.steps == 12
    assert np.abs(adaloss.averages - averages).max() > 0
    assert len(traces) == traced > 0, "a second fit must not trace again"

    fresh = ak.AdaLoss()
    model.fit(x, y, batch_size=8, shuffle=False, verbose=0, callbacks=[fresh])
    assert fresh.steps == 6 and adaloss.steps == 12
    np.testing.assert_allclose(fresh.averages, averages, rtol=1e-5)


def test_fit_again_after_compiling_again_continues():
    x, y = joined(batches())
    model, adaloss = network(), ak.AdaLoss()
    for expected in (6, 12):
        model.compile(keras.optimizers.SGD(0.01), loss=crossentropy())
        model.fit(x, y, batch_size=8, verbose=0, callbacks=[adaloss])
        assert adaloss.steps == expected


def test_the_same_callback_on_another_model_starts_again():
    x, y = joined(batches())
    adaloss = ak.AdaLoss()
    for num_exits in (3, 3, 5):
        model = network(num_exits)
        model.compile(keras.optimizers.SGD(0.01), loss=crossentropy())
        model.fit(x, y, batch_size=8, verbose=0, callbacks=[adaloss])
        assert adaloss.steps == 6
        assert adaloss.weights.shape == (num_exits,)


@pytest.mark.long
def test_fit_without_the_callback_is_plain_afterwards():
    x, y = joined(batches())
    model, plain = network(), network()
    for each in (model, plain):
        each.compile(keras.optimizers.SGD(0.0), loss=crossentropy())
    adaloss = ak.AdaLoss(gamma=0.0)
    model.fit(x, y, batch_size=8, shuffle=False, verbose=0, callbacks=[adaloss])
    ours = model.fit(x, y, batch_size=8, shuffle=False, verbose=0).history
    theirs = plain.fit(x, y, batch_size=8, shuffle=False, verbose=0).history
    assert adaloss.steps == 6
    assert ours.keys() == theirs.keys()
    np.testing.assert_allclose(ours["loss"], theirs["loss"], rtol=1e-5)


def test_fit_without_the_callback_is_plain_after_an_interrupted_one():
    class Interrupt(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == 2:
                raise KeyboardInterrupt

    x, y = joined(batches())
    model, adaloss = network(), ak.AdaLoss()
    model.compile(keras.optimizers.SGD(0.0), loss=crossentropy())
    with pytest.raises(KeyboardInterrupt):
        model.fit(x, y, batch_size=8, verbose=0, callbacks=[adaloss, Interrupt()])
    assert adaloss.steps == 3
    losses = model.fit(x, y, batch_size=8, shuffle=False, verbose=0).history
    assert adaloss.steps == 3
    np.testing.assert_allclose(
        losses["loss"][0], sum(losses[f"{name}_loss"][0] for name in model.exit_names), rtol=1e-5
    )


def test_validation_and_evaluate_give_the_compiled_loss():
    x, y = joined(batches())
    model, adaloss = network(), ak.AdaLoss(gamma=0.0)
    model.compile(keras.optimizers.SGD(LEARNING_RATE), loss=crossentropy())
    history = model.fit(x, y, batch_size=8, verbose=0, callbacks=[adaloss], validation_data=(x, y)).history
    assert adaloss.steps == 6
    plain = sum(history[f"val_{name}_loss"][0] for name in model.exit_names)
    np.testing.assert_allclose(history["val_loss"][0], plain, rtol=1e-5)
    np.testing.assert_allclose(model.evaluate(x, y, verbose=0, return_dict=True)["loss"], plain, rtol=1e-5)
    model.evaluate(x, y, verbose=0, callbacks=[adaloss])
    model.predict(x, verbose=0, callbacks=[adaloss])
    assert adaloss.steps == 6


def test_epoch_logs_contain_the_weights():
    x, y = joined(batches())
    model, adaloss = network(), ak.AdaLoss()
    model.compile(keras.optimizers.SGD(LEARNING_RATE), loss=crossentropy())
    history = model.fit(x, y, batch_size=8, epochs=2, verbose=0, callbacks=[adaloss]).history
    last = [history[f"{name}_weight"][-1] for name in model.exit_names]
    np.testing.assert_allclose(last, adaloss.weights)
    assert min(last) < 1


def sparse_loss_that_is(value, exit_scale):
    """Cross entropy, but `value` on batches whose first sample has class 2."""

    def loss(y_true, y_pred):
        usual = keras.losses.sparse_categorical_crossentropy(y_true, y_pred, from_logits=True)
        bad = keras.ops.equal(keras.ops.cast(keras.ops.reshape(y_true, (-1,))[0], "int32"), 2)
        return keras.ops.where(bad, keras.ops.full_like(usual, value), usual * exit_scale)

    return loss


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_is_skipped_and_reported_once(value):
    data = batches()
    for number, (_, y) in enumerate(data):
        y[0] = 2 if number in (1, 4) else 0
    x, y = joined(data)
    model, adaloss = network(3), ak.AdaLoss(**SETTINGS)
    watch = Watch(adaloss)
    losses = {"exit_1": crossentropy(), "exit_2": sparse_loss_that_is(value, 1.0), "exit_3": crossentropy()}
    model.compile(keras.optimizers.SGD(0.0), loss=losses)
    with pytest.warns(UserWarning, match="2 batches had a loss that is not finite") as told:
        model.fit(x, y, batch_size=8, epochs=1, shuffle=False, verbose=0, callbacks=[adaloss, watch])
    assert sum("not finite" in str(warning.message) for warning in told) == 1
    assert adaloss.skipped == 2 and adaloss.steps == 4
    for number in (1, 4):  # nothing moved
        for state in (1, 2):
            np.testing.assert_array_equal(watch.rows[number][state], watch.rows[number - 1][state])
    assert np.isfinite(adaloss.averages).all() and np.isfinite(adaloss.weights).all()


@pytest.mark.parametrize("zero_at", [(2,), (1, 2, 3)])
def test_a_loss_of_zero_leaves_finite_weights(zero_at):
    x, y = joined(batches())
    model, adaloss = network(3), ak.AdaLoss(gamma=0.1, momentum=0.0)
    zero = sparse_loss_that_is(1.0, 0.0)
    y[::8] = 0
    model.compile(
        keras.optimizers.SGD(0.0),
        loss={name: zero if number in zero_at else crossentropy() for number, name in enumerate(model.exit_names, 1)},
    )
    model.fit(x, y, batch_size=8, shuffle=False, verbose=0, callbacks=[adaloss])
    expected = [1.0 if number in zero_at else 0.1 for number in (1, 2, 3)]
    np.testing.assert_allclose(adaloss.weights, expected, atol=1e-6)


def test_negative_losses_are_refused():
    x, y = joined(batches())
    model = network(3)
    model.compile("sgd", loss=lambda y_true, y_pred: -1.0 - keras.ops.mean(y_pred**2, axis=-1))
    with pytest.raises(ValueError, match="needs losses of 0 or more"):
        model.fit(x, y, batch_size=8, verbose=0, callbacks=[ak.AdaLoss()])


@pytest.mark.long
@pytest.mark.parametrize("first_order", ["squared", "norm"])
def test_first_order_uses_the_size_of_the_gradient(first_order):
    ((x, y),) = batches(1)
    model, adaloss = network(3), ak.AdaLoss(gamma=0.0, first_order=first_order)
    start = parameters(model)
    expected = []
    for name in model.exit_names:  # by hand: one step of rate 1 on this exit alone moves by the gradient
        alone = network(3)
        alone.compile(
            keras.optimizers.SGD(1.0), loss=crossentropy(), loss_weights=ak.SingleExit(int(name[-1])).values(3)
        )
        alone.train_on_batch(x, y)
        moved = [after - before for after, before in zip(parameters(alone), start)]
        depth = int(name[-1])
        hidden, heads = 30 + (depth - 1) * 42, 21  # parameters that the exit depends on
        squares = sum((array**2).sum() for array in moved)
        expected.append(0.5 * squares / (hidden + heads) if first_order == "squared" else np.sqrt(squares))
    model.compile(keras.optimizers.SGD(LEARNING_RATE), loss=crossentropy(), metrics=["accuracy"])
    logs = model.fit(x, y, batch_size=8, verbose=0, callbacks=[adaloss]).history
    np.testing.assert_allclose(adaloss.averages, expected, rtol=1e-4)
    np.testing.assert_allclose(adaloss.weights, min(expected) / np.array(expected), rtol=1e-4)
    plain = network(3)
    plain.compile(keras.optimizers.SGD(LEARNING_RATE), loss=crossentropy(), metrics=["accuracy"])
    same = plain.fit(x, y, batch_size=8, verbose=0).history  # first batch: weights 1, and metrics counted once
    for name in same:
        np.testing.assert_allclose(logs[name], same[name], rtol=1e-5)
    assert_same_parameters(model, plain, rtol=1e-5)


def test_a_custom_training_loop():
    weighting = ak.AdaLossWeighting(**SETTINGS)
    reference = Reference(3, **SETTINGS)
    for losses in np.random.default_rng(0).uniform(0.1, 3.0, (5, 3)).astype("float32"):
        np.testing.assert_allclose(
            float(weighting(keras.ops.convert_to_tensor(losses))), reference.step(losses), rtol=1e-5
        )
        np.testing.assert_allclose(weighting.averages, reference.averages, rtol=1e-5)
        np.testing.assert_allclose(weighting.weights, reference.weights, rtol=1e-5)


def test_state_goes_through_json():
    import json

    weighting = ak.AdaLossWeighting(**SETTINGS)
    weighting(keras.ops.convert_to_tensor([3.0, 1.0]))
    other = ak.AdaLossWeighting(**SETTINGS)
    other.set_state(json.loads(json.dumps(weighting.get_state())))
    for losses in ([2.0, 0.3], [1.0, 0.2]):
        weighting(keras.ops.convert_to_tensor(losses))
        other(keras.ops.convert_to_tensor(losses))
    np.testing.assert_array_equal(weighting.averages, other.averages)
    np.testing.assert_array_equal(weighting.weights, other.weights)
    assert keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(weighting)).momentum == 0.8


@pytest.mark.parametrize(
    "setting",
    [
        dict(gamma=-0.1),
        dict(gamma=1.5),
        dict(gamma="a"),
        dict(gamma=float("nan")),
        dict(momentum=1.0),
        dict(momentum=-1),
        dict(update_period=0),
        dict(update_period=1.5),
        dict(final_extra=-1),
        dict(preset="paper2"),
        dict(first_order="squares"),
    ],
)
def test_settings_out_of_range_are_refused(setting):
    ((name, value),) = setting.items()
    with pytest.raises(ValueError, match=name) as error:
        ak.AdaLoss(**setting)
    assert repr(value) in str(error.value)


@pytest.mark.long
@pytest.mark.tensorflow
@pytest.mark.parametrize("first_order", [False, True])
def test_two_replicas_equal_one_on_the_same_global_batch(two_replicas, first_order):
    import tensorflow as tf

    x, y = joined(batches())
    results = []
    for strategy in (tf.distribute.get_strategy(), two_replicas):
        with strategy.scope():
            model = network(4)
            model.compile(keras.optimizers.SGD(LEARNING_RATE), loss=crossentropy(), metrics=["accuracy"])
        adaloss = ak.AdaLoss(**SETTINGS, first_order=first_order)
        watch = Watch(adaloss)
        history = model.fit(x, y, batch_size=8, shuffle=False, verbose=0, callbacks=[adaloss, watch]).history
        results.append((model, adaloss, watch, history))
    (one, _, watch_one, history_one), (two, adaloss, watch_two, history_two) = results
    for (logs, averages, weights), (logs_two, averages_two, weights_two) in zip(watch_one.rows, watch_two.rows):
        np.testing.assert_allclose(logs_two["loss"], logs["loss"], rtol=1e-4)
        np.testing.assert_allclose(averages_two, averages, rtol=1e-5)
        np.testing.assert_allclose(weights_two, weights, rtol=1e-5)
    assert_same_parameters(two, one, rtol=1e-4, atol=1e-5)
    for variable in adaloss.variables:  # the copies on the replicas are equal
        copies = [copy.numpy() for copy in variable.value.values]
        assert len(copies) == 2
        np.testing.assert_array_equal(copies[0], copies[1])
    for name in history_one:
        np.testing.assert_allclose(history_two[name], history_one[name], rtol=1e-4)


def test_the_backend_is_the_requested_one():
    import os

    assert BACKEND == os.environ.get("KERAS_BACKEND", "tensorflow")
