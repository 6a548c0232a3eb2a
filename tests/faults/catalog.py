"""All faults by name: the backend of each, the default number of tries, and its function."""

import pathlib
import tempfile

from tests.faults.tally import Tally

KILLS = {"training": 0.34, "saving": 0.22, "downloading": 0.22, "publishing": 0.22}  # shares of `--kills`
# name: (backend, count)
FAULTS = {
    **{f"killed while {name}": ("tensorflow" if name == "training" else "numpy", None) for name in KILLS},
    "torn writes": ("numpy", 60),
    "disk full while training": ("tensorflow", 6),
    "disk full": ("numpy", 90),
    "read-only cache": ("numpy", 10),
    "damaged files": ("numpy", 360),
    "NaN batches": ("tensorflow", 6),
    "corrupt images": ("tensorflow", 6),
    "corrupt images skipped": ("tensorflow", 4),
    "interrupted training": ("tensorflow", 6),
    "interrupted fit": ("tensorflow", 6),
    "two trainings in one folder": ("tensorflow", 4),
    "fuzz: manifests": ("numpy", 1500),
    "fuzz: manifest texts": ("numpy", 1500),
    "fuzz: npz files": ("numpy", 1000),
    "fuzz: image folders": ("numpy", 500),
    "fuzz: recipes": ("numpy", 1500),
    "fuzz: command lines": ("numpy", 1000),
}


def count_of(name, kills, share):
    """Returns how often to try a fault: its share of the kills, or a multiple of its default."""
    backend, count = FAULTS[name]
    if count is None:
        return max(1, round(kills * KILLS[name.removeprefix("killed while ")]))
    return max(1, round(share * count))


def run(name, count, rng):
    """Runs a fault in this process, which must use the fault's backend; returns its `Tally`."""
    return (_on_numpy if FAULTS[name][0] == "numpy" else _on_tensorflow)(name, count, rng)


def _on_numpy(name, count, rng):
    from tests.faults import damage, full_disks, fuzz, kills, subjects

    subjects.prepare()
    if name.startswith("killed while "):
        return kills.kill_often(subjects.SUBJECTS[name.removeprefix("killed while ")], count, rng)
    if name == "torn writes":
        total = Tally()
        for subject, make in subjects.SUBJECTS.items():
            part = kills.kill_often(make, -(-count // 3), rng, kinds=("byte",))
            total.add(part, subject)
        return total
    faults = {
        "disk full": full_disks.full_disks({subject: (make, 1 / 3) for subject, make in subjects.SUBJECTS.items()}),
        "read-only cache": full_disks.read_only_cache(subjects.Downloading),
        "damaged files": damage.damaged_files,
        "fuzz: manifests": fuzz.manifests,
        "fuzz: manifest texts": fuzz.manifest_texts,
        "fuzz: npz files": fuzz.npz_files,
        "fuzz: image folders": fuzz.image_folders,
        "fuzz: recipes": fuzz.recipe_files,
        "fuzz: command lines": fuzz.command_lines,
    }
    return faults[name](count, rng)


def _on_tensorflow(name, count, rng):
    from tests.faults import full_disks, kills, trainings

    if name == "killed while training":
        return kills.kill_often(trainings.Training, count, rng)
    if name == "disk full while training":
        return full_disks.full_disks({"training": (trainings.Training, 1)})(count, rng)
    tally, stops = Tally(), []
    with tempfile.TemporaryDirectory() as home:
        home = pathlib.Path(home).resolve()
        for number in range(count):
            folder = home / str(number)
            if name == "NaN batches":
                where = int(rng.integers(trainings.EPOCHS)), int(rng.integers(3))
                tries = [lambda: trainings.in_child(trainings.nan_batch, folder, *where)]
            elif name.startswith("corrupt images"):
                skip = name.endswith("skipped")
                tries = [lambda: trainings.in_child(trainings.corrupt_image, folder, rng.spawn(1)[0], skip)]
            elif name == "interrupted fit":
                tries = [lambda: stops.append(trainings.in_child(trainings.interrupted_fit, rng.uniform(0.1, 9)))]
            elif name == "interrupted training":
                tries = [lambda: stops.append(trainings.in_child(trainings.interrupted, folder, rng.uniform(0.1, 9)))]
            else:
                tries = [lambda: trainings.second_training(folder, trainings.reference(), rng)]
            if name in ("NaN batches", "interrupted training"):
                tries.append(lambda: trainings.same(trainings.results(folder), trainings.reference()))
            tally.count(f"try {number}", lambda: [each() for each in tries])
    if stops:
        tally.note(f"{sum(stops)} of {len(stops)} were interrupted before they had ended")
    return tally
