"""Convolutional layers, and the forms that a convolution is run in, equal but for rounding.

The forms chosen on the CPU are those that XLA runs fast there; no other backend was measured.
"""

import functools
import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from imgjax.models import layers


class Conv(nn.Module):
    """2-D convolution, x_NHWC -> y_NHWF, with the parameters of ``nn.Conv``: kernel HWIO, bias.

    Attributes:
      features: F, the output channels.
      kernel_size: side of the square window, or (height, width).
      strides: step along both sides.
      padding: zeros on every side; None for ``kernel_size // 2`` (torch's usual symmetrical
        padding, which differs from 'SAME' at strides above 1), or 'SAME' or 'VALID'.
      groups: feature groups.
      dilation: of the window; the default padding grows with it.
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
    def __call__(self, x_NHWC):
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

    def _kernel(self, shape):
        return self.param('kernel', self.kernel_init, shape, jnp.float32)


class StdConv(Conv):
    """``Conv`` by a kernel made to have mean 0 and variance 1 over the inputs of every channel.

    Weight standardisation (Qiao et al. 2019, arXiv:1903.10520); with a gamma the scaled form of
    Brock et al. 2021 (arXiv:2101.08692), whose deviation is gamma / sqrt(fan-in) times a learned
    ``gain`` a channel.

    Attributes:
      epsilon: added to the variance.
      gamma: 1 over the deviation that the activation before leaves of a standard normal input.
    """

    epsilon: float = 1e-6
    gamma: float | None = None
    gain_init: Any = layers.ones

    def _kernel(self, shape):
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
      conv: constructor of the convolution, bound but for its name.
      norm: constructor of the norm, as ``norm`` gives it.
    """

    conv: Any
    norm: Any
    act: Any

    @nn.compact
    def __call__(self, x_NHWC):
        return self.act(self.norm(name='bn')(self.conv(name='conv')(x_NHWC)))


def patch_tokens(x_NHWC, width: int, patch_size: int, *, dtype: Any, name: str):
    """Tokens x_NLD: a linear map of every patch, a convolution of the calling module.

    Raises:
      ValueError: the patch does not divide the image's sides.
    """
    N, H, W, _ = x_NHWC.shape
    if H % patch_size or W % patch_size:
        raise ValueError(f'patches of {patch_size} pixels do not tile an image of {H} by {W}')
    embed = Conv(width, patch_size, patch_size, padding=0, use_bias=True, dtype=dtype,
                 kernel_init=nn.initializers.lecun_normal(), name=name)
    return embed(x_NHWC).reshape(N, -1, width)


def convolve(x_NHWC, kernel_HWIO, *, strides: tuple[int, int], padding, dilation: tuple[int, int],
             groups: int):
    """Returns y_NHWF: each group of the input's channels convolved to its share of F.

    Args:
      x_NHWC: float32 or bfloat16.
      kernel_HWIO: of the same dtype, I = C / groups.
      strides: down and across.
      padding: ((above, below), (left, right)) in pixels, zeros; or 'SAME' (TensorFlow's) or
        'VALID'.
      dilation: pixels between two taps of the kernel, 1 for none, down and across.
      groups: divides both C and F.
    """
    h, w, _, features = kernel_HWIO.shape
    size, channels = x_NHWC.shape[1:3], x_NHWC.shape[-1]
    if isinstance(padding, str):
        window = [(k - 1) * d + 1 for k, d in zip((h, w), dilation, strict=True)]
        padding = lax.padtype_to_pads(size, window, strides, padding)
    padding = tuple(map(tuple, padding))
    if groups == 1 and padding == ((0, 0), (0, 0)):
        if (h, w) == (1, 1):
            return _dot(x_NHWC[:, ::strides[0], ::strides[1]], kernel_HWIO[0, 0])
        if (h, w) == strides and dilation == (1, 1) and size[0] >= h and size[1] >= w:
            return _patches(x_NHWC, kernel_HWIO)
    # An export, of any batch size and for any backend, holds the plain convolution.
    exported = not isinstance(x_NHWC.shape[0], int)
    if groups == channels == features and jax.default_backend() == 'cpu' and not exported:
        return _shifted(x_NHWC, kernel_HWIO[:, :, 0], strides, padding, dilation)
    return lax.conv_general_dilated(
        x_NHWC, kernel_HWIO, strides, padding, rhs_dilation=dilation, feature_group_count=groups,
        dimension_numbers=('NHWC', 'HWIO', 'NHWC'))


def _dot(x_NHWC, kernel_IO):
    return lax.dot_general(x_NHWC, kernel_IO, (((3,), (0,)), ((), ())))


def _patches(x_NHWC, kernel_HWIO):
    """Windows that neither overlap nor leave gaps: a linear map of every patch."""
    h, w, channels, features = kernel_HWIO.shape
    N, H, W, _ = x_NHWC.shape
    H, W = H // h, W // w
    x_NHhWwC = x_NHWC[:, :H * h, :W * w].reshape(N, H, h, W, w, channels)
    x_NHWP = x_NHhWwC.swapaxes(2, 3).reshape(N, H, W, h * w * channels)
    return _dot(x_NHWP, kernel_HWIO.reshape(-1, features))


# Depthwise: every channel by a kernel of its own, a sum over the kernel's taps of the shifted image
# times a number a channel. XLA's CPU convolution runs it at 1 GFLOP/s.


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _shifted(x_NHWC, kernel_HWC, strides, padding, dilation):
    h, w, _ = kernel_HWC.shape
    x_NHWC = lax.pad(x_NHWC, jnp.zeros((), x_NHWC.dtype), _borders(padding))
    taps = list(itertools.product(range(h), range(w)))
    return sum(_view(x_NHWC, tap, (h, w), strides, dilation) * kernel_HWC[tap][None, None, None]
               for tap in taps)


def _forward(x_NHWC, kernel_HWC, strides, padding, dilation):
    return _shifted(x_NHWC, kernel_HWC, strides, padding, dilation), (x_NHWC, kernel_HWC)


def _backward(strides, padding, dilation, residuals, dy_NHWC):
    x_NHWC, kernel_HWC = residuals
    h, w, _ = kernel_HWC.shape
    reach = [(k - 1) * d for k, d in zip((h, w), dilation, strict=True)]
    zero = jnp.zeros((), x_NHWC.dtype)

    # The image's gradient is the same sum with the kernel turned round, over a dy that has zeros
    # where a stride left pixels out.
    config = [(0, 0, 0)]
    for axis in (0, 1):
        before, after = padding[axis]
        side, out = x_NHWC.shape[1 + axis], dy_NHWC.shape[1 + axis]
        unread = side + before + after - reach[axis] - 1 - (out - 1) * strides[axis]
        config.append((reach[axis] - before, reach[axis] - after + unread, strides[axis] - 1))
    spread_NHWC = lax.pad(dy_NHWC, zero, [*config, (0, 0, 0)])
    dx_NHWC = _shifted(spread_NHWC, kernel_HWC[::-1, ::-1], (1, 1), ((0, 0), (0, 0)), dilation)

    x_NHWC = lax.pad(x_NHWC, zero, _borders(padding))
    dkernel_TC = jnp.stack([
        jnp.sum(_view(x_NHWC, tap, (h, w), strides, dilation) * dy_NHWC, axis=(0, 1, 2),
                dtype=jnp.float32)
        for tap in itertools.product(range(h), range(w))])
    return dx_NHWC, dkernel_TC.reshape(kernel_HWC.shape).astype(kernel_HWC.dtype)


_shifted.defvjp(_forward, _backward)


def _borders(padding):
    return [(0, 0, 0), *((before, after, 0) for before, after in padding), (0, 0, 0)]


def _view(x_NHWC, tap, kernel, strides, dilation):
    """The pixel that the tap meets in every window."""
    starts, stops = [0], [x_NHWC.shape[0]]
    for axis in (0, 1):
        rest = (kernel[axis] - 1 - tap[axis]) * dilation[axis]
        starts.append(tap[axis] * dilation[axis])
        stops.append(x_NHWC.shape[1 + axis] - rest)
    channels = x_NHWC.shape[3]
    return lax.slice(x_NHWC, (*starts, 0), (*stops, channels), (1, *strides, 1))
