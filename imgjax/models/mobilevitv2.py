"""MobileViT v2: attention by one score per pixel, linear in the number of patches, as in timm."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from imgjax.models.parts import branches, convolve, layers
from imgjax.models.parts.mobilevit import ConvNormAct, fold, resize, stages, unfold

VARIANTS = {
    f'mobilevitv2_{percent:03}': {
        'stem': 32 * percent // 100,
        'widths': tuple(width * percent // 100 for width in (64, 128, 256, 384, 512)),
    } for percent in (50, 75, 100, 125, 150, 175, 200)
}
VARIANTS['tiny_mobilevitv2'] = {
    'stem': 16, 'widths': (8, 16), 'depths': (1, 1), 'transformer_depths': (1,)}
RENAMES = {'head': 'head.fc'}

norm = partial(layers.group_norm, groups=1)  # over the whole of an example


class Transformer(nn.Module):
    """Separable self-attention and an MLP: (x_NPLC, drop_path rate) -> y_NPLC.

    Each pixel has one score. The values are multiplied with the mean of the keys, weighted by the
    softmax of the scores over the patches. The relu of the values is a part of the attention, which
    ``act`` does not change.
    """

    hidden: int
    act: Callable
    residual: Callable
    dtype: Any

    @nn.compact
    def __call__(self, x_NPLC: jax.Array, rate: branches.Rate) -> jax.Array:
        C = x_NPLC.shape[-1]
        conv = partial(convolve.Conv, kernel_size=1, use_bias=True, dtype=self.dtype)
        y_NPLC = norm(dtype=self.dtype, name='norm1')(x_NPLC)
        y_NPLF = conv(1 + 2 * C, name='attn.qkv_proj')(y_NPLC)
        score_NPL1, key_NPLC, value_NPLC = jnp.split(y_NPLF, (1, 1 + C), axis=-1)
        share_NPL1 = jax.nn.softmax(score_NPL1.astype(jnp.float32), axis=2).astype(self.dtype)
        mean_NP1C = jnp.sum(key_NPLC * share_NPL1, axis=2, keepdims=True)
        y_NPLC = conv(C, name='attn.out_proj')(jax.nn.relu(value_NPLC) * mean_NP1C)
        x_NPLC = self.residual()(x_NPLC, y_NPLC, rate)
        y_NPLC = norm(dtype=self.dtype, name='norm2')(x_NPLC)
        y_NPLF = self.act(conv(self.hidden, name='mlp.fc1')(y_NPLC))
        return self.residual()(x_NPLC, conv(C, name='mlp.fc2')(y_NPLF), rate)


class MobileBlock(nn.Module):
    """Transformers between convolutions, (x_NHWC, drop_path rate) -> y_NHWC, without a shortcut.

    Where patches do not tile the map, the output is an enlarged map.
    """

    depth: int
    patch_size: int
    mlp_ratio: float
    unit: Callable
    act: Callable
    residual: Callable
    dtype: Any

    @nn.compact
    def __call__(self, x_NHWC: jax.Array, rate: branches.Rate) -> jax.Array:
        _, H, W, C = x_NHWC.shape
        p, width = self.patch_size, C // 2
        h, w = -(-H // p) * p, -(-W // p) * p
        x_NHWC = resize(x_NHWC, h, w, corners=True)
        x_NHWC = self.unit(C, 3, groups=C, act=self.act, name='conv_kxk')(x_NHWC)
        x_NHWC = convolve.Conv(width, 1, dtype=self.dtype, name='conv_1x1')(x_NHWC)
        x_NPLC = unfold(x_NHWC, p)
        for i in range(self.depth):
            x_NPLC = Transformer(int(width * self.mlp_ratio), self.act, self.residual, self.dtype,
                                 name=f'transformer.{i}')(x_NPLC, rate)
        x_NPLC = norm(dtype=self.dtype, name='norm')(x_NPLC)
        return self.unit(C, 1, name='conv_proj')(fold(x_NPLC, h, w, p))


class Model(nn.Module):
    """MobileViT v2 (Mehta and Rastegari 2022, arXiv:2206.02680).

    No parameter depends on the image's size.

    Attributes:
      num_classes: K; 0 gives the features in place of logits.
      stem: channels of the first convolution.
      widths: channels of each stage; each stage but the first halves the map.
      depths: number of inverted residuals of each stage.
      expansion: width inside the inverted residuals, as a multiple of the width of their input.
      transformer_depths: number of transformers, of half the channels, that end each of the last
        stages.
      mlp_ratio: hidden width of a transformer's MLP, as a multiple of its width.
      patch_size: side of the patches, in pixels of the stage.
      dropout: rate before the head.
      drop_path: rate of stochastic depth in the last block; it rises linearly from 0.
      remat: recomputes the blocks in the backward pass, which saves memory.
      act: activation, see ``layers.ACTIVATIONS``.
      dtype: compute dtype, 'float32' or 'bfloat16'.
    """

    num_classes: int
    stem: int = 32
    widths: tuple[int, ...] = (64, 128, 256, 384, 512)
    depths: tuple[int, ...] = (1, 2, 1, 1, 1)
    expansion: int = 2
    transformer_depths: tuple[int, ...] = (2, 4, 3)
    mlp_ratio: float = 2.0
    patch_size: int = 2
    dropout: float = 0.0
    drop_path: float = 0.0
    remat: bool = False
    act: str = 'silu'
    dtype: Any = 'float32'

    @nn.compact
    def __call__(self, image_NHWC: jax.Array, *, train: bool) -> layers.Outputs:
        """float (N, H, W, C) -> float32 logits (N, K).

        ``out`` has stem, stage1.., pre_logits and logits.
        """
        dtype, act = layers.compute_dtype(self.dtype), layers.activation(self.act)
        unit = partial(ConvNormAct, train=train, dtype=dtype)
        residual = branches.residual(self.drop_path, train=train)
        block = nn.remat(MobileBlock) if self.remat else MobileBlock

        def transform(stage: int) -> Callable:
            return partial(block, self.transformer_depths[stage], self.patch_size, self.mlp_ratio,
                           unit, act, residual, dtype)

        x_NHWC, out = stages(self, image_NHWC, transform, unit, act, residual)
        out['pre_logits'] = x_NHWC.mean(axis=(1, 2), dtype=jnp.float32)
        x_NF = nn.Dropout(self.dropout, deterministic=not train)(out['pre_logits'])
        out['logits'] = layers.head(x_NF, self.num_classes)
        return out['logits'], out
