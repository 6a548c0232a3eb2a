"""The learning rate and the image size, by the share of the run that is done."""

import itertools
import math

import keras
from keras import ops

from anytime_keras._checks import check_choice, check_number
from anytime_keras._lazy import tf

# The arguments of each schedule.
SCHEDULES = {"step": ("boundaries", "factor"), "cosine": ("warmup_epochs", "warmup"), "constant": ()}


def rate_at(schedule: dict, highest: float, share: float) -> float:
    """Returns the learning rate when a share of the run, from 0 to 1, is done.

    >>> [round(rate_at({"name": "cosine", "warmup": 0.2}, 0.1, share), 3) for share in (0.1, 0.2, 0.6, 1.0)]
    [0.05, 0.1, 0.05, 0.0]
    >>> [round(rate_at({"name": "step"}, 0.1, share), 3) for share in (0.4, 0.6, 0.8)]
    [0.1, 0.01, 0.001]
    """
    if schedule["name"] == "constant":
        return highest
    if schedule["name"] == "step":
        passed = sum(share >= boundary for boundary in schedule.get("boundaries", (0.5, 0.75)))
        return highest * schedule.get("factor", 0.1) ** passed
    warmup = schedule.get("warmup", 0.0)
    if share < warmup:
        return highest * share / warmup
    return highest * (1 + math.cos(math.pi * (share - warmup) / (1 - warmup))) / 2


def by_step(schedule: dict, highest: float, epochs: int, steps_per_epoch: int):
    """Returns Keras's learning-rate schedule by step, or a float if the rate is constant."""
    total = epochs * steps_per_epoch
    if schedule["name"] == "constant":
        return highest
    if schedule["name"] == "step":
        boundaries = [round(share * total) for share in schedule.get("boundaries", (0.5, 0.75))]
        factor = schedule.get("factor", 0.1)
        return keras.optimizers.schedules.PiecewiseConstantDecay(
            # Keras changes the rate after a boundary's step.
            [boundary - 1 for boundary in boundaries],
            [highest * factor**number for number in range(len(boundaries) + 1)],
        )
    warmup = schedule.get("warmup_epochs", 0) * steps_per_epoch + schedule.get("warmup", 0) * total
    warmup = min(round(warmup), total - 1)
    if warmup <= 0:
        return keras.optimizers.schedules.CosineDecay(highest, total)
    return keras.optimizers.schedules.CosineDecay(0.0, total - warmup, warmup_target=highest, warmup_steps=warmup)


def side_at(sizes: list, share: float) -> int:
    """Returns the side of the images, in pixels, when a share of the run is done.

    >>> [side_at([[32, 0.5], [48, 0.3], [64, 0.2]], share) for share in (0.0, 0.49, 0.5, 0.9, 1.0)]
    [32, 32, 48, 64, 64]
    """
    ends = itertools.accumulate(part for _, part in sizes)
    return next((side for (side, _), end in zip(sizes, ends) if share < end - 1e-9), sizes[-1][0])


class Side:
    """The side in pixels of a pipeline's images, which can be changed while TensorFlow reads the pipeline."""

    def __init__(self, value):
        self._variable = None
        if keras.backend.backend() == "tensorflow":
            with tf.device("CPU"):
                self._variable = tf.Variable(value)
        self.value = value

    def assign(self, value):
        if value != self.value:
            self.value = value
            if self._variable is not None:
                self._variable.assign(value)

    def __call__(self, epoch, step):
        """Returns the side for a batch, as pipelines ask for it."""
        return self.value if self._variable is None else self._variable.read_value()


def side_by_epoch(sizes: list, epochs: int):
    """Returns a function from (epoch, step) to the side of the images: each size lasts for whole epochs."""
    sides = [side_at(sizes, epoch / epochs) for epoch in range(epochs)]

    def side(epoch, step):
        if isinstance(epoch, int):
            return sides[epoch]
        return ops.take(ops.convert_to_tensor(sides, "int32"), ops.minimum(epoch, epochs - 1))

    return side


def check_schedule(schedule):
    """Raises ValueError unless `schedule` is a dict of a schedule's `name` and its arguments."""
    name, given = schedule["name"], {key: value for key, value in schedule.items() if key != "name"}
    check_choice("schedule", name, SCHEDULES)
    known = list(SCHEDULES[name])
    for key in given:
        if key not in known:
            raise ValueError(f"The schedule '{name}' takes {known}. Received: schedule={schedule}.")
    boundaries = given.get("boundaries", [])
    shares = isinstance(boundaries, (list, tuple)) and all(is_number(b) and 0 < b < 1 for b in boundaries)
    if not shares or list(boundaries) != sorted(boundaries):
        raise ValueError(f"`boundaries` must be ascending fractions between 0 and 1. Received: {boundaries!r}.")
    for key in ("factor", "warmup_epochs", "warmup"):
        check_number(key, given.get(key, 0), "of 0 or more", lambda value: 0 <= value < math.inf)
    if not given.get("warmup", 0) < 1 or {"warmup", "warmup_epochs"} <= set(given):
        raise ValueError(f"Pass `warmup`, a fraction below 1, or `warmup_epochs`. Received: schedule={schedule}.")


def check_sizes(sizes):
    """Raises unless `sizes` is a list of (side, share) with shares that sum to 1."""
    pairs = isinstance(sizes, (list, tuple)) and all(
        isinstance(pair, (list, tuple)) and len(pair) == 2 and type(pair[0]) is int and is_number(pair[1])
        and min(pair) > 0
        for pair in sizes
    )
    if not pairs or abs(sum(share for _, share in sizes) - 1) > 1e-6:
        raise ValueError(
            "`sizes` must list sides in pixels with their fractions of the run, which sum to 1: "
            f"[[32, 0.5], [48, 0.3], [64, 0.2]]. Received: sizes={sizes!r}."
        )


def is_number(value: object) -> bool:
    """Returns whether a value is a finite number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
