"""Class activation maps: their formulas on small arrays, and what a user does with them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imgjax.errors import ConfigError, DataError
from imgjax.explain import (
    cam,
    eigen_cam,
    grad_cam,
    grad_cam_plus_plus,
    hires_cam,
    layer_cam,
)
from tests.explain.test_layers import filled

METHODS = (grad_cam, grad_cam_plus_plus, layer_cam, hires_cam, eigen_cam)
BY_GRADIENT = METHODS[:-1]
TARGETS_N = np.array([0, 3])


def quadrants(weights_CK, images_NHWC):
    """Class k looks for channel k of the image: a convolution, a mean and a dense layer."""
    a_NhwC = jax.nn.relu(images_NHWC.reshape(-1, 4, 2, 4, 2, 4).mean((2, 4)))
    logits_NK = jnp.dot(a_NhwC.mean((1, 2)), weights_CK) + jnp.float32(7)
    return logits_NK, {'conv': a_NhwC, 'logits': logits_NK}


def diverged(weights_CK, images_NHWC):
    a_NhwC = jnp.einsum('nhwc,ck->nhwk', images_NHWC, weights_CK)
    return jnp.einsum('nhwk,kj->nj', a_NhwC, weights_CK), {'conv': a_NhwC}


@pytest.fixture(scope='module')
def bright():
    """Images with channel 0 bright in the upper left, and channel 3 in the lower right."""
    images_NHWC = np.zeros((2, 8, 8, 4), np.float32)
    images_NHWC[:, :2, :2, 0] = 3
    images_NHWC[:, 6:, 6:, 3] = 5
    return quadrants, np.eye(4, dtype=np.float32), images_NHWC


@pytest.mark.parametrize('method', BY_GRADIENT)
def test_a_map_is_where_the_class_is(method, bright):
    maps_NHW = np.asarray(method.explain(*bright, TARGETS_N))
    assert maps_NHW.shape == (2, 8, 8) and maps_NHW.dtype == np.float32
    for map_HW, (row, column) in zip(maps_NHW, [(0, 0), (7, 7)], strict=True):
        assert map_HW[row, column] == map_HW.max() > 0
        assert map_HW[7 - row, 7 - column] == 0


def test_eigen_cam_is_the_same_for_all_classes(bright):
    apply_fn, variables, images_NHWC = bright
    first, second = (np.asarray(eigen_cam.explain(*bright, targets_N))
                     for targets_N in (TARGETS_N, TARGETS_N[::-1]))
    np.testing.assert_array_equal(first, second)
    assert (first[:, 7, 7] == first.max(axis=(1, 2))).all()  # the brightest


def test_hires_cam_sums_to_the_logit(bright):
    apply_fn, variables, images_NHWC = bright
    a_NhwC = apply_fn(variables, images_NHWC)[1]['conv']
    maps_NHW = hires_cam.explain(*bright, TARGETS_N)
    gradient_NhwC = np.zeros((2, 4, 4, 4), np.float32)
    gradient_NhwC[[0, 1], :, :, TARGETS_N] = 1 / 16
    raw_Nhw = hires_cam.raw(a_NhwC, gradient_NhwC)
    logits_NK = np.asarray(apply_fn(variables, images_NHWC)[0])
    np.testing.assert_allclose(raw_Nhw.sum((1, 2)), logits_NK[[0, 1], TARGETS_N] - 7, rtol=1e-6)
    np.testing.assert_allclose(maps_NHW, cam.upsample(raw_Nhw, 8, 8), rtol=1e-6)


@pytest.fixture(scope='module')
def arrays():
    rng = np.random.default_rng(3)
    a_NhwC = np.maximum(rng.normal(size=(2, 3, 5, 6)), 0).astype(np.float32)
    return a_NhwC, rng.normal(size=(2, 3, 5, 6)).astype(np.float32)


def loops(a_NhwC, gradient_NhwC, channel):
    """The map whose channels `channel` gives, cut at zero, one image and channel after another."""
    maps = []
    for a_hwC, gradient_hwC in zip(a_NhwC, gradient_NhwC, strict=True):
        maps.append(sum(channel(a_hwC[..., c].astype(float), gradient_hwC[..., c].astype(float))
                        for c in range(a_hwC.shape[-1])))
    return np.maximum(maps, 0)


def plus_plus(a_hw, gradient_hw):
    squares = gradient_hw**2
    alpha_hw = squares / (2 * squares + a_hw.sum() * gradient_hw**3)  # equation 19
    return (alpha_hw * np.maximum(gradient_hw, 0)).sum() * a_hw


@pytest.mark.parametrize('method, channel', [
    (grad_cam, lambda a, g: g.mean() * a),
    (grad_cam_plus_plus, plus_plus),
    (layer_cam, lambda a, g: np.maximum(g, 0) * a),
])
def test_maps_are_those_of_the_papers(method, channel, arrays):
    np.testing.assert_allclose(method.raw(*arrays), loops(*arrays, channel), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('scale', [1e-6, 1e6])
@pytest.mark.parametrize('method', [grad_cam, layer_cam, hires_cam])
def test_small_gradients_give_the_same_picture(method, scale, arrays):
    a_NhwC, gradient_NhwC = arrays
    np.testing.assert_allclose(method.raw(a_NhwC, np.float32(scale) * gradient_NhwC),
                               np.float32(scale) * np.asarray(method.raw(*arrays)), rtol=1e-3,
                               atol=1e-5 * scale)


def test_grad_cam_plus_plus_of_a_denominator_of_zero_is_finite():
    a_NhwC = np.float32([-1, -1]).reshape(1, 1, 2, 1)
    assert np.isfinite(grad_cam_plus_plus.raw(a_NhwC, np.ones_like(a_NhwC))).all()


@pytest.mark.parametrize('shape', [(3, 4, 5), (4, 5, 7)])  # fewer positions, and fewer channels
def test_eigen_cam_is_the_first_principal_component(shape):
    a_hwC = np.random.default_rng(0).normal(2, 1, shape).astype(np.float32)
    centred_LC = a_hwC.reshape(-1, shape[-1]) - a_hwC.mean((0, 1))
    left_LL, values, _ = np.linalg.svd(centred_LC, full_matrices=False)
    projection_L = values[0] * left_LL[:, 0]
    projection_L *= np.sign(projection_L[np.abs(projection_L).argmax()])
    found_hw = eigen_cam.raw(a_hwC[None])[0]
    np.testing.assert_allclose(found_hw.ravel(), np.maximum(projection_L, 0), atol=1e-4)
    # Without a sign of its own: the largest absolute value is always positive.
    np.testing.assert_allclose(eigen_cam.raw(-a_hwC[None])[0], found_hw, atol=1e-4)
    np.testing.assert_array_equal(eigen_cam.raw(np.ones((1, *shape), np.float32)), 0)


def test_upsampling_is_bilinear_between_the_centres():
    found_HW = cam.upsample(jnp.asarray([[[0, 1]]], jnp.float32), 2, 8)[0]
    row = [0, 0, 0.125, 0.375, 0.625, 0.875, 1, 1]
    np.testing.assert_allclose(found_HW, [row, row], atol=1e-6)


def test_a_map_does_not_depend_on_its_batch():
    apply_fn, variables, images_NHWC = filled('tiny_vit')
    for method in (grad_cam, eigen_cam):
        both = method.explain(apply_fn, variables, images_NHWC, TARGETS_N)
        alone = method.explain(apply_fn, variables, images_NHWC[1:], TARGETS_N[1:])
        assert both.shape == (2, 16, 32)
        np.testing.assert_allclose(both[1:], alone, rtol=1e-3, atol=1e-5)


def test_hires_cam_refuses_what_a_norm_cancels():
    model = filled('tiny_vit')
    with pytest.raises(DataError, match="'block00' cancel at every position"):
        hires_cam.explain(*model, TARGETS_N)
    assert np.abs(hires_cam.explain(*model, TARGETS_N, layer='embed')).max() > 0


@pytest.mark.parametrize('method', METHODS)
def test_errors(method, bright):
    apply_fn, variables, images_NHWC = bright
    with pytest.raises(DataError, match='targets'):
        method.explain(*bright, np.array([0, 4]))
    with pytest.raises(ConfigError, match="unknown layer 'cnv'"):
        method.explain(*bright, TARGETS_N, layer='cnv')
    with pytest.raises(DataError, match="'conv' (is|are) not finite; the model diverged"):
        method.explain(diverged, np.full_like(variables, np.nan), images_NHWC, TARGETS_N)
    if method is not eigen_cam:
        with pytest.raises(DataError, match="gradient at 'conv' is zero for all images"):
            method.explain(apply_fn, 0 * variables, images_NHWC, TARGETS_N)
