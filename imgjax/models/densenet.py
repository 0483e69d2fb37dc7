"""Densely connected networks: timm's for ImageNet and one of the paper's for CIFAR."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from imgjax.models.parts import convolve, layers, pooling

VARIANTS = {
    'densenet121': {'depths': (6, 12, 24, 16)},
    'densenet161': {'depths': (6, 12, 36, 24), 'growth': 48},
    'densenet169': {'depths': (6, 12, 32, 32)},
    'densenet201': {'depths': (6, 12, 48, 32)},
    'densenet264d': {'depths': (6, 12, 64, 48), 'growth': 48, 'stem': 'deep'},
    'densenet_bc_100_12': {'depths': (16, 16, 16), 'growth': 12, 'stem': 'cifar'},
    'tiny_densenet': {'depths': (2, 2), 'growth': 8, 'stem': 'cifar'},
}
RENAMES = {'head': 'classifier'}


class DenseLayer(nn.Module):
    """x_NHWC -> the channels y_NHWG that it adds: norm, act, 1x1, norm, act and 3x3."""

    growth: int
    conv: Callable
    norm: Callable
    act: Callable
    drop: Callable

    @nn.compact
    def __call__(self, x_NHWC: jax.Array) -> jax.Array:
        y_NHWC = self.act(self.norm(name='norm1')(x_NHWC))
        y_NHWB = self.drop()(self.conv(4 * self.growth, 1, name='conv1')(y_NHWC))
        y_NHWB = self.act(self.norm(name='norm2')(y_NHWB))
        return self.drop()(self.conv(self.growth, 3, name='conv2')(y_NHWB))


class Model(nn.Module):
    """DenseNet-BC (Huang et al. 2016, arXiv:1608.06993): each layer reads all layers before it.

    Attributes:
      num_classes: K; 0 gives the features in place of logits.
      depths: number of layers of each stage; a transition between stages halves channels and map.
      growth: channels that a layer adds; the stem has twice as many.
      stem: 'imagenet' (7x7 of stride 2, then max pooling), 'deep' (three 3x3 in its place) or
        'cifar' (3x3, full resolution).
      norm: 'batch', 'group', 'layer' or 'none'; convolutions have a bias only with 'none'.
      dropout: rate after each convolution but the first; the paper has 0.2 without augmentation.
      remat: recomputes the layers in the backward pass, which saves memory (Pleiss et al. 2017,
        arXiv:1707.06990).
      act: activation, see ``layers.ACTIVATIONS``.
      dtype: compute dtype, 'float32' or 'bfloat16'.
    """

    num_classes: int
    depths: tuple[int, ...] = (6, 12, 24, 16)
    growth: int = 32
    stem: str = 'imagenet'
    norm: str = 'batch'
    dropout: float = 0.0
    remat: bool = False
    act: str = 'relu'
    dtype: Any = 'float32'

    @nn.compact
    def __call__(self, image_NHWC: jax.Array, *, train: bool) -> layers.Outputs:
        """float (N, H, W, C) -> float32 logits (N, K).

        ``out`` has stem, stage1.. (before their transition), pre_logits and logits.

        Raises:
          ValueError: the image is too small to be halved between all stages.
        """
        dtype = layers.compute_dtype(self.dtype)
        conv = partial(convolve.Conv, use_bias=self.norm == 'none', dtype=dtype,
                       kernel_init=nn.initializers.variance_scaling(2.0, 'fan_in', 'normal'))
        norm = layers.norm(self.norm, train=train, dtype=dtype)
        act = layers.activation(self.act)
        drop = partial(nn.Dropout, self.dropout, deterministic=not train)
        layer = partial(nn.remat(DenseLayer) if self.remat else DenseLayer, self.growth, conv, norm,
                        act, drop)

        x_NHWC = self._stem(image_NHWC, conv, norm, act)
        out = {'stem': x_NHWC}
        for i, depth in enumerate(self.depths, 1):
            for j in range(1, depth + 1):
                new_NHWG = layer(name=f'features.denseblock{i}.denselayer{j}')(x_NHWC)
                x_NHWC = jnp.concatenate([x_NHWC, new_NHWG], axis=-1)
            out[f'stage{i}'] = x_NHWC
            if i < len(self.depths):
                name, width = f'features.transition{i}', x_NHWC.shape[-1] // 2
                x_NHWC = act(norm(name=f'{name}.norm')(x_NHWC))
                x_NHWC = drop()(conv(width, 1, name=f'{name}.conv')(x_NHWC))
                x_NHWC = pooling.avg_pool(x_NHWC, 2, 2)
        x_NHWC = act(norm(name='features.norm5')(x_NHWC))
        out['pre_logits'] = x_NHWC.mean(axis=(1, 2), dtype=jnp.float32)
        out['logits'] = layers.head(out['pre_logits'], self.num_classes)
        return out['logits'], out

    def _stem(self, x_NHWC: jax.Array, conv: Callable, norm: Callable, act: Callable) -> jax.Array:
        width = 2 * self.growth
        widths = layers.pick('stem', self.stem, {
            'imagenet': (), 'deep': (self.growth, self.growth, width), 'cifar': None})
        if widths is None:  # the first layer has the norm and the activation
            return conv(width, 3, name='features.conv0')(x_NHWC)
        for i, features in enumerate(widths):
            x_NHWC = conv(features, 3, 1 if i else 2, name=f'features.conv{i}')(x_NHWC)
            x_NHWC = act(norm(name=f'features.norm{i}')(x_NHWC))
        if not widths:
            x_NHWC = conv(width, 7, 2, name='features.conv0')(x_NHWC)
            x_NHWC = act(norm(name='features.norm0')(x_NHWC))
        return pooling.max_pool(x_NHWC, 3, 2, padding=1)
