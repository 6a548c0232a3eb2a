"""Data sets from every source: splits, normalisation, batches, errors."""

import copy
import pickle
import shutil
import struct

import keras
import numpy as np
import pytest
from PIL import ExifTags, Image, TiffImagePlugin

import anytime_keras as ak
from anytime_keras.data import crops
from anytime_keras.data.load import hold_out
from tests.conftest import BACKEND

RNG = np.random.default_rng(0)


def arrays(batches):
    """Returns all images and labels of a split's batches."""
    if isinstance(batches, keras.utils.PyDataset):
        batches = [batches[number] for number in range(len(batches))]
    pairs = [(np.asarray(x), np.asarray(y)) for x, y in batches]
    return np.concatenate([x for x, _ in pairs]), np.concatenate([y for _, y in pairs])


def first(stream, count):
    """Returns the first batches of an infinite stream."""
    if isinstance(stream, keras.utils.PyDataset):
        return [tuple(map(np.asarray, stream[number])) for number in range(count)]
    return [(np.asarray(x), np.asarray(y)) for _, (x, y) in zip(range(count), stream)]


def coloured(count=60, size=(6, 5), classes=3):
    """Returns uint8 images whose first pixel is their number, so that each can be identified."""
    images = RNG.integers(0, 256, (count, *size, 3)).astype("uint8")
    images[:, 0, 0, 0] = np.arange(count)
    return images, np.arange(count) % classes


def write_folder(place, images, labels, names=("cat", "dog", "eel"), ending="png"):
    for number, (image, label) in enumerate(zip(images, labels)):
        folder = place / names[label]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.squeeze()).save(folder / f"{number:04d}.{ending}")


# How an upright image is stored under each Exif orientation of the standard: where its top left corner is.
STORED = {
    1: lambda upright: upright,
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.swapaxes(0, 1),
    6: lambda upright: upright.swapaxes(0, 1)[::-1],
    7: lambda upright: upright[::-1, ::-1].swapaxes(0, 1),
    8: lambda upright: upright[::-1].swapaxes(0, 1),
}


def save_turned(path, upright, orientation, **options):
    """Saves an image like a camera that was held in this orientation."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    Image.fromarray(np.ascontiguousarray(STORED[orientation](upright))).save(path, exif=exif, **options)


def test_digits_are_split_by_class_and_normalised_by_training_images():
    data = ak.data.load("digits", batch_size=100)
    assert data.sizes == {"train": 1294, "validation": 144, "test": 359}
    assert data.image_shape == (8, 8, 1) and data.class_names == list("0123456789")
    (x, y), (x_validation, y_validation), (x_test, y_test) = map(arrays, data)
    assert x.shape == (1294, 8, 8, 1) and x.dtype == "float32" and y.dtype == "int32"
    np.testing.assert_allclose([x.mean(), x.std()], [0, 1], atol=1e-3)
    assert abs(x_test.mean()) > 1e-4  # by the statistics of the training images
    for labels, size in ((y_validation, 144), (y_test, 359)):
        counts = np.bincount(labels, minlength=10)
        assert counts.sum() == size and counts.max() - counts.min() <= 3
    everything = np.concatenate([x, x_validation, x_test]) * data.std + data.mean
    from sklearn.datasets import load_digits

    expected = np.sort(load_digits().images.reshape(1797, 64) / 16, axis=0)
    np.testing.assert_allclose(np.sort(everything.reshape(1797, 64), axis=0), expected, atol=1e-5)


def test_seeds():
    def order(**seeds):
        data = ak.data.load("digits", **seeds)
        return arrays(data.train)[1], arrays(data.test)[1], data.examples["test"].images

    one, same, other = order(seed=1), order(seed=1), order(seed=2)
    np.testing.assert_array_equal(one[0], same[0])
    assert (one[0] != other[0]).any()
    np.testing.assert_array_equal(one[2], other[2])  # runs with other seeds have the same test images
    split = order(split_seed=5)
    assert (split[2].shape != one[2].shape) or (split[2] != one[2]).any()


def test_every_epoch_has_another_order_and_every_image_once():
    images, labels = coloured()
    data = ak.data.load({"x_train": images, "y_train": labels}, batch_size=16, test=0, validation=0, augment=None)
    assert data.validation is None and data.test is None and data.steps_per_epoch == 4
    epochs = [arrays(data.train)[0] for _ in range(2)]
    if BACKEND == "jax":  # Keras announces each epoch
        data.train.on_epoch_begin()
        epochs[1] = arrays(data.train)[0]
    numbers = [np.rint((x * data.std + data.mean)[:, 0, 0, 0] * 255).astype(int) for x in epochs]
    for order in numbers:
        np.testing.assert_array_equal(np.sort(order), np.arange(60))
    assert (numbers[0] != numbers[1]).any()


def test_a_stream_starts_at_any_epoch():
    data = ak.data.load("digits", batch_size=200, augment=["pad_crop", "flip"])
    steps = data.steps_per_epoch
    whole, later = first(data.training_stream(0), 3 * steps), first(data.training_stream(1), 2 * steps)
    for (x, y), (x_later, y_later) in zip(whole[steps:], later):
        np.testing.assert_array_equal(x, x_later)
        np.testing.assert_array_equal(y, y_later)
    assert (whole[0][1] != whole[steps][1]).any()


@pytest.mark.tensorflow
def test_tensorflows_autotuning_of_batches_is_off():
    data = ak.data.load("digits")
    for batches in (*data, data.training_stream(), data.training_stream(3)):
        assert batches.options().autotune.enabled is False


def test_a_stream_trains_a_model():
    data = ak.data.load("digits", batch_size=200)
    pixels = keras.layers.Flatten()(image := keras.Input((8, 8, 1)))
    model = ak.AnytimeModel(image, {name: keras.layers.Dense(10, name=name)(pixels) for name in ("exit_1", "exit_2")})
    model.compile("sgd", loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    history = model.fit(
        data.training_stream(),
        steps_per_epoch=data.steps_per_epoch,
        epochs=2,
        validation_data=data.validation,
        verbose=0,
        shuffle=False,
    ).history
    assert len(history["loss"]) == 2 and len(history["val_exit_2_accuracy"]) == 2
    history = model.fit(data.train, epochs=2, verbose=0, shuffle=False).history
    assert len(history["loss"]) == 2
    assert int(model.optimizer.iterations) == 4 * data.steps_per_epoch


def test_one_hot_labels():
    data = ak.data.load("digits", one_hot=True)
    _, labels = arrays(data.test)
    assert labels.shape == (359, 10) and labels.dtype == "float32"
    np.testing.assert_array_equal(labels.argmax(1), data.examples["test"].labels)


@pytest.mark.parametrize("layout", ["split", "flat"])
def test_a_folder_of_images(tmp_path, layout):
    images, labels = coloured()
    if layout == "split":
        write_folder(tmp_path / "train", images[:45], labels[:45])
        write_folder(tmp_path / "test", images[45:], labels[45:])
    else:
        write_folder(tmp_path, images, labels)
    data = ak.data.load(tmp_path, validation=9, augment=None)
    assert data.class_names == ["cat", "dog", "eel"] and data.image_shape == (6, 5, 3)
    assert data.sizes == (
        {"train": 36, "validation": 9, "test": 15} if layout == "split" else {"train": 39, "validation": 9, "test": 12}
    )
    for split in ("train", "validation", "test"):
        stored = data.examples[split]
        np.testing.assert_array_equal(stored.images, images[stored.images[:, 0, 0, 0]])
        np.testing.assert_array_equal(stored.labels, labels[stored.images[:, 0, 0, 0]])
    x, _ = arrays(data.test)
    np.testing.assert_allclose(x * data.std + data.mean, data.examples["test"].images / 255, atol=1e-5)


def test_a_folder_with_its_own_validation_split_and_grey_images(tmp_path):
    images, labels = coloured()
    for split in ("train", "val", "test"):
        write_folder(tmp_path / split, images[..., :1], labels)
    data = ak.data.load(tmp_path)
    assert data.sizes == {"train": 60, "validation": 60, "test": 60} and data.image_shape == (6, 5, 1)


def test_a_folder_of_images_with_exif_orientations(tmp_path):
    images, labels = coloured(24, size=(6, 4))
    for number, (image, label) in enumerate(zip(images, labels)):
        place = tmp_path / ["cat", "dog", "eel"][label]
        place.mkdir(exist_ok=True)
        save_turned(place / f"{number:04d}.png", image, 1 + number % 8)
    data = ak.data.load(tmp_path, validation=0, augment=None)
    assert data.image_shape == (6, 4, 3)
    for examples in data.examples.values():
        np.testing.assert_array_equal(examples.images, images[examples.images[:, 0, 0, 0]])
    cropped = ak.data.load(tmp_path, validation=0, augment=None, image_size=(6, 4)).examples["test"]
    expected = [crops.center_crop(Image.fromarray(image), (6, 4)) for image in data.examples["test"].images]
    np.testing.assert_array_equal(cropped.fetch(range(len(cropped)))[0], expected)


@pytest.mark.parametrize("layout", ["split", "flat"])
def test_hidden_and_system_files_in_folders_are_ignored(tmp_path, layout):
    images, labels = coloured()
    for split in ("train", "test") if layout == "split" else (".",):
        write_folder(tmp_path / split, images, labels)
    expected = ak.data.load(tmp_path)
    places = [tmp_path, tmp_path / "cat"] if layout == "flat" else [tmp_path, tmp_path / "test", tmp_path / "train/cat"]
    for place in places:
        for name in (".ipynb_checkpoints", ".git", "__MACOSX", "@eaDir", "$RECYCLE.BIN", "__pycache__"):
            write_folder(place / name, images[:3], labels[:3])
        for name in (".DS_Store", "._0000.png", ".0000.png", "Thumbs.db"):
            (place / name).write_bytes(b"no image")
    found = ak.data.load(tmp_path)
    assert found.describe() == expected.describe() and found.class_names == ["cat", "dog", "eel"]
    np.testing.assert_array_equal(found.examples["train"].labels, expected.examples["train"].labels)


def test_jfif_is_jpeg(tmp_path):
    images, labels = coloured(24)
    write_folder(tmp_path, images, labels, ending="jpg")
    for path in (tmp_path / "dog").iterdir():
        path.rename(path.with_suffix(".jfif"))
    data = ak.data.load(tmp_path, validation=0, test=0)
    assert np.bincount(data.examples["train"].labels).tolist() == [8, 8, 8]


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize(
    "file, message",
    [
        ("dog/more/1.png", "class 'dog' must be in '.*dog' itself. Received: 1 in folders within it.*'more/1.png'"),
        ("eel/1.heic", "Class 'eel' contains no images: '.*eel' contains .heic. Known file types: .png"),
    ],
)
def test_a_class_whose_images_would_be_skipped_is_named(tmp_path, split, file, message):
    images, labels = coloured(6)
    for each in ("train", "test"):
        write_folder(tmp_path / each, images, labels)
    if file.startswith("eel"):
        shutil.rmtree(tmp_path / split / "eel")
    (tmp_path / split / file).parent.mkdir(parents=True)
    (tmp_path / split / file).write_bytes((tmp_path / "train" / "cat" / "0000.png").read_bytes())
    with pytest.raises(ValueError, match=message):
        ak.data.load(tmp_path)


def test_a_class_without_an_image_that_can_be_decoded_is_named(tmp_path):
    write_folder(tmp_path, *coloured(24))
    for path in (tmp_path / "dog").iterdir():
        path.write_bytes(b"no image")
    with pytest.raises(ValueError, match="No training image of class 'dog' .* Received: '.*dog/0001.png'"):
        ak.data.load(tmp_path, skip_corrupt=True)


@pytest.mark.parametrize("copy_of", [copy.deepcopy, lambda data: pickle.loads(pickle.dumps(data))])
def test_a_data_set_that_was_read_can_be_copied(copy_of):
    images, labels = coloured()
    data = ak.data.load({"x_train": images, "y_train": labels}, augment="pad_crop,flip")
    expected = arrays(data.train), arrays(data.test)
    copied = copy_of(data)
    for found, wanted in zip((arrays(copied.train), arrays(copied.test)), expected):
        assert found[0].shape == wanted[0].shape and found[1].shape == wanted[1].shape
    np.testing.assert_array_equal(arrays(copied.test)[0], expected[1][0])


@pytest.mark.parametrize("file", ["cat/1.heic", "1.png"])
def test_skipped_files_are_reported(tmp_path, file):
    write_folder(tmp_path, *coloured(24))
    (tmp_path / file).write_bytes(b"an image")
    with pytest.warns(UserWarning, match=f"1 files in .* are ignored, such as '{file}'"):
        assert sum(ak.data.load(tmp_path).sizes.values()) == 24


def test_two_validation_splits_are_refused(tmp_path):
    for split in ("train", "val", "validation"):
        write_folder(tmp_path / split, *coloured(6))
    with pytest.raises(ValueError, match="one validation split. Received: both `val` and `validation`"):
        ak.data.load(tmp_path)


def test_images_of_many_sizes_are_cropped(tmp_path):
    shapes = [(20, 30), (31, 17), (16, 16), (64, 50)]
    for number in range(24):
        height, width = shapes[number % 4]
        ramp = np.broadcast_to(np.linspace(0, 255, width), (height, width)).astype("uint8")
        write_folder(tmp_path, [np.stack([ramp] * 3, -1)], [number % 3])
        (tmp_path / ["cat", "dog", "eel"][number % 3] / "0000.png").rename(
            tmp_path / ["cat", "dog", "eel"][number % 3] / f"image_{number}.png"
        )
    with pytest.raises(ValueError, match=r"different sizes.*image_size=\(224, 224\)"):
        ak.data.load(tmp_path)
    data = ak.data.load(tmp_path, image_size=(14, 12), batch_size=5, augment=["flip"])
    assert data.image_shape == (14, 12, 3)
    x, y = arrays(data.test)
    assert x.shape == (len(y), 14, 12, 3)
    values = x * data.std + data.mean
    assert (np.diff(values.mean(axis=(0, 1, 3))) > 0).all()  # the ramp is kept, not mirrored
    one, two = (first(data.training_stream(epoch), 2) for epoch in (0, 1))
    assert np.abs(one[0][0] - two[0][0]).max() > 0.01
    np.testing.assert_array_equal(one[0][0], first(data.training_stream(0), 2)[0][0])


def test_an_npz_file(tmp_path):
    images, labels = coloured()
    np.savez(
        tmp_path / "all.npz",
        x_train=images,
        y_train=labels,
        x_test=images[:6],
        y_test=labels[:6, None],
        class_names=["a", "b", "c"],
    )
    data = ak.data.load(tmp_path / "all.npz", validation=0)
    assert data.sizes == {"train": 60, "test": 6} and data.class_names == ["a", "b", "c"]
    assert ak.data.load((images, labels)).sizes == {"train": 43, "validation": 5, "test": 12}


def test_a_corrupt_image_names_its_file(tmp_path):
    images, labels = coloured(12)
    write_folder(tmp_path, images, labels)
    whole = (tmp_path / "dog" / "0004.png").read_bytes()
    for content in (b"no image", whole[: len(whole) // 2], b""):
        (tmp_path / "dog" / "0004.png").write_bytes(content)
        with pytest.raises(ValueError, match="dog/0004.png.*cannot be decoded"):
            ak.data.load(tmp_path)


def test_a_corrupt_image_read_while_training_names_its_file(tmp_path):
    write_folder(tmp_path, *coloured(12))
    data = ak.data.load(tmp_path, image_size=(4, 4), test=0, validation=0)
    (tmp_path / "dog" / "0004.png").write_bytes(b"no image")
    with pytest.raises(Exception, match="dog/0004.png.*cannot be decoded"):
        arrays(data.train)


@pytest.mark.parametrize("labels", [[-1] + [0] * 11, [0.5] * 12, [[0, 1]] * 12, [0] * 11])
def test_labels_must_be_classes(labels):
    images, _ = coloured(12)
    with pytest.raises(ValueError, match="y_train|Labels must be from 0"):
        ak.data.load((images, np.array(labels)))


def test_labels_out_of_range_are_refused():
    images, labels = coloured(12)
    labels[7] = 3
    with pytest.raises(ValueError, match="from 0 to 2.*3 for image 7 of split 'train'"):
        ak.data.load({"x_train": images, "y_train": labels, "class_names": ["a", "b", "c"]})


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(x_train=np.zeros((12, 4))), r"\(12, 4\)"),
        (dict(x_train=np.zeros((12, 4, 4, 1), int)), "dtype int64"),
        (dict(x_train=np.full((12, 4, 4, 1), np.nan)), "finite.*image 0"),
        (dict(x_tset=np.zeros((12, 4, 4, 1))), "Did you mean.*'x_test'"),
        (dict(x_test=np.zeros((12, 4, 4, 1))), "needs both `x_test` and `y_test`"),
        (dict(x_train=np.zeros((0, 4, 4, 1)), y_train=np.zeros(0, int)), "n above 0"),
    ],
)
def test_arrays_must_be_images(change, message):
    images, labels = coloured(12)
    with pytest.raises(ValueError, match=message):
        ak.data.load({"x_train": images, "y_train": labels, **change})


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(batch_size=0), "batch_size=0"),
        (dict(batch_size=1.5), "batch_size=1.5"),
        (dict(seed=-1), "seed=-1"),
        (dict(validation=1.5), "validation=1.5"),
        (dict(validation=5000), "validation=5000"),
        (dict(test=-0.1), "test=-0.1"),
        (dict(augment=["flop"]), "Did you mean 'flip'"),
        (dict(augment="flip,flop"), "'flop'"),
        (dict(image_size="big"), "image_size='big'"),
        (dict(image_size=(0, 4)), r"\(0, 4\)"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        ak.data.load("digits", **arguments)


def test_missing_files_and_files_without_data_are_refused(tmp_path):
    (tmp_path / "text.npz").write_text("no arrays")
    (tmp_path / "text.csv").write_text("1,2")
    (tmp_path / "empty").mkdir()
    (tmp_path / "no_images" / "cat").mkdir(parents=True)
    for place, message in [
        (tmp_path / "missing", "no file or folder"),
        (tmp_path / "missing.npz", "no file or folder"),
        (tmp_path / "text.npz", "no .npz file"),
        (tmp_path / "text.csv", "must be an .npz"),
        (tmp_path / "empty", "one folder of images per class"),
        (tmp_path / "no_images", "Class 'cat' contains no images"),
    ]:
        with pytest.raises(ValueError, match=message):
            ak.data.load(place)
    for wrong in (3, None, [1, 2, 3]):
        with pytest.raises(ValueError, match="`data` must be"):
            ak.data.load(wrong)


def test_the_last_training_images_are_held_out():
    x = np.arange(20, dtype="float32").reshape(20, 1, 1, 1) / 20
    loaded = ak.data.load((x, np.arange(20) % 2), test=0, validation="last", batch_size=32)
    held = loaded.pipeline("validation").examples.images
    np.testing.assert_array_equal(held, x[-2:])
    assert loaded.sizes == {"train": 18, "validation": 2}


def test_the_split_is_stratified_and_repeatable():
    labels = np.array([0] * 100 + [1] * 50 + [2] * 10)
    kept, held = hold_out(labels, 16, 0, "validation")
    assert np.bincount(labels[held]).tolist() == [10, 5, 1]
    assert sorted([*kept, *held]) == list(range(160))
    again = hold_out(labels, 0.1, 0, "validation")[1]
    np.testing.assert_array_equal(held, again)
    assert (hold_out(labels, 16, 1, "validation")[1] != held).any()


def pictures(count=12, side=8):
    return np.random.default_rng(0).random((count, side, side, 1), dtype="float32")


@pytest.mark.parametrize(
    "spoil", [lambda b: b[:-500], lambda b: b[:300] + bytes([b[300] ^ 1]) + b[301:], lambda b: b"PK"]
)
def test_a_damaged_npz_is_named(tmp_path, spoil):
    np.savez(tmp_path / "d.npz", x_train=pictures(), y_train=np.arange(12) % 3)
    (tmp_path / "d.npz").write_bytes(spoil((tmp_path / "d.npz").read_bytes()))
    with pytest.raises(ValueError, match="d.npz"):
        ak.data.load(tmp_path / "d.npz")


@pytest.mark.parametrize(
    "arrays, arguments, message",
    [
        (dict(x_test=pictures(3, 9), y_test=np.arange(3)), {}, "one shape in all splits"),
        (dict(x_test=pictures(3), y_test=np.array([0, 1, 60])), {}, "60 for image 2 of split 'test'"),
        (dict(y_train=np.arange(12) % 3 * 1000), {}, "every class from 0"),
        (dict(y_train=np.zeros(12, int)), {}, "two classes"),
        ({}, dict(image_size=20), "image_size"),
        ({}, dict(image_size=True), "image_size"),
        ({}, dict(augment=3), "augment"),
        ({}, dict(validation=float("nan")), "validation"),
    ],
)
def test_data_that_do_not_fit_together_are_refused(arrays, arguments, message):
    with pytest.raises(ValueError, match=message):
        ak.data.load({"x_train": pictures(), "y_train": np.arange(12) % 3, **arrays}, **arguments)


def test_a_misspelt_split_folder_is_reported(tmp_path):
    for split in ("train", "valid"):
        for name in ("cat", "dog"):
            (tmp_path / split / name).mkdir(parents=True)
            Image.fromarray(np.zeros((8, 8), "uint8")).save(tmp_path / split / name / "1.png")
    with pytest.raises(ValueError, match="'valid'.*Did you mean 'val' or 'validation'"):
        ak.data.load(tmp_path)


@pytest.mark.parametrize("ending, dtype", [("png", "<u2"), ("tif", "<u2"), ("tif", ">u2")])
def test_sixteen_bit_images_keep_their_values(tmp_path, ending, dtype):
    for name, value in (("cat", 32768), ("dog", 65535)):
        (tmp_path / name).mkdir()
        for number in range(4):
            image = Image.fromarray(np.full((8, 8), value, dtype))
            image.save(tmp_path / name / f"{number}.{ending}")
    data = ak.data.load(tmp_path, validation=0, test=0)
    assert sorted(np.unique(data.examples["train"].images)) == [128, 255]


def test_tiffs_of_12_bits_and_those_where_white_is_zero_keep_their_values(tmp_path):
    def tiff(path, bits, photometric, pixels):
        width = 8 * len(pixels) // bits
        values = {256: width, 257: 1, 258: bits, 259: 1, 262: photometric, 273: 8, 277: 1, 278: 1, 279: len(pixels)}
        entries = b"".join(struct.pack("<HHIHH", tag, 3, 1, value, 0) for tag, value in values.items())
        head = struct.pack("<2sHI", b"II", 42, 8 + len(pixels))
        path.write_bytes(head + pixels + struct.pack("<H", len(values)) + entries + bytes(4))
        return crops.to_array(crops.decode(path, path, 1)).ravel().tolist()

    assert tiff(tmp_path / "12.tif", 12, 1, bytes.fromhex("fff000 800400")) == [255, 0, 128, 64]
    assert tiff(tmp_path / "inverse.tif", 16, 0, np.array([0, 65535, 16384], "<u2").tobytes()) == [255, 0, 191]


@pytest.mark.parametrize("size", [None, (8, 8)])
@pytest.mark.parametrize("dtype, mode", [("float32", "F"), ("int32", "I")])
def test_images_of_32_bits_are_refused_with_their_name_and_mode(tmp_path, dtype, mode, size):
    write_folder(tmp_path, [np.full((8, 8), 1, dtype)] * 4, [0, 0, 1, 1], ending="tif")
    with pytest.raises(ValueError, match=rf"000\d.tif' cannot be decoded: .*mode '{mode}' of 32 bits"):
        ak.data.load(tmp_path, validation=0, test=0, image_size=size)


def test_a_tiff_of_signed_integers_is_refused(tmp_path):
    pixels = np.zeros((2, 2), "uint8")
    for number in range(4):
        (tmp_path / "ab"[number % 2]).mkdir(exist_ok=True)
        place = tmp_path / "ab"[number % 2] / f"{number}.tif"
        Image.fromarray(pixels).save(place, tiffinfo={TiffImagePlugin.SAMPLEFORMAT: 2})
    with pytest.raises(ValueError, match=r"\d.tif' cannot be decoded: .*received a TIFF of signed integers, mode 'L'"):
        ak.data.load(tmp_path, validation=0, test=0)


def test_every_class_keeps_an_image_for_training():
    data = ak.data.load((pictures(10), np.arange(10) // 2), validation=0, test=0.5)
    assert set(data.examples["train"].labels) == set(range(5))
