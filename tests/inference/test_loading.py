import keras
import numpy as np
import pytest

import anytime_keras as ak
from anytime_keras.conversion import part_cache
from anytime_keras.inference import Stages
from anytime_keras.inference.engines.loading import Loaded, Plan
from tests import checks
from tests.inference import networks


def without_mask(tensor):
    return keras.ops.convert_to_tensor(keras.ops.convert_to_numpy(tensor))


def run(stages, x):
    """Runs the parts of all stages as Keras models; returns the logits of each exit."""
    carried = inputs = stages.start(x)
    answers = {}
    for position, name in enumerate(stages.exit_names):
        plan = Plan(f"stage_{position + 1}", stages, position)
        part = plan.part and (lambda tensors: list(map(without_mask, plan.part.model(tensors).values())))
        logits, carried = Loaded(plan, part)(inputs if stages.starts(position) else carried)
        answers[name] = np.asarray(logits)
    return answers


def masked():
    """A network whose second stage takes a tensor with a mask."""
    words = keras.Input((6,), dtype="int32")
    embedded = keras.layers.Embedding(10, 4, mask_zero=True)(words)
    first = keras.layers.Dense(3)(keras.layers.GlobalAveragePooling1D()(embedded))
    later = keras.layers.Add()([keras.layers.Dense(4, activation="relu")(embedded), embedded])
    second = keras.layers.Dense(3)(keras.layers.GlobalAveragePooling1D()(later))
    return ak.AnytimeModel(words, {"first": first, "second": second})


@pytest.mark.tensorflow
@pytest.mark.parametrize("make", [*networks.GRAPHS, masked])
def test_parts_of_stages_equal_the_network(make):
    model = make()
    checks.scramble(model)
    x = np.array([[1, 2, 3, 0, 0, 0]]) if make is masked else networks.inputs_for(model)
    expected = checks.answers(model, x)
    answers = run(Stages(model), x)
    assert list(answers) == model.exit_names
    for name, logits in answers.items():
        np.testing.assert_allclose(logits, expected[name], rtol=1e-5, atol=1e-5 * np.abs(expected[name]).max())


def test_keys_build_no_models_and_remember_what_parts_share(monkeypatch):
    stages, memory, described = Stages(networks.small_resann()), {}, []
    monkeypatch.setattr(Stages, "segment", lambda *_: pytest.fail("a stage was built"))
    describe = part_cache._operation
    monkeypatch.setattr(part_cache, "_operation", lambda operation: described.append(operation) or describe(operation))
    plans = [Plan("stage", stages, position) for position in range(len(stages))]
    plans.append(Plan.direct(stages, len(stages) - 1))
    keys = [part_cache.key(plan.part, "litert", 1, memory=memory) for plan in plans]
    assert len(described) == len(set(map(id, described))), "each layer is described once"
    assert keys == [part_cache.key(plan.part, "litert", 1) for plan in plans] and len(set(keys)) == len(keys)
