import concurrent.futures
import gc
import re
import sys
import threading
import time
import tracemalloc

import keras
import numpy as np
import pytest

import anytime_keras as ak
from anytime_keras.serving import Overloaded, Server, policies
from tests.faults.dying import in_child
from tests.inference import networks
from tests.serving.conftest import BACKEND, sample, slow_network


@pytest.fixture(scope="module")
def gate():
    """An event that blocks the second exit of `gated` while it is cleared."""
    gate = threading.Event()
    gate.set()
    return gate


@pytest.fixture(scope="module")
def gated(gate):
    with Server(slow_network(lambda x: gate.wait(20) and x), max_batch=2, engine=BACKEND) as server:
        yield server


@pytest.fixture
def busy(gated, gate):
    """A server whose thread is in the second stage of a request, until `gate` is set."""
    began = threading.Event()
    gate.clear()
    first = gated.submit(sample(), deadline=30, on_answer=lambda answer: began.set())
    assert began.wait(20)
    yield gated
    gate.set()
    first.result(20)


@pytest.mark.long
@pytest.mark.tensorflow
def test_it_serves_a_classifier_of_an_exported_set(digits, image, tmp_path):
    exported = ak.export(digits.classifier.model, tmp_path / "set", format="litert", exits=["exit_1", "exit_6"])
    with Server(ak.Classifier.from_preset(exported), max_batch=3) as server:
        answers = [future.result(30) for future in [server.submit(image, deadline=30) for _ in range(3)]]
        assert server.exit_names == ["exit_1", "exit_6"] and server.num_classes == 10
        assert server.inputs == digits.inputs
    expected = digits.submit(image, deadline=30).result()
    for answer in answers:
        assert answer.label == expected.label and answer.exit == "exit_6"
        np.testing.assert_allclose(answer.probabilities, expected.probabilities, atol=1e-4)


def test_answers_equal_the_predictors(digits, image):
    classifier = digits.classifier
    answer = digits.submit(image, deadline=30).result()
    expected = classifier(image)
    assert answer.exit == expected.exit == "exit_6" and answer.label == expected.label and not answer.late
    np.testing.assert_allclose(answer.logits, expected.logits, rtol=1e-4, atol=1e-4)


def test_a_batch_with_time_to_spare_runs_straight_to_the_last_exit(digits, image, monkeypatch):
    runs, engine, seen = [], digits._runner.engine, []
    straight = engine.straight
    monkeypatch.setattr(engine, "straight", lambda inputs: runs.append(len(inputs[0])) or straight(inputs))
    monkeypatch.setattr(digits.times, "straight", [1e-6] * 3)
    assert digits.submit(image, deadline=30).result().exit == "exit_6" and runs == [1]
    digits.submit(image, deadline=30, on_answer=lambda answer: seen.append(answer.exit)).result()
    assert seen == ["exit_1", "exit_6"] and runs == [1], "each exit's answer was asked for"


def test_each_request_in_a_batch_gets_its_own_answer(digits, monkeypatch):
    images, labels = ak.data.load("digits", batch_size=359).examples["test"].fetch(slice(0, 40))
    scheduler = digits._scheduler
    largest_batches = policies.make("last", scheduler.times, np.array(digits.accuracies))
    monkeypatch.setattr(scheduler, "policy", largest_batches)
    with digits._runner.lock:  # the requests wait meanwhile
        futures = [digits.submit(image, deadline=30) for image in images]
    expected = digits.classifier.predict(images).labels
    assert [future.result().label for future in futures] == expected
    assert max(digits.stats.batches) > 1, "some of them ran together"


def test_accuracies_are_those_of_the_classifier(digits):
    known = ak.zoo.show("resann2x16_adaloss_digits").pick().accuracies
    assert digits.accuracies == pytest.approx([known[0], known[-1]])


def test_answers_stream_exit_by_exit(digits, image):
    seen = []
    digits.submit(image, deadline=30, on_answer=seen.append).result()
    assert [answer.exit for answer in seen] == ["exit_1", "exit_6"]


def test_a_deadline_that_has_passed_is_refused_at_once(digits, image):
    refused = digits.stats.refused
    inputs, now = digits.classifier.preprocessor(image), time.perf_counter()
    with pytest.raises(Overloaded):
        digits.submit(image, deadline=1e-6)
    with pytest.raises(Overloaded):
        digits.submit_inputs(inputs, deadline=1, begin=now - 2)
    assert digits.stats.refused == refused + 2
    assert digits.submit_inputs(inputs, deadline=30, begin=now - 2).result().seconds > 2
    assert digits.submit(image, deadline=1e9).result().exit == "exit_6", "a year is shortened to a minute"


def test_requests_that_wait_are_answered_when_the_network_is_free(busy, gate):
    futures = [busy.submit(sample(number), deadline=30) for number in range(5)]
    assert busy.waiting == 5 and not any(future.done() for future in futures)
    gate.set()
    assert {future.result(20).exit for future in futures} <= {"early", "late"}


def test_a_waiting_request_can_be_cancelled(busy, gate):
    cancelled, kept = busy.submit(sample(), deadline=30), busy.submit(sample(), deadline=30)
    count = busy.stats.cancelled
    assert cancelled.cancel()
    gate.set()
    kept.result(20)
    assert busy.stats.cancelled == count + 1
    with pytest.raises(concurrent.futures.CancelledError):
        cancelled.result()


def test_a_request_that_became_hopeless_in_the_queue_fails_with_an_error(busy, gate):
    hopeless = busy.submit(sample(), deadline=30)
    busy._scheduler.waiting[0].deadline = 0.0  # has passed
    gate.set()
    with pytest.raises(Overloaded, match="could not be met"):
        hopeless.result(20)


def test_min_exit_prefers_an_error_to_a_worse_answer(busy, gate):
    table = busy._scheduler.times.table
    waits = busy.submit(sample(), deadline=30, min_exit="late")
    by_accuracy = busy.submit(sample(), deadline=30, min_accuracy=0.9)
    gate.set()
    assert waits.result(20).exit == by_accuracy.result(20).exit == "late"
    between = float(table[1, 1] + table[1, 2]) / 2
    with pytest.raises(Overloaded):
        busy.submit(sample(), deadline=min(between, 1e-4), min_exit="late")


def test_an_urgent_request_displaces_a_less_urgent_one_from_a_full_queue(busy, gate, monkeypatch):
    monkeypatch.setattr(busy._scheduler, "max_queue", 2)
    expired = busy.stats.expired
    kept, displaced = busy.submit(sample(), deadline=20, priority=9), busy.submit(sample(), deadline=30, priority=9)
    with pytest.raises(Overloaded, match="The queue is full: 2 requests wait"):
        busy.submit(sample(), deadline=40, priority=9)
    urgent = busy.submit(sample(), deadline=50)
    assert displaced.done(), "at once, while a batch runs"
    with pytest.raises(Overloaded, match="more urgent requests filled the queue"):
        displaced.result()
    gate.set()
    assert kept.result(20).exit == urgent.result(20).exit == "late" and busy.stats.expired == expired + 1


def test_cancelled_requests_leave_the_queue(busy, gate, monkeypatch):
    monkeypatch.setattr(busy._scheduler, "max_queue", 2)
    cancelled, kept = busy.submit(sample(), deadline=30, priority=1), busy.submit(sample(), deadline=30, priority=9)
    assert cancelled.cancel() and busy.waiting == 1
    later = busy.submit(sample(), deadline=30)
    gate.set()
    assert kept.result(20).exit == later.result(20).exit == "late"


def test_system_exit_in_a_futures_callback_does_not_stop_the_server(busy, gate):
    expired, answered = busy.submit(sample(), deadline=20), busy.submit(sample(), deadline=30)
    busy._scheduler.waiting[0].deadline = 0.0  # has passed
    for future in (expired, answered):
        future.add_done_callback(lambda future: sys.exit())
    gate.set()
    assert answered.result(20).exit == "late" and busy.submit(sample(), deadline=30).result(20).exit == "late"
    assert isinstance(expired.exception(20), Overloaded)


@pytest.mark.parametrize("begin", [float("nan"), float("inf"), "now", True, 10**400])
def test_a_moment_that_is_not_in_the_past_is_refused(gated, begin):
    with pytest.raises(ValueError, match="`begin` must be an earlier moment of `time.perf_counter`. Received: begin="):
        gated.submit_inputs(sample(), deadline=30, begin=begin)


def test_an_error_in_a_stage_fails_its_batch_only(gated, monkeypatch):
    with monkeypatch.context() as broken:
        for name in ("stage", "straight"):
            fail = lambda *_: (_ for _ in ()).throw(MemoryError("out of memory"))  # noqa: E731
            broken.setattr(gated._runner.engine, name, fail)
        with pytest.raises(MemoryError, match="out of memory"):
            gated.submit(sample(), deadline=30).result(20)
    assert gated.submit(sample(), deadline=30).result(20).exit == "late"


def test_an_input_that_fails_in_a_late_stage_fails_no_other_request_of_its_batch(busy, gate, monkeypatch):
    engine, sizes, seen = busy._runner.engine, [], []
    stage = engine.stage

    def fail(position, carried, inputs):
        values = engine.array(inputs[0])
        if position == 1:
            sizes.append(len(values))
            if (values == 7).any():
                raise IndexError("an index is out of bounds")
        return stage(position, carried, inputs)

    monkeypatch.setattr(engine, "stage", fail)
    bad = busy.submit(np.full(4, 7, "float32"), deadline=30)
    good = busy.submit(sample(), deadline=30, on_answer=lambda answer: seen.append(answer.exit))
    count = busy.stats.failed
    gate.set()
    assert good.result(20).exit == "late" and seen == ["early", "late"]
    with pytest.raises(IndexError, match="an index is out of bounds"):
        bad.result(20)
    assert sizes == [2, 1, 1] and busy.stats.failed == count + 1


def test_a_failing_callback_affects_no_other_request(busy, gate):
    calls = []

    def fail(answer):
        calls.append(answer.exit)
        raise KeyError("the caller's own")

    futures = [busy.submit(sample(), deadline=30, on_answer=function) for function in (None, fail, None)]
    count = busy.stats.failed
    gate.set()
    assert futures[0].result(20).exit == futures[2].result(20).exit == "late"
    with pytest.raises(KeyError, match="the caller's own"):
        futures[1].result(20)
    assert calls == ["early"] and busy.stats.failed == count + 1


def test_an_exit_of_the_interpreter_in_a_callback_does_not_stop_the_server(busy, gate):
    functions = (None, lambda answer: sys.exit(3), None)
    first, failing, last = [busy.submit(sample(), deadline=30, on_answer=function) for function in functions]
    last.add_done_callback(lambda future: sys.exit(3))
    gate.set()
    with pytest.raises(SystemExit):
        failing.result(20)
    assert first.result(20).exit == last.result(20).exit == "late"
    assert busy.submit(sample(), deadline=30).result(20).exit == "late" and busy.open


def submit_in_a_fork(server):
    """Returns the error of `submit`; without one, no thread would ever answer."""
    try:
        server.submit(sample(), deadline=30)
    except RuntimeError as error:
        return str(error)


def test_a_forked_process_gets_an_error_that_says_to_spawn(gated):
    text = in_child(submit_in_a_fork, gated)
    assert "A server works only in the process that made it" in text and "get_context('spawn')" in text


def test_a_policy_that_ends_early_refuses_later_exits():
    with Server(networks.eleven_exits(3), max_batch=2, engine=BACKEND, policy="exit_1") as server:
        for wanted in (dict(min_exit=server.exit_names[2]), dict(min_accuracy=max(server.accuracies))):
            with pytest.raises(ValueError, match="policy answers at 'exit_1'"):
                server.submit(sample(), deadline=30, **wanted)
        assert server.submit(sample(), deadline=30, min_exit="exit_1").result(20).exit == "exit_1"


def test_images_of_another_size_than_the_example_are_refused():
    images = keras.Input((None, None, 1))
    features = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(2, 3)(images))
    early = keras.layers.Dense(3)(features)
    late = keras.layers.Dense(3)(keras.layers.Dense(4, activation="relu")(features))
    model = ak.AnytimeModel(images, {"early": early, "late": late})
    predictor = ak.Predictor(model, example=np.zeros((1, 8, 8, 1), "float32"), engine=BACKEND)
    with Server(predictor, max_batch=2) as server:
        with pytest.raises(ValueError, match=r"must have the shapes \[\(8, 8, 1\)\].*Received: \[\(9, 9, 1\)\]"):
            server.submit(np.zeros((9, 9, 1), "float32"), deadline=30)
        assert server.submit(np.zeros((8, 8, 1), "float32"), deadline=30).result(20).exit == "late"


def test_close_answers_accepted_requests_and_refuses_new_ones():
    server = Server(networks.eleven_exits(3), max_batch=2, engine=BACKEND)
    futures = [server.submit(sample(), deadline=30) for _ in range(20)]
    server.close()
    assert all(future.done() for future in futures) and not server.open
    with pytest.raises(RuntimeError, match="closed"):
        server.submit(sample())
    server.close()


@pytest.mark.long
@pytest.mark.parametrize("make", networks.GRAPHS)
def test_batches_shrink_without_changing_the_answers(make):
    model = make()
    predictor = ak.Predictor(model, example=networks.inputs_for(model, 1), engine=BACKEND)
    server = Server(predictor, max_batch=4, policy="last")
    server.close()
    runner, x = server._runner, networks.inputs_for(model, 4)
    rows = [{name: value[row : row + 1] for name, value in x.items()} if isinstance(x, dict) else x[row : row + 1]
            for row in range(4)]  # fmt: skip
    expected = [predictor.predict(row).logits for row in rows]
    batch = runner.batch([runner.start(row) for row in rows])
    batch.step()
    batch.keep([3, 1])
    for _ in range(len(runner.exit_names) - 2):
        batch.step()
    np.testing.assert_allclose(batch.step(), np.concatenate([expected[3], expected[1]]), rtol=1e-4, atol=1e-4)


def test_confident_requests_leave_early(digits, image):
    with Server(digits.classifier, confidence=0.3, max_batch=1) as server:
        answer = server.submit(image, deadline=30).result()
    assert answer.exit == "exit_1" and answer.confidence[0] >= 0.3


@pytest.mark.alone
def test_memory_stays_flat(digits, image):
    def serve(count):
        for _ in range(count):
            try:
                digits.submit(image, deadline=0.02).result()
            except Overloaded:
                pass
        gc.collect()

    serve(50)
    tracemalloc.start()
    serve(50)
    before = tracemalloc.get_traced_memory()[0]
    serve(500)
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert grown < 100_000


def test_all_sizes_are_measured_that_the_engine_does_not_pad_to_prepared_ones():
    with Server(networks.eleven_exits(2), max_batch=5, engine=BACKEND) as server:
        assert server._runner.sizes == [1, 2, 4, 5]
        assert server.times.sizes == ([1, 2, 4, 5] if BACKEND == "jax" else [1, 2, 3, 4, 5])


def test_an_unknown_policy_is_refused_before_anything_is_measured(digits, monkeypatch):
    monkeypatch.setattr(Server, "_measured", lambda *_: pytest.fail("measured"))
    for policy in ("nope", "exit_3", None):
        with pytest.raises(ValueError, match="`policy` must be one of .*'value', 'slack', 'last', 'exit_1', 'exit_2'"):
            Server(digits.classifier, policy=policy)


BAD = {
    "`deadline` must be a number of seconds above 0": (0, -1, float("nan"), "1", True, None, np.zeros(1)),
    "`priority` must be an int from 0 to 9": (10, -1, 1.0, "1", True, None),
    "`min_exit` must be one of .*'exit_1'": ("exit_9", 1, ["exit_1"], np.array(["exit_1", "exit_6"])),
    "`min_accuracy` must be a number from 0 to 0.98": (0.999, -0.1, float("nan"), "0.5", True),
    "`on_answer` must be a function of an `Answer`": (3,),
}


@pytest.mark.parametrize("message, value", [(message, value) for message, values in BAD.items() for value in values])
def test_bad_arguments_of_requests_are_named_before_any_work(digits, message, value):
    name = message.split("`")[1]
    for submit in (digits.submit, digits.submit_inputs):
        with pytest.raises(ValueError, match=rf"{message}.*Received: {name}={re.escape(repr(value))}\."):
            submit("no such file", **{name: value})


def test_bad_arguments_are_named(digits, image):
    with pytest.raises(ValueError, match="`max_batch` must be a positive int. Received: max_batch=0"):
        Server(digits.classifier, max_batch=0)
    for wrong in ([0.5], 0.5, "ab", [0.5, float("nan")], [0.5, 90]):
        with pytest.raises(ValueError, match="`accuracies` must have a number from 0 to 1 for each"):
            Server(digits.classifier, accuracies=wrong)
    with pytest.raises(ValueError, match="`model` must be a `Predictor`"):
        Server("resann")
    with pytest.raises(ValueError, match="finite numbers"):
        digits.submit_inputs(np.full((8, 8, 1), np.nan, "float32"))
    with pytest.raises(ValueError, match="one sample. Received: a batch of 2"):
        digits.submit_inputs(np.zeros((2, 8, 8, 1), "float32"))
