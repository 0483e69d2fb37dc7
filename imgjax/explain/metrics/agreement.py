"""How alike the maps of several methods are: they explain one answer, and often differ.

Source of the overlap: Krishna et al., "The disagreement problem in explainable machine learning",
2022 (https://arxiv.org/abs/2202.01602), feature agreement.
"""

import itertools
from collections.abc import Mapping

import numpy as np
from scipy import stats

from imgjax.errors import ConfigError
from imgjax.explain.metrics.means import mean_of
from imgjax.explain.metrics.order import indices_of, pixel_order
from imgjax.explain.metrics.outputs import check_maps

TOP = 0.1


def measure(maps: Mapping[str, np.ndarray], *, top: float = TOP, seed: int = 0,
            indices_N: np.ndarray | None = None) -> dict:
    """Returns how alike the maps of each pair of methods are.

    The result can be written as JSON:
      images: int; methods: the names; top: as given.
      pairs: a list with a dict per pair: `a` and `b` (names), `correlation` (Spearman's, -1 to 1,
        of `rank_correlation`), and `overlap` (the share of the pixels that are among the most
        important ones of both, of those that are so of one, 0 to 1), each as `means.mean_of`.
      overlap_by_chance: what two random maps have.

    Args:
      maps: name of a method -> its maps, float (N, H, W).
      top: the share of the pixels that are called the most important ones, above 0, at most 1.
      seed: of the order of pixels with equal values.
      indices_N: int (N,), the place of each image in its data set; None takes 0 to N - 1.

    Raises:
      ConfigError: there are fewer than two methods, or `top` is out of its range.
      DataError: maps differ in their shapes, or are not finite.
    """
    if len(maps) < 2 or not 0 < top <= 1:
        raise ConfigError(f'maps: {len(maps)} methods, top: {top}; give two or more methods, and a '
                          'share above 0 and at most 1')
    shape = np.shape(next(iter(maps.values())))
    for maps_NHW in maps.values():
        check_maps(maps_NHW, shape)
    count = max(1, round(top * np.prod(shape[1:])))
    indices_N = indices_of(indices_N, shape[0])
    ranks = {name: _ranks(maps_NHW) for name, maps_NHW in maps.items()}
    # Each method has its own order of equal values: two maps of zeros agree by chance only.
    best = {name: [set(pixel_order(map_HW, seed + place, index)[:count].tolist())
                   for map_HW, index in zip(maps_NHW, indices_N, strict=True)]
            for place, (name, maps_NHW) in enumerate(maps.items())}
    pairs = [{'a': a, 'b': b, 'correlation': mean_of(_correlation(ranks[a], ranks[b])),
              'overlap': mean_of(np.array([len(best_a & best_b) / count for best_a, best_b in zip(
                  best[a], best[b], strict=True)]))}
             for a, b in itertools.combinations(maps, 2)]
    return {'images': shape[0], 'methods': list(maps), 'top': top, 'pairs': pairs,
            'overlap_by_chance': float(count / np.prod(shape[1:]))}


def rank_correlation(a_NHW: np.ndarray, b_NHW: np.ndarray) -> np.ndarray:
    """Returns Spearman's correlation of two maps of each image, float64 (N,), -1 to 1.

    Equal values have the mean of their ranks. A map with one value everywhere has no ranks: its
    correlation is 1 with another such map, and 0 with all others.
    """
    return _correlation(_ranks(a_NHW), _ranks(b_NHW))


def _ranks(maps_NHW: np.ndarray) -> np.ndarray:
    """Returns the ranks as unit vectors with mean 0, float64 (N, P); zeros of a constant map."""
    ranks_NP = stats.rankdata(np.asarray(maps_NHW).reshape(len(maps_NHW), -1), axis=1)
    ranks_NP -= ranks_NP.mean(axis=1, keepdims=True)
    norm_N1 = np.sqrt(np.square(ranks_NP).sum(axis=1, keepdims=True))
    return ranks_NP / np.where(norm_N1 > 0, norm_N1, 1)


def _correlation(a_NP: np.ndarray, b_NP: np.ndarray) -> np.ndarray:
    constant_N = ~a_NP.any(axis=1) & ~b_NP.any(axis=1)
    return np.where(constant_N, 1.0, np.clip((a_NP * b_NP).sum(axis=1), -1, 1))
