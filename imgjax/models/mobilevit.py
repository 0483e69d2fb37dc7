"""MobileViT: inverted residuals with transformers between convolutions, as timm has them."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from imgjax.models.parts import convolve, layers
from imgjax.models.parts.attention import Attention, attend
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


class ConvNormAct(nn.Module):
    """Convolution, batch norm and activation, x_NHWC -> y_NHWF."""

    features: int
    kernel_size: int
    strides: int = 1
    groups: int = 1
    act: Callable = layers.ACTIVATIONS['identity']
    train: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x_NHWC):
        std = (2 * self.groups / self.features) ** 0.5 / self.kernel_size
        x_NHWF = convolve.Conv(
            self.features, self.kernel_size, self.strides, groups=self.groups, dtype=self.dtype,
            kernel_init=nn.initializers.normal(std), name='conv')(x_NHWC)
        norm = layers.BatchNorm(train=self.train, dtype=self.dtype, name='bn')
        return self.act(norm(x_NHWF))


class InvertedResidual(nn.Module):
    """Widens, convolves a channel alone and narrows: (x_NHWC, drop_path rate) -> y_NHWF.

    Where strides or widths differ there is no shortcut (Sandler et al. 2018, arXiv:1801.04381).
    """

    features: int
    strides: int
    expansion: int
    unit: Callable
    act: Callable
    residual: Callable

    @nn.compact
    def __call__(self, x_NHWC, rate):
        width = x_NHWC.shape[-1] * self.expansion
        y_NHWF = self.unit(width, 1, act=self.act, name='conv1_1x1')(x_NHWC)
        y_NHWF = self.unit(width, 3, self.strides, width, self.act, name='conv2_kxk')(y_NHWF)
        y_NHWF = self.unit(self.features, 1, name='conv3_1x1')(y_NHWF)
        if self.strides > 1 or x_NHWC.shape[-1] != self.features:
            return y_NHWF
        return self.residual()(x_NHWC, y_NHWF, rate)


def resize(x_NHWC, h: int, w: int, corners: bool):
    """Bilinear interpolation without smoothing.

    With ``corners`` the centres of the border pixels stay where they are, or else the borders do.
    """
    def weights(old, new):
        if corners:
            at_B = np.arange(new) * (old - 1) / max(1, new - 1)
        else:
            at_B = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
        return jnp.asarray(np.maximum(0, 1 - np.abs(at_B[:, None] - np.arange(old))), x_NHWC.dtype)

    _, H, W, _ = x_NHWC.shape
    if (h, w) == (H, W):
        return x_NHWC
    y_NHWC = jnp.einsum('hH,nHwc->nhwc', weights(H, h), x_NHWC)
    return jnp.einsum('wW,nhWc->nhwc', weights(W, w), y_NHWC)


def unfold(x_NHWC, p: int):
    """x_NPLC: for each of the p * p places in a patch the pixels there, of all L patches."""
    N, H, W, C = x_NHWC.shape
    return x_NHWC.reshape(N, H // p, p, W // p, p, C).transpose(0, 2, 4, 1, 3, 5).reshape(
        N, p * p, -1, C)


def fold(x_NPLC, h: int, w: int, p: int):
    """The image of height h and width w that ``unfold`` took apart."""
    N, _, _, C = x_NPLC.shape
    return x_NPLC.reshape(N, p, p, h // p, w // p, C).transpose(0, 3, 1, 4, 2, 5).reshape(
        N, h, w, C)


class MobileBlock(nn.Module):
    """Transformers between convolutions: (x_NHWC, drop_path rate) -> y_NHWC.

    A pixel attends to those at its own place in all patches; the 3x3 convolutions see to the rest.
    Where patches do not tile the image, it is made larger for the transformers.
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
    def __call__(self, x_NHWC, rate):
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


def stages(model, image_NHWC, transform, unit, act, residual):
    """Returns the last map of either version and ``out``, which has stem, stage1...

    Args:
      model: has stem, widths, depths, expansion, transformer_depths, drop_path and remat, and gets
        the layers.
      image_NHWC: float.
      transform: stage, from 0 at the first with transformers -> constructor of that block.
      unit: constructor of ``ConvNormAct``.
      act: activation.
      residual: constructor of ``layers.Residual``.
    """
    inverted = partial(nn.remat(InvertedResidual) if model.remat else InvertedResidual,
                       expansion=model.expansion, unit=unit, act=act, residual=residual)
    x_NHWC = unit(model.stem, 3, 2, act=act, name='stem')(image_NHWC)
    out = {'stem': x_NHWC}
    first = len(model.widths) - len(model.transformer_depths)
    total, count = sum(model.depths) + len(model.transformer_depths), 0
    for i, (features, depth) in enumerate(zip(model.widths, model.depths, strict=True)):
        blocks = [partial(inverted, features, 2 if i and not j else 1) for j in range(depth)]
        if i >= first:
            blocks.append(transform(i - first))
        for j, make in enumerate(blocks):
            rate = model.drop_path * count / max(1, total - 1)
            x_NHWC = make(name=f'stages.{i}.{j}')(x_NHWC, rate)
            count += 1
        out[f'stage{i + 1}'] = x_NHWC
    return x_NHWC, out


class Model(nn.Module):
    """MobileViT (Mehta and Rastegari 2021, arXiv:2110.02178).

    No parameter depends on the image's size.

    Attributes:
      num_classes: K, or 0 for the features.
      stem: channels of the first convolution.
      widths: channels of every stage; each stage but the first halves the image.
      depths: inverted residuals of every stage.
      expansion: of the inverted residuals.
      transformer_widths: of the last stages, which end in a block with transformers.
      transformer_depths: of the same stages.
      heads: attention heads; divide the transformers' widths.
      mlp_ratio: hidden width of a transformer's MLP over its width.
      patch_size: side of the patches, in pixels of the stage.
      features: of the last convolution.
      dropout: rate before the head.
      drop_path: stochastic depth, rising linearly from 0 to this rate in the last block.
      remat: recomputes the blocks in the backward pass, for memory.
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
    def __call__(self, image_NHWC, *, train: bool):
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
        residual = partial(layers.Residual, not train or self.drop_path == 0)
        attention = partial(Attention, heads=self.heads, qkv_bias=True, dtype=dtype,
                            attend=lambda *args: (attend(*args)[0], None))
        block = nn.remat(MobileBlock) if self.remat else MobileBlock

        def transform(stage):
            width = self.transformer_widths[stage]
            transformer = partial(
                Transformer, attention, norm=norm, drop=lambda: lambda x: x,
                mlp=partial(layers.Mlp, int(width * self.mlp_ratio), act, dtype=dtype),
                residual=residual, layer_scale=layers.layer_scale(None))
            return partial(block, width, self.transformer_depths[stage], self.patch_size,
                           transformer, unit, act, norm, dtype)

        x_NHWC, out = stages(self, image_NHWC, transform, unit, act, residual)
        out['final'] = unit(self.features, 1, act=act, name='final_conv')(x_NHWC)
        out['pre_logits'] = out['final'].mean(axis=(1, 2), dtype=jnp.float32)
        x_NF = nn.Dropout(self.dropout, deterministic=not train)(out['pre_logits'])
        out['logits'] = layers.head(x_NF, self.num_classes)
        return out['logits'], out
