import time

import keras
import numpy as np
import pytest

import anytime_keras as ak
from anytime_keras import runtime
from anytime_keras.inference import Stages, engines
from tests import checks
from tests.inference import networks


class Recorded(engines.Run):
    """Records answers; `at` is called after each one."""

    def __init__(self, size, first=0, last=None, limit=engines.ALWAYS, needed=None, at=lambda run, position: None):
        needed = np.zeros(size) if needed is None else np.array(needed, float)
        super().__init__(first, size - 1 if last is None else last, limit, needed)
        self.answers, self._at = {}, at

    def emit(self, position, logits):
        self.answers[position] = np.array(logits)
        self._at(self, position)


@pytest.mark.long
@pytest.mark.parametrize("make", networks.GRAPHS)
def test_runs_equal_the_whole_model_bit_for_bit(make):
    model = make()
    checks.scramble(model)
    stages = Stages(model)
    engine = engines.of_backend(stages)
    x = networks.inputs_for(model)
    whole = runtime.finish(runtime.compiled(model)(keras.tree.map_structure(keras.ops.convert_to_tensor, x)))
    inputs, last = stages.start(x), len(stages) - 1
    for first, end in [(0, last), (last, last), (1, 1), (last // 2, last)]:
        run = Recorded(len(stages), first, end)
        engine.run(inputs, run)
        assert sorted(run.answers) == list(range(first, end + 1))
        for position, logits in run.answers.items():
            networks.assert_same(logits, whole[stages.exit_names[position]])
    carried = inputs
    for position, name in enumerate(stages.exit_names):
        logits, carried = engine.stage(position, carried, inputs)
        networks.assert_same(keras.ops.convert_to_numpy(logits), whole[name])
    networks.assert_same(engine.straight(inputs), whole[stages.exit_names[-1]])


def test_a_run_continues_while_there_is_time():
    stages = Stages(networks.residual())
    engine = engines.of_backend(stages)
    inputs = stages.start(networks.inputs_for(stages.model))
    for needed, expected in [([0] * 6, range(2, 6)), ([0, 0, 0, 0, 99, 0], (2, 3)), ([0, 0, 99, 99, 99, 99], (2,))]:
        run = Recorded(6, first=2, limit=time.time() + 30, needed=needed)
        engine.run(inputs, run)
        assert sorted(run.answers) == list(expected)
    run = Recorded(6, limit=engines.NEVER)
    engine.run(inputs, run)
    assert list(run.answers) == [0]


def test_stopping_takes_effect_within_one_stage():
    wait, begun = [0.0], []

    def slow(x):
        begun.append(1)
        time.sleep(wait[0])
        return x

    stages = Stages(networks.chain([slow] * 6))
    engine = engines.of_backend(stages)
    inputs = stages.start(networks.inputs_for(stages.model))
    engine.run(inputs, Recorded(6))  # compile
    wait[0] = 0.05
    for at in (0, 1, 2):
        at_stop = []

        def stop(run, position):
            if position == at:
                engine.stop(run)
                at_stop.append(len(begun))

        engine.run(inputs, Recorded(6, at=stop))
        assert len(begun) <= at_stop[0] + 1, "one stage may have been beginning"
        begun.clear()
    wait[0] = 0.0
    run = Recorded(6)
    engine.run(inputs, run)
    assert len(run.answers) == 6, "a run that was stopped must not stop the next one"
    engine.stop(run)
    run = Recorded(6)
    engine.run(inputs, run)
    assert len(run.answers) == 6, "nor may stopping one that has ended"
    run = Recorded(6)
    engine.stop(run)
    engine.run(inputs, run)
    assert list(run.answers) == [0]


def test_nothing_is_compiled_twice():
    traces = []

    class Counted(keras.layers.Layer):
        def call(self, x):
            traces.append(1)
            return x

        def compute_output_shape(self, input_shape):
            return input_shape

    x = features = keras.Input((4,))
    exits = {}
    for name in "abc":
        x = Counted()(keras.layers.Dense(4)(x))
        exits[name] = keras.layers.Dense(2)(x)
    stages = Stages(keras.Model(features, exits))
    engine = engines.of_backend(stages)
    inputs = stages.start(np.zeros((2, 4)))

    def everything():
        for first in range(3):
            engine.run(inputs, Recorded(3, first))
        carried = inputs
        for position in range(3):
            _, carried = engine.stage(position, carried, inputs)

    everything()
    traces.clear()
    inputs = stages.start(np.ones((2, 4)))
    everything()
    if engine.any_size:
        inputs = stages.start(np.ones((5, 4)))
        everything()
    assert not traces


def test_an_exception_in_a_stage_is_raised_and_the_next_run_works():
    def fails_on_large(x):
        if (np.abs(x) > 0.1).any():
            raise RuntimeError("too large")
        return x

    stages = Stages(networks.chain([lambda x: x, fails_on_large, lambda x: x]))
    engine = engines.of_backend(stages)
    good = stages.start(np.full((1, 4), 1e-3))
    bad = stages.start(np.full((1, 4), 1e6))
    for _ in range(2):
        with pytest.raises(Exception, match="too large"):
            engine.run(bad, Recorded(3))
        run = Recorded(3)
        engine.run(good, run)
        assert len(run.answers) == 3


def test_a_mask_reaches_a_layer_of_another_precision():
    """Keras does not pass the mask to such a layer as an argument; the layer reads it from the tensor."""

    def network(mask_zero):
        words = keras.Input((6,), dtype="int32")
        embedded = keras.layers.Embedding(10, 4, mask_zero=mask_zero)(words)
        first = keras.layers.Dense(3)(keras.layers.GlobalAveragePooling1D()(embedded))
        second = keras.layers.Dense(3)(keras.layers.GlobalAveragePooling1D(dtype="float16")(embedded))
        model = ak.AnytimeModel(words, {"first": first, "second": second})
        checks.scramble(model)
        return model

    x, model = np.array([[1, 2, 3, 0, 0, 0], [4, 0, 0, 0, 0, 0]], "int32"), network(True)
    expected, unmasked = checks.outputs(model, x), checks.outputs(network(False), x)
    assert all(np.abs(expected[name] - unmasked[name]).max() > 0.01 for name in expected), "the mask must matter"
    for answer in ak.Predictor(model, x).stream(x):
        np.testing.assert_allclose(answer.logits, expected[answer.exit], rtol=1e-3)
