"""Swin transformers, with timm's names and parameter counts."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from imgjax.models.parts import branches, layers, parallel
from imgjax.models.parts import windows as windows_lib
from imgjax.models.parts.attention import ATTENTIONS, BY_HEADS, Attended, Heads
from imgjax.models.parts.swin import forward, normal

_TINY = {'width': 96, 'depths': (2, 2, 6, 2), 'heads': (3, 6, 12, 24)}
_SMALL = {'width': 96, 'depths': (2, 2, 18, 2), 'heads': (3, 6, 12, 24)}
_BASE = {'width': 128, 'depths': (2, 2, 18, 2), 'heads': (4, 8, 16, 32)}
_LARGE = {'width': 192, 'depths': (2, 2, 18, 2), 'heads': (6, 12, 24, 48)}
_S3 = {'width': 96, 'heads': (3, 6, 12, 24)}
VARIANTS = {
    'swin_tiny_patch4_window7_224': _TINY,
    'swin_small_patch4_window7_224': _SMALL,
    'swin_base_patch4_window7_224': _BASE,
    'swin_base_patch4_window12_384': {**_BASE, 'windows': (12, 12, 12, 12)},
    'swin_large_patch4_window7_224': _LARGE,
    'swin_large_patch4_window12_384': {**_LARGE, 'windows': (12, 12, 12, 12)},
    'swin_s3_tiny_224': {**_S3, 'depths': (2, 2, 6, 2), 'windows': (7, 7, 14, 7)},
    'swin_s3_small_224': {**_S3, 'depths': (2, 2, 18, 2), 'windows': (14, 14, 14, 7)},
    'swin_s3_base_224': {**_S3, 'depths': (2, 2, 30, 2), 'windows': (7, 7, 14, 7)},
    'tiny_swin': {
        'patch_size': 2, 'width': 16, 'depths': (2, 1), 'heads': (2, 4), 'windows': (4, 4)},
}
TENSOR_RULES = BY_HEADS
RENAMES = {'head': 'head.fc'}
BUFFERS = ('relative_position_index', 'attn_mask')


class WindowAttention(nn.Module):
    """Self-attention inside of windows: (x_NGLC, (h, w), mask_GLL) -> (y_NGLC, attn_NGHLL).

    The scores have a learned bias for every head and offset of the query from the key.
    """

    heads: int
    attend: Callable
    dtype: Any

    @nn.compact
    def __call__(self, x_NGLC: jax.Array, sides: tuple[int, int],
                 mask_GLL: jax.Array | None) -> Attended:
        h, w = sides
        *NGL, C = x_NGLC.shape
        dense = partial(layers.Dense, dtype=self.dtype, kernel_init=normal)
        qkv_NGL3HK = Heads(self.heads, True, normal, self.dtype, name='qkv')(x_NGLC)
        table_RH = self.param('relative_position_bias_table', normal,
                              ((2 * h - 1) * (2 * w - 1), self.heads), jnp.float32)
        bias_HLL = table_RH[windows_lib.relative_index(h, w)].transpose(2, 0, 1)
        q_NGLHK, k_NGLHK, v_NGLHK = (qkv_NGL3HK[:, :, :, i] for i in range(3))
        y_NGLHK, attn_NGHLL = windows_lib.attend_in_windows(
            self.attend, q_NGLHK, k_NGLHK, v_NGLHK, bias_HLL, mask_GLL)
        y_NGLC = dense(C, name='proj')(y_NGLHK.reshape(*NGL, C))
        return parallel.whole(y_NGLC), attn_NGHLL


class Block(nn.Module):
    """Pre-norm transformer block in windows: (x_NHWC, drop_path rate) -> (y_NHWC, attn)."""

    window: int
    shift: bool
    attention: Callable
    mlp: Callable
    norm: Callable
    residual: Callable

    @nn.compact
    def __call__(self, x_NHWC: jax.Array, rate: branches.Rate) -> Attended:
        y_NHWC, attn_NGHLL = windows_lib.shifted_windows(
            self.attention(name='attn'), self.norm(name='norm1')(x_NHWC), self.window, self.shift)
        x_NHWC = self.residual()(x_NHWC, y_NHWC, rate)
        y_NHWC = self.mlp(name='mlp')(self.norm(name='norm2')(x_NHWC))
        return self.residual()(x_NHWC, y_NHWC, rate), attn_NGHLL


class Model(nn.Module):
    """Swin transformer (Liu et al. 2021, arXiv:2103.14030).

    The image given to ``init`` limits the windows, which are no larger than the map; a map that
    they do not tile is padded. With other windows it is S3 (Chen et al. 2021, arXiv:2111.14725).

    Attributes:
      num_classes: K; 0 gives the features in place of logits.
      patch_size: side of a patch in pixels; must divide the sides of the image.
      width: channels of the first stage; each further stage doubles them and halves the map.
      depths: number of blocks of each stage; every second block shifts its windows.
      heads: number of attention heads of each stage; divides its channels.
      windows: side of a window in tokens, for each stage.
      mlp_ratio: hidden width of a block's MLP, as a multiple of its channels.
      attention: 'xla', or 'maps', which adds stage1_block0_attn.. (N, G, H, L, L) of the G windows
        to ``out``.
      dropout: rate before the head.
      drop_path: rate of stochastic depth in the last block; it rises linearly from 0.
      remat: recomputes the blocks in the backward pass, which saves memory.
      act: activation, see ``layers.ACTIVATIONS``.
      dtype: compute dtype, 'float32' or 'bfloat16'.
    """

    num_classes: int
    patch_size: int = 4
    width: int = 96
    depths: tuple[int, ...] = (2, 2, 6, 2)
    heads: tuple[int, ...] = (3, 6, 12, 24)
    windows: tuple[int, ...] = (7, 7, 7, 7)
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
            return partial(WindowAttention, self.heads[stage], attend, dtype)

        def merge(x_NHWC: jax.Array, features: int, name: str) -> jax.Array:
            x_NHWC = norm(name=f'{name}.norm')(windows_lib.space_to_depth(x_NHWC))
            return layers.Dense(features, use_bias=False, dtype=dtype, kernel_init=normal,
                                name=f'{name}.reduction')(x_NHWC)

        return forward(self, image_NHWC, Block, attention, merge, norm, train=train)
