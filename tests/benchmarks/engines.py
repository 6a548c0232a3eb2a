"""Compares `Predictor` on each engine with bare runtimes, Keras and PyTorch; writes `results/engines.json`.

    python -m tests.benchmarks.engines
    python -m tests.benchmarks.engines --networks=resann5x16 --batches=1 --rounds=3 --out=/tmp/engines.json
    python -m tests.benchmarks.engines --minutes=15 --work=/tmp/engines     # resumes what is in that folder

Takes about an hour on two cores, half of it for conversions. Stop other programs first. All runtimes use the same
number of threads. Each runs in its own process, so that the idle threads of one do not disturb another; the processes
take turns of `--seconds`, and a ratio is the median over `--rounds` of the ratio of two medians of the same round.
Networks have random weights and at most 8 exits. PyTorch is left out if it is not installed.

`--convert` only fills `--work` and the cache of converted stages, which no other program disturbs; do it before.

`--work` keeps the converted networks, and the table of each network and batch size as soon as it is measured. A later
call with the same flags at the same commit measures only what is missing. `--minutes` leaves out what would not fit.

Contents of the file, for each network and batch size, with targets:
    milliseconds        by runtime: to the last exit, of all exits stage by stage, to the first exit; `engine_worker`
    ratios              last_<engine>: `Predictor` to the last exit, over the bare runtime's whole network; at most 1.10
                        for 1 image. stages_<engine>: every exit's answer, stage by stage, over the same; at most 1.25.
                        first_<engine>: time to the first exit, over a network with this exit only; at most 1.15.
                        auto_over_fastest: `engine="auto"` to the last exit over the fastest bare runtime.
                        early_<engine>: speed-up of 256 images by early exit over the speed-up in MACs; at least 0.85
    errors              largest difference from Keras at the last exit, relative to the largest logit
"""

import importlib.metadata
import importlib.util
import json
import math
import os
import pathlib
import pickle
import subprocess
import sys
import tempfile
import time

import keras
import numpy as np

import anytime_keras as ak
from anytime_keras.conversion import converters
from anytime_keras.conversion.parts import Parts
from tests.benchmarks import engines_page, torch_network
from tests.benchmarks.engine_worker import LARGE
from tests.benchmarks.measuring import RESULTS, parser, write

NETWORKS = {
    "resann5x16": ("resann", dict(num_units=5, channels=16, input_shape=(32, 32, 3), num_classes=10)),
    "msdnet_cifar_10exits": ("msdnet_cifar_10exits", {}),
    "msdnet33_small_stem": ("msdnet33", dict(stem="small", input_shape=(64, 64, 3), num_classes=200)),
    "resann50": ("resann50", dict(input_shape=(224, 224, 3), num_classes=1000)),
}
BARE = ("litert", "onnx", "openvino")
SUBJECTS = (*(f"predictor_{engine}" for engine in ("auto", *BARE, "tensorflow")), *BARE, "keras", "torch")
MOST_EXITS = 8
PACKAGES = ("ai-edge-litert", "onnxruntime", "openvino", "torch", "tensorflow", "keras")


def prepare(name, folder, commit):
    """Builds a network and writes it in the forms that the workers read, unless that was done at this commit.

    Returns:
        The names of its exits.
    """
    done = folder / "commit.txt"
    if done.exists() and done.read_text() == str(commit):
        return json.loads((folder / "exits.json").read_text())
    folder.mkdir(parents=True, exist_ok=True)
    keras.utils.set_random_seed(0)
    architecture, config = NETWORKS[name]
    model = ak.models.build(architecture, **config)
    names = list(model.exit_names)
    names = [names[round(place)] for place in np.linspace(0, len(names) - 1, min(len(names), MOST_EXITS))]
    rng, shape = np.random.default_rng(0), model.inputs[0].shape[1:]
    images = rng.normal(size=(LARGE if shape[0] <= 32 else 32, *shape)).astype("float32")
    for exit_name, logits in model.predict(images[:32], verbose=0).items():
        kernel = model.get_layer(exit_name).kernel
        kernel.assign(kernel / logits.std())  # so that confidences differ like after training
    model = ak.AnytimeModel(model.inputs[0], {exit_name: model.output[exit_name] for exit_name in names})
    model.save(folder / "model.keras")
    (folder / "exits.json").write_text(json.dumps(names))
    np.save(folder / "images.npy", images)
    np.save(folder / "last.npy", model.predict(images[:32], verbose=0)[names[-1]])
    (folder / "layers.pickle").write_bytes(pickle.dumps(torch_network.describe(model)))
    for file, exits in (("whole", names), ("first", names[:1])):
        part = Parts(ak.inference.Stages(model, exits)).whole
        (folder / f"{file}.tflite").write_bytes(converters.convert([part], "litert", 1)[0])
        (folder / f"{file}.onnx").write_bytes(converters.convert([part], "onnx")[0])
    done.write_text(str(commit))
    return names


def convert(networks, work, threads, commit):
    """Makes a predictor of each network on each file engine, so that later ones find their stages in the cache."""
    tables = {}
    for engine in BARE:
        for name in networks:
            begin, names = time.monotonic(), prepare(name, work / name, commit)
            model, x = keras.saving.load_model(work / name / "model.keras"), np.load(work / name / "images.npy")[:1]
            options = dict(exits=names, engine=engine, num_threads=threads, latencies=tables.get(name))
            made = ak.Predictor(model, x, **options)
            made.predict(x, budget=made.costs[0].with_head)
            tables[name] = made.latencies
            tables[name].engine = None  # not needed on the other engines
            print(f"{name} for {engine}: {time.monotonic() - begin:.0f} s", file=sys.stderr, flush=True)


class Worker:
    """A process that runs one subject in blocks, see `engine_worker`."""

    def __init__(self, subject, folder, batch, threads):
        command = [sys.executable, "-m", "tests.benchmarks.engine_worker", subject, folder, batch, threads]
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "KERAS_BACKEND": "tensorflow"}
        environment["OMP_NUM_THREADS"] = str(threads)
        self.process = subprocess.Popen(
            [str(word) for word in command], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.about = None

    def wait(self):
        """Waits until the subject is ready; raises a RuntimeError if it cannot run."""
        self.about = self._read()

    def _read(self):
        for line in self.process.stdout:
            if line[0] in "{[":  # libraries print too
                return json.loads(line)
        raise RuntimeError(f"The worker {self.process.args[3]} ended: {self.process.wait()}.")

    def block(self, what, seconds):
        """Returns the median seconds of a run."""
        print(what, seconds, file=self.process.stdin, flush=True)
        return float(np.median(self._read()))

    def end(self):
        self.process.stdin.close()
        self.process.wait()


def start(subjects, folder, batch, threads):
    """Starts the workers; returns a dict of those that are ready, and a dict with the others' errors.

    Those of fixed engines start together. `auto` measures when it starts, so it then is alone.
    """
    workers, left_out = {}, {}
    for group in (["predictor_auto"], [subject for subject in subjects if subject != "predictor_auto"]):
        started = {own: Worker(own, folder, batch, threads) for own in group if own in subjects}
        for subject, worker in started.items():
            try:
                worker.wait()
                workers[subject] = worker
            except RuntimeError as error:
                left_out[subject] = str(error)
    return {subject: workers[subject] for subject in subjects if subject in workers}, left_out


def measure(folder, batch, flags):
    """Measures all subjects in turns; returns the table of one network and batch size."""
    subjects = [subject for subject in flags.subjects if subject != "torch" or importlib.util.find_spec("torch")]
    subjects += ["torch_compiled"] if "torch" in subjects else []
    workers, left_out = start(subjects, folder, batch, flags.threads)
    try:
        medians = {(subject, what): [] for subject, worker in workers.items() for what in worker.about["runs"]}
        order = list(workers)
        for _ in range(flags.rounds):
            for subject in order:
                for what in workers[subject].about["runs"]:
                    medians[subject, what].append(workers[subject].block(what, flags.seconds))
                    time.sleep(0.02)  # idle threads stop spinning
            order.append(order.pop(0))
    finally:
        for worker in workers.values():
            worker.end()
    about = {subject: worker.about for subject, worker in workers.items()}
    milliseconds = {}
    for (subject, what), values in medians.items():
        milliseconds.setdefault(subject, {})[what] = 1e3 * float(np.median(values))
    return {
        "milliseconds": milliseconds,
        "ratios": ratios(medians, about),
        "errors": {subject: own["error"] for subject, own in about.items()},
        "auto": about.get("predictor_auto", {}).get("engine"),
        "left_out": left_out,
    }


def ratios(medians, about):
    """Returns the ratios that the module's docstring describes, of the subjects that were measured.

    >>> ratios({("predictor_litert", "last"): [2.2, 4.4, 9], ("litert", "last"): [2, 4, 9]}, {})
    {'last_litert': 1.1}
    """
    pairs = {}
    for engine in BARE:
        ours = f"predictor_{engine}"
        for what, reference in (("last", "last"), ("stages", "last"), ("first", "first")):
            pairs[f"{what}_{engine}"] = medians.get((ours, what)), medians.get((engine, reference))
    found = {
        name: round(float(np.median(np.divide(ours, theirs))), 4)
        for name, (ours, theirs) in pairs.items()
        if ours and theirs
    }
    bare = [medians[engine, "last"] for engine in BARE if (engine, "last") in medians]
    if bare and ("predictor_auto", "last") in medians:
        fastest = min(bare, key=np.median)
        found["auto_over_fastest"] = round(float(np.median(np.divide(medians["predictor_auto", "last"], fastest))), 4)
    for engine in (*BARE, "tensorflow", "auto"):
        ours = f"predictor_{engine}"
        if (ours, "early") in medians:
            speed_up = np.median(np.divide(medians[ours, "full"], medians[ours, "early"]))
            found[f"early_{engine}"] = round(float(speed_up) / about[ours]["speed_up_in_macs"], 4)
    return found


def tables(networks, work, settings, flags):
    """Measures each network, first with the first batch size; returns a dict of tables, and what was left out."""
    found, not_measured, begin, longest = {}, [], time.monotonic(), 0.0
    for batch in map(int, flags.batches.split(",")):
        for name in networks:
            left = math.inf if flags.minutes is None else begin + 60 * flags.minutes - time.monotonic()
            file, start = work / f"{name}_batch_{batch}.json", time.monotonic()
            stored = json.loads(file.read_text()) if file.exists() else {}
            if stored.get("settings") != settings:
                if left < longest:
                    not_measured.append(f"{name}, batch {batch}")
                    continue
                print(f"{name}, batch {batch}, after {start - begin:.0f} s", file=sys.stderr, flush=True)
                exits = prepare(name, work / name, flags.commit)
                stored = {"settings": settings, "exits": exits, "table": measure(work / name, batch, flags)}
                file.write_text(json.dumps(stored, default=float))
                longest = max(longest, time.monotonic() - start)
            found.setdefault(name, {"exits": stored["exits"]})[f"batch_{batch}"] = stored["table"]
    return found, not_measured


def versions():
    """Returns the versions of the runtimes that are installed."""
    installed = {}
    for package in PACKAGES:
        try:
            installed[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            pass
    return installed


def main():
    made = parser(__doc__, seconds=0.4)
    made.add_argument("--networks", default=",".join(NETWORKS), help="comma-separated names")
    made.add_argument("--batches", default="1,32", help="comma-separated batch sizes")
    made.add_argument("--subjects", default=",".join(SUBJECTS), help="comma-separated names")
    made.add_argument("--rounds", type=int, default=9)
    made.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    made.add_argument("--minutes", type=float, default=None, help="leaves out what would take longer")
    made.add_argument("--work", type=pathlib.Path, default=None, help="a folder to keep and to resume from")
    made.add_argument("--convert", action="store_true", help="only converts")
    flags = made.parse_args()
    if flags.convert:
        if flags.work is None:
            made.error("--convert needs --work")
        convert(flags.networks.split(","), flags.work, flags.threads, flags.commit)
        return
    load, networks, subjects = os.getloadavg(), flags.networks.split(","), flags.subjects
    work, settings = flags.work, json.dumps({**vars(flags), "out": None}, default=str)
    flags.subjects, flags.work = subjects.split(","), None
    with tempfile.TemporaryDirectory() as temporary:
        found, not_measured = tables(networks, work or pathlib.Path(temporary), settings, flags)
    table = {"runtimes": versions(), "threads": flags.threads, "load_before": load, "not_measured": not_measured}
    flags.subjects = subjects
    write("engines", flags, {**table, "networks": found})
    if flags.out is None:
        engines_page.write(RESULTS)


if __name__ == "__main__":
    main()
