"""Residual networks: the ImageNet ones as timm has them, and those of the paper for CIFAR."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from imgjax.models import layers

_CIFAR = {'widths': (16, 32, 64), 'stem': 'cifar', 'shortcut': 'pad'}
VARIANTS = {
    'resnet18': {'depths': (2, 2, 2, 2), 'block': 'basic'},
    'resnet34': {'depths': (3, 4, 6, 3), 'block': 'basic'},
    'resnet26': {'depths': (2, 2, 2, 2), 'block': 'bottleneck'},
    'resnet50': {'depths': (3, 4, 6, 3), 'block': 'bottleneck'},
    'resnet101': {'depths': (3, 4, 23, 3), 'block': 'bottleneck'},
    'resnet152': {'depths': (3, 8, 36, 3), 'block': 'bottleneck'},
    'resnet20_cifar': {'depths': (3, 3, 3), 'block': 'basic', **_CIFAR},
    'resnet32_cifar': {'depths': (5, 5, 5), 'block': 'basic', **_CIFAR},
    'resnet44_cifar': {'depths': (7, 7, 7), 'block': 'basic', **_CIFAR},
    'resnet56_cifar': {'depths': (9, 9, 9), 'block': 'basic', **_CIFAR},
    'resnet110_cifar': {'depths': (18, 18, 18), 'block': 'basic', **_CIFAR},
    'test_resnet': {'depths': (1, 1), 'widths': (8, 16), 'block': 'bottleneck', 'stem': 'cifar'},
}


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut, x_NHWC -> y_NHWF with F = features."""

    features: int
    strides: int
    pad_shortcut: bool
    conv: Callable
    norm: Callable
    act: Callable
    last_scale: Callable

    expansion = 1

    @nn.compact
    def __call__(self, x_NHWC):
        y_NHWF = self.conv(self.features, 3, self.strides, name='conv1')(x_NHWC)
        y_NHWF = self.act(self.norm(name='bn1')(y_NHWF))
        y_NHWF = self.conv(self.features, 3, name='conv2')(y_NHWF)
        y_NHWF = self.norm(name='bn2', scale_init=self.last_scale)(y_NHWF)
        return self.act(y_NHWF + _shortcut(self, x_NHWC))


class BottleneckBlock(nn.Module):
    """1x1, 3x3 (which has the stride: v1.5) and 1x1, x_NHWC -> y_NHWF with F = 4 * features."""

    features: int
    strides: int
    pad_shortcut: bool
    conv: Callable
    norm: Callable
    act: Callable
    last_scale: Callable

    expansion = 4

    @nn.compact
    def __call__(self, x_NHWC):
        y_NHWF = self.conv(self.features, 1, name='conv1')(x_NHWC)
        y_NHWF = self.act(self.norm(name='bn1')(y_NHWF))
        y_NHWF = self.conv(self.features, 3, self.strides, name='conv2')(y_NHWF)
        y_NHWF = self.act(self.norm(name='bn2')(y_NHWF))
        y_NHWF = self.conv(self.features * 4, 1, name='conv3')(y_NHWF)
        y_NHWF = self.norm(name='bn3', scale_init=self.last_scale)(y_NHWF)
        return self.act(y_NHWF + _shortcut(self, x_NHWC))


def _shortcut(block, x_NHWC):
    """x_NHWC at the block's output shape: as it is, zero-padded (option A) or projected (B)."""
    s, width = block.strides, block.features * block.expansion
    extra = width - x_NHWC.shape[-1]
    if s == 1 and extra == 0:
        return x_NHWC
    if block.pad_shortcut:
        return jnp.pad(
            x_NHWC[:, ::s, ::s], ((0, 0), (0, 0), (0, 0), (extra // 2, extra - extra // 2))
        )
    y_NHWF = block.conv(width, 1, s, name='downsample_conv')(x_NHWC)
    return block.norm(name='downsample_bn')(y_NHWF)


class Model(nn.Module):
    """Residual network (He et al. 2015, arXiv:1512.03385), v1.5 in its bottleneck form.

    Attributes:
      num_classes: K, or 0 for the features.
      depths: blocks of every stage; each stage but the first halves the image.
      widths: channels of every stage, at least as many as stages; a bottleneck puts out four times.
      block: 'basic' or 'bottleneck'.
      stem: 'imagenet' (7x7 of stride 2, then max pooling) or 'cifar' (3x3, full resolution).
      shortcut: 'conv', a 1x1 projection where the shape changes (option B), or 'pad', strided
        subsampling with zeros for the new channels and no parameters (option A).
      norm: 'batch', 'group' (32 groups, or as many as fit the width), 'layer' or 'none'.
      zero_init: the last norm of a block starts at scale 0, so that every block starts as its
        shortcut (Goyal et al. 2017, arXiv:1706.02677).
      dropout: rate before the head.
      act: activation, see ``layers.ACTIVATIONS``.
      dtype: compute dtype, 'float32' or 'bfloat16'.
    """

    num_classes: int
    depths: tuple[int, ...] = (3, 4, 6, 3)
    widths: tuple[int, ...] = (64, 128, 256, 512)
    block: str = 'bottleneck'
    stem: str = 'imagenet'
    shortcut: str = 'conv'
    norm: str = 'batch'
    zero_init: bool = True
    dropout: float = 0.0
    act: str = 'relu'
    dtype: Any = 'float32'

    @nn.compact
    def __call__(self, image_NHWC, *, train: bool):
        """float (N, H, W, C) -> float32 logits (N, K).

        ``out`` has stem, stage1_block0.., stage1.., pre_logits and logits.
        """
        dtype = layers.compute_dtype(self.dtype)
        conv = partial(layers.Conv, dtype=dtype, use_bias=self.norm == 'none')
        norm = layers.norm(self.norm, train=train, dtype=dtype)
        act = layers.activation(self.act)
        block = partial(
            layers.pick('block', self.block, {'basic': BasicBlock, 'bottleneck': BottleneckBlock}),
            pad_shortcut=layers.pick('shortcut', self.shortcut, {'conv': False, 'pad': True}),
            conv=conv,
            norm=norm,
            act=act,
            last_scale=layers.zeros if self.zero_init else layers.ones,
        )
        kernel_size, strides = layers.pick('stem', self.stem, {'imagenet': (7, 2), 'cifar': (3, 1)})

        x_NHWC = conv(self.widths[0], kernel_size, strides, name='conv1')(image_NHWC)
        x_NHWC = act(norm(name='bn1')(x_NHWC))
        if self.stem == 'imagenet':
            x_NHWC = nn.max_pool(x_NHWC, (3, 3), (2, 2), ((1, 1), (1, 1)))
        out = {'stem': x_NHWC}
        for i, depth in enumerate(self.depths, 1):
            for j in range(depth):
                x_NHWC = block(
                    self.widths[i - 1], 2 if i > 1 and j == 0 else 1, name=f'layer{i}_{j}'
                )(x_NHWC)
                out[f'stage{i}_block{j}'] = x_NHWC
            out[f'stage{i}'] = x_NHWC
        out['pre_logits'] = x_NHWC.mean(axis=(1, 2), dtype=jnp.float32)
        x_NF = nn.Dropout(self.dropout, deterministic=not train)(out['pre_logits'])
        out['logits'] = layers.head(x_NF, self.num_classes)
        return out['logits'], out
