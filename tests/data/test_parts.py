"""Data sets that are packed as parts and read again."""

import json

import numpy as np
import pytest
from PIL import Image

import anytime_keras as ak


def same_images(packed, original):
    """Checks that the parts contain the same training and validation images and labels."""
    assert packed.sizes == {split: size for split, size in original.sizes.items() if split != "test"}
    assert (packed.name, packed.class_names, packed.split_seed) == (
        original.name,
        original.class_names,
        original.split_seed,
    )
    for split in packed.sizes:
        np.testing.assert_array_equal(packed.examples[split].images, original.examples[split].images)
        np.testing.assert_array_equal(packed.examples[split].labels, original.examples[split].labels)
    for key in ("mean", "std"):
        np.testing.assert_allclose(packed.describe()[key], original.describe()[key], rtol=1e-6)


@pytest.mark.parametrize("channels, dtype", [(3, "uint8"), (1, "uint8"), (4, "uint8"), (1, "float32")])
def test_arrays_are_unchanged(tmp_path, channels, dtype):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (60, 8, 10, channels)).astype(dtype) / (1 if dtype == "uint8" else np.float32(255))
    original = ak.data.load((images.astype(dtype), np.arange(60) % 7), validation=12, test=10, split_seed=3)
    paths = ak.data.pack(original, tmp_path, part_mb=0.01)
    assert len(paths) > 2 and all(path.stat().st_size <= 10_000 for path in paths[1:])
    same_images(ak.data.load(tmp_path), original)


def test_images_of_folders_are_packed_as_their_files(tmp_path):
    rng = np.random.default_rng(0)
    for split, count in (("train", 8), ("test", 2)):
        for name in ("cat", "dog"):
            folder = tmp_path / "images" / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                Image.fromarray(rng.integers(0, 256, (12, 12, 3), "uint8")).save(folder / f"{number}.jpg")
    original = ak.data.load(tmp_path / "images", validation=4)
    if "file" != json.loads(ak.data.pack(original, tmp_path / "parts")[0].read_text())["encoding"]:
        pytest.fail("JPEG files must travel as they are")
    packed = ak.data.load(tmp_path / "parts")
    assert packed.sizes == {"train": 12, "validation": 4}
    stored = [np.asarray(next(iter(data.validation))[0]) for data in (original, packed)]
    np.testing.assert_allclose(stored[0], stored[1], atol=1e-5)


def test_a_damaged_or_missing_part_is_named(tmp_path):
    first, part, *_ = ak.data.pack(ak.data.load("digits"), tmp_path)
    content = part.read_bytes()
    part.write_bytes(content[:-1])
    with pytest.raises(ValueError, match=f"{part.name}' is missing or damaged"):
        ak.data.load(tmp_path)
    part.unlink()
    with pytest.raises(ValueError, match=f"{part.name}' is missing or damaged"):
        ak.data.load(tmp_path)
    first.write_text("{}")
    with pytest.raises(ValueError, match="does not describe the parts"):
        ak.data.load(tmp_path)


def test_unsupported_data_sets_are_refused(tmp_path):
    digits = ak.data.load("digits")
    for part_mb in (0, -1, "1", True):
        with pytest.raises(ValueError, match="part_mb"):
            ak.data.pack(digits, tmp_path / "parts", part_mb)
    with pytest.raises(ValueError, match="must fit into a part"):
        ak.data.pack(digits, tmp_path / "parts", 0.0042)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("")
    with pytest.raises(ValueError, match="new or empty"):
        ak.data.pack(digits, tmp_path / "full")
