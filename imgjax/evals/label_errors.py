"""Which labels of a dataset are wrong, found from out-of-fold probabilities.

The probabilities of an image must come from a model that was not trained on it (cross-validation):
a network that has learned the wrong label of an image agrees with it. The method is Confident
Learning (confident_learning.py): the images are ranked by their margin, the most suspicious first,
and the first ones, as many as the confident joint estimates to be wrong, are suspected.

The estimate is too high for a weak model, whose confusions look like wrong labels: with 10 % of the
labels wrong and a model that agrees with 71 to 78 % of the labels, it was 1.9 to 2.6 times the
truth (15 Gaussian classes, logistic regression).

In a multi-label set each class is a question of its own (is it in the image?), and the unit is a
pair (image, class). A pair is wrong if a label is missing, or if one is given that does not belong.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from imgjax.errors import ConfigError, DataError
from imgjax.evals import confident_learning
from imgjax.evals.checks import check_labels, check_probabilities
from imgjax.evals.intervals import draws, percentiles

CANNOT_SEE = (
    'The ranking shows labels that contradict a model of the same labels. It does not show errors '
    'that the model learned: a class that is labelled wrongly throughout, copies of an image that '
    'have the same wrong label, or two classes that the labels swap more often than not. Hard and '
    'unusual images rank high although their label is right: look at an image before you change '
    'its label.')
DRAWS = 200  # of the bootstrap


class Found(NamedTuple):
    """Which labels are suspected. In a multi-label set a label is a pair (image, class).

    Attributes:
      margins: float64 (N,), -1 (surely wrong) to 1, see `confident_learning.margins`.
        Multi-label: (N, K); NaN for a class that is left out.
      suggested: int64 (N,), the most probable class where the margin is below 0, else the given
        label. Multi-label: (N, K) of 0 and 1.
      ranking: int64 (N,), the indices of all images by ascending margin. Multi-label: (P, 2), the
        pairs [image, class] with a margin below 0.
      confident: int64 (N,), the class of which the image is a confident example; -1 for none.
        Multi-label: (N, K) of 0, 1 and -1.
      joint: int64 (K, K), the calibrated joint by (given, suggested). Multi-label: (K, 2, 2), where
        [k, 0, 1] counts missing labels and [k, 1, 0] labels that do not belong.
      estimated: the estimated number of wrong labels, which is the sum off the joint's diagonal.
      suspected: how many of the first in the ranking are suspected: `estimated`, or the number of
        margins below 0 where that is smaller.
    """

    margins: np.ndarray
    suggested: np.ndarray
    ranking: np.ndarray
    confident: np.ndarray
    joint: np.ndarray
    estimated: int
    suspected: int


def measure(probabilities_NK: np.ndarray, labels: np.ndarray, *,
            class_names: Sequence[str] | None = None, seed: int = 0) -> dict:
    """Returns how many labels are wrong, which ones, and which classes are mixed up.

    >>> import numpy as np
    >>> from imgjax.evals import label_errors
    >>> of_dog_N = np.array([0.1, 0.2, 0.9, 0.8, 0.95])
    >>> found = label_errors.measure(np.stack([1 - of_dog_N, of_dog_N], axis=1),
    ...                              np.array([0, 0, 1, 1, 0]), class_names=['cat', 'dog'])
    >>> found['suspected'], found['ranking'][0], found['pairs'][0]['text']
    (1, 4, 'cat -> dog')

    Args:
      probabilities_NK: float (N, K), out-of-fold probabilities, 0 to 1: of a softmax (each row sums
        to 1) for labels of shape (N,), of a sigmoid for labels of shape (N, K).
      labels: the given labels: int (N,), 0 to K - 1; or (N, K) of 0 and 1 for a multi-label set.
      class_names: K names; by default the classes are named '0', '1' and so on.
      seed: of the bootstrap.

    Returns:
      A dict that JSON can hold. In a multi-label set a label is a pair (image, class).
        labels: the number of labels that are judged.
        agreement: the share of the labels with a margin of 0 or above; the model agrees with them.
        estimated: the estimated number of wrong labels.
        estimated_interval: [low, high], its 95 % interval by a bootstrap over the images. The
          thresholds stay fixed, and the errors of the model are not part of it.
        share, share_interval: the same as a share of `labels`.
        suspected: how many of the first entries of `ranking` are suspected.
        ranking: the indices of all images by ascending margin. Multi-label: the pairs
          [image, class] with a margin below 0.
        margins: one per image, in the order of the images. Multi-label: one per entry of `ranking`.
        suggested: the suggested label of each image. Multi-label: for each entry of `ranking`
          1 (the label is missing) or 0 (it does not belong).
        pairs: the kinds of wrong labels, the largest estimated `count` first; dicts of `count`,
          `given` and `suggested` (classes) and `text` ('cat -> dog'). Multi-label: `class` is the
          class, and `given` and `suggested` are 0 or 1 ('dog: missing', 'dog: does not belong').
        left_out: the names of the classes that no image has (multi-label: or that every image has).
          They are neither judged nor suggested.
        cannot_see: what the ranking does not show, in words.

    Raises:
      DataError: the arrays do not fit together, a probability is not within 0 to 1, the rows do not
        sum to 1, or no class can be told from another one.
      ConfigError: the number of class names is not K.
    """
    probabilities_NK, labels = np.asarray(probabilities_NK), np.asarray(labels)
    classes = probabilities_NK.shape[-1] if probabilities_NK.ndim else 0
    names = list(map(str, range(classes) if class_names is None else class_names))
    if len(names) != classes:
        raise ConfigError(f'class_names: {len(names)} names for {classes} columns of '
                          f'probabilities; give {classes}')
    found = find(probabilities_NK, labels)
    if labels.ndim == 1:
        judged_K = np.bincount(labels, minlength=classes) > 0
        share_D = _bootstrap(labels[:, None], found.confident[:, None] == labels[:, None],
                             found.confident[:, None] >= 0, seed)
        count, listed, margins_of = len(labels), found.suggested, found.margins
    else:
        judged_K = _varied(labels)
        labels_NJ, confident_NJ = labels[:, judged_K].astype(int), found.confident[:, judged_K]
        share_D = _bootstrap(labels_NJ + 2 * np.arange(labels_NJ.shape[1])[None],
                             confident_NJ == labels_NJ, confident_NJ >= 0, seed)
        ranked = tuple(found.ranking.T)
        count, listed, margins_of = labels_NJ.size, found.suggested[ranked], found.margins[ranked]
    low, high = percentiles(share_D)
    return {
        'labels': count, 'agreement': 1 - int((found.margins < 0).sum()) / count,
        'estimated': found.estimated, 'estimated_interval': [low * count, high * count],
        'share': found.estimated / count, 'share_interval': [low, high],
        'suspected': found.suspected, 'ranking': found.ranking.tolist(),
        'margins': margins_of.tolist(), 'suggested': listed.tolist(),
        'pairs': _pairs(found.joint, names),
        'left_out': [name for name, judged in zip(names, judged_K, strict=True) if not judged],
        'cannot_see': CANNOT_SEE}


def find(probabilities_NK: np.ndarray, labels: np.ndarray) -> Found:
    """Returns which labels are suspected. Arguments and errors are those of `measure`.

    A class without images is left out: it has no threshold, and it is not suggested. In a
    multi-label set each class is judged by itself, with the probabilities 1 - p and p.
    """
    if labels.ndim != 1:
        return _find_pairs(probabilities_NK, labels)
    counts_K = confident_learning.label_counts(probabilities_NK, labels)
    margins_N, other_N = confident_learning.margins_among(probabilities_NK, labels, counts_K > 0)
    confident_N = confident_learning.confident_classes(probabilities_NK, labels, counts_K)
    joint_KK = confident_learning.calibrated(
        confident_learning.joint_of(confident_N, labels, counts_K), counts_K)
    estimated = int(joint_KK.sum() - np.trace(joint_KK))
    return Found(margins_N, np.where(margins_N < 0, other_N, labels),
                 np.argsort(margins_N, kind='stable'), confident_N, joint_KK, estimated,
                 min(estimated, int((margins_N < 0).sum())))


def _find_pairs(probabilities_NK: np.ndarray, labels_NK: np.ndarray) -> Found:
    """Returns the same as `find` for a multi-label set."""
    _check_multi_label(probabilities_NK, labels_NK)
    margins_NK = np.full(labels_NK.shape, np.nan)
    confident_NK = np.full(labels_NK.shape, -1)
    joint_K22 = np.zeros((labels_NK.shape[1], 2, 2), np.int64)
    for k in np.flatnonzero(_varied(labels_NK)):
        label_N, p_N = labels_NK[:, k].astype(np.int64), probabilities_NK[:, k].astype(np.float64)
        both_N2, counts_2 = np.stack([1 - p_N, p_N], axis=1), np.bincount(label_N)
        margins_NK[:, k] = confident_learning.margins_among(both_N2, label_N, counts_2 > 0)[0]
        confident_NK[:, k] = confident_learning.confident_classes(both_N2, label_N, counts_2)
        joint_K22[k] = confident_learning.calibrated(
            confident_learning.joint_of(confident_NK[:, k], label_N, counts_2), counts_2)
    ranking_P2 = np.argwhere(margins_NK < 0)
    order_P = np.argsort(margins_NK[tuple(ranking_P2.T)], kind='stable')
    estimated = int(joint_K22[:, [0, 1], [1, 0]].sum())
    suggested_NK = np.where(margins_NK < 0, 1 - labels_NK, labels_NK).astype(np.int64)
    return Found(margins_NK, suggested_NK, ranking_P2[order_P], confident_NK, joint_K22, estimated,
                 min(estimated, len(ranking_P2)))


def _bootstrap(labels_NJ: np.ndarray, right_NJ: np.ndarray, sure_NJ: np.ndarray,
               seed: int) -> np.ndarray:
    """Returns the estimated share of wrong labels when N images are drawn anew, float64 (DRAWS,).

    Args:
      labels_NJ: int (N, J), the labels of each image, of L kinds, which the joint's rows stand for.
      right_NJ: bool (N, J), whether the image is a confident example of its label.
      sure_NJ: bool (N, J), whether it is a confident example of any class.
      seed: of the draws.
    """
    rng, images = np.random.default_rng(seed), len(labels_NJ)
    cells_NJ = labels_NJ.astype(np.int64) * 3 + np.where(sure_NJ, np.where(right_NJ, 0, 1), 2)
    number = 3 * (int(labels_NJ.max()) + 1)
    share_D = []
    for times_ND in draws(images, DRAWS, rng):
        for times_N in times_ND.T:
            times_NJ = np.broadcast_to(times_N[:, None], cells_NJ.shape)
            count_L3 = np.bincount(cells_NJ.ravel(), times_NJ.ravel(), number).reshape(-1, 3)
            right_L, wrong_L = np.maximum(count_L3[:, 0], 1), count_L3[:, 1]
            share_D.append((count_L3.sum(axis=1) * wrong_L / (right_L + wrong_L)).sum())
    return np.array(share_D) / cells_NJ.size


def _pairs(joint: np.ndarray, names: list[str]) -> list[dict]:
    """Returns the entries off the diagonal, the largest first; see `measure`."""
    pairs = []
    for *which, given, other in np.argwhere(joint > 0).tolist():
        if given == other:
            continue
        pair = {'given': given, 'suggested': other, 'count': int(joint[*which, given, other])}
        if which:
            kind = 'does not belong' if given else 'missing'
            pairs.append(pair | {'class': which[0], 'text': f'{names[which[0]]}: {kind}'})
        else:
            pairs.append(pair | {'text': f'{names[given]} -> {names[other]}'})
    return sorted(pairs, key=lambda pair: -pair['count'])


def _varied(labels_NK: np.ndarray) -> np.ndarray:
    """Returns which classes some images have and others do not, bool (K,)."""
    return (labels_NK.max(axis=0) > 0) & (labels_NK.min(axis=0) < 1)


def _check_multi_label(probabilities_NK: np.ndarray, labels_NK: np.ndarray) -> None:
    check_probabilities(probabilities_NK, multi_label=True)
    check_labels(labels_NK, *probabilities_NK.shape)
    if not _varied(labels_NK).any():
        raise DataError('labels: each class is in all images or in none; an error shows '
                        'only in a class that some images have and others do not')
