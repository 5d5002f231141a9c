"""Augmentation: each part does what its paper says, keeps shapes and types, and repeats itself for a key."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nas.errors import UsageError
from nas.tasks.augment import (
    Augment,
    augment,
    check_fits,
    cutout,
    mixup,
    normalise,
    random_crop,
    random_flip,
)
from nas.tasks.kinds.classification import cross_entropy, smooth

N, SIZE = 8, 6
IMAGES = 1 + jr.uniform(jr.key(1), (N, SIZE, SIZE, 3))  # nowhere zero
LABELS = jax.nn.one_hot(jnp.arange(N) % 4, 4)
SEEDS = st.integers(0, 2**31)
EVERYTHING = Augment(crop=2, flip=True, cutout=3, mixup=0.5)
jitted = jax.jit(augment, static_argnums=0)


def law(test):
    return settings(deadline=None, max_examples=25)(test)


def test_normalised_pixels_have_the_mean_and_std_they_were_normalised_by():
    pixels = jr.randint(jr.key(0), (4, 5, 5, 3), 0, 256).astype(jnp.uint8)
    unit = np.asarray(pixels) / 255
    mean, std = (tuple(f(axis=(0, 1, 2)).tolist()) for f in (unit.mean, unit.std))
    images = normalise(pixels, mean, std)
    np.testing.assert_allclose(images, (unit - mean) / std, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(images.mean(axis=(0, 1, 2)), 0, atol=1e-5)
    assert images.dtype == jnp.float32
    assert normalise(pixels, mean, std, jnp.bfloat16).dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("chosen", "dtype"),
    [
        (Augment(crop=4, flip=True), jnp.float32),
        (EVERYTHING, jnp.bfloat16),
    ],
)
def test_shapes_types_and_the_mass_of_labels_are_kept_and_a_key_repeats_itself(chosen, dtype):
    images, labels = jitted(chosen, IMAGES.astype(dtype), LABELS, jr.key(3))
    assert (images.shape, images.dtype) == (IMAGES.shape, dtype)
    assert (labels.shape, labels.dtype) == (LABELS.shape, LABELS.dtype)
    np.testing.assert_allclose(labels.sum(axis=1), 1, rtol=1e-6)
    again = jitted(chosen, IMAGES.astype(dtype), LABELS, jr.key(3))
    assert jnp.array_equal(images, again[0])
    assert jnp.array_equal(labels, again[1])


def test_another_key_gives_other_images():
    images = IMAGES.astype(jnp.bfloat16)
    first, second = (jitted(EVERYTHING, images, LABELS, jr.key(seed))[0] for seed in (0, 1))
    assert not jnp.array_equal(first, second)
    assert not jnp.array_equal(first, images)


def test_no_augmentation_is_the_identity():
    images, labels = jitted(Augment(), IMAGES, LABELS, jr.key(0))
    assert jnp.array_equal(images, IMAGES)
    assert jnp.array_equal(labels, LABELS)


def test_equal_settings_share_one_compilation():
    traces = []

    def traced(chosen, key):
        traces.append(chosen)
        return augment(chosen, IMAGES, LABELS, key)

    step = jax.jit(traced, static_argnums=0)
    for crop, seed in ((1, 0), (1, 1), (2, 0)):
        step(Augment(crop=crop), jr.key(seed))
    assert traces == [Augment(crop=1), Augment(crop=2)]


@given(SEEDS, st.sampled_from([1, 4]))
@law
def test_a_crop_is_a_window_of_the_padded_image(seed, padding):
    cropped = np.asarray(jax.jit(random_crop, static_argnums=1)(IMAGES, padding, jr.key(seed)))
    padded = np.pad(np.asarray(IMAGES), ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    for image, source in zip(cropped, padded, strict=True):
        windows = np.lib.stride_tricks.sliding_window_view(source, image.shape)[:, :, 0]
        assert (windows == image).all(axis=(2, 3, 4)).any()


def test_a_crop_of_zero_is_the_identity():
    assert jnp.array_equal(random_crop(IMAGES, 0, jr.key(0)), IMAGES)


def test_crops_reach_every_offset_alike():
    n, padding = 5000, 1
    image = jnp.zeros((n, 5, 5, 1)).at[:, 2, 2].set(1)
    cropped = np.asarray(random_crop(image, padding, jr.key(0)))
    share = cropped.mean(axis=0)[1:4, 1:4, 0]
    np.testing.assert_allclose(share, 1 / 9, atol=0.02)
    assert share.sum() == pytest.approx(1)


def test_half_of_the_images_are_mirrored():
    images = jnp.broadcast_to(IMAGES[:1], (2000, SIZE, SIZE, 3))
    flipped = random_flip(images, jr.key(0))
    mirrored = (flipped == images[:, :, ::-1]).all(axis=(1, 2, 3))
    assert jnp.array_equal(mirrored, ~(flipped == images).all(axis=(1, 2, 3)))
    assert mirrored.mean() == pytest.approx(0.5, abs=0.04)


@given(SEEDS, st.integers(1, SIZE))
@law
def test_cutout_zeroes_one_clipped_square_and_leaves_the_rest(seed, size):
    images = np.asarray(jax.jit(cutout)(IMAGES, size, jr.key(seed)))
    cut = images == 0
    assert np.array_equal(images[~cut], np.asarray(IMAGES)[~cut])
    assert (cut == cut[..., :1]).all(), "all channels alike"
    for hole in cut[..., 0]:
        rows, columns = hole.any(axis=1), hole.any(axis=0)
        assert np.array_equal(hole, np.outer(rows, columns))
        half = (size + 1) // 2
        assert half <= rows.sum() <= size
        assert half <= columns.sum() <= size


def test_the_centre_of_cutout_is_uniform():
    images = cutout(jnp.ones((20_000, 4, 4, 1)), 1, jr.key(0))
    np.testing.assert_allclose((images == 0).mean(axis=0)[..., 0], 1 / 16, atol=0.008)


@given(SEEDS, st.sampled_from([0.01, 0.2, 1.0, 8.0]))
@law
def test_mixup_mixes_images_and_labels_by_the_same_weight(seed, alpha):
    # An image that is its own label: both must come out equal.
    images = jnp.broadcast_to(LABELS.reshape(N, 1, 1, 4), (N, 2, 2, 4))
    mixed, labels = jax.jit(mixup)(images, LABELS, alpha, jr.key(seed))
    np.testing.assert_allclose(mixed, jnp.broadcast_to(labels.reshape(N, 1, 1, 4), mixed.shape), rtol=1e-6)
    np.testing.assert_allclose(labels.sum(axis=1), 1, rtol=1e-6)
    assert (labels >= 0).all()
    weights = np.unique(np.round(np.asarray(labels), 5))
    assert len(weights) <= 4, "0, 1, lambda and 1 - lambda: one weight for the batch"


def test_the_weight_of_mixup_has_the_spread_of_its_beta_distribution():
    # The variance of Beta(a, a) is 1 / (4 (2 a + 1)).
    def weight(key):  # the two images swap in half of the draws; the others tell nothing
        return mixup(jnp.eye(2).reshape(2, 1, 1, 2), jnp.eye(2), 0.5, key)[1][0]

    drawn = jax.jit(jax.vmap(weight))(jr.split(jr.key(0), 4000))
    swapped = drawn[:, 1] > 0
    assert swapped.mean() == pytest.approx(0.5, abs=0.05)
    assert drawn[swapped, 0].var() == pytest.approx(1 / 8, abs=0.01)


@pytest.mark.parametrize("amount", [0.0, 0.1, 1.0])
def test_smoothing_keeps_the_mass_and_moves_the_amount(amount):
    smoothed = smooth(LABELS, amount)
    np.testing.assert_allclose(smoothed.sum(axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(smoothed.max(axis=1), 1 - amount * 3 / 4, rtol=1e-6)


def test_cross_entropy_is_the_mean_negative_log_likelihood_of_soft_labels():
    logits = jr.normal(jr.key(0), (N, 4))
    chances = np.asarray(jax.nn.softmax(logits))
    hard = -np.log(chances[np.arange(N), np.arange(N) % 4]).mean()
    assert cross_entropy(logits, LABELS) == pytest.approx(hard, rel=1e-5)
    soft = -(np.asarray(smooth(LABELS, 0.3)) * np.log(chances)).sum(axis=1).mean()
    assert cross_entropy(logits, smooth(LABELS, 0.3)) == pytest.approx(soft, rel=1e-5)
    assert cross_entropy(jnp.zeros((N, 4), jnp.bfloat16), LABELS) == pytest.approx(np.log(4), rel=1e-5)
    assert cross_entropy(1e4 * LABELS, LABELS) == 0, "no overflow"


BAD = [
    ({"crop": -1}, "crop=-1 must be a whole number of pixels, 0 or more"),
    ({"crop": 1.5}, "crop=1.5 must be"),
    ({"cutout": True}, "cutout=True must be"),
    ({"flip": 1}, "flip=1 must be true or false"),
    ({"mixup": -0.1}, "mixup=-0.1 must be a finite number, 0 or more"),
    ({"mixup": float("nan")}, "mixup=nan must be"),
    ({"mixup": float("inf")}, "mixup=inf must be"),
    ({"mixup": "much"}, "mixup='much' must be"),
]


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(("fields", "said"), BAD, ids=[said for _, said in BAD])
def test_bad_settings_are_refused(fields, said):
    with pytest.raises(UsageError, match=said.replace("(", r"\(")):
        Augment(**fields)


def test_settings_that_do_not_fit_the_images_are_refused():
    check_fits(Augment(crop=5, cutout=6), 6)
    for chosen, said in (
        (Augment(crop=6), "crop=6 must lie in 0..5"),
        (Augment(cutout=7), "cutout=7 must lie in 0..6"),
    ):
        for call in (lambda c: check_fits(c, SIZE), lambda c: augment(c, IMAGES, LABELS, jr.key(0))):
            with pytest.raises(UsageError, match=said):
                call(chosen)
    with pytest.raises(UsageError, match=r"label_smoothing=1\.5 must lie in 0..1"):
        smooth(LABELS, 1.5)
