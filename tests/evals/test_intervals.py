"""Wilson's interval and the draws of a bootstrap."""

import math

import numpy as np
import pytest
import scipy.stats

from imgjax.evals import intervals


@pytest.mark.parametrize('right, count', [(0, 1), (1, 1), (3, 7), (1, 10**6), (10**6, 10**6)])
def test_wilson_is_that_of_scipy(right, count):
    theirs = scipy.stats.binomtest(right, count).proportion_ci(method='wilson')
    np.testing.assert_allclose(intervals.wilson(right, count), theirs, rtol=1e-10, atol=1e-15)


def test_wilson_of_arrays():
    low_K, high_K = intervals.wilson(np.array([3, 0, 0]), np.array([7, 4, 0]))
    assert (low_K[0], high_K[0]) == intervals.wilson(3, 7)
    assert low_K[1] == 0 < high_K[1] and math.isnan(low_K[2]) and math.isnan(high_K[2])
    share, low, high = intervals.share_of(np.repeat([True, False], [15, 5]))
    assert (share, round(low, 4), round(high, 4)) == (0.75, 0.5313, 0.8881)


def test_draws_are_of_all_images_and_the_same_in_any_blocks(monkeypatch):
    whole = list(intervals.draws(7, 300, np.random.default_rng(0)))
    assert [block.shape for block in whole] == [(7, 300)]
    assert (whole[0].sum(axis=0) == 7).all()
    np.testing.assert_allclose(whole[0].mean(axis=1), 1, atol=0.25)
    monkeypatch.setattr(intervals, 'ENTRIES', 70)
    parts = list(intervals.draws(7, 300, np.random.default_rng(0)))
    assert len(parts) == 30
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), whole[0])


def test_percentiles():
    assert intervals.percentiles(np.arange(201.0)) == (5, 195)
