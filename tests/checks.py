"""What every anytime network must do, whatever its family: one routine, tiny configurations."""

import json

import keras
import numpy as np

import anytime_keras as ak


def crossentropy():
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def some_input(model, batch=2, seed=0):
    rng = np.random.default_rng(seed)
    shapes = [(batch, *tensor.shape[1:]) for tensor in model.inputs]
    arrays = [rng.normal(size=shape).astype("float32") for shape in shapes]
    return arrays if len(arrays) > 1 else arrays[0]


def outputs(model, x):
    return {name: np.asarray(value, "float32") for name, value in model.predict(x, verbose=0).items()}


def scramble(model, seed=0):
    """Gives every variable a value that no initialiser has, so that a wrongly matched one shows."""
    rng = np.random.default_rng(seed)
    for variable in model.weights:
        value = (
            rng.uniform(0.5, 1.5, variable.shape) if "variance" in variable.path else rng.normal(0, 0.3, variable.shape)
        )
        variable.assign(value.astype("float32"))


def check_exits(model, num_exits, num_classes):
    """Shapes, order and names."""
    assert model.exit_names == [f"exit_{number}" for number in range(1, num_exits + 1)]
    assert [exit.name for exit in model.exits] == model.exit_names
    macs = [exit.macs for exit in model.exits]
    assert all(early < late for early, late in zip(macs, macs[1:])), "cost must grow with every exit"
    assert model.exits[-1].params == model.count_params()
    x = some_input(model)
    answers = model(x, training=False)
    assert list(answers) == model.exit_names
    for name, logits in answers.items():
        assert logits.shape == (2, num_classes)
        np.testing.assert_allclose(keras.ops.convert_to_numpy(logits), outputs(model, x)[name], rtol=1e-4, atol=1e-5)


def check_saving(model, folder):
    """`.keras`, `.weights.h5` and config through JSON give equal outputs."""
    scramble(model)
    x = some_input(model)
    expected = outputs(model, x)
    model.save(folder / "model.keras")
    model.save_weights(folder / "model.weights.h5")
    rebuilt = type(model).from_config(json.loads(json.dumps(model.get_config())))
    rebuilt.load_weights(folder / "model.weights.h5")
    for other in (keras.saving.load_model(folder / "model.keras"), rebuilt):
        assert type(other) is type(model)
        assert other.get_config() == model.get_config() or type(model) is ak.AnytimeModel
        assert list(outputs(other, x)) == list(expected) == other.exit_names
        for name, values in outputs(other, x).items():
            np.testing.assert_array_equal(values, expected[name])


def check_training(model, num_classes):
    """Every variable moves, AdaLoss takes effect, and nothing is compiled twice."""
    x, y = some_input(model, batch=8), np.arange(8) % num_classes
    model.compile(keras.optimizers.SGD(0.05), loss=crossentropy(), metrics=["accuracy"])
    before = [keras.ops.convert_to_numpy(variable) for variable in model.trainable_variables]
    adaloss = ak.AdaLoss(gamma=0.0)
    for _ in range(2):
        logs = model.fit(x, y, batch_size=8, shuffle=False, verbose=0, callbacks=[adaloss]).history
    for variable, old in zip(model.trainable_variables, before):
        assert np.abs(keras.ops.convert_to_numpy(variable) - old).max() > 0, f"{variable.path} has no gradient"
    assert adaloss.weighting.steps == 2
    first = adaloss.averages * 0 + [float(np.asarray(logs[f"{name}_loss"][0])) for name in model.exit_names]
    assert np.isfinite(first).all()
    total = sum(logs[f"{name}_loss"][0] for name in model.exit_names)
    assert logs["loss"][0] < total * (1 - 1e-6), "the second batch's losses must be weighed"


def check_mixed_precision(make, policy):
    """`make(dtype)` gives a model whose layers compute in the policy's type and whose logits are float32."""
    model = make(policy)
    compute = keras.dtype_policies.get(policy).compute_dtype
    assert {str(variable.dtype) for variable in model.trainable_variables} == {"float32"}
    assert any(layer.compute_dtype == compute for layer in model.layers if isinstance(layer, keras.layers.Conv2D))
    answers = model(some_input(model))
    assert {keras.backend.standardize_dtype(logits.dtype) for logits in answers.values()} == {"float32"}
    assert np.isfinite(np.concatenate([keras.ops.convert_to_numpy(logits) for logits in answers.values()])).all()
    assert model.dtype_policy.name == policy
    again = type(model).from_config(model.get_config())
    assert again.dtype_policy.name == policy


def check_traces_once(model):
    """A second call with other data compiles nothing."""
    from anytime_keras import runtime

    traces = []
    original = model.call
    model.call = lambda *args, **kwargs: traces.append(1) or original(*args, **kwargs)
    run = runtime.compiled(model)
    for seed in range(3):
        runtime.finish(run(keras.tree.map_structure(keras.ops.convert_to_tensor, some_input(model, seed=seed))))
    del model.call
    assert len(traces) == 1
