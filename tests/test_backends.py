"""The same suite on JAX, in a process of its own: Keras reads KERAS_BACKEND once."""

import os
import subprocess
import sys

import pytest

from tests.conftest import FAST_COMPILATION


@pytest.mark.tensorflow
def test_the_suite_passes_on_jax(suite_on_jax):
    process, output = suite_on_jax
    returncode = process.wait()
    output.seek(0)
    tail = "\n".join(output.read().splitlines()[-60:])
    assert returncode == 0, tail
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
    environment = {**os.environ, "KERAS_BACKEND": "jax", "XLA_FLAGS": FAST_COMPILATION}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment)
    assert done.returncode == 0 and done.stdout.split() == ["3", "exit_3"], done.stderr[-2000:]
