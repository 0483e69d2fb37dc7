"""GoogLeNet with batch norm, with torchvision's names and parameter counts."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from imgjax.models.parts import convolve, layers, pooling

VARIANTS = {
    'googlenet': {},
    'tiny_googlenet': {'stem': 'cifar', 'width': 8, 'dropout': 0.0, 'pools': (3,), 'blocks': (
        ((4, 4, 8, 4, 8, 4),), ((8, 4, 8, 4, 8, 8),))},
}
RENAMES = {'head': 'fc'}
# Widths of the four branches: 1x1; 1x1 and 3x3; 1x1 and the second 3x3; 1x1 after pooling.
BLOCKS = (
    ((64, 96, 128, 16, 32, 32), (128, 128, 192, 32, 96, 64)),
    ((192, 96, 208, 16, 48, 64), (160, 112, 224, 24, 64, 64), (128, 128, 256, 24, 64, 64),
     (112, 144, 288, 32, 64, 64), (256, 160, 320, 32, 128, 128)),
    ((256, 160, 320, 32, 128, 128), (384, 192, 384, 48, 128, 128)),
)


class Inception(nn.Module):
    """Four branches side by side, x_NHWC -> y_NHWF; ``widths`` as in BLOCKS."""

    widths: tuple[int, ...]
    unit: Callable

    @nn.compact
    def __call__(self, x_NHWC: jax.Array) -> jax.Array:
        one, reduce3, three, reduce5, five, pool = self.widths
        pooled_NHWC = pooling.max_pool(x_NHWC, 3, 1, padding=1)
        three_NHWR = self.unit(reduce3, 1, name='branch2.0')(x_NHWC)
        five_NHWR = self.unit(reduce5, 1, name='branch3.0')(x_NHWC)
        return jnp.concatenate([
            self.unit(one, 1, name='branch1')(x_NHWC),
            self.unit(three, 3, name='branch2.1')(three_NHWR),
            # In the paper it is 5x5; torchvision's weights have 3x3.
            self.unit(five, 3, name='branch3.1')(five_NHWR),
            self.unit(pool, 1, name='branch4.1')(pooled_NHWC),
        ], axis=-1)


class Model(nn.Module):
    """GoogLeNet (Szegedy et al. 2014, arXiv:1409.4842) with batch norm, without auxiliary heads.

    Torchvision's weights take images normalised by a mean and a standard deviation of 0.5.
    Convolutions start with He's variance, not with torchvision's standard deviation of 0.01, which
    batch norm makes up for.

    Attributes:
      num_classes: K; 0 gives the features in place of logits.
      blocks: six widths (see BLOCKS) of each block of each stage.
      pools: windows of the max poolings of stride 2 between the stages.
      stem: 'imagenet' (7x7 of stride 2, 1x1, 3x3, two max poolings) or 'cifar' (3x3, full
        resolution).
      width: channels of the stem; the last of 'imagenet' has three times as many.
      norm: 'batch', 'group', 'layer' or 'none'; convolutions have a bias only with 'none'.
      dropout: rate before the head.
      act: activation, see ``layers.ACTIVATIONS``.
      dtype: compute dtype, 'float32' or 'bfloat16'.
    """

    num_classes: int
    blocks: tuple[tuple[tuple[int, ...], ...], ...] = BLOCKS
    pools: tuple[int, ...] = (3, 2)
    stem: str = 'imagenet'
    width: int = 64
    norm: str = 'batch'
    dropout: float = 0.2
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
        conv = partial(convolve.Conv, use_bias=self.norm == 'none', dtype=dtype)
        norm = partial(layers.norm(self.norm, train=train, dtype=dtype), epsilon=1e-3)
        act = layers.activation(self.act)

        def unit(*args, name: str) -> convolve.ConvNorm:
            return convolve.ConvNorm(partial(conv, *args), norm, act, name=name)

        if layers.pick('stem', self.stem, {'imagenet': True, 'cifar': False}):
            x_NHWC = unit(self.width, 7, 2, name='conv1')(image_NHWC)
            x_NHWC = pooling.max_pool(x_NHWC, 3, 2, ceil=True)
            x_NHWC = unit(self.width, 1, name='conv2')(x_NHWC)
            x_NHWC = unit(3 * self.width, 3, name='conv3')(x_NHWC)
            x_NHWC = pooling.max_pool(x_NHWC, 3, 2, ceil=True)
        else:
            x_NHWC = unit(self.width, 3, name='conv1')(image_NHWC)
        out = {'stem': x_NHWC}
        for i, stage in enumerate(self.blocks, 1):
            if i > 1:
                x_NHWC = pooling.max_pool(x_NHWC, self.pools[i - 2], 2, ceil=True)
            for letter, widths in zip('abcdefghijklmnopqrstuvwxyz', stage, strict=False):
                x_NHWC = Inception(widths, unit, name=f'inception{i + 2}{letter}')(x_NHWC)
            out[f'stage{i}'] = x_NHWC
        out['pre_logits'] = x_NHWC.mean(axis=(1, 2), dtype=jnp.float32)
        x_NF = nn.Dropout(self.dropout, deterministic=not train)(out['pre_logits'])
        out['logits'] = layers.head(x_NF, self.num_classes)
        return out['logits'], out
