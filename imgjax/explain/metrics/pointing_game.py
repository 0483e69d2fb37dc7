"""The pointing game: does the map lie on the object, where its boxes are known?

It tests the model and the map at once: a model that answers by the background points there.

Sources: Zhang et al., "Top-down neural attention by excitation backprop", ECCV 2016
(https://arxiv.org/abs/1608.00507), and for the energy Wang et al., "Score-CAM", CVPR workshops 2020
(https://arxiv.org/abs/1910.01279).
"""

from collections.abc import Sequence

import numpy as np

from imgjax.errors import ConfigError, DataError
from imgjax.evals.intervals import share_of
from imgjax.explain.metrics.means import mean_of
from imgjax.explain.metrics.outputs import check_maps

Box = tuple[float, float, float, float]


def measure(maps_NHW: np.ndarray, boxes_N: Sequence[Sequence[Box]], *,
            tolerance: float = 0.0) -> dict:
    """Returns how often the maximum is in a box, and how much of the map is.

    The result can be written as JSON:
      images: how many have a box.
      hits: `share`, `low`, `high` (of the 95 % Wilson interval), and `per_image`: bool, None
        without a box. If several pixels have the largest value, all must be hits, so that a map
        with one value everywhere misses.
      energy: the sum of the positive values inside the boxes over that of all positive values, 0
        to 1, see `means.mean_of`; a map without positive values has none.
      area: the share of the pixels in boxes, the mean over the images: what both are by chance.
      notes: sentences on what was left out.

    >>> import numpy as np
    >>> from imgjax.explain.metrics import pointing_game
    >>> maps_NHW = np.zeros((2, 8, 8))
    >>> maps_NHW[:, 2, 2] = 1
    >>> found = pointing_game.measure(maps_NHW, [[(0, 0, 4, 4)], [(4, 4, 8, 8)]])
    >>> found['hits']['share'], found['hits']['per_image'], found['area']
    (0.5, [True, False], 0.25)

    Args:
      maps_NHW: float (N, H, W).
      boxes_N: for each image the boxes of the objects of its target, (top, left, bottom, right) in
        pixels of the map from its upper left corner; [] leaves the image out.
      tolerance: a maximum this many pixels beside a box is a hit; the paper takes 15 for images of
        about 400 pixels.

    Raises:
      ConfigError: `tolerance` is below 0.
      DataError: maps are not finite, there are no boxes, or a box has no pixel of the image.
    """
    if tolerance < 0:
        raise ConfigError(f'tolerance: {tolerance}; give 0 or more pixels')
    maps_NHW = np.asarray(maps_NHW, np.float64)
    if maps_NHW.ndim != 3 or len(maps_NHW) != len(boxes_N):
        raise DataError(f'maps_NHW: shape {maps_NHW.shape} for the boxes of {len(boxes_N):,} '
                        'images; give one map and a list of boxes per image')
    check_maps(maps_NHW, maps_NHW.shape)
    hits: list[bool | None] = []
    energy_N, areas = np.full(len(maps_NHW), np.nan), []
    for index, (map_HW, boxes) in enumerate(zip(maps_NHW, boxes_N, strict=True)):
        if not len(boxes):
            hits.append(None)
            continue
        inside_HW, near_HW = (_inside(map_HW.shape, boxes, margin) for margin in (0.0, tolerance))
        if not inside_HW.any():
            raise DataError(f'boxes_N: image {index} has no pixel in its boxes {list(boxes)}; give '
                            f'(top, left, bottom, right) within {map_HW.shape[0]} x '
                            f'{map_HW.shape[1]} pixels')
        hits.append(bool(near_HW[map_HW == map_HW.max()].all()))
        positive_HW = np.maximum(map_HW, 0)
        if positive_HW.any():
            energy_N[index] = positive_HW[inside_HW].sum() / positive_HW.sum()
        areas.append(inside_HW.mean())
    if not areas:
        raise DataError('boxes_N: no image has a box; give boxes for one image or more')
    share, low, high = share_of(np.array([hit for hit in hits if hit is not None]))
    flat = len(areas) - int(np.isfinite(energy_N).sum())
    notes = [f'{count:,} of {len(hits):,} images {why}.' for count, why in (
        (len(hits) - len(areas), 'are left out, without a box'),
        (flat, 'have no energy, as their maps have no positive values')) if count]
    return {'images': len(areas), 'tolerance': tolerance,
            'hits': {'share': share, 'low': low, 'high': high, 'per_image': hits},
            'energy': mean_of(energy_N), 'area': float(np.mean(areas)), 'notes': notes}


def _inside(shape: tuple[int, ...], boxes: Sequence[Box], margin: float) -> np.ndarray:
    """Returns which pixels have their centre in a box, or up to `margin` beside it, bool (H, W)."""
    y_H1, x_1W = (np.arange(shape[0]) + 0.5)[:, None], (np.arange(shape[1]) + 0.5)[None]
    inside_HW = np.zeros(shape, bool)
    for top, left, bottom, right in boxes:
        inside_HW |= ((y_H1 >= top - margin) & (y_H1 <= bottom + margin)
                      & (x_1W >= left - margin) & (x_1W <= right + margin))
    return inside_HW
