"""Reads checkpoints of the published PyTorch MSDNet, https://github.com/kalviny/MSDNet-PyTorch.

Code derived from it writes the same files, such as L2W-DEN (https://github.com/LeapLabTHU/L2W-DEN), which publishes
networks for ImageNet.
"""

import inspect
import os
import pickle
import re
from typing import Any

from anytime_keras._checks import check_choice
from anytime_keras.data import crops
from anytime_keras.models.msdnet_published import PublishedMSDNet, exit_layers, layers_per_scale
from anytime_keras.models.registry import NETWORKS, build
from anytime_keras.preprocessing import Preprocessor

# Mean and standard deviation of the published code's images: ImageNet, CIFAR-10 and CIFAR-100.
_STATISTICS = {
    "imagenet": ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
    10: ([0.4914, 0.4824, 0.4467], [0.2471, 0.2435, 0.2616]),
    100: ([0.5071, 0.4867, 0.4408], [0.2675, 0.2565, 0.2761]),
}
# `torch.load(weights_only=True)` of older versions can run code of the file (CVE-2025-32434).
MINIMUM_TORCH = (2, 6)


def from_pytorch(name: str, checkpoint: str | os.PathLike, **config: Any) -> PublishedMSDNet:
    """Builds a published MSDNet with the weights of a PyTorch checkpoint.

    Reads the files of Huang et al.'s [MSDNet-PyTorch](https://github.com/kalviny/MSDNet-PyTorch) and of
    [L2W-DEN](https://github.com/LeapLabTHU/L2W-DEN): a state dict, or a dict with one under `state_dict`, with or
    without the prefix `module.` of `DataParallel`. Outputs equal those of the PyTorch network at all exits, up to
    rounding. The file is read with `torch.load(weights_only=True)`, which runs none of its code. Needs PyTorch.

    The networks for ImageNet have `--nBlocks 5 --stepmode even --nChannels 32 --growthRate 16 --grFactor 1-2-4-4
    --bnFactor 1-2-4-4`; `"msdnet_step4"` has `--base 4 --step 4`, the other two have 6 and 7 in place of 4.
    For other networks, pass the arguments of `PublishedMSDNet` in place of the flags of `main.py`:

    | flag | argument |
    | --- | --- |
    | `--nBlocks`, `--base`, `--step` | `num_exits`, `base`, `step` |
    | `--stepmode even`, `lin_grow` | `steps="even"`, `"growing"` |
    | `--nChannels`, `--growthRate` | `channels`, `growth_rate` |
    | `--grFactor 1-2-4 --bnFactor 1-2-4` | `factors=(1, 2, 4)`; both flags must be equal |
    | `--reduction` | `reduction` |
    | `--data ImageNet`, `cifar10`, `cifar100` | `stem="ilsvrc"`, or `"small"`; `input_shape`, `num_classes` |

    Args:
        name: `"msdnet_step4"`, `"msdnet_step6"`, `"msdnet_step7"`, `"msdnet_cifar_10exits"`, `"msdnet_cifar_7exits"` or
            `"msdnet_cifar_growing"`.
        checkpoint: path of the file, such as `"checkpoint.pth.tar"`.
        **config: arguments of `PublishedMSDNet` that differ from those of the named network.

    Returns:
        A `PublishedMSDNet` with the `preprocessor` of the published code, if `stem` and `num_classes` are those of
        ImageNet, CIFAR-10 or CIFAR-100. Classes are in the order of the training: for ImageNet, that of the WordNet
        identifiers (n01440764 and so on). `ak.zoo.publish` with `ak.zoo.Reported` writes it to a zoo.

    Raises:
        ValueError: if the name or an argument is unknown, the file is not such a checkpoint, or its arrays do not fit
            the network. The error names a network that they fit, if there is one.
        ImportError: if PyTorch is not installed, or is older than 2.6.
        OSError: if the file cannot be read.

    Example, with a checkpoint of `--data cifar10 --nBlocks 2 --base 1 --step 1 --stepmode even`:

        model = ak.models.from_pytorch("msdnet_cifar_7exits", "model_best.pth.tar", num_exits=2, base=1, step=1)
    """
    networks = [known for known, (family, _) in NETWORKS.items() if family is PublishedMSDNet]
    check_choice("name", name, networks)
    state = _read(checkpoint)
    model = build(name, **config)
    paths, biases = _arrays(model.num_exits, model.base, model.step, model.steps, len(model.factors), model.stem)
    _check_names(state, {*paths, *biases.values()}, checkpoint, name)
    arrays = {path: array for array, path in paths.items()}
    for variable in model.weights:
        array, shape = arrays[variable.path], variable.shape[::-1]
        if len(shape) == 4:
            shape = (*shape[:2], *shape[:1:-1])  # (out, in, width, height) -> (out, in, height, width)
        value = state[array]
        if value.shape != shape:
            raise ValueError(
                f"'{checkpoint}' must fit '{name}' with these arguments. Expected: shape {shape} for '{array}'. "
                f"Received: shape {value.shape}. Pass `growth_rate`, `channels`, `factors`, `reduction` and "
                "`num_classes` of its training."
            )
        # (out, in, height, width) -> (height, width, in, out), (out, in) -> (in, out)
        value = value.transpose(2, 3, 1, 0) if value.ndim == 4 else value.T
        # Our convolutions have no bias, so it is subtracted from the mean of the normalisation after it.
        variable.assign(value - state[biases[variable.path]] if variable.path in biases else value)
    model.preprocessor = _preprocessor(model)
    return model


def _preprocessor(model):
    """Returns the preprocessing of the published code, or None for other data sets than its three."""
    key = "imagenet" if model.stem == "ilsvrc" else model.num_classes
    if model.image_shape[-1] != 3 or key not in _STATISTICS:
        return None
    short_side = crops.short_side(model.image_shape[:2]) if key == "imagenet" else None
    return Preprocessor(model.image_shape, *_STATISTICS[key], short_side=short_side)


# Each layer's arrays in the checkpoint and its variables here.
_VARIABLES = {
    "conv": {"weight": "kernel"},
    "bn": {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"},
    "linear": {"weight": "kernel", "bias": "bias"},
}


def _arrays(num_exits, base, step, steps, num_scales, stem):
    """Lists the arrays of the published network.

    It is a list of blocks, each ending in an exit, of layers: the first layer, dense layers, transitions. Each layer
    has one part per scale, counted from the finest that is left.

    Returns:
        A dict from the name of each array in a checkpoint to the path of our variable; and a dict from the path of a
        normalisation's mean to the name of the bias in the convolution before, if that has one.
    """
    paths, biases, layer, exits = {}, {}, 0, exit_layers(num_exits, base, step, steps)
    interval = layers_per_scale(exits[-1], num_scales)

    def add(kind, theirs, ours):
        paths.update((f"{theirs}.{array}", f"{ours}/{variable}") for array, variable in _VARIABLES[kind].items())

    def conv_bn(theirs, index, ours, bias=False):
        add("conv", f"{theirs}.{index}", f"{ours}_conv")
        add("bn", f"{theirs}.{index + 1}", f"{ours}_bn")
        if bias:
            biases[f"{ours}_bn/moving_mean"] = f"{theirs}.{index}.bias"

    for block, last in enumerate(exits):
        place = 0
        if block == 0:
            for scale in range(num_scales):
                ilsvrc = stem == "ilsvrc" and scale == 0
                conv_bn(f"blocks.0.0.layers.{scale}{'' if ilsvrc else '.net'}", 0, f"layer_0_scale_{scale}", ilsvrc)
            place = 1
        while layer < last:
            layer += 1
            finest, before = (layer - 1) // interval, max(0, layer - 2) // interval
            for part, scale in enumerate(range(finest, num_scales)):
                edges = {"conv_normal": "same", **({"conv_down": "down"} if scale > before else {})}
                for theirs, ours in edges.items():
                    net = f"blocks.{block}.{place}.layers.{part}.{theirs}.net"
                    conv_bn(net, 0, f"layer_{layer}_scale_{scale}_{ours}_1")
                    conv_bn(net, 3, f"layer_{layer}_scale_{scale}_{ours}_2")
            place += 1
            if finest > before:
                for part, scale in enumerate(range(finest, num_scales)):
                    net = f"blocks.{block}.{place}.m.{part}.net"
                    conv_bn(net, 0, f"layer_{layer}_transition_scale_{scale}")
                place += 1
        for number in (0, 1):
            conv_bn(f"classifier.{block}.m.{number}.net", 0, f"exit_{block + 1}_{number + 1}")
        add("linear", f"classifier.{block}.linear", f"exit_{block + 1}")
    return paths, biases


def _read(checkpoint):
    """Returns the checkpoint's arrays by name, without the prefix of `DataParallel`."""
    torch = _torch()
    with open(checkpoint, "rb") as file:  # raises OSError
        try:
            content = torch.load(file, map_location="cpu", weights_only=True)
        # What `torch.load` raises for files of other kinds.
        except (pickle.UnpicklingError, RuntimeError, ValueError, EOFError, LookupError, TypeError, OSError) as error:
            text = re.split(r"\n| In PyTorch 2", str(error).strip())[0]
            if isinstance(error, pickle.UnpicklingError):  # whose text advises to load the file unsafely
                found = re.search(r"GLOBAL ([\w.]+)", str(error))
                reason = re.search(r"WeightsUnpickler error: ([^\n]+)", str(error))
                text = f"it refers to `{found[1]}`" if found else reason[1].strip() if reason else ""
            reason = f"{type(error).__name__}, {text.rstrip('.')}" if text else type(error).__name__
            raise ValueError(
                f"'{checkpoint}' is not a checkpoint that `torch.load(weights_only=True)` can read: {reason}. "
                "If you trust the file, load it in PyTorch and save its tensors: "
                "`torch.save({'state_dict': model.state_dict()}, path)`."
            ) from error
    state = content.get("state_dict", content) if isinstance(content, dict) else content
    tensors = isinstance(state, dict) and all(isinstance(value, torch.Tensor) for value in state.values())
    if not tensors or not state:
        found = sorted(map(str, content)) if isinstance(content, dict) else type(content).__name__
        raise ValueError(
            f"'{checkpoint}' must contain a state dict of tensors, by itself or under 'state_dict'. Received: {found}."
        )
    if all(name.startswith("module.") for name in state):
        state = {name.removeprefix("module."): value for name, value in state.items()}
    kept = {name: value for name, value in state.items() if not name.endswith(".num_batches_tracked")}
    return {name: value.detach().to(torch.float32).numpy() for name, value in kept.items()}


def _torch():
    try:
        import torch
    except ImportError as error:
        raise ImportError("Reading PyTorch checkpoints needs PyTorch: `pip install 'torch>=2.6'`.") from error
    if tuple(map(int, torch.__version__.split(".")[:2])) < MINIMUM_TORCH:
        raise ImportError(
            "`torch.load(weights_only=True)` is only safe from PyTorch 2.6 on (CVE-2025-32434). "
            f"Received: PyTorch {torch.__version__}. `pip install 'torch>=2.6'`."
        )
    return torch


def _check_names(state, expected, checkpoint, name):
    missing, unknown = sorted(expected - set(state)), sorted(set(state) - expected)
    if missing or unknown:
        examples = [f"lacks {len(missing)}, such as '{missing[0]}'"] if missing else []
        examples += [f"has {len(unknown)} others, such as '{unknown[0]}'"] if unknown else []
        raise ValueError(
            f"'{checkpoint}' must contain the {len(expected)} arrays of '{name}' with these arguments. Received: a "
            f"checkpoint that {' and '.join(examples)}. {_fitting(state)}"
        )


def _fitting(state):
    """Returns a hint with the named networks that have a checkpoint's arrays."""
    fitting, parameters = [], inspect.signature(PublishedMSDNet).parameters.items()
    for name, (family, fixed) in NETWORKS.items():
        if family is PublishedMSDNet:
            config = {**{key: parameter.default for key, parameter in parameters}, **fixed}
            sizes = [config[key] for key in ("num_exits", "base", "step", "steps")]
            paths, biases = _arrays(*sizes, len(config["factors"]), config["stem"])
            if {*paths, *biases.values()} == set(state):
                fitting.append(name)
    if fitting:
        return f"It fits {' or '.join(map(repr, fitting))}."
    return (
        "Pass `num_exits`, `base`, `step`, `steps`, `factors` and `stem` of its training; `--prune min` and networks "
        "without bottlenecks are not supported."
    )
