"""The model on versions of images: all of them, in their order, whatever fits at once."""

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from imgjax.errors import DataError
from imgjax.explain import copies

rng = np.random.default_rng(0)
WEIGHTS_DK = rng.normal(size=(12, 5)).astype(np.float32)
VERSIONS_SNHWC = rng.normal(size=(7, 3, 2, 2, 3)).astype(np.float32)
TARGETS_N = np.array([4, 0, 2])
LOGITS_SNK = VERSIONS_SNHWC.reshape(7, 3, 12) @ WEIGHTS_DK


def linear(weights_DK, images_NHWC):
    return jnp.dot(images_NHWC.reshape(len(images_NHWC), -1), weights_DK), {}


def each(function, versions, variables=WEIGHTS_DK):
    return list(copies.each(function, linear, variables, versions, TARGETS_N, (3, 2, 2, 3)))


@pytest.mark.parametrize('fit', [1, 2, 4, 8, 16, 256])
def test_each_version_has_its_values_whatever_fits(fit, monkeypatch):
    given = []

    def logit(apply_fn, variables, images_BHWC, targets_B):
        given.append(images_BHWC.shape)
        return copies.logit(apply_fn, variables, images_BHWC, targets_B)

    monkeypatch.setattr(copies, 'at_once', lambda *args: fit)
    calls = []

    def version(s):
        calls.append(s)
        return VERSIONS_SNHWC[s]

    found = each(logit, [lambda s=s: version(s) for s in range(7)])
    np.testing.assert_allclose(found, LOGITS_SNK[:, np.arange(3), TARGETS_N], atol=1e-5)
    assert calls == list(range(7))
    # The model gets no more images than fit, in one shape, so that it is compiled once.
    assert len(set(given)) == 1 and given[0][0] <= fit


def test_the_functions_are_those_of_the_target():
    versions = [lambda: VERSIONS_SNHWC[0]]
    rows = np.arange(3)
    np.testing.assert_allclose(each(copies.logits, versions)[0], LOGITS_SNK[0], atol=1e-5)
    np.testing.assert_allclose(each(copies.probability, versions)[0], scipy.special.softmax(
        LOGITS_SNK[0], axis=1)[rows, TARGETS_N], rtol=1e-5)
    np.testing.assert_array_equal(
        each(copies.gradient, versions)[0], WEIGHTS_DK.T[TARGETS_N].reshape(3, 2, 2, 3))


def test_values_that_are_not_finite_are_refused():
    with pytest.raises(DataError, match='logit: not finite; .*earlier checkpoint'):
        each(copies.logit, [lambda: VERSIONS_SNHWC[0]], WEIGHTS_DK * np.float32(np.inf))
