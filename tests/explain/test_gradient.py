"""Gradients, and the gradient times the image: exact for a linear model."""

import jax.numpy as jnp
import numpy as np
import pytest

from imgjax.errors import DataError
from imgjax.explain import copies, gradient, input_x_gradient
from tests.explain.test_layers import filled

rng = np.random.default_rng(0)
WEIGHTS_HWCK = rng.normal(size=(6, 9, 3, 4)).astype(np.float32)
IMAGES_NHWC = rng.normal(size=(3, 6, 9, 3)).astype(np.float32)
TARGETS_N = np.array([2, 0, 2])
# Of each image the weights of its class, (N, H, W, C).
OF_TARGETS_NHWC = WEIGHTS_HWCK.transpose(3, 0, 1, 2)[TARGETS_N]


def linear(weights_HWCK, images_NHWC):
    return jnp.einsum('nhwc,hwck->nk', images_NHWC, weights_HWCK) + jnp.float32(3), {}


def squared(weights_HWCK, images_NHWC):
    return jnp.square(linear(weights_HWCK, images_NHWC)[0]), {}


def test_the_gradient_of_a_linear_model_is_its_weights():
    found = gradient.attributions(linear, WEIGHTS_HWCK, IMAGES_NHWC, TARGETS_N)
    np.testing.assert_array_equal(found, OF_TARGETS_NHWC)
    maps_NHW = gradient.explain(linear, WEIGHTS_HWCK, IMAGES_NHWC, TARGETS_N)
    np.testing.assert_array_equal(maps_NHW, np.abs(OF_TARGETS_NHWC).max(axis=3))
    assert maps_NHW.dtype == np.float32 and not gradient.SIGNED


def test_the_gradient_times_the_image_adds_up_to_a_linear_model():
    found = input_x_gradient.attributions(linear, WEIGHTS_HWCK, IMAGES_NHWC, TARGETS_N)
    np.testing.assert_array_equal(found, OF_TARGETS_NHWC * IMAGES_NHWC)
    maps_NHW = input_x_gradient.explain(linear, WEIGHTS_HWCK, IMAGES_NHWC, TARGETS_N)
    assert maps_NHW.dtype == np.float32 and input_x_gradient.SIGNED and (maps_NHW < 0).any()
    logits_N = linear(WEIGHTS_HWCK, IMAGES_NHWC)[0][np.arange(3), TARGETS_N]
    np.testing.assert_allclose(maps_NHW.sum((1, 2)) + 3, logits_N, rtol=1e-5)


@pytest.mark.parametrize('fit', [1, 2])
def test_chunks_change_nothing(fit, monkeypatch):
    images_NHWC = IMAGES_NHWC.astype(np.float64)  # the results are float32 all the same
    whole = gradient.attributions(squared, WEIGHTS_HWCK, images_NHWC, TARGETS_N)
    monkeypatch.setattr(copies, 'at_once', lambda *args: fit)
    parts = gradient.attributions(squared, WEIGHTS_HWCK, images_NHWC, TARGETS_N)
    assert parts.dtype == np.float32
    np.testing.assert_allclose(parts, whole, rtol=1e-5)


def test_a_model_has_maps_of_its_target():
    apply_fn, variables, images_NHWC = filled('tiny_resnet')
    first, second = (gradient.explain(apply_fn, variables, images_NHWC, np.array(targets))
                     for targets in ([0, 3], [0, 1]))
    assert first.shape == images_NHWC.shape[:3]
    np.testing.assert_array_equal(first[0], second[0])
    assert np.abs(first[1] - second[1]).max() > 0.1 * first[1].max()


@pytest.mark.parametrize('images, targets, words', [
    (IMAGES_NHWC, [0, 4, 1], 'targets: 4 of image 1 is no class; give integers from 0 to 3'),
    (IMAGES_NHWC, [0, 1], r'targets: shape \(2,\)'),
    (IMAGES_NHWC[0], [0], r'images: shape \(6, 9, 3\)'),
    (IMAGES_NHWC * np.float32(np.nan), [0, 1, 2], 'images: not finite for 3 of 3'),
    (np.zeros((3, 6, 9, 3), np.uint8), [0, 1, 2], 'images: .*uint8; give float32'),
])
def test_what_does_not_fit_is_refused(images, targets, words):
    for method in (gradient, input_x_gradient):
        with pytest.raises(DataError, match=words):
            method.explain(linear, WEIGHTS_HWCK, images, np.array(targets))


@pytest.mark.parametrize('weight, words', [
    (0, 'is zero for all images.*train the model'), (np.nan, 'is not finite')])
def test_a_gradient_that_says_nothing_is_refused(weight, words):
    weights_HWCK = np.full_like(WEIGHTS_HWCK, weight)
    with pytest.raises(DataError, match=words):
        gradient.explain(linear, weights_HWCK, IMAGES_NHWC, TARGETS_N)


def test_a_second_batch_is_not_compiled_again():
    gradient.explain(linear, WEIGHTS_HWCK, IMAGES_NHWC, TARGETS_N)
    compiled = copies.gradient._cache_size()
    gradient.explain(linear, 2 * WEIGHTS_HWCK, IMAGES_NHWC + 1, TARGETS_N)
    assert copies.gradient._cache_size() == compiled
