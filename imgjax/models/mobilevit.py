"""MobileViT: inverted residuals with transformers between convolutions, as timm has them."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from imgjax.models.parts import branches, convolve, layers
from imgjax.models.parts.attention import Attention, attend
from imgjax.models.parts.mobilevit import ConvNormAct, fold, resize, stages, unfold
from imgjax.models.vit import Block as Transformer

VARIANTS = {
    'mobilevit_xxs': {'widths': (16, 24, 48, 64, 80), 'transformer_widths': (64, 80, 96),
                      'expansion': 2, 'features': 320},
    'mobilevit_xs': {'widths': (32, 48, 64, 80, 96), 'transformer_widths': (96, 120, 144),
                     'features': 384},
    'mobilevit_s': {},
    'tiny_mobilevit': {'widths': (8, 16), 'depths': (1, 1), 'transformer_widths': (16,),
                       'transformer_depths': (1,), 'heads': 2, 'expansion': 2, 'features': 32},
}
RENAMES = {'head': 'head.fc'}


class MobileBlock(nn.Module):
    """Transformers between convolutions: (x_NHWC, drop_path rate) -> y_NHWC.

    A pixel attends to the pixels at the same place of all patches; the 3x3 convolutions connect
    the places. Where patches do not tile the map, the transformers get an enlarged map.
    """

    width: int
    depth: int
    patch_size: int
    transformer: Callable
    unit: Callable
    act: Callable
    norm: Callable
    dtype: Any

    @nn.compact
    def __call__(self, x_NHWC: jax.Array, rate: branches.Rate) -> jax.Array:
        N, H, W, C = x_NHWC.shape
        p = self.patch_size
        h, w = -(-H // p) * p, -(-W // p) * p
        y_NHWC = self.unit(C, 3, act=self.act, name='conv_kxk')(x_NHWC)
        y_NHWC = convolve.Conv(self.width, 1, dtype=self.dtype, name='conv_1x1')(y_NHWC)
        x_NPLC = unfold(resize(y_NHWC, h, w, corners=False), p)
        x_BLC = x_NPLC.reshape(N * p * p, -1, self.width)
        for i in range(self.depth):
            x_BLC, _ = self.transformer(name=f'transformer.{i}')(x_BLC, rate)
        x_NPLC = self.norm(name='norm')(x_BLC).reshape(x_NPLC.shape)
        y_NHWC = resize(fold(x_NPLC, h, w, p), H, W, corners=False)
        y_NHWC = self.unit(C, 1, act=self.act, name='conv_proj')(y_NHWC)
        y_NHWC = jnp.concatenate([x_NHWC, y_NHWC], axis=-1)
        return self.unit(C, 3, act=self.act, name='conv_fusion')(y_NHWC)


class Model(nn.Module):
    """MobileViT (Mehta and Rastegari 2021, arXiv:2110.02178).

    No parameter depends on the image's size.

    Attributes:
      num_classes: K; 0 gives the features in place of logits.
      stem: channels of the first convolution.
      widths: channels of each stage; each stage but the first halves the map.
      depths: number of inverted residuals of each stage.
      expansion: width inside the inverted residuals, as a multiple of the width of their input.
      transformer_widths: widths of the transformers that end each of the last stages.
      transformer_depths: number of transformers of each of these stages.
      heads: number of attention heads; divides ``transformer_widths``.
      mlp_ratio: hidden width of a transformer's MLP, as a multiple of its width.
      patch_size: side of the patches, in pixels of the stage.
      features: channels of the last convolution.
      dropout: rate before the head.
      drop_path: rate of stochastic depth in the last block; it rises linearly from 0.
      remat: recomputes the blocks in the backward pass, which saves memory.
      act: activation, see ``layers.ACTIVATIONS``.
      dtype: compute dtype, 'float32' or 'bfloat16'.
    """

    num_classes: int
    stem: int = 16
    widths: tuple[int, ...] = (32, 64, 96, 128, 160)
    depths: tuple[int, ...] = (1, 3, 1, 1, 1)
    expansion: int = 4
    transformer_widths: tuple[int, ...] = (144, 192, 240)
    transformer_depths: tuple[int, ...] = (2, 4, 3)
    heads: int = 4
    mlp_ratio: float = 2.0
    patch_size: int = 2
    features: int = 640
    dropout: float = 0.0
    drop_path: float = 0.0
    remat: bool = False
    act: str = 'silu'
    dtype: Any = 'float32'

    @nn.compact
    def __call__(self, image_NHWC: jax.Array, *, train: bool) -> layers.Outputs:
        """float (N, H, W, C) -> float32 logits (N, K).

        ``out`` has stem, stage1.., final, pre_logits and logits.

        Raises:
          ValueError: the heads do not divide a transformer's width.
        """
        dtype, act = layers.compute_dtype(self.dtype), layers.activation(self.act)
        for width in self.transformer_widths:
            if width % self.heads:
                raise ValueError(f'width {width} is not divisible by {self.heads} heads')
        unit = partial(ConvNormAct, train=train, dtype=dtype)
        norm = partial(layers.layer_norm, epsilon=1e-5, dtype=dtype)
        residual = branches.residual(self.drop_path, train=train)
        attention = partial(Attention, heads=self.heads, qkv_bias=True, dtype=dtype,
                            attend=lambda *args: (attend(*args)[0], None))
        block = nn.remat(MobileBlock) if self.remat else MobileBlock

        def transform(stage: int) -> Callable:
            width = self.transformer_widths[stage]
            transformer = partial(
                Transformer, attention, norm=norm, drop=lambda: lambda x: x,
                mlp=partial(layers.Mlp, int(width * self.mlp_ratio), act, dtype=dtype),
                residual=residual, layer_scale=branches.layer_scale(None))
            return partial(block, width, self.transformer_depths[stage], self.patch_size,
                           transformer, unit, act, norm, dtype)

        x_NHWC, out = stages(self, image_NHWC, transform, unit, act, residual)
        out['final'] = unit(self.features, 1, act=act, name='final_conv')(x_NHWC)
        out['pre_logits'] = out['final'].mean(axis=(1, 2), dtype=jnp.float32)
        x_NF = nn.Dropout(self.dropout, deterministic=not train)(out['pre_logits'])
        out['logits'] = layers.head(x_NF, self.num_classes)
        return out['logits'], out
