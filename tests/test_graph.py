import pathlib
import re

import keras
import numpy as np
import pytest

from anytime_keras import graph


def diamond():
    inputs = keras.Input((4,), name="in")
    left = keras.layers.Dense(4, name="left")(inputs)
    right = keras.layers.Dense(4, name="right")(inputs)
    joined = keras.layers.Add(name="joined")([left, right])
    return keras.Model(inputs, {"late": keras.layers.Dense(2, name="late")(joined), "early": left})


def test_keras_still_has_the_records_that_we_read():
    model = diamond()
    call = graph.producer(model.output["late"])
    assert call.operation.name == "late"
    assert [tensor._keras_history.operation.name for tensor in call.input_tensors] == ["joined"]
    assert call.output_tensors[0] is model.output["late"]
    args, kwargs = call.arguments.fill_in({id(call.input_tensors[0]): "value"})
    assert args == ("value",) and kwargs == {}
    assert not call.is_input and graph.producer(model.inputs[0]).is_input


def test_calls_are_listed_once_and_after_their_inputs():
    model = diamond()
    names = [call.operation.name for call in graph.calls(list(model.output.values()), model.inputs)]
    assert sorted(names) == ["joined", "late", "left", "right"]
    assert names.index("joined") > max(names.index("left"), names.index("right"))
    assert [call.operation.name for call in graph.calls(model.output["early"], model.inputs)] == ["left"]


def test_calls_stop_at_given_tensors():
    model = diamond()
    joined = model.get_layer("joined").output
    assert [call.operation.name for call in graph.calls(model.output["late"], joined)] == ["late"]


def test_deep_graphs_do_not_exhaust_the_stack():
    x = inputs = keras.Input((1,))
    for _ in range(1500):
        x = x + 1.0
    assert len(graph.calls(x, inputs)) == 1500


def test_run_computes_the_model():
    model = diamond()
    x = np.random.default_rng(0).normal(size=(3, 4)).astype("float32")
    values = graph.run(model, [x], lambda operation, args, kwargs: operation(*args, **kwargs))
    expected = model(x)
    for name, tensor in model.output.items():
        np.testing.assert_allclose(
            keras.ops.convert_to_numpy(values[id(tensor)]), keras.ops.convert_to_numpy(expected[name]), rtol=1e-6
        )


def test_outputs_by_name_keep_the_authors_order():
    assert list(graph.outputs_by_name(diamond())) == ["late", "early"]
    inputs = keras.Input((4,))
    listed = keras.Model(inputs, [keras.layers.Dense(1, name="z")(inputs), keras.layers.Dense(1, name="a")(inputs)])
    assert list(graph.outputs_by_name(listed)) == ["z", "a"]
    single = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1, name="only")])
    assert list(graph.outputs_by_name(single)) == ["only"]


def test_ambiguous_outputs_are_refused():
    inputs = keras.Input((4,))
    shared = keras.layers.Dense(4, name="twice")
    once = shared(inputs)
    with pytest.raises(ValueError, match="different names"):
        graph.outputs_by_name(keras.Model(inputs, [once, shared(once)]))
    with pytest.raises(ValueError, match="flat"):
        graph.outputs_by_name(keras.Model(inputs, {"a": {"b": once}}))


def test_flatten_replaces_nested_models_and_shares_their_layers():
    inner = diamond()
    inputs = keras.Input((4,), name="outside")
    outside = keras.layers.Dense(4, name="before")
    model = keras.Model(inputs, inner(outside(inputs))["late"])
    (output,), opened = graph.flatten(model)
    recorded = graph.calls(output, model.inputs)
    assert {call.operation.name for call in recorded} == {"before", "left", "right", "joined", "late"}
    assert {call.operation for call in recorded} == {outside, *inner.layers[1:]}
    assert list(opened) == [inner.name] and opened[inner.name][0][-1] is output
    assert len(outside._inbound_nodes) == 1  # earlier layers are not called again
    x = np.random.default_rng(0).normal(size=(3, 4)).astype("float32")
    flat = keras.Model(inputs, output)
    np.testing.assert_array_equal(*(keras.ops.convert_to_numpy(each(x)) for each in (flat, model)))


def test_flatten_keeps_a_flat_graph():
    model = diamond()
    outputs, opened = graph.flatten(model)
    assert outputs == model.outputs and not opened


def test_flatten_keeps_a_model_with_its_own_call():
    class Doubling(keras.Model):
        def call(self, x):
            return 2 * x

    inputs = keras.Input((4,))
    inner = Doubling(inputs, keras.layers.Dense(4)(inputs))
    model = keras.Model(inputs, inner(inputs))
    assert not graph.runs_its_graph(inner) and graph.flatten(model) == (model.outputs, {})


def test_cuts_are_where_no_earlier_tensor_is_read_later():
    inputs = side = keras.Input((4,), name="in")
    first = keras.layers.Dense(4, name="first")(inputs)
    inside = keras.layers.Dense(4, name="inside")(first)
    joined = keras.layers.Add(name="joined")([first, inside])
    gated = keras.layers.Multiply(name="gated")([joined, side])  # an input may bypass the cut
    recorded = graph.calls(keras.layers.Dense(2, name="last")(gated), inputs)
    costs = [{"first": 16, "inside": 16, "last": 8}.get(call.operation.name, 0) for call in recorded]

    def places(width):
        return [(call.operation.name, work) for call, work in graph.narrow(recorded, costs, width)]

    assert places(1) == [("first", 16), ("joined", 32), ("gated", 32), ("last", 40)]
    assert places(2) == [("first", 16), ("inside", 32), ("joined", 32), ("gated", 32), ("last", 40)]


def test_a_traced_layer_lists_its_calls_and_can_be_deleted():
    class Twice(keras.layers.Layer):
        def build(self, shape):
            self.dense = keras.layers.Dense(4)
            self.dense.build(shape)

        def call(self, x):
            return self.dense(self.dense(x)) + x

    layer, x = Twice(), keras.Input((4,))
    layer.build((None, 4))
    recorded = graph.calls(graph.trace(layer, x), x)
    assert [type(call.operation).__name__ for call in recorded] == ["Dense", "Dense", "Add"]
    assert len(layer.dense._inbound_nodes) == 2
    graph.forget(recorded)
    assert not layer.dense._inbound_nodes and not layer.dense._outbound_nodes


def test_private_attributes_of_keras_are_used_in_two_files():
    root = pathlib.Path(graph.__file__).parent
    names = "flatten_layers|functional|inbound_nodes|outbound_nodes|keras_history|metrics|compile_loss|attention_axes"
    private = re.compile(rf"(?<!self)\._({names})\b|keras\.src")
    users = {path.relative_to(root).as_posix() for path in root.rglob("*.py") if private.search(path.read_text())}
    assert users == {"graph.py", "weighting/training_loss.py"}
