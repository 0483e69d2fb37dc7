"""How well a score tells strangers from familiar images.

A score (ood_scores.py) is higher for stranger images. An image is rejected if its score is above a
threshold. The measures do not depend on the choice of a threshold; strangers are the positives:

  auroc          the probability that a stranger has the higher score than a familiar image, where
                 equal ones count one half; 0.5 is guessing, 1 the best
  aupr_strange   the area under precision over recall, where strangers are to be found; guessing
                 gives the share of strangers
  aupr_familiar  the same where familiar images are to be found, by low scores
  fpr95          the share of familiar images that are rejected where at least 95 % of the strangers
                 are; 0 is the best

Hendrycks and Gimpel, ICLR 2017 (https://arxiv.org/abs/1610.02136), and Liang et al., ICLR 2018
(https://arxiv.org/abs/1706.02690). Areas are by trapezoids. pytorch-ood 0.4.0 and scikit-learn give
the same numbers; other authors let familiar images be the positives of fpr95.
"""

import re
from collections.abc import Sequence

import numpy as np

from imgjax.errors import ConfigError, DataError, first_few
from imgjax.evals.intervals import draws, percentiles

MEASURES = ('auroc', 'aupr_strange', 'aupr_familiar', 'fpr95')
DRAWS = 500  # of a bootstrap
FOUND = 0.95  # share of the strangers, for fpr95
ROUNDING = 1e-9  # between areas that are equal


def measure(familiar_N: np.ndarray, strange_M: np.ndarray, seed: int = 0) -> dict:
    """Measures one score on one kind of strangers.

    >>> import numpy as np
    >>> from imgjax.evals import ood
    >>> found = ood.measure(np.array([0.1, 0.2, 0.3, 0.4]), np.array([0.35, 0.8, 0.9, 1.0]))
    >>> round(found['auroc']['value'], 4), found['fpr95']['value']
    (0.9375, 0.25)

    Args:
      familiar_N: float (N,), the scores of familiar images.
      strange_M: float (M,), the scores of strangers.
      seed: of the bootstrap, which draws familiar images and strangers anew.

    Returns:
      For each of MEASURES a dict of value, low and high: the 95 % interval by percentiles of 500
      draws.

    Raises:
      DataError: there are no familiar images or no strangers, or a score is not finite.
    """
    familiar_N, strange_M = _checked(familiar_N, strange_M)
    drawn = [_measures(familiar_N, strange_M, *counts) for counts in zip(
        _draws(len(familiar_N), seed, 0), _draws(len(strange_M), seed, 1), strict=True)]
    value = _measures(familiar_N, strange_M, np.ones((len(familiar_N), 1), np.int64),
                      np.ones((len(strange_M), 1), np.int64))
    found = {}
    for name in MEASURES:
        low, high = percentiles(np.concatenate([block[name] for block in drawn]))
        found[name] = {'value': float(value[name][0]), 'low': low, 'high': high}
    return found


def curve(familiar_N: np.ndarray, strange_M: np.ndarray, shares: Sequence[float]) -> list[float]:
    """Returns which share of strangers is rejected where a share of familiar images is.

    Args:
      familiar_N, strange_M: as `measure` takes them.
      shares: of the familiar images that are rejected, 0 to 1; where equal scores make a share
        impossible, fewer are rejected.

    Raises:
      DataError: as `measure` raises it.
    """
    familiar_N, strange_M = _checked(familiar_N, strange_M)
    descending_N = np.append(np.sort(familiar_N)[::-1], -np.inf)
    at = [min(int(share * len(familiar_N) + ROUNDING), len(familiar_N)) for share in shares]
    return [float((strange_M > descending_N[place]).mean()) for place in at]


def chosen(means: dict[str, float]) -> str:
    """Returns the score with the largest mean auroc; of equal ones the first, the simplest.

    Args:
      means: {score: mean auroc over the kinds of strangers}, the simplest score first.
    """
    best = max(means.values())
    return next(name for name, value in means.items() if value >= best - ROUNDING)


def check_strangers(names: Sequence[str], class_names: Sequence[str]) -> None:
    """Checks that a set of strangers has no class of the model.

    Names are compared without case, blanks, '_' and '-'.

    Args:
      names: of the classes of the strangers; () where they have none, which nothing can check.
      class_names: of the model.

    Raises:
      ConfigError: the sets share a class.
    """
    known = {_plain(name) for name in class_names}
    shared = [name for name in names if _plain(name) in known]
    if shared:
        which = ', '.join(map(str, shared[:3])) + (', ...' if len(shared) > 3 else '')
        raise ConfigError(f'--strangers: {len(shared):,} of its {len(names):,} classes are classes '
                          f'of the model ({which}), so that their images are no strangers; leave '
                          'them out, or rename those that mean something else')


def _plain(name: str) -> str:
    return re.sub(r'[\s_-]', '', str(name)).casefold()


def _checked(familiar_N: np.ndarray, strange_M: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    checked = []
    for name, scores_N in (('familiar', familiar_N), ('strange', strange_M)):
        scores_N = np.asarray(scores_N, np.float64)
        if scores_N.ndim != 1 or not scores_N.size:
            raise DataError(f'{name}: shape {scores_N.shape}; give the scores of one image or more')
        bad = np.flatnonzero(~np.isfinite(scores_N))
        if len(bad):
            raise DataError(f'{name}: not finite for {len(bad):,} of {len(scores_N):,} images '
                            f'(image {first_few(bad, 3)}); leave these images out')
        checked.append(scores_N)
    return checked[0], checked[1]


def _draws(images: int, seed: int, number: int) -> list[np.ndarray]:
    """Returns the draws, int64 (N, D), in blocks of 50."""
    rng = np.random.default_rng([seed, number])
    counts_ND = np.concatenate(list(draws(images, DRAWS, rng)), axis=1)
    return np.split(counts_ND, 10, axis=1)


def _measures(familiar_N: np.ndarray, strange_M: np.ndarray, familiar_ND: np.ndarray,
              strange_MD: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the measures, float64 (D,), of draws that have each image as often as counted."""
    scores_S = np.concatenate([familiar_N, strange_M])
    order_S = np.argsort(-scores_S, kind='stable')
    sorted_S = scores_S[order_S]
    starts_G = np.flatnonzero(np.append(True, sorted_S[1:] != sorted_S[:-1]))
    right_GD = np.add.reduceat(np.concatenate([0 * familiar_ND, strange_MD])[order_S], starts_G)
    wrong_GD = np.add.reduceat(np.concatenate([familiar_ND, 0 * strange_MD])[order_S], starts_G)
    false_GD = _from_zero(wrong_GD) / len(familiar_N)
    true_GD = _from_zero(right_GD) / len(strange_M)
    first_D = (true_GD >= FOUND).argmax(axis=0)
    return {'auroc': _area(false_GD, true_GD), 'aupr_strange': _precision_area(right_GD, wrong_GD),
            'aupr_familiar': _precision_area(wrong_GD[::-1], right_GD[::-1]),
            'fpr95': np.take_along_axis(false_GD, first_D[None], axis=0)[0]}


def _from_zero(counts_GD: np.ndarray) -> np.ndarray:
    """Returns the cumulative sums, float64 (G + 1, D), from 0 on."""
    return np.concatenate([np.zeros((1, counts_GD.shape[1])), counts_GD.cumsum(axis=0)])


def _precision_area(right_GD: np.ndarray, wrong_GD: np.ndarray) -> np.ndarray:
    right_GD, wrong_GD = _from_zero(right_GD), _from_zero(wrong_GD)
    all_GD = right_GD + wrong_GD
    # Before the first image the precision is 1, as in scikit-learn.
    precision_GD = np.where(all_GD > 0, right_GD / np.maximum(all_GD, 1), 1)
    return _area(right_GD / right_GD[-1:], precision_GD)


def _area(x_GD: np.ndarray, y_GD: np.ndarray) -> np.ndarray:
    return (np.diff(x_GD, axis=0) * (y_GD[1:] + y_GD[:-1])).sum(axis=0) / 2
