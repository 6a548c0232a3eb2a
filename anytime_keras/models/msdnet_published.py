"""MSDNet as published by its authors.

Paper: Huang, Chen, Li, Wu, van der Maaten, Weinberger (ICLR 2018), https://arxiv.org/abs/1703.09844. Details that it
leaves open follow the authors' PyTorch code, https://github.com/kalviny/MSDNet-PyTorch. With that network's weights,
ours gives the same outputs (`tests/models/test_msdnet_published.py`). Differences from `msdnet.py`:

- only dense layers count; with S scales, the finest scale is dropped after each S-th part of them;
- the first dense layer after a scale is dropped still reads that scale uncompressed, and a transition then compresses
  its results;
- strided layers pad equally on all sides.

Deviations: convolutions have no bias (theirs has one in the first convolution for ILSVRC, where the following batch
normalisation cancels it); He normal initialisation (theirs ends up with PyTorch's default, because its own never
reaches the inner layers); the exits pool the whole last map (theirs pools 2x2, the same at 224x224 and 32x32);
features that no later exit reads are left out.
"""

import math

import keras

from anytime_keras._checks import check_choice, check_int, check_positive, check_positive_list
from anytime_keras.models.blocks import STEMS, Family, check_fraction, check_image_shape
from anytime_keras.models.msdnet import MultiScaleBuilder, check_growth

STEPS = ("even", "growing")


@keras.saving.register_keras_serializable(package="anytime_keras")
class PublishedMSDNet(Family):
    """The MSDNet of Huang et al.

    `ak.models.build` accepts `"msdnet_step4"`, `"msdnet_step6"` and `"msdnet_step7"` for ILSVRC, and
    `"msdnet_cifar_10exits"`, `"msdnet_cifar_7exits"` and `"msdnet_cifar_growing"` for 32x32 images.

    Args:
        num_exits: int.
        base: int, dense layers before the first exit.
        step: int, dense layers between two exits.
        steps: `"even"`, or `"growing"` for `step` + 1 layers before the second exit, 2 x `step` + 1 before the third,
            and so on.
        channels: int, the first layer's filters at the finest scale.
        growth_rate, factors, reduction, stem, input_shape, num_classes, name, dtype: as in `MSDNet`.

    Outputs: dict of logits, each of shape `(batch, num_classes)`, named `exit_1` ... `exit_L`.

    Raises:
        ValueError: if an argument is out of range.

    Example:
    >>> import anytime_keras as ak
    >>> model = ak.models.build("msdnet_cifar_growing", num_exits=4, num_classes=100)
    >>> model.num_exits
    4
    """

    def __init__(
        self,
        num_exits,
        base=4,
        step=4,
        steps="even",
        growth_rate=16,
        factors=(1, 2, 4, 4),
        channels=32,
        reduction=0.5,
        stem="ilsvrc",
        input_shape=(224, 224, 3),
        num_classes=1000,
        name=None,
        dtype=None,
        **kwargs,
    ):
        num_exits, base, step = check_positive(num_exits=num_exits, base=base, step=step)
        num_classes = check_int("num_classes", num_classes)
        growth_rate, channels = check_positive(growth_rate=growth_rate, channels=channels)
        check_choice("steps", steps, STEPS)
        factors = check_positive_list("factors", factors)
        check_growth(growth_rate, factors)
        check_fraction(reduction=reduction)
        check_choice("stem", stem, STEMS)
        input_shape = check_image_shape(input_shape)

        # === Graph ===
        with_exit = exit_layers(num_exits, base, step, steps)
        interval = layers_per_scale(with_exit[-1], len(factors))
        build = MultiScaleBuilder(growth_rate, factors, reduction, stem, dtype, symmetric=True)
        image = keras.Input(input_shape, name="image")
        scales, exits = build.first_layer(image, channels, name="layer_0"), {}
        for layer in range(1, with_exit[-1] + 1):
            finest = (layer - 1) // interval
            drops = finest > min(scales)
            scales = build.dense_layer(scales, finest, name=f"layer_{layer}")
            if drops:
                scales = build.transition(scales, name=f"layer_{layer}_transition")
            if layer in with_exit:
                exit_name = f"exit_{len(exits) + 1}"
                exits[exit_name] = build.exit(scales, num_classes, exit_name)

        super().__init__(image, exits, locals(), name=name, dtype=dtype, **kwargs)


def exit_layers(num_exits, base, step, steps):
    """Lists the dense layers, counted from 1, that have an exit."""
    layers = [base]
    for number in range(1, num_exits):
        layers.append(layers[-1] + (step if steps == "even" else step * number + 1))
    return layers


def layers_per_scale(num_layers, num_scales):
    """Returns after how many dense layers the finest scale is dropped."""
    return math.ceil(num_layers / num_scales)
