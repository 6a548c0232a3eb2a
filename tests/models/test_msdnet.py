import itertools
import math
import re

import keras
import pytest

import anytime_keras as ak


def tiny(**changes):
    config = dict(blocks=(3, 3), exit_every=2, growth_rate=4, factors=(1, 2), stem="small", input_shape=(16, 16, 3))
    return ak.models.build("msdnet", **{**config, "num_classes": 5, **changes})


def tiny_published(**changes):
    config = dict(num_exits=3, base=1, step=1, growth_rate=4, channels=4, factors=(1, 2), input_shape=(16, 16, 3))
    return ak.models.build("msdnet_cifar_growing", **{**config, "num_classes": 5, **changes})


def conv_macs(layer, inputs, outputs):
    if not isinstance(layer, keras.layers.Conv2D):
        return 0
    return math.prod(outputs[0].shape[1:3]) * math.prod(layer.kernel.shape)


def published_macs(layer, inputs, outputs):
    """Counts like the authors' code: ReLU and pooling count each element they read, a linear layer also its bias."""
    if isinstance(layer, keras.layers.ReLU):
        return math.prod(outputs[0].shape[1:])
    if isinstance(layer, keras.layers.MaxPooling2D):
        return math.prod(outputs[0].shape[1:]) * math.prod(layer.pool_size)
    if isinstance(layer, keras.layers.GlobalAveragePooling2D):
        return math.prod(inputs[0].shape[1:])
    if isinstance(layer, keras.layers.Dense):
        return layer.count_params()
    return conv_macs(layer, inputs, outputs)


def costs_unit_by_unit(model, units, macs=conv_macs):
    """Counts a run that computes all scales of a unit before the next; (backbone, own head, all heads) in millions.

    Args:
        units: the unit that each exit reads.
    """
    backbone, heads = {}, {}
    for call in ak.graph.calls(model.outputs, model.inputs):
        kind, number = re.match(r"(unit|layer|exit)_(\d+)", call.operation.name).groups()
        counts = heads if kind == "exit" else backbone
        counts[int(number)] = counts.get(int(number), 0) + macs(call.operation, call.input_tensors, call.output_tensors)
    features = [sum(count for number, count in backbone.items() if number <= unit) for unit in units]
    own = [heads[number] for number in range(1, len(units) + 1)]
    return (
        [count / 1e6 for count in features],
        [(count + head) / 1e6 for count, head in zip(features, own)],
        [(count + head) / 1e6 for count, head in zip(features, itertools.accumulate(own))],
    )


# Costs do not depend on the backend, and large networks take long to build, so one backend is enough.
# Convolution MACs (M) as shared/facts.md has them: backbone, with own head, with all heads so far.
@pytest.mark.long
@pytest.mark.tensorflow
@pytest.mark.parametrize(
    "name, preset, units, expected",
    [
        (
            "msdnet38",
            "paper",
            [10, 17, 24, 31, 38],
            ([751, 1401, 2071, 2710, 2827], [840, 1498, 2156, 2768, 3013], [840, 1587, 2343, 3040, 3343]),
        ),
        ("msdnet33", "paper", [5, 12, 19, 26, 33], (2064, 2217, 2369)),
        ("msdnet33", "authors_code", [9, 15, 21, 27, 33], (2215, 2349, 2598)),
    ],
)
def test_costs_of_the_papers_networks(name, preset, units, expected):
    model = ak.models.build(name, preset=preset)
    counted = costs_unit_by_unit(model, units)
    last = ak.cost.exit_costs(model, layers="conv")[-1]
    for column, exact, value in zip(counted, (last.backbone, last.with_head, last.with_all_heads), expected):
        assert column[-1] == exact / 1e6, "the last exit needs all"
        rounded = [round(number) for number in column]
        assert (rounded if isinstance(value, list) else rounded[-1]) == value


# All MACs (M) with heads so far, as the published PyTorch code counts them (shared/facts.md).
@pytest.mark.long
@pytest.mark.tensorflow
@pytest.mark.parametrize(
    "name, layers, expected",
    [
        ("msdnet_step4", [4, 8, 12, 16, 20], [339.90, 685.46, 1008.16, 1254.47, 1360.53]),
        pytest.param(
            *("msdnet_step6", [6, 12, 18, 24, 30], [514.66, 1171.18, 1844.52, 2501.40, 2742.06]), marks=pytest.mark.slow
        ),
        ("msdnet_step7", [7, 14, 21, 28, 35], [615.69, 1436.39, 2283.21, 2967.42, 3253.79]),
        (
            "msdnet_cifar_10exits",
            [4, 6, 8, 10, 12, 14, 16, 18, 20, 22],
            [15.13, 25.48, 37.75, 52.02, 62.12, 74.00, 87.65, 99.95, 110.02, 121.56],
        ),
        ("msdnet_cifar_7exits", [4, 6, 8, 10, 12, 14, 16], [15.13, 25.48, 37.06, 46.28, 57.28, 66.89, 75.86]),
    ],
)
def test_costs_of_the_published_networks(name, layers, expected):
    model = ak.models.build(name)
    assert [round(count, 2) for count in costs_unit_by_unit(model, layers, published_macs)[2]] == expected
    eager = ak.cost.exit_costs(model, layers="conv", lazy=False)
    assert [cost.with_all_heads / 1e6 for cost in eager] == costs_unit_by_unit(model, layers)[2]
    if name == "msdnet_step7":
        conv = costs_unit_by_unit(model, layers)[2]
        assert [round(count) for count in conv] == [611, 1430, 2275, 2958, 3243]
        assert ak.cost.exit_costs(model, layers="conv")[-1].with_all_heads / 1e6 == conv[-1]
        params = {True: 0, False: 0}
        for variable in model.trainable_variables:
            params[variable.path.startswith("exit_")] += math.prod(variable.shape)
        assert round(sum(params.values()) / 1e6, 1) == 62.3
        assert round(params[True] / 1e6, 1) == 45.5


def test_costs_are_exact():
    """Counted by hand: 4x4 images; unit 1 is the first layer, unit 2 dense, 3 a transition, 4 dense on one scale."""
    model = ak.models.build(
        "msdnet", blocks=(2, 2), exit_every=2, growth_rate=2, factors=(1, 2), stem="small", input_shape=(4, 4, 3),
        num_classes=5,
    )  # fmt: skip
    first = 16 * 3 * 4 * 9 + 4 * 4 * 8 * 9
    fine = 16 * (4 * 2 + 2 * 2 * 9)  # 4 channels become 6
    coarse = 16 * 4 * 2 + 4 * 2 * 2 * 9 + 4 * (8 * 4 + 4 * 2 * 9)  # 2 channels from each scale: 8 become 12
    halved = 16 * 6 * 3 + 4 * 12 * 6
    last = 16 * 3 * 2 + 4 * 2 * 2 * 9 + 4 * (6 * 4 + 4 * 2 * 9)  # 6 become 10
    heads = [128 * (channels + 128) * 9 + 128 * 5 for channels in (12, 10)]
    costs = ak.cost.exit_costs(model)
    assert [cost.backbone for cost in costs] == [first + coarse, first + coarse + fine + halved + last]
    assert costs[0].with_head == costs[0].backbone + heads[0]
    assert costs[1].with_all_heads == costs[1].backbone + sum(heads)


@pytest.mark.parametrize("make", [tiny, tiny_published])
def test_tensors_are_computed_only_when_an_exit_needs_them(make):
    model = make()
    needed = [
        {call.operation.name for call in ak.graph.calls(model.output[name], model.inputs)} for name in model.exit_names
    ]
    unit = "unit_2" if make is tiny else "layer_1"
    assert f"{unit}_scale_1_concat" in needed[0]
    assert f"{unit}_scale_0_concat" not in needed[0] and f"{unit}_scale_0_concat" in needed[1]
    # One block fewer than scales: the last unit has two scales, of which only the coarser one is read.
    names = {layer.name for layer in tiny(factors=(1, 2, 2)).layers}
    assert "unit_6_scale_2_concat" in names and "unit_5_scale_1_concat" in names
    assert not any(name.startswith("unit_6_scale_1") for name in names)
    assert {layer.name for layer in model.layers} == set.union({"image"}, *needed)


def test_a_block_drops_the_finest_scale_after_its_last_use():
    def names(model):
        return {layer.name for layer in model.layers}

    papers, published = names(tiny()), names(tiny_published(num_exits=4, steps="even"))
    assert {"unit_4_scale_0_conv", "unit_4_scale_1_conv", "unit_5_scale_1_down_1_conv"} <= papers  # unit 4: transition
    assert not any(name.startswith(("unit_5_scale_0", "unit_6_scale_0", "unit_6_scale_1_down")) for name in papers)
    assert {"layer_3_scale_1_down_1_conv", "layer_3_transition_scale_1_conv"} <= published
    assert not any(name.startswith(("layer_3_transition_scale_0", "layer_4_scale_1_down")) for name in published)


def exit_units(model):
    """Returns the units or layers whose coarsest scale the exits read."""
    units = []
    for name in model.exit_names:
        names = [call.operation.name for call in ak.graph.calls(model.output[name], model.inputs)]
        units.append(max(int(each.split("_")[1]) for each in names if each.startswith(("unit_", "layer_"))))
    return units


@pytest.mark.parametrize(
    "make, change, units",
    [
        (tiny, dict(), [2, 4, 6]),
        (tiny, dict(first_exit=3), [4, 6]),
        (tiny, dict(exit_every=4), [2, 6]),
        (tiny, dict(exit_every=1), [1, 2, 3, 4, 5, 6]),
        (tiny_published, dict(num_exits=4), [1, 3, 6, 10]),
        (tiny_published, dict(num_exits=3, base=2, step=2), [2, 5, 10]),
        (tiny_published, dict(num_exits=3, base=2, step=3, steps="even"), [2, 5, 8]),
    ],
)
def test_exits_are_placed_by_the_arguments(make, change, units):
    assert exit_units(make(**change)) == units


@pytest.mark.long
@pytest.mark.tensorflow
def test_msdnet23_equals_the_authors_code():
    model = ak.models.build("msdnet23", preset="authors_code", growth_rate=1, input_shape=(32, 32, 3), num_classes=2)
    assert (model.blocks, exit_units(model)) == ((6, 6, 5, 6), [7, 11, 15, 19, 23])


@pytest.mark.parametrize(
    "make, change, received",
    [
        (tiny, dict(blocks=(3, 3, 3)), r"blocks=\(3, 3, 3\), factors=\(1, 2\)"),
        (tiny, dict(blocks=(3, 1)), r"blocks=\(3, 1\)"),
        (tiny, dict(blocks="38"), "blocks='38'"),
        (tiny, dict(exit_every=7), "exit_every=7"),
        (tiny, dict(first_exit=7), "first_exit=7"),
        (tiny, dict(growth_rate=-1), "growth_rate=-1"),
        (tiny, dict(channels=0), "channels=0"),
        (tiny, dict(factors=(1, 0)), r"factors=\(1, 0\)"),
        (tiny, dict(reduction=2), "reduction=2"),
        (tiny, dict(stem="imagenet"), "'ilsvrc'.*stem='imagenet'"),
        (tiny, dict(input_shape=16), "input_shape=16"),
        (tiny, dict(num_classes=0), "num_classes=0"),
        (tiny_published, dict(num_exits=0), "num_exits=0"),
        (tiny_published, dict(base=0), "base=0"),
        (tiny_published, dict(step=1.0), "step=1.0"),
        (tiny_published, dict(steps="linear"), "'growing'.*steps='linear'"),
        (tiny_published, dict(factors=()), r"factors=\(\)"),
        (tiny_published, dict(reduction=True), "reduction=True"),
    ],
)
def test_arguments_out_of_range_are_refused(make, change, received):
    with pytest.raises(ValueError, match=received):
        make(**change)
