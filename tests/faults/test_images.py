"""Images that cannot be decoded are named, or skipped on request, on every backend."""

import numpy as np
import pytest

import anytime_keras as ak
from anytime_keras import commands
from anytime_keras.data import crops, examples
from tests.data.test_load import arrays, coloured, write_folder

pytestmark = pytest.mark.long


@pytest.fixture
def spoilt(tmp_path):
    """A folder with three images that cannot be decoded, one of which comes first."""
    write_folder(tmp_path, *coloured(24))
    bad = [tmp_path / "cat" / "0000.png", tmp_path / "dog" / "0004.png", tmp_path / "eel" / "0011.png"]
    for path, content in zip(bad, (b"no image", b"", bad[2].read_bytes()[:60])):
        path.write_bytes(content)
    return tmp_path, [str(path) for path in bad]


@pytest.mark.filterwarnings("ignore:The image")
@pytest.mark.parametrize("size", [None, (4, 4)])
def test_images_that_cannot_be_decoded_are_skipped_on_request(spoilt, size):
    folder, bad = spoilt
    data = ak.data.load(folder, batch_size=8, image_size=size, validation=0, test=0, augment=None, skip_corrupt=True)
    images, labels = arrays(data.train)
    # Images that are read on demand are replaced by others if they cannot be decoded.
    assert len(images) == len(labels) == data.sizes["train"] == (21 if size is None else 24) and data.skipped == bad
    assert np.isfinite(images).all()


def test_a_batch_of_one_bad_image_is_skipped(spoilt):
    with pytest.warns(UserWarning, match="Left out"):
        data = ak.data.load(spoilt[0], batch_size=1, image_size=(4, 4), validation=0, test=0, skip_corrupt=True)
        assert len(arrays(data.train)[0]) == 24


def test_errors_of_the_file_system_are_not_corrupt_images(tmp_path):
    with pytest.raises(FileNotFoundError):
        crops.decode(tmp_path / "none.png", "none.png")


def test_each_skipped_image_is_reported_once(spoilt):
    folder, bad = spoilt
    with pytest.warns(UserWarning) as told:
        data = ak.data.load(folder, image_size=(4, 4), validation=0, test=0, skip_corrupt=True)
        for _ in range(2):
            arrays(data.train)
    told = [str(warning.message) for warning in told if "Left out, as `skip_corrupt` asks" in str(warning.message)]
    assert sorted(text.split("'")[1] for text in told) == bad and "3 so far" in told[-1]


@pytest.mark.filterwarnings("ignore:The image")
@pytest.mark.parametrize("size", [None, (4, 4)])
def test_nothing_but_bad_images_is_an_error(tmp_path, size):
    write_folder(tmp_path, *coloured(6))
    for path in tmp_path.rglob("*.png"):
        path.write_bytes(b"no image")
    with pytest.raises(ValueError, match="cannot be decoded"):
        ak.data.load(tmp_path, image_size=size, validation=0, test=0, skip_corrupt=True)


def test_only_folders_can_skip_corrupt_images():
    with pytest.raises(ValueError, match="`skip_corrupt` is for folders of images. Received: 'digits'"):
        ak.data.load("digits", skip_corrupt=True)


@pytest.mark.tensorflow
def test_the_command_names_an_image_that_was_damaged_after_loading(tmp_path, monkeypatch):
    write_folder(tmp_path / "images", *coloured(12))
    ak.models.build("resann", num_units=1, channels=4, input_shape=(8, 8, 3), num_classes=3).save(
        tmp_path / "model.keras"
    )
    moments = examples.FileExamples.moments

    def moments_then_spoil(self, *arguments):
        found = moments(self, *arguments)
        for path in tmp_path.rglob("*.png"):
            path.write_bytes(b"none")
        return found

    monkeypatch.setattr(examples.FileExamples, "moments", moments_then_spoil)
    line = ["anytime-keras", "evaluate", tmp_path, f"--dataset={tmp_path / 'images'}", "--image_size=8"]
    message = r"^anytime-keras evaluate: The image '.*png' cannot be decoded: .*remove it\.$"
    with pytest.raises(SystemExit, match=message):
        commands.main([*map(str, line)])


def test_class_names_must_be_a_list():
    images, labels = coloured(12)
    with pytest.raises(ValueError, match="`class_names` of 'arrays' must be a list of names. Received: array"):
        ak.data.load({"x_train": images, "y_train": labels, "class_names": np.array("a")})
