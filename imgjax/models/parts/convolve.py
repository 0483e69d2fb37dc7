"""Convolutional layers."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from imgjax.models.parts import layers
from imgjax.models.parts.forms import convolve

_lecun_normal = nn.initializers.lecun_normal()


class Conv(nn.Module):
    """2-D convolution, x_NHWC -> y_NHWF, with the parameters of ``nn.Conv``: kernel HWIO, bias.

    Attributes:
      features: F, the number of output channels.
      kernel_size: side of the square window, or (height, width).
      strides: step in both directions.
      padding: number of zeros on every side; None for ``kernel_size // 2`` (torch's usual
        symmetrical padding, which differs from 'SAME' at strides above 1), or 'SAME' or 'VALID'.
      groups: number of groups of channels.
      dilation: distance between two taps of the window; the default padding grows with it.
    """

    features: int
    kernel_size: int | tuple[int, int] = 3
    strides: int = 1
    padding: int | str | None = None
    groups: int = 1
    dilation: int = 1
    use_bias: bool = False
    dtype: Any = jnp.float32
    kernel_init: Any = layers.kaiming_fan_out
    bias_init: Any = layers.zeros

    @nn.compact
    def __call__(self, x_NHWC: jax.Array) -> jax.Array:
        k = self.kernel_size
        h, w = (k, k) if isinstance(k, int) else k
        shape = (h, w, x_NHWC.shape[-1] // self.groups, self.features)
        kernel = self._kernel(shape)
        padding = self.padding
        if not isinstance(padding, str):
            sides = [side // 2 * self.dilation if padding is None else padding for side in (h, w)]
            padding = [(side, side) for side in sides]
        y_NHWF = convolve(
            x_NHWC.astype(self.dtype),
            kernel.astype(self.dtype),
            strides=(self.strides, self.strides),
            padding=padding,
            dilation=(self.dilation, self.dilation),
            groups=self.groups,
        )
        if self.use_bias:
            bias = self.param('bias', self.bias_init, (self.features,), jnp.float32)
            y_NHWF += bias.astype(self.dtype).reshape(1, 1, 1, -1)
        return y_NHWF

    def _kernel(self, shape: tuple[int, ...]) -> jax.Array:
        return self.param('kernel', self.kernel_init, shape, jnp.float32)


def grouped(features: int, kernel_size: int, strides: int = 1, groups: int = 1, **options) -> Conv:
    """Returns a ``Conv`` whose kernel starts with a variance of 2 / fan-out, that of a group."""
    init = nn.initializers.variance_scaling(2.0 * groups, 'fan_out', 'normal')
    return Conv(features, kernel_size, strides, groups=groups, **{'kernel_init': init, **options})


class StdConv(Conv):
    """``Conv`` with weight standardisation (Qiao et al. 2019, arXiv:1903.10520).

    For every output channel the kernel is scaled to mean 0 and variance 1. With a gamma it is the
    scaled form of Brock et al. 2021 (arXiv:2101.08692): the standard deviation is
    gamma / sqrt(fan-in) times a learned ``gain`` per channel.

    Attributes:
      epsilon: added to the variance.
      gamma: 1 / the standard deviation of act(x) for standard normal x, where act is the
        activation before this layer.
    """

    epsilon: float = 1e-6
    gamma: float | None = None
    gain_init: Any = layers.ones

    def _kernel(self, shape: tuple[int, ...]) -> jax.Array:
        kernel = self.param('kernel', self.kernel_init, shape, jnp.float32)
        mean = jnp.mean(kernel, axis=(0, 1, 2), keepdims=True)
        var = jnp.var(kernel, axis=(0, 1, 2), keepdims=True)
        kernel = (kernel - mean) * lax.rsqrt(var + self.epsilon)
        if self.gamma is None:
            return kernel
        gain = self.param('gain', self.gain_init, (self.features, 1, 1, 1), jnp.float32)
        return kernel * (gain.reshape(1, 1, 1, -1) * self.gamma * math.prod(shape[:3]) ** -0.5)


class ConvNorm(nn.Module):
    """A convolution ``conv``, a norm ``bn`` and an activation, x_NHWC -> y_NHWF.

    Attributes:
      conv: constructor of the convolution, which only lacks the name.
      norm: constructor of the norm, as ``layers.norm`` gives it.
    """

    conv: Any
    norm: Any
    act: Any = layers.ACTIVATIONS['identity']

    @nn.compact
    def __call__(self, x_NHWC: jax.Array) -> jax.Array:
        return self.act(self.norm(name='bn')(self.conv(name='conv')(x_NHWC)))


def patches(x_NHWC: jax.Array, size: int, features: int, *, dtype: Any, use_bias: bool = True,
            kernel_init: Any = _lecun_normal, name: str = 'patch_embed.proj') -> jax.Array:
    """Returns y_NHWF, a linear map of every patch, by a convolution of the calling module.

    Raises:
      ValueError: patches of that size do not tile the image.
    """
    H, W = x_NHWC.shape[1:3]
    if H % size or W % size:
        raise ValueError(f'patches of {size} pixels do not tile an image of {H} by {W}')
    return Conv(features, size, size, padding=0, use_bias=use_bias, dtype=dtype,
                kernel_init=kernel_init, name=name)(x_NHWC)
