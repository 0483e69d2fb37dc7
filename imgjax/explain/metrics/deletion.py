"""Deletion and insertion: the probability of the target while the most important pixels go or come.

Source: Petsiuk, Das and Saenko, "RISE: randomized input sampling for explanation of black-box
models", BMVC 2018 (https://arxiv.org/abs/1806.07421).
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import ndimage

from imgjax.errors import ConfigError
from imgjax.explain.metrics.means import mean_of
from imgjax.explain.metrics.order import indices_of, pixel_order
from imgjax.explain.metrics.outputs import check, outputs

STEPS = 32
BASELINE = 0.0
BLUR = 5.0


def measure(apply_fn: Callable, variables: Any, images_NHWC: np.ndarray, targets_N: np.ndarray,
            maps_NHW: np.ndarray, *, steps: int = STEPS, baseline: float = BASELINE,
            blur: float = BLUR, seed: int = 0, indices_N: np.ndarray | None = None) -> dict:
    """Returns the areas under both curves: small for deletion and large for insertion is good.

    A curve is the softmax probability of the target, over the share of the pixels that were
    changed, from 0 to 1; the area is that of its trapezoids, 0 to 1. A pixel goes or comes with all
    its channels. The result can be written as JSON:
      images, steps: int; `steps` is the number of pixels where there are fewer pixels than steps.
      baseline, blur: as given.
      shares: steps + 1 floats, the shares of the pixels at which the curves are known.
      deletion, insertion: the areas, see `means.mean_of`.
      deletion_curve, insertion_curve: steps + 1 floats, the mean over the images.

    Args:
      apply_fn: (variables, images_NHWC) -> (logits_NK, out), hashable.
      variables: what it takes.
      images_NHWC: float32, as the model takes them.
      targets_N: int (N,), the class of each image.
      maps_NHW: float (N, H, W); the pixels with the largest values are the most important ones.
      steps: in how many steps all pixels are changed; the paper takes 224.
      baseline: what a deleted pixel becomes; 0 is the mean colour.
      blur: insertion begins with the image blurred by a Gaussian with this standard deviation, in
        pixels. It is that of the paper's code, which cuts the Gaussian at 5 pixels, and so blurs
        less.
      seed: of the order of pixels with equal values.
      indices_N: int (N,), the place of each image in its data set; None takes 0 to N - 1.

    Raises:
      ConfigError: `steps` or `blur` is out of its range.
      DataError: the arrays do not fit, or maps are not finite.
    """
    if steps < 1 or not blur > 0:
        raise ConfigError(f'steps: {steps}, blur: {blur}; give 1 or more steps and a blur above 0')
    check(apply_fn, variables, images_NHWC, targets_N, maps_NHW)
    images_NHWC, maps_NHW = np.asarray(images_NHWC, np.float32), np.asarray(maps_NHW)
    pixels = maps_NHW[0].size
    steps = min(steps, pixels)
    counts_T = np.linspace(0, pixels, steps + 1).round().astype(int)

    def versions():
        for image_HWC, map_HW, index in zip(
                images_NHWC, maps_NHW, indices_of(indices_N, len(images_NHWC)), strict=True):
            rank_P = np.empty(pixels, np.int64)
            rank_P[pixel_order(map_HW, seed, index)] = np.arange(pixels)
            changed_THW1 = (rank_P < counts_T[:, None]).reshape(-1, *map_HW.shape, 1)
            blurred_HWC = ndimage.gaussian_filter(image_HWC, (blur, blur, 0), mode='nearest')
            yield np.concatenate([np.where(changed_THW1, np.float32(baseline), image_HWC),
                                  np.where(changed_THW1, image_HWC, blurred_HWC)])

    found_NT = outputs(apply_fn, variables, versions(), targets_N).probabilities_NS
    deletion_NT, insertion_NT = np.split(found_NT.astype(np.float64), 2, axis=1)
    shares_T = counts_T / pixels
    return {'images': len(images_NHWC), 'steps': steps, 'baseline': baseline, 'blur': blur,
            'shares': shares_T.tolist(),
            'deletion': mean_of(np.trapezoid(deletion_NT, shares_T, axis=1)),
            'insertion': mean_of(np.trapezoid(insertion_NT, shares_T, axis=1)),
            'deletion_curve': deletion_NT.mean(axis=0).tolist(),
            'insertion_curve': insertion_NT.mean(axis=0).tolist()}
