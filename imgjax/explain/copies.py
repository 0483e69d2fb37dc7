"""The model on many versions of the same images, so many at once as fit."""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from imgjax.errors import DataError
from imgjax.evals import chunks

MOST = 256  # images that the model is given at once


def each(function: Callable, apply_fn: Callable, variables: Any, versions: Sequence[Callable],
         targets_N: np.ndarray, shape: tuple[int, ...]) -> Iterator[np.ndarray]:
    """Yields what a function gives for each version of N images, as NumPy arrays (N, ...).

    Args:
      function: (apply_fn, variables, images_BHWC, targets_B) -> an array (B, ...), one of those
        below; the images do not see each other.
      apply_fn: its first argument.
      variables: its second argument.
      versions: functions without arguments, each is called once, in their order, and returns one
        version, float32 (N, H, W, C).
      targets_N: int (N,), the class of each image.
      shape: (N, H, W, C).

    Raises:
      DataError: a value of the function is not finite.
    """
    targets_N = np.asarray(targets_N, np.int32)
    count = len(targets_N)
    fit = at_once(function, apply_fn, variables, shape)
    rows = min(count, fit)
    size = min(len(versions), fit // rows)  # versions at once, more than one if all images fit
    for first in range(0, len(versions), size):
        group = [np.asarray(version()) for version in versions[first:first + size]]
        # Copies of the last one fill a group up, and so the rows below: all have one shape.
        group_SNHWC = np.stack(group + [group[-1]] * (size - len(group)))
        parts = []
        for start in range(0, count, rows):
            chosen = np.minimum(np.arange(start, start + rows), count - 1)
            found = np.asarray(function(
                apply_fn, variables, group_SNHWC[:, chosen].reshape(-1, *shape[1:]),
                np.tile(targets_N[chosen], size)))
            if not np.isfinite(found).all():
                raise DataError(f'{function.__name__}: not finite; the model diverged: use an '
                                'earlier checkpoint')
            parts.append(found.reshape(size, rows, *found.shape[1:]))
        yield from np.concatenate(parts, axis=1)[:len(group), :count]


def at_once(function: Callable, apply_fn: Callable, variables: Any,
            shape: tuple[int, ...]) -> int:
    """Returns how many images of the shape (N, H, W, C) a function below is given at once."""
    image = jax.ShapeDtypeStruct((1, *shape[1:]), jnp.float32)
    target = jax.ShapeDtypeStruct((1,), jnp.int32)
    return chunks.images_at_once(chunks.bound(function, apply_fn), variables, image, target,
                                 most=MOST)


@functools.partial(jax.jit, static_argnums=0)
def gradient(apply_fn: Callable, variables: Any, images_NHWC, targets_N) -> jax.Array:
    """Returns the gradient of the target's logit at the image, float32 (N, H, W, C)."""
    # The images do not see each other: the gradient of the sum is that of each.
    return jax.grad(lambda images: logit(apply_fn, variables, images, targets_N).sum())(
        jnp.asarray(images_NHWC))


@functools.partial(jax.jit, static_argnums=0)
def logit(apply_fn: Callable, variables: Any, images_NHWC, targets_N) -> jax.Array:
    """Returns the target's logit, float32 (N,)."""
    logits_NK = logits(apply_fn, variables, images_NHWC, targets_N)
    return jnp.take_along_axis(logits_NK, targets_N[:, None], axis=1)[:, 0]


@functools.partial(jax.jit, static_argnums=0)
def logits(apply_fn: Callable, variables: Any, images_NHWC, targets_N) -> jax.Array:
    """Returns the logits of all classes, float32 (N, K); the targets have no effect."""
    del targets_N
    return apply_fn(variables, images_NHWC)[0].astype(jnp.float32)


@functools.partial(jax.jit, static_argnums=0)
def probability(apply_fn: Callable, variables: Any, images_NHWC, targets_N) -> jax.Array:
    """Returns the target's softmax probability, float32 (N,)."""
    probabilities_NK = jax.nn.softmax(logits(apply_fn, variables, images_NHWC, targets_N))
    return jnp.take_along_axis(probabilities_NK, targets_N[:, None], axis=1)[:, 0]
