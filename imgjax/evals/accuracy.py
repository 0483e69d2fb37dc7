"""Accuracy as it should be read: with intervals, beside simple baselines, per class and per pair.

The 95 % intervals of the rates are percentile bootstrap intervals (`intervals.percentiles`): the
images are drawn again with replacement 1,000 times. They say how much other images would change the
rate of this model, not how much other seeds of the training would. A rate of exactly 0 or 1 is the
same in every draw, and the recall of a class comes from few images; both have Wilson's interval.

Images with several labels: top-1 is the share of images whose likeliest class is one of their
labels; recall, precision and F1 count a class as answered if its probability is above one half.
"""

from collections.abc import Sequence

import numpy as np

from imgjax.errors import ConfigError, DataError, first_few
from imgjax.evals import label_sets as label_sets_lib
from imgjax.evals.answers import Predictions, answer
from imgjax.evals.average_precision import drawn_rates, mean_share
from imgjax.evals.checks import check_logits
from imgjax.evals.intervals import percentiles, wilson
from imgjax.metrics import mean_average_precision

DRAWS = 1_000
FEWEST_DRAWS = 200  # for mean average precision, whose draws take long
SORTED = 2**29  # entries (image, class, draw) that the draws of mean average precision may have
BLOCK = 2**22  # entries of an array that is worked on at once
MOST_MATRIX_CLASSES = 100
MOST_PAIRS = 20
MOST_PAIR_IMAGES = 8
MOST_ERRORS = 50


def measure(logits_NK: np.ndarray, labels: np.ndarray, *, class_names: Sequence[str], seed: int = 0,
            kept: Sequence[int] | None = None,
            label_sets: Sequence[Sequence[int]] | None = None) -> dict:
    """Returns the accuracy of the answers, with what is needed to judge it.

    A rate is a dict of `value`, `low` and `high`, all between 0 and 1. Images are indices of the
    rows of logits_NK, classes are indices of `class_names`, also where `kept` leaves some out. The
    keys are

      images, left_out    how many images are judged, and how many are not
      classes             how many classes can be answered
      top1, top5          rates; top5 is None for 5 classes or fewer
      macro_recall        a rate: the mean over the classes of their recall
      micro_recall        a rate: the recall of all labels together; top1 if images have one label
      mean_average_precision   a rate if images have several labels, else None
      baselines           [{rate, baseline, value, verdict, sentence}]: top1 beside chance and
                          beside always answering the most frequent class ('majority'), mean average
                          precision beside chance; verdict is 'above', 'below', or 'within' where
                          the interval contains the baseline
      per_class           [{index, name, examples, answered, precision, recall, recall_low,
                          recall_high, f1, average_precision}], None where a denominator is 0
      confusion           {matrix, pairs}, or None if images have several labels. matrix[true]
                          [answered] counts images, its classes are those of per_class; None above
                          100 classes. pairs are the 20 most frequent errors, {label, prediction,
                          count, share (of the label's images), images (up to 8)}
      errors              up to 50 images with a wrong answer
      label_sets          {accuracy, images, left_out}, or None without label_sets

    Images in `errors` and `pairs` are ordered by the confidence of the answer, highest first.

    >>> import numpy as np
    >>> from imgjax.evals import accuracy
    >>> logits_NK = np.array([[2.0, 0.0], [0.0, 1.0], [3.0, 0.0], [0.5, 0.0]])
    >>> found = accuracy.measure(logits_NK, np.array([0, 1, 0, 1]), class_names=['cat', 'dog'])
    >>> found['top1']['value'], found['per_class'][1]['recall'], found['confusion']['matrix']
    (0.75, 0.5, [[2, 0], [1, 1]])

    Args:
      logits_NK: float (N, K).
      labels: int (N,), the classes; or float (N, K) of 0 and 1 if images have several labels.
      class_names: K names.
      seed: of the bootstrap.
      kept: the classes to which the answers are restricted, as for ImageNet-A and ImageNet-R
        (Hendrycks et al. 2021, https://arxiv.org/abs/1907.07174, and
        https://arxiv.org/abs/2006.16241): the answer is the likeliest class among them. Images of
        other classes are left out. None for all classes.
      label_sets: for each image the classes that are right (ReaL, Beyer et al. 2020,
        https://arxiv.org/abs/2006.07159): an answer is right if it is one of them. Images without
        any are left out of this rate; `kept` also restricts the sets.

    Raises:
      DataError: the arrays do not fit together, logits are not finite, a label is no class, no
        image has a label, or no image is left.
      ConfigError: `kept` does not name two or more classes once each, `class_names` does not have K
        names, or `kept` or `label_sets` is given although images have several labels.
    """
    logits_NK, labels = np.asarray(logits_NK), np.asarray(labels)
    check_logits(logits_NK, labels)
    if len(class_names) != logits_NK.shape[1]:
        raise ConfigError(f'class_names: {len(class_names)} names for {logits_NK.shape[1]} columns '
                          'of logits; give one per class')
    rng = np.random.default_rng(seed)
    if labels.ndim == 1:
        return _one_label(logits_NK, labels, class_names, kept, label_sets, rng)
    if kept is not None or label_sets is not None:
        raise ConfigError('kept and label_sets: only for images with one label each; leave them '
                          'out for labels of shape (N, K)')
    if not labels.any():
        raise DataError('labels: no image has a label; check how they were read')
    return _several_labels(logits_NK, labels > 0, class_names, rng)


def _one_label(logits_NK: np.ndarray, labels_N: np.ndarray, class_names: Sequence[str],
               kept: Sequence[int] | None, label_sets: Sequence[Sequence[int]] | None,
               rng: np.random.Generator) -> dict:
    """Returns what `measure` does, for images with one label each.

    C kept classes are the columns of what is computed for the M images of these classes.
    """
    N, K = logits_NK.shape
    classes_C = np.arange(K) if kept is None else _kept(kept, K)
    if label_sets is not None:
        label_sets_lib.check(label_sets, N, K)
    rows_M = np.flatnonzero(np.isin(labels_N, classes_C))
    if not len(rows_M):
        raise DataError(f'labels: none of the {N:,} images is of one of the {len(classes_C):,} '
                        'kept classes; name classes that the set has')
    logits_MC = logits_NK if kept is None else logits_NK[np.ix_(rows_M, classes_C)]
    labels_M = np.searchsorted(classes_C, labels_N[rows_M])
    answers = answer(logits_MC, labels_M)
    rates = _rates(labels_M, answers.ranks_N, len(classes_C), rng)
    support_C, answered_C, hits_C = (
        np.bincount(values, minlength=len(classes_C))
        for values in (labels_M, answers.predictions_N, labels_M[answers.ranks_N == 0]))
    frequent = support_C.argmax()
    matrix_CC, pairs = _confusion(labels_M, answers, classes_C, rows_M)
    return {
        'images': len(rows_M), 'left_out': N - len(rows_M), 'classes': len(classes_C), **rates,
        'baselines': [
            _beside(rates, 'top1', 'chance', 1 / len(classes_C), 'chance'),
            _beside(rates, 'top1', 'majority', support_C[frequent] / len(rows_M),
                    f'always answering {class_names[classes_C[frequent]]!r}')],
        'per_class': _per_class(class_names, classes_C, support_C, answered_C, hits_C),
        'confusion': {'matrix': matrix_CC, 'pairs': pairs},
        'errors': rows_M[_surest(answers, answers.ranks_N > 0)][:MOST_ERRORS].tolist(),
        'label_sets': None if label_sets is None else _in_sets(
            classes_C[answers.predictions_N], [label_sets[row] for row in rows_M.tolist()],
            classes_C, rng)}


def _several_labels(logits_NK: np.ndarray, labels_NK: np.ndarray, class_names: Sequence[str],
                    rng: np.random.Generator) -> dict:
    """Returns what `measure` does, for images with several labels, bool (N, K)."""
    N, K = labels_NK.shape
    answers, answered_NK = answer(logits_NK, labels_NK), logits_NK > 0
    labelled_N = labels_NK.any(axis=1)
    images = int(labelled_N.sum())
    precisions_K = mean_average_precision.by_class(labels_NK, logits_NK)
    support_K, hits_K = labels_NK.sum(axis=0), (labels_NK & answered_NK).sum(axis=0)
    draws = int(np.clip(SORTED // (N * K), FEWEST_DRAWS, DRAWS))
    macro_D, micro_D, precision_D = drawn_rates(logits_NK, labels_NK, draws, rng)
    # Top-1 and top-5 do not depend on a class of the image: 0 stands for all.
    rates = _rates(np.zeros(images, np.int64), answers.ranks_N[labelled_N], K, rng) | {
        'macro_recall': _rate(mean_share(hits_K[None], support_K[None])[0], macro_D, N),
        'micro_recall': _rate(hits_K.sum() / support_K.sum(), micro_D, N),
        'mean_average_precision': _rate(np.nanmean(precisions_K), precision_D, N)}
    frequent = support_K.argmax()
    return {
        'images': N, 'left_out': 0, 'classes': K, **rates,
        'baselines': [
            _beside(rates, 'top1', 'chance', labels_NK[labelled_N].mean(), 'chance'),
            _beside(rates, 'top1', 'majority', support_K[frequent] / images,
                    f'always answering {class_names[frequent]!r}'),
            _beside(rates, 'mean_average_precision', 'chance',
                    support_K[support_K > 0].mean() / N, 'chance')],
        'per_class': _per_class(class_names, np.arange(K), support_K, answered_NK.sum(axis=0),
                                hits_K, precisions_K),
        'confusion': None,
        'errors': _surest(answers, (answers.ranks_N > 0) & labelled_N)[:MOST_ERRORS].tolist(),
        'label_sets': None}


def _kept(kept: Sequence[int], classes: int) -> np.ndarray:
    """Returns the kept classes in ascending order, int64 (C,)."""
    wrong = [one for one in kept if not label_sets_lib.is_class(one) or one >= classes]
    if wrong or len(set(kept)) < max(2, len(kept)):
        raise ConfigError(f'kept: {first_few(wrong or kept)}; give two or more different classes '
                          f'from 0 to {classes - 1}')
    return np.sort(np.asarray(kept, np.int64))


def _rates(labels_M: np.ndarray, ranks_M: np.ndarray, classes: int,
           rng: np.random.Generator) -> dict:
    """Returns top1, top5, macro_recall, micro_recall and mean_average_precision of `measure`.

    The rates depend only on how many images of each class are right, and within the first five.
    Drawing these counts is the same as drawing images, and takes as long for 50,000 as for 500.
    """
    M = len(labels_M)
    levels_M = (ranks_M < 5).astype(np.int64) + (ranks_M == 0)  # 2: right, 1: in the first five
    groups_G, counts_G = np.unique(labels_M * 3 + levels_M, return_counts=True)
    levels_G = groups_G % 3
    starts_C = np.flatnonzero(np.diff(groups_G // 3, prepend=-1))  # of the classes with images
    top1_D, top5_D, macro_D = np.zeros((3, DRAWS))
    step = max(1, BLOCK // len(groups_G))
    for start in range(0, DRAWS, step):
        block = slice(start, start + step)
        drawn_DG = rng.multinomial(M, counts_G / M, size=len(top1_D[block]))
        right_DG = drawn_DG * (levels_G == 2)
        top1_D[block] = right_DG.sum(axis=1) / M
        top5_D[block] = (drawn_DG * (levels_G > 0)).sum(axis=1) / M
        macro_D[block] = mean_share(np.add.reduceat(right_DG, starts_C, axis=1),
                                     np.add.reduceat(drawn_DG, starts_C, axis=1))
    support_C = np.bincount(labels_M)
    hits_C = np.bincount(labels_M[ranks_M == 0], minlength=len(support_C))
    top1 = _rate((ranks_M == 0).mean(), top1_D, M)
    return {'top1': top1,
            'top5': _rate((ranks_M < 5).mean(), top5_D, M) if classes > 5 else None,
            'macro_recall': _rate(mean_share(hits_C[None], support_C[None])[0], macro_D, M),
            'micro_recall': top1, 'mean_average_precision': None}


def _rate(value: float, draws_D: np.ndarray, count: int) -> dict:
    """Returns a rate of `measure`: its value with the interval of its draws."""
    low, high = wilson(value * count, count) if value in (0, 1) else percentiles(draws_D)
    return {'value': float(value), 'low': float(low), 'high': float(high)}


def _beside(rates: dict, name: str, baseline: str, value: float, text: str) -> dict:
    """Returns the comparison of a rate with a baseline, which `text` names."""
    rate = rates[name]
    spelled = {'top1': 'top-1 accuracy', 'mean_average_precision': 'mean average precision'}[name]
    figure = (f'The {spelled} of {rate["value"]:.1%} (95 % interval {rate["low"]:.1%} to '
              f'{rate["high"]:.1%})')
    if rate['low'] > value:
        verdict, end = 'above', f'is above {text} ({value:.1%}).'
    elif rate['high'] < value:
        verdict, end = 'below', (f'is below {text} ({value:.1%}): check that labels and logits '
                                 'have their classes in the same order.')
    else:
        verdict, end = 'within', (f'cannot be told from {text} ({value:.1%}): nothing shows that '
                                  'the model has learned more than that.')
    return {'rate': name, 'baseline': baseline, 'value': float(value), 'verdict': verdict,
            'sentence': f'{figure} {end}'}


def _per_class(class_names: Sequence[str], classes_C: np.ndarray, support_C: np.ndarray,
               answered_C: np.ndarray, hits_C: np.ndarray,
               precisions_C: np.ndarray | None = None) -> list[dict]:
    low_C, high_C = wilson(hits_C, support_C)
    ratio = lambda part, whole: float(part / whole) if whole else None  # noqa: E731
    number = lambda value: None if np.isnan(value) else float(value)  # noqa: E731
    return [
        {'index': int(k), 'name': class_names[k], 'examples': int(support_C[c]),
         'answered': int(answered_C[c]), 'precision': ratio(hits_C[c], answered_C[c]),
         'recall': ratio(hits_C[c], support_C[c]), 'recall_low': number(low_C[c]),
         'recall_high': number(high_C[c]),
         'f1': ratio(2 * hits_C[c], support_C[c] + answered_C[c]),
         'average_precision': None if precisions_C is None else number(precisions_C[c])}
        for c, k in enumerate(classes_C)]


def _confusion(labels_M: np.ndarray, answers: Predictions, classes_C: np.ndarray,
               rows_M: np.ndarray) -> tuple[list | None, list[dict]]:
    """Returns the matrix and the pairs of `measure`; labels_M and answers index classes_C."""
    C = len(classes_C)
    codes_M = labels_M * C + answers.predictions_N
    matrix_CC = None
    if C <= MOST_MATRIX_CLASSES:
        matrix_CC = np.bincount(codes_M, minlength=C * C).reshape(C, C).tolist()
    codes, counts = np.unique(codes_M[answers.ranks_N > 0], return_counts=True)
    support_C = np.bincount(labels_M, minlength=C)
    pairs = []
    for one in np.argsort(-counts, kind='stable')[:MOST_PAIRS]:
        label, prediction = divmod(int(codes[one]), C)
        images = rows_M[_surest(answers, codes_M == codes[one])][:MOST_PAIR_IMAGES]
        pairs.append({'label': int(classes_C[label]), 'prediction': int(classes_C[prediction]),
                      'count': int(counts[one]), 'share': float(counts[one] / support_C[label]),
                      'images': images.tolist()})
    return matrix_CC, pairs


def _surest(answers: Predictions, chosen_N: np.ndarray) -> np.ndarray:
    """Returns the chosen rows, bool (N,), by descending confidence."""
    rows = np.flatnonzero(chosen_N)
    return rows[np.argsort(-answers.confidences_N[rows], kind='stable')]


def _in_sets(predictions_M: np.ndarray, sets: list[Sequence[int]], classes_C: np.ndarray,
             rng: np.random.Generator) -> dict:
    """Returns `label_sets` of `measure`."""
    can_answer = set(classes_C.tolist())
    right = [int(prediction) in one for prediction, one in zip(predictions_M, sets, strict=True)
             if can_answer.intersection(one)]
    if not right:
        raise DataError(f'label_sets: none of {len(sets):,} images has a right class; check that '
                        'the sets belong to these images')
    count, value = len(right), float(np.mean(right))
    return {'accuracy': _rate(value, rng.binomial(count, value, DRAWS) / count, count),
            'images': count, 'left_out': len(sets) - count}
