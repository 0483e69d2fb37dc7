"""Occlusion: how much the logit falls when a square of the image is covered.

Source: Zeiler and Fergus, "Visualizing and understanding convolutional networks", ECCV 2014
(https://arxiv.org/abs/1311.2901), section 4.2.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from imgjax.errors import ConfigError, DataError
from imgjax.explain import copies, layers

SIGNED = True


def explain(apply_fn: Callable, variables: Any, images_NHWC, targets_N, *, window: int = 0,
            stride: int = 0, baseline: float = 0.0) -> np.ndarray:
    """Returns the mean fall of the logit over the squares that cover a pixel, float32 (N, H, W).

    Squares lie at multiples of the stride; those at the lower and the right edge are cut off there.

    >>> import numpy as np
    >>> from imgjax.explain import occlusion
    >>> def apply_fn(weights, images_NHWC):  # the logit of class k is pixel k
    ...     return images_NHWC[:, 0, :, 0] @ weights, {}
    >>> images_NHWC = np.array([3.0, 5.0], np.float32).reshape(1, 1, 2, 1)
    >>> occlusion.explain(
    ...     apply_fn, np.eye(2, dtype=np.float32), images_NHWC, np.array([1]), window=1)
    array([[[0., 5.]]], dtype=float32)

    Args:
      apply_fn: (variables, images_NHWC) -> (logits_NK, out), hashable.
      variables: what it takes.
      images_NHWC: float32, as the model takes them.
      targets_N: int (N,), the class of each image.
      window: the side of a square in pixels; 0 takes a quarter of the shorter side of the image.
      stride: the step between squares in pixels, at most `window`; 0 takes half of a square.
      baseline: the value of the pixels of a square; 0 is the mean colour.

    Raises:
      ConfigError: `window` or `stride` is out of its range, or `baseline` is not finite.
      DataError: images or targets do not fit, the logit is not finite, or no square changes it.
    """
    layers.check(apply_fn, variables, images_NHWC, targets_N)
    images_NHWC = np.asarray(images_NHWC, np.float32)
    _, height, width, _ = images_NHWC.shape
    window = window or max(1, min(height, width) // 4)
    stride = stride or max(1, window // 2)
    if not 1 <= stride <= window <= min(height, width):
        raise ConfigError(f'window: {window}, stride: {stride} for images of {height}x{width}; '
                          'give 1 <= stride <= window <= the shorter side')
    if not np.isfinite(baseline):
        raise ConfigError(f'baseline: {baseline:g}; give a finite value, as 0, the mean colour')
    places = [(slice(top, top + window), slice(left, left + window))
              for top in _starts(height, window, stride) for left in _starts(width, window, stride)]

    def covered(place) -> np.ndarray:
        found_NHWC = images_NHWC.copy()
        found_NHWC[:, *place] = baseline
        return found_NHWC

    logits = copies.each(copies.logit, apply_fn, variables, [
        lambda: images_NHWC, *(partial(covered, place) for place in places)], targets_N,
        images_NHWC.shape)
    whole_N = next(logits)
    total_NHW, count_HW = np.zeros(images_NHWC.shape[:3]), np.zeros((height, width))
    for place, logit_N in zip(places, logits, strict=True):
        total_NHW[:, *place] += (whole_N - logit_N)[:, None, None]
        count_HW[place] += 1
    if not total_NHW.any():
        raise DataError('occlusion: no square changes the logit of any image, as with a head that '
                        'is all zero; train the model, or take a larger window')
    return (total_NHW / count_HW).astype(np.float32)


def _starts(side: int, window: int, stride: int) -> range:
    """Returns the first pixels of the squares along one side."""
    return range(0, (-(-(side - window) // stride)) * stride + 1, stride)
