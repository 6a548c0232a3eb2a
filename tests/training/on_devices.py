"""Trains on several devices in a separate process: `python -m tests.training.on_devices WHAT FOLDER`.

Prints one line of JSON that starts with "RESULTS".
"""

import json
import os
import pathlib
import sys

DEVICES = 4


def main(what, folder):
    os.environ.update(TF_CPP_MIN_LOG_LEVEL="3", CUDA_VISIBLE_DEVICES="-1")
    folder = pathlib.Path(folder)
    print("RESULTS" + json.dumps({"mirrored": mirrored, "multi_worker": multi_worker, "jax": on_jax}[what](folder)))


def write_images(path, train, validation, test=8):
    """Writes 8 x 8 images of three classes that a network can learn."""
    import numpy as np

    rng = np.random.default_rng(0)
    arrays = {}
    for split, count in (("train", train), ("validation", validation), ("test", test)):
        if count:
            labels = np.arange(count) % 3
            arrays[f"y_{split}"] = labels
            arrays[f"x_{split}"] = (rng.random((count, 8, 8, 1)) * 60 + 60 * labels[:, None, None, None]).astype(
                "uint8"
            )
    np.savez(path, **arrays)
    return str(path)


def recipe(data, augment="flip", **changes):
    """Returns a small recipe with batch normalisation and an adaptive weighting."""
    from anytime_keras.training import Recipe

    settings = dict(epochs=2, batch_size=8, learning_rate=0.02, weight_decay=1e-3)
    return Recipe.paper(
        {"name": "resann", "num_units": 1, "channels": 4}, {"data": data, "augment": augment}, **{**settings, **changes}
    )


def numbers(run):
    """Returns all results of a run as plain numbers."""
    import keras

    return {
        "history": run.history,
        "averages": run.weighting.get_state(),
        "curve": [[point.error, point.loss] for point in run.curve],
        "weights": [keras.ops.convert_to_numpy(variable).tolist() for variable in run.model.weights],
        "optimizer": [keras.ops.convert_to_numpy(variable).tolist() for variable in run.model.optimizer.variables],
    }


def compared(data, strategy, **changes):
    from anytime_keras.training import train

    return [numbers(train(recipe(data, **changes), verbose=False, strategy=where)) for where in ("none", strategy)]


def mirrored(folder):
    import tensorflow as tf

    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * DEVICES)
    from anytime_keras.training import choose_strategy

    # 22 images in batches of 8: of the last, of 6, two replicas have 2 and two have 1. The 9th of validation is alone.
    data = write_images(folder / "images.npz", 22, 9)
    return {"replicas": choose_strategy("mirrored").replicas, "runs": compared(data, "mirrored")}


def on_jax(folder):
    from anytime_keras.training import choose_strategy, train

    # The last batch has 3 images, fewer than there are devices; so has the only one of validation.
    data = write_images(folder / "images.npz", 11, 3)
    refused = []
    for options in (dict(strategy="mirrored"), dict(strategy="data_parallel", engine="scan")):
        try:
            train(recipe(data), folder / "refused", **options)
        except ValueError as error:
            refused.append(str(error))
    return {
        "replicas": choose_strategy("data_parallel").replicas,
        "runs": compared(data, "data_parallel"),
        "refused": refused,
        "left": (folder / "refused").exists(),
    }


def multi_worker(folder):
    """Runs one of the processes in TF_CONFIG, which resumes the run in the folder."""
    from anytime_keras.training import Recipe, choose_strategy, train

    strategy = choose_strategy("multi_worker")
    run = train(Recipe.from_json(folder / "recipe.json"), folder / "run", resume=True, strategy=strategy)
    return {"replicas": strategy.replicas, "chief": strategy.is_chief, "run": numbers(run)}


if __name__ == "__main__":
    main(*sys.argv[1:])
