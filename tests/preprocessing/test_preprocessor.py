import io

import keras
import numpy as np
import pytest
from PIL import Image

import anytime_keras as ak
from anytime_keras.data import crops
from anytime_keras.preprocessing import Preprocessor, ShortSideResizing

MEAN, STD = [0.48, 0.45, 0.4], [0.27, 0.26, 0.28]


@pytest.fixture
def preprocessor():
    return Preprocessor((32, 32, 3), MEAN, STD)


def pixels(height=32, width=32, channels=3, seed=0):
    shape = (height, width, channels) if channels else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape).astype("uint8")


def truncated():
    file = io.BytesIO()
    Image.fromarray(pixels(64, 64)).save(file, "JPEG")
    return file.getvalue()[:-200]


def smooth(height, width):
    small = Image.fromarray(pixels(9, 12))
    return np.asarray(small.resize((width, height), Image.BICUBIC))


def normalised(image):
    return (image / 255 - MEAN) / STD


def test_every_form_of_an_image_gives_the_same_input(preprocessor, tmp_path):
    image = pixels()
    path = tmp_path / "image.png"
    Image.fromarray(image).save(path)
    forms = [path, str(path), path.read_bytes(), Image.open(path), image, image[None], image / 255, [path]]
    forms += [image.astype("uint16") * 257, np.dstack([image, image[..., :1]])]
    for form in forms:
        found = preprocessor(form)
        assert found.shape == (1, 32, 32, 3) and found.dtype == np.float32
        np.testing.assert_allclose(found[0], normalised(image), atol=1e-5)


def test_a_list_may_mix_forms_and_sizes(preprocessor, tmp_path):
    path = tmp_path / "photo.jpg"
    Image.fromarray(smooth(90, 50)).save(path)
    found = preprocessor([path, pixels(), Image.fromarray(pixels(40, 300))])
    assert found.shape == (3, 32, 32, 3)
    np.testing.assert_array_equal(found[:1], preprocessor(path))


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "CMYK", "P", "I;16", "1"])
def test_files_of_all_modes_are_decoded(preprocessor, tmp_path, mode):
    grey = Image.fromarray(smooth(32, 32)).convert("L")
    if mode == "I;16":
        image = Image.fromarray(np.asarray(grey).astype("uint16") * 257)
    else:
        image = grey.convert("RGB").convert(mode)
    path = tmp_path / ("image.tif" if mode == "CMYK" else "image.png")
    image.save(path)
    tolerance = {"1": 256, "P": 60}.get(mode, 2)
    found = preprocessor(path)[0] * STD + MEAN
    assert np.abs(found * 255 - np.asarray(grey)[..., None]).max() < tolerance
    np.testing.assert_allclose(preprocessor(Image.open(path)), preprocessor(path), atol=1e-6)


def test_photos_are_upright_and_pillow_images_stay_as_they_are(preprocessor, tmp_path):
    image = smooth(48, 32)
    exif = Image.Exif()
    exif[0x0112] = 6  # stored turned by 90 degrees
    Image.fromarray(np.rot90(image).copy()).save(tmp_path / "turned.png", exif=exif)
    opened = Image.open(tmp_path / "turned.png")
    for form in (tmp_path / "turned.png", opened):
        np.testing.assert_array_equal(preprocessor(form), preprocessor(image))
    assert opened.size == (48, 32)


def test_networks_for_grey_images_take_colour_images():
    preprocessor = Preprocessor((8, 8, 1), 0.3, 0.4)
    image = pixels(8, 8)
    expected = (np.asarray(Image.fromarray(image).convert("L"))[..., None] / 255 - 0.3) / 0.4
    np.testing.assert_allclose(preprocessor(image)[0], expected, atol=1.01 / 255 / 0.4)
    np.testing.assert_allclose(preprocessor(Image.fromarray(image))[0], expected, atol=1e-5)
    assert preprocessor(image[..., 0]).shape == preprocessor(image / 255).shape == (1, 8, 8, 1)


def test_networks_with_other_channels_take_arrays_with_as_many(tmp_path):
    preprocessor, image = Preprocessor((16, 16, 5), 0.5, 0.25), pixels(32, 32, 5)
    assert preprocessor(image).shape == (1, 16, 16, 5)
    np.testing.assert_allclose(preprocessor(image[:16, :16])[0], (image[:16, :16] / 255 - 0.5) / 0.25, atol=1e-5)
    for wrong in (image[..., :3], Image.fromarray(image[..., :3]), tmp_path / "image.png"):
        with pytest.raises(ValueError, match="takes only arrays of 5 channels"):
            preprocessor(wrong)


def test_channel_order_is_reversed_before_normalisation():
    image = pixels()
    found = Preprocessor((32, 32, 3), MEAN, STD, channel_order="bgr")
    expected = normalised(image[..., ::-1])
    np.testing.assert_allclose(found(image)[0], expected, atol=1e-5)
    tensor = keras.ops.convert_to_tensor(image)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(found(tensor))[0], expected, atol=1e-5)


@pytest.mark.parametrize("shape, short_side", [((32, 32, 3), None), ((28, 28, 3), 32), ((24, 32, 3), 40)])
@pytest.mark.parametrize("size", [(32, 32), (28, 28), (75, 41), (20, 90), (200, 301)])
def test_the_layers_on_the_device_equal_pillow_within_rounding(shape, short_side, size):
    preprocessor = Preprocessor(shape, MEAN, STD, short_side)
    image = smooth(*size)
    on_host, level = preprocessor(image), 1 / 255 / min(STD)
    on_device = keras.ops.convert_to_numpy(preprocessor(keras.ops.convert_to_tensor(image)))
    assert on_device.shape == on_host.shape == (1, *shape)
    assert np.abs(on_device - on_host).max() < 1.01 * level
    if size == shape[:2] and short_side is None:
        np.testing.assert_allclose(on_device, on_host, atol=1e-6)
    floats = preprocessor(keras.ops.convert_to_tensor((image / 255).astype("float32")))
    np.testing.assert_allclose(keras.ops.convert_to_numpy(floats), preprocessor(image / 255), atol=1e-3)


@pytest.mark.tensorflow
def test_a_traced_graph_takes_any_size():
    import tensorflow as tf

    preprocessor = Preprocessor((28, 36, 3), MEAN, STD, short_side=40)
    traced = tf.function(preprocessor, input_signature=[tf.TensorSpec((None, None, None, 3), tf.uint8)])
    for size in [(28, 36), (75, 41), (20, 90), (200, 301)]:
        image = smooth(*size)
        np.testing.assert_allclose(traced(image[None]), preprocessor(tf.constant(image)), atol=1e-5)
    assert traced.experimental_get_tracing_count() == 1


def test_a_subclass_of_a_layer_may_extend_its_config():
    class Named(ShortSideResizing):
        def get_config(self):
            return {**super().get_config(), "label": "photos"}

    config = Named(np.int64(16), 20).get_config()
    assert [config[key] for key in ("height", "width", "short_side", "label")] == [16, 20, 16, "photos"]


def test_data_sets_in_memory_are_preprocessed_as_in_their_evaluation():
    images, labels = np.stack([pixels(seed=seed) for seed in range(20)]), np.arange(20) % 2
    for x in (images, (images / 255).astype("float32"), images * np.float32(3) - 100):
        data = ak.data.load({"x_train": x, "y_train": labels, "x_test": x, "y_test": labels}, validation=0)
        batch = keras.ops.convert_to_numpy(next(iter(data.test))[0])
        np.testing.assert_allclose(Preprocessor.for_data(data)(x), batch, rtol=1e-5, atol=1e-5)


def test_cropped_data_sets_are_preprocessed_as_in_their_evaluation(tmp_path):
    paths = []
    for number, size in enumerate([(50, 70), (90, 40), (64, 64), (28, 28)]):
        path = tmp_path / "train" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(smooth(*size)).save(path)
        paths.append(path)
    (tmp_path / "test").symlink_to(tmp_path / "train")
    data = ak.data.load(tmp_path, image_size=28, validation=0)
    batch = keras.ops.convert_to_numpy(next(iter(data.test))[0])
    preprocessor = Preprocessor.for_data(data)
    assert preprocessor.short_side == crops.short_side((28, 28)) == 32
    paths.sort(key=lambda path: path.parent.name)
    np.testing.assert_allclose(preprocessor(paths), batch, rtol=1e-5, atol=1e-5)


def test_the_config_describes_the_preprocessor():
    preprocessor = Preprocessor((24, 32, 3), MEAN, 0.5, 40, None, "bgr")
    again = Preprocessor.from_config(preprocessor.get_config())
    assert again.get_config() == preprocessor.get_config() != Preprocessor((24, 32, 3), MEAN, 0.5, 40).get_config()
    np.testing.assert_array_equal(again(pixels()), preprocessor(pixels()))
    for layer in preprocessor.layers:
        assert type(layer).from_config(layer.get_config()).get_config() == layer.get_config()


@pytest.mark.parametrize(
    "arguments, message",
    [
        (((32, 32),), "Received: image_shape=\\(32, 32\\)"),
        (((32, 0, 3),), "three positive ints"),
        (((32, 32, 3), [0.5, 0.5]), "3 channels"),
        (((32, 32, 3), float("nan")), "finite"),
        (((32, 32, 3), 0.5, 0.0), "std=0"),
        (((32, 32, 3), 0.5, 0.5, 16), "short_side"),
        (((32, 32, 3), 0.5, 0.5, None, None, "gbr"), "channel_order"),
        (((32, 32, 3), 0.5, 0.5, None, (1.0,)), "value_range"),
        (((32, 32, 3), 0.5, 0.5, None, (1.0, 0.0)), "value_range"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Preprocessor(*arguments)


def test_bad_images_are_named(preprocessor, tmp_path):
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("a cat")
    Image.fromarray(pixels(1, 1)).save(tmp_path / "dot.png")
    Image.new("1", (20000, 20000)).save(tmp_path / "huge.png")
    Image.fromarray(pixels(2, 20000)).save(tmp_path / "line.png")
    names = {"empty": "empty.*0 bytes", "text": "text.jpg.*cannot be decoded", "huge": "huge.*too large"}
    for name, message in {**names, "dot": "1 x 1 pixels for .*dot", "cat": "no image '.*cat"}.items():
        path = next(tmp_path.glob(f"{name}.*"), tmp_path / f"{name}.jpg")
        for form in (path, [pixels(), path]):
            with pytest.raises(ValueError, match=message):
                preprocessor(form)
    with pytest.raises(ValueError, match="resized for the network"):
        Preprocessor((224, 224, 3))(tmp_path / "line.png")
    with pytest.raises(ValueError, match="folder"):
        preprocessor(tmp_path)
    with pytest.raises(ValueError, match="Download it"):
        preprocessor("https://example.org/cat.jpg")


@pytest.mark.parametrize(
    "images, message",
    [
        ([], "at least one"),
        ([None], "None for image 0"),
        (7, "Received: int 7"),
        ({}, "Received: dict"),
        ([np.zeros((1, 3, 32, 32), "uint8")], "\\(1, 3, 32, 32\\) for image 0. Move the channels to the last axis"),
        ([[np.zeros((32, 32, 3), "uint8")]], "Received: list .array[^\n]* for image 0.$"),
        (np.zeros((1, 1, 8, 8, 3), "uint8"), "Received: ndarray of shape \\(1, 1, 8, 8, 3\\).$"),
        (np.zeros((32, 32, 5), "uint8"), "\\(32, 32, 5\\)"),
        (np.zeros((0, 32, 32, 3), "uint8"), "\\(0, 32, 32, 3\\)"),
        (np.zeros((32, 32, 3), "int64"), "int64"),
        (np.full((32, 32, 3), np.nan), "NaN"),
        (np.full((32, 32, 3), 200.0), "from 200 to 200"),
        (np.zeros((1, 1, 3), "uint8"), "1 x 1 pixels"),
        (b"", "^The image cannot be decoded: cannot identify image file.$"),
        ([b"a cat"], "^Image 0 cannot be decoded: cannot identify image file.$"),
        (truncated(), "^The image cannot be decoded: image file is truncated[^.]*[.]$"),
        (Image.new("F", (9, 9)), "^The image cannot be decoded: .*mode 'F' of 32 bits, which has no fixed range.$"),
        ("", "no image ''"),
    ],
)
def test_bad_input_is_one_clear_error(preprocessor, images, message):
    with pytest.raises(ValueError, match=message):
        preprocessor(images)


@pytest.mark.parametrize(
    "images, message",
    [
        (np.zeros((32, 32, 1), "uint8"), "\\(1, 32, 32, 1\\)"),
        (np.zeros((0, 32, 32, 3), "uint8"), "\\(0, 32, 32, 3\\)"),
        (np.zeros((32, 32, 3), "int32"), "int32 for the tensor"),
        (np.full((32, 32, 3), np.nan, "float32"), "NaN"),
        (np.full((32, 32, 3), np.inf, "float32"), "NaN or an infinity"),
        (np.full((32, 32, 3), 200.0, "float32"), "from 200 to 200"),
        (np.zeros((1, 1, 3), "uint8"), "1 x 1 pixels for the tensor"),
        (np.zeros((2, 30000, 3), "uint8"), "resized for the network"),
    ],
)
def test_tensors_are_checked_like_arrays(preprocessor, images, message):
    preprocessor = Preprocessor((224, 224, 3)) if message == "resized for the network" else preprocessor
    with pytest.raises(ValueError, match=message):
        preprocessor(keras.ops.convert_to_tensor(images))


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "bool", "float32", "float16"])
def test_tensors_of_all_types_equal_arrays(preprocessor, dtype):
    kinds = {"uint16": pixels().astype("uint16") * 256, "bool": pixels() > 100}
    images = kinds.get(dtype, (pixels() / (1 if dtype == "uint8" else 255)).astype(dtype))
    found = keras.ops.convert_to_numpy(preprocessor(keras.ops.convert_to_tensor(images)))
    np.testing.assert_allclose(found, preprocessor(images), atol=1e-5)


def test_arrays_of_either_byte_order_are_equal(preprocessor):
    values = np.random.default_rng(0).integers(0, 65536, (32, 32), "uint16")
    np.testing.assert_array_equal(preprocessor(values.astype(">u2")), preprocessor(values))


def test_batches_of_other_libraries_are_arrays(preprocessor):
    class Batch:
        def __array__(self, dtype=None, copy=None):
            return pixels()[np.newaxis]

    np.testing.assert_array_equal(preprocessor(Batch()), preprocessor(pixels()[np.newaxis]))


def test_bytes_of_a_truncated_file_are_refused(preprocessor):
    content = io.BytesIO()
    Image.fromarray(smooth(90, 90)).save(content, "JPEG")
    with pytest.raises(ValueError, match="cannot be decoded"):
        preprocessor(content.getvalue()[:400])


def test_a_resizing_layer_made_from_numpys_numbers_is_saved(tmp_path):
    model = keras.Sequential([keras.Input((20, 30, 3)), ak.preprocessing.ShortSideResizing(*np.array([8, 12]))])
    model.save(tmp_path / "resizing.keras")
    images = pixels(20, 30)[np.newaxis]
    np.testing.assert_array_equal(keras.saving.load_model(tmp_path / "resizing.keras")(images), model(images))
