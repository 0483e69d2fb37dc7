"""Two maps that know nothing of the model, beside which the tests of a method are read.

A method that is no better than random numbers shows nothing. One that is no better than the edges
of the image may only show the edges (Adebayo et al., "Sanity checks for saliency maps", NeurIPS
2018, https://arxiv.org/abs/1810.03292).
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import ndimage

from imgjax.explain.checks import check_images
from imgjax.explain.metrics.order import generator, indices_of


def random_map(apply_fn: Callable | None, variables: Any, images_NHWC: np.ndarray,
               targets_N: np.ndarray | None, *, seed: int = 0,
               indices_N: np.ndarray | None = None) -> np.ndarray:
    """Returns numbers uniform in [0, 1), float32 (N, H, W).

    Args:
      apply_fn: not used; methods have it.
      variables: not used.
      images_NHWC: float32 (N, H, W, C), of which only the shape counts.
      targets_N: not used.
      seed: of the numbers.
      indices_N: int (N,), the place of each image in its data set; None takes 0 to N - 1.

    Raises:
      DataError: `images_NHWC` has another shape.
    """
    check_images(images_NHWC)
    return np.stack([generator(seed, index, 'map').random(np.shape(images_NHWC)[1:3], np.float32)
                     for index in indices_of(indices_N, len(images_NHWC))])


def edges(apply_fn: Callable | None, variables: Any, images_NHWC: np.ndarray,
          targets_N: np.ndarray | None) -> np.ndarray:
    """Returns the magnitude of Sobel's gradient of the mean channel, float32 (N, H, W), 0 or above.

    Args:
      apply_fn: not used; methods have it.
      variables: not used.
      images_NHWC: float32 (N, H, W, C).
      targets_N: not used.

    Raises:
      DataError: `images_NHWC` has another shape, or is not finite.
    """
    check_images(images_NHWC)
    # Image by image: Sobel's filter is smooth along all other axes.
    return np.stack([np.hypot(*(ndimage.sobel(gray_HW, axis, mode='nearest') for axis in (0, 1)))
                     for gray_HW in np.asarray(images_NHWC, np.float32).mean(axis=3)])
