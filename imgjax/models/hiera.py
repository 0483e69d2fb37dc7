"""Hiera, hierarchical vision transformers, with timm's names and parameter counts."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from imgjax.models.parts import branches, convolve, layers
from imgjax.models.parts.attention import ATTENTIONS, Attended

VARIANTS = {
    'hiera_tiny_224': {'width': 96, 'depths': (1, 2, 7, 2), 'heads': 1},
    'hiera_small_224': {'width': 96, 'depths': (1, 2, 11, 2), 'heads': 1},
    'hiera_base_224': {'width': 96, 'depths': (2, 3, 16, 3), 'heads': 1},
    'hiera_base_plus_224': {'width': 112, 'depths': (2, 3, 16, 3), 'heads': 2},
    'hiera_large_224': {'width': 144, 'depths': (2, 6, 36, 4), 'heads': 2},
    'hiera_huge_224': {'width': 256, 'depths': (2, 6, 36, 4), 'heads': 4},
    # Weights of layers as narrow as these must start larger.
    'tiny_hiera': {'width': 16, 'depths': (1, 1), 'heads': 2, 'patch_size': 3, 'strides': 2,
                   'local': (True, False), 'init_std': 0.2},
}
RENAMES = {'head': 'head.fc', 'norm': 'head.norm'}

# Tokens are unrolled to x_NPGC: G mask units, squares that tile the image, of P tokens each. The
# tokens of 2x2 neighbours are P / 4 places apart, so that pooling is a maximum over the first of
# two axes (4, P / 4), and the tokens after it are in the same order.


def unroll(x_NHWC: jax.Array, levels: int) -> jax.Array:
    """Returns x_NPGC of mask units of 2**levels by 2**levels tokens."""
    N, H, W, C = x_NHWC.shape
    # The bits of the row and of the column inside of a unit, the lowest last.
    bits = (2,) * levels
    x = x_NHWC.reshape(N, H >> levels, *bits, W >> levels, *bits, C)
    rows, columns = range(1 + levels, 1, -1), range(2 + 2 * levels, 2 + levels, -1)
    pairs = [axis for pair in zip(rows, columns, strict=True) for axis in pair]
    return x.transpose(0, *pairs, 1, 2 + levels, 3 + 2 * levels).reshape(N, 4**levels, -1, C)


def roll(x_NPGC: jax.Array, levels: int, height: int, width: int) -> jax.Array:
    """Returns x_NHWC of that height and width: the inverse of ``unroll``."""
    N, _, _, C = x_NPGC.shape
    x = x_NPGC.reshape(N, *(2, 2) * levels, height >> levels, width >> levels, C)
    rows, columns = range(2 * levels - 1, 0, -2), range(2 * levels, 0, -2)
    order = (0, 2 * levels + 1, *rows, 2 * levels + 2, *columns, 2 * levels + 3)
    return x.transpose(order).reshape(N, height, width, C)


def pool(x_NPGC: jax.Array) -> jax.Array:
    """Returns the maxima of 2x2 tokens of x_NP..., which may have any axes after the second."""
    N, P = x_NPGC.shape[:2]
    return x_NPGC.reshape(N, 4, P // 4, *x_NPGC.shape[2:]).max(axis=1)


class MaskUnitAttention(nn.Module):
    """Self-attention in every mask unit or over all tokens: x_NPGC -> (y_NPGF, attn).

    Attributes:
      features: F, the output channels.
      heads: number of attention heads; divides F.
      local: whether tokens attend to their own unit only.
      pooled: whether queries are pooled, so that the output has a quarter of the tokens.
      init: initializer of the last layer.
    """

    features: int
    heads: int
    local: bool
    pooled: bool
    attend: Callable
    dense: Callable
    init: Callable

    @nn.compact
    def __call__(self, x_NPGC: jax.Array) -> Attended:
        N, P, G, _ = x_NPGC.shape
        qkv_NPG3HK = self.dense(3 * self.features, name='qkv')(x_NPGC).reshape(
            N, P, G, 3, self.heads, -1)
        q, k, v = (qkv_NPG3HK[:, :, :, i] for i in range(3))
        if self.pooled:
            q = pool(q)
            P //= 4
        if self.local:  # each unit is an example
            q, k, v = (x.swapaxes(1, 2).reshape(N * G, -1, *x.shape[3:]) for x in (q, k, v))
        else:
            q, k, v = (x.reshape(N, -1, *x.shape[3:]) for x in (q, k, v))
        y, attn = self.attend(q, k, v)
        if self.local:
            y = y.reshape(N, G, P, self.features).swapaxes(1, 2)
            attn = None if attn is None else attn.reshape(N, G, *attn.shape[1:])
        y_NPGF = y.reshape(N, P, G, self.features)
        return self.dense(self.features, kernel_init=self.init, name='proj')(y_NPGF), attn


class Block(nn.Module):
    """Pre-norm transformer block: (x_NPGC, drop_path rate) -> (y_NPGF, attn).

    Where the channels change, the shortcut is a linear map of the normed tokens, then pooled.
    """

    attention: Callable
    mlp: Callable
    norm: Callable
    dense: Callable
    residual: Callable

    @nn.compact
    def __call__(self, x_NPGC: jax.Array, rate: branches.Rate) -> Attended:
        attention = self.attention(name='attn')
        y_NPGC = self.norm(name='norm1')(x_NPGC)
        if attention.pooled:
            x_NPGC = pool(self.dense(attention.features, name='proj')(y_NPGC))
        y_NPGF, attn = attention(y_NPGC)
        x_NPGF = self.residual()(x_NPGC, y_NPGF, rate)
        y_NPGF = self.mlp(name='mlp')(self.norm(name='norm2')(x_NPGF))
        return self.residual()(x_NPGF, y_NPGF, rate), attn


class Mlp(nn.Module):
    """``layers.Mlp`` whose last layer has its own initializer ``init``."""

    hidden: int
    act: Callable
    dense: Callable
    init: Callable

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = self.act(self.dense(self.hidden, name='fc1')(x))
        return self.dense(x.shape[-1], kernel_init=self.init, name='fc2')(y)


class Model(nn.Module):
    """Hiera (Ryali et al. 2023, arXiv:2306.00989); its head starts at zero.

    Attention is inside of mask units, squares that are one token in the last stage, and in later
    stages over all tokens. The image given to ``init`` sets the resolution: the learned positions
    have its shape.

    Attributes:
      num_classes: K; 0 gives the features in place of logits.
      patch_size: side of the window of a patch in pixels, an odd number.
      strides: step between patches; the side of a unit in pixels must divide the image's.
      width: channels of the first stage; each further stage doubles them and halves the map.
      depths: number of blocks of each stage.
      heads: number of attention heads of the first stage, which each further stage doubles; divides
        ``width``.
      local: for each stage, whether attention is inside of units; the first block of a stage, which
        pools, does as the stage before.
      mlp_ratio: hidden width of a block's MLP, as a multiple of its channels.
      init_std: standard deviation of the kernels at the start; in the last layer of a branch of
        block i, counted from 1, it is divided by sqrt(2 i).
      attention: 'xla', 'cudnn' (GPU, bfloat16) or 'maps', which adds stage1_block0_attn.. to
        ``out``: (N, G, H, Q, P) inside of G units, else (N, H, Q, L), of unrolled tokens.
      dropout: rate before the head.
      drop_path: rate of stochastic depth in the last block; it rises linearly from 0.
      remat: recomputes the blocks in the backward pass, which saves memory.
      act: activation, see ``layers.ACTIVATIONS``.
      dtype: compute dtype, 'float32' or 'bfloat16'.
    """

    num_classes: int
    patch_size: int = 7
    strides: int = 4
    width: int = 96
    depths: tuple[int, ...] = (2, 3, 16, 3)
    heads: int = 1
    local: tuple[bool, ...] = (True, True, False, False)
    mlp_ratio: float = 4.0
    init_std: float = 0.02
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
          ValueError: the units do not tile the image, or the heads do not divide the width.
        """
        dtype = layers.compute_dtype(self.dtype)
        act = layers.activation(self.act)
        norm = partial(layers.layer_norm, epsilon=1e-6, dtype=dtype)
        dense = partial(
            layers.Dense, dtype=dtype, kernel_init=nn.initializers.normal(self.init_std),
            bias_init=nn.initializers.constant(0.02))
        block = partial(
            nn.remat(Block) if self.remat else Block, norm=norm, dense=dense,
            residual=branches.residual(self.drop_path, train=train))
        attention = partial(MaskUnitAttention, dense=dense, attend=layers.pick(
            'attention', self.attention, ATTENTIONS))
        if self.width % self.heads:
            raise ValueError(f'width {self.width} is not divisible by {self.heads} heads')

        levels = len(self.depths) - 1  # number of poolings
        out = {'stem': self._embed(image_NHWC, levels, dtype)}
        H, W = out['stem'].shape[1:3]
        x_NPGC = unroll(out['stem'], levels)
        rates = branches.drop_path_rates(self.drop_path, sum(self.depths))
        index = 0  # of the block
        for i, depth in enumerate(self.depths):
            C = self.width * 2**i
            for j in range(depth):
                pooled = i > 0 and j == 0
                last_init = nn.initializers.normal(self.init_std / math.sqrt(2 * (index + 1)))
                x_NPGC, attn = block(
                    attention=partial(attention, C, self.heads * 2**i, init=last_init,
                                      pooled=pooled, local=self.local[i - pooled]),
                    mlp=partial(Mlp, int(C * self.mlp_ratio), act, dense, last_init),
                    name=f'blocks.{index}',
                )(x_NPGC, rates[index])
                if attn is not None:
                    out[f'stage{i + 1}_block{j}_attn'] = attn
                index += 1
            out[f'stage{i + 1}'] = roll(x_NPGC, levels - i, H >> i, W >> i)
        x_NF = x_NPGC.mean(axis=(1, 2), dtype=jnp.float32)
        out['pre_logits'] = norm(name='norm', dtype=jnp.float32)(x_NF)
        x_NF = nn.Dropout(self.dropout, deterministic=not train)(out['pre_logits'])
        out['logits'] = layers.head(x_NF, self.num_classes, layers.zeros)
        return out['logits'], out

    def _embed(self, x_NHWC: jax.Array, levels: int, dtype: Any) -> jax.Array:
        """Returns x_NHWC: overlapping patches plus their learned positions."""
        H, W = x_NHWC.shape[1:3]
        unit = self.strides << levels
        if H % unit or W % unit:
            raise ValueError(f'mask units of {unit} pixels do not tile an image of {H} by {W}')
        normal = nn.initializers.normal(self.init_std)
        embed = convolve.Conv(self.width, self.patch_size, self.strides, use_bias=True,
                              dtype=dtype, kernel_init=normal, name='patch_embed.proj')
        x_NHWC = embed(x_NHWC)
        H, W = x_NHWC.shape[1:3]
        pos_1LC = self.param('pos_embed', nn.initializers.normal(0.02), (1, H * W, self.width),
                             jnp.float32)
        return x_NHWC + pos_1LC.reshape(1, H, W, self.width).astype(dtype)
