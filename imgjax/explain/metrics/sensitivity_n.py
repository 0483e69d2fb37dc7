"""Sensitivity-n: do sums of the map tell how the logit changes when n random pixels go?

Source: Ancona et al., "Towards better understanding of gradient-based attribution methods for deep
neural networks", ICLR 2018 (https://arxiv.org/abs/1711.06104).
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from imgjax.errors import ConfigError
from imgjax.explain.metrics.means import mean_of
from imgjax.explain.metrics.order import generator, indices_of
from imgjax.explain.metrics.outputs import check, check_maps, outputs

SHARES = (0.01, 0.03, 0.1, 0.3, 0.8)
SUBSETS = 100


class Changes(NamedTuple):
    """How the logit falls without random pixels; no map is needed for it.

    Attributes:
      sizes_T: int (T,), the numbers n of pixels.
      changes_NTS: float64, the logit of the target on the image, minus that without the pixels.
      seed: of the pixels.
      indices_N: int (N,), the place of each image in its data set.
      baseline: what the pixels become.
      shape: (N, H, W, C) of the images.
    """

    sizes_T: np.ndarray
    changes_NTS: np.ndarray
    seed: int
    indices_N: np.ndarray
    baseline: float
    shape: tuple[int, ...]


def changes(apply_fn: Callable, variables: Any, images_NHWC: np.ndarray, targets_N: np.ndarray, *,
            shares: Sequence[float] = SHARES, subsets: int = SUBSETS, baseline: float = 0.0,
            seed: int = 0, indices_N: np.ndarray | None = None) -> Changes:
    """Returns how the logit falls without random pixels, once for the maps of all methods.

    Args:
      apply_fn: (variables, images_NHWC) -> (logits_NK, out), hashable.
      variables: what it takes.
      images_NHWC: float32, as the model takes them.
      targets_N: int (N,), the class of each image.
      shares: n as shares of the pixels, above 0 and below 1; the paper takes n from one pixel to
        80 %, evenly on a logarithmic scale.
      subsets: how many random sets of n pixels an image has, 3 or more; the paper takes 100.
      baseline: what the pixels become; 0 is the mean colour.
      seed: of the pixels.
      indices_N: int (N,), the place of each image in its data set; None takes 0 to N - 1.

    Raises:
      ConfigError: `shares` or `subsets` is out of its range.
      DataError: the arrays do not fit.
    """
    if not len(shares) or not all(0 < share < 1 for share in shares) or subsets < 3:
        raise ConfigError(f'shares: {list(shares)}, subsets: {subsets}; give shares above 0 and '
                          'below 1, and 3 or more subsets')
    check(apply_fn, variables, images_NHWC, targets_N)
    images_NHWC = np.asarray(images_NHWC, np.float32)
    _, height, width, channels = images_NHWC.shape
    sizes_T = np.unique([max(1, round(share * height * width)) for share in shares])
    indices_N = indices_of(indices_N, len(images_NHWC))

    def versions():
        for image_HWC, index in zip(images_NHWC, indices_N, strict=True):
            pixels_PC = image_HWC.reshape(-1, channels)
            made = [pixels_PC[None]]
            for chosen_SR in pixels(height * width, sizes_T, subsets, seed, index):
                block_SPC = np.repeat(pixels_PC[None], subsets, axis=0)
                block_SPC[np.arange(subsets)[:, None], chosen_SR] = baseline
                made.append(block_SPC)
            yield np.concatenate(made).reshape(-1, height, width, channels)

    logits_NS = outputs(apply_fn, variables, versions(), targets_N).logits_NS.astype(np.float64)
    changes_NTS = (logits_NS[:, :1] - logits_NS[:, 1:]).reshape(len(images_NHWC), len(sizes_T), -1)
    return Changes(sizes_T, changes_NTS, seed, indices_N, baseline, images_NHWC.shape)


def measure(found: Changes, maps_NHW: np.ndarray) -> dict:
    """Returns the correlation of sums of the map and changes of the logit, per number of pixels.

    It is Pearson's, over the random sets of an image, -1 to 1; 1 for a linear model and a map of
    its exact contributions. It has no value where the map, or the change, is the same for all sets
    (a map of zeros). The result can be written as JSON:
      images, subsets, baseline: how many images and sets, and what the pixels become.
      rows: a list with a dict per n: `n`, `share` (of the pixels), and what `means.mean_of` gives.
      overall: the mean over the n of each image, see `means.mean_of`.

    Args:
      found: of `changes`.
      maps_NHW: float (N, H, W), signed contributions to the logit.

    Raises:
      DataError: maps do not have the size of the images, or are not finite.
    """
    check_maps(maps_NHW, found.shape[:3])
    images, _, subsets = found.changes_NTS.shape
    values_NP = np.asarray(maps_NHW, np.float64).reshape(images, -1)
    sums_NTS = np.stack([
        np.stack([values_P[chosen_SR].sum(axis=1) for chosen_SR in pixels(
            values_P.size, found.sizes_T, subsets, found.seed, index)])
        for values_P, index in zip(values_NP, found.indices_N, strict=True)])
    correlations_NT = _correlation(sums_NTS, found.changes_NTS)
    known_NT = np.isfinite(correlations_NT)
    overall_N = np.where(known_NT.any(axis=1), np.where(known_NT, correlations_NT, 0).sum(axis=1)
                         / np.maximum(1, known_NT.sum(axis=1)), np.nan)
    return {'images': images, 'subsets': subsets, 'baseline': found.baseline,
            'rows': [{'n': int(size), 'share': float(size / values_NP.shape[1]),
                      **mean_of(correlations_NT[:, place])}
                     for place, size in enumerate(found.sizes_T)],
            'overall': mean_of(overall_N)}


def pixels(count: int, sizes_T: np.ndarray, subsets: int, seed: int,
           index: int) -> Iterator[np.ndarray]:
    """Yields for each size n random sets of n of an image's `count` pixels, int (subsets, n)."""
    rng = generator(seed, index, 'subsets')
    all_SP = np.tile(np.arange(count), (subsets, 1))
    for size in sizes_T:
        yield rng.permuted(all_SP, axis=1)[:, :size]


def _correlation(a_NTS: np.ndarray, b_NTS: np.ndarray) -> np.ndarray:
    """Returns Pearson's correlation over the last axis; NaN where one of both does not vary."""
    def unit(values_NTS):
        largest_NT1 = np.abs(values_NTS).max(axis=-1, keepdims=True)
        values_NTS = values_NTS - values_NTS.mean(axis=-1, keepdims=True)
        norm_NT1 = np.sqrt(np.square(values_NTS).sum(axis=-1, keepdims=True))
        # Sums of float32 numbers that are equal but for rounding do not vary.
        return values_NTS / np.where(norm_NT1 > 1e-6 * largest_NT1, norm_NT1, np.nan)

    return (unit(a_NTS) * unit(b_NTS)).sum(axis=-1)
