"""ILSVRC's crops, compared with a resizer and geometry in NumPy; on real photos if `shared` exists."""

import pathlib
import shutil

import numpy as np
import pytest
from PIL import Image

import anytime_keras as ak
from anytime_keras.data import crops
from anytime_keras.data.examples import FileExamples
from tests.data.test_load import STORED, arrays, first, save_turned

PHOTOS = pathlib.Path(__file__).parents[3] / "shared" / "data" / "imagenet_samples"


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Paths of JPEG files of many sizes: real ones of ImageNet, or generated smooth ones."""
    if PHOTOS.is_dir():
        return sorted(PHOTOS.glob("*.JPEG"))
    place, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for number, size in enumerate([(500, 375), (375, 500), (120, 300), (640, 480), (230, 230)]):
        small = Image.fromarray(rng.integers(0, 256, (12, 9, 3)).astype("uint8"))
        small.resize(size, Image.BICUBIC).save(place / f"n{number:08d}_made.JPEG", quality=95)
    return sorted(place.iterdir())


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize(
    "ending, options",
    [("png", {}), ("tif", {}), ("webp", {"lossless": True}), ("jpg", {"quality": 95, "subsampling": 0})],
)
def test_images_are_upright_whatever_their_exif_orientation(tmp_path, orientation, ending, options):
    upright = np.full((16, 24, 3), 90, "uint8")
    upright[:8, :8] = (230, 20, 20)
    upright[8:, 16:] = (20, 20, 230)
    path = tmp_path / f"image.{ending}"
    save_turned(path, upright, orientation, **options)
    assert crops.size(path) == (16, 24)
    for source in (path, path.read_bytes()):
        found = crops.to_array(crops.decode(source, path)).astype(int)
        assert found.shape == upright.shape
        assert np.abs(found - upright)[4, 4].max() <= 3 and np.abs(found - upright)[12, 20].max() <= 3
        assert ending == "jpg" or (found == upright).all()


def test_an_image_with_damaged_exif_data_is_read(tmp_path):
    image = Image.fromarray(np.full((8, 12, 3), 90, "uint8"))
    image.save(tmp_path / "image.jpg", exif=b"Exif\0\0no Exif data")
    assert crops.size(tmp_path / "image.jpg") == (8, 12)
    assert crops.decode(tmp_path / "image.jpg", "image.jpg").size == (12, 8)


def resize(image, size, box):
    """Resizes a box (left, top, right, bottom) bilinearly by definition: triangles as wide as a new pixel."""
    for axis, (start, stop, length) in enumerate([(box[1], box[3], size[0]), (box[0], box[2], size[1])]):
        scale = (stop - start) / length
        centers = start + (np.arange(length) + 0.5) * scale
        distance = np.abs(np.arange(image.shape[axis]) + 0.5 - centers[:, None]) / max(scale, 1)
        weights = np.maximum(1 - distance, 0)
        image = np.moveaxis(np.tensordot(weights / weights.sum(1, keepdims=True), image, (1, axis)), 0, axis)
    return image


def test_evaluation_crops_the_centre_224_of_short_side_256(photos, tmp_path):
    for number, photo in enumerate(photos):
        for split in ("train", "test")[: 1 + number % 2]:
            folder = tmp_path / split / photo.name.split("_")[0]
            folder.mkdir(parents=True)
            shutil.copy(photo, folder)
    data = ak.data.load(tmp_path, image_size=224, validation=0, batch_size=4)
    images, labels = arrays(data.test)
    assert images.shape == (len(photos) // 2, 224, 224, 3)
    for image, label in zip(images * data.std + data.mean, labels):
        photo = next(photo for photo in photos if photo.name.startswith(data.class_names[label]))
        pixels = np.asarray(Image.open(photo).convert("RGB")).astype("float64")
        height, width = pixels.shape[:2]
        scale = 256 / min(height, width)
        size = max(256, round(height * scale)), max(256, round(width * scale))
        whole = resize(pixels, size, (0, 0, width, height))
        top, left = (size[0] - 224) // 2, (size[1] - 224) // 2
        expected = whole[top : top + 224, left : left + 224]
        assert np.abs(image * 255 - expected).max() < 2, photo.name  # 8-bit rounding, twice


def box_of(shown):
    """Returns the box of a crop of an image of positions, from a line fitted to its inner pixels."""
    edges = []
    for axis, line in enumerate((shown[..., 0].mean(0), shown[..., 1].mean(1))):
        inner = np.arange(len(line) // 4, 3 * len(line) // 4)
        slope, start = np.polyfit(inner + 0.5, line[inner], 1)
        edges.append((start, start + slope * len(line)))
    (left, right), (top, bottom) = edges
    return left, top, right, bottom


def positions(height, width):
    """Returns two float images whose pixels are the x and the y coordinates of their centres."""
    x = np.broadcast_to(np.arange(width) + 0.5, (height, width)).astype("float32")
    y = np.broadcast_to(np.arange(height)[:, None] + 0.5, (height, width)).astype("float32")
    return Image.fromarray(x), Image.fromarray(y)


def crop_of_positions(height, width, size, rng_seed):
    parts = [
        crops.random_resized_crop(part, size, np.random.default_rng(rng_seed))[..., 0]
        for part in positions(height, width)
    ]
    return np.stack(parts, -1)


def test_training_crops_have_random_positions_and_the_recipes_areas_and_shapes():
    height, width, boxes = 375, 500, []
    for seed in range(300):
        left, top, right, bottom = box_of(crop_of_positions(height, width, (224, 224), seed))
        assert -0.1 < left < right < width + 0.1 and -0.1 < top < bottom < height + 0.1
        boxes.append((left, top, right - left, bottom - top))
    left, top, across, down = np.transpose(boxes)
    area, shape = across * down / (width * height), across / down
    assert 0.079 < area.min() < 0.12 and 0.9 < area.max() <= 1.001
    assert 0.74 < shape.min() < 0.78 and 1.28 < shape.max() < 1.345
    small = area < 0.3  # uniform, except large ones that do not fit
    assert abs(np.mean(small) - 0.22 / 0.92) < 0.1
    assert abs(np.log(shape[small]).mean()) < 0.08
    for start, length, side in ((left, across, width), (top, down, height)):
        place = (start / (side - length).clip(1))[small]
        assert place.min() < 0.1 and place.max() > 0.9 and abs(place.mean() - 0.5) < 0.12


def test_a_training_crop_is_its_box_of_the_photo_scaled(photos):
    examples = FileExamples(list(map(str, photos)), np.arange(len(photos)), (224, 224, 3))
    for number, photo in enumerate(photos):
        pixels = np.asarray(Image.open(photo).convert("RGB")).astype("float64")
        box = np.rint(box_of(crop_of_positions(*pixels.shape[:2], (224, 224), number)))
        result = examples.fetch([number], [np.random.default_rng(number)])[0][0]
        left, top, right, bottom = box.astype(int)
        expected = resize(pixels, (224, 224), box)
        assert (right - left) * (bottom - top) > 0.07 * pixels.shape[0] * pixels.shape[1]
        difference = np.abs(result - expected)[4:-4, 4:-4]  # at its border, Pillow may read pixels outside the box
        assert difference.max() < 2, (photo.name, box)


def test_an_image_without_a_valid_crop_is_cropped_at_the_centre():
    image = Image.fromarray(np.arange(2000, dtype="float32")[None] + np.zeros((2, 1), "float32"))
    result = crops.random_resized_crop(image, (8, 8), np.random.default_rng(0))
    assert result.shape == (8, 8, 1) and abs(result.mean() - 999.5) < 1 and np.ptp(result) <= 2


def test_training_on_photos_augments_repeatably_by_epoch(photos, tmp_path):
    for photo in photos[:4]:
        (tmp_path / photo.name[:9]).mkdir()
        shutil.copy(photo, tmp_path / photo.name[:9])
    options = dict(image_size=96, validation=0, test=0, batch_size=4)
    data = ak.data.load(tmp_path, augment="flip,color,lighting", **options)
    assert data.image_shape == (96, 96, 3) and data.steps_per_epoch == 1
    (one, labels), (two, _) = first(data.training_stream(), 2)
    assert one.shape == (4, 96, 96, 3) and np.isfinite(one).all() and sorted(labels) == [0, 1, 2, 3]
    np.testing.assert_array_equal(two, first(data.training_stream(1), 1)[0][0])
    plain = first(ak.data.load(tmp_path, augment=None, **options).training_stream(), 1)[0][0]
    assert plain.shape == one.shape and np.abs(one - plain).mean() > 0.05
    assert abs(np.std(one) / np.std(plain) - 1) < 0.4
