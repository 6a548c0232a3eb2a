"""Manifests, which describe the zoo's networks and are validated before use."""

import dataclasses
import inspect
import json
import math

from anytime_keras import _errors, _tables
from anytime_keras._checks import check_choice
from anytime_keras.data import crops, defaults
from anytime_keras.evaluation import Curve, CurvePoint
from anytime_keras.models.registry import NETWORKS
from anytime_keras.preprocessing import Preprocessor
from anytime_keras.zoo import schema

FORMAT = 1
ENSEMBLE = "eann"  # the architecture of an `EANN`, whose members are networks of the zoo
ENSEMBLE_CONFIG = ("members", "errors", "input_shape", "num_classes")


@dataclasses.dataclass(frozen=True)
class File:
    """A file in a manifest."""

    path: str  # in the zoo, or an https: address
    sha256: str
    bytes: int


class Weights:
    """One entry of a manifest, a trained or untrained network for one data set.

    Attributes:
        label: str, the entry's name.
        content: dict, as in the manifest: `config`, `data`, `params`, `exits`, `weighting`, `recipe`, `measured`,
            `lineage` and so on. The lineage lists the training cycles that produced the weights, with the errors on
            validation images at each exit `before` and `after` the cycle.
        files: list of `File`, the shards of the weights; empty if the network is untrained.
        golden: `File` or None, an input and its logits at every exit.
        trained: bool, whether the entry has weights.
        config: dict, all arguments of `ak.models.build`; of an ensemble, its members and their validation errors.
        class_names: list of str.
        accuracies: list of float, the accuracy at each exit, earliest first; of None if the network is untrained.
        macs: list of int, the MACs of each exit including all heads so far.
        members: list of (name, label), the networks of an `EANN`; empty for others. An ensemble's files are those of
            its members, its lineage contains theirs, and its exits are the used ones.

    Example:
    >>> import anytime_keras as ak
    >>> weights = ak.zoo.show("resann2x16_adaloss_digits").pick("digits")
    >>> weights.trained, len(weights.accuracies), weights.class_names[-1]
    (True, 6, '9')
    """

    def __init__(self, label, content):
        self.label, self.content = label, content
        self.files = [File(**file) for file in content["files"]]
        self.golden = File(**content["golden"]) if content["golden"] else None
        self.trained, self.config = bool(self.files), dict(content["config"])
        self.members = [tuple(member.split(":")) for member in self.config.get("members", ())]
        self.class_names = content["data"]["class_names"]
        self.accuracies = [exit["accuracy"] for exit in content["exits"]]
        self.macs = [exit["with_all_heads"] for exit in content["exits"]]

    @property
    def preprocessor(self):
        """The `Preprocessor` from raw images to the network's inputs, or None if the network is untrained."""
        data, shape = self.content["data"], self.content["config"]["input_shape"]
        if data["mean"] is None:
            return None
        recipe = self.content["lineage"][-1]["recipe"].get("data")
        cropped = isinstance(recipe, dict) and recipe.get("image_size") or defaults(data["name"]).image_size
        return Preprocessor(shape, data["mean"], data["std"], crops.short_side(shape[:2]) if cropped else None)

    def table(self):
        """Returns the exits' costs and accuracies as a text table."""
        rows = []
        for exit in self.content["exits"]:
            accuracy = "not trained" if exit["accuracy"] is None else f"{100 * exit['accuracy']:.2f}%"
            macs, params = exit["with_all_heads"] / 1e6, exit["params"] / 1e3
            rows.append([exit["name"], f"{macs:,.3f}", f"{params:,.1f}", accuracy])
        return _tables.table(["exit", "MACs (M)", "params (k)", "accuracy"], rows)


class Manifest:
    """The zoo's description of one network, which prints as a summary.

    Attributes:
        name: str.
        content: dict, as in the JSON file.
        architecture: str, a name for `ak.models.build`, or `"eann"`.
        default: str, the label of the weights that `load` uses by default.
        weights: dict from a label to its `Weights`.

    Example:
    >>> import anytime_keras as ak
    >>> manifest = ak.zoo.show("resann2x16_adaloss_digits")
    >>> manifest.architecture, list(manifest.weights), manifest.curve()[-1].exit
    ('resann', ['digits'], 'exit_6')
    """

    def __init__(self, content):
        self.content = checked(content)
        self.name, self.architecture = content["name"], content["architecture"]
        self.default = content["default"]
        self.weights = {label: Weights(label, entry) for label, entry in content["weights"].items()}

    @classmethod
    def parse(cls, text, where):
        """Parses JSON; `where` is its location for error messages."""
        with _errors.explained(f"The manifest '{where}' is not valid: ", ValueError, RecursionError):
            return cls(json.loads(text, parse_constant=_no_constant))

    def pick(self, label="default"):
        """Returns the `Weights` with a label."""
        label = self.default if label == "default" else label
        expected = f"`weights` must be a label of '{self.name}'. Received: weights='{{}}'."
        _errors.check_known([label], self.weights, expected)
        return self.weights[label]

    def curve(self, label="default"):
        """Returns the measured `Curve`, with error, loss and cost at each exit."""
        entry = self.pick(label)
        if not entry.trained:
            raise ValueError(f"'{self.name}' has no curve for '{entry.label}', because it has not been trained yet.")
        costs = ("backbone", "with_head", "with_all_heads", "params")
        points = [
            CurvePoint(exit["name"], 1 - exit["accuracy"], exit["loss"], *(exit[cost] for cost in costs))
            for exit in entry.content["exits"]
        ]
        return Curve(points, self.name, {"data": entry.content["data"]["name"], **entry.content["measured"]})

    def to_json(self):
        """Returns the manifest as JSON text, as stored in the zoo."""
        return json.dumps(self.content, indent=1) + "\n"

    def __repr__(self):
        return f"Manifest({self.name!r}, weights={[*self.weights]})"

    def _repr_markdown_(self):
        return f"```\n{self}\n```"

    def __str__(self):
        lines = [f"{self.name}: {self.content['description']}", f"architecture {self.architecture}"]
        for label, entry in self.weights.items():
            data, lineage, measured = (entry.content[key] for key in ("data", "lineage", "measured"))
            weighting = " ".join(f"{key}={value}" for key, value in entry.content["weighting"].items())
            lines += [
                "",
                f"weights '{label}'{' (default)' if label == self.default else ''}",
                f"  data       {data['name']} ({data['licence']}; {data['source']})",
                f"  input      {tuple(entry.config['input_shape'])}, {entry.config['num_classes']} classes",
                f"  weighting  {weighting}",
                *(f"  member     {name}, weights '{of}'" for name, of in entry.members),
            ]
            for number, cycle in enumerate(lineage, start=1):
                lines.append(f"  cycle {number}    {_cycle(cycle)}")
                if cycle["note"]:
                    lines.append(f"  note       {cycle['note']}")
            if entry.trained:
                size = sum(file.bytes for file in entry.files)
                lines.append(f"  accuracy   on {measured['images']} {measured['split']} images")
                lines.append(f"  files      {size:,} bytes, {entry.content['precision']}")
            else:
                lines.append(f"  not trained yet: `anytime-keras zoo train {self.name} --weights={label}`")
            lines += [f"  {line}" for line in entry.table().splitlines()]
        return "\n".join(lines)


def _cycle(cycle):
    """Describes a training cycle in one line."""
    parts = [f"{cycle['epochs']:.4g} epochs"]
    if cycle["minutes"] is not None:
        parts[0] += f" in {cycle['minutes']:.1f} minutes"
    parts.append(f"seed {cycle['seed']}")
    if cycle["recipe"].get("init"):
        parts.append(f"from {cycle['recipe']['init']}")
    if cycle["after"]:
        before = f"{100 * (1 - cycle['before'][-1]):.2f}% to " if cycle["before"] else ""
        parts.append(f"validation accuracy at the last exit {before}{100 * (1 - cycle['after'][-1]):.2f}%")
    return ", ".join(parts)


def checked(content):
    """Returns a manifest's content, or raises ValueError if it violates the schema or is inconsistent."""
    schema.check(content, schema.MANIFEST, "manifest")
    if content["format"] != FORMAT:
        raise ValueError(f"manifest.format must be {FORMAT}. Received: {content['format']}. Update anytime_keras.")
    check_choice("manifest.architecture", content["architecture"], [*NETWORKS, ENSEMBLE])
    check_choice("manifest.default", content["default"], content["weights"])
    for label, entry in content["weights"].items():
        where = f"weights.{label}"
        schema.check_name(label, "a label of weights")
        schema.check(entry, schema.ENTRY, where)
        _check_config(content["architecture"], entry, where)
        _check_training(entry, where)
    return content


# Limit of any count in a network's config except classes, such as units, channels and depth. Larger networks take
# minutes to build.
LARGEST = 256


def _check_config(architecture, entry, where):
    config, data = entry["config"], entry["data"]
    ensemble = architecture == ENSEMBLE
    known = ENSEMBLE_CONFIG if ensemble else inspect.signature(NETWORKS[architecture][0]).parameters
    _errors.check_known(config, known, f"{where}.config: '{architecture}' has no argument '{{}}'.")
    missing = [key for key in known if key not in config and key not in ("self", "name", "dtype", "kwargs")]
    if missing:
        raise ValueError(f"{where}.config must contain all arguments. Missing: {missing}.")
    if ensemble:
        schema.check(config["members"], [schema.check_member], f"{where}.config.members")
        schema.check(config["errors"], [[schema.check_share]], f"{where}.config.errors")
    shape = config["input_shape"]
    schema.check(shape, [int], f"{where}.config.input_shape")
    if len(shape) != 3 or not all(0 < side <= 2**14 for side in shape):
        raise ValueError(f"{where}.config.input_shape must be (height, width, channels). Received: {shape}.")
    for key, value in config.items():
        most = min(entry["params"], math.inf if key == "num_classes" else LARGEST)
        if key != "input_shape" and _largest(value) > most:  # building could take very long
            raise ValueError(f"{where}.config.{key} must not exceed {most}. Received: {value!r:.60}.")
    channels, classes, names = config["input_shape"][2], config["num_classes"], data["class_names"]
    if names is not None and len(names) != classes:
        raise ValueError(f"{where}.data.class_names must have {classes} names. Received: {len(names)} names.")
    for key in ("mean", "std"):
        if data[key] is not None and (len(data[key]) != channels or (key == "std" and min(data[key]) <= 0)):
            raise ValueError(f"{where}.data.{key} must have {channels} numbers, std above 0. Received: {data[key]}.")


def _largest(value):
    """Returns the largest number in an argument, or 0 if there is none."""
    if isinstance(value, list):
        return max(map(_largest, value), default=0)
    return value if isinstance(value, (int, float)) else 0


def _check_training(entry, where):
    """Raises ValueError if an entry is only partly described as trained."""
    exits, data, ensemble = entry["exits"], entry["data"], "members" in entry["config"]
    if not exits or exits[-1]["params"] != entry["params"]:
        raise ValueError(f"{where}.exits must end with {entry['params']} parameters. Received: {exits[-1:]}.")
    facts = {key: bool(entry[key]) for key in ("files", "measured", "lineage", "precision")}
    if not ensemble:  # its members have golden pairs
        facts["golden"] = bool(entry["golden"])
    facts.update({f"data.{key}": data[key] is not None for key in ("class_names", "mean", "std", "sizes")})
    facts.update({f"exits.{exit['name']}.accuracy": exit["accuracy"] is not None for exit in exits})
    if len(set(facts.values())) > 1:
        missing = [key for key, known in facts.items() if not known]
        raise ValueError(f"{where} must have all fields of a trained network, or none. Missing: {', '.join(missing)}.")
    received = sum(file["bytes"] for file in entry["files"])
    # An ensemble's files are checked as those of its members; its parameters end at its last used exit.
    if not ensemble and received > 8 * entry["params"] + 2**21:  # 4 bytes per parameter, with a margin
        raise ValueError(f"{where}.files must fit {entry['params']} parameters. Received: {received} bytes.")


def _no_constant(name):
    raise ValueError(f"{name} is not a JSON number.")
