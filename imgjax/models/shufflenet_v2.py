"""ShuffleNet V2, with torchvision's names and parameter counts."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from imgjax.models.parts import convolve, layers, pooling

VARIANTS = {
    'shufflenet_v2_x0_5': {'widths': (48, 96, 192)},
    'shufflenet_v2_x1_0': {'widths': (116, 232, 464)},
    'shufflenet_v2_x1_5': {'widths': (176, 352, 704)},
    'shufflenet_v2_x2_0': {'widths': (244, 488, 976), 'features': 2048},
    'tiny_shufflenet_v2': {'depths': (2, 2), 'widths': (16, 32), 'stem_width': 8, 'features': 64,
                           'stem': 'cifar'},
}
RENAMES = {'head': 'fc'}


class Block(nn.Module):
    """Half of the channels stays, half is convolved, then the halves are shuffled.

    x_NHWC -> y_NHWF. With strides above 1 both branches get all channels and convolve them.
    """

    features: int
    strides: int
    conv: Callable
    norm: Callable
    act: Callable

    @nn.compact
    def __call__(self, x_NHWC: jax.Array) -> jax.Array:
        half, s = self.features // 2, self.strides
        if s == 1:
            first_NHWC, y_NHWC = jnp.split(x_NHWC, 2, axis=-1)
        else:
            first_NHWC, y_NHWC = self._depthwise('branch1', 0, x_NHWC), x_NHWC
            first_NHWC = self._pointwise('branch1', 2, half, first_NHWC)
        y_NHWC = self._pointwise('branch2', 0, half, y_NHWC)
        y_NHWC = self._depthwise('branch2', 3, y_NHWC)
        y_NHWC = self._pointwise('branch2', 5, half, y_NHWC)
        both_NHW2C = jnp.stack([first_NHWC, y_NHWC], axis=-2)
        return both_NHW2C.swapaxes(3, 4).reshape(*y_NHWC.shape[:3], self.features)

    def _depthwise(self, branch: str, i: int, x_NHWC: jax.Array) -> jax.Array:
        C = x_NHWC.shape[-1]
        x_NHWC = self.conv(C, 3, self.strides, groups=C, name=f'{branch}.{i}')(x_NHWC)
        return self.norm(name=f'{branch}.{i + 1}')(x_NHWC)

    def _pointwise(self, branch: str, i: int, features: int, x_NHWC: jax.Array) -> jax.Array:
        x_NHWC = self.conv(features, 1, name=f'{branch}.{i}')(x_NHWC)
        return self.act(self.norm(name=f'{branch}.{i + 1}')(x_NHWC))


class Model(nn.Module):
    """ShuffleNet V2 (Ma et al. 2018, arXiv:1807.11164).

    Attributes:
      num_classes: K; 0 gives the features in place of logits.
      depths: number of blocks of each stage; each stage halves the map.
      widths: channels of each stage, even numbers, at least as many as stages.
      stem_width: channels before the stages.
      features: channels of the 1x1 convolution after the stages.
      stem: 'imagenet' (3x3 of stride 2, then max pooling) or 'cifar' (3x3, full resolution).
      dropout: rate before the head.
      remat: recomputes the blocks in the backward pass, which saves memory.
      act: activation, see ``layers.ACTIVATIONS``.
      dtype: compute dtype, 'float32' or 'bfloat16'.
    """

    num_classes: int
    depths: tuple[int, ...] = (4, 8, 4)
    widths: tuple[int, ...] = (116, 232, 464)
    stem_width: int = 24
    features: int = 1024
    stem: str = 'imagenet'
    dropout: float = 0.0
    remat: bool = False
    act: str = 'relu'
    dtype: Any = 'float32'

    @nn.compact
    def __call__(self, image_NHWC: jax.Array, *, train: bool) -> layers.Outputs:
        """float (N, H, W, C) -> float32 logits (N, K).

        ``out`` has stem, stage1.., final (the last convolution), pre_logits and logits.

        Raises:
          ValueError: a width is odd.
        """
        if any(width % 2 for width in self.widths):
            raise ValueError(f'widths {self.widths} must be even: blocks halve their channels')
        dtype = layers.compute_dtype(self.dtype)
        conv = partial(convolve.Conv, kernel_init=layers.torch_uniform, dtype=dtype)
        norm = partial(layers.BatchNorm, train=train, dtype=dtype)
        act = layers.activation(self.act)
        block = partial(nn.remat(Block) if self.remat else Block, conv=conv, norm=norm, act=act)

        imagenet = layers.pick('stem', self.stem, {'imagenet': True, 'cifar': False})
        x_NHWC = conv(self.stem_width, 3, 2 if imagenet else 1, name='conv1.0')(image_NHWC)
        x_NHWC = act(norm(name='conv1.1')(x_NHWC))
        if imagenet:
            x_NHWC = pooling.max_pool(x_NHWC, 3, 2, padding=1)
        out = {'stem': x_NHWC}
        for i, depth in enumerate(self.depths):
            for j in range(depth):
                # The reference counts the stem as stage 1.
                x_NHWC = block(self.widths[i], 1 if j else 2, name=f'stage{i + 2}.{j}')(x_NHWC)
            out[f'stage{i + 1}'] = x_NHWC
        x_NHWC = conv(self.features, 1, name='conv5.0')(x_NHWC)
        out['final'] = act(norm(name='conv5.1')(x_NHWC))
        out['pre_logits'] = out['final'].mean(axis=(1, 2), dtype=jnp.float32)
        x_NF = nn.Dropout(self.dropout, deterministic=not train)(out['pre_logits'])
        out['logits'] = layers.head(x_NF, self.num_classes)
        return out['logits'], out
