"""Results made by hand: networks of four exits at 10, 20, 30 and 40 MACs."""

EXITS = [f"exit_{number}" for number in range(1, 5)]
MACS = [10, 20, 30, 40]
MACHINE = {
    "backend": "jax",
    "versions": {"jax": "1", "keras": "3"},
    "processor": "hand",
    "devices": [],
    "date": "today",
}


def training(row, errors, seed=0, network="1x1", dataset="made", losses=None, weight=None, macs=None, **labels):
    macs = macs or MACS[: len(errors)]
    return {
        "row": row,
        "network": network,
        "dataset": dataset,
        "seed": seed,
        **labels,
        "recipe": {"weighting": {"name": row.lower()}},
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
        "sizes": {"train": 8, "test": 4},
        "machine": MACHINE,
    }


def alone(errors, seed=0, losses=None, **labels):
    """OPT: for each exit, a network that errs there as given, and everywhere else always."""
    trainings = []
    for place, (exit_name, error) in enumerate(zip(EXITS, errors)):
        every = [1.0] * len(errors)
        every[place] = error
        own = None if losses is None else [9.0] * place + [losses[place]] + [9.0] * (len(errors) - place - 1)
        trainings.append(training("OPT", every, seed, losses=own, exit=exit_name, **labels))
    return trainings
