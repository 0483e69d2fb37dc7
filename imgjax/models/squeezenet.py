"""SqueezeNet, with torchvision's names and parameter counts."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from imgjax.models.parts import convolve, layers, pooling

VARIANTS = {
    'squeezenet1_0': {'stem': (96, 7, 2), 'squeezes': ((16, 16, 32), (32, 48, 48, 64), (64,))},
    'squeezenet1_1': {'stem': (64, 3, 2), 'squeezes': ((16, 16), (32, 32), (48, 48, 64, 64))},
    # With few pixels and 'relu' the logit of a class may be 0, without gradient, on all images.
    'tiny_squeezenet': {'stem': (16, 3, 1), 'squeezes': ((4,), (8,)), 'act': 'gelu',
                        'dropout': 0.0},
}
RENAMES = {'head': 'classifier.1'}
# Where the bias of a new head starts: a ReLU follows it, which has no gradient at 0.
NEW_HEAD_BIAS = 1.0


class Fire(nn.Module):
    """A narrow 1x1 convolution, then parallel 1x1 and 3x3 ones, each four times as wide."""

    squeeze: int
    conv: Callable
    act: Callable

    @nn.compact
    def __call__(self, x_NHWC: jax.Array) -> jax.Array:
        x_NHWS = self.act(self.conv(self.squeeze, 1, name='squeeze')(x_NHWC))
        one_NHWF = self.conv(4 * self.squeeze, 1, name='expand1x1')(x_NHWS)
        three_NHWF = self.conv(4 * self.squeeze, 3, name='expand3x3')(x_NHWS)
        return jnp.concatenate([self.act(one_NHWF), self.act(three_NHWF)], axis=-1)


class Model(nn.Module):
    """SqueezeNet (Iandola et al. 2016, arXiv:1602.07360) without bypasses.

    The head is a 1x1 convolution on the last map, and the logits are the means after its
    activation; so with 'relu' they are never negative.

    Attributes:
      num_classes: K; 0 gives the features in place of logits.
      stem: width, kernel size and strides of the first convolution.
      squeezes: width of the 1x1 convolution of each fire module, by stages; a 3x3 max pooling of
        stride 2 comes before each stage.
      dropout: rate before the head.
      act: activation, see ``layers.ACTIVATIONS``.
      dtype: compute dtype, 'float32' or 'bfloat16'.
    """

    num_classes: int
    stem: tuple[int, int, int] = (64, 3, 2)
    squeezes: tuple[tuple[int, ...], ...] = ((16, 16), (32, 32), (48, 48, 64, 64))
    dropout: float = 0.5
    act: str = 'relu'
    dtype: Any = 'float32'

    @nn.compact
    def __call__(self, image_NHWC: jax.Array, *, train: bool) -> layers.Outputs:
        """float (N, H, W, C) -> float32 logits (N, K).

        ``out`` has stem, stage1.., pre_logits (the means of the last map) and logits.

        Raises:
          ValueError: the image is too small.
        """
        dtype = layers.compute_dtype(self.dtype)
        act = layers.activation(self.act)
        conv = partial(convolve.Conv, use_bias=True, dtype=dtype,
                       kernel_init=nn.initializers.he_uniform())

        width, kernel_size, strides = self.stem
        stem = conv(width, kernel_size, strides, padding=0, name='features.0')
        x_NHWC = act(stem(image_NHWC))
        out, index = {'stem': x_NHWC}, 2
        for i, squeezes in enumerate(self.squeezes, 1):
            x_NHWC = pooling.max_pool(x_NHWC, 3, 2, ceil=True)
            for squeeze in squeezes:
                index += 1
                x_NHWC = Fire(squeeze, conv, act, name=f'features.{index}')(x_NHWC)
            index += 1  # the next pooling
            out[f'stage{i}'] = x_NHWC
        x_NHWC = x_NHWC.astype(jnp.float32)
        out['logits'] = out['pre_logits'] = x_NHWC.mean(axis=(1, 2))
        if self.num_classes:  # in float32, as layers.head
            head = convolve.Conv(
                self.num_classes, 1, use_bias=True, kernel_init=layers.small_normal, name='head')
            x_NHWC = nn.Dropout(self.dropout, deterministic=not train)(x_NHWC)
            out['logits'] = act(head(x_NHWC)).mean(axis=(1, 2))
        return out['logits'], out
