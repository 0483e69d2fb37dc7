"""Occlusion: where a square covers what the model reads, and the mean over the squares."""

import jax.numpy as jnp
import numpy as np
import pytest

from imgjax.errors import ConfigError, DataError
from imgjax.explain import copies, occlusion
from tests.explain.test_gradient import (
    IMAGES_NHWC,
    OF_TARGETS_NHWC,
    TARGETS_N,
    WEIGHTS_HWCK,
    linear,
)

GIVEN = WEIGHTS_HWCK, IMAGES_NHWC, TARGETS_N  # of 6 x 9 pixels


def one_pixel(place, images_NHWC):
    """Class 1 reads the pixel at `place`, class 0 nothing."""
    logits_N = 3 * images_NHWC[:, place[0], place[1]].sum(axis=-1)
    return jnp.stack([jnp.zeros_like(logits_N), logits_N], axis=1), {}


@pytest.mark.parametrize('row, column', [(2, 7), (0, 0), (7, 11), (7, 0)])
def test_it_finds_the_pixel_that_the_model_reads(row, column):
    given = one_pixel, np.array([row, column]), np.full((1, 8, 12, 1), 2, np.float32), np.array([1])
    map_HW = occlusion.explain(*given, window=1, stride=1)[0]
    assert map_HW[row, column] == 6 and np.count_nonzero(map_HW) == 1
    assert map_HW.dtype == np.float32
    # With larger squares, it is found as far as the window reaches; a fall by half halves it.
    map_HW = occlusion.explain(*given, window=3, stride=1, baseline=1.0)[0]
    rows, columns = np.nonzero(map_HW)
    assert rows.min() == max(0, row - 2) and rows.max() == min(7, row + 2)
    assert columns.min() == max(0, column - 2) and columns.max() == min(11, column + 2)
    assert map_HW[row, column] == map_HW.max() == 3


def test_a_square_that_speaks_against_the_class_is_negative():
    images_NHWC = np.full((1, 8, 12, 1), -2, np.float32)
    map_HW = occlusion.explain(one_pixel, np.array([2, 7]), images_NHWC, np.array([1]))[0]
    assert map_HW.min() < 0 == map_HW.max() and occlusion.SIGNED


@pytest.mark.parametrize('window, stride', [(3, 2), (4, 4), (5, 3), (6, 1), (6, 5), (1, 1)])
def test_it_is_the_mean_over_squares(window, stride):
    """The squares that pass the lower and the right edge are cut off there."""
    part_NHW = (IMAGES_NHWC * OF_TARGETS_NHWC).sum(axis=3, dtype=np.float64)
    total_NHW, count_HW = np.zeros(part_NHW.shape), np.zeros(part_NHW.shape[1:])
    for top in range(0, 6, stride):
        for left in range(0, 9, stride):
            if top < 6 - window + stride and left < 9 - window + stride:
                rows, columns = slice(top, top + window), slice(left, left + window)
                fall_N = part_NHW[:, rows, columns].sum((1, 2))
                total_NHW[:, rows, columns] += fall_N[:, None, None]
                count_HW[rows, columns] += 1
    assert count_HW.min() > 0
    found = occlusion.explain(linear, *GIVEN, window=window, stride=stride)
    np.testing.assert_allclose(found, total_NHW / count_HW, atol=1e-4)


def test_the_usual_square_is_a_quarter_of_the_shorter_side():
    images_NHWC = np.full((1, 8, 12, 1), 2, np.float32)
    given = one_pixel, np.array([2, 7]), images_NHWC, np.array([1])
    np.testing.assert_array_equal(occlusion.explain(*given),
                                  occlusion.explain(*given, window=2, stride=1))


@pytest.mark.parametrize('fit', [1, 2, 4, 64])
def test_chunks_change_nothing(fit, monkeypatch):
    whole = occlusion.explain(linear, *GIVEN, window=3, stride=2)
    monkeypatch.setattr(copies, 'at_once', lambda *args: fit)
    np.testing.assert_allclose(occlusion.explain(linear, *GIVEN, window=3, stride=2), whole,
                               atol=1e-4)


@pytest.mark.parametrize('options', [{'window': 7}, {'window': -1}, {'window': 2, 'stride': 3},
                                     {'window': 2, 'stride': -1}])
def test_squares_that_do_not_fit_are_refused(options):
    with pytest.raises(ConfigError, match='for images of 6x9; give 1 <= stride <= window'):
        occlusion.explain(linear, *GIVEN, **options)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ConfigError, match='baseline: nan; give a finite value'):
        occlusion.explain(linear, *GIVEN, baseline=np.nan)
    with pytest.raises(DataError, match='no class'):
        occlusion.explain(linear, WEIGHTS_HWCK, IMAGES_NHWC, TARGETS_N - 1)
    with pytest.raises(DataError, match='no square changes the logit.*train the model'):
        occlusion.explain(linear, 0 * WEIGHTS_HWCK, IMAGES_NHWC, TARGETS_N)
    with pytest.raises(DataError, match='logit: not finite'):
        occlusion.explain(linear, WEIGHTS_HWCK * np.float32(np.inf), IMAGES_NHWC, TARGETS_N)
