import functools
import os
import sys

import keras
import numpy as np
import pytest

import anytime_keras as ak
from anytime_keras.data import augment
from tests.conftest import BACKEND

IMAGES = np.random.default_rng(0).uniform(0, 1, (16, 16, 16, 3)).astype("float32")
LABELS = np.eye(16, dtype="float32")
NUMBERS = np.arange(16, dtype="int32")
STEPS = [step for step in augment.STEPS if step not in augment.KERAS_CV]


def uncompiled(*steps):
    function = augment.compose(steps)
    return lambda images, labels, *seeds: function(images, labels, augment.StepSeed(*seeds, NUMBERS))


@functools.cache
def compiled(*steps):
    """Runs steps as the pipeline does: in tf.data on TensorFlow, compiled on JAX."""
    apply = uncompiled(*steps)
    if BACKEND == "tensorflow":
        import tensorflow as tf

        return lambda images, labels, *seeds: next(
            iter(
                tf.data.Dataset.from_tensor_slices((images, labels))
                .batch(len(images))
                .map(lambda *batch: apply(*batch, *map(tf.constant, seeds)))
            )
        )
    import jax

    # The emitters that tests otherwise turn off are faster here.
    without = "xla_cpu_use_fusion_emitters" in os.environ.get("XLA_FLAGS", "")
    return jax.jit(apply, compiler_options={"xla_cpu_use_fusion_emitters": True} if without else None)


def run_both(*steps, images=IMAGES, labels=LABELS, seed=1, epoch=2, number=3):
    return tuple(map(np.asarray, compiled(*steps)(images, labels, seed, epoch, number)))


def run(step, images=IMAGES, **seeds):
    return run_both(step, images=images, **seeds)[0]


@pytest.mark.long
@pytest.mark.parametrize("step", STEPS)
def test_every_step_is_repeatable_changes_images_and_differs_by_step_epoch_and_seed(step):
    result = run(step)
    assert result.shape == IMAGES.shape and result.dtype == "float32" and np.isfinite(result).all()
    # TensorFlow may round differently in each run, because it optimises the graph for a limited time.
    np.testing.assert_allclose(result, run(step), rtol=0, atol=1e-6)
    assert np.abs(result - IMAGES).max() > 1e-3
    others = [dict(seed=5), dict(epoch=9), dict(number=7)]
    for other in [dict(epoch=9)] if step == "alternating_flip" else others:
        assert np.abs(result - run(step, **other)).max() > 1e-3, other


@pytest.mark.parametrize("step", STEPS)
def test_every_step_takes_grey_images(step):
    grey = IMAGES[..., :1]
    if BACKEND == "jax":  # traces without compiling, which takes long for rand_augment
        import jax

        images, _ = jax.eval_shape(uncompiled(step), grey, LABELS, 1, 2, 3)
    else:
        images = run(step, grey)
    assert images.shape == grey.shape and images.dtype == grey.dtype


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


def test_alternating_flip_shows_both_sides_in_any_two_epochs():
    epochs = [run("alternating_flip", epoch=epoch) for epoch in range(3)]
    mirrored = [[np.array_equal(a, b[:, ::-1]) for a, b in zip(images, IMAGES)] for images in epochs]
    assert mirrored[0] == mirrored[2] and [not value for value in mirrored[0]] == mirrored[1]
    assert 2 < sum(mirrored[0]) < 14
    for images, chosen in zip(epochs[:2], mirrored):
        for image, source, flipped in zip(images, IMAGES, chosen):
            np.testing.assert_array_equal(image, source[:, ::-1] if flipped else source)


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


def test_blur_is_a_gaussian_of_its_own_width_for_each_image():
    dot = np.zeros((16, 15, 15, 1), "float32")
    dot[:, 7, 7] = 1
    result = run("blur", dot)[..., 0]
    np.testing.assert_allclose(result.sum((1, 2)), 1, atol=1e-5)
    widths = []
    for image in result:
        down, across = image.sum(1), image.sum(0)
        np.testing.assert_allclose(image, np.outer(down, across), atol=1e-6)
        for line in (down, across):
            ratio = line[8] / line[7]  # exp(-1 / 2 sigma^2), and its 4th power at the next pixel
            np.testing.assert_allclose(line[[5, 6, 8, 9]], line[7] * ratio ** np.array([4, 1, 1, 4]), atol=1e-5)
            widths.append(np.sqrt(-0.5 / np.log(max(ratio, 1e-30))))
    assert max(widths) <= 1 and np.ptp(widths) > 0.5 and len(set(np.round(widths, 3))) > 20


def test_elastic_bends_smoothly_by_up_to_three_pixels_of_forty():
    side = 40
    y, x = np.mgrid[:side, :side].astype("float32") / (side - 1)
    images = np.tile(np.stack([y, x], -1), (16, 1, 1, 1))
    moves = (run("elastic", images) - images) * (side - 1)  # in pixels: the images contain their coordinates
    inner = moves[:, 8:-8, 8:-8]
    assert 2 < np.abs(inner).max() < 3 * 2.5  # displacements of four anchors overlap
    assert np.abs(np.diff(inner, axis=1)).max() < 1 and np.abs(np.diff(inner, axis=2)).max() < 1
    weights = np.stack(
        [
            np.exp(-((np.arange(side)[:, None] / side - a) ** 2 + (np.arange(side) / side - b) ** 2) / 0.2)
            for a, b in [(0.2, 0.2), (0.2, 0.8), (0.8, 0.8), (0.8, 0.2)]
        ],
        -1,
    )[8:-8, 8:-8].reshape(-1, 4)
    for move in inner.reshape(16, -1, 2):
        pulls, error = np.linalg.lstsq(weights, move, rcond=None)[:2]
        assert np.abs(pulls).max() <= 3.001 and error.max() < 1e-4


def test_the_authors_steps_for_svhn_change_brightness_and_contrast_little():
    flat = np.full((16, 8, 8, 3), 0.5, "float32")
    shift = run("brightness", flat) - 0.5
    assert -10.01 / 255 < shift.min() < -5 / 255 and 5 / 255 < shift.max() < 10.01 / 255
    assert np.ptp(shift, axis=(1, 2, 3)).max() < 1e-6
    np.testing.assert_allclose(run("contrast", flat), flat, atol=1e-6)
    soft = 0.4 + 0.2 * IMAGES
    factors = run("contrast", soft).std((1, 2, 3)) / soft.std((1, 2, 3))
    assert 0.799 < factors.min() < 0.9 and 1.1 < factors.max() < 1.201


def test_color_is_brightness_then_contrast_then_saturation_by_up_to_two_fifths():
    soft, grey = 0.3 + 0.2 * IMAGES, np.array([0.299, 0.587, 0.114])  # nothing is clipped
    factors = []
    for image, source in zip(run("color", soft), soft):
        flat = source.reshape(-1, 3)
        fit = np.linalg.lstsq(np.c_[flat, np.ones(len(flat))], image.reshape(-1, 3), rcond=None)[0]
        mixed = fit[0, 1] / grey[0]  # b c (1 - s)
        both = mixed + fit[0, 0] - fit[0, 1]  # b c
        brightness = both + fit[3, 0] / (flat @ grey).mean()
        contrast, saturation = both / brightness, 1 - mixed / both
        factors.append([brightness, contrast, saturation])
        result = brightness * source
        mean = (result @ grey).mean()
        result = mean + contrast * (result - mean)
        result = (result @ grey)[..., None] * (1 - saturation) + saturation * result
        np.testing.assert_allclose(image, result, atol=1e-4)
    assert 0.599 < np.min(factors) < 0.7 and 1.3 < np.max(factors) < 1.401
    assert np.std(factors, axis=0).min() > 0.1


def test_brightness_contrast_and_saturation_can_go_in_any_order():
    """Shows why `color` uses a fixed order, unlike fb.resnet.torch."""
    image, grey = IMAGES[0], lambda image: (image @ [0.299, 0.587, 0.114])[..., None]
    parts = [
        lambda image: 1.3 * image,
        lambda image: grey(image).mean() + 0.7 * (image - grey(image).mean()),
        lambda image: grey(image) + 1.2 * (image - grey(image)),
    ]
    expected = parts[2](parts[1](parts[0](image)))
    for order in ((0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)):
        result = image
        for number in order:
            result = parts[number](result)
        np.testing.assert_allclose(result, expected, atol=1e-6)


@pytest.mark.parametrize("step", augment.MIXES)
def test_mixing_steps_mix_labels_as_images(step):
    images = np.arange(16, dtype="float32")[:, None, None, None] / 16 + np.zeros((16, 16, 16, 3), "float32")
    mixed, labels = run_both(step, images=images)
    np.testing.assert_allclose(labels.sum(1), 1, atol=1e-5)
    assert (labels > 0.001).sum(1).max() == 2 and ((labels > 0.001) & (labels < 0.999)).any(1).sum() > 3
    # Each image has one value, so the mean of a mixture gives its shares. CutMix's boxes end between pixels.
    tolerance = 1e-5 if step == "mix_up" else 0.15
    np.testing.assert_allclose(mixed.mean((1, 2, 3)), labels @ np.arange(16) / 16, atol=tolerance)


def test_mixing_steps_make_labels_one_hot_and_choose_the_loss():
    recipe = ak.training.Recipe.paper(
        {"name": "resann", "num_units": 1, "channels": 4}, {"data": "digits", "augment": "pad_crop, mix_up"}
    )
    data = recipe.load_data()
    assert data.one_hot and data.augment == ["pad_crop", "mix_up"]
    for batches, mixed in ((data.train, True), (data.validation, False)):
        _, labels = batches[0] if isinstance(batches, keras.utils.PyDataset) else next(iter(batches))
        labels = np.asarray(labels)
        np.testing.assert_allclose(labels.sum(1), 1, atol=1e-5)
        assert labels.shape[1] == 10 and (labels.max(1) < 0.99).any() == mixed
    assert {loss.name for loss in recipe.build_model(data).loss.values()} == {"categorical_crossentropy"}


@pytest.mark.long
@pytest.mark.tensorflow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("step", augment.KERAS_CV)
def test_steps_of_keras_cv_follow_from_the_seed_alone_and_treat_each_image_on_its_own(step):
    pytest.importorskip("keras_cv")
    import tensorflow as tf

    same = np.tile(IMAGES[:1], (16, 1, 1, 1))
    function = augment.compose([step])
    traced = tf.function(lambda number: function(tf.constant(same), LABELS, augment.StepSeed(1, 2, number))[0])
    traced = traced.get_concrete_function(tf.TensorSpec((), tf.int64))
    definition = traced.graph.as_graph_def()
    used = {node.op for node in definition.node}
    used |= {node.op for function in definition.library.function for node in function.node_def}
    assert not {op for op in used if "Random" in op and "Stateless" not in op}
    one, other, again = (traced(tf.constant(number, tf.int64)).numpy() for number in (3, 4, 3))
    np.testing.assert_array_equal(one, again)
    assert (one != other).any() and np.isfinite(one).all() and one.shape == same.shape
    assert len({image.tobytes() for image in one}) > 3


@pytest.mark.long
@pytest.mark.tensorflow
@pytest.mark.filterwarnings("ignore")
def test_steps_of_keras_cv_run_in_the_training_stream_on_grey_images_too():
    pytest.importorskip("keras_cv")
    data = ak.data.load("digits", augment="keras_cv_grid_mask", batch_size=64)
    one, same, later = (next(iter(data.training_stream(epoch)))[0].numpy() for epoch in (0, 0, 1))
    assert one.shape == (64, 8, 8, 1)
    np.testing.assert_array_equal(one, same)
    assert (one != later).any()


@pytest.mark.tensorflow
def test_steps_of_keras_cv_need_no_global_generator_as_with_deterministic_operations(monkeypatch):
    pytest.importorskip("keras_cv")
    import tensorflow as tf

    made = []

    def get():
        if not made:
            raise RuntimeError("cannot be called if determinism is enabled")
        return made[0]

    monkeypatch.setattr(tf.random, "get_global_generator", get)
    monkeypatch.setattr(tf.random, "set_global_generator", made.append)
    assert augment.compose(["keras_cv_aug_mix"]) and made


@pytest.mark.tensorflow
def test_without_keras_cv_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "keras_cv", None)
    monkeypatch.delitem(sys.modules, "anytime_keras.data.keras_cv_steps", raising=False)
    monkeypatch.delattr(ak.data, "keras_cv_steps", raising=False)
    with pytest.raises(ValueError, match=r"'keras_cv_aug_mix'.*pip install '\.\[cv\]'"):
        ak.data.load("digits", augment="keras_cv_aug_mix")


@pytest.mark.skipif(BACKEND == "tensorflow", reason="is about the other backends")
def test_steps_of_keras_cv_are_refused_without_tensorflow():
    with pytest.raises(ValueError, match="'keras_cv_aug_mix' on jax"):
        ak.data.load("digits", augment="keras_cv_aug_mix")


def test_unknown_steps_list_similar_ones():
    with pytest.raises(ValueError, match="Did you mean 'pad_crop'"):
        augment.compose(["padcrop"])
