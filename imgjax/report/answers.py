"""What the answers on a split say: intervals, confusions, per-class figures, calibration."""

import dataclasses
import math
import statistics

import numpy as np

CALIBRATION_BINS = 10


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What a model answered on every example of one split.

    Attributes:
        split: name of the split, such as 'test'.
        class_names: C names; labels and predictions index them.
        labels: int[N], the true classes.
        predictions: int[N], the classes of highest probability.
        confidences: float[N], the probability of the predicted class, 0 to 1.
        worst: the most confident errors, worst first, each a dict of `image` (PNG bytes), `label`
            and `prediction` (int), `confidence` (0 to 1) and `name`.
        loss: mean loss over the split, in nats.
        average_precisions: float[C], NaN for a class without examples, where images have several
            labels; `labels` then holds the one that an image is taken for.
    """

    split: str
    class_names: list[str]
    labels: np.ndarray
    predictions: np.ndarray
    confidences: np.ndarray
    worst: list[dict]
    loss: float
    average_precisions: np.ndarray | None = None


def check(evaluation: Evaluation) -> None:
    """Raises ValueError where the arrays differ in length or a class has no name."""
    n = len(evaluation.labels)
    for field in ('predictions', 'confidences'):
        if len(getattr(evaluation, field)) != n:
            raise ValueError(
                f'evaluation.{field} has {len(getattr(evaluation, field))} entries, labels {n}')
    classes = len(evaluation.class_names)
    for field in ('labels', 'predictions'):
        values = np.asarray(getattr(evaluation, field))
        if n and (values.min() < 0 or values.max() >= classes):
            raise ValueError(
                f'evaluation.{field} spans {values.min()} to {values.max()}, '
                f'but there are {classes} class names')


def wilson(correct: int, examples: int) -> tuple[float, float]:
    """Returns the Wilson score interval (95 %) of a proportion, (nan, nan) for no examples.

    Unlike the normal approximation it stays inside [0, 1] and keeps a width at 100 %. Wilson 1927,
    as scipy.stats computes it, which would add a second to the end of every run by its import.
    """
    if not examples:
        return math.nan, math.nan
    z = statistics.NormalDist().inv_cdf(0.975)
    share = correct / examples
    middle = share + z**2 / (2 * examples)
    half = z * math.sqrt(share * (1 - share) / examples + (z / (2 * examples)) ** 2)
    scale = 1 + z**2 / examples
    return max(0.0, (middle - half) / scale), min(1.0, (middle + half) / scale)


def confused_pairs(evaluation: Evaluation) -> list[dict]:
    """Returns the pairs of classes taken for one another, the most frequent first.

    Each is a dict of `label`, `prediction` (int), `count` and `share` (of the label's examples).
    """
    labels, predictions = np.asarray(evaluation.labels), np.asarray(evaluation.predictions)
    classes = len(evaluation.class_names)
    support = np.bincount(labels, minlength=classes)
    # Not a matrix: it would be gigabytes for the 21k classes of ImageNet-21k.
    wrong = labels != predictions
    codes, counts = np.unique(
        labels[wrong].astype(np.int64) * classes + predictions[wrong], return_counts=True)
    order = np.argsort(-counts, kind='stable')
    return [
        {'label': int(code // classes), 'prediction': int(code % classes), 'count': int(count),
         'share': count / support[code // classes]}
        for code, count in zip(codes[order], counts[order], strict=True)
    ]


def per_class(evaluation: Evaluation) -> list[dict]:
    """Returns, for every class, `examples`, `precision`, `recall`, `f1` and `confused`.

    A ratio of nothing is nan: the recall of a class without examples, the precision of one that
    was never predicted. Where images have several labels there is `average_precision`, else it is
    None. `confused` is the commonest wrong answer (a dict of `confused_pairs`) or
    None.
    """
    labels, predictions = np.asarray(evaluation.labels), np.asarray(evaluation.predictions)
    classes = len(evaluation.class_names)
    support = np.bincount(labels, minlength=classes)
    predicted = np.bincount(predictions, minlength=classes)
    hits = np.bincount(labels[labels == predictions], minlength=classes)
    confused = {}
    for pair in confused_pairs(evaluation):
        confused.setdefault(pair['label'], pair)
    precisions = evaluation.average_precisions
    ratio = lambda a, b: float(a / b) if b else math.nan  # noqa: E731
    return [
        {'index': i, 'name': name, 'examples': int(support[i]),
         'precision': ratio(hits[i], predicted[i]), 'recall': ratio(hits[i], support[i]),
         'f1': ratio(2 * hits[i], support[i] + predicted[i]), 'confused': confused.get(i),
         'average_precision': None if precisions is None else float(precisions[i])}
        for i, name in enumerate(evaluation.class_names)
    ]


def calibration(evaluation: Evaluation, bins: int = CALIBRATION_BINS) -> dict:
    """Returns the expected calibration error and the bins of equal width behind it.

    The result holds `ece` (0 to 1), `gap` (mean confidence less accuracy: positive for an
    over-confident model) and `bins`, each of `low`, `high`, `count`, `accuracy`, `confidence`.
    """
    confidences = np.asarray(evaluation.confidences, np.float64)
    hits = np.asarray(evaluation.labels) == np.asarray(evaluation.predictions)
    finite = np.isfinite(confidences)
    confidences, hits = confidences[finite], hits[finite]
    index = np.clip((confidences * bins).astype(np.int64), 0, bins - 1)
    table, ece = [], 0.0
    for i in range(bins):
        mine = index == i
        count = int(mine.sum())
        accuracy = float(hits[mine].mean()) if count else math.nan
        confidence = float(confidences[mine].mean()) if count else math.nan
        if count:
            ece += count / len(hits) * abs(accuracy - confidence)
        table.append({'low': i / bins, 'high': (i + 1) / bins, 'count': count,
                      'accuracy': accuracy, 'confidence': confidence})
    if not len(hits):
        return {'ece': math.nan, 'gap': math.nan, 'bins': table}
    return {'ece': ece, 'gap': float(confidences.mean() - hits.mean()), 'bins': table}
