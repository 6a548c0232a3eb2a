"""The same suite on JAX, in a process of its own: Keras reads KERAS_BACKEND once."""

import os
import pathlib
import subprocess
import sys

import pytest

from tests import checks

pytestmark = pytest.mark.long

# Training is run on JAX by `test_scan.py`, which compares the scan with `fit`; commands and zoo are the same on both.
PLACES = ["weighting", "models", "cost", "data", "evaluation", "inference", "training/test_scan.py"]
PLACES += ["training/test_clock.py", "zoo/test_load.py", "experiments/test_runs.py"]


@pytest.mark.tensorflow
def test_the_suite_passes_on_jax():
    places = [f"tests/{place}" for place in PLACES]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not slow", *places],
        cwd=pathlib.Path(__file__).parents[1],
        env={**os.environ, **checks.on_jax(), "PYTEST_ADDOPTS": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=3600,
    )
    tail = "\n".join(done.stdout.splitlines()[-60:])
    assert done.returncode == 0, tail
    assert " passed" in tail


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
