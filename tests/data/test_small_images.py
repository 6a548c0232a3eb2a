"""Small images, made from large ones."""

import numpy as np
import pytest

from anytime_keras.data.small_images import small_images


def test_small_images_are_area_averages_of_some_images_of_each_class(tmp_path):
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (60, 8, 8, 3), "uint8"), np.repeat([0, 1, 2], 20)
    source = tmp_path / "made.npz"
    np.savez(source, x_train=images, y_train=labels, x_test=images[:6], y_test=labels[:6], class_names=["a", "b", "c"])
    with np.load(small_images(source, tmp_path, side=4, train=15, validation=9)) as file:
        made = dict(file)
    assert made["x_test"].shape == (6, 4, 4, 3) and made["x_test"].dtype == np.uint8
    assert made["x_test"][2, 1, 3, 0] == np.rint(images[2, 2:4, 6:8, 0].mean())
    assert [list(np.bincount(made[f"y_{split}"])) for split in ("train", "validation")] == [[5] * 3, [3] * 3]
    parts = np.concatenate([made["x_train"], made["x_validation"]])
    assert len(np.unique(parts, axis=0)) == 24, "no image is in both"
    with pytest.raises(ValueError, match="multiples of side=3.*8x8"):
        small_images(source, tmp_path, side=3, train=15, validation=9)


@pytest.mark.parametrize(
    "changes, side, message",
    [
        ({}, 0, "side=0"),
        ({}, -4, "side=-4"),
        ({"x_test": None, "y_test": None}, 4, "`x_train` and `x_test`.*train of uint8"),
        ({"x_test": np.zeros((6, 8, 8, 3))}, 4, "test of float32"),
        ({"x_train": None}, 4, "needs both `x_train` and `y_train`"),
        ({"pixels": np.zeros(3)}, 4, "unknown array.*'pixels'"),
    ],
)
def test_small_images_need_a_suitable_file(changes, side, message, tmp_path):
    images, labels = np.zeros((6, 8, 8, 3), "uint8"), np.array([0, 1] * 3)
    arrays = {**dict(x_train=images, y_train=labels, x_test=images, y_test=labels), **changes}
    np.savez(tmp_path / "made.npz", **{name: array for name, array in arrays.items() if array is not None})
    with pytest.raises(ValueError, match=message):
        small_images(tmp_path / "made.npz", tmp_path, side=side, train=2, validation=2)
    assert len(list(tmp_path.iterdir())) == 1
