"""All folds of a split but one, for out-of-fold predictions and cross-validation.

The examples of each class are dealt to the folds in turn, so that every fold has the classes of the
whole split in equal shares. The folds depend on the labels and on the number of folds, not on the
seed: runs with the folds 0 to K - 1 leave each example out exactly once. Each epoch has the other
examples once, in the order of `shuffle`.
"""

import functools

import numpy as np

from imgjax.config import Field
from imgjax.data import Source, check_labels_are_cheap
from imgjax.errors import ConfigError, DataError
from imgjax.samplers import Draw, shuffle, shuffled

OPTIONS = {
    'folds': Field(int, 2, 1000, default=5, help='number of folds'),
    'fold': Field(int, 0, 999, default=0, help='the fold that is left out, from 0'),
}


def order(source: Source, options: dict, seed: int) -> Draw:
    folds, fold = options['folds'], options['fold']
    if fold >= folds:
        raise ConfigError(f'config.sampler.options.fold: takes 0 to {folds - 1} with {folds} '
                          f'folds, got {fold}')
    check_labels_are_cheap(source, 'sampler.name=fold')
    rows = np.flatnonzero(folds_of(source.labels(), folds) != fold)
    draw = functools.partial(shuffle.draw, num_examples=len(rows), seed=seed)
    return lambda positions: rows[draw(positions)]


def folds_of(labels: np.ndarray, folds: int) -> np.ndarray:
    """Returns the fold of each example, int64 (N,).

    >>> import numpy as np
    >>> from imgjax.samplers import fold
    >>> fold.folds_of(np.array([0, 0, 0, 1, 1, 1]), folds=3)
    array([2, 0, 1, 1, 0, 2])

    Args:
      labels: int (N,), or (N, K) of 0 and 1; of several labels of an example the first counts.
      folds: the number of folds.

    Raises:
      DataError: there are fewer examples than folds.
    """
    if len(labels) < folds:
        raise DataError(f'{len(labels)} images are fewer than {folds} folds; take fewer folds')
    groups = labels if labels.ndim == 1 else labels.argmax(axis=1)
    # In a random order of the examples, as files in the order of their names are often alike.
    mixed = shuffled(len(labels), 0, 2**61)
    dealt = mixed[np.argsort(groups[mixed], kind='stable')]
    folds_N = np.empty(len(labels), np.int64)
    folds_N[dealt] = np.arange(len(labels)) % folds
    return folds_N
