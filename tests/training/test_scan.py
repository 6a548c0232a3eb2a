"""`engine="scan"` on JAX. Networks and data are tiny, so XLA's compilation takes nearly all of the time."""

import time
import types

import keras
import numpy as np
import pytest

from anytime_keras import commands, training
from anytime_keras.training import Recipe, averaging, distillation, scan, train, train_side_by_side
from tests import checks

jax_only = pytest.mark.skipif(keras.backend.backend() != "jax", reason="is about JAX")
MODEL = {"name": "resann", "num_units": 1, "channels": 2, "exit_every": 2}


@pytest.fixture
def images(tmp_path):
    """An .npz of 28 images to train, 6 to validate, 6 to test: two whole batches of 12 and one of 4."""
    return checks.write_images(tmp_path / "images.npz", train=28, validation=6, test=6)


def tiny(images, augment=(), **changes):
    data = {"data": images, "augment": list(augment)}
    return Recipe.paper(MODEL, data, **{"epochs": 2, "batch_size": 12, "learning_rate": 0.05, **changes})


def numbers(model):
    variables = [*model.weights, *model.optimizer.variables]
    return {variable.path: keras.ops.convert_to_numpy(variable) for variable in variables}


def assert_same_run(run, other, **tolerance):
    """Returns the logs of every epoch, weights, statistics, and the states of optimizer and weighting."""
    for row, theirs in zip(run.history, other.history, strict=True):
        row, theirs = ({**row, "epoch": 0} for row in (row, theirs))  # only a folder's history numbers them
        assert row.keys() == theirs.keys()
        np.testing.assert_allclose([row[name] for name in theirs], list(theirs.values()), **tolerance)
    ours, others = numbers(run.model), numbers(other.model)
    for value, theirs in zip(ours.values(), others.values(), strict=True):
        np.testing.assert_allclose(value, theirs, **tolerance)
    state, theirs = run.weighting.get_state(), other.weighting.get_state()
    assert state.keys() == theirs.keys()
    for name in state.keys() - {"exits"}:
        np.testing.assert_allclose(state[name], theirs[name], **tolerance)


class Collect(keras.callbacks.Callback):
    """Records a model's trainable variables after every epoch."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def on_epoch_end(self, epoch, logs=None):
        self.seen.append([keras.ops.convert_to_numpy(variable) for variable in self.model.trainable_variables])


@jax_only
@pytest.mark.parametrize(
    "changes",
    [
        dict(  # an epoch is one step: compared step by step
            batch_size=28,
            epochs=3,
            augment=["pad_crop", "flip", "erase"],
            optimizer={"name": "sgd", "momentum": 0.9, "nesterov": True},
            schedule={"name": "cosine", "warmup_epochs": 1},
            weighting={"name": "adaloss", "gamma": [1.0, 0.05]},
            label_smoothing=0.1,
            distillation={"weight": 0.5, "temperature": 2.0},
        ),
        dict(  # two whole batches and a smaller one
            augment=["pad_crop", "blur"],
            optimizer={"name": "adamw"},
            learning_rate=1e-3,
            weighting={"name": "linear"},
            weight_decay=0.0,
        ),
    ],
    ids=["steps", "epochs"],
)
def test_scan_equals_fit(images, changes):
    recipe = tiny(images, **changes)
    assert_same_run(train(recipe, engine="scan", verbose=False), train(recipe, verbose=False), rtol=1e-3, atol=1e-5)


@jax_only
def test_scan_in_mixed_precision_is_near_fit(images):
    recipe = tiny(images, batch_size=28, epochs=2, precision="mixed_bfloat16")
    run, other = train(recipe, engine="scan", verbose=False), train(recipe, verbose=False)
    assert {variable.dtype for variable in run.model.trainable_variables} == {"float32"}
    assert keras.tree.flatten(run.model.output)[0].dtype == keras.tree.flatten(other.model.output)[0].dtype
    assert_same_run(run, other, rtol=0.05, atol=0.02)


@jax_only
def test_side_by_side_stopped_and_resumed_equals_alone(images, tmp_path, capsys):
    weightings = [{"name": "adaloss", "gamma": 0.2}, {"name": "half_end"}]
    recipes = [tiny(images, batch_size=28, seed=seed, weighting=each) for seed, each in enumerate(weightings)]
    folders = [tmp_path / "a", tmp_path / "b"]
    stopped = train_side_by_side(recipes, folders, time_limit=1e-9, checkpoint_every=5)
    printed = capsys.readouterr().out
    assert "images/s" in printed and "ms a step" in printed and "stopped by the time limit after epoch 1" in printed
    assert [len(run.history) for run in stopped] == [1, 1] and stopped[0].curve is None
    assert not (folders[0] / "model.keras").exists()
    # One model continues alone, so the other lacks a checkpoint of its last epoch, as after a kill between the two.
    alone = [
        train(recipes[0], verbose=False),
        train(recipes[1], folders[1], resume=True, engine="scan", verbose=False),
    ]
    runs = train_side_by_side(recipes, folders, resume=True, verbose=False)
    for recipe, folder, run, other in zip(recipes, folders, runs, alone):
        assert_same_run(run, other, rtol=1e-3, atol=1e-5)
        assert Recipe.from_json(folder / "recipe.json") == recipe
        assert type(run.weighting) is type(recipe.build_weighting())
        loaded = keras.saving.load_model(folder / "model.keras")
        np.testing.assert_array_equal(loaded.get_weights()[0], run.model.get_weights()[0])
        assert len((folder / "history.csv").read_text().splitlines()) == 3
    first, second = (run.model.get_weights()[0] for run in runs)
    assert np.abs(first - second).max() > 0.01


@jax_only
def test_the_example_of_train_side_by_side_runs(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    left = checks.run_example(train_side_by_side, Recipe=Recipe, train_side_by_side=train_side_by_side)
    assert [(run.recipe.seed, len(run.curve)) for run in left["runs"]] == [(0, 3), (1, 3)]
    assert (tmp_path / "seed_1" / "model.keras").exists()


@jax_only
def test_averaged_weights_equal_an_average_over_steps(images, tmp_path):
    collect = Collect()
    recipe = tiny(images, batch_size=28, epochs=3, ema_momentum=0.75)
    run = train(recipe, tmp_path / "run", engine="scan", verbose=False, callbacks=[collect])
    first, *others = collect.seen
    for values in others:
        first = [0.75 * average + 0.25 * value for average, value in zip(first, values)]
    averaged = run.average.model
    for average, variable in zip(first, averaged.trainable_variables, strict=True):
        np.testing.assert_allclose(average, keras.ops.convert_to_numpy(variable), rtol=1e-4, atol=1e-6)
    for value, variable in zip(collect.seen[-1], run.model.trainable_variables):
        np.testing.assert_array_equal(value, keras.ops.convert_to_numpy(variable))
    loaded = keras.saving.load_model(tmp_path / "run" / "average" / "model.keras")
    np.testing.assert_array_equal(loaded.get_weights()[0], averaged.get_weights()[0])
    assert run.average.curve.about["images"] == 6


def test_averaged_weights_have_their_own_batch_statistics(images):
    """After many passes in training mode, the first normalisation's mean is that of its inputs."""
    recipe = tiny(images, batch_size=28, epochs=1)
    data = recipe.load_data()
    model = recipe.build_model(data)
    trained = [keras.ops.convert_to_numpy(variable) for variable in model.trainable_variables]
    batch = next(iter(data.training_stream()))
    averaging.refresh_statistics(model, [batch] * averaging.STEPS)
    for before, variable in zip(trained, model.trainable_variables):
        np.testing.assert_array_equal(before, keras.ops.convert_to_numpy(variable))
    layer = next(layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization))
    inputs = keras.ops.convert_to_numpy(keras.Model(model.inputs, layer.input)(batch[0]))
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(layer.moving_mean), inputs.mean(axis=(0, 1, 2)), rtol=1e-3, atol=1e-4
    )


@jax_only
@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(epochs=5, seed=1), r"may differ only in seed and weighting.*first in epochs=5\. Train"),
        (dict(weighting={"name": "adaloss", "final_extra": 1.0}), "no other argument.*in weighting=.*final_extra"),
        (dict(weighting={"name": "adaloss", "first_order": True}), "no other argument.*in weighting=.*first_order"),
    ],
)
def test_side_by_side_refuses_what_one_program_cannot_do(images, changes, message):
    with pytest.raises(ValueError, match=message):
        train_side_by_side([tiny(images), tiny(images, **changes)])


@jax_only
def test_images_that_are_not_in_memory_are_refused(images):
    data = tiny(images).load_data()
    data.pipeline("train").examples.in_memory = False
    with pytest.raises(ValueError, match="fit into memory.*Choose `engine='fit'`"):
        scan.check_data(data)


@pytest.mark.tensorflow
def test_scan_on_another_backend_is_refused_before_any_work(images, tmp_path):
    for call in (
        lambda: train(tiny(images), tmp_path / "run", engine="scan"),
        lambda: train_side_by_side([tiny(images)]),
    ):
        with pytest.raises(ValueError, match="JAX backend.*Received: tensorflow.*or choose `engine='fit'`"):
            call()
    assert not (tmp_path / "run").exists()


def test_the_command_passes_engine_and_options_on(images, monkeypatch, capsys):
    calls = []

    def fake(recipe, folder, **arguments):
        calls.append((recipe, arguments))
        return types.SimpleNamespace(curve=None)

    monkeypatch.setattr(training, "train", fake)
    flags = "--engine=scan --time_limit=60 --checkpoint_every=5 --set=ema_momentum=0.9"
    flags += " --set=distillation.weight=0.5 --set=distillation.temperature=2.0"
    commands.main(["anytime-keras", "train", f"--dataset={images}", *flags.split()])
    ((recipe, arguments),) = calls
    assert arguments.pop("strategy").name == "none" and 0 <= time.monotonic() - arguments.pop("begin") < 600
    assert arguments == dict(engine="scan", time_limit=60, checkpoint_every=5, resume=False, tensorboard=True)
    assert (recipe.ema_momentum, recipe.distillation) == (0.9, {"weight": 0.5, "temperature": 2.0})
    assert Recipe.from_dict(recipe.to_dict()) == recipe
    assert "checkpoint in runs" in capsys.readouterr().out


def test_engines_and_options_out_of_range_are_refused(images):
    for arguments, message in [
        (dict(engine="scam"), "engine='scam'.*Did you mean 'scan'"),
        (dict(checkpoint_every=0), "checkpoint_every=0"),
    ]:
        with pytest.raises(ValueError, match=message):
            train(tiny(images), **arguments)
    for changes, message in [
        (dict(ema_momentum=1), "ema_momentum=1"),
        (dict(distillation={"wait": 1}), "distillation={'wait': 1}"),
        (dict(distillation={"weight": -1}), "weight=-1"),
        (dict(distillation={"temperature": 0}), "temperature=0"),
    ]:
        with pytest.raises(ValueError, match=message):
            tiny(images, **changes)


def test_distilled_loss_equals_the_formula():
    logits, teacher, label = np.array([[1.0, 2.0, 0.5]]), np.array([[0.0, 3.0, -1.0]]), np.array([2])
    loss = distillation.DistilledLoss(keras.losses.SparseCategoricalCrossentropy(from_logits=True), 0.5, 2.0)

    def softmax(values):
        return np.exp(values) / np.exp(values).sum()

    plain = -np.log(softmax(logits)[0, 2])
    theirs, ours = softmax(teacher / 2), softmax(logits / 2)
    divergence = (theirs * np.log(theirs / ours)).sum()
    both = np.concatenate([label[:, None], teacher], axis=1)
    assert float(loss(label, logits)) == pytest.approx(plain, rel=1e-5)
    assert float(loss(both, logits)) == pytest.approx(plain + 0.5 * 4 * divergence, rel=1e-5)
    again = keras.losses.deserialize(keras.losses.serialize(loss))
    assert float(again(both, logits)) == pytest.approx(plain + 0.5 * 4 * divergence, rel=1e-5)


def test_exits_learn_from_the_last_exit_only_in_training(images):
    recipe = tiny(images, weight_decay=0.0, distillation={"weight": 3.0, "temperature": 2.0})
    data = recipe.load_data()
    model, (x, y) = recipe.build_model(data), next(iter(data.test))
    outputs = model(x)
    early, last = (keras.ops.convert_to_numpy(outputs[name]) for name in model.exit_names)
    plain = float(model.compute_loss(x, y, outputs, training=False))
    theirs, ours = (np.exp(logits / 2) / np.exp(logits / 2).sum(1, keepdims=True) for logits in (last, early))
    divergence = (theirs * np.log(theirs / ours)).sum(axis=1).mean()
    assert divergence > 1e-3
    assert float(model.compute_loss(x, y, outputs)) == pytest.approx(plain + 3 * 4 * divergence, rel=1e-4)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    assert plain == pytest.approx(sum(float(loss(y, logits)) for logits in (early, last)), rel=1e-4)


def test_the_last_exit_is_not_distilled(images):
    """With the first exit's loss alone, the last exit's own layers stay as they were."""
    recipe = tiny(
        images,
        batch_size=28,
        epochs=1,
        weight_decay=0.0,
        weighting={"name": "single_exit", "exit": 1},
        distillation={"weight": 3.0},
    )
    keras.utils.set_random_seed(recipe.seed)
    before = recipe.build_model(recipe.load_data()).get_weights()
    kept = [np.array_equal(*pair) for pair in zip(before, train(recipe, verbose=False).model.get_weights())]
    assert kept[-2] and not kept[0]
