import keras
import numpy as np
import pytest

import anytime_keras as ak
from tests import checks

TINY = dict(num_units=2, channels=4, input_shape=(8, 8, 3), num_classes=5)


def tiny(**changes):
    return ak.models.build("resann", **{**TINY, **changes})


def bottleneck(**changes):
    config = dict(blocks=(1, 2), exit_every=1, channels=4, input_shape=(16, 16, 3), num_classes=5)
    return ak.models.build("resann26", **{**config, **changes})


# (n, c): MACs (M) and parameters (M) of the convolutions, and exits, as shared/facts.md has them.
@pytest.mark.long
@pytest.mark.parametrize(
    "num_units, channels, macs, params, num_exits",
    [
        (5, 16, 68.9, 0.46, 15),
        (7, 16, 97.2, 0.65, 21),
        (9, 16, 125.5, 0.85, 27),
        (13, 16, 182.1, 1.24, 39),
        (17, 16, 238.7, 1.62, 51),
        (25, 16, 352.0, 2.40, 25),
        (7, 32, 387.8, 2.62, 21),
        (9, 32, 501.1, 3.39, 27),
        (25, 32, 1407, 9.59, 25),
        (9, 64, 2003, 13.6, 27),
    ],
)
@pytest.mark.parametrize("preset", ["paper", "authors_code"])
def test_costs_of_the_papers_networks(num_units, channels, macs, params, num_exits, preset):
    model = ak.models.build("resann", num_units=num_units, channels=channels, preset=preset)
    assert model.num_exits == num_exits
    costs = ak.cost.exit_costs(model, layers="conv")
    assert costs[-1].with_all_heads / 1e6 == pytest.approx(macs, abs=0.05 if macs < 1000 else 1)
    assert round(costs[-1].params / 1e6, 2 if params < 10 else 1) == params


def test_costs_are_exact():
    """Counted by hand for three units of 4, 8, 16 channels on 8x8."""
    model = ak.models.build("resann", num_units=1, channels=4, input_shape=(8, 8, 3), num_classes=5)
    units = [64 * (4 * 4 + 4 * 4) * 9, 16 * (4 * 8 + 8 * 8) * 9, 4 * (8 * 16 + 16 * 16) * 9]
    heads = [4 * 5, 8 * 5, 16 * 5]
    stem = 64 * 3 * 4 * 9
    costs = ak.cost.exit_costs(model)
    assert [cost.backbone for cost in costs] == [stem + sum(units[:n]) for n in (1, 2, 3)]
    assert [cost.with_head - cost.backbone for cost in costs] == heads
    assert [cost.with_all_heads - cost.backbone for cost in costs] == [sum(heads[:n]) for n in (1, 2, 3)]
    # convolutions; two BN of 4 numbers a channel in each unit; each head's own BN and linear layer
    kernels = [(3 * 4 + 4 * 4 + 4 * 4) * 9, (4 * 8 + 8 * 8) * 9, (8 * 16 + 16 * 16) * 9]
    norms = [4 * (4 + 4), 4 * (4 + 8), 4 * (8 + 16)]
    own = [4 * c + c * 5 + 5 for c in (4, 8, 16)]
    assert [cost.params for cost in costs] == [sum(kernels[:n]) + sum(norms[:n]) + sum(own[:n]) for n in (1, 2, 3)]


@pytest.mark.parametrize(
    "num_units, exit_every, num_exits", [(2, 1, 6), (2, 2, 3), (2, 4, 2), (2, 6, 1), (5, 2, 8), (25, None, 25)]
)
def test_exits_are_counted_so_that_the_last_unit_has_one(num_units, exit_every, num_exits):
    model = tiny(num_units=num_units, exit_every=exit_every)
    assert model.num_exits == num_exits
    last = model.get_layer(f"unit_{3 * num_units}_add")
    path = last.output
    assert any(call.operation is last for call in ak.graph.calls(model.output[model.exit_names[-1]], model.inputs)), (
        path
    )


# Convolution MACs (M) as shared/facts.md has them. They do not depend on the backend.
@pytest.mark.long
@pytest.mark.tensorflow
@pytest.mark.parametrize(
    "name, expected",
    [
        ("resann26", [568, 1158, 1749, 2340]),
        ("resann50", [568, 1158, 1595, 2186, 2623, 3060, 3650, 4087]),
        ("resann101", 7799),
    ],
)
def test_costs_of_the_bottleneck_networks(name, expected):
    model = ak.models.build(name)
    costs = [round(cost.with_all_heads / 1e6) for cost in ak.cost.exit_costs(model, layers="conv")]
    assert (costs if isinstance(expected, list) else costs[-1]) == expected
    assert model.num_exits == {"resann26": 4, "resann50": 8, "resann101": 11}[name]
    if name == "resann50":
        theirs = keras.applications.ResNet50(weights=None)
        assert sum_of_kernels(model) == sum_of_kernels(theirs)


def sum_of_kernels(model):
    return sum(int(np.prod(layer.kernel.shape)) for layer in model.layers if isinstance(layer, keras.layers.Conv2D))


def test_costs_of_bottleneck_units_to_the_unit():
    """Counted by hand: units with 4 and 8 inner and 16 and 32 outer channels, on 4x4 and 2x2."""
    model = bottleneck()
    stem = 64 * 3 * 4 * 49
    units = [
        16 * (4 * 4 + 4 * 4 * 9 + 4 * 16 + 4 * 16),
        16 * 16 * 8 + 4 * (8 * 8 * 9 + 8 * 32 + 16 * 32),
        4 * (32 * 8 + 8 * 8 * 9 + 8 * 32),
    ]
    costs = ak.cost.exit_costs(model, layers="conv")
    assert [cost.backbone for cost in costs] == [stem + sum(units[:n]) for n in (1, 2, 3)]


@pytest.mark.parametrize("make, last", [(tiny, "unit_1_2_bn"), (bottleneck, "unit_1_3_bn")])
def test_presets_differ_as_documented(make, last):
    def kinds(preset):
        names = [layer.name for layer in make(preset=preset).layers]
        return {
            "unit ends in BN": last in names,
            "exit has BN": "exit_1_bn" in names,
        }

    assert kinds("paper") == {"unit ends in BN": False, "exit has BN": True}
    assert kinds("authors_code") == {"unit ends in BN": True, "exit has BN": False}


def test_a_bottleneck_shortcut_is_convolved_from_the_raw_input_and_strides_stand_in_the_3x3():
    model = bottleneck()
    shortcut = model.get_layer("unit_2_shortcut")
    assert shortcut.input is model.get_layer("unit_1_add").output
    assert shortcut.strides == model.get_layer("unit_2_conv_2").strides == (2, 2)
    assert model.get_layer("unit_2_conv_1").strides == (1, 1)
    assert "unit_3_shortcut" not in [layer.name for layer in model.layers]


def test_new_channels_are_zeros_half_on_each_side():
    model = tiny(num_units=1)
    shortcut = keras.Model(model.input, model.get_layer("unit_2_add").input[0])
    stem = keras.Model(model.input, model.get_layer("unit_1_add").output)
    x = checks.some_input(model)
    got, before = shortcut.predict(x, verbose=0), stem.predict(x, verbose=0)
    assert got.shape == (2, 4, 4, 8)
    np.testing.assert_array_equal(got[..., [0, 1, 6, 7]], 0)
    np.testing.assert_allclose(got[..., 2:6], before.reshape(2, 4, 2, 4, 2, 4).mean(axis=(2, 4)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(7, 9, 1), (28, 28, 1), (32, 48, 3)])
def test_images_of_any_shape(shape):
    model = tiny(input_shape=shape, num_units=1)
    assert model(np.zeros((1, *shape)))["exit_3"].shape == (1, 5)


@pytest.mark.parametrize(
    "change, received",
    [
        (dict(num_units=0), "num_units=0"),
        (dict(channels=1.5), "channels=1.5"),
        (dict(num_classes=-1), "num_classes=-1"),
        (dict(exit_every=0), "exit_every=0"),
        (dict(exit_every=7), "exit_every=7"),
        (dict(input_shape=(8, 8)), r"\(8, 8\)"),
        (dict(input_shape=8), "input_shape=8"),
        (dict(preset="text"), "'text'"),
        (dict(depth=3), "depth"),
        (dict(num_units="2"), "'2'"),
    ],
)
def test_arguments_out_of_range_are_refused(change, received):
    with pytest.raises(ValueError, match=received):
        tiny(**change)


@pytest.mark.parametrize(
    "change, received",
    [
        (dict(blocks=[]), r"blocks=\[\]"),
        (dict(blocks=(2, -1)), r"blocks=\(2, -1\)"),
        (dict(exit_every=4), r"at most 3, .*exit_every=4"),
        (dict(channels=0), "channels=0"),
        (dict(num_units=3), "num_units"),
    ],
)
def test_bottleneck_arguments_out_of_range_are_refused(change, received):
    with pytest.raises(ValueError, match=received):
        bottleneck(**change)


def test_unknown_networks_list_similar_ones():
    with pytest.raises(ValueError, match="Did you mean.*'resann'"):
        ak.models.build("resan")
    with pytest.raises(ValueError, match="needs `num_units`, `channels`"):
        ak.models.build("resann")
