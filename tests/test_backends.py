"""Runs the suite on JAX in a separate process, because Keras reads KERAS_BACKEND once."""

import os
import subprocess
import sys

import pytest

from tests import checks

pytestmark = pytest.mark.long

# Tests that compute on Keras's backend: both tiers for what runs within a training step, the quick tests for
# the rest. Tests that do not depend on the backend (text, files, layouts of networks) or need TensorFlow are left out.
TRAINING = ["weighting", "training/test_scan.py"]
TRAINING += ["training/test_clock.py::test_a_run_ends_in_time_with_the_learning_rate_at_zero[faster]"]
TRAINING += ["experiments/test_runs.py::test_on_an_accelerator_programs_are_cached_in_the_folder"]
OTHERS = [f"models/test_{name}.py" for name in ("anytime_model", "families", "initializers", "metrics")]
CONVERTED = ("every_variable_trains_and_adaloss_takes_effect", "mixed_precision_is_kept", "sequences_with_a_mask")
OTHERS += [f"models/test_convert.py::test_{name}" for name in CONVERTED]
OTHERS += ["cost/test_against_profiler.py", "data/test_augment.py", "data/test_load.py", "evaluation/test_evaluate.py"]
OTHERS += [f"inference/test_{name}.py" for name in ("early_exit", "engines", "ensemble", "evaluation", "predictor")]
OTHERS += ["inference/test_file_engines.py", "inference/test_stages.py", "zoo/test_load.py"]


@pytest.mark.tensorflow
@pytest.mark.parametrize(
    "places, tiers", [(TRAINING, "not slow"), (OTHERS, "not slow and not long")], ids=["training", "others"]
)
def test_the_suite_passes_on_jax(places, tiers):
    checks.run_pytest("-m", tiers, *map("tests/{}".format, places), **checks.on_jax())


@pytest.mark.tensorflow
def test_the_library_and_a_training_on_jax_need_no_tensorflow():
    script = """
import sys
sys.modules.update(dict.fromkeys(["tensorflow", "tensorflow_datasets"]))  # an import of them raises
import keras, anytime_keras as ak
from anytime_keras.training import Recipe, train
assert keras.backend.backend() == "jax"
run = train(Recipe.paper({"name": "resann", "num_units": 1, "channels": 4}, "digits", epochs=1), verbose=False)
image = next(iter(run.data.test))[0][:1]
print(len(run.curve), ak.Predictor(run.model, example=image).predict(image).exit)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env={**os.environ, **checks.on_jax()}
    )
    assert done.returncode == 0 and done.stdout.split() == ["3", "exit_3"], done.stderr[-2000:]
