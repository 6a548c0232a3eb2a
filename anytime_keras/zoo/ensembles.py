"""`publish_ensemble` writes the manifest of an ensemble, whose members are networks of the zoo."""

import dataclasses

import numpy as np

from anytime_keras.inference import EANN
from anytime_keras.zoo import catalog, loading, publishing
from anytime_keras.zoo.facts import Facts
from anytime_keras.zoo.manifest import ENSEMBLE


def publish_ensemble(name, members, data, label=None, folder=None, **facts):
    """Combines trained networks of the zoo into an `EANN`, measures it and writes and returns its `Manifest`.

    The exits are selected on the validation images of `data`, and the used ones are measured on its test images, or on
    validation images if it has none. The manifest refers to the members' weight files, so nothing is stored twice. If a
    member is trained again later, loading the ensemble raises an error until this function has measured it again.

    Args:
        name: str of lowercase letters, digits and underscores. An ensemble of this name is replaced.
        members: list of names of the zoo, smallest first.
        data: the `ak.data.DataSet` of the members' training.
        label: str, the label of the members' weights and of the ensemble's; defaults to the data set's name.
        folder: as in `publish`.
        **facts: `description`, `reference` and `licence`, as in `publish`.

    Raises:
        ValueError: if the name belongs to another kind of network, a member is not trained, the validation images were
            not held out from a member's training, or the members cannot be combined. In this case nothing is written.

    Example, with two trained networks in the zoo in the folder `our_zoo`:

        data = ak.data.load("digits", augment=None)
        ak.zoo.publish_ensemble("eann_adaloss", ["tiny_adaloss", "small_adaloss"], data, folder="our_zoo")
    """
    label, facts = label or data.name, Facts.of(facts)
    zoo, before = publishing.open_zoo(folder, name, label)
    if before is not None and before.architecture != ENSEMBLE:
        raise ValueError(f"'{name}' must be the name of an ensemble. Received: a network, '{before.architecture}'.")
    if not isinstance(members, (list, tuple)) or not all(isinstance(member, str) for member in members):
        raise ValueError(f"`members` must be a list of names of the zoo. Received: members={members!r}.")
    manifests = [catalog.find(member)[0] for member in members]
    entries = [manifest.pick(label) for manifest in manifests]
    if nested := [manifest.name for manifest in manifests if manifest.architecture == ENSEMBLE]:
        raise ValueError(f"`members` must not be ensembles themselves. Received: {', '.join(map(repr, nested))}.")
    networks = [loading.load(member, label, trainable=False) for member in members]
    for member in members:
        if not loading.holds_out(member, label, data):
            raise ValueError(
                f"The validation images of `data` must be those that the training of '{member}' held out. Received: "
                f"'{data.name}' with {data.sizes} and the training images' mean {np.round(data.mean, 6).tolist()}. "
                "Pass the data set of its training, or train it again on this one."
            )
    eann = EANN(networks, data.validation)
    split = "test" if "test" in data.sizes else "validation"
    curve = eann.curve(getattr(data, split), name=name)
    costs = ("backbone", "with_head", "with_all_heads", "params", "loss")
    exits = [
        {"name": point.exit, "accuracy": 1 - point.error, **{cost: getattr(point, cost) for cost in costs}}
        for point in curve
    ]
    last = entries[-1].content
    config = {"members": [f"{member}:{label}" for member in members], "errors": eann.errors}
    config.update((key, last["config"][key]) for key in ("input_shape", "num_classes"))
    entry = {
        "config": config,
        "params": exits[-1]["params"],
        "exits": exits,
        "files": [dataclasses.asdict(file) for entry in entries for file in entry.files],
        "lineage": [cycle for entry in entries for cycle in entry.content["lineage"]],
        "measured": publishing.measured(curve, split, data),
        "licence": facts.licence,
        **{key: last[key] for key in ("data", "weighting", "precision")},
        **dict.fromkeys(("recipe", "golden", "inference")),
    }
    facts.description = facts.description or _description(before, members)
    return publishing.write(zoo, publishing.with_entry(before, name, ENSEMBLE, label, entry, facts), {})


def _description(before, members):
    """Returns the description in the manifest `before`, unless there is none or it only lists former members."""
    text = "EANN of {}."
    if before is not None:
        former = [text.format(", ".join(member for member, _ in entry.members)) for entry in before.weights.values()]
        if before.content["description"] not in former:
            return before.content["description"]
    return text.format(", ".join(members))
