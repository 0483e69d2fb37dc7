"""Statistics of the answers on a split: intervals, confusions, classes and calibration."""

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
            labels; `labels` then holds one label per image, see `report/run.py`. None where every
            image has one label.
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
    """Checks that the arrays fit together.

    Raises:
        ValueError: the arrays differ in length, or a label or prediction has no class name.
    """
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
    """Returns the Wilson score interval (95 %) of a proportion; (nan, nan) without examples.

    Unlike the normal approximation it stays inside [0, 1], and its width is above 0 at 100 %. The
    formula is Wilson's of 1927. scipy.stats has it too, but importing scipy would add a second to
    the end of every run.
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
    """Returns the pairs (true class, wrong answer), the most frequent pair first.

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

    The list has C dicts, in the order of the classes, which also hold `index` and `name`. A ratio
    whose denominator is 0 is nan: the recall of a class without examples, the precision of a class
    that was never predicted. `average_precision` is a float where images have several labels, and
    None otherwise. `confused` is the most frequent wrong answer for the class (a dict of
    `confused_pairs`), or None if there was no error.
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
    """Returns the expected calibration error and the bins of equal width that it is computed from.

    The result holds `ece` (0 to 1), `gap` (mean confidence minus accuracy, positive for an
    over-confident model) and `bins`, each a dict of `low`, `high`, `count`, `accuracy` and
    `confidence`. Examples whose confidence is not finite are left out.
    """
    confidences = np.asarray(evaluation.confidences, np.float64)
    hits = np.asarray(evaluation.labels) == np.asarray(evaluation.predictions)
    finite = np.isfinite(confidences)
    confidences, hits = confidences[finite], hits[finite]
    index = np.clip((confidences * bins).astype(np.int64), 0, bins - 1)
    table, ece = [], 0.0
    for i in range(bins):
        in_bin = index == i
        count = int(in_bin.sum())
        accuracy = float(hits[in_bin].mean()) if count else math.nan
        confidence = float(confidences[in_bin].mean()) if count else math.nan
        if count:
            ece += count / len(hits) * abs(accuracy - confidence)
        table.append({'low': i / bins, 'high': (i + 1) / bins, 'count': count,
                      'accuracy': accuracy, 'confidence': confidence})
    if not len(hits):
        return {'ece': math.nan, 'gap': math.nan, 'bins': table}
    return {'ece': ece, 'gap': float(confidences.mean() - hits.mean()), 'bins': table}
