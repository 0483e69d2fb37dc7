"""Selective classification: how the error falls when the least confident answers are left out.

The coverage is the share of images that get an answer, the most confident ones first; the risk is
the share of errors among these answers. Geifman et al. 2019
(https://arxiv.org/abs/1805.08206). Images of equal confidence have no order: each counts as the
mean over all orders, so that the results do not depend on how the images are sorted.
"""

import math

import numpy as np

from imgjax.errors import ConfigError
from imgjax.evals.checks import check_answers

COVERAGES = (1.0, 0.95, 0.9, 0.8, 0.5)
POINTS = 200  # of the curve in `measure`, at most
ROUNDING = 1e-9  # of a number of images: 0.29 * 100 is a little below 29 in floating point


def measure(confidences_N: np.ndarray, correct_N: np.ndarray) -> dict:
    """Measures what a rejection of the least confident answers is worth.

    >>> import numpy as np
    >>> from imgjax.evals import selective
    >>> found = selective.measure(np.array([0.9, 0.8, 0.7, 0.6]), np.array([1, 1, 1, 0]))
    >>> found['at'][0]['accuracy'], found['at'][-1]['accuracy']  # of all, of the surest half
    (0.75, 1.0)

    Args:
      confidences_N: float (N,), higher for the answers to keep: a probability or any other score.
      correct_N: bool (N,), or 0 and 1.

    Returns:
      images: the number of images.
      aurc: see `aurc`.
      excess_aurc: see `excess_aurc`.
      at: for each of COVERAGES a dict of coverage, images (the number that get an answer), accuracy
        (of these) and threshold (the least confidence among them).
      curve: at most 200 dicts of coverage, risk and threshold, by ascending coverage.

    Raises:
      DataError: the shapes do not fit, there are no images, or values are not finite.
    """
    risk_N = risk(confidences_N, correct_N)
    count = len(risk_N)
    descending_N = np.sort(np.asarray(confidences_N, np.float64))[::-1]
    at = []
    for coverage in COVERAGES:
        images = max(1, math.ceil(coverage * count))
        at.append({'coverage': coverage, 'images': images,
                   'accuracy': float(1 - risk_N[images - 1]),
                   'threshold': float(descending_N[images - 1])})
    shown = np.unique(np.linspace(0, count - 1, min(count, POINTS)).round().astype(int))
    curve = [{'coverage': float((i + 1) / count), 'risk': float(risk_N[i]),
              'threshold': float(descending_N[i])} for i in shown]
    return {'images': count, 'aurc': aurc(confidences_N, correct_N),
            'excess_aurc': excess_aurc(confidences_N, correct_N), 'at': at, 'curve': curve}


def risk(confidences_N: np.ndarray, correct_N: np.ndarray) -> np.ndarray:
    """Returns the curve, float64 (N,): entry i is the risk at coverage (i + 1) / N."""
    confidences_N, correct_N = check_answers(confidences_N, correct_N)
    _, group_N, size_G = np.unique(-confidences_N, return_inverse=True, return_counts=True)
    errors_G = np.bincount(group_N, 1 - correct_N)
    ranks_N = np.arange(1, len(correct_N) + 1)
    # Within a group of equal confidences the expected number of errors rises evenly.
    errors_N = np.interp(ranks_N, np.append(0, size_G.cumsum()), np.append(0, errors_G.cumsum()))
    return errors_N / ranks_N


def aurc(confidences_N: np.ndarray, correct_N: np.ndarray) -> float:
    """Returns the area under the risk-coverage curve: the mean risk over all N coverages."""
    return float(risk(confidences_N, correct_N).mean())


def excess_aurc(confidences_N: np.ndarray, correct_N: np.ndarray) -> float:
    """Returns by how much the area is above that of the best ranking, which has all errors last.

    0 for perfect confidences. The best area is the exact sum, not the integral by which Geifman et
    al. approximate it.
    """
    return aurc(confidences_N, correct_N) - aurc(np.asarray(correct_N, np.float64), correct_N)


def threshold(confidences_N: np.ndarray, share: float) -> float:
    """Returns the confidence below which `share` of these images lie.

    An answer is rejected where its confidence is below the threshold. Where equal confidences make
    the share impossible, fewer are rejected.

    >>> import numpy as np
    >>> from imgjax.evals import selective
    >>> selective.threshold(np.array([0.9, 0.8, 0.7, 0.6]), share=0.25)
    0.7

    Args:
      confidences_N: float (N,).
      share: of the images to reject, 0 to below 1.

    Raises:
      ConfigError: the share is out of its range.
      DataError: the shape does not fit, there are no images, or values are not finite.
    """
    if not 0 <= share < 1:
        raise ConfigError(f'share: takes 0 to below 1, the share of images to reject; got {share}')
    confidences_N, _ = check_answers(confidences_N, np.zeros(np.shape(confidences_N)))
    rejected = min(math.floor(share * len(confidences_N) + ROUNDING), len(confidences_N) - 1)
    return float(np.partition(confidences_N, rejected)[rejected])
