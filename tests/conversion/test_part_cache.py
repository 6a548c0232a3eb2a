import concurrent.futures
import functools
import multiprocessing
import os

import keras
import numpy as np
import pytest

import anytime_keras as ak
from anytime_keras import _files
from anytime_keras.conversion import part_cache
from anytime_keras.conversion.parts import Parts
from tests import checks
from tests.inference import networks

KEY = "0" * 64


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("ANYTIME_KERAS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def whole(model):
    return Parts(ak.inference.Stages(model)).whole


def small(**changes):
    config = dict(num_units=1, channels=4, input_shape=(8, 8, 1), num_classes=5)
    return ak.models.build("resann", **{**config, **changes})


def count_made(content=b"converted"):
    made = []
    return made, lambda: made.append(1) or content


def test_an_entry_is_made_once():
    made, make = count_made()
    assert [part_cache.cached(KEY, make) for _ in range(3)] == [b"converted"] * 3
    assert len(made) == 1 and part_cache.read(KEY) == b"converted"


@pytest.mark.parametrize("damage", [lambda c: c[:-1], lambda c: c[:10], lambda c: b"", lambda c: c + b"x"])
def test_a_damaged_entry_is_made_again(damage, folder):
    made, make = count_made()
    part_cache.cached(KEY, make)
    path = folder / "parts" / KEY
    path.write_bytes(damage(path.read_bytes()))
    assert part_cache.read(KEY) is None
    assert part_cache.cached(KEY, make) == part_cache.read(KEY) == b"converted"
    assert len(made) == 2


def test_entries_that_were_not_used_for_longest_are_removed(monkeypatch, folder):
    monkeypatch.setattr(part_cache, "MOST_BYTES", 3500)
    keys = [str(number) * 64 for number in range(4)]
    for age, key in enumerate(keys[:3]):
        part_cache.write(key, bytes(1000))
        os.utime(folder / "parts" / key, (1000.0 + age, 1000.0 + age))
    assert part_cache.read(keys[0]) == bytes(1000)  # used now, so the second entry is the oldest
    part_cache.write(keys[3], bytes(1000))
    assert [part_cache.read(key) is not None for key in keys] == [True, False, True, True]
    part_cache.write(KEY, bytes(9000))
    assert [part_cache.read(key) for key in (*keys[1:], KEY)] == [None, None, None, bytes(9000)]


def test_a_cache_that_is_not_writable_is_no_error(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("ANYTIME_KERAS_CACHE", str(tmp_path / "file"))
    made, make = count_made()
    assert part_cache.cached(KEY, make) == b"converted" and len(made) == 1
    part_cache.write(KEY, b"other")
    assert part_cache.read(KEY) is None


def test_a_full_disk_is_no_error(monkeypatch):
    def full(path, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(_files, "write", full)
    made, make = count_made()
    assert part_cache.cached(KEY, make) == b"converted" and len(made) == 1


def test_an_error_in_a_conversion_is_raised_and_nothing_is_stored():
    def fails():
        raise OSError("the converter cannot write")

    with pytest.raises(OSError, match="converter"):
        part_cache.cached(KEY, fails)
    assert part_cache.read(KEY) is None


def test_without_a_key_nothing_is_stored(folder):
    made, make = count_made()
    assert part_cache.cached(None, make) == part_cache.cached(None, make) == b"converted"
    assert len(made) == 2 and not folder.exists()


def one_of_many(place):
    """Makes an entry in a separate process; returns how often this process made it, and its size."""
    os.environ["ANYTIME_KERAS_CACHE"] = place
    made, make = count_made(bytes(1_000_000))
    return len(part_cache.cached(KEY, make)), len(made)


@pytest.mark.long
def test_only_one_of_four_processes_makes_the_entry(folder):
    with concurrent.futures.ProcessPoolExecutor(4, multiprocessing.get_context("spawn")) as pool:
        found = list(pool.map(one_of_many, [str(folder)] * 4))
    assert [size for size, _ in found] == [1_000_000] * 4
    assert sum(made for _, made in found) == 1
    assert not list(folder.rglob("*.part"))


def test_keys_follow_weights_structure_size_and_dtype():
    model = small()
    part, same = whole(model), small()
    same.set_weights(model.get_weights())
    assert part_cache.key(part, "litert", 1) == part_cache.key(whole(same), "litert", 1), "names do not matter"
    others = [
        part_cache.key(part, "litert", 2),
        part_cache.key(part, "onnx", 1),
        part_cache.key(part, "litert", 1, "float16"),
        part_cache.key(part, "litert", 1, "int8", [np.zeros((4, 8, 8, 1))]),
        part_cache.key(part, "litert", 1, "int8", [np.ones((4, 8, 8, 1))]),
        part_cache.key(whole(small(num_units=2)), "litert", 1),
    ]
    kernel = model.trainable_variables[0]
    kernel.assign(kernel + 1e-6)
    others.append(part_cache.key(part, "litert", 1))
    assert len({part_cache.key(whole(same), "litert", 1), *others}) == 1 + len(others)


def test_keys_follow_versions(monkeypatch):
    part = whole(small())
    before = part_cache.key(part, "litert", 1)
    monkeypatch.setattr(part_cache.runtime, "version_of", lambda package: "0.0.0")
    assert part_cache.key(part, "litert", 1) != before


def test_keys_depend_on_the_arguments_of_calls():
    def network(axis, factor):
        x = keras.Input((4, 4))
        return networks.two_exits(x, keras.ops.sum(x, axis=axis) * factor)

    table = np.arange(4, dtype="float32")
    models = [network(1, table), network(2, table), network(1, table + 1), network(1, 2.0), network(1, 3.0)]
    for model in models[1:]:
        model.set_weights(models[0].get_weights())
    assert len({part_cache.key(whole(model), "litert", 1) for model in models}) == len(models)


class Scale:
    def __init__(self, factor):
        self.factor = factor

    def __call__(self, x):
        return x * self.factor

    scaled = __call__


def test_a_layer_defined_outside_known_packages_has_no_key():
    features = keras.Input((300,))
    assert part_cache.key(whole(networks.two_exits(features, networks.Positions()(features))), "litert", 1) is None
    doubled = networks.two_exits(features, keras.layers.Lambda(lambda x: 2 * x)(features))
    assert part_cache.key(whole(doubled), "litert", 1) is None
    scale = Scale(2.0)
    for function in (checks.some_input, scale, scale.scaled, functools.partial(scale.scaled)):
        activated = networks.two_exits(features, keras.layers.Dense(3, activation=function)(features))
        assert part_cache.key(whole(activated), "litert", 1) is None


@pytest.mark.parametrize("make", networks.GRAPHS)
def test_stages_of_every_form_of_graph_have_keys(make):
    parts = Parts(ak.inference.Stages(make()))
    keys = [part_cache.key(part, "litert", 1) for part in parts.stages]
    assert None not in keys and len(set(keys)) == len(keys)
