"""Which example stands at which position of the endless stream of training.

A position is the global number of an example in that stream: batch k holds the positions k*N to
k*N + N - 1. What stands there is a function of (seed, position) and of nothing before it, so that
a run goes on anywhere, on any number of processes.
"""

import functools
from collections.abc import Callable

import numpy as np

from imgjax.data import Source

Sampler = Callable[[np.ndarray], np.ndarray]


def sampler(source: Source, options: dict, *, batch_size: int, seed: int) -> Sampler:
    """Returns positions -> example indices, int64 of the same shape.

    Args:
      source: the training split.
      options: plain config['data'], whose `sampler` and `aug_repeats` say how.
      batch_size: examples of a batch over all processes; a multiple of aug_repeats.
      seed: of the order.
    """
    if options['sampler'] == 'class_balanced':
        draw = balanced_order(_members(source), seed)
    else:
        draw = functools.partial(order, num_examples=len(source.examples), seed=seed)
    distinct = batch_size // options['aug_repeats']

    def indices(positions: np.ndarray) -> np.ndarray:
        # Repeated augmentation (Hoffer et al., arXiv:1901.09335): row r of a batch holds the same
        # image as row r + distinct. Far apart, as mixup pairs neighbours.
        steps, rows = np.divmod(positions, batch_size)
        return draw(steps * distinct + rows % distinct)

    return indices


def _shuffled(count: int, seed: int, stream: int) -> np.ndarray:
    # Sorting raw bits, as NumPy promises to keep a bit generator's stream but no shuffle of it.
    # Grain's index_shuffle needs no memory but 40 us an index: 22,000 images/s at best.
    bits = np.random.Philox(key=[seed, stream]).random_raw(count)
    return np.argsort(bits, kind='stable')


_epoch = functools.lru_cache(maxsize=4)(_shuffled)


def order(numbers: np.ndarray, num_examples: int, seed: int) -> np.ndarray:
    """Returns the example index of each draw, int64 of the same shape.

    Every epoch holds every example once, in an order of its own.
    """
    epochs, places = np.divmod(numbers, num_examples)
    indices = np.empty(numbers.shape, np.int64)
    for epoch in np.unique(epochs):
        here = epochs == epoch
        indices[here] = _epoch(num_examples, seed, int(epoch))[places[here]]
    return indices


@functools.lru_cache(maxsize=4)
def _cache(classes: int):
    """Returns `_shuffled` with room for two epochs of each class."""
    return functools.lru_cache(maxsize=2 * classes + 64)(_shuffled)


def balanced_order(members: list[np.ndarray], seed: int) -> Sampler:
    """Returns draws -> example indices in which all classes are equally frequent.

    Draws come in blocks that hold each class once, in an order of their own; a class goes through
    its examples as `order` does, so that a small one begins anew more often.

    Args:
      members: the example indices of each class, none of them empty.
      seed: of the order.
    """
    def index_of(number: int) -> int:
        shuffled = _cache(len(members))
        block, place = divmod(number, len(members))
        # Streams beyond those of `order`'s epochs: the blocks, then each class's own epochs.
        label = int(shuffled(len(members), seed, 2**62 + block)[place])
        own = members[label]
        epoch, row = divmod(block, len(own))
        return own[shuffled(len(own), seed, 2**63 + label * 2**40 + epoch)[row]]

    return lambda numbers: np.fromiter(
        map(index_of, numbers.ravel().tolist()), np.int64, numbers.size).reshape(numbers.shape)


def _members(source: Source) -> list[np.ndarray]:
    """Returns the indices of each class's examples, of the classes that have any."""
    labels = source.labels()
    if labels.ndim == 2:
        found = [np.flatnonzero(labels[:, label]) for label in range(labels.shape[1])]
    else:
        by_label = np.argsort(labels, kind='stable')
        borders = np.searchsorted(labels[by_label], np.arange(1, len(source.class_names)))
        found = np.split(by_label, borders)
    return [members for members in found if len(members)]
