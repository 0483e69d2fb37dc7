"""Few-shot accuracy: ridge regression to one-hot classes, on a few images per class.

It is the method of big_vision's evaluator `fewshot_lsr`
(https://github.com/google-research/big_vision): the images of a draw standardise the features.
"""

import math
from collections.abc import Sequence

import numpy as np

from imgjax.errors import ConfigError, DataError
from imgjax.evals.probes import check, standardise

SHOTS = (1, 5, 10, 25)


def measure(train_ND: np.ndarray, train_labels_N: np.ndarray, eval_ND: np.ndarray,
            eval_labels_N: np.ndarray, *, shots: Sequence[int] = SHOTS, seeds: int = 10,
            l2: float = 1.0, name: str = 'features') -> dict:
    """Returns the accuracy for each number of images per class.

    The result can be written as JSON:
      rows: a list with a dict per number of shots: `shots`; `mean` of the accuracy over the draws,
        0 to 1; `low` and `high`, the ends of its 95 % interval by Student's t over the draws, for
        the same images to evaluate on (None for one draw); `accuracies`, a list with one per draw.
      l2: the penalty per feature.
      notes: sentences on the shots that were left out.

    >>> import numpy as np
    >>> from imgjax.evals import few_shot
    >>> labels_N = np.arange(20) % 2
    >>> features_ND = np.random.default_rng(0).normal(size=(20, 4)) + 10 * labels_N[:, None]
    >>> found = few_shot.measure(features_ND, labels_N, features_ND, labels_N, shots=[1, 5])
    >>> [(row['shots'], row['mean']) for row in found['rows']]
    [(1, 1.0), (5, 1.0)]

    Args:
      train_ND, train_labels_N, eval_ND, eval_labels_N, name: see `probes.measure`; one class
        per image.
      shots: numbers of images per class. A number that a class does not have is left out.
      seeds: the number of draws, of the seeds from 0. A draw of more shots contains that of fewer.
      l2: the penalty of the squared weights is l2 x D, for the sum of squares over the images.

    Raises:
      ConfigError: images have several labels, or an argument is out of its range.
      DataError: as `probes.measure`; or a class has fewer images than the smallest number of shots.
    """
    from sklearn.linear_model import Ridge  # noqa: PLC0415  (1 s)

    if np.ndim(train_labels_N) == 2:
        raise ConfigError(f'{name}: labels of shape {np.shape(train_labels_N)}; few-shot least '
                          'squares takes one class per image')
    if not len(shots) or min(shots) < 1 or seeds < 1 or l2 <= 0:
        raise ConfigError(f'shots: {list(shots)}, seeds: {seeds}, l2: {l2}; give shots and seeds '
                          'from 1, and l2 above 0')
    classes = check(name, train_ND, train_labels_N, eval_ND, eval_labels_N)
    seen, counts = np.unique(train_labels_N, return_counts=True)
    fewest, smallest = int(counts.min()), int(seen[counts.argmin()])
    kept = sorted(count for count in set(shots) if count <= fewest)
    if not kept:
        raise DataError(f'{name}: class {smallest} has {fewest} training images, fewer than '
                        f'{min(shots)} shots; give more images or fewer shots')
    notes = [f'{count} shots are left out: class {smallest} has {fewest} training images.'
             for count in sorted(set(shots)) if count > fewest]
    accuracies = np.empty((len(kept), seeds))
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        members = [rng.permutation(np.flatnonzero(train_labels_N == one)) for one in seen]
        for row, count in enumerate(kept):
            drawn = np.concatenate([order[:count] for order in members])
            shots_ND, queries_ND = standardise(train_ND[drawn], train_ND[drawn], eval_ND)
            targets_NK = np.eye(classes, dtype=np.float32)[train_labels_N[drawn]]
            ridge = Ridge(alpha=l2 * train_ND.shape[1]).fit(shots_ND, targets_NK)
            answers_N = ridge.predict(queries_ND).argmax(axis=1)
            accuracies[row, seed] = (answers_N == eval_labels_N).mean()
    rows = [{'shots': count, **_over_draws(of_draws), 'accuracies': of_draws.tolist()}
            for count, of_draws in zip(kept, accuracies, strict=True)]
    return {'rows': rows, 'l2': l2, 'notes': notes}


def _over_draws(values_S: np.ndarray) -> dict:
    """Returns the mean of the values and the ends of its 95 % interval by Student's t."""
    from scipy import stats  # noqa: PLC0415  (0.6 s)

    mean, count = float(values_S.mean()), len(values_S)
    if count == 1:
        return {'mean': mean, 'low': None, 'high': None}
    half = float(stats.t.ppf(0.975, count - 1) * values_S.std(ddof=1)) / math.sqrt(count)
    return {'mean': mean, 'low': max(0.0, mean - half), 'high': min(1.0, mean + half)}
