import keras
import numpy as np
import pytest

from anytime_keras import AnytimeModel, graph
from anytime_keras.cost import exit_costs
from anytime_keras.inference import Stages
from anytime_keras.inference.stages import in_dtype
from tests import checks
from tests.inference import networks


def run(stages, x):
    """Runs the stages one after the other, without compiling."""
    carried, answers = stages.start(x), {}
    for position, name in enumerate(stages.exit_names):
        result = stages.segment(position)(carried)
        carried, answers[name] = result["carried"], keras.ops.convert_to_numpy(result["logits"])
    return answers


# Without compiled stages, JAX takes minutes; `test_engines.py` compares larger graphs on it.
SOME = networks.GRAPHS if keras.backend.backend() == "tensorflow" else [networks.several_inputs, networks.eleven_exits]


@pytest.mark.parametrize("make", SOME)
def test_stages_equal_the_whole_model_bit_for_bit(make):
    model = make()
    checks.scramble(model)
    x = networks.inputs_for(model)
    whole = {name: keras.ops.convert_to_numpy(value) for name, value in model(x, training=False).items()}
    answers = run(Stages(model), x)
    assert list(answers) == model.exit_names
    for name, logits in answers.items():
        np.testing.assert_array_equal(logits, whole[name])
    some = model.exit_names[::2]
    for name, logits in run(Stages(model, some), x).items():
        assert name in some
        np.testing.assert_array_equal(logits, whole[name])


def in_front(net):
    """Preprocessing in front of a network with exits, written in several ways."""
    scale = keras.layers.Rescaling(1 / 255)
    image = keras.Input(net.inputs[0].shape[1:])
    yield AnytimeModel(image, net(scale(image)))
    yield keras.Sequential([image, scale, net])
    yield AnytimeModel(image, keras.Sequential([image, scale, keras.Sequential([net])])(image))
    backbone = keras.Model(net.inputs, [net.output[name] for name in net.exit_names])
    yield AnytimeModel(image, dict(zip("abcdef", backbone(scale(image)))))


@pytest.mark.parametrize("form", range(4))
def test_a_network_behind_preprocessing_is_cut_at_every_exit(form):
    net = networks.small_resann()
    checks.scramble(net)
    model = list(in_front(net))[form]
    x = 255 * networks.inputs_for(net)
    stages = Stages(model)
    expected = [keras.ops.convert_to_numpy(value) for value in model(x, training=False).values()]
    for logits, whole in zip(run(stages, x).values(), expected, strict=True):
        np.testing.assert_array_equal(logits, whole)
    own, costs = exit_costs(net), exit_costs(model)
    for exit, of_net, of_stage in zip(costs, own, stages.costs(stages.start(x)), strict=True):
        for cost in (exit, of_stage):
            assert (cost.with_head, cost.params) == (of_net.with_head, of_net.params)
    assert [len(stages.segment(position).weights) for position in range(len(stages))] == [
        len(Stages(net).segment(position).weights) for position in range(len(stages))
    ]
    nodes = len(net.layers[1]._inbound_nodes)
    exit_costs(model)
    assert len(net.layers[1]._inbound_nodes) == nodes, "laid open once"


def test_a_nested_network_that_cannot_be_flattened_is_reported():
    image = keras.Input((4,))
    one, two = networks.eleven_exits(2), networks.eleven_exits(2)
    model = AnytimeModel(image, {"one": one(image)["exit_1"], "two": two(image)["exit_2"]})
    with pytest.warns(UserWarning, match=f"'{two.name}' in model '{model.name}' cannot be cut at its 2 outputs"):
        assert [cost.params for cost in exit_costs(model)] == [51, 51 + two.count_params()]


class Wrapper(keras.Layer):
    def __init__(self, net):
        super().__init__(name="wrapper")
        self.net = net

    def call(self, x):
        return self.net(x)


@pytest.mark.parametrize("ending", [lambda x: x, keras.ops.softmax])
def test_a_network_within_a_layer_is_reported_once(ending):
    image = keras.Input((4,))
    exits = Wrapper(networks.eleven_exits(2))(image)
    model = AnytimeModel(image, {name: ending(x) for name, x in exits.items()})
    with pytest.warns(UserWarning, match="'wrapper' in model '.*' cannot be cut at its 2 outputs") as told:
        stages = Stages(model)
        stages.costs(stages.start(np.zeros((1, 4))))
    assert len(told) == 1


@pytest.mark.parametrize("make", networks.GRAPHS)
def test_nothing_is_computed_twice(make):
    model = make()
    stages = Stages(model)

    def operations(of):
        return [call.operation.name for call in graph.calls(of.outputs, of.inputs)]

    staged = [name for position in range(len(stages)) for name in operations(stages.segment(position))]
    assert sorted(staged) == sorted(operations(model))
    heads = set(operations(model)) - set(operations(keras.Model(model.inputs, model.output[model.exit_names[-1]])))
    passing = {name for p in range(len(stages) - 1) for name in operations(stages.segment(p, head=False))}
    assert not passing & heads


def test_stages_share_the_models_weights():
    model = networks.eleven_exits()
    stages, x = Stages(model), networks.inputs_for(model)
    before = run(stages, x)
    checks.scramble(model)
    after = run(stages, x)
    assert all(np.abs(after[name] - before[name]).max() > 0 for name in before)
    for name, logits in checks.outputs(model, x).items():
        np.testing.assert_allclose(after[name], logits, rtol=1e-4, atol=1e-4)


def test_an_input_may_be_a_list_or_a_dict_by_name():
    model = networks.several_inputs()
    stages, x = Stages(model), networks.inputs_for(model)
    by_position = [x[tensor.name] for tensor in model.inputs]
    for given in (x, dict(reversed(x.items())), by_position):
        for name, logits in run(stages, given).items():
            np.testing.assert_array_equal(logits, run(stages, x)[name])


def test_inputs_that_do_not_fit_are_refused():
    model = networks.several_inputs()
    stages, x = Stages(model), networks.inputs_for(model)
    with pytest.raises(ValueError, match=r"takes the inputs \['image', 'facts'\].*Received: \['image'\]"):
        stages.start({"image": x["image"]})
    with pytest.raises(ValueError, match=r"must have shape \('batch', 5\).*Received: shape \(2, 4\)"):
        stages.start({**x, "facts": x["facts"][:, :4]})
    with pytest.raises(ValueError, match=r"one batch.*Received: batches of \[1, 2\]"):
        stages.start({**x, "facts": x["facts"][:1]})
    with pytest.raises(ValueError, match=r"sample or more.*Received: batches of \[0\]"):
        stages.start({name: value[:0] for name, value in x.items()})
    with pytest.raises(ValueError, match="takes 2 inputs. Received: 1"):
        stages.start(x["image"])


def test_exits_that_do_not_fit_are_refused():
    model = networks.residual()
    with pytest.raises(ValueError, match="'exit_9'.*Known: 'exit_1'"):
        Stages(model, ["exit_1", "exit_9"])
    for exits in ([], ["exit_2", "exit_1"], ["exit_1", "exit_1"]):
        with pytest.raises(ValueError, match="in order, each once"):
            Stages(model, exits)

    class Subclassed(keras.Model):
        pass

    with pytest.raises(ValueError, match="functional.*Received: Subclassed"):
        Stages(Subclassed())


def test_costs_exclude_the_heads_of_skipped_exits():
    model = networks.residual()
    costs = Stages(model, ["exit_2", "exit_6"]).costs(Stages(model).start(networks.inputs_for(model)))
    everything = model.exits
    assert [cost.exit for cost in costs] == ["exit_2", "exit_6"]
    assert costs[0].with_all_heads == costs[0].with_head < everything[1].macs
    assert costs[1].with_all_heads < everything[5].macs


@pytest.mark.parametrize("make", SOME[::3])
def test_another_precision_keeps_the_weights(make):
    model = make()
    checks.scramble(model)
    x = networks.inputs_for(model)
    low = in_dtype(model, "bfloat16")
    assert list(low.output) == model.exit_names
    assert {variable.dtype for variable in low.variables} == {"bfloat16"}
    answers = low({name: x[name] for name in x} if isinstance(x, dict) else x)
    for name, logits in checks.outputs(model, x).items():
        got = keras.ops.convert_to_numpy(keras.ops.cast(answers[name], "float32"))
        assert 0 < np.abs(got - logits).max() < 0.1 * np.abs(logits).max()


def nested():
    """Layers within models and wrappers, and a recurrent layer, whose initial weights are slow to compute."""
    inner = keras.Sequential([keras.layers.Dense(5, activation="relu"), keras.Sequential([keras.layers.Dense(4)])])
    part = keras.Input((4,))
    functional = keras.Model(part, keras.layers.Dense(4)(inner(part)))
    words = keras.Input((3,), dtype="int32")
    x = keras.layers.TimeDistributed(functional)(keras.layers.Embedding(9, 4)(words))
    early = keras.layers.Dense(3)(inner(keras.layers.Flatten()(x)[:, :4]))
    late = keras.layers.Dense(3)(keras.layers.Bidirectional(keras.layers.LSTM(3))(x))
    return AnytimeModel(words, {"early": early, "late": late})


def test_another_precision_reaches_layers_within_layers():
    model = nested()
    checks.scramble(model)
    low, x = in_dtype(model, "bfloat16"), np.array([[1, 2, 3], [4, 5, 6]])
    assert {variable.dtype for variable in low.variables if "float" in variable.dtype} == {"bfloat16"}
    assert {layer.compute_dtype for layer in low._flatten_layers() if hasattr(layer, "kernel")} == {"bfloat16"}
    answers = low(x)
    for name, logits in checks.outputs(model, x).items():
        assert keras.backend.standardize_dtype(answers[name].dtype) == "bfloat16"
        got = keras.ops.convert_to_numpy(keras.ops.cast(answers[name], "float32"))
        assert 0 < np.abs(got - logits).max() < 0.1 * np.abs(logits).max()


class Scale(keras.Layer):
    def __init__(self, factor=1.0, told=True, **kwargs):
        super().__init__(**kwargs)
        self.factor, self.told = factor, told

    def call(self, x):
        return self.factor * x

    def get_config(self):
        return {**super().get_config(), **({"factor": self.factor} if self.told else {})}


def scaled(layer):
    features = keras.Input((4,))
    return networks.two_exits(features, layer(features))


@pytest.mark.parametrize("layer", [Scale(3.0), keras.layers.Lambda(lambda x: 3.0 * x, output_shape=(4,))])
def test_another_precision_keeps_what_layers_compute(layer):
    model, x = scaled(layer), np.ones((2, 4), "float32")
    low = in_dtype(model, "float16")
    for name, logits in checks.outputs(model, x).items():
        np.testing.assert_allclose(keras.ops.convert_to_numpy(low(x)[name]), logits, atol=0.02)


def test_another_precision_is_refused_if_a_config_is_incomplete():
    with pytest.raises(ValueError, match="Expected: factor=3.0 in the copy of '.*', a Scale. Received: factor=1.0"):
        in_dtype(scaled(Scale(3.0, told=False)), "float16")
