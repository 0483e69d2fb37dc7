"""What methods refuse before they compute."""

import jax.numpy as jnp
import numpy as np
import pytest

from imgjax.errors import DataError
from imgjax.explain import checks


@pytest.mark.parametrize('dtype', [np.float32, np.float64, np.float16, jnp.bfloat16])
def test_images_of_floats_pass(dtype):
    checks.check_images(np.zeros((2, 4, 5, 1), dtype), smallest=4)


@pytest.mark.parametrize('images, smallest, words', [
    (np.zeros((4, 5, 3), np.float32), 1, r'images: shape \(4, 5, 3\); give \(images, height'),
    (np.zeros((0, 4, 5, 3), np.float32), 1, r'images: shape \(0, 4, 5, 3\)'),
    (np.zeros((2, 4, 5, 3), np.float32), 5, 'images: 4x5 pixels, the method takes 5 or more'),
    (np.zeros((2, 4, 5, 3), np.uint8), 1, 'images: .*uint8; give float32, normalised'),
])
def test_images_are_refused(images, smallest, words):
    with pytest.raises(DataError, match=words) as error:
        checks.check_images(images, smallest)
    assert '\n' not in str(error.value)


@pytest.mark.parametrize('bad', [np.nan, np.inf, -np.inf])
def test_the_images_that_are_not_finite_are_named(bad):
    images_NHWC = np.zeros((5, 2, 2, 1), np.float32)
    images_NHWC[[1, 4], 0, 1] = bad
    with pytest.raises(DataError, match=r'not finite for 2 of 5 \(image 1, 4\); leave these out'):
        checks.check_images(images_NHWC)


def test_targets_that_are_classes_pass():
    checks.check_targets(np.array([0, 2], np.int64), images=2, classes=3)
    checks.check_targets(jnp.array([0, 2]), images=2, classes=3)
    checks.check_targets([0, 2], images=2, classes=3)


@pytest.mark.parametrize('targets, words', [
    ([0, 3], 'targets: 3 of image 1 is no class; give integers from 0 to 2'),
    ([-1, 0], 'targets: -1 of image 0 is no class'),
    ([0], r'targets: shape \(1,\) of int64 for 2 images'),
    ([[0], [1]], r'targets: shape \(2, 1\)'),
    ([0.0, 1.0], 'of float64 .* as integers'),
    ([True, False], 'of bool .* as integers'),
])
def test_targets_are_refused(targets, words):
    with pytest.raises(DataError, match=words):
        checks.check_targets(np.array(targets), images=2, classes=3)
