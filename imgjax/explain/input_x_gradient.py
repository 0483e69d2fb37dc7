"""The gradient times the image: the contribution of each pixel to a linear model.

Source: Shrikumar et al., "Not just a black box: learning important features through propagating
activation differences", 2016 (https://arxiv.org/abs/1605.01713), section 2.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from imgjax.explain import gradient

SIGNED = True


def explain(apply_fn: Callable, variables: Any, images_NHWC, targets_N) -> np.ndarray:
    """Returns the sum of `attributions` over the channels, float32 (N, H, W).

    The arguments and the errors are those of `gradient.attributions`.
    """
    return attributions(apply_fn, variables, images_NHWC, targets_N).sum(axis=-1)


def attributions(apply_fn: Callable, variables: Any, images_NHWC, targets_N) -> np.ndarray:
    """Returns the gradients times the images, float32 (N, H, W, C).

    The arguments and the errors are those of `gradient.attributions`.
    """
    return np.asarray(images_NHWC, np.float32) * gradient.attributions(
        apply_fn, variables, images_NHWC, targets_N)
