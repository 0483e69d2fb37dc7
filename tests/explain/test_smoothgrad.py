"""SmoothGrad: the mean gradient under noise that belongs to an image."""

import jax.numpy as jnp
import numpy as np
import pytest

from imgjax.errors import ConfigError, DataError
from imgjax.explain import copies, gradient, smoothgrad

rng = np.random.default_rng(0)
WEIGHTS_HWCK = rng.normal(size=(4, 5, 3, 4)).astype(np.float32)
IMAGES_NHWC = rng.normal(size=(3, 4, 5, 3)).astype(np.float32)
TARGETS_N = np.array([2, 0, 3])
GIVEN = WEIGHTS_HWCK, IMAGES_NHWC, TARGETS_N


def cubic(weights_HWCK, images_NHWC):
    """Its gradient at x is 3 w x^2, and the mean of that under noise is 3 w (x^2 + scale^2)."""
    return jnp.einsum('nhwc,hwck->nk', images_NHWC ** 3, weights_HWCK), {}


def test_without_noise_it_is_the_gradient():
    found = smoothgrad.attributions(cubic, *GIVEN, samples=3, noise=0)
    np.testing.assert_allclose(found, gradient.attributions(cubic, *GIVEN), rtol=1e-6)
    maps_NHW = smoothgrad.explain(cubic, *GIVEN, samples=3, noise=0)
    np.testing.assert_array_equal(maps_NHW, np.abs(found).max(axis=3))
    assert maps_NHW.dtype == np.float32


def test_the_noise_is_a_share_of_the_range_of_each_image():
    images_NHWC = IMAGES_NHWC * np.array([1, 0.1, 10], np.float32)[:, None, None, None]
    found = smoothgrad.attributions(cubic, WEIGHTS_HWCK, images_NHWC, TARGETS_N, samples=2000,
                                    noise=0.2)
    scale_N111 = 0.2 * np.ptp(images_NHWC, axis=(1, 2, 3), keepdims=True)
    weights_NHWC = WEIGHTS_HWCK.transpose(3, 0, 1, 2)[TARGETS_N]
    expected = 3 * weights_NHWC * (images_NHWC ** 2 + scale_N111 ** 2)
    # The standard deviation of the mean of 3 w (x + scale e)^2, e normal.
    deviation = 3 * np.abs(weights_NHWC) * np.sqrt(
        (4 * images_NHWC ** 2 * scale_N111 ** 2 + 2 * scale_N111 ** 4) / 2000)
    z_NHWC = (found - expected) / deviation
    assert np.abs(z_NHWC).max() < 4.5 and 0.8 < z_NHWC.std() < 1.2


@pytest.mark.parametrize('fit', [1, 2, 8])
def test_a_map_depends_on_its_image_alone(fit, monkeypatch):
    together = smoothgrad.explain(cubic, *GIVEN, samples=5, indices_N=[7, 3, 9])
    monkeypatch.setattr(copies, 'at_once', lambda *args: fit)
    again = smoothgrad.explain(cubic, *GIVEN, samples=5, indices_N=[7, 3, 9])
    alone = smoothgrad.explain(cubic, WEIGHTS_HWCK, IMAGES_NHWC[1:2], TARGETS_N[1:2], samples=5,
                               indices_N=[3])
    np.testing.assert_allclose(again, together, rtol=1e-5)
    np.testing.assert_allclose(alone[0], together[1], rtol=1e-5)


def test_the_seed_and_the_place_decide_the_noise():
    base = smoothgrad.explain(cubic, *GIVEN, samples=5)
    np.testing.assert_array_equal(
        base, smoothgrad.explain(cubic, *GIVEN, samples=5, seed=0, indices_N=np.arange(3)))
    for options in ({'seed': 1}, {'indices_N': [0, 1, 3]}):
        other = smoothgrad.explain(cubic, *GIVEN, samples=5, **options)
        assert np.abs(other[2] - base[2]).max() > 1e-2 * base[2].max()


@pytest.mark.parametrize('options', [
    {'samples': 0}, {'noise': -0.1}, {'noise': np.nan}, {'noise': np.inf}, {'seed': -1}])
def test_numbers_out_of_their_range_are_refused(options):
    with pytest.raises(ConfigError, match='samples: .*noise: .*seed: .*give 1 or more samples'):
        smoothgrad.explain(cubic, *GIVEN, **options)


def test_data_that_do_not_fit_are_refused():
    with pytest.raises(DataError, match='indices: 1 for 3 images'):
        smoothgrad.explain(cubic, *GIVEN, indices_N=[0])
    with pytest.raises(DataError, match='no class'):
        smoothgrad.explain(cubic, WEIGHTS_HWCK, IMAGES_NHWC, TARGETS_N + 1)
    with pytest.raises(DataError, match='is zero for all images'):
        smoothgrad.explain(cubic, 0 * WEIGHTS_HWCK, IMAGES_NHWC, TARGETS_N, samples=2)
    with pytest.raises(DataError, match='gradient: not finite'):
        smoothgrad.explain(cubic, WEIGHTS_HWCK * np.float32(np.inf), IMAGES_NHWC, TARGETS_N,
                           samples=2)
