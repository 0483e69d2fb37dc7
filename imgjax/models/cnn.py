"""LeNet-class convolutional network: convolution and pooling in turns, then dense layers."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from imgjax.models.parts import convolve, layers

VARIANTS = {
    'cnn': {},
    # 61,706 parameters at 10 classes and one channel, for images of 28 or 32 pixels alike.
    'lenet5': {
        'widths': (6, 16),
        'kernel_size': 5,
        'padding': 'valid',
        'pad_to': 32,
        'grid': 0,
        'hidden': (120, 84),
        'norm': 'none',
        'pool': 'avg',
        'act': 'tanh',
    },
    'tiny_cnn': {'widths': (4, 8), 'hidden': (16, 12)},
}


class Model(nn.Module):
    """LeNet-5 (LeCun et al. 1998, doi:10.1109/5.726791) and newer forms, for 8 to 224 pixels.

    Unlike in the paper, ``lenet5`` has plain average pooling, a second convolution over all
    channels and a dense softmax output, as today's implementations have.

    Attributes:
      num_classes: K; 0 gives the features in place of logits.
      widths: channels of each convolution; each is followed by a pooling by two.
      kernel_size: side of the window of the convolutions.
      padding: 'same' or 'valid'.
      pad_to: smaller images are padded with zeros to this size (LeCun centred 28 in 32 pixels).
      grid: a last map of at least twice this side is average pooled to about this side, so that
        the dense layers do not grow with the image; 1 is the mean over all positions (global
        average pooling), 0 no such pooling.
      hidden: widths of the dense layers.
      norm: 'batch', 'group', 'layer' (over channels) or 'none', with which alone convolutions have
        a bias.
      pool: 'max' or 'avg'.
      dropout: rate before each dense layer but the first, and before the head.
      act: activation, see ``layers.ACTIVATIONS``.
      dtype: compute dtype, 'float32' or 'bfloat16'.
    """

    num_classes: int
    widths: tuple[int, ...] = (32, 64)
    kernel_size: int = 3
    padding: str = 'same'
    pad_to: int = 0
    grid: int = 4
    hidden: tuple[int, ...] = (128, 128)
    norm: str = 'batch'
    pool: str = 'max'
    dropout: float = 0.0
    act: str = 'relu'
    dtype: Any = 'float32'

    @nn.compact
    def __call__(self, image_NHWC: jax.Array, *, train: bool) -> layers.Outputs:
        """float (N, H, W, C) -> float32 logits (N, K).

        ``out`` has stage1.., hidden1.., pre_logits and logits.

        Raises:
          ValueError: the image is too small for 'valid' convolutions.
        """
        dtype = layers.compute_dtype(self.dtype)
        act = layers.activation(self.act)
        padding = layers.pick('padding', self.padding, {'same': 'SAME', 'valid': 'VALID'})
        conv = partial(
            convolve.Conv,
            kernel_size=self.kernel_size,
            padding=padding,
            dtype=dtype,
            use_bias=self.norm == 'none',
            kernel_init=nn.initializers.he_normal(),
        )
        dense = partial(layers.Dense, dtype=dtype, kernel_init=nn.initializers.he_normal())
        norm = layers.norm(self.norm, train=train, dtype=dtype)
        # It is padded, so that a map of odd side keeps its last row, and one of side 1 its pixel.
        avg_pool = partial(nn.avg_pool, padding='SAME', count_include_pad=False)
        pool = layers.pick(
            'pool', self.pool, {'max': partial(nn.max_pool, padding='SAME'), 'avg': avg_pool}
        )
        drop = partial(nn.Dropout, self.dropout, deterministic=not train)

        out = {}
        # Half of the missing pixels are added before, the rest after.
        missing = [max(0, self.pad_to - side) for side in image_NHWC.shape[1:3]]
        pads = [(0, 0), *((n // 2, n - n // 2) for n in missing), (0, 0)]
        x_NHWC = jnp.pad(image_NHWC.astype(dtype), pads)
        for i, width in enumerate(self.widths, 1):
            if padding == 'VALID' and min(x_NHWC.shape[1:3]) < self.kernel_size:
                raise ValueError(
                    f'images of {image_NHWC.shape[1:3]} pixels are too small for '
                    f'{len(self.widths)} valid convolutions of size {self.kernel_size}'
                )
            x_NHWC = act(norm(name=f'norm{i}')(conv(width, name=f'conv{i}')(x_NHWC)))
            x_NHWC = pool(x_NHWC, (2, 2), (2, 2))
            out[f'stage{i}'] = x_NHWC
        window = tuple(max(1, side // self.grid) if self.grid else 1 for side in x_NHWC.shape[1:3])
        if max(window) > 1:
            x_NHWC = avg_pool(x_NHWC, window, window)

        x_NF = x_NHWC.reshape(x_NHWC.shape[0], -1)
        for i, width in enumerate(self.hidden, 1):
            x_NF = act(dense(width, name=f'hidden{i}')(x_NF))
            out[f'hidden{i}'] = x_NF
            x_NF = drop()(x_NF)
        out['pre_logits'] = x_NF
        out['logits'] = layers.head(x_NF, self.num_classes)
        return out['logits'], out
