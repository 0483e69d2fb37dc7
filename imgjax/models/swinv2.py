"""Swin transformers of the second version, with timm's names and parameter counts."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax

from imgjax.models.parts import branches, layers, parallel
from imgjax.models.parts import windows as windows_lib
from imgjax.models.parts.attention import ATTENTIONS, BY_HEADS, Attended, Heads
from imgjax.models.parts.swin import forward, normal

_TINY = {'width': 96, 'depths': (2, 2, 6, 2), 'heads': (3, 6, 12, 24)}
_SMALL = {'width': 96, 'depths': (2, 2, 18, 2), 'heads': (3, 6, 12, 24)}
_BASE = {'width': 128, 'depths': (2, 2, 18, 2), 'heads': (4, 8, 16, 32)}
_LARGE = {'width': 192, 'depths': (2, 2, 18, 2), 'heads': (6, 12, 24, 48)}
_8, _12, _16 = ({'windows': (side,) * 4} for side in (8, 12, 16))
_12TO16 = {**_16, 'trained_windows': (12, 12, 12, 6)}
_12TO24 = {'windows': (24,) * 4, 'trained_windows': (12, 12, 12, 6)}
VARIANTS = {
    'swinv2_tiny_window8_256': {**_TINY, **_8},
    'swinv2_tiny_window16_256': {**_TINY, **_16},
    'swinv2_small_window8_256': {**_SMALL, **_8},
    'swinv2_small_window16_256': {**_SMALL, **_16},
    'swinv2_base_window8_256': {**_BASE, **_8},
    'swinv2_base_window16_256': {**_BASE, **_16},
    'swinv2_base_window12_192': {**_BASE, **_12},
    'swinv2_base_window12to16_192to256': {**_BASE, **_12TO16},
    'swinv2_base_window12to24_192to384': {**_BASE, **_12TO24},
    'swinv2_large_window12_192': {**_LARGE, **_12},
    'swinv2_large_window12to16_192to256': {**_LARGE, **_12TO16},
    'swinv2_large_window12to24_192to384': {**_LARGE, **_12TO24},
    'tiny_swinv2': {
        'patch_size': 2, 'width': 16, 'depths': (2, 1), 'heads': (2, 4), 'windows': (4, 4)},
}
TENSOR_RULES = BY_HEADS
RENAMES = {'head': 'head.fc'}
BUFFERS = ('relative_position_index', 'relative_coords_table', 'attn_mask', 'k_bias')


def log_offsets(h: int, w: int, unit_h: int, unit_w: int) -> np.ndarray:
    """Returns offset_R2: the offset of each row of the table of ``windows.relative_index``.

    They are scaled so that unit - 1 pixels are 8, then an offset d is sign(d) log2(1 + |d|) / 3.
    """
    y_HW, x_HW = np.mgrid[1 - h:h, 1 - w:w]
    offset_HW2 = 8 * np.stack([y_HW / max(1, unit_h - 1), x_HW / max(1, unit_w - 1)], axis=-1)
    offset_HW2 = np.sign(offset_HW2) * np.log2(1 + np.abs(offset_HW2)) / 3
    return offset_HW2.reshape(-1, 2).astype(np.float32)


def _unit(x: jax.Array, epsilon: float = 1e-12) -> jax.Array:
    """Returns x, scaled to length 1 along its last axis, in float32."""
    x = x.astype(jnp.float32)
    return x * lax.rsqrt(jnp.maximum(jnp.square(x).sum(axis=-1, keepdims=True), epsilon**2))


class WindowAttention(nn.Module):
    """Self-attention inside of windows: (x_NGLC, (h, w), mask_GLL) -> (y_NGLC, attn_NGHLL).

    The scores are the cosines of queries and keys times a learned factor per head, at most 100. A
    small network gives their bias for every head and offset of the query from the key.

    Attributes:
      trained: side of the window that offsets are relative to, or 0 for the window's own.
    """

    heads: int
    trained: int
    attend: Callable
    dtype: Any

    @nn.compact
    def __call__(self, x_NGLC: jax.Array, sides: tuple[int, int],
                 mask_GLL: jax.Array | None) -> Attended:
        *NGL, C = x_NGLC.shape
        dense = partial(layers.Dense, dtype=self.dtype, kernel_init=normal)
        q_bias_C = self.param('q_bias', layers.zeros, (C,), jnp.float32)
        v_bias_C = self.param('v_bias', layers.zeros, (C,), jnp.float32)
        bias_D = jnp.concatenate([q_bias_C, jnp.zeros_like(q_bias_C), v_bias_C])
        qkv_NGL3HK = Heads(self.heads, False, normal, self.dtype, name='qkv')(x_NGLC)
        qkv_NGL3HK += bias_D.astype(self.dtype).reshape(1, 1, 1, *qkv_NGL3HK.shape[3:])
        q_NGLHK, k_NGLHK, v_NGLHK = (qkv_NGL3HK[:, :, :, i] for i in range(3))

        start = nn.initializers.constant(math.log(10))
        scale_H11 = self.param('logit_scale', start, (self.heads, 1, 1), jnp.float32)
        scale_H11 = jnp.exp(jnp.minimum(scale_H11, math.log(100)))
        root = q_NGLHK.shape[-1] ** 0.5  # attend divides by it
        q_NGLHK = _unit(q_NGLHK) * (scale_H11 * root).reshape(1, 1, 1, self.heads, 1)
        y_NGLHK, attn_NGHLL = windows_lib.attend_in_windows(
            self.attend, q_NGLHK.astype(self.dtype), _unit(k_NGLHK).astype(self.dtype), v_NGLHK,
            self._bias(*sides), mask_GLL)
        y_NGLC = dense(C, name='proj')(y_NGLHK.reshape(*NGL, C))
        return parallel.whole(y_NGLC), attn_NGHLL

    def _bias(self, h: int, w: int) -> jax.Array:
        dense = partial(layers.Dense, kernel_init=normal)
        offset_R2 = log_offsets(h, w, self.trained or h, self.trained or w)
        hidden_RF = jax.nn.relu(dense(512, name='cpb_mlp.0')(offset_R2))
        table_RH = dense(self.heads, use_bias=False, name='cpb_mlp.2')(hidden_RF)
        bias_HLL = table_RH[windows_lib.relative_index(h, w)].transpose(2, 0, 1)
        return 16 * jax.nn.sigmoid(bias_HLL)


class Block(nn.Module):
    """Transformer block in windows, norms last: (x_NHWC, drop_path rate) -> (y_NHWC, attn)."""

    window: int
    shift: bool
    attention: Callable
    mlp: Callable
    norm: Callable
    residual: Callable

    @nn.compact
    def __call__(self, x_NHWC: jax.Array, rate: branches.Rate) -> Attended:
        # The norms start at 0, so that a block starts as its shortcut.
        norm = partial(self.norm, scale_init=layers.zeros)
        y_NHWC, attn_NGHLL = windows_lib.shifted_windows(
            self.attention(name='attn'), x_NHWC, self.window, self.shift)
        x_NHWC = self.residual()(x_NHWC, norm(name='norm1')(y_NHWC), rate)
        y_NHWC = norm(name='norm2')(self.mlp(name='mlp')(x_NHWC))
        return self.residual()(x_NHWC, y_NHWC, rate), attn_NGHLL


class Model(nn.Module):
    """Swin transformer V2 (Liu et al. 2021, arXiv:2111.09883).

    No parameter depends on the size of the image. Windows are no larger than the map; a map that
    they do not tile is padded.

    Attributes:
      num_classes: K; 0 gives the features in place of logits.
      patch_size: side of a patch in pixels; must divide the sides of the image.
      width: channels of the first stage; each further stage doubles them and halves the map.
      depths: number of blocks of each stage; every second block shifts its windows.
      heads: number of attention heads of each stage; divides its channels.
      windows: side of a window in tokens, for each stage.
      trained_windows: side of the windows that the weights were trained with, for each stage; the
        offsets inside of a window are relative to it; 0 for that of ``windows``.
      mlp_ratio: hidden width of a block's MLP, as a multiple of its channels.
      attention: 'xla', or 'maps', which adds stage1_block0_attn.. (N, G, H, L, L) of the G windows
        to ``out``.
      dropout: rate before the head.
      drop_path: rate of stochastic depth in the last block; it rises linearly from 0.
      remat: recomputes the blocks in the backward pass, which saves memory.
      act: activation of the MLPs, see ``layers.ACTIVATIONS``.
      dtype: compute dtype, 'float32' or 'bfloat16'.
    """

    num_classes: int
    patch_size: int = 4
    width: int = 96
    depths: tuple[int, ...] = (2, 2, 6, 2)
    heads: tuple[int, ...] = (3, 6, 12, 24)
    windows: tuple[int, ...] = (8, 8, 8, 8)
    trained_windows: tuple[int, ...] = (0, 0, 0, 0)
    mlp_ratio: float = 4.0
    attention: str = 'xla'
    dropout: float = 0.0
    drop_path: float = 0.0
    remat: bool = False
    act: str = 'gelu'
    dtype: Any = 'float32'

    @nn.compact
    def __call__(self, image_NHWC: jax.Array, *, train: bool) -> layers.Outputs:
        """float (N, H, W, C) -> float32 logits (N, K).

        ``out`` has stem, stage1.., pre_logits and logits.

        Raises:
          ValueError: the patch size does not divide the image, or the heads the channels.
        """
        dtype = layers.compute_dtype(self.dtype)
        norm = partial(layers.layer_norm, epsilon=1e-5, dtype=dtype)
        attend = layers.pick('attention', self.attention, ATTENTIONS)

        def attention(stage: int) -> Callable:
            return partial(WindowAttention, self.heads[stage], self.trained_windows[stage], attend,
                           dtype)

        def merge(x_NHWC: jax.Array, features: int, name: str) -> jax.Array:
            reduction = layers.Dense(features, use_bias=False, dtype=dtype, kernel_init=normal,
                                     name=f'{name}.reduction')
            return norm(name=f'{name}.norm')(reduction(windows_lib.space_to_depth(x_NHWC)))

        return forward(self, image_NHWC, Block, attention, merge, norm, train=train)
