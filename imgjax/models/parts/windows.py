"""Windows of a feature map, and attention inside of windows."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from imgjax.models.parts.attention import Attended


def partition(x_NHWC: jax.Array, h: int, w: int) -> jax.Array:
    """Returns x_NGLC: the G windows of h by w pixels that tile the map, row by row, L = h * w."""
    N, H, W, C = x_NHWC.shape
    x_NYhXwC = x_NHWC.reshape(N, H // h, h, W // w, w, C)
    return x_NYhXwC.swapaxes(2, 3).reshape(N, -1, h * w, C)


def merge(x_NGLC: jax.Array, h: int, w: int, height: int, width: int) -> jax.Array:
    """Returns x_NHWC of that height and width: the inverse of ``partition``."""
    N, _, _, C = x_NGLC.shape
    x_NYXhwC = x_NGLC.reshape(N, height // h, width // w, h, w, C)
    return x_NYXhwC.swapaxes(2, 3).reshape(N, height, width, C)


def relative_index(h: int, w: int) -> np.ndarray:
    """Returns index_LL: for (query, key) the row in a table of the offsets inside of a window.

    The offset of the query from the key, i rows down and j columns to the right, is row
    (i + h - 1) * (2 * w - 1) + j + w - 1 of (2 * h - 1) * (2 * w - 1).
    """
    y_L, x_L = np.mgrid[:h, :w].reshape(2, -1)
    down_LL = y_L[:, None] - y_L[None] + h - 1
    right_LL = x_L[:, None] - x_L[None] + w - 1
    return down_LL * (2 * w - 1) + right_LL


def space_to_depth(x_NHWC: jax.Array) -> jax.Array:
    """Returns the map at half its size, 2x2 pixels in each; odd sides are padded with zeros.

    The channels are those of the upper left pixel, the lower left, upper right and lower right.
    """
    N, H, W, C = x_NHWC.shape
    x_NHWC = jnp.pad(x_NHWC, ((0, 0), (0, H % 2), (0, W % 2), (0, 0)))
    H, W = (H + 1) // 2, (W + 1) // 2
    x_NHyWxC = x_NHWC.reshape(N, H, 2, W, 2, C)
    return x_NHyWxC.transpose(0, 1, 3, 4, 2, 5).reshape(N, H, W, 4 * C)


def attend_in_windows(attend: Callable, q_NGLHK: jax.Array, k_NGLHK: jax.Array, v_NGLHK: jax.Array,
                  bias_HLL: jax.Array, mask_GLL: jax.Array | None = None) -> Attended:
    """``attend`` (see attention.py) in every window -> (y_NGLHK, attn_NGHLL or None)."""
    if mask_GLL is not None:
        bias_HLL = bias_HLL[None] + mask_GLL[:, None]  # by windows, which are attend's examples
    return jax.vmap(attend, (0, 0, 0, None))(q_NGLHK, k_NGLHK, v_NGLHK, bias_HLL)


def shifted_windows(attention: Callable, x_NHWC: jax.Array, window: int, shift: bool) -> Attended:
    """Attention in windows, with ``shift`` of the map rolled by half a window (arXiv:2103.14030).

    A window is at most as large as the map, and there is no shift along a side that it covers.
    Where windows do not tile the map it is padded with zeros, which take part in attention.

    Args:
      attention: (x_NGLC, (h, w), mask_GLL or None) -> (y_NGLC, attn); the float32 mask is added
        to the scores, so that pixels do not attend to those from the opposite edge of the map.
      x_NHWC: the map.
      window: side of a window.
      shift: whether the map is rolled.

    Returns:
      y_NHWC and attn.
    """
    H, W = x_NHWC.shape[1:3]
    h, w = min(window, H), min(window, W)
    down, right = (window // 2 if shift and side > window else 0 for side in (H, W))
    if down or right:
        x_NHWC = jnp.roll(x_NHWC, (-down, -right), (1, 2))
    x_NHWC = jnp.pad(x_NHWC, ((0, 0), (0, -H % h), (0, -W % w), (0, 0)))
    height, width = x_NHWC.shape[1:3]
    mask_GLL = _shift_mask(height, width, h, w, down, right) if down or right else None
    y_NGLC, attn = attention(partition(x_NHWC, h, w), (h, w), mask_GLL)
    y_NHWC = merge(y_NGLC, h, w, height, width)[:, :H, :W]
    if down or right:
        y_NHWC = jnp.roll(y_NHWC, (down, right), (1, 2))
    return y_NHWC, attn


def _shift_mask(height: int, width: int, h: int, w: int, down: int, right: int) -> np.ndarray:
    """Returns mask_GLL: -100 between pixels of a window that come from opposite edges, else 0."""

    def strips(side: int, window: int, shift: int) -> np.ndarray:
        at = np.arange(side)
        return (at >= side - window) * (shift > 0) + (at >= side - shift).astype(int)

    region_HW = 3 * strips(height, h, down)[:, None] + strips(width, w, right)[None]
    region_GL = np.asarray(region_HW).reshape(height // h, h, width // w, w)
    region_GL = region_GL.swapaxes(1, 2).reshape(-1, h * w)
    return np.where(region_GL[:, :, None] == region_GL[:, None], 0, -100).astype(np.float32)
