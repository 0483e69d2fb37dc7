"""Samplers: the order in which training reads the examples, one file each.

Training reads a stream of examples that has no end. A position is a place in this stream, counted
from 0: batch k has the positions k*N to k*N + N - 1. The example at a position is a function of
(seed, position) alone, not of the positions before it, so that a run can go on at any step, with
any number of processes.

A sampler is a file of this folder, or of the user's `projects/` folder, with

    def order(source, options, seed) -> draw

where draw(positions) returns the example index at each position, int64 of the shape of `positions`
(int64, 0 or more), and with OPTIONS, which are declared as for an objective (imgjax/objectives). No
sampler of the package imports JAX.
"""

from collections.abc import Callable

import numpy as np

Draw = Callable[[np.ndarray], np.ndarray]


def repeated(draw: Draw, batch_size: int, repeats: int) -> Draw:
    """Returns positions -> example indices such that a batch has each example `repeats` times.

    Row r of a batch has the same image as row r + N / repeats. The copies are far apart because
    mixup mixes neighbouring rows. Hoffer et al., `Augment your batch
    <https://arxiv.org/abs/1901.09335>`_, 2019.

    >>> import numpy as np
    >>> from imgjax import samplers
    >>> samplers.repeated(lambda positions: positions, batch_size=4, repeats=2)(np.arange(8))
    array([0, 1, 0, 1, 2, 3, 2, 3])

    Args:
      draw: what the `order` of a sampler returned.
      batch_size: N, the number of examples per batch over all processes; a multiple of repeats.
      repeats: how often a batch has each example.
    """
    distinct = batch_size // repeats

    def indices(positions: np.ndarray) -> np.ndarray:
        steps, rows = np.divmod(positions, batch_size)
        return draw(steps * distinct + rows % distinct)

    return indices


def shuffled(count: int, seed: int, stream: int) -> np.ndarray:
    """Returns a permutation of range(count), int64; another one for each seed and stream."""
    # It sorts raw bits, because NumPy promises that the bits of a generator never change, and does
    # not promise this of a shuffle. Grain's index_shuffle needs no memory, but takes 40 us per
    # index: at most 22,000 images per second.
    bits = np.random.Philox(key=[seed, stream]).random_raw(count)
    return np.argsort(bits, kind='stable')
