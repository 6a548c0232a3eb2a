"""Training by the clock, with a simulated clock."""

import functools
import types

import keras
import numpy as np
import pytest

import anytime_keras as ak
from anytime_keras import commands
from anytime_keras.training import Recipe, clock, run, train
from tests import checks

MODEL = {"name": "resann", "num_units": 1, "channels": 2}
AFTER = 6.0  # seconds that evaluating and saving take


class Seconds(keras.callbacks.Callback):
    """A clock that advances by `pace(step)` seconds with each step and records the learning rate; it can crash."""

    def __init__(self, pace, crash_at=None):
        super().__init__()
        self.pace, self.crash_at, self.now, self.steps, self.rates = pace, crash_at, 0.0, 0, []

    def on_train_batch_begin(self, batch, logs=None):
        self.now += self.pace(self.steps)
        self.steps += 1
        if self.steps == self.crash_at:
            raise RuntimeError("crash")

    def on_train_batch_end(self, batch, logs=None):
        self.rates.append(float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate)))


@pytest.fixture
def by_the_clock(monkeypatch, tmp_path):
    """Trains on 28 images for two simulated minutes."""
    images = checks.write_images(tmp_path / "images.npz", train=28, validation=6, test=6)
    monkeypatch.setattr(run.Training, "_rehearse", lambda self: AFTER)

    def begin(pace, folder=None, resume=False, crash_at=None, minutes=2, **changes):
        seconds = Seconds(pace, crash_at)
        monkeypatch.setattr(run.clock, "Clock", functools.partial(clock.Clock, now=lambda: seconds.now))
        recipe = Recipe.modern(MODEL, {"data": images, "augment": []}, minutes=minutes, batch_size=8, **changes)
        options = dict(verbose=False, tensorboard=False, checkpoint_every=1, begin=0.0)
        return train(recipe, folder, resume, callbacks=[seconds], **options), seconds

    return begin


@pytest.mark.long
@pytest.mark.parametrize("late_pace", [0.5, 0.2, 1.5], ids=["steady", "faster", "slower"])
def test_a_run_ends_in_time_with_the_learning_rate_at_zero(by_the_clock, late_pace):
    trained, seconds = by_the_clock(lambda step: 0.5 if seconds_spent(step) < 55 else late_pace)
    reserve = clock.MARGIN * AFTER * late_pace / 0.5
    assert seconds.now + reserve == pytest.approx(120, abs=2)
    assert max(seconds.rates) == pytest.approx(0.1, rel=0.05) and seconds.rates[-1] < 0.001
    highest = seconds.rates.index(max(seconds.rates))
    assert highest < 0.1 * len(seconds.rates) and seconds.rates[highest:] == sorted(seconds.rates[highest:])[::-1]
    last = trained.history[-1]
    assert last["steps"] == seconds.steps and last["images"] == 8 * seconds.steps
    assert last["epochs"] == pytest.approx(seconds.steps / 3) and last["share"] == pytest.approx(1, abs=0.02)
    assert trained.curve.about["split"] == "validation"


def seconds_spent(step):
    return 0.5 * step


@pytest.mark.long
def test_a_killed_run_resumes_with_the_remaining_time(by_the_clock, tmp_path):
    with pytest.raises(RuntimeError, match="crash"):
        by_the_clock(lambda step: 0.5, tmp_path / "run", crash_at=150)
    resumed, seconds = by_the_clock(lambda step: 0.5, tmp_path / "run", resume=True)
    steps = [int(row["steps"]) for row in resumed.history]
    assert steps[0] == 100 and steps[-1] == 100 + seconds.steps, "goes on from the checkpoint"
    assert sum(row["seconds"] for row in resumed.history) + clock.MARGIN * AFTER == pytest.approx(120, abs=2)
    assert seconds.rates[0] == pytest.approx(resumed.history[0]["learning_rate"], rel=0.05)
    again, seconds = by_the_clock(lambda step: 0.5, tmp_path / "run", resume=True)
    assert seconds.steps == 0 and again.curve.errors == resumed.curve.errors


@pytest.mark.long
def test_image_sizes_follow_the_time(by_the_clock):
    trained, _ = by_the_clock(lambda step: 0.5, sizes=[[4, 0.5], [8, 0.5]], minutes=4)
    sides = {row["side"] for row in trained.history}
    assert [row["side"] for row in trained.history] == sorted(row["side"] for row in trained.history)
    assert sides == {4, 8}


def test_the_size_changes_while_a_pipeline_is_read():
    side, data = ak.training.schedules.Side(4), ak.data.load("digits", batch_size=8)
    stream = iter(data.training_stream(side=side))
    assert next(stream)[0].shape[1:3] == (4, 4)
    side.assign(8)
    later = [next(stream)[0].shape[1:3] for _ in range(50)]  # some batches were prefetched
    assert later[-1] == (8, 8)


def test_the_command_passes_minutes_sizes_and_init_on(monkeypatch):
    recipes = []
    run = types.SimpleNamespace(curve=None)
    monkeypatch.setattr(ak.training, "train", lambda recipe, folder, **options: recipes.append(recipe) or run)
    flags = "--recipe=modern --minutes=30 --set=sizes=[[4,0.5],[8,0.5]] --init=resann2x16_adaloss_digits"
    commands.main(["anytime-keras", "train", *flags.split()])
    (recipe,) = recipes
    assert (recipe.minutes, recipe.epochs, recipe.sizes) == (30, None, [[4, 0.5], [8, 0.5]])
    assert recipe.init == "resann2x16_adaloss_digits" and recipe.schedule == {"name": "cosine", "warmup": 0.025}
    for bad, message in (("--set=sizes=4", "`sizes` must list"), ("--minutes=-1", "minutes=-1")):
        with pytest.raises(SystemExit, match=message):
            commands.main(["anytime-keras", "train", bad])


def test_minutes_exclude_options_that_count_epochs():
    for changes, message in (
        (dict(epochs=3), "one of `epochs` and `minutes`.*epochs=3, minutes=.*Omit one"),
        (dict(minutes=0), "minutes=0"),
        (dict(minutes="long"), "minutes='long'"),
        (dict(schedule={"name": "cosine", "warmup_epochs": 2}), "fraction of the time"),
        (dict(weighting={"name": "adaloss", "gamma": [1.0, 0.1]}), "Pass `epochs`, or one number"),
    ):
        with pytest.raises(ValueError, match=message):
            Recipe(MODEL, "digits", **{"minutes": 5, **changes})
    with pytest.raises(ValueError, match="`time_limit` must be None"):
        train(Recipe(MODEL, "digits", minutes=5), time_limit=60)


# === Sizes, initial weights and averages, also for runs by epochs ===


def tiny(**changes):
    return Recipe.paper({**MODEL, "channels": 4}, "digits", **{"epochs": 2, "batch_size": 256, **changes})


def test_sizes_change_between_epochs():
    recipe = tiny(epochs=4, sizes=[[4, 0.5], [8, 0.25], [12, 0.25]])
    data = recipe.load_data()
    stream = iter(data.training_stream(side=ak.training.schedules.side_by_epoch(recipe.sizes, recipe.epochs)))
    batches = [next(stream)[0] for _ in range(4 * data.steps_per_epoch)]
    sides = [int(batch.shape[1]) for batch in batches]
    assert sides == sum(([side] * data.steps_per_epoch for side in (4, 4, 8, 12)), [])
    plain = np.asarray(next(iter(data.training_stream()))[0])
    halves = plain.reshape(-1, 4, 2, 4, 2, 1).mean((2, 4))
    assert np.corrcoef(np.asarray(batches[0]).ravel(), halves.ravel())[0, 1] > 0.95


@pytest.mark.parametrize(
    "sizes", [[], [[8, 0.5]], [[0, 1.0]], [[8.5, 1.0]], [8, 1.0], [[8, -0.5], [8, 1.5]], "8:1"], ids=str
)
def test_invalid_sizes_are_refused(sizes):
    with pytest.raises(ValueError, match="fractions of the run, which sum to 1"):
        tiny(sizes=sizes)


@pytest.mark.long
@pytest.mark.parametrize("name", ["resann50", "msdnet_cifar_7exits"])
def test_networks_take_other_sizes_with_the_same_weights(name):
    images = np.random.default_rng(0).random((2, 20, 20, 3)).astype("float32")
    data = ak.data.load((images, np.array([0, 1])), test=0, validation=0, augment=[])
    recipe = Recipe.paper({"name": name}, "digits", sizes=[[9, 0.5], [20, 0.5]])
    model = recipe.build_model(data)
    small = ak.models.build(name, input_shape=(9, 9, 3), num_classes=2)
    small.set_weights(model.get_weights())
    found, expected = model(images[:, :9, :9]), small(images[:, :9, :9])
    for exit in model.exit_names:
        np.testing.assert_allclose(*map(keras.ops.convert_to_numpy, (found[exit], expected[exit])), atol=1e-5)


@pytest.mark.long
def test_a_training_starts_from_given_weights(tmp_path):
    first = train(tiny(epochs=1), tmp_path / "first", verbose=False, tensorboard=False)
    second = train(tiny(epochs=1, init=str(tmp_path / "first"), learning_rate=0.0), tmp_path / "second", verbose=False)
    for old, new in zip(first.model.trainable_variables, second.model.trainable_variables, strict=True):
        np.testing.assert_array_equal(*map(keras.ops.convert_to_numpy, (old, new)))
    assert second.before.about["split"] == second.curve.about["split"] == "validation"
    assert second.before.errors == ak.evaluate(first.model, first.data.validation).errors
    again = train(second.recipe, tmp_path / "second", resume=True, verbose=False)
    assert again.before.errors == second.before.errors

    trained = {"name": "resann", "num_units": 2, "channels": 16}
    recipe = Recipe.paper(trained, "digits", epochs=1, init="resann2x16_adaloss_digits", learning_rate=1e-5)
    named = train(recipe, verbose=False)
    assert named.before[-1].error < 0.05


def test_weights_for_another_number_of_classes_are_taken_without_the_last_layers(tmp_path):
    source = ak.models.build("resann", num_units=1, channels=4, input_shape=(8, 8, 1), num_classes=3)
    source.save(tmp_path / "model.keras")
    model = ak.models.build("resann", num_units=1, channels=4, input_shape=(8, 8, 1), num_classes=10)
    run.take_weights(model, tmp_path)
    taken = {variable.path: keras.ops.convert_to_numpy(variable) for variable in source.weights}
    for variable in model.weights:
        if variable.path.split("/")[0] in model.exit_names:
            assert variable.shape[-1] == 10
        else:
            np.testing.assert_array_equal(keras.ops.convert_to_numpy(variable), taken[variable.path])


def test_weights_that_do_not_fit_are_refused(tmp_path):
    for init, message in (
        (str(tmp_path), "There is no .*model.keras"),
        ("resann2x16_adaloss_digit", "Did you mean 'resann2x16_adaloss_digits'"),
        ("resann2x16_adaloss_digits:cifar10", "must be a label of"),
        ("resann2x16_adaloss_digits", "a network of the recipe's shape"),
    ):
        with pytest.raises(ValueError, match=message):
            train(tiny(init=init), tmp_path / "run", verbose=False)
    assert not (tmp_path / "run").exists()
    with pytest.raises(ValueError, match="init=3"):
        tiny(init=3)


class Average(keras.callbacks.Callback):
    """The moving average of the weights, computed independently; it starts after the first step."""

    def __init__(self, momentum):
        super().__init__()
        self.momentum, self.values = momentum, None

    def on_train_batch_end(self, batch, logs=None):
        weights = [keras.ops.convert_to_numpy(variable) for variable in self.model.trainable_variables]
        old = weights if self.values is None else self.values
        self.values = [self.momentum * a + (1 - self.momentum) * b for a, b in zip(old, weights)]


@pytest.mark.long
@pytest.mark.tensorflow  # on JAX callbacks do not see weights within an epoch; test_scan.py compares the engines
def test_averaged_weights_equal_the_formula():
    average = Average(0.8)
    trained = train(tiny(ema_momentum=0.8), verbose=False, callbacks=[average])
    plain = train(tiny(), verbose=False)
    variables = trained.average.model.trainable_variables
    for expected, variable in zip(average.values, variables, strict=True):
        np.testing.assert_allclose(keras.ops.convert_to_numpy(variable), expected, rtol=1e-4, atol=1e-5)
    for one, other in zip(trained.model.weights, plain.model.weights, strict=True):
        np.testing.assert_allclose(*map(keras.ops.convert_to_numpy, (one, other)), rtol=1e-4, atol=1e-5)
    assert trained.average.curve.about["split"] == "test" and trained.average.curve.errors != trained.curve.errors
