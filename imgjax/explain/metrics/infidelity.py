"""Infidelity: the squared error of the changes of the logit that a map predicts.

Source: Yeh et al., "On the (in)fidelity and sensitivity of explanations", NeurIPS 2019
(https://arxiv.org/abs/1901.09392), equation 1, with the removal of random squares, and its optimal
scaling: a map is first multiplied by the number that makes the error smallest, as many methods say
nothing on the scale.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from imgjax.errors import ConfigError
from imgjax.explain.metrics.means import mean_of
from imgjax.explain.metrics.order import generator, indices_of
from imgjax.explain.metrics.outputs import check, check_maps, outputs

SQUARES = 100


class Changes(NamedTuple):
    """How the logit falls without squares; no map is needed for it.

    Attributes:
      masks_NSHW: bool, the removed pixels.
      changes_NS: float64, the logit of the target on the image, minus that without the pixels.
      images_NHWC: float32, the images.
      baseline: what the pixels become.
    """

    masks_NSHW: np.ndarray
    changes_NS: np.ndarray
    images_NHWC: np.ndarray
    baseline: float


def changes(apply_fn: Callable, variables: Any, images_NHWC: np.ndarray, targets_N: np.ndarray, *,
            masks_NSHW: np.ndarray | None = None, baseline: float = 0.0, seed: int = 0,
            indices_N: np.ndarray | None = None) -> Changes:
    """Returns how the logit falls without squares, once for the maps of all methods.

    Args:
      apply_fn: (variables, images_NHWC) -> (logits_NK, out), hashable.
      variables: what it takes.
      images_NHWC: float32, as the model takes them.
      targets_N: int (N,), the class of each image.
      masks_NSHW: bool, the pixels that are removed; None takes 100 random `squares` per image.
      baseline: what the pixels become; 0 is the mean colour.
      seed: of the squares.
      indices_N: int (N,), the place of each image in its data set; None takes 0 to N - 1.

    Raises:
      ConfigError: the masks do not have the size of the images.
      DataError: the arrays do not fit.
    """
    check(apply_fn, variables, images_NHWC, targets_N)
    images_NHWC = np.asarray(images_NHWC, np.float32)
    shape = images_NHWC.shape[:3]
    if masks_NSHW is None:
        masks_NSHW = np.stack([squares(shape[1], shape[2], SQUARES, seed, index)
                               for index in indices_of(indices_N, len(images_NHWC))])
    if masks_NSHW.ndim != 4 or (len(masks_NSHW), *masks_NSHW.shape[2:]) != shape:
        raise ConfigError(f'masks_NSHW: shape {masks_NSHW.shape} for images of {shape[1]} x '
                          f'{shape[2]} pixels; give masks of this size for each of {shape[0]:,}')

    def versions():
        for image_HWC, masks_SHW in zip(images_NHWC, masks_NSHW, strict=True):
            yield np.concatenate([image_HWC[None], np.where(
                masks_SHW[..., None], np.float32(baseline), image_HWC)])

    logits_NS = outputs(apply_fn, variables, versions(), targets_N).logits_NS.astype(np.float64)
    return Changes(masks_NSHW, logits_NS[:, :1] - logits_NS[:, 1:], images_NHWC, baseline)


def measure(found: Changes, maps: np.ndarray, *, multiplied: bool = True) -> dict:
    """Returns the mean squared error of the changes that a map predicts, in squared logits.

    A map predicts the sum of its values over the removed pixels (`multiplied`), or the sum of its
    values times the change of the image there, which is the equation of the paper for gradients.
    The result can be written as JSON:
      images, squares, baseline: how many images and squares, and what the pixels become.
      infidelity: of the map as it is, 0 or above, see `means.mean_of`; small is good.
      scaled: after the optimal scaling of each image's map. A map of zeros has the mean squared
        change itself, which is the largest value.
      share: `scaled` over the mean squared change, 0 to 1: the share that the map does not tell. It
        has no value where the logit never changes.

    Args:
      found: of `changes`.
      maps: float (N, H, W) or (N, H, W, C), signed.
      multiplied: whether the map has contributions, as input x gradient, integrated gradients,
        occlusion and SHAP have, or derivatives, as a gradient with its sign has.

    Raises:
      DataError: maps do not have the size of the images, or are not finite.
    """
    check_maps(maps, found.images_NHWC.shape)
    maps = np.asarray(maps, np.float64)
    if multiplied:
        map_NHW = maps if maps.ndim == 3 else maps.sum(axis=3)
    else:
        removed_NHWC = found.images_NHWC.astype(np.float64) - found.baseline
        map_NHW = ((maps if maps.ndim == 4 else maps[..., None]) * removed_NHWC).sum(axis=3)
    predicted_NS = np.stack([masks_SHW.reshape(len(masks_SHW), -1) @ map_HW.ravel()
                             for masks_SHW, map_HW in zip(found.masks_NSHW, map_NHW, strict=True)])
    changes_NS = found.changes_NS
    square_N = np.square(predicted_NS).mean(axis=1)
    factor_N = np.where(square_N > 0, (predicted_NS * changes_NS).mean(axis=1)
                        / np.where(square_N > 0, square_N, 1), 0)
    scaled_N = np.square(factor_N[:, None] * predicted_NS - changes_NS).mean(axis=1)
    change_N = np.square(changes_NS).mean(axis=1)
    return {'images': len(maps), 'squares': changes_NS.shape[1], 'baseline': found.baseline,
            'infidelity': mean_of(np.square(predicted_NS - changes_NS).mean(axis=1)),
            'scaled': mean_of(scaled_N),
            'share': mean_of(scaled_N / np.where(change_N > 0, change_N, np.nan))}


def squares(height: int, width: int, count: int, seed: int, index: int) -> np.ndarray:
    """Returns random squares of an image, bool (count, height, width), True inside.

    The side is uniform from one pixel to half of the shorter side of the image, and each place
    where the square lies within the image is as likely.
    """
    rng = generator(seed, index, 'squares')
    side_S = rng.integers(1, max(1, min(height, width) // 2) + 1, size=count)
    top_S, left_S = rng.integers(0, height - side_S + 1), rng.integers(0, width - side_S + 1)
    rows_SH = _between(top_S, side_S, height)
    return rows_SH[:, :, None] & _between(left_S, side_S, width)[:, None, :]


def _between(first_S: np.ndarray, side_S: np.ndarray, length: int) -> np.ndarray:
    place_L = np.arange(length)
    return (place_L >= first_S[:, None]) & (place_L < (first_S + side_S)[:, None])
