"""The same network in PyTorch: `describe` lists a Keras model's layers with their weights, and `build` repeats them.

`describe` needs Keras and `build` needs torch, so that a process has only one of them.
"""

import numpy as np


def describe(model):
    """Lists the calls of a functional model of image classifiers' layers.

    Args:
        model: functional Keras model with one input.

    Returns:
        A dict with `"steps"`, a list of dicts, and `"outputs"`, the number of the tensor of each exit.
    """
    from anytime_keras import graph

    numbers, steps = {id(model.inputs[0]): 0}, []
    for call in graph.calls(model.outputs, model.inputs):
        kind, (tensor, *_) = type(call.operation).__name__, call.input_tensors
        inputs = [numbers[id(each)] for each in call.input_tensors]
        numbers[id(call.output_tensors[0])] = len(numbers)
        steps.append({"kind": kind, "inputs": inputs, "output": len(numbers) - 1, **_options(call, kind, tensor)})
    return {"steps": steps, "outputs": [numbers[id(tensor)] for tensor in graph.outputs_by_name(model).values()]}


def _options(call, kind, tensor):
    layer, arrays = call.operation, [np.asarray(weight) for weight in getattr(call.operation, "weights", ())]
    if kind in ("Conv2D", "MaxPooling2D", "AveragePooling2D"):
        size = layer.kernel_size if kind == "Conv2D" else layer.pool_size
        padding = [(0, 0), (0, 0)]
        if layer.padding == "same":
            padding = [_same(length, own, step) for length, own, step in zip(tensor.shape[1:3], size, layer.strides)]
        return {"size": size, "strides": layer.strides, "padding": padding, "weights": arrays}
    if kind == "BatchNormalization":
        return {"weights": arrays, "epsilon": layer.epsilon}
    if kind == "Pad":
        return {"padding": [*layer.pad_width[1:3], layer.pad_width[3]]}
    if kind == "ZeroPadding2D":
        return {"padding": [*layer.padding, (0, 0)]}
    return {"weights": arrays}


def _same(length, size, step):
    total = max((-(-length // step) - 1) * step + size - length, 0)
    return total // 2, total - total // 2


def build(network):
    """Returns a `torch.nn.Module` that takes images in NHWC order, like the Keras model, and returns a list."""
    import torch
    from torch.nn import functional as F

    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = torch.nn.ModuleList([_layer(step) for step in network["steps"]])

        def forward(self, x):
            values = {0: x.permute(0, 3, 1, 2)}
            for step, layer in zip(network["steps"], self.layers):
                inputs, kind = [values[number] for number in step["inputs"]], step["kind"]
                if kind == "Add":
                    result = inputs[0] + inputs[1]
                elif kind == "Concatenate":
                    result = torch.cat(inputs, dim=1)
                elif kind == "GlobalAveragePooling2D":
                    result = inputs[0].mean(dim=(2, 3))
                elif kind in ("Pad", "ZeroPadding2D"):
                    result = F.pad(inputs[0], _flat(step["padding"]))
                else:
                    result = layer(_padded(inputs[0], step, F))
                values[step["output"]] = result
            return [values[number] for number in network["outputs"]]

    return Network().eval()


def _flat(padding):
    """Returns the padding of (height, width, channels) in torch's order, last axis first."""
    (top, bottom), (left, right), *channels = padding
    return [left, right, top, bottom, *(each for pair in channels for each in pair)]


def _even(step):
    return all(before == after for before, after in step["padding"])


def _padded(x, step, F):
    """Pads where a layer of torch cannot: differently at the two ends."""
    if "padding" not in step or _even(step):
        return x
    return F.pad(x, _flat(step["padding"]), value=float("-inf") if step["kind"] == "MaxPooling2D" else 0.0)


def _layer(step):
    import torch

    kind, arrays = step["kind"], [torch.from_numpy(np.array(array)) for array in step.get("weights", ())]
    padding = [before for before, _ in step["padding"]] if "size" in step and _even(step) else 0
    if kind == "Conv2D":
        kernel, *bias = arrays
        height, width, before, after = kernel.shape
        layer = torch.nn.Conv2d(before, after, (height, width), step["strides"], padding, bias=bool(bias))
        values = [kernel.permute(3, 2, 0, 1), *bias]
    elif kind == "BatchNormalization":
        layer = torch.nn.BatchNorm2d(len(arrays[0]), eps=step["epsilon"])
        layer.running_mean.copy_(arrays[2])
        layer.running_var.copy_(arrays[3])
        values = arrays[:2]
    elif kind == "Dense":
        layer = torch.nn.Linear(*arrays[0].shape)
        values = [arrays[0].T, arrays[1]]
    elif kind == "ReLU":
        return torch.nn.ReLU()
    elif kind in ("MaxPooling2D", "AveragePooling2D"):
        return (torch.nn.MaxPool2d if kind[0] == "M" else torch.nn.AvgPool2d)(step["size"], step["strides"], padding)
    elif kind in ("Add", "Concatenate", "GlobalAveragePooling2D", "Pad", "ZeroPadding2D"):
        return torch.nn.Identity()
    else:
        raise ValueError(f"No such layer is known in PyTorch: {kind}.")
    with torch.no_grad():
        for parameter, value in zip(layer.parameters(), values, strict=True):
            parameter.copy_(value)
    return layer
