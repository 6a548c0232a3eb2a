"""The schemes beyond the paper: each step equals one computed in NumPy with plain Keras."""

import json

import keras
import numpy as np
import pytest

import anytime_keras as ak
from anytime_keras import weighting
from anytime_keras.training import Recipe, train, train_side_by_side
from anytime_keras.weighting import gradients
from tests import checks
from tests.weighting.reference import train as train_with_constant_weights
from tests.weighting.test_adaloss import LEARNING_RATE, Watch, assert_same_parameters, batches, joined, network

NUM_EXITS = 3
jax_only = pytest.mark.skipif(keras.backend.backend() != "jax", reason="is about JAX")


def crossentropy():
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def fitted(scheme, data, **compiled):
    """Trains with a scheme; returns the model, the callback and the records of each batch."""
    model, callback = network(NUM_EXITS), ak.LossWeighting(scheme)
    watch = WatchWeights(callback)
    model.compile(keras.optimizers.SGD(LEARNING_RATE), loss=crossentropy(), **compiled)
    model.fit(*joined(data), batch_size=8, shuffle=False, verbose=0, callbacks=[callback, watch])
    return model, callback, watch.rows


class WatchWeights(Watch):
    """Like `Watch`, also for schemes without averages."""

    def __init__(self, callback):
        super().__init__(callback)
        self.adaloss = _State(callback)


class _State:
    def __init__(self, callback):
        self.callback = callback

    averages = property(lambda self: getattr(self.callback, "averages", None))
    weights = property(lambda self: self.callback.weights)


class ByHand:
    """A scheme in NumPy: `weights` are those of the next batch; see `reference.train`."""

    def __init__(self, step):
        self.weights, self.averages, self.moved, self.batches = np.ones(NUM_EXITS), np.ones(NUM_EXITS), step, 0

    def step(self, losses):
        self.batches += 1
        self.averages, self.weights = self.moved(self, np.asarray(losses))


def annealed(state, losses):
    averages = losses if state.batches == 1 else 0.8 * state.averages + 0.2 * losses
    gamma = max(1 - state.batches / len(batches()), 0)
    return averages, (1 - gamma) * averages.min() / averages + gamma


def geometric(state, losses):
    averages = losses if state.batches == 1 else state.averages**0.8 * losses**0.2
    return averages, 0.9 * averages.min() / averages + 0.1


def uncertain(state, losses):
    log_variances = -np.log(state.weights)
    log_variances -= 0.3 * (0.5 - np.exp(-log_variances) * losses)
    return state.averages, np.exp(-log_variances)


SCHEMES = {
    "gamma from 1 to 0": (
        lambda: ak.AdaLossWeighting((1.0, 0.0), momentum=0.8),
        annealed,
    ),
    "geometric mean": (lambda: ak.AdaLossWeighting(0.1, momentum=0.8, mean="geometric"), geometric),
    "uncertainty": (lambda: weighting.UncertaintyWeighting(rate=0.3), uncertain),
}


@pytest.mark.parametrize("name", SCHEMES)
def test_every_step_equals_one_computed_by_hand(name):
    make, step = SCHEMES[name]
    data, reference, expected_model = batches(), ByHand(step), network(NUM_EXITS)
    expected = train_with_constant_weights(expected_model, data, reference, crossentropy(), LEARNING_RATE)
    model, callback, rows = fitted(make(), data)
    for (logs, averages, weights), (losses, total, expected_averages, expected_weights) in zip(
        rows, expected, strict=True
    ):
        np.testing.assert_allclose(logs["loss"], total, rtol=2e-4)
        np.testing.assert_allclose(weights, expected_weights, rtol=1e-4)
        if averages is not None:
            np.testing.assert_allclose(averages, expected_averages, rtol=1e-4)
    assert np.abs(callback.weights - 1).max() > 0.05
    assert_same_parameters(model, expected_model, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("own", [None, [0.5, 2.0, 1.5]])
def test_losses_of_the_batch_set_its_weights(own):
    """Each batch is trained with weights from its own losses, which plain Keras gets as constants."""
    data, expected_model, totals = batches(), network(NUM_EXITS), []
    users = np.ones(NUM_EXITS) if own is None else np.array(own)
    for x, y in data:
        expected_model.compile(keras.optimizers.SGD(LEARNING_RATE), loss=crossentropy(), run_eagerly=True)
        logs = expected_model.test_on_batch(x, y, return_dict=True)
        losses = np.array([logs[f"{name}_loss"] for name in expected_model.exit_names])
        weights = users * (0.9 * losses.min() / losses + 0.1)
        expected_model.compile(
            keras.optimizers.SGD(LEARNING_RATE), loss=crossentropy(), loss_weights=weights.tolist(), run_eagerly=True
        )
        totals.append(expected_model.train_on_batch(x, y, return_dict=True)["loss"])
    model, callback, rows = fitted(ak.AdaLossWeighting(0.1, mean="batch"), data, loss_weights=own)
    np.testing.assert_allclose([logs["loss"] for logs, _, _ in rows], totals, rtol=2e-4)
    np.testing.assert_allclose(callback.weights * users, weights, rtol=1e-4)
    assert_same_parameters(model, expected_model, rtol=1e-4, atol=1e-5)


def test_batch_losses_set_the_weights_in_a_custom_loop():
    own = ak.AdaLossWeighting(gamma=0.0, mean="batch")
    for losses in ([4.0, 1.0, 2.0], [3.0, 6.0, 1.5]):
        assert float(own(keras.ops.convert_to_tensor(losses))) == pytest.approx(3 * min(losses))


def norms_by_hand(x, y):
    """Returns the norms of the exits' gradients at the first layer, from one step of rate 1 for each exit."""
    start, norms = network(NUM_EXITS), []
    before = [keras.ops.convert_to_numpy(variable) for variable in start.layers[1].trainable_variables]
    for number in range(1, NUM_EXITS + 1):
        alone = network(NUM_EXITS)
        alone.compile(
            keras.optimizers.SGD(1.0), loss=crossentropy(), loss_weights=ak.SingleExit(number).values(NUM_EXITS)
        )
        alone.train_on_batch(x, y)
        after = [keras.ops.convert_to_numpy(variable) for variable in alone.layers[1].trainable_variables]
        norms.append(np.sqrt(sum(((new - old) ** 2).sum() for new, old in zip(after, before))))
    return np.array(norms)


@pytest.mark.long
def test_gradnorm_uses_the_norms_at_the_shared_layer():
    ((x, y),) = batches(1)
    norms = norms_by_hand(x, y)
    model, callback, ((logs, _, weights),) = fitted(weighting.GradNormWeighting(alpha=0.5, rate=0.1), [(x, y)])
    expected = 1.0 - 0.1 * norms * np.sign(norms - norms.mean())  # the first batch: no exit is behind
    np.testing.assert_allclose(weights, expected / expected.mean(), rtol=1e-4)
    assert np.ptp(weights) > 0.01
    plain = network(NUM_EXITS)
    plain.compile(keras.optimizers.SGD(LEARNING_RATE), loss=crossentropy())
    plain.fit(x, y, batch_size=8, verbose=0)
    assert_same_parameters(model, plain, rtol=1e-5)
    first = [float(logs[f"{name}_loss"]) for name in model.exit_names]
    np.testing.assert_allclose(callback.get_state()["first_losses"], first, rtol=1e-4)


def test_gradnorm_raises_the_weight_of_the_slowest_exit():
    """Computed by hand: norms (2, 2), progress (1, 1/2), relative rates (4/3, 2/3), targets (8/3, 4/3)."""
    moved = weighting.gradnorm_step([1.0, 1.0], [2.0, 1.0], [2.0, 2.0], norms=[2.0, 2.0], alpha=1.0, rate=0.1)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(moved), [1.2, 0.8], rtol=1e-5)
    dead = weighting.gradnorm_step([0.1, 1.9], [1.0, 1.0], [1.0, 1.0], norms=[100.0, 1.0], rate=0.1)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(dead), [0.0, 2.0], atol=1e-6)


PERIODIC = {
    "gradnorm": lambda period: weighting.GradNormWeighting(alpha=0.5, rate=0.1, update_period=period),
    "first order": lambda period: ak.AdaLossWeighting(0.1, momentum=0.8, update_period=period, first_order=True),
}


@pytest.mark.parametrize("name", PERIODIC)
def test_gradients_are_measured_only_when_weights_are_updated(name, monkeypatch):
    times, squares = [], gradients._squares

    def noted(*args):
        if keras.backend.backend() == "jax":
            import jax

            jax.debug.callback(lambda: times.append(1))
        else:
            import tensorflow as tf

            tf.py_function(lambda: times.append(1), [], [])
        return squares(*args)

    monkeypatch.setattr(gradients, "_squares", noted)
    # XLA on TensorFlow can't call Python.
    _, callback, rows = fitted(PERIODIC[name](2), batches(5), jit_compile=keras.backend.backend() == "jax")
    if keras.backend.backend() == "jax":
        import jax

        jax.effects_barrier()
    assert len(times) == 2, "of five batches the second and the fourth"
    weights = np.array([row[2] for row in rows])
    np.testing.assert_array_equal(weights[0], 1.0)
    np.testing.assert_array_equal(weights[1], weights[2])
    np.testing.assert_array_equal(weights[3], weights[4])
    assert np.abs(weights[1] - 1).max() > 0.01 and np.abs(weights[3] - weights[1]).max() > 1e-4


@pytest.mark.long
@pytest.mark.parametrize("name", PERIODIC)
def test_the_first_measured_batch_counts_as_the_first(name):
    """Weights are 1 before the first measurement, so the second batch is measured as with period 1."""
    data = batches(2)
    start = network(NUM_EXITS)
    start.compile(keras.optimizers.SGD(LEARNING_RATE), loss=crossentropy())
    start.fit(*data[0], batch_size=8, verbose=0)
    one, two = PERIODIC[name](1), PERIODIC[name](2)
    callback = ak.LossWeighting(one)
    start.compile(keras.optimizers.SGD(LEARNING_RATE), loss=crossentropy())
    start.fit(*data[1], batch_size=8, verbose=0, callbacks=[callback])
    fitted(two, data)
    if name == "first order":
        np.testing.assert_allclose(two.averages, one.averages, rtol=1e-4)
        np.testing.assert_allclose(two.weights, one.weights, rtol=1e-4)
    else:  # the progress since the first batch counts besides the norms
        assert np.abs(two.weights - 1).max() > 0.01


def test_gradnorm_needs_shared_layers_and_gradients():
    inputs = keras.Input((4,))
    model = ak.AnytimeModel(inputs, {name: keras.layers.Dense(3)(inputs) for name in "ab"})
    model.compile("sgd", loss=crossentropy())
    with pytest.raises(ValueError, match="share none"):
        model.fit(*joined(batches(1)), verbose=0, callbacks=[ak.LossWeighting("gradnorm")])
    with pytest.raises(ValueError, match="norms of the losses"):
        weighting.GradNormWeighting()(keras.ops.convert_to_tensor([1.0, 2.0]))


@pytest.mark.long
@pytest.mark.tensorflow
@pytest.mark.parametrize(
    "make",
    [
        weighting.GradNormWeighting,
        lambda: weighting.GradNormWeighting(update_period=2),
        weighting.UncertaintyWeighting,
        lambda: ak.AdaLossWeighting(mean="batch"),
        lambda: ak.AdaLossWeighting(mean="geometric"),
        lambda: ak.AdaLossWeighting(gamma=(1.0, 0.05)),
    ],
    ids=["gradnorm", "gradnorm, period 2", "uncertainty", "batch", "geometric", "pair"],
)
def test_two_replicas_equal_one(two_replicas, make):
    import tensorflow as tf

    results = []
    for strategy in (tf.distribute.get_strategy(), two_replicas):
        with strategy.scope():
            model = network(NUM_EXITS)
            model.compile(keras.optimizers.SGD(LEARNING_RATE), loss=crossentropy())
        callback = ak.LossWeighting(make())
        history = model.fit(*joined(batches()), batch_size=8, shuffle=False, verbose=0, callbacks=[callback]).history
        results.append((model, callback.weights, history["loss"]))
    (one, weights, loss), (two, weights_two, loss_two) = results
    np.testing.assert_allclose(loss_two, loss, rtol=1e-4)
    np.testing.assert_allclose(weights_two, weights, rtol=1e-4)
    assert_same_parameters(two, one, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "make",
    [
        lambda: weighting.GradNormWeighting(alpha=1.0),
        lambda: weighting.UncertaintyWeighting(0.2),
        lambda: ak.AdaLossWeighting(0.2, mean="geometric"),
    ],
    ids=["gradnorm", "uncertainty", "adaloss"],
)
def test_state_and_config_go_through_json(make):
    first = make()
    first.build(2)
    other = keras.saving.deserialize_keras_object(json.loads(json.dumps(keras.saving.serialize_keras_object(first))))
    losses = [keras.ops.convert_to_tensor(values) for values in ([3.0, 1.0], [2.0, 0.3], [1.0, 0.2])]
    measured = [[1.0, 0.5]] if first.gradient_statistics else []
    first.update(losses[0], *measured)
    other.set_state(json.loads(json.dumps(first.get_state())))
    for each in losses[1:]:
        first.update(each, *measured)
        other.update(each, *measured)
    np.testing.assert_array_equal(first.weights, other.weights)
    assert first.get_state() == other.get_state() and first.steps == 3
    first.reset()
    assert first.weights.tolist() == [1.0, 1.0] and first.steps == 0


def test_arguments_out_of_range_are_refused():
    for make, message in [
        (lambda: ak.AdaLoss(mean="median"), "mean='median'"),
        (lambda: ak.AdaLoss(mean="batch", update_period=2), "and `update_period=1`.*update_period=2"),
        (lambda: ak.AdaLoss(mean="batch", first_order=True), "first_order=True"),
        (lambda: weighting.UncertaintyWeighting(rate=0), "rate=0"),
        (lambda: weighting.GradNormWeighting(alpha=-1), "alpha=-1"),
        (lambda: weighting.GradNormWeighting(update_period=0), "update_period=0"),
        (lambda: ak.models.gradient_equilibrium(keras.layers.Dense(3)), "functional.*Dense"),
        (lambda: tiny("digits", weighting={"name": "adaloss", "gamma": [1.0, 2.0]}), "gamma=\\[1.0, 2.0\\]"),
        (lambda: tiny("digits", weighting={"name": "gradnorm", "gamma": 1.0}), "does not take.*gamma"),
        (lambda: tiny("digits", gradient_equilibrium=1), "`gradient_equilibrium` must be True or False"),
    ]:
        with pytest.raises(ValueError, match=message):
            make()


# === Gradient equilibrium ===


def gradients_by_path(model, x, y):
    """Returns the gradients of the exits' summed loss by the parameter's path."""
    before = {variable.path: keras.ops.convert_to_numpy(variable) for variable in model.trainable_variables}
    # Compiling so many layers with XLA would take longer than running them in TensorFlow.
    model.compile(keras.optimizers.SGD(1.0), loss=crossentropy(), jit_compile=keras.backend.backend() == "jax")
    model.train_on_batch(x, y)
    return {
        variable.path: before[variable.path] - keras.ops.convert_to_numpy(variable)
        for variable in model.trainable_variables
    }


FAMILIES = {
    "resann": dict(num_units=1, channels=4),
    "denseann": dict(blocks=(2, 2), growth_rate=4, exit_every=2, stem="small"),
}


def build(name):
    keras.utils.set_random_seed(0)
    keras.utils.clear_session(free_memory=False)
    return ak.models.build(name, **{"input_shape": (16, 16, 3), "num_classes": 3, **FAMILIES[name]})


@pytest.mark.long
@pytest.mark.parametrize("name", FAMILIES)
def test_each_part_gets_the_mean_over_the_exits_that_need_it(name):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(4, 16, 16, 3)).astype("float32"), np.array([0, 1, 2, 0])
    plain, scaled = build(name), ak.models.gradient_equilibrium(build(name))
    for ours, theirs in zip(scaled.predict(x, verbose=0).values(), plain.predict(x, verbose=0).values()):
        np.testing.assert_array_equal(ours, theirs)
    assert [each.macs for each in scaled.exits] == [each.macs for each in plain.exits]
    num_exits, needed_by = plain.num_exits, {}
    for exit_name, output in plain.output.items():
        part = keras.Model(plain.inputs, output)
        for variable in part.trainable_variables:
            needed_by.setdefault(variable.path, []).append(exit_name)
    before, after = gradients_by_path(plain, x, y), gradients_by_path(scaled, x, y)
    counts = set()
    for path, gradient in before.items():
        # A head gets the whole gradient; a shared layer is needed by all exits from some exit on.
        count = len(needed_by[path])
        counts.add(count)
        np.testing.assert_allclose(after[path], gradient / count, rtol=2e-3, atol=2e-5, err_msg=path)
    assert counts == set(range(1, num_exits + 1))


def test_equilibrium_keeps_mixed_precision_as_it_is():
    x = np.random.default_rng(0).normal(size=(2, 8, 8, 1)).astype("float32")
    config = dict(num_units=1, channels=4, input_shape=(8, 8, 1), num_classes=3, dtype="mixed_bfloat16")
    plain = ak.models.build("resann", **config)
    expected = plain.predict(x, verbose=0)
    scaled = ak.models.gradient_equilibrium(plain)
    scales = [layer for layer in scaled.layers if type(layer).__name__ == "GradientScale"]
    assert {layer.output.dtype for layer in scales} == {"bfloat16"}
    for name, logits in scaled.predict(x, verbose=0).items():
        np.testing.assert_array_equal(np.asarray(logits, "float32"), np.asarray(expected[name], "float32"))


def test_a_gradient_scale_of_any_number_and_dtype_policy_is_saved(tmp_path):
    layer = ak.models.GradientScale(np.float32(0.5), dtype=keras.DTypePolicy("mixed_bfloat16"))
    keras.Sequential([keras.Input((3,)), layer]).save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras").layers[-1]
    assert (loaded.factor, loaded.dtype_policy.name) == (0.5, "mixed_bfloat16")


def tiny(data, **changes):
    return Recipe.paper(
        {"name": "resann", "num_units": 1, "channels": 2, "exit_every": 1},
        {"data": data, "augment": []},
        **{"epochs": 2, "batch_size": 28, "learning_rate": 0.05, **changes},
    )


@pytest.fixture
def images(tmp_path):
    return checks.write_images(tmp_path / "images.npz", train=56, validation=6, test=6)


@pytest.mark.long
def test_a_recipe_with_equilibrium_adaloss_and_distillation_trains_and_is_read_back(images, tmp_path):
    """For one batch, AdaLoss uses losses that include the distillation, as computed on the untrained network."""
    recipe = tiny(
        images,
        epochs=1,
        batch_size=56,
        gradient_equilibrium=True,
        distillation={"weight": 2.0, "temperature": 2.0},
    )
    assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe
    run = train(recipe, tmp_path / "run", verbose=False, tensorboard=False)
    keras.utils.set_random_seed(recipe.seed)
    data = recipe.load_data()
    untrained, (x, y) = recipe.build_model(data), next(iter(data.train))
    outputs = untrained(x, training=True)
    logits = [keras.ops.convert_to_numpy(outputs[name]) for name in untrained.exit_names]
    theirs, ours = (np.exp(each / 2) / np.exp(each / 2).sum(1, keepdims=True) for each in (logits[-1], logits[0]))
    divergence = (theirs * np.log(theirs / ours)).sum(axis=1).mean()
    plain = float(crossentropy()(y, outputs["exit_1"]))
    assert divergence > 1e-3
    assert run.weighting.averages[0] == pytest.approx(plain + 2 * 4 * divergence, rel=1e-3)
    assert run.weighting.averages[-1] == pytest.approx(float(crossentropy()(y, outputs["exit_3"])), rel=1e-3)
    loaded = keras.saving.load_model(tmp_path / "run" / "model.keras")
    assert any(type(layer).__name__ == "GradientScale" for layer in loaded.layers)
    assert ak.evaluate(loaded, data.test).errors == run.curve.errors


@jax_only
@pytest.mark.parametrize(
    "changes",
    [
        dict(weighting={"name": "gradnorm"}),
        pytest.param(dict(weighting={"name": "uncertainty", "rate": 0.3}), marks=pytest.mark.slow),
        pytest.param(dict(weighting={"name": "adaloss", "mean": "batch"}), marks=pytest.mark.slow),
        dict(weighting={"name": "adaloss", "gamma": [1.0, 0.0]}, gradient_equilibrium=True),
    ],
    ids=["gradnorm", "uncertainty", "batch", "annealed"],
)
def test_side_by_side_equals_fit(images, changes):
    recipes = [tiny(images, seed=seed, **changes) for seed in (0, 1)]
    runs = train_side_by_side(recipes, verbose=False)
    alone = train(recipes[1], verbose=False)
    assert type(runs[1].weighting) is type(alone.weighting)
    np.testing.assert_allclose(runs[1].weighting.weights, alone.weighting.weights, rtol=1e-3)
    for row, theirs in zip(runs[1].history, alone.history, strict=True):
        np.testing.assert_allclose([row[name] for name in theirs], list(theirs.values()), rtol=1e-3, atol=1e-5)
    for ours, theirs in zip(runs[1].model.get_weights(), alone.model.get_weights()):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-5)
    assert np.abs(runs[0].model.get_weights()[0] - runs[1].model.get_weights()[0]).max() > 0.01
    assert runs[1].weighting.weights.min() < 0.999
