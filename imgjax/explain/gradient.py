"""The gradient of the logit with respect to the pixels.

Source: Simonyan et al., "Deep inside convolutional networks: visualising image classification
models and saliency maps", 2013 (https://arxiv.org/abs/1312.6034), section 3.1.
"""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from imgjax.explain import copies, layers

SIGNED = False


def explain(apply_fn: Callable, variables: Any, images_NHWC, targets_N) -> np.ndarray:
    """Returns the largest absolute value of `attributions` over the channels, float32 (N, H, W).

    The arguments and the errors are those of `attributions`.
    """
    return np.abs(attributions(apply_fn, variables, images_NHWC, targets_N)).max(axis=-1)


def attributions(apply_fn: Callable, variables: Any, images_NHWC, targets_N) -> np.ndarray:
    """Returns the gradients of the target's logit, float32 (N, H, W, C).

    Args:
      apply_fn: (variables, images_NHWC) -> (logits_NK, out), hashable.
      variables: what it takes.
      images_NHWC: float32, as the model takes them.
      targets_N: int (N,), the class of each image.

    Raises:
      DataError: images or targets do not fit, or the gradient is zero for all images or not finite.
    """
    layers.check(apply_fn, variables, images_NHWC, targets_N)
    images_NHWC = np.asarray(images_NHWC, np.float32)
    found = np.asarray(layers.in_chunks(
        apply_fn, functools.partial(copies.gradient, apply_fn), variables, images_NHWC, targets_N))
    layers.check_gradient('image', found)
    return found
