"""Calibration of a classifier: scores of its probabilities, and tables of reliability.

An answer has a confidence (its probability, 0 to 1) and is right or wrong. Where each image has one
label, it has one answer: the class of highest probability, by softmax. Where images have several
labels, it has one answer per class: whether the class is there, by the sigmoid of its logit, with
confidence max(p, 1 - p). The fits that improve the probabilities are in recalibration.py.

Everywhere `logits_NK` are float (N, K), and `labels` are int (N,), each 0 to K - 1, or float (N, K)
of 0 and 1 for images with several labels.
"""

import numpy as np
import scipy.fft
import scipy.sparse

from imgjax.errors import ConfigError, DataError
from imgjax.evals import recalibration
from imgjax.evals.answers import nll, probabilities
from imgjax.evals.checks import check_answers
from imgjax.evals.intervals import draws, percentiles, wilson

BINS = 15  # as in Guo et al. 2017
BINNINGS = ('width', 'mass')
DRAWS = 500  # of a bootstrap
LEAST_IMAGES = 4  # two in each half
CLASSES = 64  # whose sums are in memory together


def measure(logits_NK: np.ndarray, labels: np.ndarray, *, bins: int = BINS, seed: int = 0) -> dict:
    """Measures how well the probabilities fit the labels, and which fit improves them.

    The fits are compared by cross-fitting: each is fitted on one half of the images and gives the
    probabilities of the other half. The halves have about equally many images of each class (of
    each combination of labels).

    Args:
      logits_NK: the model's logits.
      labels: the true labels.
      bins: the number of bins of every binned score.
      seed: of the halves and of the bootstrap.

    Returns:
      images, classes, bins, seed: int.
      multi_label: whether images have several labels.
      accuracy, confidence: the mean over all answers.
      scores: for each score (see `scores`) a dict of value, low and high: the 95 % interval by
        percentiles of a bootstrap over images, with the bins and the bandwidth of all images. A
        calibration error of drawn images is larger on average, as noise never reduces it: its
        interval may lie above its value.
      reliability: for 'width' and for 'mass' the rows of `reliability`.
      methods: for each method the scores of its cross-fitted probabilities ('none': of the raw
        ones).
      chosen: the method of lowest cross-fitted nll; 'none' unless another one is lower.
      left_out: why some methods are left out, a sentence; None if none is.
      fits: for each method its fit on all images, which `recalibration.apply` takes.

    Raises:
      ConfigError: `bins` is below 1.
      DataError: the arrays do not fit together, logits are not finite, a label is no class, or
        there are fewer than four images.
    """
    logits_NK, labels = recalibration.checked(logits_NK, labels)
    _check_bins(bins)
    if len(labels) < LEAST_IMAGES:
        raise DataError(f'calibration: {len(labels)} images are too few, as two halves are '
                        f'compared; give at least {LEAST_IMAGES}')
    in_first_N = recalibration.first_half(labels, seed)
    methods, left_out = dict(recalibration.FITS), recalibration.too_few(
        logits_NK, labels, in_first_N)
    if left_out:
        methods = {name: methods[name] for name in ('none', 'temperature')}
    confidences_NA, correct_NA = answers(probabilities(logits_NK, labels.ndim == 2), labels)
    if correct_NA.all():  # the best temperature would be 0, and every answer certain
        methods, left_out = {'none': methods['none']}, (
            'All answers are right, so that nothing says how sure the model may be: no fit is '
            'made.')
    crossed = {name: scores(recalibration.cross_fitted(fit, logits_NK, labels, in_first_N), labels,
                            bins=bins) for name, fit in methods.items()}
    return {
        'images': len(labels), 'classes': logits_NK.shape[1], 'multi_label': labels.ndim == 2,
        'bins': bins, 'seed': seed, 'accuracy': float(correct_NA.mean()),
        'confidence': float(confidences_NA.mean()),
        'scores': _intervals(logits_NK, labels, bins, seed),
        'reliability': {binning: reliability(confidences_NA.ravel(), correct_NA.ravel(), bins,
                                             binning) for binning in BINNINGS},
        'methods': crossed, 'chosen': min(crossed, key=lambda name: crossed[name]['nll']),
        'left_out': left_out, 'fits': {name: fit(logits_NK, labels)
                                       for name, fit in methods.items()}}


def scores(logits_NK: np.ndarray, labels: np.ndarray, *, bins: int = BINS) -> dict[str, float]:
    """Returns the scores of the probabilities, all but `gap` better if lower.

    Each score is 0 or more, and `gap` is between -1 and 1:
      nll: the negative log-likelihood in nats, mean over the images (over all N * K answers where
        images have several labels). It is computed from the logits: no probability is clipped.
      brier: the mean over the images of the squared error, summed over the classes (0 to 2; twice
        the binary score for K = 2); with several labels the mean over all answers (0 to 1).
      ece, ece_mass: see `ece`, with bins of equal width and of equal mass.
      classwise_ece: the mean over the classes of the error of (p_k, whether k is a label) with bins
        of equal width: Kull et al. 2019 (https://arxiv.org/abs/1910.12656).
      smooth_ece: see `smooth_ece`.
      gap: mean confidence minus accuracy; positive for an over-confident model.

    >>> import numpy as np
    >>> from imgjax.evals import calibration
    >>> logits_NK = 4.0 * np.eye(2)[[0, 0, 1, 1]]  # sure of each answer
    >>> found = calibration.scores(logits_NK, np.array([0, 1, 1, 1]))  # and one of four is wrong
    >>> round(found['ece'], 2), round(found['gap'], 2), round(found['nll'], 2)
    (0.23, 0.23, 1.02)
    """
    logits_NK, labels = recalibration.checked(logits_NK, labels)
    _check_bins(bins)
    found = _scores(logits_NK, labels, bins, np.ones((len(labels), 1)))
    return {name: float(value_D[0]) for name, value_D in found.items()}


def answers(probabilities_NK: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns (confidences_NA, correct_NA), float and bool (N, A), of the A answers per image.

    A is 1 where each image has one label and K where it has several.
    """
    if labels.ndim == 2:
        return (np.maximum(probabilities_NK, 1 - probabilities_NK),
                (probabilities_NK >= 0.5) == (labels > 0))
    return probabilities_NK.max(1)[:, None], (probabilities_NK.argmax(1) == labels)[:, None]


def reliability(confidences_N: np.ndarray, correct_N: np.ndarray, bins: int = BINS,
                binning: str = 'width') -> list[dict]:
    """Returns the rows of a table of reliability, one per bin.

    Args:
      confidences_N: float (N,), 0 to 1.
      correct_N: bool (N,), or 0 and 1.
      bins: the number of bins.
      binning: 'width' for bins of equal width, 'mass' for quantiles of the confidences. Equal
        confidences share a bin, so that there may be fewer bins of equal mass.

    Returns:
      A dict per bin: low and high (the bin is [low, high), the last one [low, 1]), count,
      confidence and accuracy (means), and accuracy_low and accuracy_high (Wilson's 95 %
      interval). All but the first three are None in an empty bin.
    """
    confidences_N, correct_N = _checked_answers(confidences_N, correct_N)
    edges = _edges(confidences_N, bins, binning)
    bin_N = _bin_of(confidences_N, edges)
    count_B, confidence_B, right_B = (
        np.bincount(bin_N, weight_N, len(edges) - 1)
        for weight_N in (None, confidences_N, correct_N))
    filled = np.maximum(count_B, 1)
    low_B, high_B = wilson(right_B, filled)
    columns = confidence_B / filled, right_B / filled, low_B, high_B
    names = 'confidence', 'accuracy', 'accuracy_low', 'accuracy_high'
    return [
        {'low': float(edges[i]), 'high': float(edges[i + 1]), 'count': int(count)}
        | {name: float(column_B[i]) if count else None
           for name, column_B in zip(names, columns, strict=True)}
        for i, count in enumerate(count_B)]


def ece(confidences_N: np.ndarray, correct_N: np.ndarray, bins: int = BINS,
        binning: str = 'width') -> float:
    """Returns the expected calibration error: the mean of `|confidence - accuracy|` over the bins.

    Each bin counts by its answers: Guo et al. 2017 (https://arxiv.org/abs/1706.04599);
    bins of equal mass are those of Nguyen and O'Connor 2015 (https://arxiv.org/abs/1508.05154). A
    confidence of 1 is in the last bin. The arguments are those of `reliability`.

    >>> import numpy as np
    >>> from imgjax.evals import calibration
    >>> round(calibration.ece(np.array([0.9, 0.9, 0.9, 0.9]), np.array([1, 1, 0, 0])), 2)
    0.4
    """
    confidences_N, correct_N = _checked_answers(confidences_N, correct_N)
    edges = _edges(confidences_N, bins, binning)
    ones_N1 = np.ones((len(correct_N), 1))
    return float(_ece(confidences_N[:, None], correct_N[:, None], edges, ones_N1)[0])


def smooth_ece(confidences_N: np.ndarray, correct_N: np.ndarray) -> float:
    """Returns the smooth calibration error of Blasiok and Nakkiran 2023, which has no bins.

    The residuals (confidence - right) are smoothed by a Gaussian that is reflected at 0 and 1, and
    the absolute value is integrated. The bandwidth is the one that is equal to the error itself:
    https://arxiv.org/abs/2309.12236, found to 1 / 1024. The authors' package `relplot`
    gives the same to 1e-6 where no confidence is within 0.001 of 0 or 1 (it counts such answers by
    as little as a half) and the error is below 0.1 (it cuts the kernel at a distance of 0.5).
    """
    confidences_N, correct_N = _checked_answers(confidences_N, correct_N)
    columns = confidences_N[:, None], correct_N[:, None]
    return float(_smooth_ece(*columns, _bandwidth(*columns), np.ones((len(correct_N), 1)))[0])


def _intervals(logits_NK: np.ndarray, labels: np.ndarray, bins: int, seed: int) -> dict:
    """Returns for each score its value, and low and high of the bootstrap."""
    rng = np.random.default_rng([seed, 1])  # not the numbers of the halves
    drawn = [_scores(logits_NK, labels, bins, counts_ND.astype(np.float64))
             for counts_ND in draws(len(labels), DRAWS, rng)]
    found = {}
    for name, value in scores(logits_NK, labels, bins=bins).items():
        low, high = percentiles(np.concatenate([block[name] for block in drawn]))
        found[name] = {'value': value, 'low': low, 'high': high}
    return found


def _scores(logits_NK: np.ndarray, labels: np.ndarray, bins: int,
            counts_ND: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the scores, float64 (D,), of draws that have each image counts_ND times."""
    images, probabilities_NK = len(labels), probabilities(logits_NK, labels.ndim == 2)
    confidences_NA, correct_NA = answers(probabilities_NK, labels)
    if labels.ndim == 2:
        nll_N = nll(logits_NK, labels) / labels.shape[1]
        brier_N = np.square(probabilities_NK - labels).mean(1)
    else:
        nll_N, of_label = nll(logits_NK, labels), (np.arange(images), labels)
        # sum_k (p_k - y_k)^2, without a second array (N, K)
        brier_N = np.square(probabilities_NK).sum(1) + 1 - 2 * probabilities_NK[of_label]
    gap_N = (confidences_NA - correct_NA).mean(1)
    edges = {binning: _edges(confidences_NA.ravel(), bins, binning) for binning in BINNINGS}
    return {
        'nll': nll_N @ counts_ND / images, 'brier': brier_N @ counts_ND / images,
        'ece': _ece(confidences_NA, correct_NA, edges['width'], counts_ND),
        'ece_mass': _ece(confidences_NA, correct_NA, edges['mass'], counts_ND),
        'classwise_ece': _classwise_ece(probabilities_NK, labels, bins, counts_ND),
        'smooth_ece': _smooth_ece(
            confidences_NA, correct_NA, _bandwidth(confidences_NA, correct_NA), counts_ND),
        'gap': gap_N @ counts_ND / images}


def _edges(confidences_N: np.ndarray, bins: int, binning: str) -> np.ndarray:
    """Returns the edges of the bins, from 0 to 1."""
    _check_bins(bins)
    if binning not in BINNINGS:
        raise ConfigError(f'binning: {binning!r} is unknown; take one of {", ".join(BINNINGS)}')
    edges = np.arange(bins + 1) / bins  # each edge is exact, unlike those of linspace
    if binning == 'mass':
        edges = np.unique([0, *np.quantile(confidences_N, edges[1:-1]), 1])
    return edges


def _bin_of(confidences: np.ndarray, edges: np.ndarray) -> np.ndarray:
    return np.minimum(np.searchsorted(edges, confidences, 'right') - 1, len(edges) - 2)


def _by_image(values: np.ndarray, rows: np.ndarray, count: int) -> scipy.sparse.csc_array:
    """Returns a sparse array (count, N) with the values (N, ...) of each image in their rows."""
    starts = np.arange(len(rows) + 1) * (rows.size // len(rows))
    return scipy.sparse.csc_array((values.ravel(), rows.ravel(), starts), (count, len(rows)))


def _ece(confidences_NA: np.ndarray, correct_NA: np.ndarray, edges: np.ndarray,
         counts_ND: np.ndarray) -> np.ndarray:
    """Returns the expected calibration error of each draw, (D,)."""
    sums_BD = _by_image(confidences_NA - correct_NA, _bin_of(confidences_NA, edges),
                        len(edges) - 1) @ counts_ND
    return np.abs(sums_BD).sum(0) / confidences_NA.size


def _classwise_ece(probabilities_NK: np.ndarray, labels: np.ndarray, bins: int,
                   counts_ND: np.ndarray) -> np.ndarray:
    """Returns the mean over the classes of their errors, for each draw, (D,).

    Most probabilities are in the first bin, whose sum is what the others leave of the sum over
    all images: a product of dense arrays, so that the sparse one stays small.
    """
    total_D, edges = np.zeros(counts_ND.shape[1]), np.arange(bins + 1) / bins
    for start in range(0, probabilities_NK.shape[1], CLASSES):
        block_Nk = probabilities_NK[:, start:start + CLASSES]
        size = block_Nk.shape[1]
        residuals_Nk = block_Nk - recalibration.is_label(labels, start, start + size)
        bin_Nk = _bin_of(block_Nk, edges)
        image, k = np.nonzero(bin_Nk)
        sums_BD = scipy.sparse.coo_array(
            (residuals_Nk[image, k], (k * bins + bin_Nk[image, k], image)),
            (size * bins, len(labels))).tocsr() @ counts_ND
        sums_kBD = sums_BD.reshape(size, bins, -1)
        sums_kBD[:, 0] = residuals_Nk.T @ counts_ND - sums_kBD.sum(1)
        total_D += np.abs(sums_kBD).sum((0, 1))
    return total_D / probabilities_NK.size


def _smooth_ece(confidences_NA: np.ndarray, correct_NA: np.ndarray, bandwidth: float,
                counts_ND: np.ndarray) -> np.ndarray:
    """Returns the smooth error of each draw, (D,), for a fixed bandwidth."""
    last = max(1000, round(10 / bandwidth))  # of the grid to which answers are rounded
    place_NA = confidences_NA * last
    cell_NA = np.minimum(place_NA.astype(np.int64), last - 1)
    rows_NA2 = np.stack([cell_NA, cell_NA + 1], -1)
    share_NA2 = np.stack([cell_NA + 1 - place_NA, place_NA - cell_NA], -1)
    share_NA2[(rows_NA2 == 0) | (rows_NA2 == last)] *= 2  # each meets its reflection
    points_T = np.linspace(0, last, max(200, round(10 / bandwidth)))
    left_T = np.minimum(points_T.astype(np.int64), last - 1)
    right_T1 = (points_T - left_T)[:, None]
    smooth = []
    for value_NA in (confidences_NA - correct_NA, np.ones_like(confidences_NA)):
        grid_GD = _by_image(share_NA2 * value_NA[..., None], rows_NA2, last + 1) @ counts_ND
        # A Gaussian that is reflected at both ends is a product in the cosine transform.
        decay_G1 = np.exp(-np.square(np.pi * bandwidth * np.arange(last + 1)) / 2)[:, None]
        grid_GD = scipy.fft.idct(scipy.fft.dct(grid_GD, 1, axis=0) * decay_G1, 1, axis=0)
        smooth.append(grid_GD[left_T] * (1 - right_T1) + grid_GD[left_T + 1] * right_T1)
    return np.abs(smooth[0]).sum(0) / smooth[1].sum(0)


def _bandwidth(confidences_NA: np.ndarray, correct_NA: np.ndarray) -> float:
    """Returns the bandwidth that is equal to the smooth error, by ten bisections of 0 to 1."""
    low, high, ones_N1 = 0.0, 1.0, np.ones((len(correct_NA), 1))
    for _ in range(10):
        middle = (low + high) / 2
        if middle < 0.001 or middle < _smooth_ece(confidences_NA, correct_NA, middle, ones_N1)[0]:
            low = middle
        else:
            high = middle
    return high


def _check_bins(bins: int) -> None:
    if not isinstance(bins, int) or bins < 1:
        raise ConfigError(f'bins: takes a whole number from 1 on, got {bins!r}')


def _checked_answers(confidences_N: np.ndarray,
                     correct_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    confidences_N, correct_N = check_answers(confidences_N, correct_N)
    if not ((confidences_N >= 0) & (confidences_N <= 1)).all():
        raise DataError('confidences: some are not between 0 and 1; give probabilities, not logits')
    return confidences_N, correct_N
