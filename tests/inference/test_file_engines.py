"""Predictors on converted stages: outputs, batch sizes, threads and errors on each file engine."""

import contextlib
import math
import threading
import time

import keras
import numpy as np
import pytest

import anytime_keras as ak
from anytime_keras import runtime
from anytime_keras.conversion import converters
from anytime_keras.conversion.runtimes import Terminated
from anytime_keras.inference import LatencyTable, Stages, engines, latency
from anytime_keras.inference.engines import choice, files
from tests import checks
from tests.inference import networks

FILES = choice.FILE_ENGINES
SLOWEST = {"openvino": pytest.mark.long}  # for tests that convert several batch sizes
STEADY, UNSTEADY = [1e-3] * 19 + [1e-2], [1e-3] * 7 + [1e-2] * 3  # seconds of runs


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path_factory):
    """One cache for all tests of this session, so that each network is converted once."""
    monkeypatch.setenv("ANYTIME_KERAS_CACHE", str(tmp_path_factory.getbasetemp() / "parts"))


@pytest.fixture
def all_compared(monkeypatch):
    monkeypatch.delenv("ANYTIME_KERAS_ENGINES")
    monkeypatch.setattr(choice, "BLOCK_SECONDS", 0.02)


def msdnet():
    return ak.models.build(
        "msdnet38", blocks=(3, 2), exit_every=2, first_exit=2, growth_rate=4, factors=(1, 2), stem="small",
        input_shape=(8, 8, 3), num_classes=3,
    )


def densenet():
    return ak.models.DenseANN(blocks=(2, 2), growth_rate=4, exit_every=2, input_shape=(8, 8, 3), num_classes=3)


def mobilenet():
    base = keras.applications.MobileNet(input_shape=(32, 32, 3), alpha=0.25, weights=None, classes=3)
    return ak.to_anytime(base, num_exits=2)


def made_up(stages, batch):
    """A table of invented latencies, so that nothing is measured."""
    costs = stages.costs(stages.start(networks.inputs_for(stages.model, batch)))
    table = LatencyTable(stages.exit_names, [cost.with_head for cost in costs])
    table.add(batch, [[0.001]] * len(costs), [[0.001]] * len(costs))
    return table


def predictor_for(model, engine="litert", batch=1, num_threads=1, **options):
    stages = Stages(model, options.get("exits"))
    names = stages.exit_names
    options = {"latencies": made_up(stages, batch), "exits": names, **options}
    return ak.Predictor(model, networks.inputs_for(model, batch), engine=engine, num_threads=num_threads, **options)


def assert_close(ours, theirs):
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5 * max(1, np.abs(theirs).max()))


@pytest.fixture(scope="module")
def chain():
    """A network of three exits that is converted quickly."""
    keras.utils.set_random_seed(1)
    model = networks.eleven_exits(3)
    checks.scramble(model)
    return model


# Converting takes long, so networks with many stages are converted for LiteRT only.
EACH = [networks.small_resann, mobilenet, networks.several_inputs]


@pytest.mark.long
@pytest.mark.tensorflow
@pytest.mark.parametrize(
    "make, engine", [(make, engine) for make in EACH for engine in FILES] + [(msdnet, "litert"), (densenet, "litert")]
)
def test_answers_equal_the_network_on_each_engine(make, engine):
    model = make()
    checks.scramble(model)
    predictor = predictor_for(model, engine)
    assert predictor.engine == engine
    for batch in (1, 3):
        x = networks.inputs_for(model, batch, seed=1)
        expected = checks.outputs(model, x)
        answers = [predictor.predict(x), predictor.predict(x, deadline=100), predictor.predict(x, deadline=math.inf)]
        assert {answer.exit for answer in answers} == {model.exit_names[-1]} and not any(a.late for a in answers)
        answers += [predictor.predict(x, budget=predictor.costs[1].with_head)]
        answers += [predictor.predict(x, until=lambda answer: answer.position == 1)]
        assert [answer.exit for answer in answers[-2:]] == [model.exit_names[1]] * 2
        answers += [*predictor.stream(x), predictor.start(x).wait()]
        assert answers[-1].exit == answers[-2].exit == model.exit_names[-1]
        for answer in answers:
            assert_close(answer.logits, expected[answer.exit])
    batch = predictor.predict_batch(x, confidence=0.4)
    for row, name in enumerate(batch.exits):
        assert_close(batch.logits[row], expected[name][row])


@pytest.mark.tensorflow
def test_a_batch_of_any_size_meets_a_deadline(chain):
    predictor = predictor_for(chain, batch=4)
    for batch in (1, 4, 9):
        x = networks.inputs_for(chain, batch, seed=2)
        answer = predictor.predict(x, deadline=60)
        assert answer.exit == "exit_3" and not answer.late
        assert_close(answer.logits, checks.outputs(chain, x)["exit_3"])
        assert_close(predictor.predict(x, budget=0).logits, checks.outputs(chain, x)["exit_1"])
    state = predictor._state
    times = {batch: state.times_for([np.zeros((batch, 4), "float32")])[1].stages[0] for batch in (1, 4, 9)}
    np.testing.assert_allclose([times[1], times[9]], [times[4], 3 * times[4]])
    predictor.prepare(networks.inputs_for(chain, 1), seconds=0)
    expected = 2 * times[4] + state.times[1].stages[0]
    np.testing.assert_allclose(state.times_for([np.zeros((9, 4), "float32")])[1].stages[0], expected)
    assert_close(predictor.predict(x).logits, checks.outputs(chain, x)["exit_3"])


@pytest.mark.tensorflow
@pytest.mark.parametrize("engine", [pytest.param(name, marks=SLOWEST.get(name, ())) for name in FILES])
def test_early_exit_loads_sizes_that_waste_little(chain, engine):
    predictor = predictor_for(chain, engine, batch=5)
    for count in (1, 7, 40):
        x = networks.inputs_for(chain, count, seed=4)
        for name, logits in predictor.predict_exits(x).items():
            assert_close(logits, checks.outputs(chain, x)[name])
    sizes = sorted(predictor._state.engine._loaded)
    assert sizes == ([5] if engine == "onnx" else [2, 5, 8])  # ONNX Runtime runs any size
    times = predictor._state.times_for([networks.inputs_for(chain, 7)])[1].stages
    np.testing.assert_allclose(times, 2 * predictor._state.times[5].stages, err_msg="deadlines use what was measured")


@pytest.mark.tensorflow
def test_a_deadline_uses_measured_sizes_only_while_a_server_prepares_others(chain):
    predictor = predictor_for(chain)
    with ak.serving.Server(predictor, max_batch=2):
        for batch in (2, 3):
            x = networks.inputs_for(chain, batch)
            assert_close(predictor.predict(x, deadline=60).logits, checks.outputs(chain, x)["exit_3"])


@pytest.mark.tensorflow
def test_parts_that_cannot_be_resized_run_in_prepared_sizes(monkeypatch, chain):
    predictor, tried = predictor_for(chain, batch=3), []
    monkeypatch.setattr(predictor._state.engine._loader, "resized", lambda plans, size: tried.append(size))
    x = networks.inputs_for(chain, 7, seed=4)
    for _ in range(2):
        for name, logits in predictor.predict_exits(x).items():
            assert_close(logits, checks.outputs(chain, x)[name])
    assert sorted(predictor._state.engine._loaded) == [3] and tried == [8, 2]


@pytest.mark.tensorflow
def test_samples_that_exit_early_leave_the_batch(chain):
    predictor = predictor_for(chain, batch=2)
    x = networks.inputs_for(chain, 33, seed=3)
    expected, first = checks.outputs(chain, x), predictor.predict(x, budget=0)
    threshold = float(np.median(first.confidence))
    answer = predictor.predict_batch(x, confidence=threshold)
    assert set(answer.exits) > {"exit_1"}
    assert [name == "exit_1" for name in answer.exits] == (first.confidence >= threshold).tolist()
    for row, name in enumerate(answer.exits):
        assert_close(answer.logits[row], expected[name][row])


class Recorded(engines.Run):
    def __init__(self, first=0, last=2, limit=engines.ALWAYS, needed=(0, 0, 0), at=None):
        super().__init__(first, last, limit, needed)
        self.positions, self._at = [], at

    def emit(self, position, logits):
        self.positions.append(position)
        if self._at:
            self._at(self, position)


@pytest.mark.tensorflow
def test_a_run_stops_between_stages(chain):
    engine = predictor_for(chain)._state.engine
    inputs = engine.start(networks.inputs_for(chain, 1))

    def positions(**options):
        run = Recorded(**options)
        engine.run(inputs, run)
        return run.positions

    assert positions() == [0, 1, 2] and positions(first=1) == [1, 2] and positions(first=2) == [2]
    assert positions(at=lambda run, position: position == 1 and engine.stop(run)) == [0, 1]
    assert positions(limit=engines.NEVER) == [0]
    assert positions(limit=time.time() + 30, needed=(0, 0, 99)) == [0, 1]
    assert positions() == [0, 1, 2], "a run that was stopped must not stop the next one"


class Endless:
    """A part that runs until it is terminated."""

    def __init__(self):
        self.begun, self.stopped = threading.Event(), threading.Event()

    def __call__(self, arrays):
        self.begun.set()
        assert self.stopped.wait(60)
        raise Terminated("The run was terminated.")

    def terminate(self):
        self.stopped.set()


@pytest.mark.tensorflow
def test_a_stage_is_terminated_on_runtimes_that_can(chain):
    predictor, x = predictor_for(chain), networks.inputs_for(chain, 1)
    stage, endless = predictor._state.engine._loaded[1][1], Endless()
    part, stage._part = stage._part, endless
    job = predictor.start(x)
    assert endless.begun.wait(60)
    waiting = predictor.start(x)
    job.stop()
    assert job.wait(60).exit == "exit_1"
    stage._part = part
    endless.stopped.set()
    with contextlib.suppress(Terminated):  # the next run may have started with the endless part
        waiting.wait(60)
    assert predictor.predict(x, deadline=60).exit == "exit_3"


@pytest.mark.tensorflow
def test_threads_get_their_own_answers(chain):
    predictor, errors = predictor_for(chain), []
    inputs = [networks.inputs_for(chain, 1 + seed % 2, seed=seed) for seed in range(4)]
    expected = [checks.outputs(chain, x) for x in inputs]

    def ask(x, expected):
        try:
            for _ in range(30):
                answers = [predictor.predict(x), predictor.predict(x, deadline=60), predictor.start(x).wait()]
                for answer in [*answers, predictor.predict(x, until=lambda a: a.position == 1), *predictor.stream(x)]:
                    assert_close(answer.logits, expected[answer.exit])
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=ask, args=each) for each in zip(inputs, expected)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not errors and not any(thread.is_alive() for thread in threads)


@pytest.mark.tensorflow
def test_inputs_are_converted_and_checked_as_on_other_engines(chain):
    predictor, x = predictor_for(chain), networks.inputs_for(chain, 2, seed=5)
    expected = predictor.predict(x).logits
    for given in (x.tolist(), x.astype("float64"), [x], np.asfortranarray(x), keras.ops.convert_to_tensor(x)):
        np.testing.assert_array_equal(predictor.predict(given).logits, expected)
    for wrong in [*(np.zeros(shape, "float32") for shape in ((0, 4), (1, 5), (4,), ())), "abc"]:
        with pytest.raises(ValueError, match="Received"):
            predictor.predict(wrong)


@pytest.mark.tensorflow
def test_later_changes_of_weights_do_not_reach_the_predictor():
    model = networks.eleven_exits(3)
    predictor, x = predictor_for(model), networks.inputs_for(model, 1)
    before = checks.outputs(model, x)
    for variable in model.get_layer("exit_1").weights:
        variable.assign_add(keras.ops.ones_like(variable))
    assert_close(predictor.predict(x, budget=0).logits, before["exit_1"])
    checks.scramble(model)
    assert_close(predictor.predict(x).logits, before["exit_3"])
    for cost in predictor.costs:  # runs straight to an exit are made when first used
        answer = predictor.predict(x, budget=cost.with_head)
        assert answer.exit == cost.exit
        assert_close(answer.logits, before[answer.exit])
    many = networks.inputs_for(model, 7)
    assert_close(predictor.predict_exits(many)["exit_1"][:1], predictor.predict(many[:1], budget=0).logits)
    with pytest.raises(ValueError, match="weights must be those .* Received: other weights. Make a new"):
        predictor.prepare(many)
    with pytest.raises(ValueError, match="weights must be those .* Received: other weights. Make a new"):
        predictor.calibrate((many, np.zeros(7, int)))
    assert np.abs(predictor_for(model).predict(x).logits - before["exit_3"]).max() > 1e-3, "nor those of an older one"


@pytest.mark.tensorflow
def test_weights_that_change_while_a_part_is_converted_are_not_cached(monkeypatch, tmp_path):
    monkeypatch.setenv("ANYTIME_KERAS_CACHE", str(tmp_path))
    model = networks.eleven_exits(3)
    predictor, x = predictor_for(model), networks.inputs_for(model, 1)
    before, weights, convert = checks.outputs(model, x), model.get_weights(), converters.convert

    def change(*args, **options):
        checks.scramble(model)
        return convert(*args, **options)

    with monkeypatch.context() as patched:
        patched.setattr(converters, "convert", change)
        assert_close(predictor.predict(x, budget=0).logits, before["exit_1"])
    model.set_weights(weights)
    assert_close(predictor_for(model).predict(x, budget=0).logits, before["exit_1"])


@pytest.mark.tensorflow
def test_further_batch_sizes_need_no_conversion_without_a_cache(monkeypatch, chain):
    monkeypatch.setenv("ANYTIME_KERAS_CACHE", "/dev/null")
    predictor = predictor_for(chain, num_threads=np.int64(1))
    monkeypatch.setattr(converters, "convert", lambda *_: pytest.fail("converted twice"))
    x = networks.inputs_for(chain, 11)
    predictor.prepare(x[:4], seconds=0)
    expected = checks.outputs(chain, x)
    batch = predictor.predict_batch(x, confidence=0.4)
    assert_close(batch.logits, np.array([expected[name][row] for row, name in enumerate(batch.exits)]))
    with pytest.raises(ValueError, match="`seconds` must be .* Received: seconds=inf"):
        predictor.prepare(x, seconds=math.inf)


@pytest.mark.tensorflow
def test_other_threads_predict_while_a_run_to_an_exit_is_converted(monkeypatch, chain):
    predictor, x = predictor_for(chain), networks.inputs_for(chain, 1)
    converting, finish, convert = threading.Event(), threading.Event(), converters.convert

    def slow(*args, **options):
        converting.set()
        assert finish.wait(60)
        return convert(*args, **options)

    monkeypatch.setattr(converters, "convert", slow)
    monkeypatch.setattr(engines.loading.part_cache, "cached", lambda key, make: make())
    thread = threading.Thread(target=predictor.predict, args=(x,), kwargs={"budget": 0})
    thread.start()
    assert converting.wait(60)
    try:
        job = predictor.start(x)
        assert job.wait(60) is not None and job.done, "the conversion must not hold the lock"
    finally:
        finish.set()
        thread.join(60)
    assert_close(predictor.predict(x, budget=0).logits, checks.outputs(chain, x)["exit_1"])


@pytest.mark.tensorflow
def test_a_second_predictor_converts_and_measures_nothing(monkeypatch, all_compared):
    monkeypatch.setattr(latency, "STEADY", float("inf"))  # otherwise disturbed measurements would be repeated
    model = networks.eleven_exits(3)
    checks.scramble(model)
    x = networks.inputs_for(model, 1)
    first = ak.Predictor(model, x)
    assert first.engine in FILES
    for module, name in ((converters, "convert"), (choice, "_block"), (runtime, "compiled"), (Stages, "segment")):
        monkeypatch.setattr(module, name, lambda *args, **options: pytest.fail(f"{name} was called"))
    copied = keras.models.clone_model(model)
    copied.set_weights(model.get_weights())
    second = ak.Predictor(copied, x)
    assert second.engine == first.engine
    np.testing.assert_array_equal(second.latencies.direct[1], first.latencies.direct[1])
    np.testing.assert_array_equal(second.predict(x).logits, first.predict(x).logits)


@pytest.mark.tensorflow
def test_auto_chooses_the_fastest_engine_that_equals_the_network(monkeypatch, all_compared, chain):
    x, seconds = networks.inputs_for(chain, 1), {}
    monkeypatch.setattr(choice, "_measured", lambda *_: sorted([t, name, 1] for name, t in seconds.items()))
    for fastest in ("litert", "tensorflow"):
        seconds.update({"litert": 2.0, "tensorflow": 2.0, fastest: 1.0})
        assert ak.Predictor(chain, x, latencies=made_up(Stages(chain), 1)).engine == fastest
    seconds.update(litert=0.5)
    monkeypatch.setattr(engines.files, "_difference", lambda ours, theirs: 2e-5)
    monkeypatch.setattr(engines.files.part_cache, "read", lambda key: None)
    assert ak.Predictor(chain, x, latencies=made_up(Stages(chain), 1)).engine == "tensorflow"
    with pytest.raises(ValueError, match="'litert'` cannot run this network: its outputs must equal.*1e-05.*2e-05"):
        predictor_for(chain)


@pytest.mark.tensorflow
@pytest.mark.parametrize(
    "one, two, kept",
    [
        (STEADY, STEADY, True),
        (UNSTEADY, STEADY, False),
        (STEADY, [3e-3] * 5 + [3e-2] * 5, True),  # two threads are slower, so that they do not count
        (STEADY, [3e-4] * 5 + [3e-2] * 5, False),
    ],
)
def test_only_steady_measurements_of_the_engines_are_kept(monkeypatch, all_compared, tmp_path, one, two, kept):
    monkeypatch.setenv("ANYTIME_KERAS_CACHE", str(tmp_path))
    monkeypatch.setenv("ANYTIME_KERAS_ENGINES", "litert")
    blocks, model = [], networks.eleven_exits(2)
    monkeypatch.setattr(choice, "_block", lambda call: blocks.append(call) or (one, two)[(len(blocks) - 1) % 2])
    monkeypatch.setattr(runtime, "cores", lambda: 2)
    for _ in range(2):
        ak.Predictor(model, networks.inputs_for(model, 1), latencies=made_up(Stages(model), 1))
    assert len(blocks) == (2 if kept else 4)


@pytest.mark.tensorflow
def test_auto_compares_the_runtimes_that_the_environment_variable_lists(monkeypatch, chain):
    compared, x = [], networks.inputs_for(chain, 1)
    monkeypatch.setattr(choice, "_measured", lambda stages, inputs, names, *_: compared.append(names) or [])
    for listed in ("litert", "onnx, litert", ""):
        monkeypatch.setenv("ANYTIME_KERAS_ENGINES", listed)
        assert ak.Predictor(chain, x, latencies=made_up(Stages(chain), 1)).engine == "tensorflow"
    assert compared == [("litert",), ("onnx", "litert")]
    monkeypatch.setenv("ANYTIME_KERAS_ENGINES", "litert,lite")
    with pytest.raises(ValueError, match="ANYTIME_KERAS_ENGINES must list runtimes among .* Received: 'lite'"):
        ak.Predictor(chain, x)


@pytest.mark.long
@pytest.mark.tensorflow
def test_networks_that_no_runtime_can_run_stay_on_the_backend(all_compared):
    image = keras.Input((None, None, 3))
    dynamic = networks.two_exits(image, keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(4, 3)(image)))
    x = np.zeros((1, 8, 8, 3), "float32")
    callback = networks.chain([lambda x: x] * 2)
    strings, words = networks.string_lookup()
    for model, x in ((dynamic, x), (callback, np.zeros((1, 4), "float32")), (strings, words)):
        assert ak.Predictor(model, x).engine == "tensorflow"
        with pytest.raises(ValueError, match="^`engine='litert'` cannot run this network: .*Use `engine='auto'`.$"):
            ak.Predictor(model, x, engine="litert")


@pytest.mark.long
@pytest.mark.tensorflow
def test_an_ensemble_runs_on_converted_stages():
    data = networks.inputs_for(networks.eleven_exits(2), 64), np.arange(64) % 3
    members = [networks.eleven_exits(2), networks.eleven_exits(4)]
    for member in members:
        checks.scramble(member)
    eann = ak.EANN(members, data)
    x = data[0][:1]
    ours = ak.Predictor(eann, x, engine="litert", num_threads=1)
    theirs = ak.Predictor(eann, x, engine="tensorflow")
    assert ours.exit_names == theirs.exit_names
    for position, cost in enumerate(theirs.costs):
        own, other = (predictor.predict(x, until=lambda a: a.position == position) for predictor in (ours, theirs))
        assert_close(own.logits, other.logits)
        assert_close(ours.predict(x, budget=cost.with_head).logits, theirs.predict(x, budget=cost.with_head).logits)


@pytest.mark.long
@pytest.mark.tensorflow
def test_8_bit_stages_are_near_the_network(chain):
    samples = networks.inputs_for(chain, 64, seed=7)
    predictor = predictor_for(chain, dtype="int8", representative=samples, latencies=None)
    expected = checks.outputs(chain, samples)
    for position, name in enumerate(chain.exit_names):
        logits = predictor.predict(samples, until=lambda answer: answer.position == position).logits
        error = np.abs(logits - expected[name]).mean() / np.abs(expected[name]).mean()
        assert 1e-6 < error < 0.1
    logits = predictor.predict(samples).logits
    assert np.abs(logits - expected["exit_3"]).mean() < 0.1 * np.abs(expected["exit_3"]).mean()
    assert predictor.latencies.dtype == "int8"


@pytest.mark.long
@pytest.mark.tensorflow
def test_8_bit_stages_get_temperatures_of_their_own(monkeypatch, chain):
    samples = networks.inputs_for(chain, 64, seed=7)
    fitted = {name: 2.0 + position for position, name in enumerate(chain.exit_names)}
    monkeypatch.setattr(chain, "inference", {"temperatures": fitted})
    plain = predictor_for(chain, dtype="int8", representative=samples, latencies=None)
    assert plain.temperatures == pytest.approx(list(fitted.values()), rel=0.1)
    assert plain.temperatures != list(fitted.values())
    monkeypatch.setattr(files, "in_batches", halved(files.in_batches))  # as if 8 bits had doubled the logits
    halving = predictor_for(chain, dtype="int8", representative=samples, latencies=None)
    np.testing.assert_allclose(halving.temperatures, 2 * np.array(plain.temperatures), rtol=0.01)


@pytest.mark.long
@pytest.mark.tensorflow
def test_8_bit_predictors_store_the_networks_own_temperatures(monkeypatch, chain):
    samples = networks.inputs_for(chain, 64, seed=7)
    logits = 5 * checks.outputs(chain, samples)["exit_1"]
    labels = (logits + np.random.default_rng(0).gumbel(size=logits.shape)).argmax(axis=1)  # drawn by their softmax
    monkeypatch.setattr(chain, "inference", None)
    monkeypatch.setattr(files, "in_batches", halved(files.in_batches))  # as if 8 bits had doubled the logits
    predictor = predictor_for(chain, dtype="int8", representative=samples, latencies=None)
    used = predictor.calibrate((samples, labels))
    stored = chain.inference["temperatures"]
    assert predictor.temperatures == list(used.values()) and list(stored) == list(used)
    assert used["exit_1"] == pytest.approx(2 * stored["exit_1"], rel=0.1) and 0.02 < stored["exit_1"] < 5


def halved(in_batches):
    def run(segment, samples):
        logits, carried = in_batches(segment, samples)
        return logits / 2, carried

    return run


@pytest.mark.tensorflow
def test_dtypes_that_a_runtime_lacks_are_refused(chain):
    samples = networks.inputs_for(chain, 64)
    for options, message in [
        (dict(engine="onnx", dtype="float16"), "`dtype` must be one of .*'onnx'. Received: dtype='float16'"),
        (
            dict(engine="tensorflow", num_threads=None, dtype="int8", representative=samples),
            "`dtype='int8'` needs one of the engines .*'litert'.* Received: engine='tensorflow', backend 'tensorflow'.",
        ),
        (  # `conftest.py` sets the variable to "", which means no runtime
            dict(engine="auto", num_threads=None, dtype="int8", representative=samples),
            "those that the environment variable ANYTIME_KERAS_ENGINES lists.* Received: engine='auto'",
        ),
        (dict(dtype="int8"), "`representative`, samples of typical inputs, is needed for `dtype='int8'`"),
        (dict(dtype="float16", representative=samples), "is needed for `dtype='int8'` and for no other"),
        (dict(dtype="int8", representative=samples * np.inf), "`representative` must lie between -1e.18 and 1e.18 for"),
        (dict(dtype="int8", representative=np.full((64, 4), 1e38)), "`representative` must .* from 1e.38 to 1e.38"),
    ]:
        with pytest.raises(ValueError, match=message):
            predictor_for(chain, **options)
    broken = networks.eleven_exits(2)
    broken.set_weights([np.full_like(weight, np.inf) for weight in broken.get_weights()])
    with pytest.raises(ValueError, match="The network's weights must lie between .* values from inf to inf"):
        predictor_for(broken, dtype="int8", representative=samples)


@pytest.mark.tensorflow
def test_the_error_names_why_no_runtime_can_run_a_network(all_compared):
    callback = networks.chain([lambda x: x] * 2)
    x = networks.inputs_for(callback, 8)
    for _ in range(2):  # the second time with what the first left in the cache
        with pytest.raises(ValueError, match="'auto'` cannot run this network: LiteRT cannot .*Leave `dtype` out.$"):
            ak.Predictor(callback, x, dtype="int8", representative=x)


@pytest.mark.tensorflow
def test_networks_of_half_precision_are_not_given_to_the_converter(monkeypatch, all_compared):
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = networks.eleven_exits(2)
    finally:
        keras.config.set_dtype_policy("float32")
    monkeypatch.setattr(converters, "convert", lambda *_: pytest.fail("TensorFlow's converter prints its errors"))
    x = networks.inputs_for(model, 1)
    assert ak.Predictor(model, x).engine == "tensorflow"
    with pytest.raises(ValueError, match=r"layers that compute in float32. Received: layers in \['bfloat16'\]"):
        ak.Predictor(model, x, engine="litert")


@pytest.mark.long
@pytest.mark.tensorflow
def test_an_idle_predictor_takes_no_cpu_time(all_compared):
    model, others = networks.small_resann(), checks.threads_seconds()
    predictors = [predictor_for(model, engine, num_threads=2) for engine in FILES]
    predictors.append(ak.Predictor(model, networks.inputs_for(model, 1)))
    for predictor in predictors:
        predictor.predict(networks.inputs_for(model, 1))
    for _ in range(100):  # until threads have finished their work, however busy the machine is
        before = sum(checks.threads_seconds(but=others).values())
        time.sleep(0.3)
        used = sum(checks.threads_seconds(but=others).values()) - before
        if used < 0.03:
            break
    assert len(checks.threads_seconds(but=others)) >= len(FILES) and used < 0.03


def test_engines_that_cannot_be_used_are_refused_before_any_work(monkeypatch):
    model = networks.eleven_exits(2)
    x, backend = networks.inputs_for(model, 1), keras.backend.backend()
    monkeypatch.setattr(Stages, "start", lambda *_: pytest.fail("it worked"))
    other = {"tensorflow": "jax", "jax": "tensorflow"}[backend]
    for options, message in [
        ({"engine": "lite"}, "`engine` must be one of .*Received: engine='lite'.*Did you mean 'litert'"),
        ({"engine": other}, f"`engine='{other}'` needs Keras's backend '{other}'. Received: backend '{backend}'"),
        ({"engine": "auto", "num_threads": 0}, "`num_threads` must be a positive int. Received: num_threads=0"),
        ({"engine": "auto", "num_threads": 10**6}, "at most 1024. Received: num_threads=1000000"),
        ({"engine": "auto", "dtype": np.float16}, "`dtype` must be None or a str, .* Received: dtype=<class"),
        ({"representative": x}, "is needed for `dtype='int8'` and for no other. Received: dtype=None"),
        ({"engine": backend, "num_threads": 2}, f"`num_threads` applies to .*Received: num_threads=2, .*'{backend}'"),
    ]:
        with pytest.raises(ValueError, match=message):
            ak.Predictor(model, x, **options)
    if backend == "jax":
        with pytest.raises(ValueError, match="`engine='litert'` needs Keras's backend 'tensorflow'"):
            ak.Predictor(model, x, engine="litert")


@pytest.mark.tensorflow
def test_a_missing_package_is_named(monkeypatch, chain):
    def missing(num_threads=None):
        raise ImportError("This needs openvino, which cannot be imported: `pip install openvino`.")

    monkeypatch.setitem(choice.runtimes.RUNTIMES, "openvino", missing)
    with pytest.raises(ImportError, match="pip install openvino"):
        predictor_for(chain, "openvino")


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="files are converted by TensorFlow")
def test_auto_means_the_backend_on_jax(all_compared):
    model = networks.eleven_exits(2)
    assert ak.Predictor(model, networks.inputs_for(model, 1), latencies=made_up(Stages(model), 1)).engine == "jax"
