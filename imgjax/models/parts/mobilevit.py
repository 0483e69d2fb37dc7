"""What both versions of MobileViT share: inverted residuals, patches of a map, and the stages."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from imgjax.models.parts import branches, convolve, layers


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
    def __call__(self, x_NHWC: jax.Array) -> jax.Array:
        std = (2 * self.groups / self.features) ** 0.5 / self.kernel_size
        x_NHWF = convolve.Conv(
            self.features, self.kernel_size, self.strides, groups=self.groups, dtype=self.dtype,
            kernel_init=nn.initializers.normal(std), name='conv')(x_NHWC)
        norm = layers.BatchNorm(train=self.train, dtype=self.dtype, name='bn')
        return self.act(norm(x_NHWF))


class InvertedResidual(nn.Module):
    """Inverted residual (Sandler et al. 2018, arXiv:1801.04381): 1x1, depthwise 3x3 and 1x1.

    (x_NHWC, drop_path rate) -> y_NHWF. It has a shortcut only if x and y have one shape.
    """

    features: int
    strides: int
    expansion: int
    unit: Callable
    act: Callable
    residual: Callable

    @nn.compact
    def __call__(self, x_NHWC: jax.Array, rate: branches.Rate) -> jax.Array:
        width = x_NHWC.shape[-1] * self.expansion
        y_NHWF = self.unit(width, 1, act=self.act, name='conv1_1x1')(x_NHWC)
        y_NHWF = self.unit(width, 3, self.strides, width, self.act, name='conv2_kxk')(y_NHWF)
        y_NHWF = self.unit(self.features, 1, name='conv3_1x1')(y_NHWF)
        if self.strides > 1 or x_NHWC.shape[-1] != self.features:
            return y_NHWF
        return self.residual()(x_NHWC, y_NHWF, rate)


def resize(x_NHWC: jax.Array, h: int, w: int, corners: bool) -> jax.Array:
    """Returns x_NHWC at height h and width w, by bilinear interpolation without smoothing.

    With ``corners`` the centres of the corner pixels are aligned, else the borders of the image.
    """
    def weights(old: int, new: int) -> jax.Array:
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


def unfold(x_NHWC: jax.Array, p: int) -> jax.Array:
    """Returns x_NPLC: for each of P = p * p places in a patch the pixels of all L patches."""
    N, H, W, C = x_NHWC.shape
    return x_NHWC.reshape(N, H // p, p, W // p, p, C).transpose(0, 2, 4, 1, 3, 5).reshape(
        N, p * p, -1, C)


def fold(x_NPLC: jax.Array, h: int, w: int, p: int) -> jax.Array:
    """Returns the image of height h and width w: the inverse of ``unfold``."""
    N, _, _, C = x_NPLC.shape
    return x_NPLC.reshape(N, p, p, h // p, w // p, C).transpose(0, 3, 1, 4, 2, 5).reshape(
        N, h, w, C)


def stages(model: nn.Module, image_NHWC: jax.Array, transform: Callable, unit: Callable,
           act: Callable, residual: Callable) -> layers.Outputs:
    """Returns the last map of either version and ``out``, which has stem and stage1...

    Args:
      model: the calling module, which gets the layers; it has the options stem, widths, depths,
        expansion, transformer_depths, drop_path and remat.
      image_NHWC: float.
      transform: index of a stage among those with transformers -> constructor of its last block.
      unit: constructor of ``ConvNormAct``.
      act: activation.
      residual: constructor of ``branches.Residual``.
    """
    inverted = partial(nn.remat(InvertedResidual) if model.remat else InvertedResidual,
                       expansion=model.expansion, unit=unit, act=act, residual=residual)
    x_NHWC = unit(model.stem, 3, 2, act=act, name='stem')(image_NHWC)
    out = {'stem': x_NHWC}
    first = len(model.widths) - len(model.transformer_depths)
    rates = iter(branches.drop_path_rates(
        model.drop_path, sum(model.depths) + len(model.transformer_depths)))
    for i, (features, depth) in enumerate(zip(model.widths, model.depths, strict=True)):
        blocks = [partial(inverted, features, 2 if i and not j else 1) for j in range(depth)]
        if i >= first:
            blocks.append(transform(i - first))
        for j, block in enumerate(blocks):
            x_NHWC = block(name=f'stages.{i}.{j}')(x_NHWC, next(rates))
        out[f'stage{i + 1}'] = x_NHWC
    return x_NHWC, out
