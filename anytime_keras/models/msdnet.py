"""MSDNet: multi-scale dense networks with exits on the coarsest scale, as in the AdaLoss paper.

Papers: Hu, Dey, Hebert, Bagnell (AAAI 2019), appendix B; Huang, Chen, Li, Wu, van der Maaten, Weinberger (ICLR 2018),
whose own networks are in `msdnet_published.py`. Where the papers give no details, we follow the authors' code
(https://github.com/EchoWho/AnytimeNeuralNetwork_public):

- a network of depth d has d units: the first layer, the dense layers, and one transition between consecutive blocks;
- a block drops the finest scale: the transition compresses all scales, and the next dense layer is the last to read
  the finest one;
- an exit's head is two 3x3 convolutions with stride 2 (as wide as the features; 128 on small images), global average
  pooling and a linear layer;
- He normal initialisation of convolutions and linear layers; batch normalisation with momentum .9.

MSDNet33 has blocks of 8, 8, 8 and 9 units and exits every 7 units from the 5th in the text; blocks of 9, 8, 8 and 8
units and exits every 6 from the 9th in the code: `ak.models.build("msdnet33", preset="paper" | "authors_code")`.

Deviations: a 1x1 convolution is never wider than its input, as in Huang et al. (this affects none of the named
networks), and features that no later exit reads are left out of the network.
"""

import keras

from anytime_keras._checks import check_choice, check_int, check_positive, check_positive_list
from anytime_keras.models.blocks import STEMS, Builder, Family, check_exits, check_fraction, check_image_shape, kept


@keras.saving.register_keras_serializable(package="anytime_keras")
class MSDNet(Family):
    """The MSDNet of the AdaLoss paper.

    `ak.models.build` accepts `"msdnet23"`, `"msdnet33"` and `"msdnet38"`.

    Args:
        blocks: list of int, units in each block, such as (10, 9, 10, 9) for MSDNet38. The first block begins with the
            first layer, each later one with a transition; all other units are dense layers. Each block after the
            first has one scale fewer than the one before.
        exit_every: int, units from one exit to the next, counted back from the last unit, which has an exit.
        first_exit: int, the first unit (counted from 1) that may have an exit.
        growth_rate: int, channels that a dense layer adds at the finest scale.
        factors: list of int, one per scale, finest first: the multiplier of that scale's channels, and of the filters
            of a 1x1 convolution that reads the scale, relative to the 3x3 convolution after it.
        channels: int, the first layer's filters at the finest scale, or None for twice the growth rate.
        reduction: float in (0, 1], fraction of the channels that a transition keeps.
        stem: `"small"`, a 3x3 convolution, or `"ilsvrc"`, a 7x7 convolution and a max pooling, each with stride 2.
        head_channels: int, filters of the two convolutions in an exit's head. None uses the features' number of
            channels, or 128 with the small stem.
        input_shape: (height, width, channels) of the images.
        num_classes: int.
        name, dtype: as in Keras; `dtype` may be a policy such as `"mixed_bfloat16"`.

    Outputs: dict of logits, each of shape `(batch, num_classes)`, named `exit_1` ... `exit_L`.

    Raises:
        ValueError: if an argument is out of range.

    Example:
    >>> import anytime_keras as ak
    >>> model = ak.models.MSDNet([5, 5, 5], exit_every=4, stem="small", factors=[1, 2, 4], growth_rate=6,
    ...                          input_shape=(32, 32, 3), num_classes=10)
    >>> model.num_exits
    4
    """

    def __init__(
        self,
        blocks,
        exit_every,
        first_exit=1,
        growth_rate=16,
        factors=(1, 2, 4, 4),
        channels=None,
        reduction=0.5,
        stem="ilsvrc",
        head_channels=None,
        input_shape=(224, 224, 3),
        num_classes=1000,
        name=None,
        dtype=None,
        **kwargs,
    ):
        channels = 2 * check_int("growth_rate", growth_rate) if channels is None else channels
        blocks = check_positive_list("blocks", blocks)
        factors = check_positive_list("factors", factors)
        exit_every, first_exit = check_positive(exit_every=exit_every, first_exit=first_exit)
        num_classes = check_int("num_classes", num_classes)
        growth_rate, channels = check_positive(growth_rate=growth_rate, channels=channels)
        head_channels = None if head_channels is None else check_int("head_channels", head_channels)
        check_growth(growth_rate, factors)
        check_fraction(reduction=reduction)
        check_choice("stem", stem, STEMS)
        input_shape = check_image_shape(input_shape)
        if len(blocks) > len(factors):
            raise ValueError(
                "Each block but the first drops a scale, so `blocks` must not be longer than `factors`. "
                f"Received: blocks={blocks}, factors={factors}."
            )
        if min(blocks) < 2:
            raise ValueError(
                "Each block needs two units: a dense layer, and the first layer or a transition. "
                f"Received: blocks={blocks}."
            )
        depth = sum(blocks)
        check_exits(depth, exit_every=exit_every, first_exit=first_exit)

        # === Graph ===
        build = MultiScaleBuilder(growth_rate, factors, reduction, stem, dtype, head_channels=head_channels)
        image = keras.Input(input_shape, name="image")
        scales, exits, unit = None, {}, 0
        for block, units in enumerate(blocks):
            for within in range(units):
                unit += 1
                if within > 0:
                    scales = build.dense_layer(scales, finest=block, name=f"unit_{unit}")
                elif block == 0:
                    scales = build.first_layer(image, channels, name=f"unit_{unit}")
                else:
                    scales = build.transition(scales, name=f"unit_{unit}")
                if unit >= first_exit and (depth - unit) % exit_every == 0:
                    exit_name = f"exit_{len(exits) + 1}"
                    exits[exit_name] = build.exit(scales, num_classes, exit_name)

        super().__init__(image, exits, locals(), name=name, dtype=dtype, **kwargs)


def check_growth(growth_rate, factors):
    """Raises unless every coarser scale adds at least two channels, as half of them come from the finer scale."""
    for scale, factor in enumerate(factors[1:], start=1):
        if growth_rate * factor < 2:
            raise ValueError(
                "`growth_rate` times a factor must be at least 2 at each scale but the finest, where half of the new "
                f"channels come from the finer scale. Received: growth_rate={growth_rate}, factors={factors}, which "
                f"gives {growth_rate * factor} at scale {scale}."
            )


class MultiScaleBuilder(Builder):
    """Creates the layers of an MSDNet; features are a dict from scale to map, and scale 0 is the finest."""

    def __init__(self, growth_rate, factors, reduction, stem, dtype=None, symmetric=False, head_channels=None):
        super().__init__(dtype, symmetric)
        self.growth_rate, self.factors, self.reduction, self.stem = growth_rate, factors, reduction, stem
        self.head_channels = head_channels or (128 if stem == "small" else None)

    def first_layer(self, image, channels, name):
        first, filters = f"{name}_scale_0", channels * self.factors[0]
        if self.stem == "ilsvrc":
            x = self.ilsvrc_stem(image, filters, first)
        else:
            x = self.conv_bn_relu(image, filters, 3, name=first)
        scales = {0: x}
        for scale in range(1, len(self.factors)):
            x = self.conv_bn_relu(x, channels * self.factors[scale], 3, strides=2, name=f"{name}_scale_{scale}")
            scales[scale] = x
        return scales

    def dense_layer(self, scales, finest, name):
        """Adds channels to each scale from `finest` on, half of them from the next finer scale if there is one."""
        wider = {}
        for scale in range(finest, len(self.factors)):
            new = self.growth_rate * self.factors[scale]
            prefix = f"{name}_scale_{scale}"
            parts = [scales[scale]]
            if scale - 1 in scales:
                parts.append(self._edge(scales[scale - 1], new // 2, self.factors[scale - 1], 2, f"{prefix}_down"))
                new -= new // 2
            parts.append(self._edge(scales[scale], new, self.factors[scale], 1, f"{prefix}_same"))
            wider[scale] = self.concatenate(parts, name=f"{prefix}_concat")
        return wider

    def _edge(self, x, filters, factor, strides, name):
        """Applies a 1x1 and a 3x3 convolution, each followed by BN-ReLU."""
        x = self.conv_bn_relu(x, min(factor * filters, x.shape[-1]), 1, name=f"{name}_1")
        return self.conv_bn_relu(x, filters, 3, strides, name=f"{name}_2")

    def transition(self, scales, name):
        """Keeps `reduction` of each scale's channels."""
        compressed = {}
        for scale, x in scales.items():
            filters = kept(x.shape[-1] // self.factors[scale], self.reduction) * self.factors[scale]
            compressed[scale] = self.conv_bn_relu(x, filters, 1, name=f"{name}_scale_{scale}")
        return compressed

    def exit(self, scales, num_classes, name):
        coarsest = scales[max(scales)]
        return self.classify_by_convs(coarsest, num_classes, self.head_channels, name)
