"""Processes that are killed at random moments; each must leave intact files from which the next can continue."""

import collections
import pathlib
import signal
import tempfile

from tests.faults import dying
from tests.faults.tally import Tally


def kill_often(make, count, rng, kinds=None):
    """Kills a subject's deed repeatedly, then lets it finish.

    Args:
        make: function of a folder and `rng` that makes the subject.
        count: int, how many processes to kill.
        rng: `numpy.random.Generator`.
        kinds: kinds of `dying.Moment`; None for the subject's own, in turn.

    Returns:
        A `Tally` of the kills. Deeds that finish before their kill are checked but not counted.
    """
    from tests.faults.subjects import draw, longest_file

    tally, killed, ends = Tally(), collections.Counter(), 0
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder).resolve()
        subject = make(folder, rng)
        kinds = kinds or subject.kinds
        _in_peace(subject, folder)
        reach = {}
        for kind in kinds:
            subject.begin()
            reach[kind] = longest_file(folder) if kind == "byte" else dying.measure(subject.deed, folder, kind)
            if kind != "byte":
                subject.finished()
        while sum(killed.values()) < count and ends < 5 + 5 * count:
            kind = kinds[(sum(killed.values()) + ends) % len(kinds)]
            moment = draw(rng, kind, reach[kind])
            subject.begin()
            end = dying.run(subject.deed, folder, moment)
            if end.signal in (signal.SIGKILL, signal.SIGXFSZ) and not end.error:
                killed[kind] += 1
                tally.count(f"killed at {moment}", subject.check)
            elif end.error or end.signal:
                tally.count(f"to be killed at {moment}", _fail, f"it failed: signal {end.signal}, {end.error}")
                ends += 1
            else:
                ends += 1
                _checked(tally, f"not killed at {moment}", subject)
        if tally.tried < count:
            tally.found.append(f"only {tally.tried} of {count} processes could be killed in time")
        try:
            _in_peace(subject, folder)
        except Exception as error:
            tally.found.append(f"after all: {error}"[:2000])
        if hasattr(subject, "notes"):
            tally.notes.extend(subject.notes())
    tally.note(", ".join(f"{number} at a random {kind.rstrip('s')}" for kind, number in killed.items()))
    tally.note(f"{ends} ended before their moment came")
    return tally


def _in_peace(subject, folder):
    subject.begin()
    end = dying.run(subject.deed, folder)
    if end.error or end.signal:
        raise RuntimeError(f"fails without a fault: signal {end.signal}, {end.error}")
    subject.finished()


def _checked(tally, what, subject):
    try:
        subject.finished()
    except Exception as error:
        tally.found.append(f"{what}: {error}"[:2000])


def _fail(text):
    raise AssertionError(text)
