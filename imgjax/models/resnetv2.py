"""Pre-activation residual networks as timm has them, among them those of Big Transfer."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from imgjax.models.parts import branches, convolve, layers, pooling


def _bit(depths: tuple[int, ...], times: int) -> dict[str, Any]:
    return {'depths': depths, 'widths': tuple(times * width for width in (256, 512, 1024, 2048)),
            'stem_width': 64 * times, 'stem': 'bit', 'conv': 'standardised', 'norm': 'group'}


_18, _34 = (
    {'depths': depths, 'block': 'basic', 'widths': (64, 128, 256, 512)}
    for depths in ((2, 2, 2, 2), (3, 4, 6, 3)))
_50, _101, _152 = (3, 4, 6, 3), (3, 4, 23, 3), (3, 8, 36, 3)
_D = {'stem': 'deep', 'shortcut': 'avg'}
VARIANTS = {
    'resnetv2_50x1_bit': _bit(_50, 1),
    'resnetv2_50x3_bit': _bit(_50, 3),
    'resnetv2_101x1_bit': _bit(_101, 1),
    'resnetv2_101x3_bit': _bit(_101, 3),
    'resnetv2_152x2_bit': _bit(_152, 2),
    'resnetv2_152x4_bit': _bit(_152, 4),
    'resnetv2_18': _18,
    'resnetv2_34': _34,
    'resnetv2_50': {'depths': _50},
    'resnetv2_101': {'depths': _101},
    'resnetv2_152': {'depths': _152},
    'resnetv2_18d': {**_18, **_D},
    'resnetv2_34d': {**_34, **_D},
    'resnetv2_50d': {'depths': _50, **_D},
    'resnetv2_101d': {'depths': _101, **_D},
    'resnetv2_152d': {'depths': _152, **_D},
    'resnetv2_50d_gn': {'depths': _50, **_D, 'norm': 'group'},
    'tiny_resnetv2': {'depths': (1, 1), 'widths': (32, 64), 'stem_width': 16, 'stem': 'cifar',
                      'conv': 'standardised', 'norm': 'group'},
}
RENAMES = {'head': 'head.fc'}


class Block(nn.Module):
    """Norm and activation before each of its convolutions: (x_NHWC, drop_path rate) -> y_NHWF.

    Attributes:
      features: F.
      strides: strides of the (first) 3x3 convolution.
      bottleneck: whether it has 1x1, 3x3 and 1x1 convolutions, the first two of width F / 4; else
        two of 3x3.
      pool: whether the shortcut is average pooled before its projection.
    """

    features: int
    strides: int
    bottleneck: bool
    pool: bool
    conv: Callable
    norm: Callable
    act: Callable
    residual: Callable

    @nn.compact
    def __call__(self, x_NHWC: jax.Array, rate: branches.Rate) -> jax.Array:
        y_NHWC = self.act(self.norm(name='norm1')(x_NHWC))
        if self.strides > 1 or x_NHWC.shape[-1] != self.features:
            x_NHWC = self._shortcut(y_NHWC)
        if self.bottleneck:
            convs = ((self.features // 4, 1, 1), (self.features // 4, 3, self.strides),
                     (self.features, 1, 1))
        else:
            convs = ((self.features, 3, self.strides), (self.features, 3, 1))
        for i, (width, side, strides) in enumerate(convs, 1):
            if i > 1:
                y_NHWC = self.act(self.norm(name=f'norm{i}')(y_NHWC))
            y_NHWC = self.conv(width, side, strides, name=f'conv{i}')(y_NHWC)
        return self.residual()(x_NHWC, y_NHWC, rate)

    def _shortcut(self, y_NHWC: jax.Array) -> jax.Array:
        strides = self.strides
        if self.pool and strides > 1:
            y_NHWC, strides = pooling.avg_pool_inside(y_NHWC, strides), 1
        return self.conv(self.features, 1, strides, name='downsample.conv')(y_NHWC)


class Model(nn.Module):
    """Residual network with pre-activation (He et al. 2016, arXiv:1603.05027).

    With group norm and standardised kernels it is Big Transfer's (Kolesnikov et al. 2019,
    arXiv:1912.11370), with 'deep' stem and 'avg' shortcut a ResNet-D (He et al. 2018,
    arXiv:1812.01187). The stride is in the 3x3 convolution.

    Attributes:
      num_classes: K; 0 gives the features in place of logits.
      depths: number of blocks of each stage; each stage but the first halves the map.
      widths: output channels of each stage, at least as many numbers as stages.
      stem_width: channels before the first stage.
      block: 'bottleneck' or 'basic'.
      stem: 'imagenet' (7x7 of stride 2, then max pooling), 'bit' (the same, but the pooling pads
        with zeros, which may be the maximum), 'deep' (three 3x3 in place of the 7x7) or 'cifar'
        (3x3, full resolution).
      shortcut: where the shape changes: 'conv', a 1x1 projection, or 'avg', the same after average
        pooling.
      conv: 'plain' or 'standardised', see ``convolve.StdConv``.
      norm: 'batch', 'group' (32 groups, or as many as fit the width), 'layer' or 'none'.
      dropout: rate before the head.
      drop_path: rate of stochastic depth in the last block; it rises linearly from 0.
      remat: recomputes the blocks in the backward pass, which saves memory.
      act: activation, see ``layers.ACTIVATIONS``.
      dtype: compute dtype, 'float32' or 'bfloat16'.
    """

    num_classes: int
    depths: tuple[int, ...] = (3, 4, 6, 3)
    widths: tuple[int, ...] = (256, 512, 1024, 2048)
    stem_width: int = 64
    block: str = 'bottleneck'
    stem: str = 'imagenet'
    shortcut: str = 'conv'
    conv: str = 'plain'
    norm: str = 'batch'
    dropout: float = 0.0
    drop_path: float = 0.0
    remat: bool = False
    act: str = 'relu'
    dtype: Any = 'float32'

    @nn.compact
    def __call__(self, image_NHWC: jax.Array, *, train: bool) -> layers.Outputs:
        """float (N, H, W, C) -> float32 logits (N, K).

        ``out`` has stem, stage1.., pre_logits and logits.
        """
        dtype = layers.compute_dtype(self.dtype)
        conv = layers.pick('conv', self.conv, {
            'plain': convolve.Conv, 'standardised': partial(convolve.StdConv, epsilon=1e-8)})
        conv = partial(conv, dtype=dtype, use_bias=self.norm == 'none')
        norm = layers.norm(self.norm, train=train, dtype=dtype)
        act = layers.activation(self.act)
        block = partial(
            nn.remat(Block) if self.remat else Block, conv=conv, norm=norm, act=act,
            bottleneck=layers.pick('block', self.block, {'bottleneck': True, 'basic': False}),
            pool=layers.pick('shortcut', self.shortcut, {'conv': False, 'avg': True}),
            residual=branches.residual(self.drop_path, train=train))

        x_NHWC = self._stem(image_NHWC, conv, norm, act)
        out = {'stem': x_NHWC}
        rates = iter(branches.drop_path_rates(self.drop_path, sum(self.depths)))
        for i, depth in enumerate(self.depths):
            for j in range(depth):
                strides = 2 if i > 0 and j == 0 else 1
                x_NHWC = block(self.widths[i], strides,
                               name=f'stages.{i}.blocks.{j}')(x_NHWC, next(rates))
            out[f'stage{i + 1}'] = x_NHWC
        x_NHWC = act(norm(name='norm')(x_NHWC))
        out['pre_logits'] = x_NHWC.mean(axis=(1, 2), dtype=jnp.float32)
        x_NF = nn.Dropout(self.dropout, deterministic=not train)(out['pre_logits'])
        out['logits'] = self._head(x_NF) if self.num_classes else x_NF
        return out['logits'], out

    def _stem(self, x_NHWC: jax.Array, conv: Callable, norm: Callable, act: Callable) -> jax.Array:
        width = self.stem_width
        stem = layers.pick('stem', self.stem, {'imagenet': 1, 'bit': 2, 'deep': 3, 'cifar': 4})
        if stem == 4:
            return conv(width, 3, name='stem.conv')(x_NHWC)
        if stem == 3:
            for i, strides in ((1, 2), (2, 1)):
                x_NHWC = conv(width // 2, 3, strides, name=f'stem.conv{i}')(x_NHWC)
                x_NHWC = act(norm(name=f'stem.norm{i}')(x_NHWC))
            x_NHWC = conv(width, 3, name='stem.conv3')(x_NHWC)
        else:
            x_NHWC = conv(width, 7, 2, name='stem.conv')(x_NHWC)
        if stem == 2:  # zeros around it, which may be the maximum
            x_NHWC = jnp.pad(x_NHWC, ((0, 0), (1, 1), (1, 1), (0, 0)))
        return pooling.max_pool(x_NHWC, 3, 2, padding=int(stem != 2))

    def _head(self, x_NF: jax.Array) -> jax.Array:
        """Float32 logits; like timm's, the head is a 1x1 convolution: its kernel has four axes."""
        head = convolve.Conv(self.num_classes, 1, use_bias=True, kernel_init=layers.small_normal,
                             name='head')
        return head(x_NF.reshape(len(x_NF), 1, 1, -1)).reshape(len(x_NF), -1)
