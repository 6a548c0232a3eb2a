"""Tiny ImageNet from a small folder in its published form."""

import numpy as np
import pytest
from PIL import Image

import anytime_keras as ak

CLASSES = {"n02124075": "Egyptian cat", "n01443537": "goldfish, Carassius auratus", "n07734744": "mushroom"}
RNG = np.random.default_rng(0)


def image(label, size=(64, 64)):
    """Returns a noisy image whose red channel encodes its class."""
    pixels = RNG.integers(0, 60, (*size, 3)).astype("uint8")
    pixels[..., 0] = 80 * label
    return pixels


@pytest.fixture
def place(tmp_path):
    folder = tmp_path / "tiny-imagenet-200"
    for part in ("val/images", "test/images"):
        (folder / part).mkdir(parents=True)
    (folder / "wnids.txt").write_text("".join(f"{wnid}\n" for wnid in CLASSES))  # not sorted
    words = {"n00001740": "entity", **CLASSES}
    (folder / "words.txt").write_text("".join(f"{wnid}\t{words[wnid]}\n" for wnid in sorted(words)))
    lines = []
    for label, wnid in enumerate(sorted(CLASSES)):
        (folder / "train" / wnid / "images").mkdir(parents=True)
        (folder / "train" / wnid / f"{wnid}_boxes.txt").write_text(f"{wnid}_0.JPEG\t0\t10\t63\t58\n")
        for number in range(20):
            picture = Image.fromarray(image(label))
            picture = picture.convert("L") if number == 7 else picture
            picture.save(folder / "train" / wnid / "images" / f"{wnid}_{number}.JPEG", quality=95)
    for number in range(9):
        label = (number * 2) % 3
        Image.fromarray(image(label)).save(folder / "val" / "images" / f"val_{number}.JPEG", quality=95)
        lines.append(f"val_{number}.JPEG\t{sorted(CLASSES)[label]}\t0\t32\t44\t62\n")
        Image.fromarray(image(label)).save(folder / "test" / "images" / f"test_{number}.JPEG")
    (folder / "val" / "val_annotations.txt").write_text("".join(lines))
    return tmp_path


def test_published_validation_is_test_and_validation_is_held_out_by_class(place):
    data = ak.data.load("tiny_imagenet", data_dir=place)
    assert data.name == "tiny_imagenet" and data.image_shape == (64, 64, 3)
    assert data.sizes == {"train": 54, "validation": 6, "test": 9} and data.augment == ["pad_crop", "flip"]
    assert data.class_names == ["goldfish, Carassius auratus", "Egyptian cat", "mushroom"]  # by WordNet number
    np.testing.assert_array_equal(np.bincount(data.examples["validation"].labels), [2, 2, 2])
    np.testing.assert_array_equal(data.examples["test"].labels, [(number * 2) % 3 for number in range(9)])
    for examples in data.examples.values():
        coloured = np.ptp(examples.images.astype(int), axis=-1).max((1, 2)) > 0
        red = examples.images[..., 0].mean((1, 2))
        np.testing.assert_array_equal(np.rint(red / 80)[coloured], examples.labels[coloured])
    train = [data.examples[split].images for split in ("train", "validation")]
    grey = sum((np.ptp(images.astype(int), axis=-1).max((1, 2)) == 0).sum() for images in train)
    assert grey == 3  # grey files have become RGB
    images, labels = next(iter(data.test)) if not hasattr(data.test, "num_batches") else data.test[0]
    assert images.shape == (9, 64, 64, 3) and labels.shape == (9,)


def test_it_is_found_by_its_own_path_and_beside_tensorflow_datasets(place, monkeypatch):
    expected = ak.data.load("tiny_imagenet", data_dir=place).describe()
    assert ak.data.load("tiny_imagenet", data_dir=place / "tiny-imagenet-200").describe() == expected
    assert ak.data.load(place / "tiny-imagenet-200").describe() == expected
    monkeypatch.setenv("TFDS_DATA_DIR", str(place))
    assert ak.data.load("tiny_imagenet").describe() == expected
    assert ak.data.load("tiny_imagenet", image_size=32).image_shape == (32, 32, 3)


def test_the_error_for_a_missing_data_set_names_its_source(tmp_path):
    with pytest.raises(ValueError, match="tiny-imagenet-200' with wnids.txt.*data_dir=.*cs231n.*tiny-imagenet-200.zip"):
        ak.data.load("tiny_imagenet", data_dir=tmp_path)


def test_empty_lines_in_the_annotations_are_no_images(place):
    file = place / "tiny-imagenet-200" / "val" / "val_annotations.txt"
    file.write_text("\n" + file.read_text().replace("\n", "\n \n") + "\n")
    assert ak.data.load("tiny_imagenet", data_dir=place).sizes["test"] == 9


@pytest.mark.parametrize(
    "file, content, message",
    [
        ("words.txt", "n01443537\tgoldfish\n", "words.txt' must contain every class.*'n02124075'"),
        ("wnids.txt", "n01443537\nn02124075\n", r"val_annotations.txt' must give each image a class.*'val_1.JPEG"),
        ("val/val_annotations.txt", "val_0.JPEG\n", r"must give each image a class. Received: 'val_0.JPEG'"),
        (
            "val/val_annotations.txt",
            "val_99.JPEG\tn01443537\t0\t0\t1\t1\n",
            "must list images.*'val_99.JPEG'",
        ),
    ],
)
def test_a_damaged_folder_is_reported(place, file, content, message):
    (place / "tiny-imagenet-200" / file).write_text(content)
    with pytest.raises(ValueError, match=message):
        ak.data.load("tiny_imagenet", data_dir=place)


def test_a_class_without_images_is_reported(place):
    folder = place / "tiny-imagenet-200" / "train" / "n07734744" / "images"
    for file in folder.iterdir():
        file.unlink()
    with pytest.raises(ValueError, match="n07734744/images' must contain the training images"):
        ak.data.load("tiny_imagenet", data_dir=place)
