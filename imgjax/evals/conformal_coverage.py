"""How well conformal prediction sets work on a set of images: coverage, and size of the sets.

conformal.py says what the sets are. Here the images are split in random halves many times: one half
calibrates, and the sets of the other half are measured.
"""

import math

import numpy as np

from imgjax.errors import ConfigError, DataError
from imgjax.evals import conformal

SIZES = (0, 2, 4, 11, 101)  # the smallest size of each stratum of sizes
LEAST_SHARE = 0.01  # a stratum with a smaller share of the images is too small to judge
LEAST_IMAGES = 20  # for random halves
COMPARED = 4e9  # scores compared in all splits together, which takes some ten seconds


def measure(probabilities_NK: np.ndarray, labels_N: np.ndarray, *, alpha: float = 0.1,
            splits: int = 1_000, seed: int = 0) -> dict:
    """Measures and calibrates lac, aps and raps, and lac with one threshold per class.

    Args:
      probabilities_NK, labels_N, alpha, seed: as those of `conformal.fit`.
      splits: number of random halves.

    Returns:
      `alpha`, `images` (N), `classes` (K), `methods` (the result of `coverage_over_splits` of
      'lac', 'aps', 'raps' and 'lac_by_class'), `fits` (the result of `conformal.fit` on all images,
      under the same names) and `left_out` (why a name is missing in both, one line per name).

    Raises:
      ConfigError, DataError: as those of `coverage_over_splits`.
    """
    methods, fits, left_out = {}, {}, {}
    for name in (*conformal.METHODS, 'lac_by_class'):
        method, by_class = name.removesuffix('_by_class'), name.endswith('_by_class')
        if by_class and len(np.unique(labels_N)) < np.shape(probabilities_NK)[1]:
            left_out[name] = 'a class has no image to calibrate its threshold'
            continue
        methods[name] = coverage_over_splits(method, probabilities_NK, labels_N, alpha=alpha,
                                             splits=splits, by_class=by_class, seed=seed)
        fits[name] = conformal.fit(method, probabilities_NK, labels_N, alpha, by_class=by_class,
                                   seed=seed)
    return {'alpha': float(alpha), 'images': len(labels_N),
            'classes': int(np.shape(probabilities_NK)[1]), 'methods': methods, 'fits': fits,
            'left_out': left_out}


def coverage_over_splits(method: str, probabilities_NK: np.ndarray, labels_N: np.ndarray, *,
                         alpha: float = 0.1, splits: int = 1_000, by_class: bool = False,
                         randomised: bool = True, k_reg: int | None = None,
                         penalty: float | None = None, seed: int = 0) -> dict:
    """Calibrates on random halves of the images, and measures the sets of the other halves.

    Args: as those of `conformal.fit`, and
      splits: number of random halves; fewer where the images and classes are so many that it
        would take minutes.

    Returns:
      `coverage` and `coverage_sd` (mean and standard deviation over the splits; the latter None for
      one split), `size` (mean set size), `empty` and `singletons` (shares of the sets with no and
      with one class), `coverage_by_class` (K floats; None for a class without images),
      `worst_class` (dict of `class`, `coverage`, `images`), `by_size` (one dict per stratum of set
      sizes: `low`, `high`, `share` of the images, `coverage`), `size_violation` (the largest
      `|coverage - (1 - alpha)|` of a stratum with at least 1 % of the images: the size-stratified
      coverage violation of Angelopoulos et al., 2021), `splits`, and
      `calibration_images` (per split).

    Raises:
      ConfigError: an argument is out of its range.
      DataError: the arrays do not fit, or there are fewer than 20 images.
    """
    conformal.check_arguments(method, alpha, k_reg, penalty)
    if splits < 1:
        raise ConfigError(f'conformal: splits: takes 1 or more, got {splits}')
    probabilities_NK, labels_N = conformal.checked(probabilities_NK, labels_N)
    if len(labels_N) < LEAST_IMAGES:
        raise DataError(f'conformal: {len(labels_N)} images are too few for random halves; give '
                        f'{LEAST_IMAGES} or more')
    _, score_UK, labels_U = conformal.calibrating(
        method, probabilities_NK, labels_N, alpha, randomised, k_reg, penalty, seed)
    count, classes = score_UK.shape
    true_U = score_UK[np.arange(count), labels_U]
    splits, half = min(splits, max(10, int(COMPARED / score_UK.size))), count // 2
    rng = np.random.default_rng((seed, conformal.HALVES))
    coverages = []
    tested_K, covered_K = np.zeros(classes, int), np.zeros(classes, int)  # by class
    tested_Z, covered_Z = np.zeros(classes + 1, int), np.zeros(classes + 1, int)  # by set size
    for _ in range(splits):
        order = rng.permutation(count)
        known, test = order[:half], order[half:]
        thresholds = conformal.thresholds_of(true_U[known], labels_U[known], alpha, classes,
                                             by_class)
        labels_T = labels_U[test]
        covered_T = true_U[test] <= (thresholds[labels_T] if by_class else thresholds[0])
        size_T = np.count_nonzero(score_UK[test] <= thresholds, axis=1)
        coverages.append(covered_T.mean())
        tested_K += np.bincount(labels_T, minlength=classes)
        covered_K += np.bincount(labels_T[covered_T], minlength=classes)
        tested_Z += np.bincount(size_T, minlength=classes + 1)
        covered_Z += np.bincount(size_T[covered_T], minlength=classes + 1)
    return {'coverage': float(np.mean(coverages)),
            'coverage_sd': float(np.std(coverages, ddof=1)) if splits > 1 else None,
            **_of_classes(tested_K, covered_K, labels_U), **_of_sizes(tested_Z, covered_Z, alpha),
            'splits': splits, 'calibration_images': half}


def _of_classes(tested_K: np.ndarray, covered_K: np.ndarray, labels_U: np.ndarray) -> dict:
    """Returns the figures by class, from the test images of all splits together."""
    shares = [float(covered / tested) if tested else None
              for covered, tested in zip(covered_K, tested_K, strict=True)]
    # A class of a few images is missed by chance; it is named only where all classes are so small.
    images_K = np.bincount(labels_U, minlength=len(shares))
    enough = min(LEAST_IMAGES, int(images_K.max()))
    worst = min((share, k) for k, share in enumerate(shares)
                if share is not None and images_K[k] >= enough)[1]
    return {'coverage_by_class': shares,
            'worst_class': {'class': worst, 'coverage': shares[worst],
                            'images': int(images_K[worst])}}


def _of_sizes(tested_Z: np.ndarray, covered_Z: np.ndarray, alpha: float) -> dict:
    """Returns the figures by set size, from the test images of all splits together."""
    total, most = tested_Z.sum(), len(tested_Z) - 1
    strata = []
    for low, after in zip(SIZES, (*SIZES[1:], math.inf), strict=True):
        high = int(min(after - 1, most))
        tested = tested_Z[low:high + 1].sum() if low <= high else 0
        if tested:
            strata.append({'low': low, 'high': high, 'share': float(tested / total),
                           'coverage': float(covered_Z[low:high + 1].sum() / tested)})
    return {'size': float(tested_Z @ np.arange(most + 1) / total),
            'empty': float(tested_Z[0] / total), 'singletons': float(tested_Z[1] / total),
            'by_size': strata,
            'size_violation': max(abs(one['coverage'] - (1 - alpha)) for one in strata
                                  if one['share'] >= LEAST_SHARE)}
