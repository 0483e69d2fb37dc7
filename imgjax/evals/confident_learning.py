"""Confident Learning: which labels contradict out-of-fold probabilities, one label per image.

Northcutt, Jiang and Chuang, JAIR 70, 2021 (https://arxiv.org/abs/1911.00068):

* The threshold of a class is the mean probability that the images labelled with it give to it. An
  image counts as a confident example of a class if its probability for the class reaches the
  threshold.
* The confident joint counts the confident examples by (given label, class). Scaled to the number of
  images of each label (`calibrated`), its entries off the diagonal estimate how many labels are
  wrong.
* The margin of an image says how much its probabilities contradict its label.

Everywhere `probabilities_NK` are float (N, K), each row with the sum 1, `labels_N` int (N,) from 0
to K - 1, and `counts_K` int (K,), the number of images with each label. The errors are those of
`label_errors.measure`.
"""

import numpy as np

from imgjax.errors import DataError
from imgjax.evals.blocks import blocks
from imgjax.evals.checks import ROUNDING, check_probabilities, check_single_labels


def margins(probabilities_NK: np.ndarray, labels_N: np.ndarray) -> np.ndarray:
    """Returns p(given label) - (the largest other p) of each image, float64 (N,).

    It is below 0 where another class is more probable; here a class without images counts too.
    cleanlab maps it to 0 to 1 by (x + 1) / 2.
    """
    _check(probabilities_NK, labels_N)
    return margins_among(probabilities_NK, labels_N, np.ones(probabilities_NK.shape[1], bool))[0]


def self_confidence(probabilities_NK: np.ndarray, labels_N: np.ndarray) -> np.ndarray:
    """Returns p(given label) of each image, float64 (N,)."""
    _check(probabilities_NK, labels_N)
    return _given(probabilities_NK, labels_N)


def confident_joint(probabilities_NK: np.ndarray, labels_N: np.ndarray) -> np.ndarray:
    """Returns the number of confident examples by (given label, class), int64 (K, K)."""
    counts_K = label_counts(probabilities_NK, labels_N)
    return joint_of(confident_classes(probabilities_NK, labels_N, counts_K), labels_N, counts_K)


def calibrated(joint_KK: np.ndarray, counts_K: np.ndarray) -> np.ndarray:
    """Returns the confident joint, its rows scaled to the images of each label, int64 (K, K).

    Rounding keeps the sum of a row: all entries are rounded to the nearest integer, then those with
    the largest remainders are rounded to the other side; of equal ones the last class goes up.

    Args:
      joint_KK: int (K, K), from `confident_joint`.
      counts_K: int (K,), the number of images with each label.
    """
    sums_K = np.maximum(joint_KK.sum(axis=1), 1)
    exact_KK = joint_KK / sums_K[:, None] * counts_K[:, None]
    rounded_KK = np.rint(exact_KK)
    missing_K1 = (counts_K - rounded_KK.sum(axis=1))[:, None]
    order_KK = np.argsort(exact_KK - rounded_KK, axis=1, kind='stable')
    rank_KK = np.argsort(order_KK, axis=1)  # of the remainder, ascending
    rounded_KK += rank_KK >= len(counts_K) - missing_K1
    rounded_KK -= rank_KK < -missing_K1
    return rounded_KK.astype(np.int64)


def label_counts(probabilities_NK: np.ndarray, labels_N: np.ndarray) -> np.ndarray:
    """Checks the arguments, and returns counts_K."""
    _check(probabilities_NK, labels_N)
    counts_K = np.bincount(labels_N, minlength=probabilities_NK.shape[1])
    if (counts_K > 0).sum() < 2:
        raise DataError(f'labels: all images have the label {labels_N[0]}; an error '
                        'shows only among two or more classes')
    return counts_K


def confident_classes(probabilities_NK: np.ndarray, labels_N: np.ndarray,
                      counts_K: np.ndarray) -> np.ndarray:
    """Returns the class of which each image is a confident example, int64 (N,); -1 for none.

    Where several classes reach their thresholds it is the most probable class of all, as in
    cleanlab; in the paper it is the most probable of those that reach them. These rarely differ.
    """
    sums_K = np.bincount(labels_N, _given(probabilities_NK, labels_N), len(counts_K))
    threshold_K = np.maximum(sums_K / np.maximum(counts_K, 1), 2 * ROUNDING) - ROUNDING
    class_N = np.empty(len(labels_N), np.int64)
    for rows in blocks(*probabilities_NK.shape):
        block_BK = np.where(counts_K[None] > 0, probabilities_NK[rows].astype(np.float64), -1)
        reached_BK = block_BK >= threshold_K[None]
        class_N[rows] = np.where(reached_BK.sum(axis=1) > 1, block_BK.argmax(axis=1),
                                 np.where(reached_BK.any(axis=1), reached_BK.argmax(axis=1), -1))
    return class_N


def joint_of(confident_N: np.ndarray, labels_N: np.ndarray, counts_K: np.ndarray) -> np.ndarray:
    """Returns the confident joint, int64 (K, K), of what `confident_classes` gives.

    Each class with images has at least 1 on the diagonal, as in cleanlab, so that the labels of a
    class without any confident example count as right.
    """
    classes = len(counts_K)
    cells_N = labels_N.astype(np.int64) * classes + confident_N
    joint_KK = np.bincount(cells_N[confident_N >= 0], minlength=classes**2)
    joint_KK = joint_KK.reshape(classes, classes)
    np.fill_diagonal(joint_KK, np.maximum(np.diag(joint_KK), counts_K > 0))
    return joint_KK


def margins_among(probabilities_NK: np.ndarray, labels_N: np.ndarray,
                  allowed_K: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the margins and the most probable other class, among classes that are allowed."""
    margins_N, other_N = _given(probabilities_NK, labels_N), np.empty(len(labels_N), np.int64)
    for rows in blocks(*probabilities_NK.shape):
        block_BK = np.where(allowed_K[None], probabilities_NK[rows].astype(np.float64), -1)
        each_B = np.arange(len(block_BK))
        block_BK[each_B, labels_N[rows]] = -1
        other_N[rows] = block_BK.argmax(axis=1)
        margins_N[rows] -= block_BK[each_B, other_N[rows]]
    return margins_N, other_N


def _given(probabilities_NK: np.ndarray, labels_N: np.ndarray) -> np.ndarray:
    return probabilities_NK[np.arange(len(labels_N)), labels_N].astype(np.float64)


def _check(probabilities_NK: np.ndarray, labels_N: np.ndarray) -> None:
    check_probabilities(probabilities_NK, multi_label=False)
    check_single_labels(labels_N, *probabilities_NK.shape)
