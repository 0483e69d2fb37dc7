"""All classes are equally frequent, however many examples they have.

The draws are divided into blocks. Each block has every class once, in a random order of its own.
The examples of a class are drawn epoch by epoch, as `shuffle` does with the whole split, so that a
small class begins a new epoch more often.
"""

import functools

import numpy as np

from imgjax.data import Source, check_labels_are_cheap
from imgjax.samplers import Draw, shuffled


def order(source: Source, options: dict, seed: int) -> Draw:
    return balanced(_members(source), seed)


@functools.lru_cache(maxsize=4)
def _cache(classes: int):
    """Returns `shuffled` with a cache of two epochs per class."""
    return functools.lru_cache(maxsize=2 * classes + 64)(shuffled)


def balanced(members: list[np.ndarray], seed: int) -> Draw:
    """Returns draws -> example indices in which all classes are equally frequent.

    >>> import numpy as np
    >>> from imgjax.samplers import class_balanced
    >>> draw = class_balanced.balanced([np.array([0, 1, 2]), np.array([3])], seed=0)
    >>> draw(np.arange(8))  # example 3 is the only one of its class
    array([2, 3, 3, 1, 0, 3, 2, 3])

    Args:
      members: for each class an int64 array of the indices of its examples; none is empty.
      seed: decides the order.
    """
    def index_of(number: int) -> int:
        cached = _cache(len(members))
        block, place = divmod(number, len(members))
        # Streams that no epoch of `shuffle` uses: one per block, and one per epoch of each class.
        label = int(cached(len(members), seed, 2**62 + block)[place])
        own = members[label]
        epoch, row = divmod(block, len(own))
        return own[cached(len(own), seed, 2**63 + label * 2**40 + epoch)[row]]

    return lambda numbers: np.fromiter(
        map(index_of, numbers.ravel().tolist()), np.int64, numbers.size).reshape(numbers.shape)


def _members(source: Source) -> list[np.ndarray]:
    """Returns the indices of the examples of each class, without the classes that have none."""
    check_labels_are_cheap(source, 'sampler.name=class_balanced')
    labels = source.labels()
    if labels.ndim == 2:
        found = [np.flatnonzero(labels[:, label]) for label in range(labels.shape[1])]
    else:
        by_label = np.argsort(labels, kind='stable')
        borders = np.searchsorted(labels[by_label], np.arange(1, len(source.class_names)))
        found = np.split(by_label, borders)
    return [members for members in found if len(members)]
