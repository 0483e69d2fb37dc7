"""Integrated gradients: exact where the quadrature is, and complete."""

import numpy as np
import pytest

from imgjax.errors import ConfigError, DataError
from imgjax.explain import copies, integrated_gradients
from tests.explain.test_gradient import (
    IMAGES_NHWC,
    OF_TARGETS_NHWC,
    TARGETS_N,
    WEIGHTS_HWCK,
    linear,
)
from tests.explain.test_layers import filled
from tests.explain.test_smoothgrad import cubic

GIVEN = WEIGHTS_HWCK, IMAGES_NHWC, TARGETS_N


@pytest.mark.parametrize('baseline', [0.0, -1.5])
@pytest.mark.parametrize('apply_fn, steps, power', [(linear, 1, 1), (cubic, 2, 3)])
def test_it_is_exact_for_polynomials(apply_fn, steps, power, baseline):
    """With n points the quadrature is exact for gradients of degree 2 n - 1."""
    expected = OF_TARGETS_NHWC * (IMAGES_NHWC.astype(np.float64) ** power - baseline ** power)
    options = {'steps': steps, 'baseline': baseline}
    found = integrated_gradients.attributions(apply_fn, *GIVEN, **options)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    maps_NHW = integrated_gradients.explain(apply_fn, *GIVEN, **options)
    np.testing.assert_array_equal(maps_NHW, found.sum(axis=3))
    assert maps_NHW.dtype == np.float32 and integrated_gradients.SIGNED
    error_N, change_N = integrated_gradients.completeness(apply_fn, *GIVEN, **options)
    np.testing.assert_allclose(change_N, expected.sum((1, 2, 3)), atol=1e-3)
    assert error_N.shape == (3,) and (error_N < 1e-5 * np.abs(expected).sum((1, 2, 3))).all()


@pytest.mark.parametrize('name', ['tiny_cnn', 'tiny_vit'])
def test_more_steps_are_more_complete(name):
    apply_fn, variables, images_NHWC = filled(name)

    def share(steps):
        error_N, change_N = integrated_gradients.completeness(
            apply_fn, variables, images_NHWC, np.array([0, 3]), steps=steps)
        return (error_N / np.abs(change_N)).max()

    few, many = share(2), share(64)
    assert many < 0.2 * few and many < 0.02


@pytest.mark.parametrize('fit', [1, 2, 4, 64])
def test_chunks_change_nothing(fit, monkeypatch):
    whole = integrated_gradients.attributions(cubic, *GIVEN, steps=5)
    monkeypatch.setattr(copies, 'at_once', lambda *args: fit)
    np.testing.assert_allclose(integrated_gradients.attributions(cubic, *GIVEN, steps=5), whole,
                               atol=1e-5)


@pytest.mark.parametrize('options', [
    {'steps': 0}, {'baseline': np.nan}, {'baseline': np.inf}])
def test_numbers_out_of_their_range_are_refused(options):
    for function in (integrated_gradients.explain, integrated_gradients.completeness):
        with pytest.raises(ConfigError, match='steps: .*baseline: .*give 1 or more steps'):
            function(linear, *GIVEN, **options)


def test_data_that_do_not_fit_are_refused():
    with pytest.raises(DataError, match='no class'):
        integrated_gradients.explain(linear, WEIGHTS_HWCK, IMAGES_NHWC, TARGETS_N + 2)
    with pytest.raises(DataError, match='is zero for all images'):
        integrated_gradients.explain(linear, 0 * WEIGHTS_HWCK, IMAGES_NHWC, TARGETS_N)
