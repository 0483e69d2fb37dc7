"""What logits say: probabilities, the answer with its confidence, and the loss.

Everywhere `logits_NK` are finite float (N, K) and `labels` are int (N,), or (N, K) of 0 and 1 where
images have several labels. The probability of a class is the softmax of the logits, or the sigmoid
of its logit where images have several labels. Arrays are float64.
"""

from typing import NamedTuple

import numpy as np

from imgjax.evals.blocks import blocks


class Predictions(NamedTuple):
    """The answers of a model; classes are columns of the logits.

    Attributes:
      predictions_N: int64 (N,), the likeliest class, the first one of equals.
      confidences_N: float64 (N,), its probability, 0 to 1.
      ranks_N: int64 (N,), how many classes are likelier than the label, or than the likeliest one
        of several labels; 0 means that the answer is right. Of equals the first class is likelier.
        It is K for an image without labels.
    """

    predictions_N: np.ndarray
    confidences_N: np.ndarray
    ranks_N: np.ndarray


def answer(logits_NK: np.ndarray, labels: np.ndarray) -> Predictions:
    """Returns the answers of the logits."""
    from scipy import special  # noqa: PLC0415  (0.3 s)

    N, K = logits_NK.shape
    predictions_N, ranks_N, confidences_N = (np.zeros(N, dtype) for dtype in (int, int, float))
    for rows in blocks(N, K):
        logits_BK, labels_B = np.asarray(logits_NK[rows], np.float64), labels[rows]
        predictions_N[rows] = logits_BK.argmax(axis=1)
        top_B1 = logits_BK.max(axis=1, keepdims=True)
        if labels.ndim == 2:
            confidences_N[rows] = special.expit(top_B1[:, 0])
            own_B1 = np.where(labels_B > 0, logits_BK, -np.inf).argmax(axis=1)[:, None]
        else:
            confidences_N[rows] = 1 / np.exp(logits_BK - top_B1).sum(axis=1)
            own_B1 = labels_B[:, None]
        logit_B1 = np.take_along_axis(logits_BK, own_B1, axis=1)
        tied_BK = (logits_BK == logit_B1) & (np.arange(K)[None] < own_B1)
        ranks_N[rows] = ((logits_BK > logit_B1) | tied_BK).sum(axis=1)
    if labels.ndim == 2:
        ranks_N[~(labels > 0).any(axis=1)] = K
    return Predictions(predictions_N, confidences_N, ranks_N)


def probabilities(logits_NK: np.ndarray, multi_label: bool) -> np.ndarray:
    """Returns the probabilities of the classes, float64 (N, K)."""
    from scipy import special  # noqa: PLC0415  (0.3 s)

    logits_NK = np.asarray(logits_NK, np.float64)
    return special.expit(logits_NK) if multi_label else special.softmax(logits_NK, axis=1)


def nll(logits_NK: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Returns the negative log-likelihood of each image in nats, float64 (N,).

    It is computed from the logits: no probability is clipped. Where images have several labels it
    is the sum over the classes.
    """
    from scipy import special  # noqa: PLC0415  (0.3 s)

    nll_N = np.empty(len(logits_NK))
    for rows in blocks(*logits_NK.shape):
        logits_BK, labels_B = logits_NK[rows].astype(np.float64), labels[rows]
        if labels.ndim == 2:
            nll_N[rows] = (np.logaddexp(0, logits_BK) - (labels_B > 0) * logits_BK).sum(axis=1)
        else:
            nll_N[rows] = special.logsumexp(logits_BK, axis=1) - logits_BK[
                np.arange(len(labels_B)), labels_B]
    return nll_N
