"""Pooling over windows, with the borders that torch has."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax

from imgjax import backend


def max_pool(x_NHWC, window: int, strides: int, padding: int = 0, ceil: bool = False):
    """Maxima over square windows, as many as torch's.

    Args:
      padding: pixels on every side, which never are the maximum.
      ceil: whether the pixels left over below and on the right have windows of their own.

    Raises:
      ValueError: the image is smaller than a window.
    """
    pads = _pool_pads(x_NHWC.shape[1:3], window, strides, padding, ceil)
    if backend.platform() != 'cpu':
        return _max_pool(x_NHWC, window, strides, pads)
    return _max_pool_cpu(x_NHWC, window, strides, tuple(pads))


def _max_pool(x_NHWC, window, strides, pads):
    return nn.max_pool(
        x_NHWC, window_shape=(window, window), strides=(strides, strides), padding=pads)


# XLA's CPU backend is slow at the gradient of nn.max_pool. Ties go to the first pixel of the
# window, as there.
_max_pool_cpu = jax.custom_vjp(_max_pool, nondiff_argnums=(1, 2, 3))


def _max_pool_forward(x_NHWC, window, strides, pads):
    y_NHWC, tap_NHWC = None, None
    lowest = jnp.full((), -jnp.inf, x_NHWC.dtype)
    x_NHWC = lax.pad(x_NHWC, lowest, [(0, 0, 0), *((*pad, 0) for pad in pads), (0, 0, 0)])
    N, H, W, C = x_NHWC.shape
    for tap, (i, j) in enumerate(itertools.product(range(window), repeat=2)):
        ends = (N, H - window + i + 1, W - window + j + 1, C)
        seen_NHWC = lax.slice(x_NHWC, (0, i, j, 0), ends, (1, strides, strides, 1))
        if tap == 0:
            y_NHWC, tap_NHWC = seen_NHWC, jnp.zeros(seen_NHWC.shape, jnp.uint8)
            continue
        tap_NHWC = jnp.where(seen_NHWC > y_NHWC, jnp.uint8(tap), tap_NHWC)
        y_NHWC = jnp.maximum(y_NHWC, seen_NHWC)
    return y_NHWC, (tap_NHWC, (H, W))


def _max_pool_backward(window, strides, pads, residuals, dy_NHWC):
    tap_NHWC, sides = residuals
    zero = jnp.zeros((), dy_NHWC.dtype)
    parts = []
    for tap, place in enumerate(itertools.product(range(window), repeat=2)):
        config = [(0, 0, 0)]
        for axis, first in enumerate(place):
            reach = first + (dy_NHWC.shape[1 + axis] - 1) * strides + 1
            before, after = pads[axis]
            # The borders that were added are cut off again: negative padding.
            config.append((first - before, sides[axis] - reach - after, strides - 1))
        parts.append(lax.pad(jnp.where(tap_NHWC == tap, dy_NHWC, zero), zero,
                             [*config, (0, 0, 0)]))
    return (functools.reduce(jnp.add, parts),)


_max_pool_cpu.defvjp(_max_pool_forward, _max_pool_backward)


def avg_pool(x_NHWC, window: int, strides: int, padding: int = 0):
    """Means over square windows, in which padding counts as zeros; ValueError as ``max_pool``."""
    # nn.avg_pool divides by an integer, which strict promotion refuses.
    pads = _pool_pads(x_NHWC.shape[1:3], window, strides, padding, False)
    total_NHWC = nn.pooling.pool(
        x_NHWC, 0.0, lax.add, (window, window), (strides, strides), pads)
    return total_NHWC * (1 / window**2)


def avg_pool_inside(x_NHWC, side: int):
    """Means of the squares of that side; where one is cut by the border, of the pixels it has."""
    # flax divides by a float32 count, which strict promotion refuses for a bfloat16 input.
    window = (side, side)
    y_NHWC = nn.avg_pool(
        x_NHWC.astype(jnp.float32), window_shape=window, strides=window, padding='SAME',
        count_include_pad=False)
    return y_NHWC.astype(x_NHWC.dtype)


def adaptive_avg_pool(x_NHWC, size: tuple[int, int]):
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


def _pool_pads(sides, window, strides, padding, ceil):
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
