"""Small sets of tensorflow-datasets: its builders write and read the real format with generated images."""

import numpy as np
import pytest

import anytime_keras as ak
from anytime_keras.data import sources

pytestmark = [pytest.mark.tensorflow, pytest.mark.filterwarnings("ignore")]


@pytest.fixture
def prepare(tmp_path, monkeypatch):
    """Writes a set of tensorflow-datasets with the given sizes of the splits; returns the `data_dir`."""
    tfds = pytest.importorskip("tensorflow_datasets")
    rng = np.random.default_rng(0)

    def write(name, **sizes):
        def example(features, number):
            made = {}
            for key, feature in features.items():
                if isinstance(feature, tfds.features.Image):
                    shape = [rng.integers(20, 60) if size is None else size for size in feature.shape]
                    made[key] = rng.integers(0, 256, shape).astype("uint8")
                elif isinstance(feature, tfds.features.ClassLabel):
                    made[key] = number % min(feature.num_classes, 5)
                else:
                    made[key] = f"{number}"
            return made

        def split_generators(builder, *args):
            return {
                split: ((number, example(builder.info.features, number)) for number in range(size))
                for split, size in sizes.items()
            }

        monkeypatch.setattr(tfds.builder_cls(name), "_split_generators", split_generators)
        return tmp_path

    return write


@pytest.mark.parametrize(
    "name, shape, num_classes, steps",
    [
        ("cifar10", (32, 32, 3), 10, ["pad_crop", "flip"]),
        ("cifar100", (32, 32, 3), 100, ["pad_crop", "flip"]),
        ("svhn_cropped", (32, 32, 3), 10, ["pad_crop", "blur"]),
        ("mnist", (28, 28, 1), 10, []),
    ],
)
def test_sets_of_small_images(prepare, name, shape, num_classes, steps):
    place = prepare(name, train=40, test=40, **({"extra": 40} if name == "svhn_cropped" else {}))
    data = ak.data.load(name, batch_size=8, validation=10, data_dir=place)
    assert data.image_shape == shape and data.num_classes == num_classes and data.augment == steps
    assert data.sizes["validation"] == 10 and data.sizes["test"] == 40
    assert data.sizes["train"] == (70 if name == "svhn_cropped" else 30)  # train and extra
    x, y = next(iter(data.train))
    assert x.shape == (8, *shape) and y.shape == (8,)
    assert np.isfinite(x).all()


@pytest.mark.long
def test_imagenet_is_read_in_sequence_and_cropped(prepare):
    data = ak.data.load(
        "imagenet2012", batch_size=8, validation=10, data_dir=prepare("imagenet2012", train=40, validation=40)
    )
    assert data.image_shape == (224, 224, 3) and data.num_classes == 1000
    assert data.augment == ["flip", "color", "lighting"]
    assert data.sizes == {"train": 30, "validation": 10, "test": 40}
    for split in data:
        x, y = next(iter(split))
        assert x.shape == (8, 224, 224, 3) and y.dtype == "int32"
    streams = [iter(data.training_stream(epoch)) for epoch in (0, 0, 1)]
    (one, _), (same, _), (other, _) = map(next, streams)
    np.testing.assert_array_equal(one, same)
    assert np.abs(one - other).max() > 0.01
    examples = data.examples["train"]
    orders = [
        [int(label) for _, label, _ in examples.elements(epoch).as_numpy_iterator()]
        for epoch in (None, np.int64(0), np.int64(1))
    ]
    assert sorted(orders[0]) == sorted(orders[1]) == sorted(orders[2]) and orders[1] != orders[2]


def test_images_of_many_sizes_need_a_size(prepare):
    place = prepare("tf_flowers", train=40)
    with pytest.raises(ValueError, match="different sizes.*image_size"):
        ak.data.load("tf_flowers", data_dir=place)
    data = ak.data.load("tf_flowers", image_size=24, batch_size=4, test=8, validation=8, data_dir=place)
    assert data.image_shape == (24, 24, 3) and data.sizes == {"train": 24, "validation": 8, "test": 8}
    assert next(iter(data.test))[0].shape == (4, 24, 24, 3)


def test_unknown_names_list_similar_ones():
    with pytest.raises(ValueError, match="Did you mean 'cifar10'"):
        ak.data.load("cifar-10")


def test_sets_without_classes_are_refused():
    with pytest.raises(ValueError, match="must consist of images with one class each"):
        ak.data.load("coco", download=False)


def test_a_missing_set_is_reported(tmp_path):
    with pytest.raises(ValueError, match="not on this machine.*data_dir"):
        ak.data.load("cifar10", data_dir=tmp_path, download=False)


def test_the_papers_four_are_known():
    assert {"cifar10", "cifar100", "svhn_cropped", "imagenet2012"} < set(sources.KNOWN)
