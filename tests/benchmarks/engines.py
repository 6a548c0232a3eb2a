"""Compares `Predictor` on each engine with bare runtimes, Keras and PyTorch; writes `results/engines.json`.

    python -m tests.benchmarks.engines
    python -m tests.benchmarks.engines --networks=resann5x16 --batches=1 --rounds=3 --out=/tmp/engines.json

Takes about an hour on two cores, half of it for conversions. Stop other programs first. All runtimes use the same
number of threads. Each runs in its own process, so that the idle threads of one do not disturb another; the processes
take turns of `--seconds`, and a ratio is the median over `--rounds` of the ratio of two medians of the same round.
Networks have random weights and at most 8 exits. PyTorch is left out if it is not installed.

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


def prepare(name, folder):
    """Builds a network and writes it in the forms that the workers read."""
    keras.utils.set_random_seed(0)
    architecture, config = NETWORKS[name]
    model = ak.models.build(architecture, **config)
    names = list(model.exit_names)
    names = [names[round(place)] for place in np.linspace(0, len(names) - 1, min(len(names), MOST_EXITS))]
    rng, shape = np.random.default_rng(0), model.inputs[0].shape[1:]
    images = rng.normal(size=(LARGE if shape[0] <= 32 else 32, *shape)).astype("float32")
    for exit_name, logits in model.predict(images[:32], verbose=0).items():
        kernel = model.get_layer(exit_name).kernel
        kernel.assign(kernel / logits.std())  # so that confidences differ as after training
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
    return names


class Worker:
    """A process that runs one subject in blocks, see `engine_worker`."""

    def __init__(self, subject, folder, batch, threads):
        command = [sys.executable, "-m", "tests.benchmarks.engine_worker", subject, folder, batch, threads]
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "KERAS_BACKEND": "tensorflow"}
        environment["OMP_NUM_THREADS"] = str(threads)
        self.process = subprocess.Popen(
            [str(word) for word in command], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
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


def measure(folder, batch, flags):
    """Measures all subjects in turns; returns the table of one network and batch size."""
    subjects = [subject for subject in flags.subjects if subject != "torch" or importlib.util.find_spec("torch")]
    subjects += ["torch_compiled"] if "torch" in subjects else []
    workers, left_out = {}, {}
    try:
        for subject in subjects:
            try:
                workers[subject] = Worker(subject, folder, batch, flags.threads)
            except RuntimeError as error:
                left_out[subject] = str(error)
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
    flags = made.parse_args()
    load, networks, subjects = os.getloadavg(), flags.networks.split(","), flags.subjects
    flags.subjects = subjects.split(",")
    table = {"runtimes": versions(), "threads": flags.threads, "load_before": load, "networks": {}}
    for name in networks:
        with tempfile.TemporaryDirectory() as folder:
            own = table["networks"][name] = {"exits": prepare(name, pathlib.Path(folder))}
            for batch in map(int, flags.batches.split(",")):
                print(f"{name}, batch {batch}", file=sys.stderr, flush=True)
                own[f"batch_{batch}"] = measure(folder, batch, flags)
    flags.subjects = subjects
    write("engines", flags, table)
    if flags.out is None:
        engines_page.write(RESULTS)


if __name__ == "__main__":
    main()
