"""ROAD: remove pixels in the order of a map, and impute them by their neighbours.

A pixel that is painted grey makes an edge that the model may react to, and its shape tells where
the pixels were. ROAD puts in the place of the removed pixels what their neighbours let expect.

Source: Rong et al., "A consistent and efficient evaluation strategy for attribution methods", ICML
2022 (https://arxiv.org/abs/2202.00449), noisy linear imputation.
"""

import functools
from collections.abc import Callable, Sequence
from concurrent import futures
from typing import Any

import numpy as np
from scipy import sparse
from scipy.sparse import linalg

from imgjax.errors import ConfigError
from imgjax.evals.intervals import share_of
from imgjax.explain.metrics.means import mean_of
from imgjax.explain.metrics.order import generator, indices_of, pixel_order
from imgjax.explain.metrics.outputs import check, outputs

SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
NOISE = 0.01
# A removed pixel is the mean of its neighbours, of which those at a corner count half.
NEIGHBORS = tuple(((i, j), 1 / 6 if 0 in (i, j) else 1 / 12)
                  for i in (-1, 0, 1) for j in (-1, 0, 1) if (i, j) != (0, 0))


def measure(apply_fn: Callable, variables: Any, images_NHWC: np.ndarray, targets_N: np.ndarray,
            maps_NHW: np.ndarray, *, shares: Sequence[float] = SHARES, noise: float = NOISE,
            seed: int = 0, indices_N: np.ndarray | None = None) -> dict:
    """Returns how the answer falls when the most, and when the least important pixels are removed.

    The result can be written as JSON:
      images: int; noise: as given.
      rows: a list with a dict per share: `share`, and for both orders, `morf` (the most relevant
        first) and `lerf` (the least relevant first), the share of the images whose answer is still
        the target with the ends of its 95 % Wilson interval: `morf`, `morf_low`, `morf_high`,
        `lerf`, ...; and the mean softmax probability of the target: `morf_probability`,
        `lerf_probability`.
      gap: the probability with the least relevant pixels removed, minus that with the most relevant
        pixels removed, as the mean over the shares; see `means.mean_of`. -1 to 1, large is good,
        and 0 is expected of a random map.

    Args:
      apply_fn: (variables, images_NHWC) -> (logits_NK, out), hashable.
      variables: what it takes.
      images_NHWC: float32, as the model takes them.
      targets_N: int (N,), the class of each image.
      maps_NHW: float (N, H, W); the pixels with the largest values are the most relevant ones.
      shares: of the pixels that are removed, each above 0 and below 1.
      noise: the standard deviation of the noise on imputed pixels, in the units of the images.
      seed: of the noise, and of the order of pixels with equal values.
      indices_N: int (N,), the place of each image in its data set; None takes 0 to N - 1.

    Raises:
      ConfigError: `shares` or `noise` is out of its range.
      DataError: the arrays do not fit, or maps are not finite.
    """
    if not len(shares) or not all(0 < share < 1 for share in shares) or noise < 0:
        raise ConfigError(f'shares: {list(shares)}, noise: {noise}; give shares above 0 and below '
                          '1, and noise of 0 or more')
    check(apply_fn, variables, images_NHWC, targets_N, maps_NHW)
    images_NHWC, maps_NHW = np.asarray(images_NHWC, np.float32), np.asarray(maps_NHW)
    counts = [int(share * maps_NHW[0].size) for share in shares]

    def versions():
        for image_HWC, map_HW, index in zip(
                images_NHWC, maps_NHW, indices_of(indices_N, len(images_NHWC)), strict=True):
            order_P = pixel_order(map_HW, seed, index)
            noise_HWC = noise * generator(seed, index, 'road').normal(size=image_HWC.shape)
            yield np.stack(list(pool.map(
                lambda removed_R, image=image_HWC, noise=noise_HWC: impute(image, removed_R, noise),
                [removed_P[:count] for removed_P in (order_P, order_P[::-1])
                 for count in counts])))

    with futures.ThreadPoolExecutor() as pool:  # the solver lets other threads run
        found = outputs(apply_fn, variables, versions(), targets_N)
    right_NS = found.answers_NS == np.asarray(targets_N)[:, None]
    rows: list[dict] = []
    for place, share in enumerate(shares):
        row: dict = {'share': share}
        for order, column in (('morf', place), ('lerf', place + len(shares))):
            row[order], row[f'{order}_low'], row[f'{order}_high'] = share_of(right_NS[:, column])
            row[f'{order}_probability'] = float(found.probabilities_NS[:, column].mean())
        rows.append(row)
    morf_NT, lerf_NT = np.split(found.probabilities_NS.astype(np.float64), 2, axis=1)
    return {'images': len(images_NHWC), 'noise': noise, 'rows': rows,
            'gap': mean_of((lerf_NT - morf_NT).mean(axis=1))}


def impute(image_HWC: np.ndarray, removed_R: np.ndarray, noise_HWC: np.ndarray) -> np.ndarray:
    """Returns an image whose removed pixels are the weighted means of their eight neighbours.

    Neighbours that are removed, too, make a sparse system of linear equations, which takes half a
    second for most of an image of 224 x 224 pixels. Neighbours beyond the edge do not count.

    Args:
      image_HWC: float32.
      removed_R: int, flat indices of the removed pixels, not all of the image.
      noise_HWC: what is added to the removed pixels.
    """
    height, width, channels = image_HWC.shape
    removed_R = np.asarray(removed_R)
    removed_R = removed_R[np.argsort(_places(height, width)[removed_R])]
    pixels_PC = image_HWC.reshape(-1, channels).astype(np.float64)
    unknown_P = np.full(height * width, -1)
    unknown_P[removed_R] = np.arange(len(removed_R))
    weights_R, known_RC = np.zeros(len(removed_R)), np.zeros((len(removed_R), channels))
    entries, rows, columns = [], [], []
    for (down, right), weight in NEIGHBORS:
        y_R, x_R = removed_R // width + down, removed_R % width + right
        here = np.flatnonzero((y_R >= 0) & (y_R < height) & (x_R >= 0) & (x_R < width))
        neighbor = y_R[here] * width + x_R[here]
        weights_R[here] += weight
        is_known = unknown_P[neighbor] < 0
        known_RC[here[is_known]] += weight * pixels_PC[neighbor[is_known]]
        rows.append(here[~is_known])
        columns.append(unknown_P[neighbor[~is_known]])
        entries.append(np.full(len(rows[-1]), -weight))
    matrix_RR = sparse.csc_matrix(
        (np.concatenate([*entries, weights_R]),
         (np.concatenate([*rows, np.arange(len(removed_R))]),
          np.concatenate([*columns, np.arange(len(removed_R))]))), shape=(len(removed_R),) * 2)
    if len(removed_R):
        # The matrix is symmetric and positive: no pivots are needed, and the order may stay.
        solved_RC = linalg.splu(matrix_RR, permc_spec='NATURAL', diag_pivot_thresh=0.0,
                                options={'SymmetricMode': True}).solve(known_RC)
        pixels_PC[removed_R] = solved_RC + noise_HWC.reshape(-1, channels)[removed_R]
    return pixels_PC.reshape(image_HWC.shape).astype(np.float32)


@functools.lru_cache(maxsize=4)
def _places(height: int, width: int) -> np.ndarray:
    """Returns the place of each pixel in the order of elimination, int64 (H * W,).

    It is nested dissection: both halves of the image come before the line between them, which keeps
    the factors of the matrix sparse (George, 1973, https://doi.org/10.1137/0710032).
    """
    def dissected(pixels_HW):
        if pixels_HW.size <= 16:
            return [pixels_HW.ravel()]
        if pixels_HW.shape[0] < pixels_HW.shape[1]:
            pixels_HW = pixels_HW.T
        middle = len(pixels_HW) // 2
        return [*dissected(pixels_HW[:middle]), *dissected(pixels_HW[middle + 1:]),
                pixels_HW[middle]]

    order_P = np.concatenate(dissected(np.arange(height * width).reshape(height, width)))
    places_P = np.empty(height * width, np.int64)
    places_P[order_P] = np.arange(height * width)
    return places_P
