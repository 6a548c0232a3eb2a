"""The state of a weighting: copies, pickles, backups, and batches without samples of an exit."""

import copy
import pickle

import keras
import numpy as np
import pytest

import anytime_keras as ak
from anytime_keras import weighting as weightings
from tests.weighting.reference import Reference

RNG = np.random.default_rng(0)
X = RNG.normal(size=(24, 4)).astype("float32")
Y = RNG.integers(0, 3, 24)
NAMES = ["a", "b", "c"]
SETTINGS = dict(gamma=0.1, momentum=0.8)
SCHEMES = {
    "adaloss": lambda: ak.AdaLoss(**SETTINGS),
    "pair": lambda: ak.AdaLoss((1.0, 0.05)),
    "linear": lambda: ak.LossWeighting("linear"),
    "single exit": lambda: ak.LossWeighting(ak.SingleExit("b")),
    "uncertainty": lambda: ak.LossWeighting("uncertainty"),
    "gradnorm": lambda: ak.LossWeighting("gradnorm"),
}


def network(names=NAMES, seed=0):
    def dense(number):
        return keras.layers.Dense(3, kernel_initializer=keras.initializers.GlorotUniform(seed=seed + number))

    inputs = keras.Input((4,))
    x = dense(0)(inputs)
    return ak.AnytimeModel(inputs, {name: dense(number)(number * x) for number, name in enumerate(names, 1)})


def compiled(rate=0.05, **kwargs):
    model = network(**kwargs)
    model.compile(keras.optimizers.SGD(rate), loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def fit(model, callbacks, **kwargs):
    settings = {"batch_size": 8, "shuffle": False, "verbose": 0, **kwargs}
    return model.fit(X, Y, callbacks=callbacks, **settings).history


def state(callback):
    return callback.get_state()


# === Copies and pickles ===


@pytest.mark.parametrize("scheme", SCHEMES)
def test_copies_and_pickles_after_fit(scheme):
    model, callback = compiled(), SCHEMES[scheme]()
    fit(model, [callback])
    for copied in (copy.deepcopy(callback), pickle.loads(pickle.dumps(callback))):
        assert type(copied) is type(callback) and copied is not callback
        assert copied.get_config() == callback.get_config()
        assert state(copied) == state(callback)
        np.testing.assert_array_equal(copied.weights, callback.weights)
    weighting = pickle.loads(pickle.dumps(callback))
    np.testing.assert_array_equal(weighting.weights, callback.weights)


def test_a_copy_before_fit_starts_again():
    for callback in (copy.deepcopy(ak.AdaLoss(**SETTINGS)), pickle.loads(pickle.dumps(ak.AdaLoss(**SETTINGS)))):
        fit(compiled(), [callback])
        assert callback.steps == 3 and callback.momentum == 0.8


def test_a_copy_resumes_with_what_was_learnt():
    model, callback = compiled(), ak.AdaLoss(**SETTINGS)
    fit(model, [callback])
    copied, other = pickle.loads(pickle.dumps(callback)), compiled()
    other.set_weights(model.get_weights())
    fit(model, [callback])
    learnt = state(callback)
    fit(other, [copied])
    assert state(copied) == learnt and callback.steps == 6
    fit(model, [callback])
    assert state(copied) == learnt, "each has its own state"


@pytest.mark.parametrize("method", [copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))])
def test_a_copy_in_the_middle_of_an_epoch_is_up_to_date(method):
    copies = []

    class Copy(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            copies.append(method(callback))

    callback = ak.AdaLoss(**SETTINGS)
    fit(compiled(), [callback, Copy()])
    assert [copied.steps for copied in copies] == [1, 2, 3]
    assert state(copies[-1]) == state(callback)


@pytest.mark.long
@pytest.mark.tensorflow
def test_a_pickled_weighting_resumes_on_two_replicas(two_replicas):
    callback = ak.AdaLoss(**SETTINGS)
    fit(compiled(rate=0.0), [callback])
    copied = pickle.loads(pickle.dumps(callback))
    with two_replicas.scope():
        model = compiled(rate=0.0)
    fit(model, [copied])
    fit(compiled(rate=0.0), [again := pickle.loads(pickle.dumps(callback))])
    np.testing.assert_allclose(copied.averages, again.averages, rtol=1e-5)
    assert copied.steps == 6
    for variable in copied.variables:
        assert len(variable.value.values) == 2


# === Backups ===


class Interrupt(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 2:
            raise KeyboardInterrupt


@pytest.mark.long
@pytest.mark.parametrize("scheme, first", [("adaloss", True), ("adaloss", False), ("uncertainty", True)])
def test_backup_and_restore_resumes_the_weighting(scheme, first, tmp_path):
    uninterrupted, expected = compiled(), SCHEMES[scheme]()
    fit(uninterrupted, [expected], epochs=4)

    def callbacks(callback):
        backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
        return [backup, callback] if first else [callback, backup]

    with pytest.raises(KeyboardInterrupt):
        fit(compiled(), [*callbacks(SCHEMES[scheme]()), Interrupt()], epochs=4)
    resumed, callback = compiled(seed=9), SCHEMES[scheme]()
    fit(resumed, callbacks(callback), epochs=4)
    assert callback.steps == 12
    assert state(callback) == state(expected)
    for ours, theirs in zip(resumed.get_weights(), uninterrupted.get_weights()):
        np.testing.assert_array_equal(ours, theirs)


def test_a_backup_within_an_epoch_has_the_weighting_of_that_batch(tmp_path):
    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == 1:
                learnt.append(state(callback))
                raise KeyboardInterrupt

    class Look(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            learnt.append(state(callback))

    learnt, callback = [], ak.AdaLoss(**SETTINGS)
    backup = keras.callbacks.BackupAndRestore(tmp_path / "backup", save_freq=1)
    with pytest.raises(KeyboardInterrupt):
        fit(compiled(), [callback, backup, Stop()])
    callback = ak.AdaLoss(**SETTINGS)
    fit(compiled(), [backup, callback, Look()])
    assert learnt[0] == learnt[1] and learnt[0]["steps"] == 2


@pytest.mark.parametrize("make", [lambda: [], lambda: [ak.LossWeighting("uncertainty")]])
def test_a_backup_of_another_weighting_is_detected(make, tmp_path):
    backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
    with pytest.raises(KeyboardInterrupt):
        fit(compiled(), [backup, *make(), Interrupt()], epochs=3)
    adaloss = ak.AdaLoss()
    with pytest.warns(UserWarning, match="no matching state for AdaLossWeighting with 3 exits"):
        fit(compiled(), [backup, adaloss], epochs=3)
    assert adaloss.steps == 3


def test_files_of_a_fit_with_a_weighting_load_into_a_plain_model(tmp_path):
    model, adaloss = compiled(), ak.AdaLoss()
    files = [tmp_path / "whole.keras", tmp_path / "only.weights.h5"]
    saves = [keras.callbacks.ModelCheckpoint(file, save_weights_only=file.suffix == ".h5") for file in files]
    fit(model, [adaloss, *saves])
    loaded, plain = keras.saving.load_model(files[0]), compiled(seed=9)
    plain.load_weights(files[1])
    for other in (loaded, plain):
        for ours, theirs in zip(other.get_weights(), model.get_weights()):
            np.testing.assert_array_equal(ours, theirs)
    steps = adaloss.steps
    model.load_weights(files[1])  # outside of `fit`, the weighting is not part of the model
    assert adaloss.steps == steps and "_loss_weighting" not in vars(model)


@pytest.mark.long
@pytest.mark.tensorflow
def test_backup_and_restore_on_two_replicas(two_replicas, tmp_path):
    backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
    with two_replicas.scope():
        model, other = compiled(), compiled(seed=9)
    with pytest.raises(KeyboardInterrupt):
        fit(model, [backup, first := ak.AdaLoss(), Interrupt()], epochs=3)
    learnt = state(first)

    class Look(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            assert state(second) == learnt

    fit(other, [backup, second := ak.AdaLoss(), Look()], epochs=3)
    assert second.steps == 9


# === Exits without samples ===


def only(**weights):
    """Returns sample weights: each exit's number for all samples."""
    return {name: np.full(24, weight, "float32") for name, weight in weights.items()}


@pytest.mark.parametrize("settings", [{}, {"final_extra": 1.0}, {"mean": "geometric"}, {"mean": "batch"}])
@pytest.mark.parametrize("dead", NAMES)
def test_an_exit_without_samples_leaves_the_others_as_without_it(dead, settings):
    if settings.get("final_extra") and dead == "c":
        pytest.skip("the last exit has the extra weight")
    left = [position for position, name in enumerate(NAMES) if name != dead]
    whole, rest = ak.AdaLossWeighting(**SETTINGS, **settings), ak.AdaLossWeighting(**SETTINGS, **settings)
    present = keras.ops.convert_to_tensor([name != dead for name in NAMES])
    for _ in range(3):
        losses = RNG.uniform(0.5, 2.0, 3).astype("float32") * keras.ops.convert_to_numpy(present)
        total = whole(keras.ops.convert_to_tensor(losses), present)
        np.testing.assert_allclose(total, rest(keras.ops.convert_to_tensor(losses[left])), rtol=1e-6)
    np.testing.assert_allclose(whole.weights[left], rest.weights, rtol=1e-6)
    np.testing.assert_allclose(whole.averages[left], rest.averages, rtol=1e-6)
    position = NAMES.index(dead)
    assert np.isnan(whole.averages[position]) and whole.weights[position] == 1
    assert whole.empty.tolist() == [3 * (name == dead) for name in NAMES]


@pytest.mark.parametrize("form", ["dict", "list", "ignore_class"])
def test_fit_where_all_samples_of_an_exit_have_weight_0(form):
    model, adaloss, reference = network(), ak.AdaLoss(gamma=0.05), Reference(2, gamma=0.05, momentum=0.9)
    losses = {name: keras.losses.SparseCategoricalCrossentropy(from_logits=True) for name in NAMES}
    y, weights = Y, only(b=0.0)
    if form == "list":
        weights = [np.ones(24, "float32"), np.zeros(24, "float32"), np.ones(24, "float32")]
    if form == "ignore_class":
        losses["b"] = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=-1)
        y, weights = {"a": Y, "b": np.full(24, -1), "c": Y}, None
    model.compile(keras.optimizers.SGD(0.0), loss=losses)
    plain = model.evaluate(X, Y, verbose=0, return_dict=True)
    settings = dict(batch_size=24, verbose=0, sample_weight=weights)
    with pytest.warns(UserWarning, match="weight 0.*{'b': 1}") as told:
        for _ in range(2):
            logs = model.fit(X, y, callbacks=[adaloss], **settings).history
    assert len([warning for warning in told if "weight 0" in str(warning.message)]) == 1
    reference.step([plain["a_loss"], plain["c_loss"]])
    np.testing.assert_allclose([logs["a_weight"][0], logs["c_weight"][0]], reference.weights, rtol=1e-5)
    np.testing.assert_allclose(logs["loss"][0], reference.step([plain["a_loss"], plain["c_loss"]]), rtol=1e-5)
    assert max(reference.weights) == 1 and logs["b_loss"] == [0.0] and np.isnan(adaloss.averages[1])


def test_a_batch_without_samples_of_an_exit_leaves_its_average():
    with_zeros, others = ak.AdaLossWeighting(**SETTINGS), ak.AdaLossWeighting(**SETTINGS)
    for losses in ([2.0, 1.0, 0.5], [1.5, 0.0, 0.4], [1.2, 0.8, 0.3]):
        with_zeros(keras.ops.convert_to_tensor(losses), keras.ops.convert_to_tensor([True, losses[1] > 0, True]))
        others(keras.ops.convert_to_tensor([losses[0], losses[1] or 1.0, losses[2]]))  # 1.0 is its average
    np.testing.assert_allclose(with_zeros.averages, others.averages, rtol=1e-6)
    np.testing.assert_allclose(with_zeros.weights, others.weights, rtol=1e-6)


def test_a_batch_without_any_samples_changes_nothing():
    weighting = ak.AdaLossWeighting(**SETTINGS)
    weighting(keras.ops.convert_to_tensor([2.0, 1.0]))
    before = weighting.get_state()
    for mean in (weighting, ak.AdaLossWeighting(mean="batch")):
        assert float(mean(keras.ops.zeros(2), keras.ops.zeros(2, "bool"))) == 0.0
    assert {**weighting.get_state(), "steps": 1, "empty": [0, 0]} == before


@pytest.mark.parametrize("make", [weightings.UncertaintyWeighting, weightings.GradNormWeighting])
def test_other_schemes_ignore_an_exit_without_samples(make):
    whole, rest = make(), make()
    whole.build(3), rest.build(2)
    present = keras.ops.convert_to_tensor([True, False, True])
    for _ in range(3):
        losses, norms = RNG.uniform(0.5, 2.0, (2, 3)).astype("float32")
        whole.update(keras.ops.convert_to_tensor(losses), keras.ops.convert_to_tensor(norms), present)
        rest.update(keras.ops.convert_to_tensor(losses[::2]), keras.ops.convert_to_tensor(norms[::2]))
    np.testing.assert_allclose(whole.weights[::2], rest.weights, rtol=1e-6)
    assert whole.weights[1] == 1


@pytest.mark.tensorflow
def test_an_exit_with_samples_on_only_one_replica_has_samples(two_replicas):
    with two_replicas.scope():
        model = compiled(rate=0.0)
    weights = only(b=0.0, c=0.0)
    weights["c"][:12] = 1.0
    adaloss = ak.AdaLoss()
    with pytest.warns(UserWarning, match="{'b': 1}"):
        fit(model, [adaloss], batch_size=24, sample_weight=weights)
    assert np.isfinite(adaloss.averages).tolist() == [True, False, True]
    assert adaloss.empty.tolist() == [0, 1, 0]


def test_a_state_without_the_count_of_empty_batches_is_read():
    weighting = ak.AdaLossWeighting(**SETTINGS)
    weighting(keras.ops.convert_to_tensor([3.0, 1.0]))
    old = weighting.get_state()
    del old["empty"]
    other = ak.AdaLossWeighting(**SETTINGS)
    other.set_state(old)
    assert other.get_state() == weighting.get_state()


def test_samples_with_weight_give_no_warning():
    fit(compiled(), [ak.AdaLoss()], sample_weight=np.r_[np.zeros(7), np.ones(17)].astype("float32"))  # or an error
