import functools

import numpy as np
import pytest

from anytime_keras.data import augment
from tests.conftest import BACKEND

IMAGES = np.random.default_rng(0).uniform(0, 1, (16, 16, 16, 3)).astype("float32")


@functools.cache
def compiled(step):
    """The step as the pipeline runs it: in tf.data on TensorFlow, compiled on JAX."""
    function = augment.compose([step])

    def apply(images, seed, epoch, number):
        return function(images, augment.StepSeed(seed, epoch, number))

    if BACKEND == "tensorflow":
        import tensorflow as tf

        return lambda images, *seeds: next(
            iter(
                tf.data.Dataset.from_tensor_slices(images)
                .batch(len(images))
                .map(lambda batch: apply(batch, *map(tf.constant, seeds)))
            )
        )
    import jax

    return jax.jit(apply)


def run(step, images=IMAGES, seed=1, epoch=2, number=3):
    return np.asarray(compiled(step)(images, seed, epoch, number))


@pytest.mark.parametrize("step", augment.STEPS)
def test_every_step_is_repeatable_changes_images_and_differs_by_step_epoch_and_seed(step):
    result = run(step)
    assert result.shape == IMAGES.shape and result.dtype == "float32" and np.isfinite(result).all()
    np.testing.assert_array_equal(result, run(step))
    assert np.abs(result - IMAGES).max() > 1e-3
    for other in (dict(seed=5), dict(epoch=9), dict(number=7)):
        assert np.abs(result - run(step, **other)).max() > 1e-3, other


@pytest.mark.parametrize("step", augment.STEPS)
def test_every_step_takes_grey_images(step):
    grey = IMAGES[..., :1]
    assert run(step, grey).shape == grey.shape


def test_pad_crop_moves_whole_pixels_by_up_to_an_eighth():
    result = run("pad_crop")
    padded = np.pad(IMAGES, [(0, 0), (2, 2), (2, 2), (0, 0)])
    moves = set()
    for image, source in zip(result, padded):
        found = [
            (top, left)
            for top in range(5)
            for left in range(5)
            if np.array_equal(image, source[top : top + 16, left : left + 16])
        ]
        assert len(found) == 1
        moves.add(found[0])
    assert len(moves) > 5


def test_flip_mirrors_about_half():
    result = run("flip")
    mirrored = [np.array_equal(image, source[:, ::-1]) for image, source in zip(result, IMAGES)]
    kept = [np.array_equal(image, source) for image, source in zip(result, IMAGES)]
    assert all(a != b for a, b in zip(mirrored, kept))
    assert 2 < sum(mirrored) < 14


def test_erase_greys_one_square_of_each_image():
    for image in run("erase", np.zeros_like(IMAGES)):
        hit = image[..., 0] == 0.5
        rows, columns = hit.any(1).sum(), hit.any(0).sum()
        assert hit.sum() == rows * columns and 0 < rows <= 9 and 0 < columns <= 9
        assert set(np.unique(image)) <= {0.0, 0.5}


def test_color_keeps_grey_pixels_grey_and_values_in_range():
    grey = np.repeat(IMAGES[..., :1], 3, axis=-1)
    result = run("color", grey)
    np.testing.assert_allclose(result[..., 0], result[..., 2], atol=1e-5)
    assert result.min() >= 0 and result.max() <= 1


def test_lighting_shifts_each_image_by_one_colour():
    shift = run("lighting") - IMAGES
    np.testing.assert_allclose(shift, np.broadcast_to(shift[:, :1, :1], shift.shape), atol=1e-5)
    assert np.abs(shift).max() < 0.2


def test_blur_lowers_contrast_between_neighbours():
    result = run("blur")
    assert np.abs(np.diff(result, axis=1)).mean() < np.abs(np.diff(IMAGES, axis=1)).mean()


def test_unknown_steps_list_near_ones():
    with pytest.raises(ValueError, match="Did you mean 'pad_crop'"):
        augment.compose(["padcrop"])
