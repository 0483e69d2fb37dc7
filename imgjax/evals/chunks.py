"""How many images are worked on at one time, by the memory that is free."""

import functools
import math
from collections.abc import Callable, Iterator

import jax
import numpy as np

from imgjax.perf import flops
from imgjax.process import backend

SHARE = 4  # of the free memory a chunk takes at most 1 / SHARE
UNKNOWN = 2**30  # bytes that are taken to be free where it is not known


def images_at_once(function: Callable, *args, most: int = 256) -> int:
    """Returns how many images a chunk has, a power of two, at most `most`.

    It counts the bytes of all arrays that `function` computes for one image, as if none of them
    was freed before the end: so much does a gradient take, and less does a forward pass.

    >>> images_at_once(lambda image_NHWC: 2 * image_NHWC, jax.ShapeDtypeStruct((1, 8, 8, 3), 'f4'))
    256

    Args:
      function: what is done with a chunk; it is traced and not run, once per function and shapes,
        so that the same function should be given each time.
      *args: its arguments for one image, arrays or jax.ShapeDtypeStruct.
      most: the largest answer.
    """
    free = backend.free_memory(jax.local_devices()) or UNKNOWN
    leaves, tree = jax.tree.flatten(args)
    per_image = _bytes_of(function, tree, tuple(
        (np.shape(leaf), jax.dtypes.canonicalize_dtype(leaf.dtype)) for leaf in leaves))
    return 2 ** int(math.log2(max(1, min(most, free // SHARE // per_image))))


def chunks(count: int, size: int) -> Iterator[slice]:
    """Yields the rows of each chunk; the last one may be shorter."""
    for first in range(0, count, size):
        yield slice(first, min(first + size, count))


@functools.lru_cache(maxsize=64)
def _bytes_of(function: Callable, tree, shapes: tuple) -> int:
    args = tree.unflatten([jax.ShapeDtypeStruct(*one) for one in shapes])
    return max(1, _bytes(jax.make_jaxpr(function)(*args).jaxpr))


@functools.lru_cache(maxsize=64)
def bound(function: Callable, first: Callable) -> Callable:
    """Returns a function with its first argument bound, the same one each time."""
    return functools.partial(function, first)


def _bytes(jaxpr) -> int:
    """Returns the bytes of all arrays that the equations compute, those inside of calls, too."""
    total = 0
    for equation in jaxpr.eqns:
        total += sum(_bytes(getattr(inner, 'jaxpr', inner))
                     for inner in flops.inner_jaxprs(equation.params))
        total += sum(variable.aval.size * variable.aval.dtype.itemsize
                     for variable in equation.outvars if hasattr(variable.aval, 'size'))
    return total
