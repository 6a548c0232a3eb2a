"""Compares `PublishedMSDNet` with its authors' PyTorch code, https://github.com/kalviny/MSDNet-PyTorch.

Runs where torch can be imported and ANYTIME_KERAS_MSDNET_PYTORCH is the path of a checkout of that repository.
"""

import importlib.util
import os
import types

import numpy as np
import pytest

import anytime_keras as ak
from tests import checks

CHECKOUT = os.environ.get("ANYTIME_KERAS_MSDNET_PYTORCH")
if not CHECKOUT:
    pytest.skip("needs ANYTIME_KERAS_MSDNET_PYTORCH, a checkout of kalviny/MSDNet-PyTorch", allow_module_level=True)
torch = pytest.importorskip("torch")

CIFAR = dict(data="cifar10", growthRate=6, grFactor=[1, 2, 4], nChannels=16)
IMAGENET = dict(data="ImageNet", growthRate=16, grFactor=[1, 2, 4, 4], nChannels=32)
# Name -> arguments of the published network.
NETWORKS = {
    "msdnet_cifar_10exits": dict(CIFAR, nBlocks=10, base=4, step=2, stepmode="even"),
    "msdnet_cifar_7exits": dict(CIFAR, nBlocks=7, base=4, step=2, stepmode="even"),
    "msdnet_cifar_growing": dict(CIFAR, data="cifar100", nBlocks=5, base=1, step=1, stepmode="lin_grow"),
    "msdnet_step4": dict(IMAGENET, nBlocks=5, base=4, step=4, stepmode="even"),
    "msdnet_step6": dict(IMAGENET, nBlocks=5, base=6, step=6, stepmode="even"),
    "msdnet_step7": dict(IMAGENET, nBlocks=5, base=7, step=7, stepmode="even"),
}


def published(name):
    """The PyTorch network with random weights and random statistics of its batch normalisations."""
    from tests.models.published_msdnet import randomize

    spec = importlib.util.spec_from_file_location("published_msdnet", os.path.join(CHECKOUT, "models", "msdnet.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = NETWORKS[name]
    scales = dict(nScales=len(config["grFactor"]), bnFactor=config["grFactor"])
    args = types.SimpleNamespace(**config, **scales, bottleneck=True, prune="max", reduction=0.5)
    torch.manual_seed(0)
    network = module.MSDNet(args)
    randomize(network)
    return network


@pytest.mark.parametrize("name", NETWORKS)
def test_with_the_published_networks_weights_outputs_are_equal_at_all_exits(name, tmp_path):
    network = published(name)
    state = torch.nn.DataParallel(network).state_dict()  # as its `main.py` writes
    torch.save({"epoch": 0, "arch": "msdnet", "state_dict": state, "best_prec1": 0.0}, tmp_path / "checkpoint.pth.tar")
    model = ak.models.from_pytorch(name, tmp_path / "checkpoint.pth.tar")
    x = checks.some_input(model)
    with torch.no_grad():
        theirs = [logits.numpy() for logits in network(torch.from_numpy(x.transpose(0, 3, 1, 2).copy()))]
    ours = checks.outputs(model, x)
    assert len(theirs) == len(ours)
    for (exit, logits), expected in zip(ours.items(), theirs):
        assert expected.std() > 0.1, "the same everywhere would be equal anyhow"
        difference = np.abs(logits - expected).max()
        print(f"{name} {exit}: largest difference {difference:.1e} of {np.abs(expected).max():.1f}")
        np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NETWORKS)
def test_counts_equal_the_published_networks(name):
    network, model = published(name), ak.models.build(name)
    macs = []
    for layer in network.modules():
        if isinstance(layer, torch.nn.Conv2d):
            layer.register_forward_hook(
                lambda conv, _, output: macs.append(conv.weight.numel() * output.shape[2] * output.shape[3])
            )
    with torch.no_grad():
        network(torch.zeros(1, 3, *model.image_shape[:2]))
    idle = sum(
        layer.bias.numel()
        for layer in network.modules()
        if isinstance(layer, torch.nn.Conv2d) and layer.bias is not None
    )
    assert ak.cost.exit_costs(model, layers="conv")[-1].with_all_heads == sum(macs)
    trainable = sum(int(np.prod(variable.shape)) for variable in model.trainable_variables)
    assert trainable == sum(parameter.numel() for parameter in network.parameters()) - idle
