import keras
import numpy as np
import pytest

import anytime_keras as ak
from tests import checks

RNG = np.random.default_rng(0)
X = RNG.normal(size=(24, 4)).astype("float32")
Y = RNG.integers(0, 3, 24)


def network(names=("a", "b", "c")):
    inputs = keras.Input((4,))
    x, exits = inputs, {}
    for name in names:
        x = keras.layers.Dense(5, activation="tanh")(x)
        exits[name] = keras.layers.Dense(3)(x)
    return ak.AnytimeModel(inputs, exits)


def eleven():
    return [f"exit_{number}" for number in range(1, 12)]


@pytest.mark.parametrize("names", [["a", "b", "c"], ["z", "m", "a"], eleven()])
def test_exits_keep_their_order_everywhere(names, tmp_path):
    model = network(names)
    assert model.exit_names == names == [exit.name for exit in model.exits]
    assert list(model.predict(X, verbose=0)) == names
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert type(loaded) is ak.AnytimeModel and loaded.exit_names == names
    assert keras.models.clone_model(model).exit_names == names
    expected = checks.answers(model, X)
    for name, logits in checks.answers(loaded, X).items():
        np.testing.assert_array_equal(logits, expected[name])


def converted():
    layers = [keras.layers.Dense(6, "relu", name=f"dense_{name}") for name in "abc"]
    return ak.to_anytime(keras.Sequential([keras.Input((5,)), *layers, keras.layers.Dense(3)]), num_exits=3)


def resann():
    return ak.models.build("resann", num_units=1, channels=2, input_shape=(4, 4, 1), num_classes=3)


def copied(layer):
    return type(layer).from_config(layer.get_config())


@pytest.mark.parametrize("make, function", [(converted, None), (converted, copied), (resann, None)])
def test_a_clone_is_an_anytime_model_with_the_same_exits(make, function):
    model = make()
    model.compile("sgd", loss=checks.crossentropy(), metrics=["accuracy"], run_eagerly=True)
    clone = keras.models.clone_model(model, clone_function=function)
    clone.set_weights(model.get_weights())
    assert type(clone) is ak.AnytimeModel and clone.exit_names == model.exit_names
    assert [exit.macs for exit in clone.exits] == [exit.macs for exit in model.exits]
    x = checks.some_input(model, batch=4)
    expected = checks.answers(model, x)
    for name, logits in checks.answers(clone, x).items():
        np.testing.assert_array_equal(logits, expected[name])
    history = clone.fit(x, np.zeros(4, int), verbose=0).history
    assert [f"{name}_accuracy" in history for name in model.exit_names] == [True] * 3
    assert type(model).from_config(model.get_config()).exit_names == model.exit_names


def test_parameters_are_counted_again_after_layers_changed():
    model = resann()
    before = [exit.params for exit in model.exits]
    head = model.get_layer("exit_1")
    head.enable_lora(2)
    added = 2 * (head.kernel.shape[0] + 3)
    assert [exit.params for exit in model.exits] == [params + added for params in before]
    assert model.exits[-1].params == model.count_params()


def test_one_loss_one_metric_list_and_one_label_serve_all_exits():
    one, each = network(), network()
    each.set_weights(one.get_weights())
    one.compile(
        keras.optimizers.SGD(0.1),
        loss=checks.crossentropy(),
        metrics=["accuracy", keras.metrics.SparseTopKCategoricalAccuracy(2, name="top2")],
    )
    each.compile(
        keras.optimizers.SGD(0.1),
        loss={name: checks.crossentropy() for name in "abc"},
        metrics={name: ["accuracy", keras.metrics.SparseTopKCategoricalAccuracy(2, name="top2")] for name in "abc"},
    )
    ours = one.fit(X, Y, batch_size=8, shuffle=False, verbose=0, validation_data=(X, Y)).history
    theirs = each.fit(
        X,
        {name: Y for name in "abc"},
        batch_size=8,
        shuffle=False,
        verbose=0,
        validation_data=(X, {name: Y for name in "abc"}),
    ).history
    assert set(ours) == {
        f"{prefix}{key}"
        for prefix in ("", "val_")
        for key in ["loss", *(f"{name}_{kind}" for name in "abc" for kind in ("loss", "accuracy", "top2"))]
    }
    for key in ours:
        np.testing.assert_allclose(ours[key], theirs[key], rtol=1e-6)
    np.testing.assert_allclose(
        one.evaluate(X, Y, verbose=0, return_dict=True)["loss"],
        each.evaluate(X, {n: Y for n in "abc"}, verbose=0, return_dict=True)["loss"],
    )
    logs = one.train_on_batch(X, Y, return_dict=True)
    np.testing.assert_allclose(logs["loss"], sum(logs[f"{name}_loss"] for name in "abc"), rtol=1e-5)
    assert logs["a_accuracy"] != logs["c_accuracy"] or logs["a_loss"] != logs["c_loss"]


def test_the_loss_is_the_plain_sum_of_the_exits():
    model = network()
    model.compile("sgd", loss=checks.crossentropy())
    logs = model.evaluate(X, Y, verbose=0, return_dict=True)
    logits = checks.outputs(model, X)
    for name in "abc":
        log_p = logits[name] - np.log(np.exp(logits[name]).sum(1, keepdims=True))
        np.testing.assert_allclose(logs[f"{name}_loss"], -log_p[np.arange(24), Y].mean(), rtol=1e-5)
    np.testing.assert_allclose(logs["loss"], sum(logs[f"{name}_loss"] for name in "abc"), rtol=1e-6)


def test_sample_weight_and_class_weight():
    weights = RNG.uniform(0, 2, 24).astype("float32")
    by_class = {0: 0.5, 1: 2.0, 2: 0.0}
    model = network()
    model.compile(keras.optimizers.SGD(0.0), loss=checks.crossentropy(), run_eagerly=True)
    plain = {
        name: model.evaluate(X[Y == label], Y[Y == label], verbose=0, return_dict=True)
        for label, name in enumerate("xyz")
    }
    logs = model.fit(X, Y, batch_size=24, class_weight=by_class, verbose=0).history
    expected = sum(by_class[label] * plain["xyz"[label]]["b_loss"] * (Y == label).sum() for label in range(3)) / 24
    np.testing.assert_allclose(logs["b_loss"][0], expected, rtol=1e-5)
    logits = checks.answers(model, X)["c"]
    losses = np.log(np.exp(logits).sum(1)) - logits[np.arange(24), Y]
    logs = model.fit(X, Y, sample_weight=weights, batch_size=24, verbose=0).history
    np.testing.assert_allclose(logs["c_loss"][0], (losses * weights).sum() / 24, rtol=1e-5)


WEIGHTS = RNG.uniform(0, 2, (3, 24)).astype("float32")


@pytest.mark.parametrize(
    "given, expected",
    [
        (WEIGHTS[0], [WEIGHTS[0]] * 3),
        (list(WEIGHTS), WEIGHTS),
        (dict(zip("abc", WEIGHTS)), WEIGHTS),
        ([None, WEIGHTS[1], None], [1.0, WEIGHTS[1], 1.0]),
        ({"b": WEIGHTS[1]}, [1.0, WEIGHTS[1], 1.0]),
        ({"a": None, "c": WEIGHTS[2]}, [1.0, 1.0, WEIGHTS[2]]),
    ],
)
def test_sample_weights_in_every_form(given, expected):
    model = network()
    model.compile(
        keras.optimizers.SGD(0.0),
        loss=checks.crossentropy(),
        weighted_metrics=["accuracy"],
        run_eagerly=not isinstance(given, list),  # compiling takes most of the time
    )
    settings = dict(batch_size=24, shuffle=False, verbose=0, validation_data=(X, Y, given))
    labels = {name: Y for name in "abc"} if isinstance(given, dict) else Y
    logs = {name: values[0] for name, values in model.fit(X, labels, sample_weight=given, **settings).history.items()}
    answers = checks.answers(model, X)
    for name, weights in zip("abc", expected):
        logits = answers[name]
        losses = np.log(np.exp(logits).sum(1)) - logits[np.arange(24), Y]
        weights = np.broadcast_to(weights, 24)
        for loss in (logs[f"{name}_loss"], logs[f"val_{name}_loss"]):
            np.testing.assert_allclose(loss, (losses * weights).mean(), rtol=1e-5)
        right = (logits.argmax(1) == Y) * weights
        np.testing.assert_allclose(logs[f"{name}_accuracy"], right.sum() / weights.sum(), rtol=1e-5)


@pytest.mark.parametrize(
    "given, match", [(list(WEIGHTS[:2]), "length 2 .*3 exits"), ({"d": WEIGHTS[0]}, "`sample_weight`.*'d'")]
)
def test_sample_weights_for_other_exits_are_refused(given, match):
    model = network()
    model.compile("sgd", loss=checks.crossentropy())
    with pytest.raises(ValueError, match=match):
        model.fit(X, Y, sample_weight=given, verbose=0)


def test_loss_weights_by_exit():
    for weights in ([0.0, 0.5, 2.0], {"c": 2.0, "a": 0.0, "b": 0.5}):
        model = network()
        model.compile("sgd", loss=checks.crossentropy(), loss_weights=weights, run_eagerly=True)
        logs = model.evaluate(X, Y, verbose=0, return_dict=True)
        np.testing.assert_allclose(logs["loss"], 0.5 * logs["b_loss"] + 2 * logs["c_loss"], rtol=1e-6)


@pytest.mark.long
def test_a_compiled_model_is_compiled_again_when_loaded(tmp_path):
    model = network(eleven())
    model.compile("adam", loss=checks.crossentropy(), metrics=["accuracy"], loss_weights=[float(n) for n in range(11)])
    model.fit(X, Y, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    expected = model.evaluate(X, Y, verbose=0, return_dict=True)
    got = loaded.evaluate(X, Y, verbose=0, return_dict=True)
    assert got.keys() == expected.keys()
    for key in got:
        np.testing.assert_allclose(got[key], expected[key], rtol=1e-6)
    for ours, theirs in zip(loaded.optimizer.variables, model.optimizer.variables):
        np.testing.assert_allclose(keras.ops.convert_to_numpy(ours), keras.ops.convert_to_numpy(theirs))


def test_one_exit_is_a_model_like_any_other():
    model = network(["only"])
    model.compile("sgd", loss=checks.crossentropy(), metrics=["accuracy"])
    assert set(model.fit(X, Y, verbose=0).history) == {"loss", "accuracy"}


def test_several_inputs():
    left, right = keras.Input((4,), name="left"), keras.Input((2,), name="right")
    early = keras.layers.Dense(3)(left)
    late = keras.layers.Dense(3)(keras.layers.Concatenate()([left, right]))
    model = ak.AnytimeModel({"left": left, "right": right}, {"early": early, "late": late})
    model.compile("sgd", loss=checks.crossentropy())
    model.fit({"left": X, "right": X[:, :2]}, Y, verbose=0, callbacks=[ak.AdaLoss()])
    assert [exit.macs for exit in model.exits] == [12, 12 + 18]


@pytest.mark.parametrize("outputs", [None, [], {}, "exit", {"a": 3}, {1: "tensor"}])
def test_invalid_exits_are_refused(outputs):
    inputs = keras.Input((4,))
    if outputs == {1: "tensor"}:
        outputs = {1: keras.layers.Dense(3)(inputs)}
    with pytest.raises(ValueError, match="dict from each exit's name"):
        ak.AnytimeModel(inputs, outputs)


def test_wrong_names_and_numbers_are_refused():
    model = network()
    with pytest.raises(ValueError, match="an entry for each exit.*length 2 .*3 exits"):
        model.compile("sgd", loss=checks.crossentropy(), loss_weights=[1.0, 2.0])
    with pytest.raises(ValueError, match="`loss` must have names of exits.*'d'.*'a', 'b', 'c'"):
        model.compile("sgd", loss={"d": checks.crossentropy()})
    with pytest.raises(ValueError, match="`metrics` must have names of exits.*'d'"):
        model.compile("sgd", loss=checks.crossentropy(), metrics={"d": ["accuracy"]})
    with pytest.raises(ValueError, match="loss_weights=3"):
        model.compile("sgd", loss=checks.crossentropy(), loss_weights=3)
    with pytest.raises(ValueError, match="loss of length 2.*3 exits"):
        model.compile("sgd", loss=[checks.crossentropy()] * 2)
    model.compile("sgd", loss=checks.crossentropy())
    with pytest.raises(ValueError, match=r"none for \['c'\]"):
        model.fit(X, {"a": Y, "b": Y}, verbose=0)


def test_preprocessor_and_class_names_are_saved_in_keras_files(tmp_path):
    model = ak.models.build("resann", num_units=1, channels=4, input_shape=(8, 8, 3), num_classes=3)
    layers, names = len(model.layers), [variable.path for variable in model.weights]
    model.preprocessor = ak.preprocessing.Preprocessor((8, 8, 3), [0.4, 0.5, 0.6], 0.3, short_side=10)
    model.class_names = ["cat", "dog", "fox"]
    assert len(model.layers) == layers and [variable.path for variable in model.weights] == names
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.class_names == model.class_names and loaded.inference is None
    assert loaded.preprocessor.get_config() == model.preprocessor.get_config()
    loaded.preprocessor = loaded.class_names = None
    loaded.save(tmp_path / "bare.keras")
    bare = keras.saving.load_model(tmp_path / "bare.keras")
    assert bare.preprocessor is None and bare.class_names is None
