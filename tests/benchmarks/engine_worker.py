"""Runs one network on one runtime for `engines.py`, in blocks, in a process of its own.

    python -m tests.benchmarks.engine_worker SUBJECT FOLDER BATCH THREADS

SUBJECT is `predictor_<engine>`, `litert`, `onnx`, `openvino`, `keras`, `torch` or `torch_compiled`; FOLDER holds what
`engines.py` prepared. For each line `WHAT SECONDS` of standard input, runs WHAT for that long and prints the seconds of
each run. WHAT is

    last     to the last exit; runtimes without our predictor run the whole network with all its heads
    stages   all exits, stage by stage
    first    to the first exit; runtimes without our predictor run a network with this exit only
    full     a batch of 256 images to the last exit
    early    a batch of 256 images with early exit, a fifth of the remaining images leaving at each exit
"""

import json
import pathlib
import pickle
import sys
import time

import numpy as np

LARGE = 256


def predictor(engine, folder, batch, threads):
    import keras

    import anytime_keras as ak
    from anytime_keras.inference.answers import probabilities

    _limit_tensorflow(threads)
    x, model = _images(folder), keras.saving.load_model(folder / "model.keras")
    names = json.loads((folder / "exits.json").read_text())
    threads = {} if engine == "tensorflow" else {"num_threads": threads}
    made = ak.Predictor(model, x[:batch], exits=names, engine=engine, **threads)
    few, first = x[:batch], made.costs[0].with_head
    about = {"engine": made.engine, "error": _error(made.predict(few).logits, folder, batch)}

    def stages():
        made.predict(few, until=lambda answer: False)

    runs = {"last": lambda: made.predict(few), "stages": stages, "first": lambda: made.predict(few, budget=first)}
    if batch > 1 and len(x) >= LARGE:
        images, thresholds = x[:LARGE], []
        outputs = made.predict_exits(images, batch_size=batch)
        sure = [probabilities(logits).max(axis=-1) for logits in outputs.values()]
        left = np.ones(len(images), bool)
        for row in sure[:-1]:
            thresholds.append(float(np.quantile(row[left], 0.8)))
            left &= row < thresholds[-1]
        spent = made.predict_batch(images, confidence=thresholds).average_macs
        about["speed_up_in_macs"] = made.costs[-1].with_head / spent
        runs["early"] = lambda: made.predict_batch(images, confidence=thresholds)
        runs["full"] = lambda: made.predict(images)
    return runs, about


def litert(folder, batch, threads):
    from ai_edge_litert.interpreter import Interpreter

    def load(name):
        interpreter = Interpreter(str(folder / f"{name}.tflite"), num_threads=threads)
        (given,) = interpreter.get_input_details()
        interpreter.resize_tensor_input(given["index"], [batch, *given["shape"][1:]])
        interpreter.allocate_tensors()
        outputs = [detail["index"] for detail in interpreter.get_output_details()]

        def run():
            interpreter.set_tensor(given["index"], x)
            interpreter.invoke()
            return [interpreter.get_tensor(index) for index in outputs]

        return run

    x = _images(folder)[:batch]
    return _bare(load, folder, batch)


def onnx(folder, batch, threads):
    import onnxruntime

    def load(name):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(
            str(folder / f"{name}.onnx"), options, providers=["CPUExecutionProvider"]
        )
        given = session.get_inputs()[0].name
        return lambda: session.run(None, {given: x})

    x = _images(folder)[:batch]
    return _bare(load, folder, batch)


def openvino(folder, batch, threads):
    import openvino as ov

    def load(name):
        options = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
        model = ov.Core().read_model(str(folder / f"{name}.onnx"))
        model.reshape([batch, *x.shape[1:]])
        request = ov.compile_model(model, "CPU", options).create_infer_request()
        return lambda: list(request.infer([x], share_inputs=True).values())

    x = _images(folder)[:batch]
    return _bare(load, folder, batch)


def keras(folder, batch, threads):
    import keras

    import anytime_keras as ak  # noqa: F401, registers the model's class

    _limit_tensorflow(threads)
    model, x = keras.saving.load_model(folder / "model.keras"), _images(folder)[:batch]
    last = model.predict_on_batch(x)[json.loads((folder / "exits.json").read_text())[-1]]
    return {"last": lambda: model.predict_on_batch(x)}, {"error": _error(last, folder, batch)}


def torch(folder, batch, threads, compiled=False):
    import torch

    from tests.benchmarks import torch_network

    torch.set_num_threads(threads)
    network = torch_network.build(pickle.loads((folder / "layers.pickle").read_bytes()))
    network, x = torch.compile(network) if compiled else network, torch.from_numpy(_images(folder)[:batch])

    def run():
        with torch.inference_mode():
            return [logits.numpy() for logits in network(x)]

    return {"last": run}, {"error": _error(run()[-1], folder, batch)}


def _bare(load, folder, batch):
    whole = load("whole")
    return {"last": whole, "first": load("first")}, {"error": _error(whole()[-1], folder, batch)}


def _limit_tensorflow(threads):
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(threads)


def _images(folder):
    return np.load(folder / "images.npy")


def _error(logits, folder, batch):
    """Returns the largest difference from the Keras model's logits at the last exit, over their largest."""
    expected = np.load(folder / "last.npy")[:batch]
    return float(np.abs(logits - expected).max() / np.abs(expected).max())


def main(subject, folder, batch, threads):
    folder, batch, threads = pathlib.Path(folder), int(batch), int(threads)
    if subject.startswith("predictor_"):
        runs, about = predictor(subject.removeprefix("predictor_"), folder, batch, threads)
    elif subject.startswith("torch"):
        runs, about = torch(folder, batch, threads, compiled=subject.endswith("compiled"))
    else:
        runs, about = {"litert": litert, "onnx": onnx, "openvino": openvino, "keras": keras}[subject](
            folder, batch, threads
        )
    for run in runs.values():
        run()
        run()
    print(json.dumps({"runs": list(runs), **about}), flush=True)
    for line in sys.stdin:
        what, seconds = line.split()
        taken, end = [], time.perf_counter() + float(seconds)
        while len(taken) < 2 or time.perf_counter() < end:
            begin = time.perf_counter()
            runs[what]()
            taken.append(time.perf_counter() - begin)
        print(json.dumps(taken[1:]), flush=True)  # the first run of a block has cold caches


if __name__ == "__main__":
    main(*sys.argv[1:])
