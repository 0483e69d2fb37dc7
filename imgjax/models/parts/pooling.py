"""Pooling over windows, with torch's padding."""

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
    """Returns the maxima over square windows, with the output shape that torch gives.

    Args:
      x_NHWC: the map.
      window: side of a window.
      strides: step between two windows.
      padding: pixels on every side, which are never the maximum.
      ceil: whether the remaining pixels below and on the right get windows of their own.

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
    """Does what lax.pad does, by operations that jax2onnx has for a batch of any size."""
    for axis, (before, after) in enumerate(pads, 1):
        edges = (lax.slice_in_dim(x_NHWC, 0, count, axis=axis) for count in (before, after))
        first, last = (jnp.full_like(edge, value) for edge in edges)
        x_NHWC = jnp.concatenate([first, x_NHWC, last], axis=axis)
    return x_NHWC


def _max_pool(x_NHWC: jax.Array, window: int, strides: int, pads: Borders) -> jax.Array:
    return nn.max_pool(
        x_NHWC, window_shape=(window, window), strides=(strides, strides), padding=pads)


# XLA's CPU backend is slow at the gradient of nn.max_pool. As there, of equal maxima the first
# pixel of the window gets the gradient.
_max_pool_cpu = jax.custom_jvp(_max_pool, nondiff_argnums=(1, 2, 3))


@_max_pool_cpu.defjvp
def _max_pool_jvp(window: int, strides: int, pads: Borders, primals: tuple,
                  tangents: tuple) -> tuple[jax.Array, jax.Array]:
    lowest = jnp.full((), -jnp.inf, primals[0].dtype)
    places = list(itertools.product(range(window), repeat=2))
    y_NHWC, tap_NHWC = None, None
    x_NHWC = lax.pad(primals[0], lowest, _borders(pads))
    for tap, place in enumerate(places):
        pixel_NHWC = _pixels_at(x_NHWC, place, window, strides)
        if tap == 0:
            y_NHWC, tap_NHWC = pixel_NHWC, jnp.zeros(pixel_NHWC.shape, jnp.uint8)
            continue
        tap_NHWC = jnp.where(pixel_NHWC > y_NHWC, jnp.uint8(tap), tap_NHWC)
        y_NHWC = jnp.maximum(y_NHWC, pixel_NHWC)
    zero = jnp.zeros((), primals[0].dtype)
    dx_NHWC = lax.pad(tangents[0], zero, _borders(pads))
    # Reverse mode transposes this, the last term first.
    return y_NHWC, functools.reduce(jnp.add, [
        jnp.where(tap_NHWC == tap, _pixels_at(dx_NHWC, place, window, strides), zero)
        for tap, place in reversed(list(enumerate(places)))])


def _borders(pads: Borders) -> list[tuple[int, int, int]]:
    return [(0, 0, 0), *((*pad, 0) for pad in pads), (0, 0, 0)]


def _pixels_at(x_NHWC: jax.Array, place: tuple[int, int], window: int, strides: int) -> jax.Array:
    """Returns the pixel at one place of every window."""
    (i, j), (N, H, W, C) = place, x_NHWC.shape
    ends = (N, H - window + i + 1, W - window + j + 1, C)
    return lax.slice(x_NHWC, (0, i, j, 0), ends, (1, strides, strides, 1))


def avg_pool(x_NHWC: jax.Array, window: int, strides: int, padding: int = 0) -> jax.Array:
    """Returns the means over square windows; padding counts as zeros. Else as ``max_pool``."""
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
    """Returns the means over squares of that side; at the border over the pixels inside the map."""
    # flax divides by a float32 count, which strict promotion refuses for a bfloat16 input.
    window = (side, side)
    y_NHWC = nn.avg_pool(
        x_NHWC.astype(jnp.float32), window_shape=window, strides=window, padding='SAME',
        count_include_pad=False)
    return y_NHWC.astype(x_NHWC.dtype)


def adaptive_avg_pool(x_NHWC: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Returns the means over (rows, columns) = ``size`` windows, as torch's AdaptiveAvgPool2d.

    Window i of n over a side of L pixels reaches from floor(i L / n) to ceil((i + 1) L / n), so
    windows may overlap, and ``size`` may be larger than the map.
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
