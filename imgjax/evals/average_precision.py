"""Recall and mean average precision of the draws of a bootstrap, for images with several labels.

`imgjax.metrics.mean_average_precision` computes the value of a set. Here it is computed for
hundreds of draws, without sorting each of them.
"""

import numpy as np

from imgjax.evals.intervals import draws


def drawn_rates(logits_NK: np.ndarray, labels_NK: np.ndarray, count: int,
                rng: np.random.Generator) -> np.ndarray:
    """Returns macro recall, micro recall and mean average precision of each draw, float64 (3, D).

    Args:
      logits_NK: float (N, K); a class is answered where its logit is above 0.
      labels_NK: bool (N, K).
      count: D, the number of draws.
      rng: of the draws.
    """
    N, K = labels_NK.shape
    labels_KN = labels_NK.T.astype(np.float32)
    hits_KN = (labels_NK & (logits_NK > 0)).T.astype(np.float32)
    counts = np.uint16 if N < 2**16 else np.uint32  # a draw has N images: no sum is above N
    found = []
    for block_ND in draws(N, count, rng):
        drawn_ND = np.ascontiguousarray(block_ND, counts)
        hits_DK, support_DK = ((one_KN @ drawn_ND.astype(np.float32)).T
                               for one_KN in (hits_KN, labels_KN))
        precision_DK = np.stack([average_precisions(logits_NK[:, k], labels_NK[:, k], drawn_ND)
                                 for k in range(K)], axis=1)
        found.append([mean_share(hits_DK, support_DK),
                      hits_DK.sum(axis=1) / np.maximum(support_DK.sum(axis=1), 1),
                      mean_share(precision_DK * support_DK, support_DK)])
    return np.concatenate(found, axis=1)


def average_precisions(scores_N: np.ndarray, labels_N: np.ndarray,
                       drawn_ND: np.ndarray) -> np.ndarray:
    """Returns the average precision of a class in each draw, float64 (D,); 0 without positives.

    Args:
      scores_N: float (N,).
      labels_N: bool (N,).
      drawn_ND: uint16 or uint32 (N, D), how many times an image is in each draw. The type holds
        the sum of a draw.
    """
    if not labels_N.any():
        return np.zeros(drawn_ND.shape[1])
    order_N = np.argsort(-scores_N, kind='stable')
    group_N = np.cumsum(np.diff(scores_N[order_N], prepend=np.inf) != 0)  # 1.. of equal scores
    positive_N = labels_N[order_N]
    # Precision counts only at the scores of positive images.
    groups_P, first_P = np.unique(group_N[positive_N], return_index=True)
    ends_P = np.searchsorted(group_N, groups_P, side='right')
    starts_P = np.concatenate([[0], ends_P[:-1]])
    drawn_PD, positive_PD = (
        np.add.reduceat(drawn_ND[rows], starts, axis=0, dtype=drawn_ND.dtype)
        for rows, starts in ((order_N[:ends_P[-1]], starts_P), (order_N[positive_N], first_P)))
    found_PD, answered_PD = (np.cumsum(one_PD, axis=0, dtype=drawn_ND.dtype)
                             for one_PD in (positive_PD, drawn_PD))
    precision_PD = np.divide(found_PD, np.maximum(answered_PD, 1), dtype=np.float32)
    return (positive_PD * precision_PD).sum(axis=0, dtype=np.float64) / np.maximum(found_PD[-1], 1)


def mean_share(part_DC: np.ndarray, whole_DC: np.ndarray) -> np.ndarray:
    """Returns the mean over the classes of part / whole, without the classes whose whole is 0."""
    shares_DC = part_DC / np.maximum(whole_DC, 1)
    return shares_DC.sum(axis=1) / np.maximum((whole_DC > 0).sum(axis=1), 1)
