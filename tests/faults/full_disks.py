"""Disks that fill up or are read-only while a run is saved, a download is stored or a network is published."""

import os
import pathlib
import tempfile

from tests.faults import disks, dying
from tests.faults.tally import Tally

MEANS = ("No space left on device", "File too large", "Read-only file system", "errno = 28", "errno = 27")


def full_disks(subjects):
    """Returns a fault: the deeds of each subject on a disk that fills up at a random byte."""

    def fault(count, rng):
        tally = Tally()
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder).resolve()
            for name, (make, share) in subjects.items():
                end = dying.run(lambda arm: _fill_often(name, make, folder, max(1, round(share * count)), rng))
                if end.result is None:
                    tally.count(name, _fail, f"signal {end.signal}, {end.error}")
                    continue
                tally.tried += end.result.tried
                tally.survived += end.result.survived
                tally.found += end.result.found
                for note in end.result.notes:
                    tally.note(note)
        return tally

    return fault


def _fill_often(name, make, folder, count, rng):
    """Runs in a fork, because only it and its children see its disk."""
    own = disks.own_disk(folder)
    tally, refused = Tally(), 0
    subject = make(folder, rng)
    for number in range(count):
        subject.begin()
        needed = 4096 * int(2 ** rng.uniform(0, 7))  # up to 512 kB, small ones more often

        def try_it():
            nonlocal refused
            with disks.almost_full(folder, needed, own):
                end = dying.run(lambda arm: _error(subject.deed))
            assert not end.error and not end.signal, f"it ended with signal {end.signal}, {end.error}"
            if end.result is not None:
                refused += 1
                kind, text = end.result
                assert kind is OSError and any(means in text for means in MEANS), f"no clear error: {kind}, {text}"
            subject.check()
            subject.begin()
            end = dying.run(subject.deed)
            assert not end.error and not end.signal, f"not even with room again: {end.error}"
            subject.finished()

        tally.count(f"{name} with {needed} bytes left", try_it)
    how = "a tmpfs that was full (ENOSPC)" if own else "RLIMIT_FSIZE (EFBIG), since no tmpfs could be mounted"
    tally.note(f"{name}: {refused} of {count} ended in an error; by {how}")
    return tally


def _error(deed):
    """Returns the kind and the text of a deed's error, or None."""
    try:
        deed(lambda: None)
    except Exception as error:
        return (OSError if isinstance(error, OSError) else type(error)), str(error)


def read_only_cache(make):
    """Returns a fault: a read-only cache serves its files, and an error explains what is missing."""

    def fault(count, rng):
        tally = Tally()
        for _ in range(count):
            with tempfile.TemporaryDirectory() as folder:
                end = dying.run(lambda arm: _read_only(make, pathlib.Path(folder).resolve(), rng.spawn(1)[0]))
                tally.count("read-only", lambda: None if end.result else _fail(f"{end.signal} {end.error}"))
                tally.note(f"by {end.result}")
        return tally

    return fault


def _read_only(make, folder, rng):
    own = disks.own_disk(folder)
    subject = make(folder, rng)
    subject.deed(lambda: None)
    whole = rng.random() < 0.5
    if not whole:
        subject.begin()
    held = sorted(subject.cached())
    if own:
        disks.make_read_only(folder)
    else:
        for path in [folder, *folder.rglob("*")]:
            path.chmod(0o555 if path.is_dir() else 0o444)
        if os.geteuid() == 0:
            os.seteuid(65534)
    try:
        subject.deed(lambda: None)
        assert whole, "it is not held and cannot be kept, and nothing was said"
    except OSError as error:
        assert not whole, f"held, but not given: {error}"
        assert "not writable" in str(error) and "ANYTIME_KERAS_CACHE" in str(error), str(error)
    assert sorted(subject.cached()) == held
    return "a tmpfs mounted to be read alone (EROFS)" if own else "permissions"


def _fail(text):
    raise AssertionError(text)
