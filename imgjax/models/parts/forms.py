"""The forms in which a convolution can run; their results are equal up to rounding.

`python -m benchmarks.layers` times each form for each kind of layer; a choice here is a row there.
Linear maps of pixels and of patches are matrix products on all backends; for other convolutions
only the CPU has forms of its own, and other backends, not measured, run XLA's convolution.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero

from imgjax.models.parts import layers
from imgjax.process import backend

Pair = tuple[int, int]  # down and across
Padding = tuple[Pair, Pair]  # ((above, below), (left, right)) in pixels


def convolve(x_NHWC: jax.Array, kernel_HWIO: jax.Array, *, strides: Pair, padding: Padding | str,
             dilation: Pair, groups: int) -> jax.Array:
    """Returns y_NHWF: each group of the C channels is convolved to its share of the F channels.

    Args:
      x_NHWC: float32 or bfloat16.
      kernel_HWIO: of the same dtype, I = C / groups.
      strides: down and across.
      padding: zeros in pixels ((above, below), (left, right)), or 'SAME' (TensorFlow's), or
        'VALID'.
      dilation: distance in pixels between two taps of the kernel, down and across; 1 for none.
      groups: number of groups; divides both C and F.
    """
    form, padding = choose(x_NHWC.shape, kernel_HWIO.shape, strides, padding, dilation, groups)
    return FORMS[form](x_NHWC, kernel_HWIO, strides, padding, dilation, groups)


def choose(shape: tuple[int, ...], kernel_shape: tuple[int, ...], strides: Pair,
           padding: Padding | str, dilation: Pair, groups: int) -> tuple[str, Padding]:
    """Returns the name of the form in FORMS to run, and the padding in pixels.

    The other arguments are those of `convolve`.

    Args:
      shape: shape of x_NHWC.
      kernel_shape: shape of kernel_HWIO.
    """
    (N, H, W, channels), (h, w, _, features) = shape, kernel_shape
    if isinstance(padding, str):
        window = [(k - 1) * d + 1 for k, d in zip((h, w), dilation, strict=True)]
        (top, bottom), (left, right) = lax.padtype_to_pads((H, W), window, strides, padding)
    else:
        (top, bottom), (left, right) = padding
    pads = (top, bottom), (left, right)
    if groups == 1 and pads == ((0, 0), (0, 0)):
        if (h, w) == (1, 1):
            return 'dot', pads
        if (h, w) == strides and dilation == (1, 1) and H >= h and W >= w:
            return 'patches', pads
    # An export, for any batch size and backend, has the plain convolution.
    if backend.platform() != 'cpu' or not isinstance(N, int):
        return 'lax', pads
    if groups == channels == features:
        return 'shifted', pads
    if groups > 1:
        return 'split', pads
    return 'taps' if max(H, W) < min(h, w) else 'lax', pads


def _lax(x_NHWC: jax.Array, kernel_HWIO: jax.Array, strides: Pair, padding: Padding, dilation: Pair,
         groups: int) -> jax.Array:
    return lax.conv_general_dilated(
        x_NHWC, kernel_HWIO, strides, padding, rhs_dilation=dilation, feature_group_count=groups,
        dimension_numbers=('NHWC', 'HWIO', 'NHWC'))


def _dot(x_NHWC: jax.Array, kernel_HWIO: jax.Array, strides: Pair, *_) -> jax.Array:
    """A kernel of one pixel: a linear map of each pixel that the strides select."""
    return layers.dot(x_NHWC[:, ::strides[0], ::strides[1]], kernel_HWIO[0, 0])


def _patches(x_NHWC: jax.Array, kernel_HWIO: jax.Array, *_) -> jax.Array:
    """Windows without overlaps and gaps: a linear map of each patch."""
    h, w, channels, features = kernel_HWIO.shape
    N, H, W, _ = x_NHWC.shape
    H, W = H // h, W // w
    x_NHhWwC = x_NHWC[:, :H * h, :W * w].reshape(N, H, h, W, w, channels)
    x_NHWP = x_NHhWwC.swapaxes(2, 3).reshape(N, H, W, h * w * channels)
    return layers.dot(x_NHWP, kernel_HWIO.reshape(-1, features))


def _taps(x_NHWC: jax.Array, kernel_HWIO: jax.Array, strides: Pair, padding: Padding,
          dilation: Pair, _: int) -> jax.Array:
    """A sum of linear maps over the taps of the kernel, without taps that see padding alone.

    XLA's convolution of images that are smaller than the kernel takes 30 times as long.
    """
    size, kernel = x_NHWC.shape[1:3], kernel_HWIO.shape[:2]
    out = [(size[a] + sum(padding[a]) - (kernel[a] - 1) * dilation[a] - 1) // strides[a] + 1
           for a in (0, 1)]
    y_NHWF = jnp.zeros((x_NHWC.shape[0], *out, kernel_HWIO.shape[3]), x_NHWC.dtype)
    for tap in itertools.product(*map(range, kernel)):
        spans = [_span(tap[a] * dilation[a] - padding[a][0], strides[a], size[a], out[a])
                 for a in (0, 1)]
        if any(first > last for first, last in spans):
            continue
        inputs, outputs = [slice(None)], [slice(None)]
        for a, (first, last) in enumerate(spans):
            offset = tap[a] * dilation[a] - padding[a][0]
            inputs.append(slice(offset + first * strides[a], offset + last * strides[a] + 1,
                                strides[a]))
            outputs.append(slice(first, last + 1))
        y_NHWF = y_NHWF.at[tuple(outputs)].add(
            layers.dot(x_NHWC[tuple(inputs)], kernel_HWIO[tap]))
    return y_NHWF


def _span(offset: int, stride: int, side: int, out: int) -> Pair:
    """Returns the first and the last of the outputs whose pixel, offset + stride * o, exists."""
    return max(0, -(offset // stride)), min(out - 1, (side - 1 - offset) // stride)


def _split(x_NHWC: jax.Array, kernel_HWIO: jax.Array, strides: Pair, padding: Padding,
           dilation: Pair, groups: int) -> jax.Array:
    """Several groups of channels, each by a convolution of its own.

    The gradient of XLA's grouped convolution is 100 times slower. Narrow groups share one, whose
    kernel is zero between groups: a convolution of 16 channels takes as long as one of 4.
    """
    h, w, width, features = kernel_HWIO.shape
    joined = next(n for n in range(1, groups + 1)
                  if groups % n == 0 and (n * width >= 16 or n == groups))
    parts = groups // joined
    kernel_HWPGIF = kernel_HWIO.reshape(
        h, w, width, parts, joined, features // groups).transpose(0, 1, 3, 4, 2, 5)
    one_GG = jnp.eye(joined, dtype=kernel_HWIO.dtype)
    kernel_HWPGIGF = (kernel_HWPGIF[:, :, :, :, :, None]
                      * one_GG.reshape(1, 1, 1, joined, 1, joined, 1))
    kernel_HWPIF = kernel_HWPGIGF.reshape(h, w, parts, joined * width, features // parts)
    return jnp.concatenate(
        [convolve(x, kernel_HWPIF[:, :, i], strides=strides, padding=padding, dilation=dilation,
                  groups=1)
         for i, x in enumerate(jnp.split(x_NHWC, parts, axis=-1))], axis=-1)


# Depthwise convolution: a sum over the taps of the kernel of the shifted image times one number per
# channel. XLA's CPU convolution runs it at 1 GFLOP/s.


def _depthwise(x_NHWC: jax.Array, kernel_HWIO: jax.Array, strides: Pair, padding: Padding,
               dilation: Pair, _: int) -> jax.Array:
    return _shifted(x_NHWC, kernel_HWIO[:, :, 0], strides, padding, dilation)


_SUMMED_IMAGES = 8


@functools.partial(jax.custom_jvp, nondiff_argnums=(2, 3, 4))
def _shifted(x_NHWC: jax.Array, kernel_HWC: jax.Array, strides: Pair, padding: Padding,
             dilation: Pair) -> jax.Array:
    h, w, _ = kernel_HWC.shape
    x_NHWC = lax.pad(x_NHWC, jnp.zeros((), x_NHWC.dtype), _borders(padding))
    y_NHWC = None
    for i in range(h):
        row_NHWC = sum(
            _view(x_NHWC, (i, j), (h, w), strides, dilation) * kernel_HWC[i, j][None, None, None]
            for j in range(w))
        # XLA makes one loop of each row; of the sum of all taps it makes slower ones.
        y_NHWC = row_NHWC if y_NHWC is None else y_NHWC + row_NHWC
    return layers.once(y_NHWC)


# The forward-mode derivatives are written as transposes of fast gradients: reverse mode transposes
# them back, which reverses the order of their terms.


@functools.partial(_shifted.defjvp, symbolic_zeros=True)
def _shifted_jvp(strides: Pair, padding: Padding, dilation: Pair, primals: tuple,
                 tangents: tuple) -> tuple[jax.Array, jax.Array]:
    (x_NHWC, kernel_HWC), (dx_NHWC, dkernel_HWC) = primals, tangents
    y_NHWC = _shifted(x_NHWC, kernel_HWC, strides, padding, dilation)
    terms = []
    if not isinstance(dx_NHWC, SymbolicZero):
        terms.append(_by_image(dx_NHWC, kernel_HWC, y_NHWC.shape, strides, padding, dilation))
    if not isinstance(dkernel_HWC, SymbolicZero):
        terms.append(_by_kernel(x_NHWC, dkernel_HWC, strides, padding, dilation))
    return y_NHWC, layers.once(sum(terms)) if terms else jnp.zeros_like(y_NHWC)


def _by_image(dx_NHWC: jax.Array, kernel_HWC: jax.Array, y_shape: tuple[int, ...], strides: Pair,
              padding: Padding, dilation: Pair) -> jax.Array:
    """Returns the derivative of y in the direction dx.

    Its transpose is the sum of the layer itself with the kernel reversed, over a dy with zeros for
    the pixels that the strides skip.
    """
    h, w, _ = kernel_HWC.shape
    reach = [(k - 1) * d for k, d in zip((h, w), dilation, strict=True)]
    dx_NHWC = layers.once(dx_NHWC)
    zero = jnp.zeros((), dx_NHWC.dtype)
    sides = [dx_NHWC.shape[1 + axis] + reach[axis] for axis in (0, 1)]
    total_NHWC = None
    for i in reversed(range(h)):
        # It is a separate operation, so that its cotangent is the sum of a row.
        row_NHWC = dx_NHWC * jnp.ones((), dx_NHWC.dtype)
        for j in reversed(range(w)):
            term_NHWC = row_NHWC * kernel_HWC[h - 1 - i, w - 1 - j][None, None, None]
            first = (i * dilation[0], j * dilation[1])
            config = [(first[axis], reach[axis] - first[axis], 0) for axis in (0, 1)]
            term_NHWC = lax.pad(term_NHWC, zero, [(0, 0, 0), *config, (0, 0, 0)])
            total_NHWC = term_NHWC if total_NHWC is None else total_NHWC + term_NHWC
    config = [(0, 0, 0)]
    for axis in (0, 1):
        start, out = reach[axis] - padding[axis][0], y_shape[1 + axis]
        config.append((-start, start + (out - 1) * strides[axis] + 1 - sides[axis], 0))
    return lax.pad(total_NHWC, zero, [*config, (0, 0, 0)])[:, ::strides[0], ::strides[1]]


def _by_kernel(x_NHWC: jax.Array, dkernel_HWC: jax.Array, strides: Pair, padding: Padding,
               dilation: Pair) -> jax.Array:
    """Returns the derivative of y in the direction dkernel.

    Its transpose is a sum over images and pixels: over up to _SUMMED_IMAGES images in the loop that
    multiplies, then by one reduction for all taps, at which XLA is fast.
    """
    h, w, channels = dkernel_HWC.shape
    x_NHWC = lax.pad(x_NHWC, jnp.zeros((), x_NHWC.dtype), _borders(padding))
    N = x_NHWC.shape[0]
    parts = max(n for n in range(1, _SUMMED_IMAGES + 1) if N % n == 0)
    views_TNHWC = [_view(x_NHWC, tap, (h, w), strides, dilation).astype(jnp.float32)
                   for tap in itertools.product(range(h), range(w))]
    each = (N // parts, *views_TNHWC[0].shape[1:])
    every_TNHWC = jnp.broadcast_to(
        dkernel_HWC.astype(jnp.float32).reshape(h * w, 1, 1, 1, channels), (h * w, *each))
    taps_T1NHWC = lax.split(every_TNHWC, (1,) * (h * w))
    changes = []
    for first in reversed(range(0, N, N // parts)):
        changes.append(sum(
            lax.squeeze(tap_1NHWC, (0,)) * view_NHWC[first:first + N // parts]
            for tap_1NHWC, view_NHWC in zip(taps_T1NHWC, views_TNHWC, strict=True)))
    return jnp.concatenate(changes[::-1]).astype(x_NHWC.dtype)


def _borders(padding: Padding) -> list[tuple[int, int, int]]:
    return [(0, 0, 0), *((before, after, 0) for before, after in padding), (0, 0, 0)]


def _view(x_NHWC: jax.Array, tap: Pair, kernel: Pair, strides: Pair, dilation: Pair) -> jax.Array:
    """Returns the pixel at that tap in every window."""
    starts, stops = [0], [x_NHWC.shape[0]]
    for axis in (0, 1):
        rest = (kernel[axis] - 1 - tap[axis]) * dilation[axis]
        starts.append(tap[axis] * dilation[axis])
        stops.append(x_NHWC.shape[1 + axis] - rest)
    channels = x_NHWC.shape[3]
    return lax.slice(x_NHWC, (*starts, 0), (*stops, channels), (1, *strides, 1))


# name -> (x_NHWC, kernel_HWIO, strides, padding in pixels, dilation, groups) -> y_NHWF
FORMS = {'lax': _lax, 'dot': _dot, 'patches': _patches, 'taps': _taps, 'split': _split,
         'shifted': _depthwise}
