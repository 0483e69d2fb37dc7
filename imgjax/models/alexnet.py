"""AlexNet in its one-column form, with torchvision's names and parameter counts."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from imgjax.models.parts import convolve, layers, pooling

VARIANTS = {
    'alexnet': {},
    'tiny_alexnet': {'widths': (12, 16), 'stem': (3, 1, 1), 'pools': (1, 2), 'grid': 2,
                     'hidden': (32, 32), 'dropout': 0.0},
}
RENAMES = {'head': 'classifier.6'}


class Model(nn.Module):
    """AlexNet (Krizhevsky 2014, arXiv:1404.5997), without norms and without groups.

    Each side of the image has at least 63 pixels; the last map is pooled to one size for all.

    Attributes:
      num_classes: K; 0 gives the features in place of logits.
      widths: channels of each convolution; the second is 5x5, those after it 3x3.
      stem: kernel size, strides and padding of the first convolution.
      pools: the convolutions, counted from 1, that a 3x3 max pooling of stride 2 follows.
      grid: side of the last map after average pooling.
      hidden: widths of the dense layers before the head.
      dropout: rate before each of these dense layers.
      act: activation, see ``layers.ACTIVATIONS``.
      dtype: compute dtype, 'float32' or 'bfloat16'.
    """

    num_classes: int
    widths: tuple[int, ...] = (64, 192, 384, 256, 256)
    stem: tuple[int, int, int] = (11, 4, 2)
    pools: tuple[int, ...] = (1, 2, 5)
    grid: int = 6
    hidden: tuple[int, ...] = (4096, 4096)
    dropout: float = 0.5
    act: str = 'relu'
    dtype: Any = 'float32'

    @nn.compact
    def __call__(self, image_NHWC: jax.Array, *, train: bool) -> layers.Outputs:
        """float (N, H, W, C) -> float32 logits (N, K).

        ``out`` has stage1.. (each convolution, after its pooling), hidden1.., pre_logits, logits.

        Raises:
          ValueError: the image is too small.
        """
        dtype = layers.compute_dtype(self.dtype)
        act = layers.activation(self.act)
        drop = partial(nn.Dropout, self.dropout, deterministic=not train)

        out, x_NHWC, index = {}, image_NHWC, 0
        for i, width in enumerate(self.widths, 1):
            kernel_size, strides, padding = {1: self.stem, 2: (5, 1, 2)}.get(i, (3, 1, 1))
            conv = convolve.Conv(width, kernel_size, strides, padding, use_bias=True, dtype=dtype,
                                 kernel_init=layers.torch_uniform, name=f'features.{index}')
            x_NHWC = act(conv(x_NHWC))
            index += 2  # torch counts the activation
            if i in self.pools:
                x_NHWC = pooling.max_pool(x_NHWC, 3, 2)
                index += 1
            out[f'stage{i}'] = x_NHWC
        x_NHWC = pooling.adaptive_avg_pool(x_NHWC, (self.grid, self.grid))
        # The dense layer has its inputs in torch's order.
        x_NF = x_NHWC.transpose(0, 3, 1, 2).reshape(x_NHWC.shape[0], -1)
        for i, width in enumerate(self.hidden):
            name = f'classifier.{3 * i + 1}'
            dense = layers.Dense(width, dtype=dtype, kernel_init=layers.torch_uniform, name=name)
            x_NF = act(dense(drop()(x_NF)))
            out[f'hidden{i + 1}'] = x_NF
        out['pre_logits'] = x_NF.astype(jnp.float32)
        out['logits'] = layers.head(out['pre_logits'], self.num_classes, layers.torch_uniform)
        return out['logits'], out
