import json

import keras
import numpy as np
import pytest

import anytime_keras as ak
from anytime_keras.cost.exit_costs import _heads
from anytime_keras.graph import calls, outputs_by_name
from tests.checks import answers, some_input
from tests.zoo.conftest import NAME


@pytest.fixture(autouse=True)
def known(zoo):
    assert ak.zoo.add(zoo) == [NAME]


def edit(zoo, change):
    path = zoo / "manifests" / f"{NAME}.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_a_loaded_network_predicts_like_the_published_one(tiny):
    x = some_input(tiny)
    model = ak.zoo.load(NAME)
    assert model.name == NAME and model.inference == tiny.inference and not model.compiled
    found, expected = answers(model, x), answers(tiny, x)
    assert list(found) == list(expected)
    for name, logits in expected.items():
        np.testing.assert_array_equal(found[name], logits)


def test_a_loaded_network_preprocesses_images_by_its_manifest():
    model, entry = ak.zoo.load(NAME), ak.zoo.show(NAME).pick()
    images = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 1), "uint8")
    data = entry.content["data"]
    expected = (images / 255 - data["mean"]) / data["std"]
    np.testing.assert_allclose(model.preprocessor(images), expected, rtol=1e-4, atol=1e-5)
    assert model.class_names == entry.class_names == list("0123456789")
    other = ak.zoo.load(NAME, num_classes=7)
    assert other.preprocessor.get_config() == model.preprocessor.get_config() and other.class_names is None
    assert ak.zoo.load(NAME, weights=None).preprocessor is None


def test_networks_of_cropped_images_crop_them(zoo):
    edit(zoo, lambda content: content["weights"]["digits"]["lineage"][-1]["recipe"].update(data={"image_size": 8}))
    assert ak.zoo.show(NAME).pick().preprocessor.short_side == 9


def test_kernels_without_weights_are_initialized():
    for other in (ak.zoo.load(NAME, weights=None), ak.zoo.load(NAME, num_classes=7)):
        assert all(np.asarray(variable).any() for variable in other.weights if variable.path.endswith("kernel"))


def test_another_number_of_classes_replaces_only_the_last_linear_layers(tiny):
    model = ak.zoo.load(NAME, num_classes=7)
    assert {tensor.shape[-1] for tensor in outputs_by_name(model).values()} == {7}
    trained = {variable.path: np.asarray(variable) for variable in tiny.weights}
    for variable in model.weights:
        if variable.path.split("/")[0] in model.exit_names:
            assert variable.shape[-1] == 7
        else:
            np.testing.assert_array_equal(np.asarray(variable), trained[variable.path])
    assert model.inference is None, "temperatures and thresholds were for other classes"
    assert ak.zoo.load(NAME, num_classes=10).inference is not None


@pytest.mark.long
def test_trainable_selects_the_trained_layers():
    assert len(ak.zoo.load(NAME).trainable_variables) > 20
    assert not ak.zoo.load(NAME, trainable=False).trainable_variables
    model = ak.zoo.load(NAME, trainable="heads")
    frozen = {variable.path: np.asarray(variable) for variable in model.weights}
    model.compile(keras.optimizers.SGD(0.1), loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(some_input(model, batch=8), np.arange(8) % 10, verbose=0, callbacks=[ak.AdaLoss()])
    for variable in model.weights:
        in_head = any(variable.path.startswith((f"{exit}/", f"{exit}_")) for exit in model.exit_names)
        moved = np.abs(np.asarray(variable) - frozen[variable.path]).max() > 0
        assert moved == in_head, variable.path


@pytest.mark.tensorflow  # depends only on names and the graph; JAX takes long to build networks
@pytest.mark.parametrize(
    "name, config",
    [
        ("resann", dict(num_units=1, channels=4)),
        ("resann26", dict(channels=4)),
        ("denseann", dict(depth=10, growth_rate=4)),
        ("msdnet", dict(blocks=[3, 3], exit_every=2, growth_rate=4, factors=[1, 2], stem="small")),
        ("msdnet_cifar_7exits", dict(num_exits=2, growth_rate=4)),
    ],
)
def test_head_weights_are_those_that_only_one_exit_needs(name, config):
    from anytime_keras.zoo.loading import freeze

    model = ak.models.build(name, input_shape=(32, 32, 3), num_classes=5, **config)
    freeze(model, "heads")
    heads = _heads({exit: calls(tensor, model.inputs) for exit, tensor in outputs_by_name(model).items()})
    own = {
        weight.path
        for exit, tensor in outputs_by_name(model).items()
        for call in calls(tensor, model.inputs)
        if id(call) in heads[exit] and isinstance(call.operation, keras.Layer)
        for weight in call.operation.trainable_weights
    }
    assert {variable.path for variable in model.trainable_variables} == own


def test_no_weights_on_request_gives_the_untrained_network():
    first, second = ak.zoo.load(NAME, weights=None), ak.zoo.load(NAME)
    assert first.count_params() == second.count_params()
    assert np.abs(np.asarray(first.weights[0]) - np.asarray(second.weights[0])).max() > 0


def test_show_has_classes_and_normalisation(digits):
    manifest = ak.zoo.show(NAME)
    entry = manifest.pick()
    assert entry.class_names == digits.class_names and entry.trained
    images = np.random.default_rng(0).integers(0, 255, (3, 8, 8, 1), "uint8")
    expected = (images / 255 - digits.mean) / digits.std
    np.testing.assert_allclose(entry.preprocessor(images), expected, rtol=1e-4, atol=1e-5)
    for said in (NAME, "exit_3", "3 epochs in 0.5 minutes", "CC BY 4.0", f"{100 * entry.accuracies[-1]:.2f}%"):
        assert said in str(manifest)


def test_evaluate_reproduces_the_manifest():
    curve = ak.zoo.evaluate(NAME)
    stated = ak.zoo.show(NAME).pick()
    np.testing.assert_allclose([1 - error for error in curve.errors], stated.accuracies, atol=1e-3)
    np.testing.assert_allclose([point.loss for point in curve], [e["loss"] for e in stated.content["exits"]], rtol=1e-3)
    assert [point.with_all_heads for point in curve] == stated.macs
    assert curve.about["images"] == 359 and curve.about["split"] == "test"


def test_evaluate_refuses_other_data(zoo):
    edit(zoo, lambda content: content["weights"]["digits"]["data"].update(mean=[0.5]))
    with pytest.raises(ValueError, match="must have the training images"):
        ak.zoo.evaluate(NAME)
    edit(zoo, lambda content: content["weights"]["digits"]["data"]["class_names"].reverse())
    with pytest.raises(ValueError, match="must have the classes"):
        ak.zoo.evaluate(NAME)


def test_list_filters():
    assert NAME in ak.zoo.list() and ak.zoo.list() == sorted(ak.zoo.list())
    assert NAME in ak.zoo.list(trained=True, data="digits", architecture="resann", weighting="adaloss")
    for other in (dict(trained=False), dict(data="cifar10"), dict(architecture="msdnet"), dict(weighting="constant")):
        assert NAME not in ak.zoo.list(**other)
    with pytest.raises(ValueError, match="Did you mean 'trained'"):
        ak.zoo.list(traind=True)


def test_networks_with_missing_files_are_not_listed_as_loadable(zoo):
    assert NAME in ak.zoo.list(loads=True) and NAME not in ak.zoo.list(loads=False)
    for file in (zoo / "weights").rglob(f"{NAME}*"):
        file.unlink()
    assert NAME not in ak.zoo.list(loads=True) and NAME in ak.zoo.list(trained=True, loads=False)


def test_unknown_names_list_similar_ones():
    with pytest.raises(ValueError, match=f"Received: name='tiny_adalos'. Did you mean '{NAME}'"):
        ak.zoo.load("tiny_adalos")
    with pytest.raises(ValueError, match="Received: weights='digit'. Did you mean 'digits'"):
        ak.zoo.load(NAME, weights="digit")
    for name in ("../zoo", "", None, 3, "tiny_adaloss.json"):
        with pytest.raises(ValueError, match="must be a network of the zoo"):
            ak.zoo.show(name)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(num_classes=0), "num_classes=0"),
        (dict(num_classes=True), "num_classes=True"),
        (dict(num_classes="10"), "num_classes='10'"),
        (dict(weights=["digits"]), "weights=\\['digits'\\]"),
        (dict(trainable="backbone"), "trainable='backbone'"),
        (dict(trainable=1), "trainable=1"),
        (dict(num_classes=3, trainable=False), "trainable='heads'"),
    ],
)
def test_invalid_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        ak.zoo.load(NAME, **arguments)


def test_the_error_for_an_untrained_name_names_the_training_command(zoo):
    recipe = ak.training.Recipe.paper(
        {"name": "resann", "num_units": 1, "channels": 4, "input_shape": [32, 32, 3], "num_classes": 10}, "cifar10"
    )
    ak.zoo.announce(recipe, "small_adaloss", folder=zoo)
    with pytest.raises(ValueError, match="no weights .* `anytime-keras zoo train small_adaloss --weights=cifar10`"):
        ak.zoo.load("small_adaloss")
    entry = ak.zoo.show("small_adaloss").pick()
    assert not entry.trained and set(entry.accuracies) == {None} and "not trained" in entry.table()
    assert ak.zoo.load("small_adaloss", weights=None).count_params() == entry.content["params"]
    assert entry.preprocessor is None


def test_one_name_has_weights_for_several_data_sets(zoo, tiny):
    images = np.random.default_rng(0).random((40, 8, 8, 1)).astype("float32")
    other = ak.data.load((images, np.arange(40) % 10), test=0.5, validation=0)
    about = dict(weighting={"name": "constant"}, source="made up", data_licence="none")
    ak.zoo.publish(tiny, NAME, other, folder=zoo, label="noise", **about)
    manifest = ak.zoo.show(NAME)
    assert manifest.default == "digits" and list(manifest.weights) == ["digits", "noise"]
    assert manifest.pick("noise").content["measured"]["images"] == 20
    ak.zoo.load(NAME, weights="noise")
    curve = ak.zoo.evaluate(NAME, "noise", data=other)
    assert [1 - error for error in curve.errors] == manifest.pick("noise").accuracies
    with pytest.raises(ValueError, match="must have the training images"):
        ak.zoo.evaluate(NAME, "noise", data=ak.data.load("digits"))
    assert NAME in ak.zoo.list(weighting="constant") and NAME in ak.zoo.list(weighting="adaloss")


def test_add_never_replaces_an_existing_name(zoo, published):
    assert ak.zoo.add(published / "manifests" / f"{NAME}.json") == [NAME], "the same again does no harm"
    edit(zoo, lambda content: content.update(description="another"))
    with pytest.raises(ValueError, match="already has another network"):
        ak.zoo.add(zoo)
    for nothing in (zoo / "nowhere", zoo / "weights", __file__):
        with pytest.raises(ValueError, match="must be a directory with `manifests/`"):
            ak.zoo.add(nothing)


def test_the_data_set_of_a_network_holds_out_the_same_images_as_its_training():
    name = "resann2x16_adaloss_digits"
    data = ak.zoo.loading.data_set(name)
    assert ak.zoo.loading.holds_out(name, "default", data) and data.augment == []
    assert not ak.zoo.loading.holds_out(name, "default", ak.data.load("digits", split_seed=1))
    assert not ak.zoo.loading.holds_out(name, "default", ak.data.load("digits", validation=200))
    with pytest.raises(ValueError, match="nothing_by_that_name"):
        ak.zoo.loading.data_set(name, data="nothing_by_that_name")
