"""RISE: the mean of random masks, each weighted by the answer for the image behind it.

Source: Petsiuk et al., "RISE: randomized input sampling for explanation of black-box models", BMVC
2018 (https://arxiv.org/abs/1806.07421), section 3.2 for the masks and equation 4.
"""

import collections
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from imgjax.errors import ConfigError, DataError
from imgjax.explain import copies, layers
from imgjax.explain.checks import check_images
from imgjax.explain.metrics.order import generator

SIGNED = False

MASKS = 512  # the paper takes 4,000 to 8,000 for 224 pixels; fewer make the map noisier
CELLS = 7  # of a mask along a side
SHOWN = 0.5  # share of the cells that a mask leaves
SMALLEST = 4  # pixels a side


def explain(apply_fn: Callable, variables: Any, images_NHWC, targets_N, *, count: int = MASKS,
            cells: int = 0, shown: float = SHOWN, seed: int = 0) -> np.ndarray:
    """Returns the mean of the masks, weighted by the probability of the target, float32 (N, H, W).

    It estimates the probability of the target where the pixel is seen, 0 to 1. The mean is over the
    masks that show the pixel, as in equation 4; equation 6 divides by their expected number, so
    that a map of few masks would show how often each pixel was seen. Behind a mask the pixels are
    the mean colour. All images have the same masks.

    Args:
      apply_fn: (variables, images_NHWC) -> (logits_NK, out), hashable.
      variables: what it takes.
      images_NHWC: float32, as the model takes them.
      targets_N: int (N,), the class of each image.
      count: the number of masks, 1 or more; below 100 the map is mostly noise.
      cells: of a mask along a side, as `masks` takes it.
      shown: the share of the cells that a mask leaves, above 0 and below 1.
      seed: of the masks, 0 or above.

    Raises:
      ConfigError: a number is out of its range.
      DataError: images or targets do not fit, or the probability is not finite, or the same behind
        all masks.
    """
    layers.check(apply_fn, variables, images_NHWC, targets_N)
    images_NHWC = np.asarray(images_NHWC, np.float32)
    check_images(images_NHWC, SMALLEST)
    _, height, width, _ = images_NHWC.shape
    cells = _cells(height, width, count, cells, shown, seed)
    waiting: collections.deque[np.ndarray] = collections.deque()

    def behind(m: int) -> np.ndarray:
        waiting.append(_mask(height, width, cells, shown, seed, m))
        return images_NHWC * waiting[-1][None, :, :, None]

    probabilities = copies.each(copies.probability, apply_fn, variables,
                                [partial(behind, m) for m in range(count)], targets_N,
                                images_NHWC.shape)
    total_NHW, shown_HW = np.zeros(images_NHWC.shape[:3]), np.zeros((height, width))
    least_N, most_N = np.full(len(total_NHW), np.inf), np.full(len(total_NHW), -np.inf)
    for probability_N in probabilities:
        mask_HW = waiting.popleft()
        total_NHW += probability_N[:, None, None] * mask_HW
        shown_HW += mask_HW
        least_N = np.minimum(least_N, probability_N)
        most_N = np.maximum(most_N, probability_N)
    if count > 1 and np.array_equal(least_N, most_N):
        raise DataError('rise: the probability of the target is the same behind all masks, as with '
                        'a head that is all zero; train the model, or take a method of gradients')
    return (total_NHW / np.where(shown_HW > 0, shown_HW, 1)).astype(np.float32)


def masks(height: int, width: int, count: int, cells: int = 0, shown: float = SHOWN,
          seed: int = 0) -> np.ndarray:
    """Returns random masks, float32 (M, H, W) in 0 to 1, whose mean is `shown` about.

    A mask is a coarse grid of 0 and 1 of one cell more than the image has along each side, made
    larger by bilinear interpolation, of which a window of the size of the image is cut out at
    random.

    Args:
      height: H.
      width: W.
      count: M, 1 or more.
      cells: of the image along each side; 0 takes 7, and fewer for sides below 14 pixels, of two
        pixels each.
      shown: the probability of 1, above 0 and below 1.
      seed: 0 or above; mask m depends on (seed, m) alone.

    Raises:
      ConfigError: a number is out of its range.
    """
    cells = _cells(height, width, count, cells, shown, seed)
    return np.stack([_mask(height, width, cells, shown, seed, m) for m in range(count)])


def _cells(height: int, width: int, count: int, cells: int, shown: float, seed: int) -> int:
    """Returns the cells along a side, after a check of the arguments of `masks`."""
    side = min(height, width)
    cells = cells or min(CELLS, max(2, side // 2))
    if count < 1 or not 1 <= cells <= side or not 0 < shown < 1 or seed < 0:
        raise ConfigError(f'count: {count}, cells: {cells}, shown: {shown:g}, seed: {seed}; give 1 '
                          f'or more masks, 1 to {side} cells, a share between 0 and 1, and a seed '
                          'of 0 or above')
    return cells


def _mask(height: int, width: int, cells: int, shown: float, seed: int, m: int) -> np.ndarray:
    rng = generator(seed, m, 'rise')
    grid = (rng.random((cells + 1, cells + 1)) < shown).astype(np.float32)
    top, left = rng.random(2)
    return _rows(_rows(grid, height, cells, top).T, width, cells, left).T


def _rows(grid: np.ndarray, length: int, cells: int, shift: float) -> np.ndarray:
    """Returns `length` interpolated rows of a grid of cells + 1 rows, shifted by part of a cell."""
    place = np.clip((np.arange(length) + 0.5) * cells / length - 0.5 + shift, 0, cells)
    low = np.minimum(place.astype(int), cells - 1)
    share = (place - low)[:, None].astype(np.float32)
    return grid[low] * (1 - share) + grid[low + 1] * share
