import sys
import types

import keras
import pytest

import anytime_keras as ak


def with_devices(monkeypatch, *devices):
    monkeypatch.setattr(keras.distribution, "list_devices", lambda *args: list(devices))


def with_tfds(monkeypatch, builder):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", types.SimpleNamespace(builder=builder))


def test_without_an_accelerator_nothing_is_downloaded(monkeypatch):
    with_devices(monkeypatch, "cpu:0")
    with_tfds(monkeypatch, lambda name: pytest.fail("asked for the data set"))
    assert ak.data.pick("cifar10") == ("digits", "not cifar10, since there is no GPU here")


@pytest.mark.parametrize("device", ["gpu:0", "GPU:1", "tpu:0"])
def test_on_an_accelerator_the_data_set_is_prepared(monkeypatch, device):
    with_devices(monkeypatch, device)
    prepared = []
    with_tfds(monkeypatch, lambda name: types.SimpleNamespace(download_and_prepare=lambda: prepared.append(name)))
    name, why = ak.data.pick("cifar10")
    assert name == "cifar10" and prepared == ["cifar10"] and device in why


def test_a_failed_download_is_replaced_and_the_reason_printed(monkeypatch):
    def refuse():
        raise OSError("no route to host")

    with_devices(monkeypatch, "gpu:0")
    with_tfds(monkeypatch, lambda name: types.SimpleNamespace(download_and_prepare=refuse))
    name, why = ak.data.pick("cifar10", otherwise="svhn_cropped")
    assert name == "svhn_cropped" and "OSError: no route to host" in why
