"""VGG with and without batch norm, with timm's names and parameter counts."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from imgjax.models.parts import convolve, layers, pooling

_DEPTHS = {'vgg11': (1, 1, 2, 2, 2), 'vgg13': (2, 2, 2, 2, 2), 'vgg16': (2, 2, 3, 3, 3),
           'vgg19': (2, 2, 4, 4, 4)}
VARIANTS = {
    **{name: {'depths': depths} for name, depths in _DEPTHS.items()},
    **{f'{name}_bn': {'depths': depths, 'norm': 'batch'} for name, depths in _DEPTHS.items()},
    'tiny_vgg': {'depths': (1, 2), 'widths': (8, 16), 'grid': 2, 'hidden': (32, 32)},
}
RENAMES = {'head': 'head.fc'}


class Model(nn.Module):
    """VGG (Simonyan and Zisserman 2014, arXiv:1409.1556): 3x3 convolutions, pooled by two.

    The dense layers of the paper are convolutions over the last map, whose outputs are averaged; a
    map smaller than their window is enlarged to it.

    Attributes:
      num_classes: K; 0 gives the features in place of logits.
      depths: number of convolutions of each stage; a stage ends with a max pooling by two.
      widths: channels of each stage, at least as many numbers as stages.
      norm: norm after each convolution, 'none', 'batch', 'group' or 'layer'; convolutions always
        have a bias.
      grid: side of the window of the first dense layer.
      hidden: widths of the dense layers before the head.
      dropout: rate after each of these dense layers; the paper has 0.5.
      act: activation, see ``layers.ACTIVATIONS``.
      dtype: compute dtype, 'float32' or 'bfloat16'.
    """

    num_classes: int
    depths: tuple[int, ...] = (2, 2, 3, 3, 3)
    widths: tuple[int, ...] = (64, 128, 256, 512, 512)
    norm: str = 'none'
    grid: int = 7
    hidden: tuple[int, ...] = (4096, 4096)
    dropout: float = 0.0
    act: str = 'relu'
    dtype: Any = 'float32'

    @nn.compact
    def __call__(self, image_NHWC: jax.Array, *, train: bool) -> layers.Outputs:
        """float (N, H, W, C) -> float32 logits (N, K).

        ``out`` has stage1.., each pooled, hidden1.., before they are averaged, pre_logits, logits.

        Raises:
          ValueError: the image is too small to be halved at every stage.
        """
        dtype = layers.compute_dtype(self.dtype)
        act = layers.activation(self.act)
        conv = partial(convolve.Conv, use_bias=True, dtype=dtype)
        norm = layers.norm(self.norm, train=train, dtype=dtype)
        drop = partial(nn.Dropout, self.dropout, deterministic=not train)

        out, x_NHWC, index = {}, image_NHWC, 0
        for i, depth in enumerate(self.depths):
            for _ in range(depth):
                x_NHWC = conv(self.widths[i], name=f'features.{index}')(x_NHWC)
                x_NHWC = act(norm(name=f'features.{index + 1}')(x_NHWC))
                index += 2 if self.norm == 'none' else 3  # torch counts the activation
            x_NHWC = pooling.max_pool(x_NHWC, 2, 2)
            index += 1  # and the pooling
            out[f'stage{i + 1}'] = x_NHWC

        sides = tuple(max(self.grid, side) for side in x_NHWC.shape[1:3])
        x_NHWC = pooling.adaptive_avg_pool(x_NHWC, sides)
        for i, width in enumerate(self.hidden, 1):
            window = self.grid if i == 1 else 1
            # Where one window covers the map, as at 224 pixels, this stride makes it a dense layer.
            strides = window if x_NHWC.shape[1:3] == (window, window) else 1
            fc = conv(width, window, strides, padding=0, name=f'pre_logits.fc{i}')
            x_NHWC = drop()(act(fc(x_NHWC)))
            out[f'hidden{i}'] = x_NHWC
        out['pre_logits'] = x_NHWC.mean(axis=(1, 2), dtype=jnp.float32)
        out['logits'] = layers.head(out['pre_logits'], self.num_classes)
        return out['logits'], out
