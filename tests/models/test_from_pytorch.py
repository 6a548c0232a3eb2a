"""Checkpoints of the published PyTorch MSDNet. `test_msdnet_published.py` tests with the authors' own code."""

import collections
import os
import sys

import numpy as np
import pytest

import anytime_keras as ak
from tests import checks

torch = pytest.importorskip("torch")

from tests.models import published_msdnet  # noqa: E402

SMALL = dict(num_exits=2, base=1, step=1, growth_rate=2, channels=2, factors=(1, 2), num_classes=3)
TINY = dict(SMALL, stem="small")  # for images of 16x16
# Name -> the arguments that differ from it, all of which `published_msdnet.MSDNet` takes, and the images' side.
NETWORKS = {
    "msdnet_cifar_10exits": (dict(SMALL, num_exits=4, base=2, growth_rate=6, factors=(1, 2, 4), stem="small"), 32),
    "msdnet_cifar_growing": (dict(SMALL, num_exits=3, steps="growing", growth_rate=6, stem="small"), 16),
    "msdnet_step4": (dict(SMALL, num_exits=3, growth_rate=4, factors=(1, 2, 4), stem="ilsvrc", reduction=0.7), 128),
}


def save(path, state, **other):
    torch.save({"state_dict": state, "epoch": 3, "best_prec1": torch.tensor([61.6]), **other}, path)
    return path


def tiny(path, changed=lambda state: state):
    """Writes a checkpoint of a tiny network; `changed` changes its state dict in place."""
    state = published_msdnet.MSDNet(**TINY).state_dict()
    changed(state)
    return save(path, state)


def load_tiny(path, **config):
    return ak.models.from_pytorch("msdnet_cifar_7exits", path, **{**TINY, "input_shape": (16, 16, 3), **config})


def assert_equal_outputs(model, network):
    x = checks.some_input(model)
    with torch.no_grad():
        expected = [logits.numpy() for logits in network(torch.from_numpy(x.transpose(0, 3, 1, 2).copy()))]
    for logits, theirs in zip(checks.answers(model, x).values(), expected, strict=True):
        assert theirs.std() > 0.01
        np.testing.assert_allclose(logits, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.long
@pytest.mark.parametrize("name", NETWORKS)
def test_outputs_equal_those_of_the_pytorch_network_at_all_exits(name, tmp_path):
    config, side = NETWORKS[name]
    network = published_msdnet.MSDNet(**config)
    path = save(tmp_path / "checkpoint.pth.tar", network.state_dict())
    model = ak.models.from_pytorch(name, path, input_shape=(side, side, 3), **config)
    assert_equal_outputs(model, network)


def test_a_tiny_networks_outputs_equal_those_in_pytorch(tmp_path):
    network = published_msdnet.MSDNet(**TINY)
    assert_equal_outputs(load_tiny(save(tmp_path / "checkpoint.pth.tar", network.state_dict())), network)


@pytest.mark.long
def test_all_forms_of_checkpoint_give_the_same_network(tmp_path):
    network = published_msdnet.MSDNet(**TINY)
    state = network.state_dict()
    optimizer = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9)
    parallel = torch.nn.DataParallel(network).state_dict()
    old = collections.OrderedDict((k, v) for k, v in parallel.items() if "num_batches" not in k)  # PyTorch 0.4.0
    torch.save(state, tmp_path / "bare.pth")
    save(tmp_path / "parallel.pth.tar", parallel, optimizer=optimizer.state_dict(), arch="msdnet")
    torch.save({"state_dict": old}, tmp_path / "old.pth.tar", _use_new_zipfile_serialization=False)
    save(tmp_path / "double.pth.tar", {name: value.double() for name, value in state.items()})
    expected = load_tiny(save(tmp_path / "plain.pth.tar", state)).get_weights()
    for path in tmp_path.iterdir():
        for found, array in zip(load_tiny(path).get_weights(), expected, strict=True):
            np.testing.assert_array_equal(found, array)


def test_wrong_arrays_give_an_error_that_names_what_was_expected(tmp_path):
    path = tmp_path / "checkpoint.pth.tar"
    tiny(path, lambda state: state.pop("classifier.1.linear.bias"))
    with pytest.raises(ValueError, match="lacks 1, such as 'classifier.1.linear.bias'"):
        load_tiny(path)
    tiny(path, lambda state: state.update({"fc.weight": torch.zeros(1)}))
    with pytest.raises(ValueError, match="has 1 others, such as 'fc.weight'"):
        load_tiny(path)
    tiny(path, lambda state: state.update({"blocks.0.0.layers.0.net.0.weight": torch.zeros(2)}))
    with pytest.raises(ValueError, match=r"shape \(2, 3, 3, 3\) for 'blocks.0.0.layers.0.net.0.weight'.*\(2,\)"):
        load_tiny(path)
    tiny(path)
    with pytest.raises(ValueError, match=r"Expected: shape \(5, 128\) for 'classifier.0.linear.weight'.*`num_classes`"):
        load_tiny(path, num_classes=5)


@pytest.mark.long
def test_a_checkpoint_of_another_network_names_the_one_that_it_fits(tmp_path):
    kinds = dict(growth_rate=2, channels=2, factors=(1, 2, 4), stem="small", num_classes=3)
    network = published_msdnet.MSDNet(num_exits=7, base=4, step=2, **kinds)
    path = save(tmp_path / "checkpoint.pth.tar", network.state_dict())
    with pytest.raises(ValueError, match="It fits 'msdnet_cifar_7exits'"):
        ak.models.from_pytorch("msdnet_cifar_growing", path)


@pytest.mark.parametrize("stem, num_classes", [("small", 10), ("small", 100), ("ilsvrc", 10), ("small", 7)])
def test_the_preprocessor_is_that_of_the_published_code(tmp_path, stem, num_classes):
    config = dict(SMALL, stem=stem, num_classes=num_classes)
    side = 64 if stem == "ilsvrc" else 16
    path = save(tmp_path / "checkpoint.pth.tar", published_msdnet.MSDNet(**config).state_dict())
    model = ak.models.from_pytorch("msdnet_cifar_7exits", path, **config, input_shape=(side, side, 3))
    if num_classes == 7:
        assert model.preprocessor is None
        return
    pixels = np.full((side, side, 3), 255, "uint8")
    mean, std = {
        ("ilsvrc", 10): (0.485, 0.229),
        ("small", 10): (0.4914, 0.2471),
        ("small", 100): (0.5071, 0.2675),
    }[stem, num_classes]
    np.testing.assert_allclose(model.preprocessor(pixels)[0, 0, 0, 0], (1 - mean) / std, rtol=1e-5)
    assert model.preprocessor.short_side == (73 if stem == "ilsvrc" else 16)


def test_the_network_is_published_with_reported_accuracies_and_loaded_by_name(tmp_path, monkeypatch):
    monkeypatch.setattr(ak.zoo.catalog, "_added", [])
    config = dict(SMALL, num_exits=5, stem="ilsvrc", input_shape=(64, 64, 3))
    network = published_msdnet.MSDNet(**{key: value for key, value in config.items() if key != "input_shape"})
    path = save(tmp_path / "checkpoint.pth.tar", network.state_dict())
    read = ak.models.from_pytorch
    monkeypatch.setattr(ak.models, "from_pytorch", lambda name, _: read(name, path, **config))
    monkeypatch.chdir(tmp_path)
    accuracies = [0.6094, 0.7188, 0.7513, 0.7603, 0.7682]
    found = checks.run_example(ak.zoo.Reported, names=["cat", "dog", "fox"], accuracies=accuracies)
    loaded = ak.zoo.load("msdnet_step7_l2w")
    assert_equal_outputs(loaded, network)
    assert loaded.class_names == ["cat", "dog", "fox"]
    assert loaded.preprocessor.get_config()["mean"] == found["model"].preprocessor.mean
    manifest = ak.zoo.show("msdnet_step7_l2w")
    assert manifest.pick().accuracies == accuracies
    assert "on 50000 test images" in str(manifest) and manifest.curve().errors[-1] == 1 - 0.7682


def test_reported_accuracies_must_fit_the_network(tmp_path):
    model = load_tiny(tiny(tmp_path / "checkpoint.pth.tar"))
    facts = dict(folder=tmp_path / "zoo", weighting={"name": "constant"}, source="somewhere", data_licence="none")
    for accuracies, preprocessor, names, message in (
        ([0.5, 0.6], None, "abc", "model.preprocessor"),
        ([0.5, 0.6], ak.preprocessing.Preprocessor((16, 16, 3)), None, "model.class_names"),
        ([0.5], ak.preprocessing.Preprocessor((16, 16, 3)), "abc", "2 numbers from 0 to 1"),
        ([0.5, 60], ak.preprocessing.Preprocessor((16, 16, 3)), "abc", "2 numbers from 0 to 1"),
    ):
        model.preprocessor, model.class_names = preprocessor, names and list(names)
        with pytest.raises(ValueError, match=message):
            ak.zoo.publish(model, "a_network", ak.zoo.Reported("some_data", accuracies, 100, "here"), **facts)
    assert not (tmp_path / "zoo").exists()


class RunsCode:
    def __reduce__(self):
        return os.mkdir, (os.environ["FOLDER_OF_A_TEST"],)


def test_a_file_that_would_run_code_runs_none(tmp_path, monkeypatch):
    monkeypatch.setenv("FOLDER_OF_A_TEST", str(tmp_path / "made"))
    path = tmp_path / "checkpoint.pth.tar"
    torch.save({"state_dict": {"weight": torch.zeros(1)}, "more": RunsCode()}, path)
    with pytest.raises(ValueError, match="can read: UnpicklingError, it refers to `.*mkdir`") as error:
        load_tiny(path)
    assert "`False`" not in str(error.value), "PyTorch's advice to load the file unsafely"
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("content", [b"", b"text\n", b"PK\x03\x04 no archive", b"\x80\x02}q\x00."])
def test_files_that_are_no_checkpoints_give_one_clear_error(tmp_path, content):
    path = tmp_path / "checkpoint.pth.tar"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"checkpoint.pth.tar'.*can read: \w+Error(, .*[^.])?\. If you trust"):
        load_tiny(path)


@pytest.mark.filterwarnings("ignore:.torch.load. received a zip file")
def test_a_torchscript_file_gives_no_unsafe_advice(tmp_path):
    path = tmp_path / "checkpoint.pth.tar"
    torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)), path)
    with pytest.raises(ValueError, match="checkpoint.pth.tar'.*can read: RuntimeError") as error:
        load_tiny(path)
    assert "`False`" not in str(error.value)


def test_other_contents_names_and_missing_files_are_refused(tmp_path):
    path = tmp_path / "checkpoint.pth.tar"
    torch.save({"state_dict": [1, 2], "epoch": 3}, path)
    with pytest.raises(ValueError, match=r"state dict of tensors.*\['epoch', 'state_dict'\]"):
        load_tiny(path)
    with pytest.raises(ValueError, match="Did you mean 'msdnet_step7'"):
        ak.models.from_pytorch("msdnet_step77", path)
    with pytest.raises(ValueError, match="`name` must be one of 'msdnet_step4'"):
        ak.models.from_pytorch("resann", path)
    with pytest.raises(FileNotFoundError):
        load_tiny(tmp_path / "missing.pth")


def test_the_docstrings_example_runs(tmp_path, monkeypatch):
    config = dict(TINY, growth_rate=6, channels=16, factors=(1, 2, 4), num_classes=10)
    save(tmp_path / "model_best.pth.tar", published_msdnet.MSDNet(**config).state_dict())
    monkeypatch.chdir(tmp_path)
    assert checks.run_example(ak.models.from_pytorch)["model"].num_exits == 2


@pytest.mark.parametrize("version", [None, "2.5.1+cpu"])
def test_a_missing_or_unsafe_pytorch_is_named(tmp_path, monkeypatch, version):
    path = tiny(tmp_path / "checkpoint.pth.tar")
    if version is None:
        monkeypatch.setitem(sys.modules, "torch", None)
    else:
        monkeypatch.setattr(torch, "__version__", version)
    with pytest.raises(ImportError, match="pip install 'torch>=2.6'"):
        load_tiny(path)
