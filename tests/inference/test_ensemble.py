import os

import keras
import numpy as np
import pytest

import anytime_keras as ak
from anytime_keras.evaluation.evaluate import batches
from anytime_keras.inference import engines, inflation, parallel
from anytime_keras.inference.ensemble import depths
from tests import checks
from tests.inference import networks


def member(num_units, seed=0, channels=4, side=8):
    """A chain of dense layers with three exits per unit, which compiles faster than a convolutional network."""
    keras.utils.set_random_seed(seed)
    image = keras.Input((side, side, 1))
    x, exits = keras.layers.Flatten()(image), {}
    for number in range(1, 3 * num_units + 1):
        x = keras.layers.Dense(4 * channels, activation="relu")(x)
        exits[f"exit_{number}"] = keras.layers.Dense(10, name=f"exit_{number}")(x)
    return ak.AnytimeModel(image, exits)


@pytest.fixture(scope="module")
def digits():
    return ak.data.load("digits", batch_size=64)


@pytest.fixture(scope="module")
def eann(digits):
    """Two briefly trained members."""
    members = [member(1), member(2, seed=1)]
    for model in members:
        model.compile("adam", loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        model.fit(digits.train, epochs=3, verbose=0)
    return ak.EANN(members, digits.validation)


@pytest.fixture
def images(digits):
    return keras.ops.convert_to_numpy(
        next(iter(digits.test))[0] if hasattr(digits.test, "__iter__") else digits.test[0][0]
    )


def by_hand(eann, x, name):
    """Returns the output of one of the ensemble's exits, computed by its member."""
    own = next(own for own in eann.exits if own.name == name)
    return keras.ops.convert_to_numpy(eann.members[own.member](x, training=False)[own.exit])


def test_exits_are_used_if_their_error_is_below_that_of_all_earlier_ones(eann, digits):
    errors = [error for model in eann.members for error in ak.evaluate(model, digits.validation).errors]
    assert [own.error for own in eann.exits] == errors and len(errors) == 9
    assert [own.used for own in eann.exits] == [error < min([1.1, *errors[:n]]) for n, error in enumerate(errors)]
    assert 1 < len(eann.exit_names) < 9
    assert eann.exits[3].name == "member_2/exit_1"
    assert repr(eann).startswith("EANN(members=[") and f"exits={eann.exit_names}" in repr(eann)


def test_parameters_are_counted_again_after_layers_changed():
    eann = ak.EANN([member(1), member(2)], (np.zeros((4, 8, 8, 1), "float32"), np.zeros(4, int)))
    before = [own.cost.params for own in eann.exits]
    head = eann.members[0].get_layer("exit_1")
    head.enable_lora(2)
    after = [own.cost.params for own in eann.exits]
    assert after[:3] == [params + 2 * (head.kernel.shape[0] + 10) for params in before[:3]]


def test_costs_add_up_over_members_as_the_predictor_runs_them(eann, images):
    """The cost of a member is that up to its last used exit, with the heads of used exits only."""
    spent = [0, 0, 0, 0]
    for number, model in enumerate(eann.members):
        own = [own for own in eann.exits if own.member == number and own.used]
        alone = ak.cost.exit_costs(keras.Model(model.input, {exit.exit: model.output[exit.exit] for exit in own}))
        for exit, cost in zip(own, alone):
            numbers = [cost.backbone, cost.with_head, cost.with_all_heads, cost.params]
            total = exit.cost
            assert [total.backbone, total.with_head, total.with_all_heads, total.params] == [
                before + now for before, now in zip(spent, numbers)
            ]
        spent = [total.backbone, total.with_head, total.with_all_heads, total.params]
    exits = eann.exit_names
    run = ak.Predictor(eann, images, exits=exits).costs
    assert [cost.with_all_heads for cost in run] == [own.cost.with_all_heads for own in eann.exits if own.used]


def test_an_unused_member_costs_nothing(eann, digits):
    small, large = eann.members
    chained = ak.EANN([small, member(2, seed=9, channels=5), member(3, seed=9, channels=6)], digits.validation)
    assert {own.member for own in chained.exits if own.used} == {0}
    paid = max(own.cost.with_all_heads for own in chained.exits if own.used)
    last = chained.exits[-1].cost.with_all_heads
    assert last == paid + ak.cost.exit_costs(chained.members[2])[-1].with_all_heads


def test_validation_that_can_be_read_once_serves_all_members(eann, digits):
    again = ak.EANN(eann.members, (batch for batch in batches(digits.validation)))
    assert [own.error for own in again.exits] == [own.error for own in eann.exits]


def test_an_exit_worse_than_an_earlier_one_is_skipped(eann, digits):
    """The same network twice: the second one has another useless unit, so it is nowhere better."""
    small, large = eann.members
    untrained = member(3, seed=5)
    chained = ak.EANN([small, untrained], digits.validation)
    assert {own.member for own in chained.exits if own.used} == {0}
    assert chained.exit_names == [own.name for own in chained.exits if own.used]


def test_the_predictor_returns_the_members_answers(eann, images):
    predictor = ak.Predictor(eann, example=images)
    assert predictor.exit_names == eann.exit_names
    for answer in predictor.stream(images):
        same_bits = keras.backend.backend() == "tensorflow"  # XLA fuses stages differently
        np.testing.assert_allclose(
            answer.logits, by_hand(eann, images, answer.exit), rtol=0, atol=0 if same_bits else 1e-5
        )
    assert answer.exit == eann.exit_names[-1]
    for name, cost in zip(predictor.exit_names, predictor.costs):
        own = next(own for own in eann.exits if own.name == name)
        alone = ak.cost.exit_costs(eann.members[own.member])
        assert cost.with_head == next(cost.with_head for cost in alone if cost.exit == own.exit)
    assert predictor.predict(images, deadline=60).exit == eann.exit_names[-1]
    assert predictor.predict(images, deadline=0).late


def test_its_curve_is_that_of_the_exits_used_at_cumulative_cost(eann, digits):
    curve = eann.curve(digits.test)
    assert [point.exit for point in curve] == eann.exit_names
    by_name = {own.name: own for own in eann.exits}
    for point in curve:
        own = by_name[point.exit]
        assert point.with_all_heads == own.cost.with_all_heads
        assert (
            point.error
            == dict(
                zip(eann.members[own.member].exit_names, ak.evaluate(eann.members[own.member], digits.test).errors)
            )[own.exit]
        )


def test_it_is_equal_after_saving_and_loading(eann, digits, images, tmp_path):
    eann.save(tmp_path / "eann")
    loaded = ak.EANN.load(tmp_path / "eann")
    assert loaded.exits == eann.exits
    for name in eann.exit_names:
        np.testing.assert_array_equal(by_hand(loaded, images, name), by_hand(eann, images, name))
    assert [place.name for place in tmp_path.iterdir()] == ["eann"]
    with pytest.raises(ValueError, match="not empty"):
        eann.save(tmp_path / "eann")
    with pytest.raises(ValueError, match="must be a folder that `EANN.save` wrote"):
        ak.EANN.load(tmp_path)
    (tmp_path / "eann" / "eann.json").write_text('{"errors": [[0.5], [0.4]], "inference": null}')
    with pytest.raises(ValueError, match="does not describe the members beside it: `errors` must have one number"):
        ak.EANN.load(tmp_path / "eann")


def test_members_that_do_not_fit_are_refused(digits):
    with pytest.raises(ValueError, match="two members"):
        ak.EANN([member(1)], digits.validation)
    with pytest.raises(ValueError, match="a list of two members or more. Received: <generator"):
        ak.EANN((member(units) for units in (1, 2)), digits.validation)
    with pytest.raises(ValueError, match="order of increasing cost"):
        ak.EANN([member(2), member(1)], digits.validation)
    with pytest.raises(ValueError, match="same input"):
        ak.EANN([member(1), member(2, side=16)], digits.validation)
    with pytest.raises(ValueError, match="functional"):
        ak.EANN([member(1), "resann"], digits.validation)


def test_depths_grow_exponentially():
    assert depths(7, 3) == [7, 14, 28] and depths(2, 4, growth=1.5) == [2, 3, 4, 7]
    for arguments in ((0, 3), (7, 0), (7.0, 3), (7, 3, 1.0), (1, 5, 1.3), (7, 3, float("inf"))):
        with pytest.raises(ValueError, match="Received"):
            depths(*arguments)


@pytest.mark.parametrize("base", [1.5, 2.0, 1 + 2**0.5, 4.0])
def test_the_simulation_reaches_and_never_exceeds_the_propositions_bounds(base):
    for anytime in (True, False):
        bound = inflation.bounds(base, anytime=anytime)
        measured = inflation.simulate(base, anytime=anytime, num_members=24 if base < 2 else 14)
        assert measured.sup <= bound.sup and measured.mean <= bound.mean
        assert measured.sup > bound.sup - 0.01 and measured.mean > bound.mean - 0.01


@pytest.mark.parametrize("workers", [2, 3])
@pytest.mark.parametrize("base", [1.5, 2.0, 4.0])
def test_parallel_workers_stay_within_their_bounds(base, workers):
    for anytime in (True, False):
        bound = inflation.bounds(base, workers, anytime)
        measured = inflation.simulate(base, workers, anytime, num_members=18)
        assert measured.sup <= bound.sup and measured.mean <= bound.mean
        assert measured.mean < inflation.simulate(base, 1, anytime).mean
    assert measured.sup > bound.sup - 0.01, "plain networks reach theirs"


def test_the_papers_figures():
    assert inflation.bounds(2.0).sup == 3.0
    assert round(inflation.bounds(2.0).mean, 2) == 2.44
    assert inflation.bounds(2.0, anytime=False).sup == 4.0
    assert round(inflation.bounds(1 + 2**0.5, anytime=False).mean, 2) == 2.91
    assert inflation.bounds(2.0, workers=2).mean == inflation.bounds(4.0).mean
    for arguments in ((1.0,), (0,), (2.0, 0), (2.0, 1.5), (float("inf"),)):
        with pytest.raises(ValueError, match="Received"):
            inflation.bounds(*arguments)


@pytest.mark.long
@pytest.mark.tensorflow  # one backend is enough; the rest runs on both
def test_the_example_of_parallel_processes_runs(eann, images):
    left = checks.run_example(ak.inference.ParallelPredictor, eann=eann, images=images)
    assert left["answer"].exit in eann.exit_names


@pytest.mark.long
@pytest.mark.parametrize("engine", ["litert", pytest.param(engines.backend(), id="backend")])
def test_members_run_in_parallel_processes(eann, images, engine):
    if engine == "litert" and keras.backend.backend() != "tensorflow":
        pytest.skip("files are converted by TensorFlow")
    with ak.inference.ParallelPredictor(eann, images, workers=2, engine=engine) as predictor:
        answer = predictor.predict(images)
        assert answer.exit == eann.exit_names[-1] and not answer.late
        np.testing.assert_allclose(answer.logits, by_hand(eann, images, answer.exit), atol=1e-4)
        positions = [answer.position for answer in predictor.stream(images)]
        assert positions == sorted(set(positions)) and positions[-1] == len(eann.exit_names) - 1
        late = predictor.predict(images, deadline=0.0)
        assert late.late and late.logits.shape == (len(images), 10)
        job = predictor.start(images)
        job.stop()
        job.wait()
        assert predictor.predict(images, deadline=60.0).exit == eann.exit_names[-1], "usable after a stop"
        process = predictor._processes._processes[0]
        process.kill()
        process.join()
        with pytest.raises(RuntimeError, match="died"):
            predictor.predict(images)
    with pytest.raises(ValueError, match="EANN"):
        ak.inference.ParallelPredictor(eann.members[0], images)
    with pytest.raises(ValueError, match="workers"):
        ak.inference.ParallelPredictor(eann, images, workers=0)
    with pytest.raises(ValueError, match="`engine` must be one of"):
        ak.inference.ParallelPredictor(eann, images, engine="litter")


def test_environments_of_processes_leave_other_variables_alone(monkeypatch):
    monkeypatch.delenv("ONLY_THERE", raising=False)
    monkeypatch.setenv("SET_BEFORE", "ours")
    monkeypatch.setenv("SET_MEANWHILE", "old")
    with parallel._environment({"ONLY_THERE": "1", "SET_BEFORE": "theirs"}):
        assert (os.environ["ONLY_THERE"], os.environ["SET_BEFORE"]) == ("1", "theirs")
        os.environ["SET_MEANWHILE"] = "new"  # as another thread may
    assert "ONLY_THERE" not in os.environ
    assert (os.environ["SET_BEFORE"], os.environ["SET_MEANWHILE"]) == ("ours", "new")


def test_the_curve_of_an_ensemble_shows_its_calibration_after_temperatures():
    first, second = (networks.eleven_exits(count) for count in (2, 4))
    checks.scramble(second)
    x = networks.inputs_for(first, batch=60)
    y = np.argmax(checks.answers(second, x)["exit_4"], axis=-1)
    eann = ak.EANN([first, second], validation=(x, y))
    assert eann.curve((x, y)).calibration().calibrated_errors is None
    eann.inference = {"temperatures": {eann.exit_names[-1]: 4.0}}
    curve = eann.curve((x, y))
    found = curve.calibration()
    assert list(found.errors) == list(found.calibrated_errors) == eann.exit_names
    differing = [name for name in eann.exit_names if found.errors[name] != found.calibrated_errors[name]]
    assert differing == [eann.exit_names[-1]]
    assert (1 - curve.samples.correct.mean(axis=1)).tolist() == pytest.approx(curve.errors)
