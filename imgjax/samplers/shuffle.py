"""Every epoch has every example once, in a random order of its own."""

import functools

import numpy as np

from imgjax.data import Source
from imgjax.samplers import Draw, shuffled

_epoch = functools.lru_cache(maxsize=4)(shuffled)


def order(source: Source, options: dict, seed: int) -> Draw:
    return functools.partial(draw, num_examples=len(source.examples), seed=seed)


def draw(numbers: np.ndarray, num_examples: int, seed: int) -> np.ndarray:
    """Returns the example index of each draw, int64 of the same shape.

    >>> import numpy as np
    >>> from imgjax.samplers import shuffle
    >>> shuffle.draw(np.arange(8), num_examples=4, seed=0)  # two epochs
    array([0, 2, 1, 3, 3, 2, 1, 0])
    """
    epochs, places = np.divmod(numbers, num_examples)
    indices = np.empty(numbers.shape, np.int64)
    for epoch in np.unique(epochs):
        here = epochs == epoch
        indices[here] = _epoch(num_examples, seed, int(epoch))[places[here]]
    return indices
