import inspect

import keras
import numpy as np
import pytest
from keras import layers

import anytime_keras as ak
from anytime_keras import graph
from tests import checks


def residual(num_blocks=4, activation="softmax", dtype=None, name="residual"):
    """A small residual network; its blocks end in `join_1`, `join_2`, ..."""
    image = keras.Input((8, 8, 3), name="image")
    x = layers.Conv2D(8, 3, padding="same", dtype=dtype, name="stem")(image)
    for block in range(1, num_blocks + 1):
        y = layers.BatchNormalization(dtype=dtype)(x)
        y = layers.Conv2D(8, 3, padding="same", activation="relu", dtype=dtype, name=f"conv_{block}")(y)
        x = layers.Add(dtype=dtype, name=f"join_{block}")([x, y])
    x = layers.GlobalAveragePooling2D(dtype=dtype)(layers.ReLU(dtype=dtype, name="last_relu")(x))
    return keras.Model(image, layers.Dense(5, activation, dtype="float32", name="classes")(x), name=name)


def reads(model):
    """Returns the names of the layers whose outputs the exits' heads read."""
    found = []
    for name in model.exit_names:
        own = [call for call in graph.calls(model.output[name]) if call.operation.name.startswith(name)]
        found += [graph.producer(own[0].input_tensors[0]).operation.name] if own else []
    return found


def numbers(value):
    return keras.ops.convert_to_numpy(value)


def check_last_exit(base, model, x):
    np.testing.assert_array_equal(numbers(model(x)[model.exit_names[-1]]), numbers(base(x)))


# --- Networks ---

FAST = ["ConvNeXtTiny", "EfficientNetB0", "MobileNet", "MobileNetV3Small", "ResNet50", "VGG16"]
OTHERS = sorted({name for name, value in vars(keras.applications).items() if inspect.isfunction(value)} - set(FAST))


@pytest.mark.long
@pytest.mark.tensorflow  # JAX compiles each operation while a network is built, which takes a minute for each network
@pytest.mark.parametrize("name", [*FAST, *(pytest.param(name, marks=pytest.mark.slow) for name in OTHERS)])
def test_keras_applications_keep_their_output_as_the_last_exit(name):
    size = 32 if name in FAST else 75
    base = getattr(keras.applications, name)(weights=None, input_shape=(size, size, 3), classes=7)
    x = np.random.default_rng(0).uniform(0, 255, (2, size, size, 3)).astype("float32")
    model = ak.to_anytime(base, num_exits=4)
    check_last_exit(base, model, x)
    assert model.exit_names == ["exit_1", "exit_2", "exit_3", "exit_4"]
    for answer in model(x).values():
        assert answer.shape == (2, 7)
        np.testing.assert_allclose(numbers(answer).sum(axis=1), 1, rtol=1e-4)
    macs = np.array([exit.macs for exit in model.exits])
    np.testing.assert_allclose(macs / macs[-1], [0.25, 0.5, 0.75, 1], atol=0.17)
    assert model.exits[-1].params == model.count_params()


def hub(name):
    models = pytest.importorskip("keras_hub").models
    shape = (32, 32, 3)
    backbones = {
        "ResNet": lambda: models.ResNetBackbone([64], [3], [64, 64], [1, 1], [1, 2], "basic_block", image_shape=shape),
        "ViT": lambda: models.ViTBackbone(shape, 8, 4, 2, 16, 32),
        "DenseNet": lambda: models.DenseNetBackbone([3, 3], image_shape=shape, growth_rate=4),
        "Xception": lambda: models.XceptionBackbone([[8, 8], [8, 16]], [True, False], image_shape=shape),
        "SwinTransformer": lambda: models.SwinTransformerBackbone(
            image_shape=(16, 16, 3), embed_dim=8, depths=(2, 2), num_heads=(2, 2), window_size=2
        ),
    }
    return backbones[name](), getattr(models, f"{name}ImageClassifier")


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:.*does not support masking")
@pytest.mark.parametrize("name", ["ResNet", "ViT", "DenseNet", "Xception", "SwinTransformer"])
def test_keras_hub_classifiers_and_backbones(name, tmp_path):
    backbone, classifier = hub(name)
    x = np.random.default_rng(0).uniform(0, 1, (2, *backbone.inputs[0].shape[1:])).astype("float32")
    features = ak.to_anytime(backbone, num_exits=3, num_classes=5)
    base = classifier(backbone=backbone, num_classes=5)
    model = ak.to_anytime(base, num_exits=3)
    check_last_exit(base, model, x)
    assert features.exits[-1].params == features.count_params()
    for each in (features, model):
        expected = each(x)
        each.save(tmp_path / "model.keras")
        for exit_name, answer in keras.saving.load_model(tmp_path / "model.keras")(x).items():
            assert answer.shape == (2, 5)
            np.testing.assert_array_equal(numbers(answer), numbers(expected[exit_name]))


def test_exits_reach_the_blocks_of_a_keras_hub_vit():
    backbone, _ = hub("ViT")
    model = ak.to_anytime(backbone, exits=["transformer_block_1", "transformer_block_3"], num_classes=5)
    assert reads(model)[:2] == ["transformer_block_1", "transformer_block_3"]


# --- Places ---


def test_exits_divide_the_cost_evenly_at_block_ends():
    model = ak.to_anytime(residual(num_blocks=8), num_exits=4)
    assert reads(model) == ["join_2", "join_4", "join_6"]


def test_every_selects_evenly_spaced_places():
    assert reads(ak.to_anytime(residual(), every=1)) == ["stem", "join_1", "join_2", "join_3"]
    assert reads(ak.to_anytime(residual(), every=2)) == ["join_1", "join_3"]


def test_named_exits_are_in_the_order_of_computation():
    model = ak.to_anytime(residual(), exits=["join_3", "conv_1"])  # conv_1 is within a block: the user's choice
    assert reads(model) == ["conv_1", "join_3"]


def test_a_network_that_is_never_one_tensor_wide_has_exits_where_it_is_two_wide():
    image = keras.Input((8, 8, 2))
    before = now = layers.Conv2D(4, 3, padding="same")(image)
    for cell in range(4):
        joined = layers.Add(name=f"cell_{cell}")([layers.Conv2D(4, 3, padding="same")(t) for t in (before, now)])
        before, now = now, joined
    both = layers.Add()([before, now])
    base = keras.Model(image, layers.Dense(3)(layers.GlobalAveragePooling2D()(both)))
    assert reads(ak.to_anytime(base, num_exits=3)) == ["cell_0", "cell_2"]


def test_open_sizes_are_counted_at_a_typical_size():
    image = keras.Input((None, None, 3))
    x = layers.Conv2D(4, 3, name="first")(image)
    x = layers.Conv2D(4, 3, name="second")(x)
    base = keras.Model(image, layers.Dense(3)(layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3)(x))))
    assert reads(ak.to_anytime(base, num_exits=3)) == ["first", "second"]
    assert ak.cost.exit_costs(ak.to_anytime(base, num_exits=2), input_shape=(9, 9, 3))[-1].params > 0


# --- Shared layers and unchanged originals ---


@pytest.mark.long
def test_training_the_anytime_model_trains_the_original():
    base = residual(num_blocks=2)
    model = ak.to_anytime(base, num_exits=3)
    assert {id(weight) for weight in base.weights} <= {id(weight) for weight in model.weights}
    x, y = checks.some_input(base, batch=8), np.arange(8) % 5
    before = numbers(base(x))
    model.compile(keras.optimizers.SGD(0.1), loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(x, y, verbose=0, callbacks=[ak.AdaLoss(gamma=0.05)])
    assert np.abs(numbers(base(x)) - before).max() > 1e-3
    check_last_exit(base, model, x)


def test_every_variable_trains_and_adaloss_takes_effect():
    checks.check_training(ak.to_anytime(residual(2, activation=None), num_exits=3), num_classes=5)


def test_converting_does_not_change_the_original():
    base = residual()
    before = base.to_json()
    ak.to_anytime(base, num_exits=3)
    assert base.to_json() == before
    assert base.get_layer("classes").output is base.output  # no layer was called again


def test_batch_normalisation_learns_as_in_the_original():
    base = residual(activation=None)
    model = ak.to_anytime(base, num_exits=2)
    x = checks.some_input(base, batch=16)
    trained, initial = [], base.get_weights()
    for each in (base, model):
        base.set_weights(initial)
        each(x, training=True)
        trained.append([numbers(variable) for variable in base.non_trainable_variables])
    assert any(np.abs(new - old).max() > 0 for new, old in zip(trained[0], initial))
    for alone, shared in zip(*trained):
        np.testing.assert_array_equal(alone, shared)


def test_mixed_precision_is_kept():
    base = residual(dtype="mixed_bfloat16")
    for head in ("pool", "msd"):
        model = ak.to_anytime(base, num_exits=3, head=head)
        x = checks.some_input(base)
        check_last_exit(base, model, x)
        assert {keras.backend.standardize_dtype(answer.dtype) for answer in model(x).values()} == {"float32"}
        own = [layer for layer in model.layers if layer.name.startswith("exit_1_conv")]
        assert all(layer.compute_dtype == "bfloat16" and layer.kernel.dtype == "float32" for layer in own)
        keras.utils.clear_session()


@pytest.mark.parametrize("head", ["pool", "msd"])
def test_saving(head, tmp_path):
    checks.check_saving(ak.to_anytime(residual(2), num_exits=3, head=head), tmp_path)


@pytest.mark.long
def test_a_saved_model_can_be_saved_and_trained_again(tmp_path):
    model = ak.to_anytime(nested(), exits=["join_2"])
    model.compile("sgd", loss="sparse_categorical_crossentropy")
    x = checks.some_input(model)
    for path in (tmp_path / "once.keras", tmp_path / "twice.keras"):
        expected = checks.outputs(model, x)
        model.save(path)
        model = keras.saving.load_model(path)
        for name, answer in checks.outputs(model, x).items():
            np.testing.assert_array_equal(answer, expected[name])
    model.fit(x, np.array([0, 1]), verbose=0)


# --- Heads ---


def test_new_heads_end_as_the_original_does():
    def ends(activate):
        image = keras.Input((6,))
        x = layers.Dense(4, activation="relu")(layers.Dense(4, activation="relu", name="hidden")(image))
        return keras.Model(image, activate(x))

    x = np.random.default_rng(0).normal(size=(3, 6)).astype("float32")
    for activate in (
        layers.Dense(5, activation="softmax"),
        lambda x: layers.Softmax()(layers.Dense(5)(x)),
        lambda x: keras.ops.softmax(layers.Dense(5)(x)),
        lambda x: layers.Activation("softmax")(layers.Reshape((5,))(layers.Reshape((1, 5))(layers.Dense(5)(x)))),
    ):
        model = ak.to_anytime(ends(activate), exits=["hidden"])
        np.testing.assert_allclose(numbers(model(x)["exit_1"]).sum(axis=1), 1, rtol=1e-5)
    sigmoid = ak.to_anytime(ends(layers.Dense(1, activation="sigmoid")), exits=["hidden"])
    assert 0 < numbers(sigmoid(x)["exit_1"]).min() and numbers(sigmoid(x)["exit_1"]).max() < 1
    linear = ak.to_anytime(ends(layers.Dense(5)), exits=["hidden"])
    assert linear.get_layer("exit_1").activation is keras.activations.linear
    assert linear.output["exit_1"] is linear.get_layer("exit_1").output
    scaled = ak.to_anytime(ends(lambda x: layers.Dense(5)(x) * 1000.0), exits=["hidden"])
    assert np.abs(numbers(scaled(x)["exit_1"])).max() > 50


def test_features_are_normalised_unless_they_come_from_an_activation():
    def kinds(name):
        model = ak.to_anytime(residual(activation=None), exits=[name])
        return [type(layer).__name__ for layer in model.layers if layer.name.startswith("exit_1")]

    assert kinds("conv_2") == ["GlobalAveragePooling2D", "Dense"]
    assert kinds("join_2") == ["BatchNormalization", "ReLU", "GlobalAveragePooling2D", "Dense"]


def test_a_function_as_head():
    def head(features, name):
        return layers.Dense(5, activation="softmax", name=name)(layers.Flatten(name=f"{name}_flat")(features))

    base = residual()
    model = ak.to_anytime(base, exits=["join_1", "join_3"], head=head)
    assert [model.get_layer(name).kernel.shape for name in ("exit_1", "exit_2")] == [(512, 5)] * 2
    check_last_exit(base, model, checks.some_input(base))
    with pytest.raises(ValueError, match=r"\(None, 5\).*exit_1"):
        ak.to_anytime(residual(), exits=["join_1"], head=lambda x, name: layers.Dense(4)(layers.Flatten()(x)))


def test_a_backbone_gets_a_head_on_its_output():
    base = residual()
    backbone = keras.Model(base.input, base.get_layer("last_relu").output)
    model = ak.to_anytime(backbone, num_exits=3, num_classes=7)
    assert reads(model)[-1] == "last_relu"
    assert {answer.shape for answer in model(checks.some_input(model)).values()} == {(2, 7)}
    with pytest.raises(ValueError, match="`num_classes` must be given"):
        ak.to_anytime(backbone, num_exits=3)


@pytest.mark.parametrize("size", [32, 64])  # the last map is 1x1 and 2x2
def test_a_pooled_backbone_is_no_classifier_however_small_its_last_map(size):
    shape = (size, size, 3)
    make = keras.applications.MobileNet
    backbone = make(input_shape=shape, alpha=0.25, include_top=False, pooling="avg", weights=None)
    model = ak.to_anytime(backbone, exits=["conv_pw_5_relu"], num_classes=10)
    assert [answer.shape for answer in model.output.values()] == [(None, 10)] * 2
    with pytest.raises(ValueError, match="`num_classes` must be given"):
        ak.to_anytime(backbone, exits=["conv_pw_5_relu"])


@pytest.mark.parametrize(
    "hidden",
    [
        *(layers.Dense(8, activation=name) for name in ("relu", "gelu", "swish", "tanh", "leaky_relu")),
        lambda x: layers.ReLU()(layers.Dense(8)(x)),
        lambda x: layers.Dropout(0.5)(layers.Activation("elu")(layers.Dense(8)(x))),
        lambda x: keras.ops.silu(layers.Dense(8)(x)),
        lambda x: layers.Flatten()(layers.Conv1D(8, 1, activation="relu")(layers.Reshape((1, 4))(x))),
    ],
)
def test_outputs_of_hidden_layers_are_features(hidden):
    x = keras.Input((6,))
    backbone = keras.Model(x, hidden(layers.Dense(4, activation="relu", name="lower")(x)))
    model = ak.to_anytime(backbone, exits=["lower"], num_classes=np.int64(3))
    assert [answer.shape for answer in model.output.values()] == [(None, 3)] * 2
    with pytest.raises(ValueError, match="`num_classes` must be given"):
        ak.to_anytime(backbone, exits=["lower"])


def test_a_1x1_convolution_can_be_the_classifier():
    x = keras.Input((1, 1, 4))
    y = layers.Conv2D(4, 1, activation="relu", name="lower")(x)
    model = ak.to_anytime(keras.Model(x, layers.Flatten()(layers.Conv2D(3, 1)(y))), exits=["lower"])
    assert [answer.shape for answer in model.output.values()] == [(None, 3)] * 2


def test_channels_first():
    image = keras.Input((3, 8, 8))
    x = layers.Conv2D(4, 3, padding="same", data_format="channels_first", name="conv")(image)
    x = layers.Conv2D(4, 3, padding="same", data_format="channels_first")(x)
    base = keras.Model(image, layers.Dense(2)(layers.GlobalAveragePooling2D(data_format="channels_first")(x)))
    for head in ("pool", "msd"):
        model = ak.to_anytime(base, exits=["conv"], head=head)
        assert model.get_layer("exit_1").kernel.shape == (4, 2)
        assert next(layer for layer in model.layers if layer.name.endswith("_bn")).gamma.shape == (4,)
        keras.utils.clear_session()


# --- Graphs ---


def test_tabular():
    base = keras.Sequential([keras.Input((9,)), *(layers.Dense(16, "relu", name=f"dense_{n}") for n in "abcd")])
    base.add(layers.Dense(3, activation="softmax"))
    model = ak.to_anytime(base, num_exits=3)
    assert reads(model) == ["dense_b", "dense_c"]  # 144, 400, 656 and 912 MACs of 960
    check_last_exit(base, model, checks.some_input(base))


def test_sequences_with_a_mask():
    tokens = keras.Input((None,), dtype="int32")
    x = layers.Embedding(20, 8, mask_zero=True)(tokens)
    x = layers.LSTM(8, return_sequences=True, name="lower")(x)
    x = layers.LSTM(8, return_sequences=True, name="upper")(x)
    base = keras.Model(tokens, layers.Dense(3)(layers.LSTM(8)(x)))
    model = ak.to_anytime(base, num_exits=3)
    assert reads(model) == ["lower", "upper"]
    x = np.array([[3, 4, 5, 0, 0, 0], [1, 2, 3, 4, 5, 6]], "int32")
    check_last_exit(base, model, x)
    shorter = numbers(model(x[:1, :3])["exit_1"])  # masked elements are ignored
    np.testing.assert_allclose(shorter, numbers(model(x)["exit_1"])[:1], rtol=1e-5)


def masked(kind):
    """A network for padded sequences; exits are possible at `lower` and `upper`."""
    if kind == "Masking":
        sequence = keras.Input((6, 2))
        x = layers.Dense(8, name="lower")(layers.Masking()(sequence))
    else:
        sequence = keras.Input((6,), dtype="int32")
        x = layers.Embedding(20, 8, mask_zero=True)(sequence)
        lower = layers.LSTM(8, return_sequences=True, name="lower")
        x = lower(x) if kind == "LSTM" else layers.Dense(8, name="lower")(x)
    if kind == "mask read by heads alone":
        x = layers.Dense(8, name="upper")(x)
        x = keras.ops.max(x, axis=1)
    else:
        x = layers.LSTM(8)(layers.LSTM(8, return_sequences=True, name="upper")(x))
    return keras.Model(sequence, layers.Dense(3)(x))


@pytest.mark.parametrize("kind", ["LSTM", "Masking", "mask read by heads alone"])
def test_a_masked_model_is_saved_with_equal_outputs(kind, tmp_path):
    model = ak.to_anytime(masked(kind), exits=["lower", "upper"])
    checks.scramble(model)
    x = np.array([[3, 4, 5, 0, 0, 0], [1, 2, 3, 4, 5, 6]], "int32")
    x = np.stack([x, x], -1).astype("float32") if kind == "Masking" else x
    expected = checks.answers(model, x)
    for path in (tmp_path / "once.keras", tmp_path / "twice.keras"):
        model.save(path)
        keras.utils.clear_session()  # as in a new process, where Keras names operations from the start again
        model = keras.saving.load_model(path)
        for name, answer in checks.answers(model, x).items():
            np.testing.assert_array_equal(answer, expected[name])


def nested(training=None):
    """A classifier with a backbone that is a nested model."""
    image = keras.Input((8, 8, 3), name="photo")
    inner = residual()
    backbone = keras.Model(inner.input, inner.get_layer("last_relu").output, name="backbone")
    x = backbone(layers.Rescaling(2.0)(image), training=training)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(image, layers.Dense(5, activation="softmax")(x), name="classifier")


@pytest.mark.parametrize("training", [None, False])
def test_exits_reach_into_nested_models(training):
    base = nested(training)
    checks.scramble(base)
    model = ak.to_anytime(base, num_exits=3)
    assert set(reads(model)) < {"stem", "join_1", "join_2", "join_3"}
    check_last_exit(base, model, checks.some_input(base))
    assert {id(weight) for weight in base.weights} <= {id(weight) for weight in model.weights}
    assert model.exits[-1].params == model.count_params()
    x = checks.some_input(base, batch=16)
    weights, moved = base.get_weights(), []
    for each in (base, model):
        base.set_weights(weights)
        each(x, training=True)
        moved.append(base.get_weights())
    for alone, shared in zip(*moved):
        np.testing.assert_array_equal(alone, shared)


def test_a_nested_model_can_be_named():
    assert reads(ak.to_anytime(nested(), exits=["join_2", "backbone"])) == ["join_2", "last_relu"]


def test_a_nested_model_with_conflicting_names_stays_one_layer():
    image = keras.Input((8, 8, 3))
    left, right = (keras.Model(each.input, each.get_layer("last_relu").output, name=each.name) for each in twins())
    x = layers.Add(name="both")([left(image), right(image)])
    base = keras.Model(image, layers.Dense(2)(layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3)(x))))
    model = ak.to_anytime(base, exits=["both"])
    assert "left" not in [layer.name for layer in model.layers] and model.get_layer("right")
    check_last_exit(base, model, checks.some_input(base))


def twins():
    return residual(name="left"), residual(name="right")


def test_several_inputs_and_shared_layers():
    photo, table = keras.Input((8, 8, 3), name="photo"), keras.Input((4,), name="table")
    shared = layers.Conv2D(3, 3, padding="same", name="shared")
    x = layers.Conv2D(3, 3, padding="same", name="after")(shared(shared(photo)))
    x = layers.Concatenate(name="met")([layers.GlobalAveragePooling2D()(x), layers.Dense(2, name="tabular")(table)])
    x = layers.Dense(6, activation="relu", name="joint")(x)
    base = keras.Model({"photo": photo, "table": table}, layers.Dense(3)(x))
    model = ak.to_anytime(base, num_exits=4)
    assert reads(model) == ["shared", "shared", "after"]
    rng = np.random.default_rng(0)
    x = {"photo": rng.normal(size=(2, 8, 8, 3)).astype("float32"), "table": np.ones((2, 4), "float32")}
    check_last_exit(base, model, x)
    with pytest.raises(ValueError, match="'shared' cannot carry an exit: it is called 2 times"):
        ak.to_anytime(base, exits=["shared"])


@keras.saving.register_keras_serializable(package="tests")
class Block(layers.Layer):
    def build(self, shape):
        self.inner = layers.Dense(shape[-1], activation="relu")
        self.inner.build(shape)

    def call(self, x):
        return x + self.inner(x)


@keras.saving.register_keras_serializable(package="tests")
class Stack(layers.Layer):
    def build(self, shape):
        self.blocks = [Block(name=f"block_{number}") for number in range(4)]
        for block in self.blocks:
            block.build(shape)

    def call(self, x):
        for block in self.blocks:
            x = block(x)
        return x


def test_exits_reach_into_stacks_of_blocks(tmp_path):
    tokens = keras.Input((6, 8))
    base = keras.Model(tokens, layers.Dense(3)(layers.GlobalAveragePooling1D()(Stack(name="stack")(tokens))))
    model = ak.to_anytime(base, num_exits=3)
    assert reads(model) == ["block_0", "block_2"]
    check_last_exit(base, model, checks.some_input(base))
    assert reads(ak.to_anytime(base, exits=["block_1"])) == ["block_1"]
    checks.check_saving(model, tmp_path)


# --- Errors ---


def test_a_nested_model_with_two_results_cannot_carry_an_exit():
    x = keras.Input((6,))
    y = layers.Dense(4, name="first")(x)
    inner = keras.Model(x, [y, layers.Dense(4, name="second")(y)], name="inner")
    left, right = inner(x)
    base = keras.Model(x, layers.Dense(3)(layers.Add()([left, right])))
    with pytest.raises(ValueError, match="'inner' cannot carry an exit: its result is 2 tensors"):
        ak.to_anytime(base, exits=["inner"])
    assert reads(ak.to_anytime(base, exits=["second"])) == ["second"]


def test_an_anytime_model_is_refused_with_a_hint_that_gives_its_last_exit():
    x = y = keras.Input((6,))
    answers = {}
    for number in range(1, 12):
        y = layers.Dense(4, name=f"hidden_{number}")(y)
        answers[f"exit_{number}"] = layers.Dense(3, name=f"exit_{number}")(y)
    model = ak.AnytimeModel(x, answers)
    with pytest.raises(ValueError, match="one output") as error:
        ak.to_anytime(model, num_exits=2)
    hint = str(error.value).split("`")[-2]
    assert eval(hint, {"keras": keras, "model": model}).output is answers["exit_11"]


def test_layers_that_cannot_carry_an_exit_are_named_with_the_reason():
    tokens = keras.Input((6,), dtype="int32", name="tokens")
    x = layers.Embedding(20, 8)(tokens)
    x, *_ = layers.LSTM(8, return_sequences=True, return_state=True, name="states")(x)
    x = Stack(name="stack")(x)
    x = layers.Bidirectional(layers.LSTM(4, name="inside"), name="both_ways")(x)
    base = keras.Model(tokens, layers.Dense(3, name="classes")(x), name="sequence")
    for name, reason in {
        "tokens": "it is an input",
        "states": "its result is 3 tensors",
        "forward_inside": "it is inside 'both_ways' of type Bidirectional",
        "classes": "the model's own output",
        "both_wayz": "Did you mean 'both_ways'",
    }.items():
        with pytest.raises(ValueError, match=f"'{name}' cannot carry an exit: .*{reason}"):
            ak.to_anytime(base, exits=[name])
    with pytest.raises(ValueError, match="different layers"):
        ak.to_anytime(base, exits=["block_1", "block_1"])


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({}, "Exactly one of `exits`, `num_exits` and `every` must be given"),
        ({"num_exits": 3, "every": 2}, "Exactly one of `exits`, `num_exits` and `every` must be given"),
        ({"exits": "join_1"}, "list of layer names.*'join_1'"),
        ({"num_exits": 1}, "2 or more.*num_exits=1"),
        ({"num_exits": 99}, "num_exits=99.*join_1"),
        ({"every": 0}, "positive int.*every=0"),
        ({"every": 5}, "at most 4 for this network. Received: every=5.*join_3"),
        ({"num_exits": 2, "head": "pol"}, "Did you mean 'pool'"),
        ({"num_exits": 2, "num_classes": 4}, r"num_classes=4.*\(None, 5\)"),
        ({"num_exits": 2, "num_classes": 0}, "positive int.*num_classes=0"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        ak.to_anytime(residual(), **arguments)


def test_unsupported_models_are_refused():
    class OwnCall(keras.Model):
        def call(self, x):
            return 2 * super().call(x)

    base = residual()
    with pytest.raises(ValueError, match="must not override `call`.*'own' of type OwnCall"):
        ak.to_anytime(OwnCall(base.input, base.output, name="own"), num_exits=2)
    with pytest.raises(ValueError, match="must be a functional Keras model.*Received: Dense"):
        ak.to_anytime(layers.Dense(3), num_exits=2)
    with pytest.raises(ValueError, match="one output"):
        ak.to_anytime(keras.Model(base.input, [base.output, base.get_layer("join_1").output]), num_exits=2)
    with pytest.raises(ValueError, match="needs maps or sequences"):
        ak.to_anytime(
            keras.Sequential([keras.Input((3,)), layers.Dense(4, name="a"), layers.Dense(2)]), ["a"], head="msd"
        )
    image = keras.Input((3,))
    taken = keras.Model(image, layers.Dense(2)(layers.Dense(4, name="exit_1")(image)))
    with pytest.raises(ValueError, match="'exit_1'.*Rename these layers"):
        ak.to_anytime(taken, exits=["exit_1"])
