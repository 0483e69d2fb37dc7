"""What MaxViT and CoAtNet share: the stem, the MBConv block and the hidden layer of the head."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn

from imgjax.models.parts import branches, layers
from imgjax.models.parts.attention import SqueezeExcite


def halve(x_NHWC: jax.Array) -> jax.Array:
    """Returns the averages of 2x2 pixels; a side of odd length is padded with zeros."""
    N, H, W, C = x_NHWC.shape
    x_NHWC = jnp.pad(x_NHWC, ((0, 0), (0, H % 2), (0, W % 2), (0, 0)))
    return x_NHWC.reshape(N, (H + 1) // 2, 2, (W + 1) // 2, 2, C).mean(axis=(2, 4))


def stem(x_NHWC: jax.Array, widths: tuple[int, int], conv: Callable, norm: Callable,
         act: Callable) -> jax.Array:
    """Returns the map at half the size of the image, by two 3x3 convolutions of the caller."""
    x_NHWC = conv(widths[0], 3, 2, name='stem.conv1')(x_NHWC)
    return conv(widths[1], 3, name='stem.conv2')(act(norm(name='stem.norm1')(x_NHWC)))


def hidden_layer(x_NF: jax.Array, norm: Callable, act: Callable) -> jax.Array:
    """Returns the float32 features of the classifier: a norm and a dense layer as wide as x_NF."""
    y_NF = norm(name='hidden.norm', dtype=jnp.float32)(x_NF)
    dense = layers.Dense(x_NF.shape[-1], kernel_init=layers.torch_uniform, name='hidden.fc')
    return act(dense(y_NF))


class MBConv(nn.Module):
    """Inverted bottleneck with squeeze and excitation: (x_NHWC, drop_path rate) -> y_NHWF.

    Batch norms come before the convolutions (Dai et al. 2021, arXiv:2106.04803); the shortcut is
    the average of 2x2 pixels where strides are 2.

    Attributes:
      features: F, the output channels.
      strides: 1 or 2.
      conv: constructor of the convolutions, bound to dtype and padding.
      norm: constructor of the batch norms.
      act: activation after the norms.
      se_act: activation of squeeze and excitation.
      residual: constructor of ``branches.Residual``.
      paper: the form of the paper: the hidden channels are four times the output's, not the
        input's, the shortcut and the last convolution have a bias, and no activation follows the
        first norm.
      se_early: whether squeeze and excitation comes before the last norm, not after it.
      pool_first: whether pooling before the first convolution halves the map, not the strides of
        the 3x3 one.
    """

    features: int
    strides: int
    conv: partial
    norm: Callable
    act: Callable
    se_act: Callable
    residual: Callable
    paper: bool = True
    se_early: bool = False
    pool_first: bool = False

    @nn.compact
    def __call__(self, x_NHWC: jax.Array, rate: branches.Rate) -> jax.Array:
        C, F = x_NHWC.shape[-1], self.features
        width = 4 * (F if self.paper else C)
        reduced = (F if self.paper else width) // 4
        se = SqueezeExcite(reduced, self.se_act, dtype=self.conv.keywords['dtype'],
                           name='se_early' if self.se_early else 'se')
        strides = self.strides
        y_NHWC = self.norm(name='pre_norm')(x_NHWC)
        if not self.paper:
            y_NHWC = self.act(y_NHWC)
        if strides == 2:
            x_NHWC = halve(x_NHWC)
            if C != F:
                x_NHWC = self.conv(F, 1, use_bias=self.paper, name='shortcut.expand')(x_NHWC)
            if self.pool_first:
                y_NHWC, strides = halve(y_NHWC), 1
        y_NHWC = self.act(self.norm(name='norm1')(self.conv(width, 1, name='conv1_1x1')(y_NHWC)))
        y_NHWC = self.conv(width, 3, strides, groups=width, name='conv2_kxk', kernel_init=_depthwise
                           )(y_NHWC)
        if self.se_early:
            y_NHWC = self.act(self.norm(name='norm2')(se(y_NHWC)))
        else:
            y_NHWC = se(self.act(self.norm(name='norm2')(y_NHWC)))
        y_NHWF = self.conv(F, 1, use_bias=self.paper, name='conv3_1x1')(y_NHWC)
        return self.residual()(x_NHWC, y_NHWF, rate)


# In a depthwise convolution the fan-out of a channel is its window, which is also the fan-in.
_depthwise = nn.initializers.variance_scaling(2.0, 'fan_in', 'normal')
