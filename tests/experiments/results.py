"""Results written by hand: networks with four exits at 10, 20, 30 and 40 MACs."""

import json

EXITS = [f"exit_{number}" for number in range(1, 5)]
MACS = [10, 20, 30, 40]
MACHINE = {"backend": "jax", "versions": {"jax": "1", "keras": "3"}, "processor": "hand", "date": "today"}


def run(row, errors, seed=0, network="1x1", dataset="made", losses=None, weight=None, macs=None, **labels):
    macs = macs or MACS[: len(errors)]
    return {
        "row": row,
        "network": network,
        "dataset": dataset,
        "seed": seed,
        **labels,
        "recipe": {
            "model": {"name": "resann", "num_units": 1, "channels": 1},
            "data": {"data": dataset},
            "weighting": {"name": "single_exit", "exit": labels["exit"]} if "exit" in labels else {"name": "constant"},
        },
        "exits": {
            "exit": EXITS[: len(errors)],
            "error": errors,
            "loss": [0.5] * len(errors),
            "backbone": macs,
            "with_head": macs,
            "with_all_heads": macs,
            "params": macs,
        },
        "train_loss": losses,
        "weight": weight,
        "late_fall": 1.5,
        "sizes": {"train": 8, "test": 4},
        "machine": MACHINE,
    }


def alone(errors, seed=0, losses=None, **labels):
    """OPT: for each exit, a network that has the given error there and an error of 1 at all other exits."""
    runs = []
    for place, (exit_name, error) in enumerate(zip(EXITS, errors)):
        every = [1.0] * len(errors)
        every[place] = error
        own = None if losses is None else [9.0] * place + [losses[place]] + [9.0] * (len(errors) - place - 1)
        runs.append(run("OPT", every, seed, losses=own, exit=exit_name, **labels))
    return runs


def write(folder, name, runs, quick=False, **changes):
    settings = dict(datasets=["made"], networks=["1x1"], epochs=60, seeds=1, batch_size=64, precision="float32")
    content = dict(format=1, experiment=name, title=f"The title of {name}", quick=quick, settings=settings, planned=9)
    content.update(ensembles=[], runs=runs, **changes)
    path = folder / f"{name}{'_quick' if quick else ''}.json"
    path.write_text(json.dumps(content))
    return path
