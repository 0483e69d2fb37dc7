"""95 % intervals: Wilson's of a share, and what the bootstraps of this package have in common."""

from collections.abc import Iterator

import numpy as np

Z = 1.959963984540054  # the 97.5 % quantile of the normal distribution
ENTRIES = 2**22  # of a block of draws


def wilson(right, count) -> tuple[np.ndarray, np.ndarray]:
    """Returns both ends of Wilson's 95 % interval of each share right / count.

    Wilson, JASA 22:209, 1927 (https://doi.org/10.1080/01621459.1927.10502953). It has a width also
    where the share is 0 or 1.

    >>> import numpy as np
    >>> from imgjax.evals import intervals
    >>> low, high = intervals.wilson(np.array([90, 10]), np.array([100, 10]))
    >>> low.round(2), high.round(2)
    (array([0.83, 0.72]), array([0.94, 1.  ]))

    Args:
      right: an array (or a number) of counts.
      count: an array of the same shape. The ends are NaN where it is 0.
    """
    right, count = np.asarray(right), np.asarray(count)
    with np.errstate(invalid='ignore', divide='ignore'):
        share = right / count
        half = Z * np.sqrt(share * (1 - share) / count + (Z / (2 * count)) ** 2)
        middle, scale = share + Z**2 / (2 * count), 1 + Z**2 / count
        low, high = (middle - half) / scale, (middle + half) / scale
    # Rounding: no right answer gives 0 exactly, and no wrong one 1.
    return (np.where((right == 0) & (count > 0), 0.0, low),
            np.where((right == count) & (count > 0), 1.0, high))


def share_of(right_N: np.ndarray) -> tuple[float, float, float]:
    """Returns the share of True in bool (N,), N >= 1, and the ends of its Wilson interval."""
    right, count = int(right_N.sum()), len(right_N)
    low, high = wilson(right, count)
    return right / count, float(low), float(high)


def percentiles(values_D: np.ndarray) -> tuple[float, float]:
    """Returns the ends of the percentile interval of a bootstrap with D draws.

    Efron and Tibshirani, An Introduction to the Bootstrap, 1993
    (https://doi.org/10.1201/9780429246593).
    """
    low, high = np.percentile(values_D, (2.5, 97.5))
    return float(low), float(high)


def draws(images: int, count: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Yields the draws of a bootstrap in blocks, int64 (N, D): how often each draw has each image.

    A draw takes N of N images, with replacement.

    Args:
      images: N.
      count: the number of all draws, the sum of D over the blocks.
      rng: of the draws.
    """
    size = min(count, max(1, ENTRIES // images))
    for start in range(0, count, size):
        block = min(size, count - start)
        drawn_DN = rng.integers(images, size=(block, images))
        cells_DN = drawn_DN + images * np.arange(block)[:, None]
        yield np.bincount(cells_DN.ravel(), minlength=block * images).reshape(block, images).T
