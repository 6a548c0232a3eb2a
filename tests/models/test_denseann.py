import keras
import pytest

import anytime_keras as ak
from anytime_keras.models.layers import Conv2D


def tiny(**changes):
    config = dict(depth=10, growth_rate=4, exit_every=1, input_shape=(8, 8, 3), num_classes=5)
    return ak.models.build("denseann", **{**config, **changes})


def exit_layers(model):
    """Returns the dense layers, counted from 1, that the exits read."""
    found = []
    for name in model.exit_names:
        names = [call.operation.name for call in ak.graph.calls(model.output[name], model.inputs)]
        found.append(max(int(each.split("_")[1]) for each in names if each.startswith("layer_")))
    return found


@pytest.mark.long
@pytest.mark.tensorflow  # costs do not depend on the backend, and large networks take long to build
def test_costs_of_denseann169():
    """Convolution MACs (M) as shared/facts.md has them."""
    model = ak.models.build("denseann169")
    costs = ak.cost.exit_costs(model, layers="conv")
    assert [round(cost.with_all_heads / 1e6) for cost in costs] == [1560, 2209, 2563, 3097, 3208, 3358]
    assert exit_layers(model) == [12, 26, 40, 54, 68, 82]


@pytest.mark.long
@pytest.mark.tensorflow
def test_with_only_the_last_exit_it_equals_keras_densenet():
    ours = ak.models.build("denseann121", preset="authors_code", exit_every=58)
    theirs = keras.applications.DenseNet121(weights=None)
    assert ours.num_exits == 1
    assert ours.count_params() == theirs.count_params()
    assert ak.cost.exit_costs(ours)[-1].with_head == ak.cost.exit_costs(theirs)[-1].with_head


@pytest.mark.tensorflow
@pytest.mark.parametrize(
    "name, expected",
    [
        ("denseann121", [13, 22, 31, 40, 49, 58]),
        pytest.param("denseann201", [13, 30, 47, 64, 81, 98], marks=pytest.mark.slow),
    ],
)
def test_exits_of_the_other_depths(name, expected):
    assert exit_layers(ak.models.build(name, growth_rate=1, input_shape=(32, 32, 3), num_classes=2)) == expected


@pytest.mark.parametrize(
    "change, expected",
    [
        (dict(), [1, 2, 3]),
        (dict(exit_every=2), [1, 3]),
        (dict(first_exit=3), [3]),
        (dict(depth=16, exit_every=4), [2, 6]),
        (dict(depth=None, blocks=(1, 3), exit_every=2), [2, 4]),
    ],
)
def test_exits_are_counted_so_that_the_last_layer_has_one(change, expected):
    assert exit_layers(tiny(**change)) == expected


def test_costs_are_exact():
    """Counted by hand: one layer a block, growth 4, on 8x8; channels 8 +4, halved 6 +4, halved 5 +4."""
    bottlenecks = [64 * (8 * 16 + 16 * 4 * 9), 16 * (6 * 16 + 16 * 4 * 9), 4 * (5 * 16 + 16 * 4 * 9)]
    transitions = [0, 64 * 12 * 6, 16 * 10 * 5]
    heads = [12 * 5, 10 * 5, 9 * 5]
    stem = 64 * 3 * 8 * 9
    for preset in ("paper", "authors_code"):
        costs = ak.cost.exit_costs(tiny(preset=preset))
        backbone = [stem + sum(bottlenecks[:n]) + sum(transitions[:n]) for n in (1, 2, 3)]
        assert [cost.backbone for cost in costs] == backbone
        assert [cost.with_all_heads for cost in costs] == [backbone[n] + sum(heads[: n + 1]) for n in range(3)]


def test_presets_differ_as_documented():
    def kinds(preset):
        model = tiny(preset=preset)
        names = [call.operation.name for call in ak.graph.calls(model.output["exit_3"], model.inputs)]
        return {
            "exit has BN": "exit_3_bn" in names,
            "convolution before BN": names.index("transition_1_conv") < names.index("transition_1_bn"),
        }

    assert kinds("paper") == {"exit has BN": False, "convolution before BN": True}
    assert kinds("authors_code") == {"exit has BN": True, "convolution before BN": False}


def test_dropout_follows_each_convolution_but_the_first():
    kinds = [type(layer) for layer in tiny(dropout=0.2).layers]
    assert kinds.count(keras.layers.Dropout) == kinds.count(Conv2D) - 1 == 8
    assert not any(isinstance(layer, keras.layers.Dropout) for layer in tiny().layers)


@pytest.mark.parametrize(
    "change, received",
    [
        (dict(depth=12), "depth=12"),
        (dict(depth=4), "depth=4"),
        (dict(depth=None), "depth=None, blocks=None"),
        (dict(blocks=(1, 1)), r"depth=10, blocks=\(1, 1\)"),
        (dict(depth=None, blocks=(1, 0)), r"blocks=\(1, 0\)"),
        (dict(depth=None, blocks=()), r"blocks=\(\)"),
        (dict(depth=None, blocks=3), "blocks=3"),
        (dict(growth_rate=0), "growth_rate=0"),
        (dict(exit_every=4), "exit_every=4"),
        (dict(first_exit=4), "first_exit=4"),
        (dict(stem="cifar"), "'small'.*stem='cifar'"),
        (dict(reduction=0), "reduction=0"),
        (dict(reduction=1.5), "reduction=1.5"),
        (dict(dropout=1), "dropout=1"),
        (dict(input_shape=(8, 8)), r"\(8, 8\)"),
        (dict(preset="text"), "'text'"),
    ],
)
def test_arguments_out_of_range_are_refused(change, received):
    with pytest.raises(ValueError, match=received):
        tiny(**change)
