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


def test_calls_come_after_those_they_need_and_once():
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


def test_outputs_that_cannot_be_told_apart_are_refused():
    inputs = keras.Input((4,))
    shared = keras.layers.Dense(4, name="twice")
    once = shared(inputs)
    with pytest.raises(ValueError, match="different names"):
        graph.outputs_by_name(keras.Model(inputs, [once, shared(once)]))
    with pytest.raises(ValueError, match="flat"):
        graph.outputs_by_name(keras.Model(inputs, {"a": {"b": once}}))
