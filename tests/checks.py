"""Checks that every family of anytime networks must pass, on tiny configurations."""

import contextlib
import functools
import inspect
import itertools
import json
import os
import pathlib
import subprocess
import sys
import textwrap

import keras
import numpy as np

import anytime_keras as ak
from anytime_keras.models.convert import ConvertedModel

# For small networks, XLA's compilation takes longer than the runs: without optimisation, and without its newer
# emitters of kernels, compiling takes less than half as long.
QUICK_TO_COMPILE = "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"


@functools.cache
def on_jax():
    """The environment of a process that tests on JAX."""
    environment = {"KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"}
    # XLA ends a process that has a flag which its version does not know.
    tried = subprocess.run(
        [sys.executable, "-c", "import jax; jax.devices()"],
        env={**os.environ, **environment, "XLA_FLAGS": QUICK_TO_COMPILE},
        capture_output=True,
    )
    return {**environment, "XLA_FLAGS": QUICK_TO_COMPILE} if tried.returncode == 0 else environment


def run_example(thing, **names):
    """Runs the code under "Example" in a docstring with the given names; returns all names that it defines.

    For examples that doctest cannot run where they stand: they start processes, need another backend, or add to what
    this process knows.
    """
    lines = inspect.getdoc(thing).partition("\nExample")[2].partition("\n\n")[2].splitlines()
    code = textwrap.dedent("\n".join(itertools.takewhile(lambda line: not line or line.startswith(" "), lines)))
    names = {"ak": ak, "__name__": "__main__", **names}
    exec(code, names)
    return names


def run_pytest(*arguments, **environment):
    """Runs pytest in a separate process. Fails with the end of its output if a test fails or none ran."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments],
        cwd=pathlib.Path(__file__).parents[1],
        env={**os.environ, "PYTEST_ADDOPTS": "", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=3600,
    )
    tail = "\n".join(done.stdout.splitlines()[-60:])
    assert done.returncode == 0 and " passed" in tail, tail


def threads_seconds(but=()):
    """Returns the CPU seconds of each thread of this process, by its id, without those of the ids `but`. Linux only."""
    seconds = {}
    for thread in set(os.listdir("/proc/self/task")) - set(but):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # the thread has ended
            seconds[thread] = int(pathlib.Path(f"/proc/self/task/{thread}/schedstat").read_text().split()[0]) / 1e9
    return seconds


def crossentropy():
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def write_images(path, **counts):
    """Writes an .npz of random 8x8 images of three classes, and split sizes; returns its path, a str."""
    rng = np.random.default_rng(0)
    arrays = {}
    for split, count in counts.items():
        arrays[f"x_{split}"] = rng.integers(0, 256, (count, 8, 8, 1), "uint8")
        arrays[f"y_{split}"] = np.arange(count) % 3
    np.savez(path, **arrays)
    return str(path)


def some_input(model, batch=2, seed=0):
    rng = np.random.default_rng(seed)
    shapes = [(batch, *tensor.shape[1:]) for tensor in model.inputs]
    arrays = [rng.normal(size=shape).astype("float32") for shape in shapes]
    return arrays if len(arrays) > 1 else arrays[0]


def outputs(model, x):
    return {name: np.asarray(value, "float32") for name, value in model.predict(x, verbose=0).items()}


def answers(model, x):
    """Returns the outputs without compiling: equal models give equal bits, and small models are faster this way."""
    return {name: np.asarray(keras.ops.convert_to_numpy(value)) for name, value in model(x, training=False).items()}


def scramble(model, seed=0):
    """Gives every variable a value that no initialiser has, so that a wrongly assigned variable is detected."""
    rng = np.random.default_rng(seed)
    for variable in model.weights:
        value = (
            rng.uniform(0.5, 1.5, variable.shape) if "variance" in variable.path else rng.normal(0, 0.3, variable.shape)
        )
        variable.assign(value.astype("float32"))


def check_exits(model, num_exits, num_classes):
    """Checks the outputs' shapes, order and names."""
    assert model.exit_names == [f"exit_{number}" for number in range(1, num_exits + 1)]
    assert [exit.name for exit in model.exits] == model.exit_names
    macs = [exit.macs for exit in model.exits]
    assert all(early < late for early, late in zip(macs, macs[1:])), "cost must grow with every exit"
    assert model.exits[-1].params == model.count_params()
    x = some_input(model)
    eager, compiled = answers(model, x), outputs(model, x)
    assert list(eager) == list(compiled) == model.exit_names
    for name, logits in eager.items():
        assert logits.shape == (2, num_classes)
        np.testing.assert_allclose(logits, compiled[name], rtol=1e-4, atol=1e-5)


def check_saving(model, folder):
    """Checks that `.keras`, `.weights.h5` and the config as JSON give equal outputs."""
    scramble(model)
    x = some_input(model)
    expected = answers(model, x)
    model.save(folder / "model.keras")
    model.save_weights(folder / "model.weights.h5")
    rebuilt = type(model).from_config(json.loads(json.dumps(model.get_config())))
    rebuilt.load_weights(folder / "model.weights.h5")
    for other in (keras.saving.load_model(folder / "model.keras"), rebuilt):
        assert type(other) is type(model)
        assert other.get_config() == model.get_config() or type(model) in (ak.AnytimeModel, ConvertedModel)
        found = answers(other, x)
        assert list(found) == list(expected) == other.exit_names
        for name, values in found.items():
            np.testing.assert_array_equal(values, expected[name])


def check_training(model, num_classes):
    """Checks that every variable changes and a step's loss is the sum of the exits' losses weighted by AdaLoss."""
    x, y = some_input(model, batch=8), np.arange(8) % num_classes
    model.compile(keras.optimizers.SGD(0.05), loss=crossentropy(), metrics=["accuracy"])
    before = [keras.ops.convert_to_numpy(variable) for variable in model.trainable_variables]
    adaloss = ak.AdaLoss(gamma=0.0, momentum=0.5)
    weights, averages = np.ones(model.num_exits), None
    for step in (1, 2):
        logs = model.fit(x, y, batch_size=8, shuffle=False, verbose=0, callbacks=[adaloss]).history
        losses = np.array([logs[f"{name}_loss"][0] for name in model.exit_names])
        assert np.isfinite(losses).all() and adaloss.steps == step
        np.testing.assert_allclose(logs["loss"][0], np.sum(weights * losses), rtol=1e-4)
        averages = losses if averages is None else 0.5 * averages + 0.5 * losses
        weights = averages.min() / averages
        assert weights.min() < 1 - 1e-4, "exits of equal losses would show nothing"
        np.testing.assert_allclose(adaloss.weights, weights, rtol=1e-4)
    for variable, old in zip(model.trainable_variables, before):
        assert np.abs(keras.ops.convert_to_numpy(variable) - old).max() > 0, f"{variable.path} has no gradient"


def check_mixed_precision(make, policy):
    """Checks that layers of `make(dtype)` compute in the policy's dtype and that logits are float32."""
    model = make(policy)
    compute = keras.dtype_policies.get(policy).compute_dtype
    assert {str(variable.dtype) for variable in model.trainable_variables} == {"float32"}
    assert any(layer.compute_dtype == compute for layer in model.layers if isinstance(layer, keras.layers.Conv2D))
    logits = answers(model, some_input(model))
    assert {str(values.dtype) for values in logits.values()} == {"float32"}
    assert np.isfinite(np.concatenate(list(logits.values()))).all()
    assert model.dtype_policy.name == policy
    again = type(model).from_config(model.get_config())
    assert again.dtype_policy.name == policy


def check_traces_once(model):
    """Checks that a second call with other data compiles nothing."""
    from anytime_keras import runtime

    traces = []
    original = model.call
    model.call = lambda *args, **kwargs: traces.append(1) or original(*args, **kwargs)
    run = runtime.compiled(model)
    for seed in range(3):
        runtime.finish(run(keras.tree.map_structure(keras.ops.convert_to_tensor, some_input(model, seed=seed))))
    del model.call
    assert len(traces) == 1


def check_family(make, num_exits, num_classes, folder):
    """Runs all of the above; `make(**changes)` returns a small network of the family."""
    model = make()
    check_exits(model, num_exits, num_classes)
    check_traces_once(model)
    check_saving(model, folder)
    check_training(make(), num_classes)
    for policy in ("mixed_float16", "mixed_bfloat16"):
        check_mixed_precision(lambda dtype: make(dtype=dtype), policy)
