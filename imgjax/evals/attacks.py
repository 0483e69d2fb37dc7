"""What the attacks on a model share: which images still stand, in chunks of few sizes, and loops.

An attack is a file with a function

    attack(predict, images_NHWC, labels_N, epsilon, *, norm, ...) -> Attacked

which looks for an image in the ball of radius epsilon (norm_balls.py) around each image that the
model answers wrongly. It works on the images that the model answers rightly, and goes on with those
that still stand. `predict` is a jax.tree_util.Partial, (images_NHWC, float32 in 0 to 1) ->
logits_NK, whose leaves are the parameters, so that nothing is compiled again for other parameters
or another epsilon.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from imgjax.errors import ConfigError, DataError
from imgjax.evals import chunks, norm_balls
from imgjax.evals.checks import check_logits, check_single_labels
from imgjax.process import backend

STEPS_AT_ONCE = 25  # of a loop on an accelerator, before it is asked which images still stand
SMALLER = 4  # a chunk of the next size has so many times fewer images


class Attacked(NamedTuple):
    """What an attack found.

    Attributes:
      images_NHWC: float32 (N, H, W, C) in 0 to 1: an image in the ball that is answered wrongly;
        the image itself where none was found, or where it was answered wrongly already.
      right_N: bool (N,), whether the image is still answered rightly.
    """

    images_NHWC: np.ndarray
    right_N: np.ndarray


class Chunk(NamedTuple):
    """Images that are attacked together; the last ones may be repeated to fill the chunk.

    Attributes:
      images_NHWC: float32, the images without a change.
      labels_N: int32, their classes.
      keys_N: a random key per image, a function of the seed, the image's index and the round.
    """

    images_NHWC: jax.Array
    labels_N: jax.Array
    keys_N: jax.Array


def rounds(one_round: Callable, predict: Callable, images_NHWC: np.ndarray, labels_N: np.ndarray, *,
           count: int = 1, seed: int = 0, indices_N: np.ndarray | None = None,
           at_once: int = 0) -> Attacked:
    """Attacks images in rounds, such as restarts or target classes, while they stand.

    Args:
      one_round: (chunk, number of the round) -> (images_NHWC, fell_N), the images that it found,
        and bool (N,), whether the model answers them wrongly.
      predict: (images_NHWC in 0 to 1) -> logits_NK.
      images_NHWC: float32 (N, H, W, C) in 0 to 1.
      labels_N: int (N,).
      count: the number of rounds.
      seed: of the random numbers.
      indices_N: int (N,), the indices of the images, of which their random numbers are functions;
        None counts them from 0.
      at_once: the most images of a chunk; 0 chooses by the free memory.
    """
    at_once = at_once or images_at_once(predict, images_NHWC)
    right_N = answers(predict, images_NHWC, labels_N, at_once) == labels_N
    indices_N = np.arange(len(labels_N)) if indices_N is None else indices_N
    found_NHWC = np.array(images_NHWC, np.float32)
    sizes = sizes_of(int(right_N.sum()), at_once)
    for number in range(count):
        for rows, real in padded(np.flatnonzero(right_N), sizes):
            chunk = chunk_of(images_NHWC, labels_N, indices_N, rows, seed, number)
            made_BHWC, fell_B = (np.asarray(part) for part in one_round(chunk, number))
            if fell_B.any():  # asked again, so that the answers are those that a user gets
                fell_B = fell_B & (_answers(predict, made_BHWC) != np.asarray(chunk.labels_N))
            fell = np.flatnonzero(fell_B[:real])
            found_NHWC[rows[fell]] = made_BHWC[fell]
            right_N[rows[fell]] = False
    return Attacked(found_NHWC, right_N)


def check(predict: Callable, images_NHWC: np.ndarray, labels_N: np.ndarray, epsilon: float,
          norm: str = 'linf') -> int:
    """Checks what every attack takes, and returns the number of classes.

    Raises:
      ConfigError: epsilon is negative or not finite, there is no such norm, or `predict` is no
        jax.tree_util.Partial.
      DataError: images are not (N, H, W, C) in 0 to 1, or the labels do not fit them.
    """
    if not isinstance(predict, jax.tree_util.Partial):  # it is an argument of compiled functions
        raise ConfigError('predict: takes a jax.tree_util.Partial, whose arrays are not compiled '
                          'in: Partial(lambda variables, images_NHWC: logits_NK, variables)')
    norm_balls.check_norm(norm)
    if not (np.isfinite(epsilon) and epsilon >= 0):
        raise ConfigError(f'epsilon: {epsilon}; give a finite number, 0 or more')
    if images_NHWC.ndim != 4 or not images_NHWC.size:
        raise DataError(f'images: shape {images_NHWC.shape}; give (images, height, width, '
                        'channels), at least one of each')
    if not (images_NHWC.min() >= 0 and images_NHWC.max() <= 1):  # NaN fails both comparisons
        raise DataError('images: pixels are not all within 0 to 1; divide bytes by 255')
    shape = jax.eval_shape(
        predict, jax.ShapeDtypeStruct((1, *images_NHWC.shape[1:]), jnp.float32)).shape
    check_single_labels(np.asarray(labels_N), len(images_NHWC), shape[1])
    return shape[1]


def check_count(name: str, count: int) -> None:
    """Raises ConfigError if a count is below 1."""
    if count < 1:
        raise ConfigError(f'{name}: {count}; give 1 or more')


def answers(predict: Callable, images_NHWC: np.ndarray, labels_N: np.ndarray,
            at_once: int) -> np.ndarray:
    """Returns the answer to each image, int32 (N,).

    Raises:
      DataError: logits are not finite.
    """
    found = []
    for rows, real in padded(np.arange(len(images_NHWC)), sizes_of(len(images_NHWC), at_once)[:1]):
        logits_NK = np.asarray(_logits(predict, images_NHWC[rows].astype(np.float32)))[:real]
        check_logits(logits_NK, np.asarray(labels_N)[rows[:real]])
        found.append(logits_NK.argmax(axis=1))
    return np.concatenate(found).astype(np.int32)


def images_at_once(predict: Callable, images_NHWC: np.ndarray) -> int:
    """Returns how many images have a gradient with respect to their pixels at one time."""
    image = jax.ShapeDtypeStruct((1, *images_NHWC.shape[1:]), jnp.float32)
    return chunks.images_at_once(_pixel_gradient, image, predict)


def _pixel_gradient(x_NHWC, predict: Callable):
    return jax.grad(lambda x_NHWC: predict(x_NHWC).sum())(x_NHWC)


def sizes_of(count: int, at_once: int) -> list[int]:
    """Returns the sizes of chunks for `count` images or fewer, the largest first.

    Each size is compiled on its own, so that there are three at most.

    >>> sizes_of(200, 128)
    [100, 25, 7]
    """
    largest = max(1, -(-count // max(1, -(-count // at_once))))
    return sorted({largest, -(-largest // SMALLER), -(-largest // SMALLER**2)}, reverse=True)


def padded(rows_N: np.ndarray, sizes: list[int]) -> Iterator[tuple[np.ndarray, int]]:
    """Yields (rows of a chunk, how many of them are real); the last real one fills the chunk."""
    while len(rows_N):
        size = min((size for size in sizes if size >= len(rows_N)), default=sizes[0])
        rows_B, rows_N = rows_N[:size], rows_N[size:]
        yield np.pad(rows_B, (0, size - len(rows_B)), mode='edge'), len(rows_B)


def chunk_of(images_NHWC: np.ndarray, labels_N: np.ndarray, indices_N: np.ndarray,
             rows: np.ndarray, seed: int, number: int) -> Chunk:
    """Returns the chunk of these rows for the round `number`."""
    return Chunk(jnp.asarray(images_NHWC[rows], jnp.float32),
                 jnp.asarray(labels_N[rows], jnp.int32),
                 _keys(np.uint32(seed), indices_N[rows].astype(np.uint32), np.uint32(number)))


def repeat(step: Callable, options: Any, state: Any, context: Any, steps: int,
           first: int = 0) -> Any:
    """Returns the state after some steps, or fewer where no image stands any more.

    XLA's CPU backend runs a convolution inside a loop 8 to 18 times slower, so that a step is a
    program of its own there.

    Args:
      step: (state, context, index, options) -> state, a function of a file.
      options: hashable, what the step is compiled for.
      state: NamedTuple of arrays with `standing_N`, bool (N,).
      context: pytree of arrays, what does not change.
      steps: how many.
      first: the index of the first step.
    """
    at_once = 1 if backend.platform() == 'cpu' else STEPS_AT_ONCE
    for start in range(first, first + steps, at_once):
        if not np.asarray(state.standing_N).any():
            break
        state = _steps(step, options, state, context, np.int32(start),
                       np.int32(min(at_once, first + steps - start)), looped=at_once > 1)
    return state


@functools.partial(jax.jit, static_argnames=('step', 'options', 'looped'))
def _steps(step, options, state, context, first, count, *, looped):
    if not looped:
        return step(state, context, first, options)
    return jax.lax.fori_loop(first, first + count,
                             lambda index, state: step(state, context, index, options), state)


@jax.jit
def _logits(predict, images_NHWC):
    return predict(images_NHWC).astype(jnp.float32)


def _answers(predict, images_NHWC) -> np.ndarray:
    return np.asarray(_logits(predict, images_NHWC)).argmax(axis=1)


@jax.jit
def _keys(seed, indices_N, number):
    key = jax.random.fold_in(jax.random.key(seed), number)
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, indices_N)


def cross_entropy(logits_NK: jax.Array, labels_N: jax.Array) -> jax.Array:
    """Returns the cross-entropy of each image in nats, float32 (N,)."""
    logits_NK = logits_NK.astype(jnp.float32)
    own_N = of_class(logits_NK, labels_N)
    return jax.nn.logsumexp(logits_NK, axis=1) - own_N


def of_class(logits_NK: jax.Array, labels_N: jax.Array) -> jax.Array:
    """Returns the logit of one class per image, (N,)."""
    return jnp.take_along_axis(logits_NK, labels_N[:, None], axis=1)[:, 0]


def others(logits_NK: jax.Array, labels_N: jax.Array) -> jax.Array:
    """Returns the logits (N, K) with -inf for the class of the label."""
    is_own_NK = jnp.arange(logits_NK.shape[1], dtype=jnp.int32)[None] == labels_N[:, None]
    return jnp.where(is_own_NK, -jnp.inf, logits_NK)


@jax.jit
def targets_of(predict: Callable, images_NHWC: jax.Array, labels_N: jax.Array,
               rank: jax.Array) -> jax.Array:
    """Returns the class of the largest logit but that of the label (rank 0), the next one, ...

    Returns:
      int32 (N,).
    """
    order_NK = jnp.argsort(-others(predict(images_NHWC).astype(jnp.float32), labels_N), axis=1)
    return order_NK.astype(jnp.int32)[:, rank]
