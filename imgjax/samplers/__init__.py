"""Samplers: which example stands at which position of the stream of training, one file each.

The stream has no end. A position is the global number of an example in it: batch k holds the
positions k*N to k*N + N - 1. What stands there is a function of (seed, position) and of nothing
before it, so that a run goes on anywhere, on any number of processes.

A sampler is a file of this folder, or of the user's `projects/` folder, with

    def order(source, options, seed) -> draw

where draw(numbers) returns the example index of each draw, int64 of the shape of `numbers` (int64,
from 0 on), and OPTIONS as of an objective (imgjax/objectives). Nothing here imports JAX.
"""

from collections.abc import Callable

import numpy as np

Draw = Callable[[np.ndarray], np.ndarray]


def repeated(draw: Draw, batch_size: int, repeats: int) -> Draw:
    """Returns positions -> example indices where a batch holds each example `repeats` times.

    Row r of a batch holds the same image as row r + N / repeats: far apart, as mixup pairs
    neighbours. Hoffer et al., `Augment your batch <https://arxiv.org/abs/1901.09335>`_, 2019.

    Args:
      draw: of a sampler.
      batch_size: N, examples of a batch over all processes; a multiple of repeats.
      repeats: 1 holds each once.
    """
    distinct = batch_size // repeats

    def indices(positions: np.ndarray) -> np.ndarray:
        steps, rows = np.divmod(positions, batch_size)
        return draw(steps * distinct + rows % distinct)

    return indices


def shuffled(count: int, seed: int, stream: int) -> np.ndarray:
    """Returns a permutation of range(count), int64; another one for each seed and stream."""
    # Sorting raw bits, as NumPy promises to keep a bit generator's stream but no shuffle of it.
    # Grain's index_shuffle needs no memory but 40 us an index: 22,000 images/s at best.
    bits = np.random.Philox(key=[seed, stream]).random_raw(count)
    return np.argsort(bits, kind='stable')
