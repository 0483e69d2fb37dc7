"""RISE: its masks, its formula, and that it finds what the model reads."""

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
import scipy.special

from imgjax.errors import ConfigError, DataError
from imgjax.explain import copies, rise
from tests.explain.test_gradient import IMAGES_NHWC, TARGETS_N, WEIGHTS_HWCK, linear

GIVEN = np.float32(0.1) * WEIGHTS_HWCK, IMAGES_NHWC, TARGETS_N
SIZES = [(8, 8, 4), (12, 8, 4), (32, 20, 7), (5, 9, 2)]  # height, width, cells


def seen(place, images_NHWC):
    """The probability of class 1 is 0.01 where the pixel at `place` is 0, 0.99 where it is 1."""
    logits_N = jnp.float32(9.2) * (images_NHWC[:, place[0], place[1], 0] - jnp.float32(0.5))
    return jnp.stack([jnp.zeros_like(logits_N), logits_N], axis=1), {}


@pytest.mark.parametrize('height, width, cells', SIZES)
def test_a_mask_is_a_window_of_an_enlarged_grid(height, width, cells):
    """Against scipy's bilinear interpolation of a grid of 0 and 1, at some place."""
    masks_MHW = rise.masks(height, width, 3, seed=1)
    assert masks_MHW.shape == (3, height, width) and masks_MHW.dtype == np.float32
    for m, mask_HW in enumerate(masks_MHW):
        rng = rise.generator(1, m, 'rise')
        grid, shifts = rng.random((cells + 1, cells + 1)) < 0.5, rng.random(2)
        places = [(np.arange(side) + 0.5) * cells / side - 0.5 + shift
                  for side, shift in zip((height, width), shifts, strict=True)]
        expected = scipy.ndimage.map_coordinates(
            grid.astype(float), np.meshgrid(*places, indexing='ij'), order=1, mode='nearest')
        np.testing.assert_allclose(mask_HW, expected, atol=1e-5)


@pytest.mark.parametrize('shown', [0.2, 0.5])
@pytest.mark.parametrize('height, width, cells', SIZES)
def test_masks_show_each_pixel_equally_often(height, width, cells, shown):
    masks_MHW = rise.masks(height, width, 2000, shown=shown)
    assert masks_MHW.min() == 0 and masks_MHW.max() == 1
    # A pixel's deviation is at most that of a coin.
    limit = 4.5 * (shown * (1 - shown) / 2000) ** 0.5
    assert np.abs(masks_MHW.mean(axis=0) - shown).max() < limit


def test_a_mask_depends_on_the_seed_and_its_number():
    masks_MHW = rise.masks(8, 12, 6)
    np.testing.assert_array_equal(rise.masks(8, 12, 4), masks_MHW[:4])
    assert (rise.masks(8, 12, 6, seed=1) != masks_MHW).any(axis=(1, 2)).all()
    assert len(np.unique(masks_MHW, axis=0)) == 6


@pytest.mark.parametrize('fit', [1, 2, 4, 64])
def test_it_is_the_formula_of_the_paper_whatever_fits(fit, monkeypatch):
    monkeypatch.setattr(copies, 'at_once', lambda *args: fit)
    weights_HWCK, images_NHWC, targets_N = GIVEN
    total_NHW = 0
    for mask_HW in rise.masks(6, 9, 20, cells=3, shown=0.4, seed=5):
        logits_NK = linear(weights_HWCK, images_NHWC * mask_HW[None, :, :, None])[0]
        probability_N = scipy.special.softmax(logits_NK, axis=1)[np.arange(3), targets_N]
        total_NHW += probability_N[:, None, None] * mask_HW
    found = rise.explain(linear, *GIVEN, count=20, cells=3, shown=0.4, seed=5)
    assert found.dtype == np.float32
    shown_HW = rise.masks(6, 9, 20, cells=3, shown=0.4, seed=5).sum(axis=0)
    np.testing.assert_allclose(found, total_NHW / shown_HW, rtol=1e-4)


def test_one_mask_is_enough():
    found = rise.explain(linear, *GIVEN, count=1)
    mask_HW = rise.masks(6, 9, 1)[0]
    np.testing.assert_array_equal(found[0] > 0, mask_HW > 0)


@pytest.mark.parametrize('height, width, row, column', [
    (8, 8, 1, 6), (16, 16, 4, 11), (10, 24, 8, 3)])
def test_it_finds_the_pixel_that_the_model_reads(height, width, row, column):
    images_NHWC = np.ones((1, height, width, 1), np.float32)
    map_HW = rise.explain(seen, np.array([row, column]), images_NHWC, np.array([1]), count=600)[0]
    found = np.unravel_index(map_HW.argmax(), map_HW.shape)
    assert abs(found[0] - row) <= 1 and abs(found[1] - column) <= 1
    assert map_HW[row, column] > 1.25 * np.median(map_HW) and map_HW.min() > 0


@pytest.mark.parametrize('options', [
    {'count': 0}, {'cells': -1}, {'cells': 7}, {'shown': 0.0}, {'shown': 1.0},
    {'shown': np.nan}, {'seed': -1}])
def test_numbers_out_of_their_range_are_refused(options):
    words = 'count: .*cells: .*shown: .*seed: .*give 1 or more masks, 1 to 6 cells'
    with pytest.raises(ConfigError, match=words):
        rise.explain(linear, *GIVEN, **options)
    with pytest.raises(ConfigError, match=words):
        rise.masks(6, 9, **({'count': 4} | options))


def test_data_that_do_not_fit_are_refused():
    weights_HWCK, images_NHWC, targets_N = GIVEN
    with pytest.raises(DataError, match='3x9 pixels, the method takes 4 or more a side'):
        rise.explain(linear, weights_HWCK[:3], images_NHWC[:, :3], targets_N)
    with pytest.raises(DataError, match='no class'):
        rise.explain(linear, weights_HWCK, images_NHWC, targets_N + 2)
    with pytest.raises(DataError, match='the same behind all masks.*train the model'):
        rise.explain(linear, 0 * weights_HWCK, images_NHWC, targets_N, count=8)
    with pytest.raises(DataError, match='probability: not finite'):
        rise.explain(linear, weights_HWCK * np.float32(np.inf), images_NHWC, targets_N, count=8)
