"""Mean average precision, for images that have several labels.

The average precision of a class is the area under its precision-recall curve, without interpolation
(scikit-learn's definition); the mean is over the classes that have at least one image.
"""

import numpy as np

from imgjax.metrics import Metric

METRICS = {'mean_average_precision': Metric(percent=True)}
MULTI_LABEL = True


def per_example(logits_NK, targets_NK, out, hparams):
    return {}


def summary(columns):
    return {'mean_average_precision': mean(columns['labels'], columns['probabilities'])}


def mean(labels_NK: np.ndarray, probabilities_NK: np.ndarray) -> float | None:
    """Returns the mean average precision over the classes that have positive images.

    Args:
      labels_NK: above 0 for a label of the image.
      probabilities_NK: float; if one is not finite, the function returns None.
    """
    if not np.isfinite(probabilities_NK).all():
        return None
    return float(np.nanmean(by_class(labels_NK, probabilities_NK)))


def by_class(labels_NK: np.ndarray, probabilities_NK: np.ndarray) -> np.ndarray:
    """Returns the average precision of each class, float64 (K,); NaN without positive images."""
    from sklearn.metrics import average_precision_score  # takes seconds to import

    return np.array([
        average_precision_score(label_N, score_N) if label_N.any() else np.nan
        for label_N, score_N in zip(labels_NK.T > 0, probabilities_NK.T, strict=True)])
