"""What an EANN costs more than the best single network for each budget: Proposition 4.1, and a simulation of it.

Members have depths 1, b, b^2, ... At budget B an ensemble is as good as the best single network of depth B / C; C is
its cost inflation. A member of depth L is taken to be competitive from depth L / b on if it is anytime, and at its end
alone if it is not.

Reference: [Hu, Dey, Hebert, Bagnell, AAAI 2019](https://arxiv.org/abs/1708.06832), section 4 and appendix A.
"""

import dataclasses
import math

import numpy as np


@dataclasses.dataclass(frozen=True)
class Inflation:
    """Cost inflation C over all budgets.

    Attributes:
        sup: float, the largest.
        mean: float, over budgets that are all equally likely.
    """

    sup: float
    mean: float


def bounds(base, workers=1, anytime=True):
    """Returns bounds of the cost inflation of an endless sequence of networks.

    Anytime networks: Proposition 4.1 (equations 5 and 6), with M parallel workers `base ** M` in place of the base; for
    one worker the bounds are what an endless sequence reaches. Plain networks: the limits that the appendix derives for
    one worker; for more, the same argument with members that start when the M-th before them ends, which is ours.

    Args:
        base: float above 1, the growth of depth from one member to the next.
        workers: int, how many members run at once, first in first out.
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
    """Runs a sequence of networks against the clock, and measures its cost inflation.

    Args:
        base, workers, anytime: as in `bounds`.
        num_members: int; budgets are spread evenly from the first member's end to the last's.
        num_budgets: int.

    Returns:
        An `Inflation`.

    Example:
    >>> measured, bound = simulate(2.0), bounds(2.0)
    >>> measured.sup < bound.sup and measured.mean < bound.mean
    True
    """
    _check(base, workers)
    if isinstance(num_members, bool) or not isinstance(num_members, int) or not 1 <= num_members <= 100:
        raise ValueError(f"`num_members` must be an int from 1 to 100. Received: num_members={num_members!r}.")
    lengths = float(base) ** np.arange(num_members)
    free, starts = [0.0] * workers, []
    for length in lengths:  # first in first out: the next member goes to the worker that is free first
        worker = int(np.argmin(free))
        starts.append(free[worker])
        free[worker] += length
    starts = np.array(starts)
    budgets = np.linspace(1.0, (starts + lengths)[-1], num_budgets)
    competes_with = np.zeros(num_budgets)
    for start, length in zip(starts, lengths):
        depth = np.clip(budgets - start, 0.0, length)
        from_here = length / base if anytime else length
        # At its very beginning a member is competitive as the paper says, z > L / b; the first is depth 1 at once.
        good = depth > from_here if anytime and length > 1 else depth >= length
        competes_with = np.maximum(competes_with, np.where(good, depth, 0.0))
    inflation = budgets / competes_with
    return Inflation(float(inflation.max()), float(inflation.mean()))


def _check(base, workers):
    if not 1 < base < math.inf:
        raise ValueError(f"`base` must be above 1. Received: base={base!r}.")
    if isinstance(workers, bool) or not isinstance(workers, int) or workers < 1:
        raise ValueError(f"`workers` must be a positive int. Received: workers={workers!r}.")
