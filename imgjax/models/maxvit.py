"""MaxViT in the form of the paper's own weights, with timm's names and parameter counts."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from imgjax.models.parts import branches, convolve, layers, windows
from imgjax.models.parts.attention import ATTENTIONS, Attended
from imgjax.models.parts.coat import MBConv, hidden_layer, stem

_SIZES = {
    'tiny': {'widths': (64, 128, 256, 512), 'depths': (2, 2, 5, 2), 'stem': 64},
    'small': {'widths': (96, 192, 384, 768), 'depths': (2, 2, 5, 2), 'stem': 64},
    'base': {'widths': (96, 192, 384, 768), 'depths': (2, 6, 14, 2), 'stem': 64},
    'large': {'widths': (128, 256, 512, 1024), 'depths': (2, 6, 14, 2), 'stem': 128},
    'xlarge': {'widths': (192, 384, 768, 1536), 'depths': (2, 6, 14, 2), 'stem': 192},
}
VARIANTS = {
    **{f'maxvit_{size}_tf_{side}': options for size, options in _SIZES.items()
       for side in (224, 384, 512)},
    'tiny_maxvit': {'widths': (16, 32), 'depths': (1, 1), 'stem': 16, 'head_width': 8},
}
RENAMES = {'head': 'head.fc', 'hidden.norm': 'head.norm', 'hidden.fc': 'head.pre_logits.fc'}
BUFFERS = ('height_lookup', 'width_lookup')

_xavier = nn.initializers.xavier_uniform()


class PartitionAttention(nn.Module):
    """Self-attention between the pixels of a window, x_NHWC -> (y_NHWC, attn_NGHLL).

    Attributes:
      heads: number of attention heads.
      window: height and width of a window.
      grid: whether the pixels of a window are spread over the map at equal distances, not adjacent.
    """

    heads: int
    window: tuple[int, int]
    grid: bool
    attend: Callable
    dtype: Any

    @nn.compact
    def __call__(self, x_NHWC: jax.Array) -> Attended:
        H, W, C = x_NHWC.shape[1:]
        h, w = self.window
        dense = partial(layers.Dense, dtype=self.dtype, kernel_init=_xavier)
        # A grid has one pixel, at the same place, of each of h by w adjacent tiles.
        tiles = (H // h, W // w) if self.grid else (h, w)
        x_NGLC = windows.partition(x_NHWC, *tiles)
        if self.grid:
            x_NGLC = x_NGLC.swapaxes(1, 2)
        NGL = x_NGLC.shape[:3]
        qkv_NGL3HK = dense(3 * C, name='qkv')(x_NGLC).reshape(*NGL, 3, self.heads, -1)
        table_HYX = self.param('rel_pos.relative_position_bias_table', nn.initializers.normal(0.02),
                               (self.heads, 2 * h - 1, 2 * w - 1), jnp.float32)
        # Its rows are the offsets of the key from the query, not of the query from the key.
        bias_HLL = table_HYX.reshape(self.heads, -1)[:, windows.relative_index(h, w).T]
        q_NGLHK, k_NGLHK, v_NGLHK = (qkv_NGL3HK[:, :, :, i] for i in range(3))
        y_NGLHK, attn_NGHLL = windows.attend_in_windows(
            self.attend, q_NGLHK, k_NGLHK, v_NGLHK, bias_HLL)
        y_NGLC = dense(C, name='proj')(y_NGLHK.reshape(*NGL, C))
        if self.grid:
            y_NGLC = y_NGLC.swapaxes(1, 2)
        return windows.merge(y_NGLC, *tiles, H, W), attn_NGHLL


class Transformer(nn.Module):
    """Pre-norm transformer block: (x_NHWC, drop_path rate) -> (y_NHWC, attn)."""

    attention: Callable
    norm: Callable
    mlp: Callable
    residual: Callable

    @nn.compact
    def __call__(self, x_NHWC: jax.Array, rate: branches.Rate) -> Attended:
        y_NHWC, attn = self.attention(name='attn')(self.norm(name='norm1')(x_NHWC))
        x_NHWC = self.residual()(x_NHWC, y_NHWC, rate)
        y_NHWC = self.mlp(name='mlp')(self.norm(name='norm2')(x_NHWC))
        return self.residual()(x_NHWC, y_NHWC, rate), attn


class Block(nn.Module):
    """MBConv, then attention in windows and in grids: (x_NHWC, rate) -> (y_NHWC, both maps)."""

    conv: Callable
    transformer: Callable
    attention: Callable

    @nn.compact
    def __call__(self, x_NHWC: jax.Array,
                 rate: branches.Rate) -> tuple[jax.Array, list[jax.Array | None]]:
        x_NHWC = self.conv(name='conv')(x_NHWC, rate)
        maps = []
        for name, grid in (('attn_block', False), ('attn_grid', True)):
            attention = partial(self.attention, grid=grid)
            x_NHWC, attn = self.transformer(attention, name=name)(x_NHWC, rate)
            maps.append(attn)
        return x_NHWC, maps


class Model(nn.Module):
    """MaxViT (Tu et al. 2022, arXiv:2204.01697), with TensorFlow's padding and norms.

    The image given to ``init`` sets the size of the windows, which must tile the map of every
    stage; they do where the sides of the image are multiples of 32.

    Attributes:
      num_classes: K; 0 gives the features in place of logits.
      widths: channels of each stage; each stage halves the map.
      depths: number of blocks of each stage.
      stem: channels of the stem, which also halves the map.
      head_width: channels of an attention head; divides the channels of each stage.
      window: side of the windows and grids, or None for the size of the last stage's map.
      acts: activations of the convolutions, the MLPs, squeeze and excitation, and the head.
      act: one activation for all four, see ``layers.ACTIVATIONS``; None for ``acts``.
      attention: 'xla', or 'maps', which adds stage1_block0_attn_block, .._attn_grid.. (N, G, H, L,
        L) of the G windows to ``out``.
      dropout: rate before the head.
      drop_path: rate of stochastic depth in the last block; it rises linearly from 0.
      remat: recomputes the blocks in the backward pass, which saves memory.
      dtype: compute dtype, 'float32' or 'bfloat16'.
    """

    num_classes: int
    widths: tuple[int, ...] = (64, 128, 256, 512)
    depths: tuple[int, ...] = (2, 2, 5, 2)
    stem: int = 64
    head_width: int = 32
    window: int | None = None
    acts: tuple[str, str, str, str] = ('gelu_tanh', 'gelu_tanh', 'silu', 'tanh')
    act: str | None = None
    attention: str = 'xla'
    dropout: float = 0.0
    drop_path: float = 0.0
    remat: bool = False
    dtype: Any = 'float32'

    @nn.compact
    def __call__(self, image_NHWC: jax.Array, *, train: bool) -> layers.Outputs:
        """float (N, H, W, C) -> float32 logits (N, K).

        ``out`` has stem, stage1.., pre_logits and logits.

        Raises:
          ValueError: windows do not tile a stage's map, or heads the channels.
        """
        dtype = layers.compute_dtype(self.dtype)
        acts = self.acts if self.act is None else (self.act,) * 4
        conv_act, mlp_act, se_act, head_act = map(layers.activation, acts)
        conv = partial(convolve.Conv, padding='SAME', dtype=dtype)
        batch_norm = partial(layers.BatchNorm, train=train, epsilon=1e-3, dtype=dtype)
        norm = partial(layers.layer_norm, epsilon=1e-5, dtype=dtype)
        residual = branches.residual(self.drop_path, train=train)
        attend = layers.pick('attention', self.attention, ATTENTIONS)
        block = nn.remat(Block) if self.remat else Block

        stem_conv = partial(conv, use_bias=True)
        x_NHWC = stem(image_NHWC, (self.stem,) * 2, stem_conv, batch_norm, conv_act)
        out = {'stem': x_NHWC}
        rates = iter(branches.drop_path_rates(self.drop_path, sum(self.depths)))
        for i, (depth, C) in enumerate(zip(self.depths, self.widths, strict=True), 1):
            policy = {
                'attention': partial(
                    PartitionAttention, C // self.head_width, self._window(image_NHWC, x_NHWC, C),
                    attend=attend, dtype=dtype),
                'transformer': partial(
                    Transformer, norm=norm, residual=residual, mlp=partial(
                        layers.Mlp, 4 * C, mlp_act, dtype=dtype,
                        bias_init=nn.initializers.normal(1e-6))),
            }
            for j in range(depth):
                mbconv = partial(MBConv, C, 1 if j else 2, conv, batch_norm, conv_act, se_act,
                                 residual)
                x_NHWC, maps = block(mbconv, **policy, name=f'stages.{i - 1}.blocks.{j}')(
                    x_NHWC, next(rates))
                if maps[0] is not None:
                    out[f'stage{i}_block{j}_attn_block'] = maps[0]
                    out[f'stage{i}_block{j}_attn_grid'] = maps[1]
            out[f'stage{i}'] = x_NHWC
        x_NF = x_NHWC.mean(axis=(1, 2), dtype=jnp.float32)
        out['pre_logits'] = hidden_layer(x_NF, norm, head_act)
        x_NF = nn.Dropout(self.dropout, deterministic=not train)(out['pre_logits'])
        out['logits'] = layers.head(x_NF, self.num_classes)
        return out['logits'], out

    def _window(self, image_NHWC: jax.Array, x_NHWC: jax.Array, channels: int) -> tuple[int, int]:
        """Returns height and width of the windows in the stage after x_NHWC, or ValueError."""
        shrink = 2 ** (1 + len(self.depths))
        height, width = (-(-side // 2) for side in x_NHWC.shape[1:3])
        h, w = (self.window or side // shrink for side in image_NHWC.shape[1:3])
        if not h or not w or height % h or width % w:
            raise ValueError(f'windows of {h} by {w} do not tile a map of {height} by {width}; '
                             f'sides of images that are multiples of {shrink} are sure to work')
        if channels % self.head_width:
            raise ValueError(f'{channels} channels are not heads of {self.head_width}')
        return h, w
