"""Cost inflation of an EANN over the best single network at each budget: Proposition 4.1 and a simulation.

Members have depths 1, b, b^2, ... At budget B, an ensemble is as good as the best single network of depth B / C, where
C is the cost inflation. A member of depth L is assumed to be competitive from depth L / b on if it is anytime, and only
at its end otherwise.

Reference: [Hu, Dey, Hebert, Bagnell, AAAI 2019](https://arxiv.org/abs/1708.06832), section 4 and appendix A.
"""

import dataclasses
import math

import numpy as np

from anytime_keras._checks import check_int


@dataclasses.dataclass(frozen=True)
class Inflation:
    """Cost inflation C over all budgets.

    Attributes:
        sup: float, the supremum.
        mean: float, the mean over uniformly distributed budgets.
    """

    sup: float
    mean: float


def bounds(base, workers=1, anytime=True):
    """Returns bounds on the cost inflation of an infinite sequence of networks.

    For anytime networks, these are the bounds of Proposition 4.1 (equations 5 and 6), with `base ** M` instead of the
    base for M parallel workers; for one worker, an infinite sequence attains them. For plain networks and one worker,
    they are the limits derived in the appendix; for more workers we extend that argument to members that start when the
    M-th member before them ends.

    Args:
        base: float above 1, ratio of the depths of successive members.
        workers: int, number of members that run in parallel, first in first out.
        anytime: bool, whether members have exits.

    Returns:
        An `Inflation`.

    Example:
    >>> bounds(2.0).sup, round(bounds(2.0).mean, 2)
    (3.0, 2.44)
    >>> round(bounds(1 + 2**0.5, anytime=False).mean, 2)
    2.91
    """
    _check(base, workers)
    power = base**workers
    if anytime:
        return Inflation(2 + 1 / (power - 1), 1 - 1 / (2 * power) + (1 + math.log(power)) / (power - 1))
    # Member n ends at power / (power - 1) * base^n, and answers until the next ends.
    end = power / (power - 1)
    return Inflation(base * end, end * (1 + base) / 2)


def simulate(base, workers=1, anytime=True, num_members=12, num_budgets=200_001):
    """Simulates a sequence of networks and computes its cost inflation.

    Args:
        base, workers, anytime: as in `bounds`.
        num_members: int, number of networks.
        num_budgets: int, number of budgets, spaced evenly from the end of the first member to the end of the last.

    Returns:
        An `Inflation`.

    Example:
    >>> measured, bound = simulate(2.0), bounds(2.0)
    >>> measured.sup < bound.sup and measured.mean < bound.mean
    True
    """
    _check(base, workers)
    check_int("num_members", num_members, high=100)
    lengths = float(base) ** np.arange(num_members)
    free, starts = [0.0] * workers, []
    for length in lengths:  # first in first out: the next member runs on the first free worker
        worker = int(np.argmin(free))
        starts.append(free[worker])
        free[worker] += length
    starts = np.array(starts)
    budgets = np.linspace(1.0, (starts + lengths)[-1], num_budgets)
    competes_with = np.zeros(num_budgets)
    for start, length in zip(starts, lengths):
        depth = np.clip(budgets - start, 0.0, length)
        from_here = length / base if anytime else length
        # The paper's condition is strict, depth > L / b; the first member, of depth 1, counts once it is complete.
        good = depth > from_here if anytime and length > 1 else depth >= length
        competes_with = np.maximum(competes_with, np.where(good, depth, 0.0))
    inflation = budgets / competes_with
    return Inflation(float(inflation.max()), float(inflation.mean()))


def _check(base, workers):
    if not 1 < base < math.inf:
        raise ValueError(f"`base` must be a finite number above 1. Received: base={base!r}.")
    check_int("workers", workers)
