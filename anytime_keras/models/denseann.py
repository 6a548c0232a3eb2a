"""DenseANN: densely connected networks with an exit after every few layers.

Paper: Hu, Dey, Hebert, Bagnell (AAAI 2019), appendix B, after DenseNet-BC of Huang et al. (2017). Every dense layer
reads the concatenation of all previous features of its block; between blocks the map and the number of channels are
halved. Where the paper gives no details, we follow the authors' code
(https://github.com/EchoWho/AnytimeNeuralNetwork_public):

- the first convolution has twice as many filters as the growth rate;
- He normal initialisation of convolutions and linear layers; batch normalisation with momentum .9.

Where the code differs from the text, `preset` selects one:

- exits: the text has a linear layer on the pooled concatenation; `"authors_code"` adds BN-ReLU before the pooling;
- between blocks: the text has the 1x1 convolution before BN-ReLU; `"authors_code"` has it after, as in DenseNet.

The code uses dropout of a fifth after each convolution on small images, the text a tenth in DenseNet's own training.
Here `dropout` is off by default, since the paper found it harmful on ILSVRC.
"""

import keras

from anytime_keras._checks import check_choice, check_number, check_one, check_positive, check_positive_list
from anytime_keras.models.blocks import PRESETS, STEMS, Builder, Family
from anytime_keras.models.blocks import check_exits, check_fraction, check_image_shape, kept


@keras.saving.register_keras_serializable(package="anytime_keras")
class DenseANN(Family):
    """A DenseNet-BC with exits.

    `ak.models.build` accepts `"denseann121"`, `"denseann169"` and `"denseann201"` for ILSVRC, and `"denseann"` with
    `depth` and `growth_rate` for the DenseNet-BC for 32x32 images.

    Args:
        depth: int, number of layers of a network with three equal blocks, 3 x 2 x n + 4 for n dense layers (two
            convolutions each) per block; or None if `blocks` is given.
        blocks: list of int, dense layers in each block, such as (6, 12, 32, 32) for DenseANN169; or None.
        growth_rate: int, channels that each dense layer adds (the paper's k).
        exit_every: int, dense layers from one exit to the next, counted back from the last layer, which has an exit.
        first_exit: int, the first dense layer (counted from 1) that may have an exit.
        reduction: float in (0, 1], fraction of the channels kept between blocks.
        dropout: float in [0, 1), dropout rate after each convolution in a block or between blocks.
        preset: `"paper"` or `"authors_code"`, see above.
        stem, input_shape, num_classes, name, dtype: as in `MSDNet`.

    Outputs: dict of logits, each of shape `(batch, num_classes)`, named `exit_1` ... `exit_L`.

    Raises:
        ValueError: if an argument is out of range, or not exactly one of `depth` and `blocks` is given.

    Example:
    >>> import anytime_keras as ak
    >>> model = ak.models.build("denseann", depth=40, growth_rate=12, input_shape=(32, 32, 3), num_classes=10)
    >>> model.blocks, model.num_exits
    ((6, 6, 6), 6)
    """

    def __init__(
        self,
        depth=None,
        blocks=None,
        growth_rate=12,
        exit_every=3,
        first_exit=1,
        stem="small",
        reduction=0.5,
        dropout=0.0,
        input_shape=(32, 32, 3),
        num_classes=10,
        preset="paper",
        name=None,
        dtype=None,
        **kwargs,
    ):
        depth, blocks = _block_sizes(depth, blocks)
        num_layers = sum(blocks)
        growth_rate, num_classes = check_positive(growth_rate=growth_rate, num_classes=num_classes)
        exit_every, first_exit = check_positive(exit_every=exit_every, first_exit=first_exit)
        check_choice("stem", stem, STEMS)
        check_fraction(reduction=reduction)
        check_number("dropout", dropout, "in [0, 1)", lambda value: 0 <= value < 1)
        check_choice("preset", preset, PRESETS)
        input_shape = check_image_shape(input_shape)
        check_exits(num_layers, exit_every=exit_every, first_exit=first_exit)

        # === Graph ===
        build = Builder(dtype)
        image = keras.Input(input_shape, name="image")
        if stem == "ilsvrc":
            x = build.ilsvrc_stem(image, 2 * growth_rate, name="stem")
        else:
            x = build.conv(image, 2 * growth_rate, 3, name="stem")
        exits, layer = {}, 0
        for block, layers in enumerate(blocks):
            if block > 0:
                x = _transition(build, x, reduction, dropout, preset, name=f"transition_{block}")
            for _ in range(layers):
                layer += 1
                x = _dense_layer(build, x, growth_rate, dropout, name=f"layer_{layer}")
                if layer >= first_exit and (num_layers - layer) % exit_every == 0:
                    exit_name = f"exit_{len(exits) + 1}"
                    features = x if preset == "paper" else build.bn_relu(x, exit_name)
                    exits[exit_name] = build.classify(features, num_classes, name=exit_name)

        super().__init__(image, exits, locals(), name=name, dtype=dtype, **kwargs)

    def get_config(self):
        config = super().get_config()
        return config if self.depth is None else {**config, "blocks": None}  # `depth` implies them


def _block_sizes(depth, blocks):
    """Returns `depth`, as an int if given, and the number of dense layers in each block."""
    check_one(depth=depth, blocks=blocks)
    if blocks is not None:
        return None, check_positive_list("blocks", blocks)
    (depth,) = check_positive(depth=depth)
    if depth < 10 or depth % 6 != 4:
        raise ValueError(
            "`depth` must be 3 x 2 x n + 4 for n dense layers in each of three blocks: 10, 16, 22, ... 40, ... 100. "
            f"Received: depth={depth}."
        )
    return depth, (depth // 6,) * 3


def _dense_layer(build, x, growth_rate, dropout, name):
    """Adds `growth_rate` channels by a 1x1 convolution to four times as many and a 3x3 convolution."""
    new = build.conv(build.bn_relu(x, f"{name}_0"), 4 * growth_rate, 1, name=f"{name}_conv_1")
    new = build.dropout(new, dropout, name=f"{name}_dropout_1")
    new = build.conv(build.bn_relu(new, f"{name}_1"), growth_rate, 3, name=f"{name}_conv_2")
    new = build.dropout(new, dropout, name=f"{name}_dropout_2")
    return build.concatenate([x, new], name=f"{name}_concat")


def _transition(build, x, reduction, dropout, preset, name):
    """Halves height and width and keeps `reduction` of the channels."""
    filters = kept(x.shape[-1], reduction)
    if preset == "paper":
        x = build.conv(x, filters, 1, name=f"{name}_conv")
        x = build.bn_relu(build.dropout(x, dropout, name=f"{name}_dropout"), name)
    else:
        x = build.conv(build.bn_relu(x, name), filters, 1, name=f"{name}_conv")
        x = build.dropout(x, dropout, name=f"{name}_dropout")
    return build.average_pool(x, name=f"{name}_pool")
