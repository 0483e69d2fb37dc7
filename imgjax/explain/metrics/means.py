"""The mean over images of a number per image, with its 95 % interval."""

import numpy as np

from imgjax.evals import intervals

RESAMPLES = 2_000


def mean_of(values_N: np.ndarray) -> dict:
    """Returns the mean of a number per image and its percentile bootstrap interval.

    The draws of the bootstrap are the same in each call.

    Args:
      values_N: float (N,); NaN where an image has no such number.

    Returns:
      mean: over the images that have the number; None if none has.
      low, high: the ends of the 95 % interval of the mean; None for fewer than two such images.
      left_out: how many images have no such number.
      per_image: N floats, None where an image has no number.
    """
    values_N = np.asarray(values_N, np.float64)
    there_N = np.isfinite(values_N)
    kept = values_N[there_N]
    low, high = interval(kept)
    return {'mean': float(kept.mean()) if len(kept) else None, 'low': low, 'high': high,
            'left_out': int(len(values_N) - len(kept)),
            'per_image': [float(value) if there else None
                          for value, there in zip(values_N, there_N, strict=True)]}


def interval(values_N: np.ndarray) -> tuple[float | None, float | None]:
    """Returns the ends of the bootstrap interval of the mean, None for fewer than two images."""
    count = len(values_N)
    if count < 2:
        return None, None
    rng = np.random.default_rng(0)
    means_D = np.concatenate([values_N @ counts_ND / count
                              for counts_ND in intervals.draws(count, RESAMPLES, rng)])
    return intervals.percentiles(means_D)
