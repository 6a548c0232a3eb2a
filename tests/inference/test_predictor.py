import copy
import math
import os
import pickle
import random
import threading
import time

import keras
import numpy as np
import pytest

import anytime_keras as ak
from anytime_keras import runtime
from anytime_keras.inference import LatencyTable, Stages
from anytime_keras.inference.jobs import Job
from anytime_keras.inference.pace import Pace, StepPace, Times
from anytime_keras.inference.stages import in_dtype
from tests import checks
from tests.faults.dying import in_child
from tests.inference import networks


def table(model, direct, stages, batch=1):
    """A table of invented latencies: seconds of a direct run to each exit, and of each stage."""
    exits = Stages(model)
    costs = exits.costs(exits.start(networks.inputs_for(model)))
    made = LatencyTable(exits.exit_names, [cost.with_head for cost in costs])
    made.add(batch, [[seconds] for seconds in direct], [[seconds] for seconds in stages])
    return made


def whole(model, x):
    """Returns the whole model's answers by the exit's name, from one compiled graph."""
    return runtime.finish(runtime.compiled(model)(keras.tree.map_structure(keras.ops.convert_to_tensor, x)))


def quick(model, **options):
    """A predictor for single samples that measures nothing."""
    count = len(model.exit_names)
    latencies = table(model, np.linspace(1e-3, 1e-2, count), [1e-3] * count)
    return ak.Predictor(
        model, networks.inputs_for(model, batch=1), exits=model.exit_names, latencies=latencies, **options
    )


class Slow:
    """A network whose stages can take `seconds` each, fail, or be blocked.

    While `gate` is not set, the stages from position `held_from` on block.
    """

    def __init__(self, count=5):
        self.seconds, self.fails_at, self.begun = 0.0, None, 0
        self.gate, self.held_from = threading.Event(), 0
        self.gate.set()
        self.model = networks.chain([self._stage(position) for position in range(count)])
        self.x = networks.inputs_for(self.model, batch=1)

    def _stage(self, position):
        def stage(x):
            self.begun += 1
            time.sleep(self.seconds)
            if position >= self.held_from:
                assert self.gate.wait(120)
            if self.fails_at == position:
                raise RuntimeError("stage failed")
            return x

        return stage


LARGER = (networks.residual, networks.eleven_exits)


@pytest.mark.parametrize(
    "make", [pytest.param(make, marks=[pytest.mark.long] * (make in LARGER)) for make in networks.GRAPHS]
)
def test_answers_equal_the_whole_model_bit_for_bit(make):
    model = make()
    checks.scramble(model)
    predictor = quick(model)
    x = networks.inputs_for(model, batch=1, seed=1)
    expected = whole(model, x)
    answers = [predictor.predict(x), predictor.predict(x, deadline=100), predictor.predict(x, deadline=math.inf)]
    assert {answer.exit for answer in answers} == {model.exit_names[-1]} and not any(answer.late for answer in answers)
    answers += [predictor.predict(x, budget=cost.with_head) for cost in predictor.costs]
    assert [answer.exit for answer in answers[3:]] == model.exit_names
    answers += [predictor.predict(x, until=lambda answer, at=at: answer.position == at) for at in range(len(expected))]
    assert [answer.exit for answer in answers[-len(expected) :]] == model.exit_names
    answers += list(predictor.stream(x)) + [predictor.start(x).wait()]
    assert answers[-1].exit == answers[-2].exit == model.exit_names[-1]
    for answer in answers:
        networks.assert_same(answer.logits, expected[answer.exit])
        assert model.exit_names[answer.position] == answer.exit and answer.seconds > 0
        np.testing.assert_allclose(answer.probabilities.sum(axis=-1), 1, rtol=1e-5)
        np.testing.assert_array_equal(answer.confidence, answer.probabilities.max(axis=-1))


@pytest.mark.long
def test_a_measured_predictor_prepares_other_sizes_on_request():
    model = networks.residual()
    predictor = ak.Predictor(model, networks.inputs_for(model, batch=1))
    assert list(predictor.latencies.direct) == [1] and (predictor.latencies.direct[1] > 0).all()
    x = networks.inputs_for(model, batch=3)
    networks.assert_same(predictor.predict(x, deadline=60).logits, whole(model, x)["exit_6"])
    assert list(predictor.latencies.direct) == ([1, 3] if keras.backend.backend() == "jax" else [1])
    networks.assert_same(predictor.predict(x).logits, whole(model, x)["exit_6"])
    predictor.prepare(x, seconds=0)
    answer = predictor.predict(x, deadline=30)
    assert answer.exit == "exit_6" and not answer.late
    assert "exit_6" in predictor.latencies.table()


def measured(model, x):
    """A predictor for inputs like `x` that measures nothing."""
    stages = Stages(model)
    times = LatencyTable(model.exit_names, [cost.with_head for cost in stages.costs(stages.start(x))])
    times.add(len(x), direct=[[0.001], [0.002]], stages=[[0.001], [0.001]])
    return ak.Predictor(model, x, latencies=times)


@pytest.mark.tensorflow  # on JAX, Keras's lookup layers work only outside of networks
@pytest.mark.parametrize("make", [networks.string_lookup, networks.integer_lookup, networks.text_vectorization])
def test_lookup_tables_work_within_a_network(make):
    model, x = make()
    expected = model(keras.ops.convert_to_tensor(x))["late"]
    predictor = measured(model, x)
    for answer in (predictor.predict(x), predictor.predict(x, deadline=60), predictor.predict_batch(x, confidence=1.1)):
        np.testing.assert_array_equal(answer.logits, expected)


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="TensorFlow compiles them")
def test_lookup_tables_are_refused_on_jax():
    numbers = keras.Input((), dtype="int32")
    found = keras.layers.IntegerLookup(vocabulary=[5, 7], name="lookup")(numbers)
    model = networks.two_exits(numbers, keras.layers.Embedding(4, 4)(found))
    with pytest.raises(ValueError, match="^On JAX, layers that it can compile.*'lookup' of type IntegerLookup"):
        ak.Predictor(model, np.array([5]))


def test_constant_tensors_work_within_a_network():
    model, x = networks.positions()
    networks.assert_same(measured(model, x).predict(x).logits, whole(model, x)["late"])


def counter():
    features = keras.Input((4,))
    return networks.two_exits(features, networks.Counter(name="counter")(features)), "counter/calls", (2, 4)


def noise():
    features = keras.Input((4,))
    return networks.two_exits(features, networks.Noise()(features)), "seed_generator_state", (2, 4)


def stateful_lstm():
    words = keras.Input(batch_shape=(2, 3, 4))
    return networks.two_exits(words, keras.layers.LSTM(4, stateful=True)(words)), "rnn_state", (2, 3, 4)


@pytest.mark.parametrize("make", [counter, noise, stateful_lstm])
def test_state_that_calls_change_is_refused(make):
    model, name, shape = make()
    with pytest.raises(ValueError, match=f"must not keep a state.* that change .*{name}.*`stateful=False`") as error:
        measured(model, np.zeros(shape, "float32"))
    assert "\n" not in str(error.value)


def of_any_size():
    image = x = keras.Input((None, None, 3))
    exits = {}
    for name in ("exit_1", "exit_2"):
        x = keras.layers.Conv2D(4, 3, padding="same", activation="relu")(x)
        exits[name] = keras.layers.Dense(3, name=name)(keras.layers.GlobalAveragePooling2D()(x))
    return ak.AnytimeModel(image, exits)


def test_times_and_costs_depend_on_the_input_if_sizes_are_open(tmp_path):
    model = of_any_size()
    small, large = (np.zeros((1, side, side, 3), "float32") for side in (4, 8))
    stages = Stages(model)
    macs = {side: [c.with_head for c in stages.costs(stages.start(x))] for side, x in ((4, small), (8, large))}
    latencies = LatencyTable(model.exit_names, macs[4])
    latencies.add(((1, 4, 4, 3),), direct=[[0.001], [0.002]], stages=[[0.001], [0.001]])
    predictor = ak.Predictor(model, small, latencies=latencies)
    with pytest.raises(ValueError, match=r"Received: shapes \[\(1, 8, 8, 3\)\], prepared: \[\(\(1, 4, 4, 3\),\)\]"):
        predictor.predict(large, deadline=60)
    latencies.add(((1, 8, 8, 3),), direct=[[0.001], [1000.0]], stages=[[0.001], [1000.0]])
    latencies.to_json(tmp_path / "latencies.json")
    assert "1x8x8x3" in latencies.table()
    predictor = ak.Predictor(model, small, latencies=tmp_path / "latencies.json")
    predictor.prepare(large)
    assert predictor.predict(small, deadline=60).exit == "exit_2"
    assert predictor.predict(large, deadline=60).exit == "exit_1"
    for x, side in ((small, 4), (large, 8)):
        assert predictor.predict(x, budget=macs[side][0]).exit == "exit_1"
        assert not predictor.predict(x, budget=macs[side][0]).late
        assert predictor.predict(x, budget=macs[side][1]).exit == "exit_2"
        # With all heads: the second exit's run has computed the first exit's.
        assert predictor.predict_batch(x, confidence=1.1).average_macs == macs[side][1] + 12
    predictor.fit_thresholds((large, np.array([0])), 2 * macs[8][1])
    assert predictor.predict_batch(large, average_budget=2 * macs[8][1]).exits == ["exit_2"]
    with pytest.raises(ValueError, match="No threshold is fitted.*inputs of this size"):
        predictor.predict_batch(small, average_budget=2 * macs[8][1])
    batches = [(small, np.array([0])), (large, np.array([0]))]
    with pytest.raises(ValueError, match="fitted for inputs of one size"):
        predictor.fit_thresholds(batches, 2 * macs[8][1])


@pytest.mark.long
def test_eight_of_many_exits_are_chosen_evenly_by_cost():
    model = networks.eleven_exits(21)
    full = Stages(model)
    macs = {cost.exit: cost.with_head for cost in full.costs(full.start(np.zeros((1, 4))))}
    chosen = ak.Predictor(model, np.zeros((1, 4))).exit_names
    assert len(chosen) == 8 and chosen[0] == "exit_1" and chosen[-1] == "exit_21"
    steps = np.diff([macs[name] for name in chosen])
    assert steps.max() < 2 * steps.min()


def test_a_deadline_selects_the_answer_that_fits():
    slow = Slow()
    times = table(slow.model, np.arange(1, 6) * 0.3, [0.3] * 5)
    predictor = ak.Predictor(slow.model, slow.x, latencies=times)
    slow.gate.clear()
    slow.held_from, slow.begun = 3, 0
    answer = predictor.predict(slow.x, deadline=1.1)  # returns although the fourth stage does not end
    # The third exit fits; an earlier one if the machine was busy before the run began.
    assert answer.position <= 2 and answer.late == (answer.seconds > 1.1) and slow.begun < 5
    slow.gate.set()
    networks.assert_same(answer.logits, whole(slow.model, slow.x)[answer.exit])


def test_a_deadline_that_is_too_short_gets_the_first_exit_late():
    slow = Slow()
    predictor = ak.Predictor(slow.model, slow.x, latencies=table(slow.model, np.arange(1, 6) * 0.05, [0.05] * 5))
    slow.seconds, slow.begun = 0.05, 0
    for deadline in (0, -1, 0.01, -math.inf):
        answer = predictor.predict(slow.x, deadline=deadline)
        assert answer.exit == "exit_1" and answer.late
        assert answer.seconds > 0.04
    assert slow.begun == 4, "no stage beyond the first may have begun"


def test_a_budget_below_the_first_exit_gets_it_marked_late():
    predictor = quick(networks.residual())
    x = networks.inputs_for(networks.residual(), batch=1)
    assert predictor.predict(x, budget=predictor.costs[0].with_head - 1).late
    answer = predictor.predict(x, budget=predictor.costs[3].with_head - 1)
    assert answer.exit == "exit_3" and not answer.late


@pytest.mark.parametrize("limit", ["deadline", "budget"])
@pytest.mark.parametrize("value", [math.nan, "soon", 1j, np.float32("nan")])
def test_limits_must_be_numbers(limit, value):
    model = networks.chain([lambda x: x] * 2)
    predictor = quick(model)
    with pytest.raises(ValueError, match=f"`{limit}` must be a number of .*. Received"):
        predictor.predict(networks.inputs_for(model, batch=1), **{limit: value})
    with pytest.raises(ValueError, match="Only one of"):
        predictor.predict(networks.inputs_for(model, batch=1), deadline=1, budget=2)


def test_inputs_that_do_not_fit_are_refused_before_any_work():
    slow = Slow(2)
    predictor = quick(slow.model)
    slow.begun = 0
    for x in (np.zeros((0, 4)), np.zeros((1, 5)), np.zeros(4), [slow.x, slow.x]):
        for ask in (predictor.predict, predictor.start, predictor.stream):
            with pytest.raises(ValueError, match="Received"):
                ask(x)
    assert slow.begun == 0


def test_models_that_are_not_anytime_are_refused():
    inputs = keras.Input((4,))
    one = keras.Model(inputs, keras.layers.Dense(3)(inputs))

    class Subclassed(keras.Model):
        def call(self, x):
            return x

    for model, message in [(one, "two exits or more"), (Subclassed(), "functional"), ("resann", "functional")]:
        with pytest.raises(ValueError, match=f"{message}.*Received"):
            ak.Predictor(model, np.zeros((1, 4)))
    two = keras.Model(inputs, [keras.layers.Dense(3)(inputs), keras.layers.Dense(3)(inputs)])
    with pytest.raises(ValueError, match="must have shape"):
        ak.Predictor(two, np.zeros((1, 5)))
    with pytest.raises(ValueError, match="sample or more"):
        ak.Predictor(two, np.zeros((0, 4)))


def test_a_stopped_job_ends_within_one_stage():
    slow = Slow()
    predictor = quick(slow.model)
    slow.held_from, slow.begun = 1, 0
    slow.gate.clear()
    job = predictor.start(slow.x)
    first = job.wait_for_first()
    assert first.exit == job.latest().exit == "exit_1" and not job.done
    job.stop()
    begun = slow.begun
    slow.gate.set()
    last = job.wait(30)
    assert job.done and first.position <= last.position
    assert slow.begun <= begun + 1, "one stage may have been beginning"
    slow.gate.clear()
    waiting = [predictor.start(slow.x) for _ in range(2)]
    waiting[1].stop()  # before its turn
    slow.gate.set()
    assert waiting[0].wait(30).exit == "exit_5" and waiting[1].wait(30) is None


def test_waiting_has_a_timeout_and_latest_never_blocks():
    slow = Slow()
    predictor = quick(slow.model)
    slow.gate.clear()
    job = predictor.start(slow.x)
    assert job.latest() is None
    assert job.wait(0.05) is None
    assert not job.done
    slow.gate.set()
    assert job.wait().exit == "exit_5" and job.done


def test_closing_a_stream_stops_the_run():
    slow = Slow()
    predictor = quick(slow.model)
    slow.seconds, slow.begun = 0.05, 0
    stream = predictor.stream(slow.x)
    assert slow.begun == 0
    next(stream)
    stream.close()
    begun = slow.begun
    predictor.predict(slow.x, budget=0)  # waits until the stream's run has ended, and takes one stage
    assert slow.begun <= begun + 1 + 1


def test_stops_at_random_moments_leave_a_working_predictor():
    model = networks.residual()
    checks.scramble(model)
    predictor = quick(model)
    x = networks.inputs_for(model, batch=1)
    expected, moments = whole(model, x), random.Random(0)
    for _ in range(60):
        job = predictor.start(x)
        time.sleep(moments.uniform(0, 0.004))
        job.stop()
        answer = job.wait(30)
        assert job.done
        if answer is not None:
            networks.assert_same(answer.logits, expected[answer.exit])
        if moments.random() < 0.3:
            assert predictor.predict(x, deadline=60).exit == "exit_6"
    assert [answer.exit for answer in predictor.stream(x)][-1] == "exit_6"


@pytest.mark.long
def test_threads_get_their_own_answers():
    model = networks.residual()
    checks.scramble(model)
    predictor = quick(model)
    errors = []

    def ask(seed):
        try:
            x = networks.inputs_for(model, batch=1, seed=seed)
            expected = whole_answers[seed]
            for round in range(8):
                answers = [predictor.predict(x, deadline=60), predictor.predict(x, budget=predictor.costs[2].with_head)]
                answers += [predictor.predict(x, until=lambda a: a.position == 1), predictor.start(x).wait()]
                answers += predictor.stream(x)
                for answer in answers:
                    networks.assert_same(answer.logits, expected[answer.exit])
        except BaseException as error:
            errors.append(error)

    whole_answers = {seed: whole(model, networks.inputs_for(model, batch=1, seed=seed)) for seed in range(4)}
    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not errors and not any(thread.is_alive() for thread in threads)


def test_a_crash_in_a_stage_reaches_the_caller_and_the_predictor_still_works():
    slow = Slow(4)
    predictor = quick(slow.model)
    slow.fails_at = 2
    asks = {
        "predict": lambda: predictor.predict(slow.x),
        "deadline": lambda: predictor.predict(slow.x, deadline=60),
        "until": lambda: predictor.predict(slow.x, until=lambda answer: False),
        "stream": lambda: list(predictor.stream(slow.x)),
        "job": lambda: predictor.start(slow.x).wait(),
        "batch": lambda: predictor.predict_batch(slow.x, confidence=2),
    }
    for ask in asks.values():
        slow.fails_at = 2
        with pytest.raises(Exception, match="stage failed"):
            ask()
        slow.fails_at = None
        assert predictor.predict(slow.x).exit == "exit_4"
    slow.fails_at = 2
    job = predictor.start(slow.x)
    with pytest.raises(Exception, match="stage failed"):
        job.wait()
    with pytest.raises(Exception, match="stage failed"):
        job.latest()


def test_an_exception_in_until_reaches_the_caller():
    predictor = quick(networks.chain([lambda x: x] * 2))
    with pytest.raises(ZeroDivisionError):
        predictor.predict(np.zeros((1, 4)), until=lambda answer: 1 / 0)
    assert predictor.predict(np.zeros((1, 4))).exit == "exit_2"


def test_later_changes_of_weights_do_not_reach_the_predictor():
    model = networks.dense()
    predictor, x = quick(model), networks.inputs_for(model, batch=1)
    before = whole(model, x)
    checks.scramble(model)
    for answer in [predictor.predict(x), *predictor.stream(x), predictor.predict(x, until=lambda answer: True)]:
        networks.assert_same(answer.logits, before[answer.exit])


@pytest.mark.long
def test_another_precision():
    model = networks.dense()
    checks.scramble(model)
    x = networks.inputs_for(model, batch=1)
    predictor = ak.Predictor(model, x, dtype="bfloat16")
    expected = whole(in_dtype(model, "bfloat16"), x)
    for answer in [predictor.predict(x), *predictor.stream(x), predictor.predict(x, deadline=60)]:
        assert answer.logits.dtype == "float32"
        np.testing.assert_array_equal(answer.logits, np.asarray(expected[answer.exit], "float32"))


def test_a_deleted_predictor_ends_its_thread():
    before = set(threading.enumerate())
    predictor = quick(networks.chain([lambda x: x] * 2))
    predictor.start(np.zeros((1, 4))).wait()
    own = set(threading.enumerate()) - before
    assert own
    del predictor
    keras.utils.clear_session(free_memory=True)
    for thread in own:
        thread.join(60)
    assert not any(thread.is_alive() for thread in own)


def test_expected_times_of_stages_are_typical_of_the_last_calls():
    pace = StepPace(Times(None, None, None, np.array([0.001, 0.002, 0.004])))
    first = pace.needed()
    assert first[0] > 0.001 and first[2] > 0.004
    for _ in range(60):
        pace.saw([0.003, 0.009])  # the last stage did not run
    assert pace.slowdown == pytest.approx(13 / 7, rel=0.05) and pace.needed()[2] == first[2]
    assert pace.needed()[:2] == pytest.approx([3 * first[0], 3 * first[1]], rel=0.05)
    pace.saw([0.5, 0.506])
    assert pace.slowdown == pytest.approx(13 / 7, rel=0.05), "one pause"
    for _ in range(60):
        pace.saw([0.001, 0.003, 0.007])
    assert pace.slowdown == pytest.approx(1, rel=0.05), "the machine is fast again"


def test_a_stage_that_was_slow_for_a_while_is_tried_again():
    pace = StepPace(Times(None, None, None, np.array([0.001, 0.002, 0.004])))
    first = pace.needed()
    for _ in range(50):
        pace.saw([0.001, 0.003, 0.011])
    assert pace.needed()[2] > 1.7 * first[2]
    for _ in range(20):
        pace.saw([0.001, 0.003])
    assert pace.needed()[2] > 1.6 * first[2], "it is not tried in each call"
    for _ in range(1000):
        pace.saw([0.001, 0.003])
    assert pace.needed()[2] == pytest.approx(first[2], rel=0.05)


def test_the_pace_and_the_worst_pause_are_those_of_the_last_calls():
    usual = np.array([0.01, 0.02, 0.04])
    pace, times = Pace(), Times(None, usual, usual, None)
    assert [pace.first(seconds, times) for seconds in (-1, 0, 0.001, 0.03, 0.06, 1)] == [0, 0, 0, 1, 2, 2]
    pace.saw(0.03, 0.01)
    for _ in range(30):
        pace.saw(0.01, 0.01)
    assert pace.slowdown == 1 and pace.first(0.06, times) == 1, "a pause of 20 ms, in a run of 10 or of 40"
    for _ in range(200):
        pace.saw(0.01, 0.01)
    assert pace.first(0.06, times) == 2, "it is forgotten"
    for _ in range(30):
        pace.saw(0.02, 0.01)
    assert pace.slowdown == 2 and pace.first(0.07, times) == 1, "half as fast"


def test_the_margin_covers_late_wakeups_but_never_most_of_a_deadline():
    pace = Pace()
    pace.overslept(0.005)
    pace.overslept(0.0)
    assert 0.005 <= pace.margin(1.0) <= 0.01 and pace.margin(0.001) <= 0.0002 and pace.margin(-1) == 0
    for _ in range(300):
        pace.overslept(0.0)
    assert 0 < pace.margin(1.0) < 0.0005
    for wrong in (math.inf, -math.inf, math.nan):
        pace.overslept(wrong)
        pace.saw(wrong, 1.0)
    assert pace.margin(1.0) < 0.0005 and pace.slowdown == 1


def test_a_late_wakeup_counts_even_if_the_last_answer_came_meanwhile(monkeypatch):
    slow = Slow(2)
    predictor = ak.Predictor(slow.model, slow.x, latencies=table(slow.model, [0.001, 0.002], [0.001] * 2))
    wait = Job.wait

    def sleepy(job, timeout):
        time.sleep(timeout + 0.05)
        return wait(job)

    monkeypatch.setattr(Job, "wait", sleepy)
    slow.seconds = 0.02
    assert predictor.predict(slow.x, deadline=0.03).late
    assert predictor._state.paces[1].margin(1.0) >= 0.05


def test_deadlines_in_the_past_do_not_affect_later_ones():
    slow = Slow(2)
    predictor = ak.Predictor(slow.model, slow.x, latencies=table(slow.model, [0.02, 0.04], [0.02] * 2))
    slow.seconds = 0.02
    for deadline in (-1000, -math.inf, -1e300):
        assert predictor.predict(slow.x, deadline=deadline).late
    assert predictor._state.paces[1].margin(1.0) < 10 and math.isfinite(predictor._state.paces[1].slowdown)


@pytest.mark.long
def test_calibration_is_atomic_for_other_threads():
    model = networks.residual()
    checks.scramble(model)
    predictor = quick(model)
    data = networks.inputs_for(model, batch=32)
    outputs = whole(model, data)
    labels = outputs["exit_6"].argmax(axis=-1)  # so that the last exit is used, and some others are not
    x = networks.inputs_for(model, batch=1)
    expected, errors, seen, done = whole(model, x), [], set(), threading.Event()
    old_job = predictor.start(x)

    def ask(seed):
        choice = random.Random(seed)
        asks = [
            lambda: [predictor.predict(x, deadline=choice.random() * 0.01)],
            lambda: [predictor.predict(x, budget=choice.random() * 1e5)],
            lambda: [predictor.predict(x, until=lambda answer: choice.random() < 0.3)],
            lambda: list(predictor.stream(x)),
            lambda: [predictor.start(x).wait()],
        ]
        try:
            while not done.is_set():
                for answer in choice.choice(asks)():
                    np.testing.assert_allclose(answer.logits, expected[answer.exit], rtol=1e-4, atol=1e-5)
                    assert 0 < answer.temperature <= 100
                batch = predictor.predict_batch(x, confidence=choice.random())
                np.testing.assert_allclose(batch.logits, expected[batch.exits[0]], rtol=1e-4, atol=1e-4)
                seen.add(len(predictor.exit_names))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(3)]

    def wait_for(count):
        """Waits until a thread has predicted with this many exits."""
        limit = time.monotonic() + 60
        while count not in seen and not errors:
            assert time.monotonic() < limit
            time.sleep(0.01)

    for thread in threads:
        thread.start()
    try:
        wait_for(6)
        found = predictor.calibrate((data, labels))
        assert 1 < len(found) < 6
        wait_for(len(found))
    finally:
        done.set()
        for thread in threads:
            thread.join(60)
    assert not errors and seen == {6, len(found)}
    assert predictor.exit_names == list(found) and predictor.temperatures == list(found.values())
    assert old_job.wait().exit == "exit_6" and old_job.latest().position == 5
    alone = predictor.latencies.quantile(1, 0.5)
    begin = time.perf_counter()
    for _ in range(10):
        predictor.predict(x)
    assert alone[-1] < 20 * (time.perf_counter() - begin) / 10, "waiting for other threads is not the network's time"


def test_an_input_may_be_nested_lists_of_numbers():
    model = networks.eleven_exits(3)
    predictor, x = quick(model), networks.inputs_for(model, batch=2)
    expected = predictor.predict(x).logits
    for given in (x.tolist(), tuple(map(tuple, x.tolist())), [x], {model.inputs[0].name: x.tolist()}):
        np.testing.assert_array_equal(predictor.predict(given).logits, expected)
    several = networks.several_inputs()
    predictor, x = quick(several), networks.inputs_for(several)
    for given in ({name: value.tolist() for name, value in x.items()}, [x[t.name].tolist() for t in several.inputs]):
        np.testing.assert_array_equal(predictor.predict(given).logits, predictor.predict(x).logits)


@pytest.mark.parametrize("x", ["abc", None, object(), [[1, 2], [3]], [["a"] * 4]])
def test_inputs_must_be_numbers(x):
    with pytest.raises(ValueError, match="Received"):
        quick(networks.eleven_exits(2)).predict(x)


def test_arguments_of_the_wrong_kind_are_refused_before_any_work():
    slow = Slow(2)
    predictor = quick(slow.model)
    slow.begun = 0
    for until in (5, "sure", 0.5):
        with pytest.raises(ValueError, match="`until` must be a function.*Received"):
            predictor.predict(slow.x, until=until)
    for exits in (3, "exit_1", [1, 2], {"exit_1": 1}):
        with pytest.raises(ValueError, match="`exits` must be a list of names.*Received"):
            ak.Predictor(slow.model, slow.x, exits=exits)
        with pytest.raises(ValueError, match="`exits` must be a list of names.*Received"):
            Stages(slow.model, exits)
    assert slow.begun == 0
    job = predictor.start(slow.x)
    for timeout in ("a", math.nan, [1]):
        with pytest.raises(ValueError, match="`timeout` must be a number of seconds.*Received"):
            job.wait(timeout)
    job.wait(-1)
    job.wait(np.float32(0.001))
    assert job.wait(math.inf).exit == "exit_2"


def calls_in_a_fork(predictor, job, x, y):
    """Returns the errors of each method of a predictor in this process, and the seconds of all calls."""
    begin, raised = time.perf_counter(), []
    for call in (
        lambda: predictor.predict(x),
        lambda: predictor.predict(x, deadline=0.01),
        lambda: predictor.predict(x, until=lambda answer: True),
        lambda: predictor.start(x),
        lambda: predictor.stream(x),
        lambda: predictor.prepare(x),
        lambda: predictor.predict_batch(x, confidence=0.5),
        lambda: predictor.fit_thresholds((x, y), 1e9),
        lambda: predictor.calibrate((x, y)),
        lambda: job.wait(),
        lambda: next(job.answers()),
    ):
        try:
            call()
        except RuntimeError as error:
            raised.append(str(error))
    return raised, time.perf_counter() - begin


@pytest.mark.tensorflow
def test_a_forked_process_gets_an_error_that_says_to_spawn():
    model = networks.eleven_exits(2)
    predictor, x = quick(model), networks.inputs_for(model, batch=1)
    job = predictor.start(x)
    job.wait()
    raised, seconds = in_child(calls_in_a_fork, predictor, job, x, np.array([0]))
    assert len(raised) == 11 and seconds < 30, "no call may wait until it is sure"
    for text in raised:
        assert f"Expected: process {os.getpid()}. Received: a call in its fork" in text
        assert "Start processes with `multiprocessing.get_context('spawn')`" in text
    assert predictor.predict(x, deadline=60).exit == "exit_2"


@pytest.mark.long
@pytest.mark.tensorflow
def test_a_new_predictor_in_a_forked_process_gets_an_error_that_says_to_spawn():
    model = networks.eleven_exits(2)
    x = networks.inputs_for(model, batch=1)
    quick(model).predict(x)  # starts TensorFlow's threads

    def told():
        texts = []
        for call in (lambda: quick(model), lambda: ak.evaluate(model, (x, np.array([0])))):
            with pytest.raises(RuntimeError) as error:
                call()
            texts.append(str(error.value))
        return texts

    for text in in_child(told, most=60):
        assert "cannot compute, because a fork lacks the threads" in text
        assert "`multiprocessing.get_context('spawn')`" in text


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, pickle.dumps])
def test_a_copy_of_a_predictor_is_refused(copied):
    with pytest.raises(TypeError, match="A `Predictor` holds compiled programs .* cannot be copied or pickled"):
        copied(quick(networks.eleven_exits(2)))
