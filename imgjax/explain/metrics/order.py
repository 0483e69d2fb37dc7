"""The order of the pixels of a map, and random numbers of an image."""

import zlib

import numpy as np


def generator(seed: int, index: int, use: str) -> np.random.Generator:
    """Returns the random numbers of an image, which do not depend on the other images.

    Args:
      seed: 0 or above.
      index: the place of the image in its data set.
      use: what they are for; numbers for two uses are independent.
    """
    return np.random.default_rng([seed, int(index), zlib.crc32(use.encode())])


def pixel_order(map_HW: np.ndarray, seed: int, index: int) -> np.ndarray:
    """Returns the pixels of a map, the largest value first, as flat indices, int64 (H * W,).

    Equal values are in random order. A map that is 0 on most of the image, as maps behind a ReLU
    are, would else be read there from the top to the bottom.

    Args:
      map_HW: float (H, W).
      seed: of the random order.
      index: the place of the image in its data set.
    """
    values_P = np.asarray(map_HW, np.float64).ravel()
    ties_P = generator(seed, index, 'ties').random(values_P.size)
    return np.lexsort((ties_P, -values_P))


def indices_of(indices_N: np.ndarray | None, images: int) -> np.ndarray:
    """Returns the places of the images in their data set: those given, or 0 to N - 1."""
    return np.arange(images) if indices_N is None else np.asarray(indices_N)
