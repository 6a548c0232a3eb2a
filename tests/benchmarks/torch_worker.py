"""Trains the published PyTorch MSDNet for `throughput.py`, a number of steps at a time. Needs only torch and NumPy.

    python torch_worker.py CHECKOUT NETWORK BATCH MODE

CHECKOUT is a checkout of https://github.com/kalviny/MSDNet-PyTorch, NETWORK is the JSON of its arguments, and MODE is
"eager" or some of "channels_last", "bfloat16" and "compile", joined by "+". For each number of steps read from standard
input, prints the seconds they took.
"""

import contextlib
import importlib.util
import json
import os
import sys
import time
import types


def build(checkout, config):
    spec = importlib.util.spec_from_file_location("published_msdnet", os.path.join(checkout, "models", "msdnet.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    scales = dict(nScales=len(config["grFactor"]), bnFactor=config["grFactor"])
    args = types.SimpleNamespace(**config, **scales, bottleneck=True, prune="max", reduction=0.5)
    with contextlib.redirect_stdout(sys.stderr):  # it prints its layers
        return module.MSDNet(args).train()


def main(checkout, network, batch, mode):
    import torch  # here, because pytest imports this file without torch

    config, batch, modes = json.loads(network), int(batch), mode.split("+")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    side, classes = (224, 1000) if config["data"] == "ImageNet" else (32, 10)
    torch.manual_seed(0)
    model = build(checkout, config).to(device)
    x, y = torch.randn(batch, 3, side, side, device=device), torch.randint(classes, (batch,), device=device)
    if "channels_last" in modes:
        model, x = model.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    criterion = torch.nn.CrossEntropyLoss()

    def forward():
        with torch.autocast(device, dtype=torch.bfloat16, enabled="bfloat16" in modes):
            return sum(criterion(logits, y) for logits in model(x))

    loss_of = torch.compile(forward) if "compile" in modes else forward
    print("ready", flush=True)
    for line in sys.stdin:
        start = time.perf_counter()
        for _ in range(int(line)):
            optimizer.zero_grad(set_to_none=True)
            loss = loss_of()
            loss.backward()
            optimizer.step()
        loss.item()  # waits for the device
        print(time.perf_counter() - start, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
