"""Conformal prediction sets: for each image a set of classes that rarely misses the label.

The sets are calibrated on n images that the model was not trained on. The set of a new image, drawn
as they were, holds its label with probability at least 1 - alpha, however bad the model is; a bad
model only gives large sets. The probability is over calibration images and new images together: it
does not hold for each class (`by_class=True` does that), nor for each image.

Each method has a score of an image and a class, which is low where the class fits the image. The
set holds all classes whose score is at most a threshold: the ceil((n + 1)(1 - alpha))-th smallest
score that the calibration images have for their labels (Angelopoulos and Bates, 2021,
https://arxiv.org/abs/2107.07511). Without ties the coverage is then at most 1 - alpha + 1/(n + 1).
Below n = 1/alpha - 1 images there is no such score: every set holds all classes.

The score of the class whose probability p has rank r (the largest has rank 1):

- lac: 1 - p. Its sets are the smallest on average (Sadinle et al., 2019,
  https://arxiv.org/abs/1609.00451).
- aps: the sum of the r largest probabilities, minus u p. The size of a set shows how hard its image
  is (Romano et al., 2020, https://arxiv.org/abs/2006.02544).
- raps: that of aps, plus penalty x max(0, r - k_reg), so that no set is very large (Angelopoulos et
  al., 2021, https://arxiv.org/abs/2009.14193; the penalty is their lambda).

u is uniform in [0, 1), one number per image. Without it (`randomised=False`, u = 0) aps and raps
have ties and larger sets. A set may be empty, above all that of lac for an image on which the model
is not sure, and that of a randomised method.
"""

import math

import numpy as np

from imgjax.errors import ConfigError, DataError, first_few, unknown
from imgjax.evals.blocks import blocks
from imgjax.evals.checks import check_probabilities, check_single_labels

METHODS = ('lac', 'aps', 'raps')
PENALTIES = (0.001, 0.01, 0.1, 0.2, 0.5)  # of which raps takes the best; the paper's values
TUNING_PART = 5  # one image of five chooses k_reg and penalty, and does not calibrate
CALIBRATION, PREDICTION, TUNING, HALVES = range(4)  # streams of random numbers of one seed


def scores(method: str, probabilities_NK: np.ndarray, noise_N: np.ndarray | None = None, *,
           k_reg: int = 0, penalty: float = 0.0) -> np.ndarray:
    """Returns the score of each image and class, float64 (N, K); see the module's table.

    Args:
      method: one of METHODS.
      probabilities_NK: float (N, K), each row sums to 1. Of two equal ones the first class ranks
        higher.
      noise_N: float (N,) in [0, 1], the u of each image; None is 0 for all. lac does not read it.
      k_reg: ranks up to this one cost no penalty; only for raps.
      penalty: cost of each rank above k_reg; only for raps.

    Raises:
      ConfigError: there is no such method.
    """
    check_method(method)
    probabilities_NK = np.asarray(probabilities_NK)
    count, classes = probabilities_NK.shape
    noise_N = np.zeros(count) if noise_N is None else noise_N
    score_NK = np.empty((count, classes))
    penalty_K = penalty * np.maximum(np.arange(1, classes + 1) - k_reg, 0)  # by rank
    for rows in blocks(count, classes):
        block_BK = probabilities_NK[rows].astype(np.float64)
        if method == 'lac':
            score_NK[rows] = 1 - block_BK
            continue
        order_BK = np.argsort(-block_BK, axis=1, kind='stable')
        sorted_BK = np.take_along_axis(block_BK, order_BK, axis=1)
        ranked_BK = sorted_BK.cumsum(axis=1) - noise_N[rows, None] * sorted_BK
        if method == 'raps':
            ranked_BK += penalty_K
        np.put_along_axis(score_NK[rows], order_BK, ranked_BK, axis=1)
    return score_NK


def quantile(score_N: np.ndarray, alpha: float) -> float:
    """Returns the ceil((n + 1)(1 - alpha))-th smallest of n scores; infinity if n is smaller."""
    rank = math.ceil(round((len(score_N) + 1) * (1 - alpha), 9))  # 10 * 0.9 is 9, not above it
    return float(np.partition(score_N, rank - 1)[rank - 1]) if rank <= len(score_N) else math.inf


def noise(count: int, seed: int, stream: int) -> np.ndarray:
    """Returns the u of `count` images, float64 (count,) in [0, 1).

    Calibration and prediction have different streams: the guarantee asks for independent numbers.
    """
    return np.random.default_rng((seed, stream)).random(count)


def fit(method: str, probabilities_NK: np.ndarray, labels_N: np.ndarray, alpha: float, *,
        by_class: bool = False, randomised: bool = True, k_reg: int | None = None,
        penalty: float | None = None, seed: int = 0) -> dict:
    """Calibrates a method, and returns what `sets` needs, as a JSON-able dict.

    >>> import numpy as np
    >>> from imgjax.evals import conformal
    >>> of_label_N = np.linspace(0.05, 1, 20)  # the probabilities of the label, class 0
    >>> probabilities_NK = np.stack([of_label_N, 1 - of_label_N], axis=1)
    >>> fitted = conformal.fit('lac', probabilities_NK, np.zeros(20, int), alpha=0.1)
    >>> [round(one, 2) for one in fitted['thresholds']]  # a set has the classes of 0.1 or more
    [0.9]

    Args:
      method: one of METHODS.
      probabilities_NK: float (N, K), the model's, of images that it was not trained on.
      labels_N: int (N,), the true classes.
      alpha: the share of labels that the sets may miss, above 0 and below 1.
      by_class: one threshold per class, from the images of that class alone, so that the guarantee
        holds for each class (Vovk, 2012, https://arxiv.org/abs/1209.2673).
      randomised: whether aps and raps have noise.
      k_reg, penalty: of raps; None chooses it on a fifth of the images, which do not calibrate.
      seed: of the noise, and of the choice of that fifth.

    Returns:
      `method`, `alpha`, `by_class`, `randomised`, `k_reg`, `penalty` (of raps, else 0); `classes`
      (K), `images` (number that calibrated), `tuning_images` (number that chose k_reg and penalty),
      `thresholds` (one float, or one per class if by_class; None where all images get the class),
      and `note` (one line on such thresholds, else '').

    Raises:
      ConfigError: an argument is out of its range.
      DataError: the arrays do not fit, or a class has no image to calibrate its threshold.
    """
    check_arguments(method, alpha, k_reg, penalty)
    probabilities_NK, labels_N = checked(probabilities_NK, labels_N)
    numbers, score_UK, labels_U = calibrating(method, probabilities_NK, labels_N, alpha,
                                              randomised, k_reg, penalty, seed)
    images, classes = score_UK.shape
    absent = np.flatnonzero(np.bincount(labels_U, minlength=classes) == 0)
    if by_class and len(absent):
        raise DataError(f'conformal: class {first_few(absent)} has no image to calibrate its '
                        'threshold; add images of it, or set by_class=False')
    thresholds = thresholds_of(score_UK[np.arange(images), labels_U], labels_U, alpha, classes,
                               by_class)
    return {'method': method, 'alpha': float(alpha), 'by_class': by_class,
            'randomised': randomised and method != 'lac', **numbers, 'classes': classes,
            'images': images, 'tuning_images': len(labels_N) - images,
            'thresholds': [float(one) if math.isfinite(one) else None for one in thresholds],
            'note': _note(thresholds, alpha, by_class)}


def sets(fitted: dict, probabilities_MK: np.ndarray, *, seed: int = 0) -> np.ndarray:
    """Returns which classes are in the set of each image, bool (M, K).

    >>> import numpy as np
    >>> from imgjax.evals import conformal
    >>> of_label_N = np.linspace(0.05, 1, 20)  # the probabilities of the label, class 0
    >>> probabilities_NK = np.stack([of_label_N, 1 - of_label_N], axis=1)
    >>> fitted = conformal.fit('lac', probabilities_NK, np.zeros(20, int), alpha=0.1)
    >>> conformal.sets(fitted, np.array([[0.95, 0.05], [0.6, 0.4]]))
    array([[ True, False],
           [ True,  True]])

    Args:
      fitted: the result of `fit`, also after JSON.
      probabilities_MK: float (M, K), the model's, of the new images.
      seed: of the noise; the images' positions decide which numbers they get, so that each batch
        of images needs a seed of its own.

    Raises:
      ConfigError: the probabilities have another number of classes than `fit` had.
      DataError: they are not probabilities.
    """
    probabilities_MK = np.asarray(probabilities_MK)
    check_probabilities(probabilities_MK, multi_label=False)
    count, classes = probabilities_MK.shape
    if classes != fitted['classes']:
        raise ConfigError(f'conformal: the sets were calibrated for {fitted["classes"]} classes, '
                          f'the model has {classes}; calibrate them with this model')
    thresholds = np.array([math.inf if one is None else one for one in fitted['thresholds']])
    noise_M = noise(count, seed, PREDICTION) if fitted['randomised'] else np.zeros(count)
    return scores(fitted['method'], probabilities_MK, noise_M, k_reg=fitted['k_reg'],
                  penalty=fitted['penalty']) <= thresholds


def choose_numbers(probabilities_NK: np.ndarray, labels_N: np.ndarray, alpha: float,
                   k_reg: int | None = None, penalty: float | None = None) -> tuple[int, float]:
    """Returns k_reg and penalty of raps, those that are None chosen as in the paper.

    k_reg is the 1 - alpha quantile of the labels' ranks; the penalty is that of PENALTIES whose
    sets (u = 0) are the smallest on average. The images must not calibrate afterwards.

    Args:
      probabilities_NK: float (N, K).
      labels_N: int (N,), the true classes.
      alpha: the share of labels that the sets may miss.
      k_reg, penalty: given, or None.
    """
    images = np.arange(len(labels_N))
    if k_reg is None:
        label_p_N1 = probabilities_NK[images, labels_N][:, None]
        rank = quantile((probabilities_NK > label_p_N1).sum(axis=1) + 1, alpha)
        k_reg = int(min(rank, probabilities_NK.shape[1]))
    if penalty is not None:
        return k_reg, penalty
    sizes = []
    for one in PENALTIES:
        score_NK = scores('raps', probabilities_NK, k_reg=k_reg, penalty=one)
        sizes.append((score_NK <= quantile(score_NK[images, labels_N], alpha)).sum())
    return k_reg, PENALTIES[int(np.argmin(sizes))]


def calibrating(method: str, probabilities_NK: np.ndarray, labels_N: np.ndarray, alpha: float,
                randomised: bool, k_reg: int | None, penalty: float | None,
                seed: int) -> tuple[dict, np.ndarray, np.ndarray]:
    """Returns k_reg and penalty as a dict, and of the images that calibrate score_UK, labels_U."""
    count = len(labels_N)
    used = np.arange(count)
    if method != 'raps':
        k_reg, penalty = 0, 0.0
    elif k_reg is None or penalty is None:
        order = np.random.default_rng((seed, TUNING)).permutation(count)
        first = math.ceil(count / TUNING_PART)
        if first == count:
            raise DataError('conformal: one image cannot both choose k_reg and penalty and '
                            'calibrate; give k_reg and penalty, or more images')
        tuning, used = order[:first], np.sort(order[first:])
        k_reg, penalty = choose_numbers(probabilities_NK[tuning], labels_N[tuning], alpha, k_reg,
                                        penalty)
    noise_N = noise(count, seed, CALIBRATION) if randomised else np.zeros(count)
    score_UK = scores(method, probabilities_NK[used], noise_N[used], k_reg=k_reg, penalty=penalty)
    return {'k_reg': int(k_reg), 'penalty': float(penalty)}, score_UK, labels_N[used]


def thresholds_of(true_N: np.ndarray, labels_N: np.ndarray, alpha: float, classes: int,
                  by_class: bool) -> np.ndarray:
    """Returns the threshold, float64 (1,), or those of the classes, (K,), of the labels' scores."""
    if not by_class:
        return np.array([quantile(true_N, alpha)])
    order = np.argsort(labels_N, kind='stable')
    ends = np.cumsum(np.bincount(labels_N, minlength=classes))[:-1]
    return np.array([quantile(part, alpha) for part in np.split(true_N[order], ends)])


def _note(thresholds: np.ndarray, alpha: float, by_class: bool) -> str:
    unbounded = np.flatnonzero(np.isinf(thresholds))
    if not len(unbounded):
        return ''
    least = math.ceil(round(1 / alpha - 1, 9))
    what = (f'class {first_few(unbounded)}: in every set' if by_class else
            'every set holds all classes')
    return f'{what}, as alpha = {alpha:g} needs {least:,} calibration images or more'


def check_method(method: str) -> None:
    """Raises ConfigError if there is no such method."""
    if method not in METHODS:
        raise ConfigError(f'conformal: {unknown("method", method, METHODS)}')


def check_arguments(method: str, alpha: float, k_reg: int | None, penalty: float | None) -> None:
    """Raises ConfigError if an argument of `fit` is out of its range."""
    check_method(method)
    if not 0 < alpha < 1:
        raise ConfigError(f'conformal: alpha: takes a number above 0 and below 1, got {alpha}; 0.1 '
                          'gives sets that hold 90 % of the labels')
    for name, value in (('k_reg', k_reg), ('penalty', penalty)):
        if value is not None and (method != 'raps' or not value >= 0):
            raise ConfigError(f'conformal: {name}: takes 0 or more and only for raps, got {value} '
                              f'for {method}')


def checked(probabilities_NK: np.ndarray,
            labels_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns both as arrays that fit together."""
    probabilities_NK, labels_N = np.asarray(probabilities_NK), np.asarray(labels_N)
    check_probabilities(probabilities_NK, multi_label=False)
    check_single_labels(labels_N, *probabilities_NK.shape)
    return probabilities_NK, labels_N
