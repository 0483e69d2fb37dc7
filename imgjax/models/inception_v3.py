"""Inception-v3, with timm's names and parameter counts."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from imgjax.models.parts import convolve, layers, pooling

VARIANTS = {
    'inception_v3': {},
    'tiny_inception_v3': {'stem': 'cifar', 'pools': (64,), 'sevens': (), 'last': 0,
                          'width': 1 / 16},
}
RENAMES = {'head': 'fc'}
# The initializer of timm and of the TensorFlow original, also for the head.
init = nn.initializers.normal(0.1)

# The branches of a block: name, then (width, kernel) of each convolution. With two kernels there
# are two convolutions of the same input, whose outputs are concatenated.
_DOUBLE = ('branch3x3dbl', (64, 1), (96, 3), (96, 3))
REDUCE1 = (('branch3x3', (384, 3)), _DOUBLE)
REDUCE2 = (('branch3x3', (192, 1), (320, 3)),
           ('branch7x7x3', (192, 1), (192, (1, 7)), (192, (7, 1)), (192, 3)))
LAST = (
    ('branch1x1', (320, 1)),
    ('branch3x3', (384, 1), (384, (1, 3), (3, 1))),
    ('branch3x3dbl', (448, 1), (384, 3), (384, (1, 3), (3, 1))),
)
FIVES = (('branch1x1', (64, 1)), ('branch5x5', (48, 1), (64, 5)), _DOUBLE)


def sevens(c: int) -> tuple:
    """Returns branches whose 7x7 convolutions are pairs of 1x7 and 7x1, of width c in between."""
    across, down = (c, (1, 7)), (c, (7, 1))
    return (
        ('branch1x1', (192, 1)),
        ('branch7x7', (c, 1), across, (192, (7, 1))),
        ('branch7x7dbl', (c, 1), down, across, down, (192, (1, 7))),
    )


class Mixed(nn.Module):
    """Parallel branches, whose outputs are concatenated: x_NHWC -> y_NHWF.

    Attributes:
      branches: see the comment above.
      pool: width of the last branch, a 1x1 convolution after average pooling; with 0 the block
        halves the map, by the strides of the last convolutions and by max pooling.
      unit: constructor of convolution, norm and activation.
    """

    branches: tuple
    pool: int
    unit: Callable

    @nn.compact
    def __call__(self, x_NHWC: jax.Array) -> jax.Array:
        # This comes first, as its error says that an image is too small.
        if self.pool:
            pooled_NHWC = pooling.avg_pool(x_NHWC, 3, 1, padding=1)
            pooled_NHWC = self.unit(self.pool, 1, name='branch_pool')(pooled_NHWC)
        else:
            pooled_NHWC = pooling.max_pool(x_NHWC, 3, 2)
        outputs = []
        for name, *steps in self.branches:
            y_NHWF = x_NHWC
            for i, (width, *kernels) in enumerate(steps, 1):
                shrink = (2, 0) if not self.pool and i == len(steps) else ()
                step = f'{name}_{i}' if len(steps) > 1 else name
                names = [step] if len(kernels) == 1 else [f'{step}a', f'{step}b']
                y_NHWF = jnp.concatenate(
                    [self.unit(width, kernel, *shrink, name=n)(y_NHWF)
                     for n, kernel in zip(names, kernels, strict=True)], axis=-1)
            outputs.append(y_NHWF)
        return jnp.concatenate([*outputs, pooled_NHWC], axis=-1)


class Model(nn.Module):
    """Inception-v3 (Szegedy et al. 2015, arXiv:1512.00567) without auxiliary head.

    Each side of the image has at least 75 pixels; in the paper it has 299.

    Attributes:
      num_classes: K; 0 gives the features in place of logits.
      pools: for each block of the first stage, width of the branch after pooling.
      sevens: for each block of the second stage, width inside the 7x7 convolutions.
      last: number of blocks of the third stage; with 0 there is no such stage.
      stem: 'imagenet' (five convolutions and two poolings) or 'cifar' (3x3, full resolution).
      width: factor of the channels of each convolution.
      norm: 'batch', 'group', 'layer' or 'none'; convolutions have a bias only with 'none'.
      dropout: rate before the head.
      act: activation, see ``layers.ACTIVATIONS``.
      dtype: compute dtype, 'float32' or 'bfloat16'.
    """

    num_classes: int
    pools: tuple[int, ...] = (32, 64, 64)
    sevens: tuple[int, ...] = (128, 160, 160, 192)
    last: int = 2
    stem: str = 'imagenet'
    width: float = 1.0
    norm: str = 'batch'
    dropout: float = 0.0
    act: str = 'relu'
    dtype: Any = 'float32'

    @nn.compact
    def __call__(self, image_NHWC: jax.Array, *, train: bool) -> layers.Outputs:
        """float (N, H, W, C) -> float32 logits (N, K).

        ``out`` has stem, stage1.., pre_logits and logits.

        Raises:
          ValueError: the image is too small.
        """
        dtype = layers.compute_dtype(self.dtype)
        conv = partial(
            convolve.Conv, use_bias=self.norm == 'none', dtype=dtype, kernel_init=init)
        norm = partial(layers.norm(self.norm, train=train, dtype=dtype), epsilon=1e-3)
        act = layers.activation(self.act)

        def unit(features: int, *args, name: str) -> convolve.ConvNorm:
            features = max(1, round(features * self.width))
            return convolve.ConvNorm(partial(conv, features, *args), norm, act, name=name)

        x_NHWC = unit(32, 3, *self._strides(), name='Conv2d_1a_3x3')(image_NHWC)
        if self.stem == 'imagenet':
            x_NHWC = unit(32, 3, 1, 0, name='Conv2d_2a_3x3')(x_NHWC)
            x_NHWC = pooling.max_pool(unit(64, 3, name='Conv2d_2b_3x3')(x_NHWC), 3, 2)
            x_NHWC = unit(80, 1, name='Conv2d_3b_1x1')(x_NHWC)
            x_NHWC = pooling.max_pool(unit(192, 3, 1, 0, name='Conv2d_4a_3x3')(x_NHWC), 3, 2)
        out = {'stem': x_NHWC}
        stages = [
            [(FIVES, pool) for pool in self.pools],
            [(REDUCE1, 0), *((sevens(c), 192) for c in self.sevens)],
        ]
        if self.last:
            stages.append([(REDUCE2, 0)] + [(LAST, 192)] * self.last)
        for i, blocks in enumerate(stages, 1):
            for j, (branches, pool) in enumerate(blocks):
                # The first stage has no block 5a: its first letter is b.
                name = f'Mixed_{i + 4}{"abcdefghijklmnopqrstuvwxyz"[j + (i == 1)]}'
                x_NHWC = Mixed(branches, pool, unit, name=name)(x_NHWC)
            out[f'stage{i}'] = x_NHWC
        out['pre_logits'] = x_NHWC.mean(axis=(1, 2), dtype=jnp.float32)
        x_NF = nn.Dropout(self.dropout, deterministic=not train)(out['pre_logits'])
        out['logits'] = layers.head(x_NF, self.num_classes, init)
        return out['logits'], out

    def _strides(self) -> tuple[int, int]:
        """Returns the strides and the padding of the first convolution."""
        return layers.pick('stem', self.stem, {'imagenet': (2, 0), 'cifar': (1, 1)})
