"""Residual networks: the ImageNet ones as timm has them, and those of the papers for CIFAR."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from imgjax.models.parts import branches, convolve, layers, pooling
from imgjax.models.parts.attention import ECA, SqueezeExcite

_50, _101, _152 = (
    {'depths': depths, 'block': 'bottleneck'}
    for depths in ((3, 4, 6, 3), (3, 4, 23, 3), (3, 8, 36, 3)))
_D = {'stem': 'deep', 'shortcut': 'avg'}
_CIFAR = {'widths': (16, 32, 64), 'stem': 'cifar', 'block': 'basic', 'shortcut': 'pad'}
VARIANTS = {
    'resnet18': {'depths': (2, 2, 2, 2), 'block': 'basic'},
    'resnet34': {'depths': (3, 4, 6, 3), 'block': 'basic'},
    'resnet26': {'depths': (2, 2, 2, 2), 'block': 'bottleneck'},
    'resnet50': _50,
    'resnet101': _101,
    'resnet152': _152,
    'resnet18d': {'depths': (2, 2, 2, 2), 'block': 'basic', **_D},
    'resnet34d': {'depths': (3, 4, 6, 3), 'block': 'basic', **_D},
    'resnet26d': {'depths': (2, 2, 2, 2), 'block': 'bottleneck', **_D},
    'resnet50d': {**_50, **_D},
    'resnet101d': {**_101, **_D},
    'resnet152d': {**_152, **_D},
    'resnext50_32x4d': {**_50, 'groups': 32, 'base_width': 4},
    'resnext101_32x4d': {**_101, 'groups': 32, 'base_width': 4},
    'resnext101_32x8d': {**_101, 'groups': 32, 'base_width': 8},
    'resnext101_64x4d': {**_101, 'groups': 64, 'base_width': 4},
    'wide_resnet50_2': {**_50, 'base_width': 128},
    'wide_resnet101_2': {**_101, 'base_width': 128},
    'seresnet18': {'depths': (2, 2, 2, 2), 'block': 'basic', 'attention': 'se'},
    'seresnet34': {'depths': (3, 4, 6, 3), 'block': 'basic', 'attention': 'se'},
    'seresnet50': {**_50, 'attention': 'se'},
    'seresnet101': {**_101, 'attention': 'se'},
    'seresnet152': {**_152, 'attention': 'se'},
    'seresnext50_32x4d': {**_50, 'groups': 32, 'base_width': 4, 'attention': 'se'},
    'ecaresnet50d': {**_50, **_D, 'attention': 'eca'},
    'ecaresnet101d': {**_101, **_D, 'attention': 'eca'},
    'resnet20_cifar': {'depths': (3, 3, 3), **_CIFAR},
    'resnet32_cifar': {'depths': (5, 5, 5), **_CIFAR},
    'resnet44_cifar': {'depths': (7, 7, 7), **_CIFAR},
    'resnet56_cifar': {'depths': (9, 9, 9), **_CIFAR},
    'resnet110_cifar': {'depths': (18, 18, 18), **_CIFAR},
    'wrn_16_4': {**_CIFAR, 'depths': (2, 2, 2), 'block': 'preact', 'widths': (64, 128, 256)},
    'wrn_28_10': {**_CIFAR, 'depths': (4, 4, 4), 'block': 'preact', 'widths': (160, 320, 640)},
    'tiny_resnet': {'depths': (1, 1), 'widths': (8, 16), 'block': 'bottleneck', 'stem': 'cifar'},
}
RENAMES = {'head': 'fc'}


def _se(name: str, features: int, dtype: Any) -> nn.Module:
    return SqueezeExcite(layers.multiple_of_8(features / 16), dtype=dtype, name=name)


class _Block(nn.Module):
    """The options of a block: (x_NHWC, drop_path rate) -> y_NHWF with F = features * expansion."""

    features: int
    strides: int
    conv: Callable
    norm: Callable
    act: Callable
    last_scale: Callable
    shortcut: str
    attention: Callable
    residual: Callable
    groups: int
    base_width: int
    stride_first: bool


class BasicBlock(_Block):
    """Two 3x3 convolutions with a shortcut."""

    expansion = 1

    @nn.compact
    def __call__(self, x_NHWC: jax.Array, rate: branches.Rate) -> jax.Array:
        y_NHWF = self.conv(self.features, 3, self.strides, name='conv1')(x_NHWC)
        y_NHWF = self.act(self.norm(name='bn1')(y_NHWF))
        y_NHWF = self.conv(self.features, 3, name='conv2')(y_NHWF)
        y_NHWF = self.norm(name='bn2', scale_init=self.last_scale)(y_NHWF)
        y_NHWF = self.attention(name='se', features=self.features)(y_NHWF)
        return self.act(self.residual()(_shortcut(self, x_NHWC), y_NHWF, rate))


class BottleneckBlock(_Block):
    """1x1, 3x3 (with the stride: v1.5; in v1 the first 1x1 has it) and 1x1, with a shortcut."""

    expansion = 4

    @nn.compact
    def __call__(self, x_NHWC: jax.Array, rate: branches.Rate) -> jax.Array:
        width = self.features * self.base_width // 64 * self.groups
        first, second = (self.strides, 1) if self.stride_first else (1, self.strides)
        y_NHWF = self.conv(width, 1, first, name='conv1')(x_NHWC)
        y_NHWF = self.act(self.norm(name='bn1')(y_NHWF))
        y_NHWF = self.conv(width, 3, second, groups=self.groups, name='conv2')(y_NHWF)
        y_NHWF = self.act(self.norm(name='bn2')(y_NHWF))
        y_NHWF = self.conv(self.features * 4, 1, name='conv3')(y_NHWF)
        y_NHWF = self.norm(name='bn3', scale_init=self.last_scale)(y_NHWF)
        y_NHWF = self.attention(name='se', features=self.features * 4)(y_NHWF)
        return self.act(self.residual()(_shortcut(self, x_NHWC), y_NHWF, rate))


class PreactBlock(_Block):
    """Norm and activation before both 3x3 convolutions (He et al. 2016, arXiv:1603.05027)."""

    expansion = 1

    @nn.compact
    def __call__(self, x_NHWC: jax.Array, rate: branches.Rate) -> jax.Array:
        y_NHWC = self.act(self.norm(name='bn1')(x_NHWC))
        if self.strides > 1 or x_NHWC.shape[-1] != self.features:
            x_NHWC = self.conv(self.features, 1, self.strides, name='downsample')(y_NHWC)
        y_NHWF = self.conv(self.features, 3, self.strides, name='conv1')(y_NHWC)
        y_NHWF = self.conv(self.features, 3, name='conv2')(self.act(self.norm(name='bn2')(y_NHWF)))
        y_NHWF = self.attention(name='se', features=self.features)(y_NHWF)
        return self.residual()(x_NHWC, y_NHWF, rate)


BLOCKS = {'basic': BasicBlock, 'bottleneck': BottleneckBlock, 'preact': PreactBlock}


def _shortcut(block: _Block, x_NHWC: jax.Array) -> jax.Array:
    """Returns x_NHWC in the output shape: unchanged, zero-padded (option A) or projected (B)."""
    s, width = block.strides, block.features * block.expansion
    extra = width - x_NHWC.shape[-1]
    if s == 1 and extra == 0:
        return x_NHWC
    if block.shortcut == 'pad':
        sides = ((0, 0), (0, 0), (0, 0), (extra // 2, extra - extra // 2))
        return jnp.pad(x_NHWC[:, ::s, ::s], sides)
    first = 0
    if block.shortcut == 'avg':
        first = 1
        if s > 1:  # at the border of an odd side over the pixels inside
            x_NHWC = pooling.avg_pool_inside(x_NHWC, s)
            s = 1
    y_NHWF = block.conv(width, 1, s, name=f'downsample.{first}')(x_NHWC)
    return block.norm(name=f'downsample.{first + 1}')(y_NHWF)


class Model(nn.Module):
    """Residual network (He et al. 2015, arXiv:1512.03385), v1.5 in its bottleneck form.

    With the stem 'deep' and the shortcut 'avg' it is ResNet-D (He et al. 2018, arXiv:1812.01187),
    with groups ResNeXt (Xie et al. 2016, arXiv:1611.05431), with another base width or the block
    'preact' a wide ResNet (Zagoruyko and Komodakis 2016, arXiv:1605.07146).

    Attributes:
      num_classes: K; 0 gives the features in place of logits.
      depths: number of blocks of each stage; each stage but the first halves the map.
      widths: channels of each stage, at least as many numbers as stages; the output of a bottleneck
        has four times as many.
      block: 'basic', 'bottleneck' or 'preact'.
      groups: number of groups of the 3x3 convolution of a bottleneck.
      base_width: channels per group of the 3x3 convolution of a bottleneck for a width of 64.
      stride_first: whether the first 1x1 convolution of a bottleneck has the stride, not the 3x3
        one (v1).
      stem: 'imagenet' (7x7 of stride 2, then max pooling), 'deep' (three 3x3 in its place) or
        'cifar' (3x3, full resolution).
      shortcut: where the shape changes: 'conv', a 1x1 projection (option B), 'avg', the same after
        average pooling, or 'pad', strided subsampling with zeros for the new channels and no
        parameters (option A); 'preact' always projects.
      attention: channel attention at the end of a block, 'none', 'se' or 'eca'.
      norm: 'batch', 'group' (32 groups, or as many as fit the width), 'layer' or 'none'.
      zero_init: whether the last norm of a block starts at scale 0, so that a block starts as its
        shortcut (Goyal et al. 2017, arXiv:1706.02677); 'preact' has no such norm.
      dropout: rate before the head.
      drop_path: rate of stochastic depth in the last block; it rises linearly from 0.
      remat: recomputes the blocks in the backward pass, which saves memory.
      act: activation, see ``layers.ACTIVATIONS``.
      dtype: compute dtype, 'float32' or 'bfloat16'.
    """

    num_classes: int
    depths: tuple[int, ...] = (3, 4, 6, 3)
    widths: tuple[int, ...] = (64, 128, 256, 512)
    block: str = 'bottleneck'
    groups: int = 1
    base_width: int = 64
    stride_first: bool = False
    stem: str = 'imagenet'
    shortcut: str = 'conv'
    attention: str = 'none'
    norm: str = 'batch'
    zero_init: bool = True
    dropout: float = 0.0
    drop_path: float = 0.0
    remat: bool = False
    act: str = 'relu'
    dtype: Any = 'float32'

    @nn.compact
    def __call__(self, image_NHWC: jax.Array, *, train: bool) -> layers.Outputs:
        """float (N, H, W, C) -> float32 logits (N, K).

        ``out`` has stem, stage1_block0.., stage1.., pre_logits and logits.
        """
        dtype = layers.compute_dtype(self.dtype)
        conv = partial(convolve.Conv, dtype=dtype, use_bias=self.norm == 'none')
        norm = layers.norm(self.norm, train=train, dtype=dtype)
        act = layers.activation(self.act)
        attention = layers.pick('attention', self.attention, {
            'none': lambda name, features: lambda x: x,
            'se': partial(_se, dtype=dtype),
            'eca': lambda name, features: ECA(dtype, name=name)})
        Block = layers.pick('block', self.block, BLOCKS)
        block = partial(
            nn.remat(Block) if self.remat else Block, conv=conv, norm=norm, act=act,
            groups=self.groups, base_width=self.base_width, stride_first=self.stride_first,
            attention=attention,
            shortcut=layers.pick(
                'shortcut', self.shortcut, {name: name for name in ('conv', 'avg', 'pad')}),
            last_scale=layers.zeros if self.zero_init else layers.ones,
            residual=branches.residual(self.drop_path, train=train))

        x_NHWC = self._stem(image_NHWC, conv, norm, act)
        out = {'stem': x_NHWC}
        rates = iter(branches.drop_path_rates(self.drop_path, sum(self.depths)))
        for i, depth in enumerate(self.depths, 1):
            for j in range(depth):
                strides = 2 if i > 1 and j == 0 else 1
                x_NHWC = block(self.widths[i - 1], strides,
                               name=f'layer{i}.{j}')(x_NHWC, next(rates))
                out[f'stage{i}_block{j}'] = x_NHWC
            out[f'stage{i}'] = x_NHWC
        if self.block == 'preact':
            x_NHWC = act(norm(name='bn1')(x_NHWC))
        out['pre_logits'] = x_NHWC.mean(axis=(1, 2), dtype=jnp.float32)
        x_NF = nn.Dropout(self.dropout, deterministic=not train)(out['pre_logits'])
        out['logits'] = layers.head(x_NF, self.num_classes)
        return out['logits'], out

    def _stem(self, x_NHWC: jax.Array, conv: Callable, norm: Callable, act: Callable) -> jax.Array:
        width = self.widths[0]
        stem = layers.pick('stem', self.stem, {'imagenet': 1, 'deep': 2, 'cifar': 3})
        if stem == 3:
            if self.block == 'preact':  # the first block has the norm and the activation
                return conv(16, 3, name='conv1')(x_NHWC)
            return act(norm(name='bn1')(conv(width, 3, name='conv1')(x_NHWC)))
        if stem == 1:
            x_NHWC = conv(width, 7, 2, name='conv1')(x_NHWC)
        else:
            for i, strides in ((0, 2), (3, 1)):
                x_NHWC = conv(width // 2, 3, strides, name=f'conv1.{i}')(x_NHWC)
                x_NHWC = act(norm(name=f'conv1.{i + 1}')(x_NHWC))
            x_NHWC = conv(width, 3, name='conv1.6')(x_NHWC)
        x_NHWC = act(norm(name='bn1')(x_NHWC))
        return pooling.max_pool(x_NHWC, 3, 2, padding=1)
