"""`EANN`: an ensemble of anytime networks of growing depth, near-optimal at every budget for a constant cost factor.

Reference: [Hu, Dey, Hebert, Bagnell, AAAI 2019](https://arxiv.org/abs/1708.06832), section 4.
"""

import dataclasses
import json
import pathlib

import keras

from anytime_keras import _files, graph
from anytime_keras._checks import check_positive
from anytime_keras._errors import explained
from anytime_keras.cost import ExitCost, exit_costs
from anytime_keras.evaluation import Curve, Samples, evaluate
from anytime_keras.inference.stages import Stages, chosen_exits, in_dtype

DESCRIPTION = "eann.json"


def depths(base, count, growth=2.0):
    """Returns exponentially growing depths (units, blocks or layers) for the members of an EANN.

    Proposition 4.1 bounds the cost inflation for each growth factor; see `inflation`. The paper uses ResANNs of 7, 13
    and 25 units per block.

    Args:
        base: int, the first member's depth.
        count: int, number of members.
        growth: float above 1, ratio of the depths of successive members.

    Returns:
        A list of int.

    Example:
    >>> depths(7, 3)
    [7, 14, 28]
    """
    base, count = check_positive(base=base, count=count)
    if not 1 < growth < float("inf"):
        raise ValueError(f"`growth` must be a finite number above 1. Received: growth={growth!r}.")
    proposed = [round(base * growth**number) for number in range(count)]
    if len(set(proposed)) < count:
        raise ValueError(f"`growth` is too small for depths from {base} on: {proposed}. Received: growth={growth!r}.")
    return proposed


@dataclasses.dataclass(frozen=True)
class EnsembleExit:
    """An exit of one ensemble member.

    Attributes:
        name: str, the exit's name in the ensemble, such as `"member_2/exit_3"`.
        member: int, the member's index, from 0.
        exit: str, the exit's name in the member.
        error: float, error rate on the validation images.
        used: bool, whether the error is lower than that of every earlier exit. Other exits are skipped.
        cost: `ExitCost`, cumulative: includes each earlier member up to its last used exit.
    """

    name: str
    member: int
    exit: str
    error: float
    used: bool
    cost: ExitCost

    @property
    def macs(self):
        """Multiply-accumulates of one sample up to this exit, including all heads so far."""
        return self.cost.with_all_heads


class EANN:
    """An ensemble of anytime networks that run one after the other, smallest first.

    An exit is used only if its validation error is lower than that of all earlier exits. If the later half of each
    member is near-optimal, as after training with AdaLoss, exponentially growing depths make the ensemble near-optimal
    at every budget (`inflation` computes the extra cost). Run it with `Predictor(eann, example)`.

    Reference: [Hu, Dey, Hebert, Bagnell, AAAI 2019](https://arxiv.org/abs/1708.06832), section 4.

    Args:
        members: list of two or more functional Keras models in order of cost, with the same inputs and classes.
        validation: batches of (x, y) or a pair of arrays, held out from training, used to select exits.

    Attributes:
        members: list of models.
        exits: list of `EnsembleExit`, all exits of all members in the order of computation.
        errors: list of lists of float, each member's error rates on the validation images.
        inference: dict or None, the results of `Predictor.calibrate` and `fit_thresholds`.

    Raises:
        ValueError: if the members' costs do not increase, or their inputs or outputs differ.

    Example:
    >>> import anytime_keras as ak
    >>> shape = dict(input_shape=(8, 8, 1), num_classes=10)
    >>> members = [ak.models.build("resann", num_units=n, channels=4, **shape) for n in ak.inference.depths(1, 2)]
    >>> eann = ak.EANN(members, validation=ak.data.load("digits").validation)
    >>> eann.exits[0].name, eann.exits[0].used, len(eann.exits)
    ('member_1/exit_1', True, 9)
    """

    def __init__(self, members, validation):
        members = _checked(members)
        if hasattr(validation, "__next__"):  # an iterator could be read only once
            validation = list(validation)
        curves = [evaluate(member, validation) for member in members]
        self._set(members, [curve.errors for curve in curves])

    @classmethod
    def from_errors(cls, members, errors, inference=None):
        """Creates an ensemble whose members have been measured already.

        Args:
            members: as in `EANN`.
            errors: for each member, the list of its exits' error rates on validation images.
            inference: as in the attributes.

        Returns:
            An `EANN`.

        Raises:
            ValueError: as in `EANN`, or if there is not one error for each exit.

        Example:
        >>> import anytime_keras as ak
        >>> shape = dict(input_shape=(8, 8, 1), num_classes=10)
        >>> members = [ak.models.build("resann", num_units=n, channels=4, **shape) for n in (1, 2)]
        >>> eann = ak.EANN.from_errors(members, [[0.3, 0.2, 0.1], [0.3, 0.2, 0.15, 0.09, 0.08, 0.07]])
        >>> eann.exit_names[2:]
        ['member_1/exit_3', 'member_2/exit_4', 'member_2/exit_5', 'member_2/exit_6']
        """
        members, errors = _checked(members), [[float(error) for error in member] for member in errors]
        counts, expected = ([len(each) for each in group] for group in (errors, map(graph.outputs_by_name, members)))
        if counts != expected:
            raise ValueError(f"`errors` must have one number for each exit: {expected}. Received: {counts}.")
        eann = cls.__new__(cls)
        eann._set(members, errors, inference)
        return eann

    def _set(self, members, errors, inference=None):
        self.members, self.errors, self.inference = members, errors, inference
        best, used = float("inf"), {}
        for number, (member, member_errors) in enumerate(zip(members, errors)):
            for name, error in zip(graph.outputs_by_name(member), member_errors):
                if error < best:
                    used.setdefault(number, []).append(name)
                    best = error
        self._used, self._exits = used, (None, None)

    def __repr__(self):
        return f"{type(self).__name__}(members={[member.name for member in self.members]}, exits={self.exit_names})"

    @property
    def exits(self):
        shapes = [tuple(weight.shape) for member in self.members for weight in member.weights]
        if self._exits[0] != shapes:  # `enable_lora` and `quantize` change the shapes
            costs = self._costs("all")
            exits = [
                EnsembleExit(cost.exit, number, name, error, name in self._used.get(number, ()), cost)
                for number, member_errors in enumerate(self.errors)
                for (name, cost), error in zip(costs[number].items(), member_errors)
            ]
            self._exits = shapes, exits
        return self._exits[1]

    def _costs(self, layers):
        """Counts the cumulative costs: for each member, a dict from exit name to `ExitCost`.

        Each member counts up to its last used exit, with the heads of its used exits only, as it runs.
        """
        every, spent = [], (0, 0, 0, 0)  # the numbers of an `ExitCost`
        for number, member in enumerate(self.members):
            member = graph.opened(member)
            outputs, used, inputs = graph.outputs_by_name(member), self._used.get(number, []), member.inputs
            own = {cost.exit: cost for cost in exit_costs(member, layers)}
            if used:
                without_others = keras.Model(inputs, {name: outputs[name] for name in used})
                own.update((cost.exit, cost) for cost in exit_costs(without_others, layers))
            total = {}
            for name in outputs:
                _, *now = dataclasses.astuple(own[name])
                total[name] = ExitCost(f"member_{number + 1}/{name}", *map(sum, zip(spent, now)))
            every.append(total)
            if used:
                _, *spent = dataclasses.astuple(total[used[-1]])
        return every

    @property
    def exit_names(self):
        """The names of the used exits in the order in which they answer, a list of str."""
        return [own.name for own in self.exits if own.used]

    def stages(self, dtype=None):
        """Returns the stages of the used exits, for `Predictor`."""
        members = [member if dtype is None else in_dtype(graph.functional(member), dtype) for member in self.members]
        places = {own.name: (own.member, own.exit) for own in self.exits if own.used}
        return EnsembleStages(members, places)

    def curve(self, data, name="eann", layers="all"):
        """Evaluates the used exits on a data set: error against cumulative cost.

        Args:
            data: as in `anytime_keras.evaluate`.
            name: str, the curve's name.
            layers: `"all"` or `"conv"`, which MACs count.

        Returns:
            A `Curve`.
        """
        points, parts, costs = [], [], self._costs(layers)
        temperatures = (self.inference or {}).get("temperatures", {})
        for number, used in self._used.items():
            names = {own: f"member_{number + 1}/{own}" for own in used}
            of_member = {own: temperatures.get(name, 1.0) for own, name in names.items()} if temperatures else {}
            measured = evaluate(self.members[number], data, layers, temperatures=of_member)
            parts.append((measured.samples, names))
            for point in measured:
                if point.exit in used:
                    points.append(dataclasses.replace(point, **dataclasses.asdict(costs[number][point.exit])))
        return Curve(points, name, measured.about, Samples.joined(parts))

    def save(self, folder):
        """Saves the members, their errors and the calibration to a new or empty folder.

        Raises:
            ValueError: if the folder is not empty.
        """
        folder = pathlib.Path(folder).expanduser()
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ValueError(f"'{folder}' is not empty. Name a new folder.")
        with _files.writing_folder(folder) as whole:
            for number, member in enumerate(self.members):
                member.save(whole / _file(number))
            _files.to_json({"errors": self.errors, "inference": self.inference}, whole / DESCRIPTION)

    @classmethod
    def load(cls, folder):
        """Loads an ensemble from a folder written by `save`.

        Raises:
            ValueError: if the folder does not contain an ensemble.
        """
        folder = pathlib.Path(folder)
        what = f"'{folder}' must be a folder that `EANN.save` wrote. Received: "
        with explained(what, OSError, ValueError, KeyError, TypeError, end="."):
            content = json.loads((folder / DESCRIPTION).read_text())
            errors = [[float(error) for error in member] for member in content["errors"]]
            inference = content["inference"]
        members = [keras.saving.load_model(folder / _file(number)) for number in range(len(errors))]
        with explained(f"'{folder / DESCRIPTION}' does not describe the members beside it: ", ValueError):
            return cls.from_errors(members, errors, inference)


class EnsembleStages(Stages):
    """The stages of all members in order; the first stage of each member takes the network's input.

    Args:
        members: list of functional models.
        places: dict from exit name to (index of the member, name of the exit in the member), in order.
        exits: names of the exits to use; None uses all of `places`.
    """

    def __init__(self, members, places, exits=None):
        self._members, self._places = members, places
        self.exit_names = chosen_exits(exits, list(places))
        self._parts = [Stages(model, list(names.values())) for model, names in self.members()]
        self._steps = [(part, position) for part in self._parts for position in range(len(part))]
        self.model = graph.functional(members[0])

    def at(self, exits):
        return EnsembleStages(self._members, self._places, exits)

    def members(self):
        chosen = {}
        for name in self.exit_names:
            member, own = self._places[name]
            chosen.setdefault(member, {})[name] = own
        return [(graph.functional(self._members[member]), names) for member, names in chosen.items()]

    def ends(self, position):
        part, own = self._steps[position]
        return part.ends(own)

    def segment(self, position, head=True):
        part, own = self._steps[position]
        return part.segment(own, head)

    def ends_in_sigmoid(self, position):
        part, own = self._steps[position]
        return part.ends_in_sigmoid(own)

    def starts(self, position):
        return self._steps[position][1] == 0

    def costs(self, started):
        """Counts the cost of each exit.

        `backbone` and `with_head` count the exit's member alone, which is what a run straight to the exit computes;
        `with_all_heads` and `params` are cumulative over members.
        """
        costs, spent, params = [], 0, 0
        for part in self._parts:
            for cost in part.costs(started):
                sums = {"with_all_heads": spent + cost.with_all_heads, "params": params + cost.params}
                costs.append(dataclasses.replace(cost, exit=self.exit_names[len(costs)], **sums))
            spent, params = costs[-1].with_all_heads, costs[-1].params
        return costs


def _checked(members):
    if not isinstance(members, (list, tuple)) or len(members) < 2:
        raise ValueError(f"An EANN needs a list of two members or more. Received: {members!r:.100}.")
    for member in members:
        if not graph.is_functional(member):
            raise ValueError(f"Members must be functional Keras models with exits. Received: {type(member).__name__}.")
    shapes = [_shapes(member) for member in members]
    if any(own != shapes[0] for own in shapes):
        raise ValueError(f"Members must have the same inputs and classes. Received: {shapes}.")
    costs = [exit_costs(member)[-1].with_all_heads for member in members]
    if sorted(set(costs)) != costs:
        raise ValueError(f"Members must be in order of increasing cost. Received: {costs} MACs.")
    return list(members)


def _shapes(member):
    outputs = {tuple(tensor.shape[1:]) for tensor in graph.outputs_by_name(member).values()}
    return [tuple(tensor.shape[1:]) for tensor in graph.functional(member).inputs], sorted(outputs)


def _file(number):
    return f"member_{number + 1}.keras"
