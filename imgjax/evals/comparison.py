"""Two models on the same images: which is better, by how much, and where they differ.

Both models answer the same images, so that all figures are paired: an image on which both are
right, or both wrong, says nothing about which is better. The intervals and p values are for other
images from the same source and these two networks; they say nothing about training with other
seeds.

- Overall, differences have percentile bootstrap intervals over the images (Efron and Tibshirani, An
  Introduction to the Bootstrap, 1993), and the accuracies McNemar's exact test
  (McNemar, 1947, https://doi.org/10.1007/BF02295996): if neither is better, the images on which
  only one is right are tosses of a fair coin.
- Per class, where images are few, the difference has the Wald interval with half an image added to
  each of the four counts (Agresti and Min, 2005, https://doi.org/10.1002/sim.1781), and the p
  values are corrected for the number of classes (Holm, 1979, https://www.jstor.org/stable/4615733).
"""

import math

import numpy as np

from imgjax.errors import DataError
from imgjax.evals import answers
from imgjax.evals.checks import check_logits
from imgjax.evals.intervals import Z

LEVEL = 0.95  # of all intervals
RESAMPLES = 9_999
DRAWS = 100_000_000  # images drawn in the bootstrap, which takes under ten seconds
SHOWN = 100  # disagreements in the result


def measure(logits_a_NK: np.ndarray, logits_b_NK: np.ndarray, labels_N: np.ndarray, *,
            seed: int = 0) -> dict:
    """Compares the answers of the models a and b. All differences are a minus b.

    >>> import numpy as np
    >>> from imgjax.evals import comparison
    >>> labels_N = np.arange(20) % 2
    >>> a_NK = np.eye(2)[labels_N]  # always right
    >>> b_NK = np.eye(2)[np.where(np.arange(20) < 8, 1 - labels_N, labels_N)]
    >>> found = comparison.measure(a_NK, b_NK, labels_N)
    >>> found['accuracy']['difference'], found['counts']['only_a'], round(found['accuracy']['p'], 3)
    (0.4, 8, 0.008)

    Args:
      logits_a_NK: float (N, K), of model a.
      logits_b_NK: float (N, K), of model b, of the same images in the same order.
      labels_N: int (N,), the true classes; or bool (N, K) where images have several labels. An
        answer is then right if it is one of them, and the probability of a class is the sigmoid of
        its logit instead of the softmax.
      seed: of the bootstrap.

    Returns:
      images, classes, level: N, K, and the level of the intervals, 0.95.
      accuracy: `a`, `b`, `difference` with its interval `low`, `high`, and `p` of McNemar's test.
      nll: the mean negative log-likelihood in nats, `a`, `b`, `difference`, `low`, `high`; where
        images have several labels it is the binary one, summed over the classes.
      counts: the number of images on which `both`, `only_a`, `only_b` or `neither` is right.
      agreement: the share of the images with the same answer of both models, right or wrong.
      by_class: per class `class`, `images`, `accuracy_a`, `accuracy_b`, `difference`, `low`,
        `high`, `p`, `p_holm`; None for each figure of a class without images.
      different: the number of images with different answers.
      disagreements: of at most 100 of those, the largest sum of both confidences first: `image`
        (index), `answer_a`, `confidence_a`, `right_a`, `answer_b`, `confidence_b`, `right_b`.
      For a single image each `low` and `high` is None.

    Raises:
      DataError: the arrays do not fit, are empty or not finite.
    """
    logits_a_NK, logits_b_NK, labels_N = map(np.asarray, (logits_a_NK, logits_b_NK, labels_N))
    if logits_a_NK.shape != logits_b_NK.shape:
        raise DataError(f'comparison: the logits have the shapes {logits_a_NK.shape} and '
                        f'{logits_b_NK.shape}; compare two models of the same classes on the same '
                        'images')
    check_logits(logits_a_NK, labels_N, 'logits of model a')
    check_logits(logits_b_NK, labels_N, 'logits of model b')
    a, b = _answers(logits_a_NK, labels_N), _answers(logits_b_NK, labels_N)
    right_a, right_b = a['right'], b['right']
    count, classes = logits_a_NK.shape
    lows, highs = _bootstrap(np.stack([right_a.astype(np.float64) - right_b, a['nll'] - b['nll']]),
                             seed)
    only_a, only_b = int((right_a & ~right_b).sum()), int((right_b & ~right_a).sum())
    differ_N = a['answer'] != b['answer']
    return {
        'images': count, 'classes': classes, 'level': LEVEL,
        'accuracy': {'a': float(right_a.mean()), 'b': float(right_b.mean()),
                     'difference': (only_a - only_b) / count, 'low': lows[0], 'high': highs[0],
                     'p': mcnemar(only_a, only_b)},
        'nll': {'a': float(a['nll'].mean()), 'b': float(b['nll'].mean()),
                'difference': float((a['nll'] - b['nll']).mean()), 'low': lows[1],
                'high': highs[1]},
        'counts': {'both': int((right_a & right_b).sum()), 'only_a': only_a, 'only_b': only_b,
                   'neither': int((~right_a & ~right_b).sum())},
        'agreement': float(1 - differ_N.mean()),
        'by_class': by_class(right_a, right_b, labels_N, classes),
        'different': int(differ_N.sum()), 'disagreements': _disagreements(a, b)}


def mcnemar(only_a: int, only_b: int) -> float:
    """Returns the two-sided p value of McNemar's exact test; 1.0 if no image tells them apart."""
    from scipy import stats  # noqa: PLC0415  (0.6 s)

    return float(stats.binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0


def holm(p_C: np.ndarray) -> np.ndarray:
    """Returns the p values of C tests, corrected by Holm's method, float64 (C,)."""
    order = np.argsort(p_C)
    corrected_C = np.empty(len(p_C))
    corrected_C[order] = np.maximum.accumulate(np.sort(p_C) * np.arange(len(p_C), 0, -1))
    return np.minimum(corrected_C, 1)


def paired_interval(only_a: int, only_b: int, count: int) -> tuple[float, float]:
    """Returns Agresti and Min's interval of (only_a - only_b) / count, within -1 and 1."""
    middle = (only_a - only_b) / (count + 2)
    variance = (only_a + only_b + 1) / (count + 2) - middle**2
    half = Z * math.sqrt(variance / (count + 2))
    return max(-1.0, middle - half), min(1.0, middle + half)


def by_class(right_a_N: np.ndarray, right_b_N: np.ndarray, labels_N: np.ndarray,
             classes: int) -> list[dict]:
    """Returns `by_class` of `measure`; an image with several labels counts for each of them.

    Args:
      right_a_N: bool (N,), whether model a is right.
      right_b_N: bool (N,), whether model b is.
      labels_N: int (N,), or bool (N, K).
      classes: K.
    """
    image_P, class_P = ((np.arange(len(labels_N)), labels_N) if labels_N.ndim == 1 else
                        np.nonzero(labels_N))

    def counted(of_N: np.ndarray) -> list[int]:
        return np.bincount(class_P[of_N[image_P]], minlength=classes).tolist()

    rows: list[dict] = []
    counts = zip(counted(np.ones(len(right_a_N), bool)), counted(right_a_N), counted(right_b_N),
                 counted(right_a_N & ~right_b_N), counted(right_b_N & ~right_a_N), strict=True)
    for k, (count, right_a, right_b, only_a, only_b) in enumerate(counts):
        row = {'class': k, 'images': count, **dict.fromkeys(
            ('accuracy_a', 'accuracy_b', 'difference', 'low', 'high', 'p', 'p_holm'))}
        if count:
            low, high = paired_interval(only_a, only_b, count)
            row |= {'accuracy_a': right_a / count, 'accuracy_b': right_b / count,
                    'difference': (only_a - only_b) / count, 'low': low, 'high': high,
                    'p': mcnemar(only_a, only_b)}
        rows.append(row)
    tested = [row for row in rows if row['images']]
    for row, p in zip(tested, holm(np.array([row['p'] for row in tested])), strict=True):
        row['p_holm'] = float(p)
    return rows


def _answers(logits_NK: np.ndarray, labels_N: np.ndarray) -> dict[str, np.ndarray]:
    """Returns `answer`, `confidence` (0 to 1), `right` and `nll` (nats), each (N,)."""
    found = answers.answer(logits_NK, labels_N)
    return {'answer': found.predictions_N, 'confidence': found.confidences_N,
            'right': found.ranks_N == 0, 'nll': answers.nll(logits_NK, labels_N)}


def _bootstrap(values_DN: np.ndarray, seed: int) -> tuple[list, list]:
    """Returns the lower and the upper ends of the intervals of D means, None for one image."""
    from scipy import stats  # noqa: PLC0415  (0.6 s)

    count = values_DN.shape[1]
    if count == 1:
        return [None] * len(values_DN), [None] * len(values_DN)
    ends = stats.bootstrap(
        (values_DN,), np.mean, axis=-1, vectorized=True, method='percentile',
        confidence_level=LEVEL, n_resamples=min(RESAMPLES, max(1_000, DRAWS // count)),
        batch=max(1, 1_000_000 // count), rng=np.random.default_rng(seed)).confidence_interval
    return ends.low.tolist(), ends.high.tolist()


def _disagreements(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> list[dict]:
    """Returns the images whose answers differ, the most confident first, at most SHOWN."""
    images = np.flatnonzero(a['answer'] != b['answer'])
    sure = a['confidence'][images] + b['confidence'][images]
    return [{'image': i, **{f'{field}_{name}': model[field][i].item()
                            for name, model in (('a', a), ('b', b))
                            for field in ('answer', 'confidence', 'right')}}
            for i in images[np.argsort(-sure, kind='stable')][:SHOWN].tolist()]
