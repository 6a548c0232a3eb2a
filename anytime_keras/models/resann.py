"""ResANN: residual networks with an exit after every few units.

Paper: Hu, Dey, Hebert, Bagnell (AAAI 2019), appendix B, after He et al. (2016). Where the paper gives no details, we
follow the authors' code (https://github.com/EchoWho/AnytimeNeuralNetwork_public):

- a basic unit that halves the map has a 2x2 average pooling as its shortcut and zeros for the new channels, half on
  each side; a bottleneck unit has the stride in its 3x3 convolution;
- a block's first bottleneck unit has a 1x1 convolution with batch normalisation as its shortcut, on the unit's raw
  input;
- He normal initialisation of convolutions and linear layers; batch normalisation with momentum .9.

Where the code differs from the text, `preset` selects one: `"authors_code"` normalises each unit's result before it is
added, and has no batch normalisation in the exits.
"""

import keras
from keras import ops

from anytime_keras._checks import check_choice, check_int, check_positive, check_positive_list
from anytime_keras.models.blocks import PRESETS, Builder, Family, check_exits, check_image_shape


@keras.saving.register_keras_serializable(package="anytime_keras")
class ResANN(Family):
    """The ResANN for small images: three blocks of basic pre-activation units.

    Each block has half the height and width and twice the channels of the one before.

    Args:
        num_units: int, residual units in each of the three blocks (the paper's n).
        channels: int, filters of the first convolution (the paper's c).
        input_shape: (height, width, channels) of the images.
        num_classes: int.
        exit_every: int or None, units from one exit to the next, counted back from the last unit, which has an exit
            (the paper's s). None is the paper's choice: 3 for 25 units per block, else 1.
        preset: `"paper"` or `"authors_code"`, see above.
        name, dtype: as in Keras; `dtype` may be a policy such as `"mixed_bfloat16"`.

    Outputs: dict of logits, each of shape `(batch, num_classes)`, named `exit_1` ... `exit_L`.

    Raises:
        ValueError: if an argument is out of range.

    Example:
    >>> import anytime_keras as ak
    >>> model = ak.models.ResANN(num_units=5, channels=16, input_shape=(32, 32, 3), num_classes=10)
    >>> model.num_exits, model.exit_names[-1]
    (15, 'exit_15')
    """

    def __init__(
        self,
        num_units,
        channels,
        input_shape=(32, 32, 3),
        num_classes=10,
        exit_every=None,
        preset="paper",
        name=None,
        dtype=None,
        **kwargs,
    ):
        exit_every = (3 if num_units == 25 else 1) if exit_every is None else exit_every
        num_units, channels = check_positive(num_units=num_units, channels=channels)
        num_classes, exit_every = check_positive(num_classes=num_classes, exit_every=exit_every)
        check_choice("preset", preset, PRESETS)
        input_shape = check_image_shape(input_shape)
        check_exits(3 * num_units, exit_every=exit_every)

        # === Graph ===
        build = Builder(dtype)
        image = keras.Input(input_shape, name="image")
        x = build.conv(image, channels, 3, name="stem")
        exits = {}
        for unit in range(1, 3 * num_units + 1):
            block, within = divmod(unit - 1, num_units)
            widen = block > 0 and within == 0
            x = _unit(build, x, channels * 2**block, widen, preset, name=f"unit_{unit}")
            if (3 * num_units - unit) % exit_every == 0:
                exit_name = f"exit_{len(exits) + 1}"
                exits[exit_name] = _exit(build, x, num_classes, preset, exit_name)

        super().__init__(image, exits, locals(), name=name, dtype=dtype, **kwargs)


@keras.saving.register_keras_serializable(package="anytime_keras")
class BottleneckResANN(Family):
    """The ResANN for ILSVRC: blocks of bottleneck pre-activation units.

    Each block has half the height and width and twice the channels of the one before. `ak.models.build` accepts
    `"resann26"`, `"resann50"` and `"resann101"`.

    Args:
        blocks: list of int, bottleneck units in each block, such as (3, 4, 6, 3) for ResANN50.
        channels: int, filters of the first convolution and of the first block's 1x1 and 3x3 convolutions; units
            output four times as many.
        exit_every, input_shape, num_classes, preset, name, dtype: as in `ResANN`.

    Outputs: dict of logits, each of shape `(batch, num_classes)`, named `exit_1` ... `exit_L`.

    Raises:
        ValueError: if an argument is out of range.

    Example:
    >>> import anytime_keras as ak
    >>> model = ak.models.build("resann26", input_shape=(64, 64, 3), num_classes=200)
    >>> model.num_exits
    4
    """

    def __init__(
        self,
        blocks,
        exit_every=2,
        channels=64,
        input_shape=(224, 224, 3),
        num_classes=1000,
        preset="paper",
        name=None,
        dtype=None,
        **kwargs,
    ):
        blocks = check_positive_list("blocks", blocks)
        channels = check_int("channels", channels)
        num_classes, exit_every = check_positive(num_classes=num_classes, exit_every=exit_every)
        check_choice("preset", preset, PRESETS)
        input_shape = check_image_shape(input_shape)
        num_units = sum(blocks)
        check_exits(num_units, exit_every=exit_every)

        # === Graph ===
        build = Builder(dtype)
        image = keras.Input(input_shape, name="image")
        x = build.ilsvrc_stem(image, channels, name="stem")
        exits, unit = {}, 0
        for block, units in enumerate(blocks):
            for within in range(units):
                unit += 1
                strides = 2 if block > 0 and within == 0 else 1
                x = _bottleneck_unit(build, x, channels * 2**block, strides, within == 0, preset, name=f"unit_{unit}")
                if (num_units - unit) % exit_every == 0:
                    exit_name = f"exit_{len(exits) + 1}"
                    exits[exit_name] = _exit(build, x, num_classes, preset, exit_name)

        super().__init__(image, exits, locals(), name=name, dtype=dtype, **kwargs)


def _exit(build, x, num_classes, preset, name):
    features = build.bn_relu(x, name) if preset == "paper" else build.relu(x, f"{name}_relu")
    return build.classify(features, num_classes, name=name)


def _bottleneck_unit(build, x, filters, strides, project, preset, name):
    """Applies a pre-activation unit of 1x1, 3x3 and 1x1 convolutions; `project` adds a convolution to its shortcut."""
    shortcut = x
    if project:
        shortcut = build.conv(x, 4 * filters, 1, strides, name=f"{name}_shortcut")
        shortcut = build.batch_norm(shortcut, name=f"{name}_shortcut_bn")
    x = build.bn_relu(x, f"{name}_0")
    x = build.bn_relu(build.conv(x, filters, 1, name=f"{name}_conv_1"), f"{name}_1")
    x = build.bn_relu(build.conv(x, filters, 3, strides, name=f"{name}_conv_2"), f"{name}_2")
    x = build.conv(x, 4 * filters, 1, name=f"{name}_conv_3")
    if preset == "authors_code":
        x = build.batch_norm(x, name=f"{name}_3_bn")
    return build.add([shortcut, x], name=f"{name}_add")


def _unit(build, x, filters, widen, preset, name):
    """Applies a basic pre-activation residual unit; `widen` halves the map and doubles the channels."""
    shortcut = _widened(build, x, filters, name) if widen else x
    x = build.bn_relu(x, f"{name}_0")
    x = build.conv(x, filters, 3, strides=2 if widen else 1, name=f"{name}_conv_1")
    x = build.bn_relu(x, f"{name}_1")
    x = build.conv(x, filters, 3, name=f"{name}_conv_2")
    if preset == "authors_code":
        x = build.batch_norm(x, name=f"{name}_2_bn")
    return build.add([shortcut, x], name=f"{name}_add")


def _widened(build, x, filters, name):
    x = build.average_pool(x, name=f"{name}_pool")
    before = (filters - x.shape[-1]) // 2
    after = filters - x.shape[-1] - before
    return ops.pad(x, [[0, 0], [0, 0], [0, 0], [before, after]])  # (batch, height / 2, width / 2, filters)
