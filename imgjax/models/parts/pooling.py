"""Pooling over windows, with the borders that torch has."""

import functools
import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax

from imgjax.process import backend

Borders = Sequence[tuple[int, int]]  # pixels before and after, down and across


def max_pool(x_NHWC: jax.Array, window: int, strides: int, padding: int = 0,
             ceil: bool = False) -> jax.Array:
    """Maxima over square windows, as many as torch's.

    Args:
      padding: pixels on every side, which never are the maximum.
      ceil: whether the pixels left over below and on the right have windows of their own.

    Raises:
      ValueError: the image is smaller than a window.
    """
    pads = _pool_pads(x_NHWC.shape[1:3], window, strides, padding, ceil)
    if backend.platform() == 'onnx':  # jax2onnx loses borders that nn.max_pool is given
        x_NHWC, pads = _with_borders(x_NHWC, pads, -jnp.inf), ((0, 0), (0, 0))
    if backend.platform() != 'cpu':
        return _max_pool(x_NHWC, window, strides, pads)
    return _max_pool_cpu(x_NHWC, window, strides, tuple(pads))


def _with_borders(x_NHWC: jax.Array, pads: Borders, value: float) -> jax.Array:
    """lax.pad, of operations that jax2onnx has for a batch of any size."""
    for axis, (before, after) in enumerate(pads, 1):
        edges = (lax.slice_in_dim(x_NHWC, 0, count, axis=axis) for count in (before, after))
        first, last = (jnp.full_like(edge, value) for edge in edges)
        x_NHWC = jnp.concatenate([first, x_NHWC, last], axis=axis)
    return x_NHWC


def _max_pool(x_NHWC: jax.Array, window: int, strides: int, pads: Borders) -> jax.Array:
    return nn.max_pool(
        x_NHWC, window_shape=(window, window), strides=(strides, strides), padding=pads)


# XLA's CPU backend is slow at the gradient of nn.max_pool. Ties go to the first pixel of the
# window, as there.
_max_pool_cpu = jax.custom_jvp(_max_pool, nondiff_argnums=(1, 2, 3))


@_max_pool_cpu.defjvp
def _max_pool_jvp(window: int, strides: int, pads: Borders, primals: tuple,
                  tangents: tuple) -> tuple[jax.Array, jax.Array]:
    lowest = jnp.full((), -jnp.inf, primals[0].dtype)
    places = list(itertools.product(range(window), repeat=2))
    y_NHWC, tap_NHWC = None, None
    x_NHWC = lax.pad(primals[0], lowest, _borders(pads))
    for tap, place in enumerate(places):
        seen_NHWC = _seen(x_NHWC, place, window, strides)
        if tap == 0:
            y_NHWC, tap_NHWC = seen_NHWC, jnp.zeros(seen_NHWC.shape, jnp.uint8)
            continue
        tap_NHWC = jnp.where(seen_NHWC > y_NHWC, jnp.uint8(tap), tap_NHWC)
        y_NHWC = jnp.maximum(y_NHWC, seen_NHWC)
    zero = jnp.zeros((), primals[0].dtype)
    dx_NHWC = lax.pad(tangents[0], zero, _borders(pads))
    # Reverse mode transposes this, the last term first.
    return y_NHWC, functools.reduce(jnp.add, [
        jnp.where(tap_NHWC == tap, _seen(dx_NHWC, place, window, strides), zero)
        for tap, place in reversed(list(enumerate(places)))])


def _borders(pads: Borders) -> list[tuple[int, int, int]]:
    return [(0, 0, 0), *((*pad, 0) for pad in pads), (0, 0, 0)]


def _seen(x_NHWC: jax.Array, place: tuple[int, int], window: int, strides: int) -> jax.Array:
    """What every window has at one place."""
    (i, j), (N, H, W, C) = place, x_NHWC.shape
    ends = (N, H - window + i + 1, W - window + j + 1, C)
    return lax.slice(x_NHWC, (0, i, j, 0), ends, (1, strides, strides, 1))


def avg_pool(x_NHWC: jax.Array, window: int, strides: int, padding: int = 0) -> jax.Array:
    """Means over square windows, in which padding counts as zeros; ValueError as ``max_pool``."""
    pads = _pool_pads(x_NHWC.shape[1:3], window, strides, padding, False)
    # nn.avg_pool divides by an integer, which strict promotion refuses.
    if backend.platform() == 'onnx':  # jax2onnx has no nn.pooling.pool with borders
        with jax.numpy_dtype_promotion('standard'):
            return nn.avg_pool(_with_borders(x_NHWC, pads, 0.0), window_shape=(window, window),
                               strides=(strides, strides))
    total_NHWC = nn.pooling.pool(
        x_NHWC, 0.0, lax.add, (window, window), (strides, strides), pads)
    return total_NHWC * (1 / window**2)


def avg_pool_inside(x_NHWC: jax.Array, side: int) -> jax.Array:
    """Means of the squares of that side; where one is cut by the border, of the pixels it has."""
    # flax divides by a float32 count, which strict promotion refuses for a bfloat16 input.
    window = (side, side)
    y_NHWC = nn.avg_pool(
        x_NHWC.astype(jnp.float32), window_shape=window, strides=window, padding='SAME',
        count_include_pad=False)
    return y_NHWC.astype(x_NHWC.dtype)


def adaptive_avg_pool(x_NHWC: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Means over ``size`` windows, down and across, as torch's: they overlap where they must.

    A window reaches from the floor of its share of the image to the ceiling, so that ``size`` may
    be larger than the image, too.
    """
    y_NHWC = x_NHWC.astype(jnp.float32)
    for axis, out in enumerate(size, 1):
        side = x_NHWC.shape[axis]
        if side == out:
            continue
        i_O1, j_1L = np.arange(out)[:, None], np.arange(side)[None]
        start_O1, stop_O1 = i_O1 * side // out, -(-(i_O1 + 1) * side // out)
        share_OL = ((j_1L >= start_O1) & (j_1L < stop_O1)) / (stop_O1 - start_O1)
        terms = ('ol,nlwc->nowc', 'ol,nhlc->nhoc')[axis - 1]
        y_NHWC = jnp.einsum(terms, jnp.asarray(share_OL, jnp.float32), y_NHWC, precision='highest')
    return y_NHWC.astype(x_NHWC.dtype)


def _pool_pads(sides: Sequence[int], window: int, strides: int, padding: int,
               ceil: bool) -> Borders:
    pads = []
    for side in sides:
        room = side + 2 * padding - window
        extra = -room % strides if ceil else 0
        if room + extra >= side + padding:  # the last window would hold padding alone
            extra = 0
        if room + extra < 0:
            raise ValueError('the image is too small: {}x{} is left of it for a pooling of '
                             '{}x{}'.format(*sides, window, window))
        pads.append((padding, padding + extra))
    return pads
