"""Nearest neighbours in a feature space: a classifier that trains nothing, and rows for a page.

Sources: Wu et al., "Unsupervised feature learning via non-parametric instance discrimination", CVPR
2018 (https://arxiv.org/abs/1805.01978), and Caron et al., "Emerging properties in
self-supervised vision transformers" (DINO), ICCV 2021 (https://arxiv.org/abs/2104.14294), which
gives the accuracy for k = 10, 20, 100 and 200.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from imgjax.errors import ConfigError, DataError
from imgjax.evals.checks import check_features, check_single_labels
from imgjax.evals.intervals import share_of
from imgjax.evals.representation import unit_rows

COUNTS = (1, 5, 10, 20, 50, 100, 200)
TEMPERATURE = 0.07
QUERY_ROWS = 512  # images whose similarities are in memory at one time,
BASE_ROWS = 8192  # to so many images: 16 MiB
HIGHEST = jax.lax.Precision.HIGHEST


def measure(base_ND: np.ndarray, base_labels_N: np.ndarray, query_ND: np.ndarray | None = None,
            query_labels_N: np.ndarray | None = None, *, counts: Sequence[int] = COUNTS,
            baseline_ND: tuple[np.ndarray, np.ndarray | None] | None = None,
            name: str = 'features') -> dict:
    """Returns the accuracy of k nearest neighbours by cosine similarity.

    The weighted vote of a neighbour is exp(similarity / 0.07), the unweighted vote 1; of classes
    with equal votes the smaller index wins. The result can be written as JSON:
      base_images, query_images, features: int.
      leave_one_out: bool, whether the base was classified by its other images.
      rows: a list with a dict per k: `k`, and for both votes the accuracy (0 to 1) with the ends of
        its 95 % Wilson interval: `weighted`, `weighted_low`, `weighted_high`, `unweighted`,
        `unweighted_low`, `unweighted_high`.
      baseline: the `rows` of the baseline; None without one.
      notes: sentences on what was left out.

    >>> import numpy as np
    >>> from imgjax.evals import neighbors
    >>> features_ND = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]])
    >>> found = neighbors.measure(features_ND, np.array([0, 0, 1, 1]), counts=[1])
    >>> found['rows'][0]['k'], found['rows'][0]['unweighted'], found['leave_one_out']
    (1, 1.0, True)

    Args:
      base_ND: float (N, D), features of the images that vote.
      base_labels_N: int (N,), their classes, from 0.
      query_ND: float (M, D), features of the images to classify. None classifies each image of the
        base by all others.
      query_labels_N: int (M,), their true classes.
      counts: the values of k; those above the number of neighbours are left out.
      baseline_ND: other features of the same images (base, query), such as the pixels or those of a
        network with random weights; (base, None) without a query.
      name: of the features, for errors.

    Raises:
      ConfigError: `counts` has no value or one below 1, or only one of the query's arrays is given.
      DataError: the arrays do not fit together, features are not finite, or the base has one class.
    """
    alone = query_ND is None
    if alone != (query_labels_N is None):
        raise ConfigError('query_ND and query_labels_N: give both, or none to leave one image out')
    if not len(counts) or min(counts) < 1:
        raise ConfigError(f'counts: {list(counts)}; give numbers of neighbours, 1 or more')
    _check(name, base_ND, base_labels_N)
    if len(np.unique(base_labels_N)) < 2:
        raise DataError(f'{name}: the images that vote have one class only; give two or more')
    if not alone:
        _check(f'{name} of the query', query_ND, query_labels_N)
    true_N = np.asarray(base_labels_N if alone else query_labels_N)
    there = len(base_ND) - alone
    kept = sorted(k for k in set(counts) if k <= there)
    if not kept:
        raise DataError(f'{name}: there are {there:,} neighbours, fewer than k = {min(counts)}; '
                        'give more images or a smaller k')
    indices_NC, similarities_NC = nearest(query_ND, base_ND, kept[-1])
    rows: list[dict] = []
    for k in kept:
        row: dict = {'k': k}
        for vote in ('weighted', 'unweighted'):
            answers_N = answers(np.asarray(base_labels_N)[indices_NC[:, :k]],
                                similarities_NC[:, :k], weighted=vote == 'weighted')
            row[vote], row[f'{vote}_low'], row[f'{vote}_high'] = share_of(answers_N == true_N)
        rows.append(row)
    baseline = None if baseline_ND is None else measure(
        baseline_ND[0], base_labels_N, baseline_ND[1], query_labels_N, counts=kept,
        name='baseline_ND')['rows']
    return {'base_images': len(base_ND), 'query_images': len(true_N),
            'features': int(base_ND.shape[1]), 'leave_one_out': alone, 'rows': rows,
            'baseline': baseline,
            'notes': [f'k = {k} is left out: there are {there:,} neighbours.'
                      for k in sorted(set(counts)) if k > there]}


def nearest(query_ND: np.ndarray | None, base_ND: np.ndarray,
            count: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the nearest neighbours by cosine similarity, the nearest first.

    Of neighbours that are exactly as similar the one with the smaller index comes first.

    >>> import numpy as np
    >>> from imgjax.evals import neighbors
    >>> base_ND = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
    >>> indices_MC, similarities_MC = neighbors.nearest(np.array([[2.0, 0.0]]), base_ND, 2)
    >>> indices_MC.tolist(), similarities_MC.shape
    ([[0, 1]], (1, 2))

    Args:
      query_ND: float (M, D). None takes the base, where no image is a neighbour of itself.
      base_ND: float (N, D). A row of zeros has the similarity 0 to all.
      count: how many neighbours to return, 1 to N, or to N - 1 without a query.

    Returns:
      Indices of the base, int32 (M, count), and similarities, float32 (M, count), -1 to 1.

    Raises:
      ConfigError: `count` is out of its range.
      DataError: features are not finite, or query and base differ in D.
    """
    alone = query_ND is None
    check_features('base_ND', base_ND)
    if not 1 <= count <= len(base_ND) - alone:
        raise ConfigError(f'count: {count}; there are {len(base_ND) - alone:,} neighbours')
    base_ND = unit_rows(base_ND)
    if alone:
        query_ND = base_ND
    else:
        check_features('query_ND', query_ND)
        if query_ND.shape[1] != base_ND.shape[1]:
            raise DataError(f'query_ND has {query_ND.shape[1]:,} features, base_ND '
                            f'{base_ND.shape[1]:,}; take both from the same layer')
        query_ND = unit_rows(query_ND)
    indices_MC = np.empty((len(query_ND), count), np.int32)
    similarities_MC = np.empty((len(query_ND), count), np.float32)
    blocks = [(first, jnp.asarray(block_ND)) for first, block_ND in _padded(base_ND, BASE_ROWS)]
    for first, query_QD in _padded(query_ND, QUERY_ROWS):
        best = (jnp.full((len(query_QD), count), -jnp.inf, jnp.float32),
                jnp.zeros((len(query_QD), count), jnp.int32))
        own = first if alone else -len(query_QD)  # a negative index is of no image
        for start, base_BD in blocks:
            best = _merge(best, query_QD, base_BD, np.int32(start), np.int32(len(base_ND)),
                          np.int32(own))
        rows = slice(first, min(first + len(query_QD), len(query_ND)))
        similarities_MC[rows], indices_MC[rows] = (
            np.asarray(values)[:rows.stop - first] for values in best)
    return indices_MC, np.clip(similarities_MC, -1, 1)


def answers(neighbor_labels_NC: np.ndarray, similarities_NC: np.ndarray, *,
            weighted: bool) -> np.ndarray:
    """Returns the class with the most votes for each image, int64 (N,).

    Args:
      neighbor_labels_NC: int (N, C), the classes of the neighbours, from 0.
      similarities_NC: float (N, C), cosine similarities.
      weighted: whether a vote is exp(similarity / 0.07), or 1. Of classes with equal votes the
        smaller index wins.
    """
    rows, classes = len(neighbor_labels_NC), int(neighbor_labels_NC.max()) + 1
    votes_NC = (np.exp(np.asarray(similarities_NC, np.float64) / TEMPERATURE) if weighted
                else np.ones(neighbor_labels_NC.shape))
    chosen_N = np.empty(rows, np.int64)
    step = max(1, 2**22 // classes)  # 32 MiB of votes at one time
    for first in range(0, rows, step):
        labels_BC = neighbor_labels_NC[first:first + step].astype(np.int64)
        cells_BC = labels_BC + classes * np.arange(len(labels_BC))[:, None]
        votes = np.bincount(cells_BC.ravel(), votes_NC[first:first + step].ravel(),
                            minlength=classes * len(labels_BC))
        chosen_N[first:first + step] = votes.reshape(-1, classes).argmax(axis=1)
    return chosen_N


def _check(name: str, features_ND: np.ndarray, labels_N: np.ndarray) -> None:
    check_features(name, features_ND)
    check_single_labels(np.asarray(labels_N), len(features_ND), name=f'{name}, labels')


def _padded(rows_ND: np.ndarray, most: int):
    """Yields (index of the first row, rows) in blocks of equal size; zeros fill the last one."""
    size = min(most, len(rows_ND))
    for first in range(0, len(rows_ND), size):
        block_ND = rows_ND[first:first + size]
        yield first, np.pad(block_ND, ((0, size - len(block_ND)), (0, 0)))


@jax.jit
def _merge(best, query_QD, base_BD, start, count, own):
    """Returns the nearest neighbours so far, joined with those of a block of the base.

    Args:
      best: similarities, float32 (Q, C), and indices, int32 (Q, C), the most similar first.
      query_QD: unit rows.
      base_BD: unit rows.
      start: the index of the block's first row.
      count: the number of rows of the base; the rows of the block after it are padding.
      own: the index of the first query in the base, where it is no neighbour of itself.
    """
    similarity_QB = jnp.matmul(query_QD, base_BD.T, precision=HIGHEST)
    index_B = start + jnp.arange(len(base_BD), dtype=jnp.int32)
    own_Q = own + jnp.arange(len(query_QD), dtype=jnp.int32)
    left_out_QB = (index_B[None] >= count) | (index_B[None] == own_Q[:, None])
    similarity_QB = jnp.where(left_out_QB, -jnp.inf, similarity_QB)
    similarity_QA = jnp.concatenate([best[0], similarity_QB], axis=1)
    index_QA = jnp.concatenate([best[1], jnp.broadcast_to(index_B[None], similarity_QB.shape)],
                               axis=1)
    # Of equal values top_k takes the one that stands first, which has the smaller index.
    similarity_QC, place_QC = jax.lax.top_k(similarity_QA, best[0].shape[1])
    return similarity_QC, jnp.take_along_axis(index_QA, place_QC, axis=1)
