"""The published MSDNet in PyTorch, rewritten for tests, with the authors' names of arrays."""

import math

import pytest

torch = pytest.importorskip("torch")  # doctests collect this module, too
nn = torch.nn


def conv_bn(channels, filters, kernel=3, stride=1, bias=False):
    conv = nn.Conv2d(channels, filters, kernel, stride, kernel // 2, bias=bias)
    return [conv, nn.BatchNorm2d(filters), nn.ReLU()]


class Basic(nn.Module):
    def __init__(self, *layers):
        super().__init__()
        self.net = nn.Sequential(*layers)

    def forward(self, x):
        return self.net(x)


def edge(channels, filters, factor, stride=1):
    inner = min(channels, factor * filters)
    return Basic(*conv_bn(channels, inner, 1), *conv_bn(inner, filters, 3, stride))


class FirstLayer(nn.Module):
    def __init__(self, filters, factors, stem):
        super().__init__()
        if stem == "ilsvrc":
            first = nn.Sequential(*conv_bn(3, filters * factors[0], 7, 2, bias=True), nn.MaxPool2d(3, 2, 1))
        else:
            first = Basic(*conv_bn(3, filters * factors[0]))
        pairs = zip(factors, factors[1:])
        others = [Basic(*conv_bn(filters * fine, filters * coarse, 3, 2)) for fine, coarse in pairs]
        self.layers = nn.ModuleList([first, *others])

    def forward(self, x):
        maps = []
        for layer in self.layers:
            x = layer(x)
            maps.append(x)
        return maps


class DenseScale(nn.Module):
    def __init__(self, channels, finer_channels, filters, factor, finer_factor):
        super().__init__()
        half = filters if finer_channels is None else filters // 2
        if finer_channels is not None:
            self.conv_down = edge(finer_channels, half, finer_factor, 2)
        self.conv_normal = edge(channels, half, factor)

    def forward(self, x, finer):
        down = [] if finer is None else [self.conv_down(finer)]
        return torch.cat([x, *down, self.conv_normal(x)], 1)


class DenseLayer(nn.Module):
    """Reads maps from the scale `before` on and returns maps from the scale `finest` on."""

    def __init__(self, channels, growth_rate, factors, before, finest):
        super().__init__()
        self.dropped = finest - before
        parts = []
        for scale in range(finest, len(factors)):
            finer = factors[scale - 1] if scale > before else None
            widths = channels * factors[scale], None if finer is None else channels * finer
            parts.append(DenseScale(*widths, growth_rate * factors[scale], factors[scale], finer))
        self.layers = nn.ModuleList(parts)

    def forward(self, maps):
        finer = [None, *maps][self.dropped :]
        return [layer(x, y) for layer, x, y in zip(self.layers, maps[self.dropped :], finer)]


class Transition(nn.Module):
    def __init__(self, channels, kept, factors):
        super().__init__()
        self.m = nn.ModuleList(Basic(*conv_bn(channels * factor, kept * factor, 1)) for factor in factors)

    def forward(self, maps):
        return [layer(x) for layer, x in zip(self.m, maps)]


class Classifier(nn.Module):
    def __init__(self, channels, filters, num_classes):
        super().__init__()
        convs = [Basic(*conv_bn(channels, filters, 3, 2)), Basic(*conv_bn(filters, filters, 3, 2))]
        self.m = nn.Sequential(*convs, nn.AvgPool2d(2))
        self.linear = nn.Linear(filters, num_classes)

    def forward(self, maps):
        return self.linear(self.m(maps[-1]).flatten(1))


class MSDNet(nn.Module):
    """Takes the arguments of `ak.models.PublishedMSDNet`; gives random values to all arrays."""

    def __init__(
        self, num_exits, base, step, growth_rate, factors, channels, stem, num_classes, steps="even", reduction=0.5
    ):
        super().__init__()
        torch.manual_seed(0)
        lengths = [base] + [step if steps == "even" else step * number + 1 for number in range(1, num_exits)]
        interval = math.ceil(sum(lengths) / len(factors))
        self.blocks, self.classifier, layer = nn.ModuleList(), nn.ModuleList(), 0
        for length in lengths:
            layers = [] if self.blocks else [FirstLayer(channels, factors, stem)]
            for layer in range(layer + 1, layer + length + 1):
                before, finest = max(0, layer - 2) // interval, (layer - 1) // interval
                layers.append(DenseLayer(channels, growth_rate, factors, before, finest))
                channels += growth_rate
                if finest > before:
                    layers.append(Transition(channels, math.floor(channels * reduction), factors[finest:]))
                    channels = math.floor(channels * reduction)
            self.blocks.append(nn.Sequential(*layers))
            width = channels * factors[-1]
            self.classifier.append(Classifier(width, 128 if stem == "small" else width, num_classes))
        randomize(self)

    def forward(self, x):
        logits = []
        for block, classifier in zip(self.blocks, self.classifier):
            x = block(x)
            logits.append(classifier(x))
        return logits


def randomize(network, seed=0):
    """Gives a network's normalisations random weights and statistics, and sets it to inference."""
    torch.manual_seed(seed)
    network.eval()
    with torch.no_grad():
        for layer in network.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.weight.uniform_(0.5, 1.5)
                layer.bias.normal_(0, 0.3)
                layer.running_mean.normal_(0, 0.3)
                layer.running_var.uniform_(0.5, 1.5)
