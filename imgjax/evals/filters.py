"""What a network has learned to see: its first filters, and the images that excite a channel most.

* `first_layer` gives the weights that touch the pixels, as small images (Zeiler and Fergus 2014,
  https://arxiv.org/abs/1311.2901). Noise in them after a long training shows that it failed, or
  that the regularisation is weak.
* `maximize` makes images that excite a channel, by gradient ascent (Erhan et al. 2009,
  "Visualizing higher-layer features of a deep network"). Natural images come from the settings of
  Olah et al. 2017, https://doi.org/10.23915/distill.00007: a Fourier spectrum with the falling
  amplitudes of photographs, decorrelated colours, and small random transformations.
* `most_exciting` finds the images of a set that excite a channel. Look at them first: a made image
  shows what a channel could react to, these show what it does react to.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.scipy import ndimage

from imgjax.errors import ConfigError, DataError, first_few
from imgjax.evals.label_sets import natural

STEMS = ('stem', 'patch_embed', 'conv_stem', 'conv1', 'features.0', 'features.conv0', 'Conv2d_1a')
INPUT_GATES = ('forward1/ig/kernel', 'forward1/in/kernel')  # of a LSTM, of a GRU: the new content

LEARNING_RATE = 0.05
START = 0.1  # the standard deviation of the first parameters
CONTRAST = 0.25  # of natural images: at 1, two hundred steps make all pixels black or white
ANGLE, ZOOM, SHIFT = math.radians(5), 0.05, 1 / 16  # the largest rotation, scale and jitter
# The colours of photographs vary most in brightness, then from red to blue, then from green to
# purple (Ohta et al. 1980, https://doi.org/10.1016/0146-664X(80)90047-7). Their standard deviations
# are those of ImageNet's principal components, over that of the first.
COLOURS = (np.array([[1, 1, 1], [1, 0, -1], [1, -2, 1]]) / np.sqrt([[3], [2], [6]])
           * [[1.0], [0.29], [0.14]]).astype(np.float32)


class Filters(NamedTuple):
    """The filters of the first layer, those with the largest norm first.

    Attributes:
      name: the path of the weights in the parameters; '' if there are none.
      filters_FHWC: float32 (F, h, w, C) in 0 to 1, or None. A weight of 0 is 0.5 in all filters;
        each filter is divided by twice its own `scales_F`, so that weak filters are seen as well.
      channels_F: int64 (F,), which output channel of the layer a filter is.
      norms_F: float32 (F,), the Euclidean norms of the filters.
      scales_F: float32 (F,), the largest absolute weight of each filter.
      reason: why there are no filters; '' if there are.
    """

    name: str
    filters_FHWC: np.ndarray | None
    channels_F: np.ndarray
    norms_F: np.ndarray
    scales_F: np.ndarray
    reason: str


class Maximized(NamedTuple):
    """Images that excite one channel each.

    Attributes:
      images_NHWC: float32 (N, H, W, C) in 0 to 1.
      reached_N: float32 (N,), the activation of the channel by its image.
      shares_N: reached_N over the largest activation by an image of the data, or None where that is
        not above 0. About 1 or less means that the ascent has failed. None without data_maxima_N.
    """

    images_NHWC: np.ndarray
    reached_N: np.ndarray
    shares_N: list[float | None] | None


def first_layer(params, image_shape: Sequence[int] | None = None) -> Filters:
    """Returns the filters of the first layer of a model.

    They are the kernel of the first convolution or of the embedding of patches; of a network of
    dense layers the rows of its first matrix, each a whole image; of a recurrent network the
    weights from a row of the image to the new content of the state. A convolution that standardises
    its weights (`StdConv`) is shown as it is stored.

    Args:
      params: the parameters of a Flax model, a nested dict of arrays.
      image_shape: (H, W, C) of the model's images. Networks without a convolution need it, and it
        finds the first convolution surely where images have neither one nor three channels.

    Raises:
      DataError: weights of the first layer are not finite.
    """
    kernels = {jax.tree_util.keystr(path, simple=True, separator='/'): kernel
               for path, kernel in jax.tree_util.tree_flatten_with_path(params)[0]}
    kernels = {name: kernels[name] for name in sorted(kernels, key=natural)
               if name.endswith('kernel')}
    name, shape = _first(kernels, image_shape)
    if not name:
        reason = ('no convolution takes the channels of an image, and no matrix its pixels'
                  if image_shape else 'no convolution takes images of one or three channels; give '
                                      'image_shape for a network without convolutions')
        none = np.zeros(0, np.float32)
        return Filters('', None, np.zeros(0, np.int64), none, none, reason)
    kernel = np.asarray(kernels[name], np.float32)
    if not np.isfinite(kernel).all():
        raise DataError(f'{name}: has weights that are not finite; the model diverged, use an '
                        'earlier checkpoint')
    filters_FHWC = np.moveaxis(kernel.reshape(*shape, kernel.shape[-1]), -1, 0)
    norms_F = np.sqrt(np.square(filters_FHWC).sum(axis=(1, 2, 3)))
    order_F = np.argsort(-norms_F, kind='stable')
    filters_FHWC = filters_FHWC[order_F]
    scales_F = np.abs(filters_FHWC).max(axis=(1, 2, 3))
    shown_FHWC = 0.5 + filters_FHWC / (2 * np.where(scales_F > 0, scales_F, 1)[:, None, None, None])
    return Filters(name, shown_FHWC, order_F, norms_F[order_F], scales_F, '')


def maximize(activation_fn: Callable, shape: Sequence[int], channels: Sequence[int], *,
             mean: Sequence[float], std: Sequence[float], steps: int = 256, seed: int = 0,
             natural: bool = True, data_maxima_N: np.ndarray | None = None) -> Maximized:
    """Returns an image for each channel that excites it as much as the ascent can.

    The activation of a channel is its mean over all positions. Adam ascends it, in one batch for
    all channels. A channel behind a ReLU that is 0 everywhere on the first image has no gradient,
    and stays at 0.

    Args:
      activation_fn: (normalised float32 (N, H, W, C)) -> float (N, ..., channels), such as one of
        the named intermediates of a model. A `jax.tree_util.Partial` with the parameters as its
        first argument keeps them out of the compiled program.
      shape: (H, W, C) of the images.
      channels: N channels.
      mean: the mean of each colour by which images in 0 to 1 are normalised (config.data.mean).
      std: the standard deviation of each colour (config.data.std).
      steps: of the ascent.
      seed: of the first images and the transformations.
      natural: whether the images are made to look natural, as in the docstring of this file;
        otherwise the pixels ascend by themselves, and fine patterns fool the network.
      data_maxima_N: float (N,), the largest activation of each of the channels by an image of the
        data.

    Raises:
      ConfigError: an argument is out of its range or does not fit the others.
      DataError: the activations are not finite.
    """
    if not isinstance(activation_fn, jax.tree_util.Partial):
        activation_fn = jax.tree_util.Partial(activation_fn)
    shape = tuple(shape)
    _check(activation_fn, shape, np.asarray(channels), mean, std, steps, data_maxima_N)
    channels_N = jnp.asarray(np.asarray(channels), jnp.int32)
    colours_2C = jnp.asarray([mean, std], jnp.float32)
    rng = np.random.default_rng(seed)
    parameters = _start(rng, (len(channels_N), *shape), natural)
    state = optax.adam(LEARNING_RATE).init(parameters)
    with jax.default_matmul_precision('highest'):
        # No lax.scan: in it, XLA's CPU backend runs convolutions ten times slower.
        for _ in range(steps):
            moved_4 = jnp.asarray(rng.uniform(-1, 1, size=4), jnp.float32)
            parameters, state = _ascend(activation_fn, parameters, state, channels_N, colours_2C,
                                        moved_4, shape=shape, natural=natural)
        images_NHWC = _images(parameters, shape, natural)
        reached_N = np.asarray(_activations(activation_fn, images_NHWC, channels_N, colours_2C))
    if not np.isfinite(reached_N).all():
        raise DataError('activation_fn: gives activations that are not finite; the model diverged, '
                        'use an earlier checkpoint')
    shares_N = None if data_maxima_N is None else [
        float(reached / most) if most > 0 else None
        for reached, most in zip(reached_N, data_maxima_N, strict=True)]
    return Maximized(np.asarray(images_NHWC), reached_N, shares_N)


def most_exciting(activations_NC: np.ndarray, count: int) -> np.ndarray:
    """Returns the images that excite each channel most, int64 (C, count), the strongest first.

    Args:
      activations_NC: float (N, C), the activation of each channel by each image.
      count: how many images of each channel; of equal ones the first come first.

    Raises:
      ConfigError: the count is below 1.
      DataError: there are fewer images, or activations are not finite.
    """
    activations_NC = np.asarray(activations_NC)
    if count < 1:
        raise ConfigError(f'count: {count}; give 1 or more')
    if activations_NC.ndim != 2 or len(activations_NC) < count:
        raise DataError(f'activations_NC: shape {activations_NC.shape}; give {count} or more '
                        'images by channels')
    if not np.isfinite(activations_NC).all():
        raise DataError('activations_NC: not finite everywhere; the model diverged, use an earlier '
                        'checkpoint')
    # Channel by channel: a copy of all activations may be too large.
    return np.array([np.argsort(-column_N, kind='stable')[:count] for column_N in activations_NC.T],
                    np.int64).reshape(-1, count)


def _first(kernels: dict, image_shape: Sequence[int] | None) -> tuple[str, tuple[int, ...]]:
    """Returns the name of the first layer's kernel, and (h, w, C) of its filters; ('', ()) if none.

    A kernel with one input channel may also be that of a depthwise convolution further on, so that
    the names of first layers (`STEMS`) come first.
    """
    for colours in (image_shape[-1],) if image_shape else (3, 1):
        found = [name for name, kernel in kernels.items()
                 if np.ndim(kernel) == 4 and kernel.shape[2] == colours]
        # RepVGG has a window of one pixel beside that of 3 x 3.
        found.sort(key=lambda name: (not name.startswith(STEMS), kernels[name].shape[0] == 1))
        if found:
            return found[0], kernels[found[0]].shape[:3]
    if not image_shape:
        return '', ()
    height, width, colours = image_shape
    sizes = {name: kernel.shape[0] for name, kernel in kernels.items() if np.ndim(kernel) == 2}
    for name in INPUT_GATES:
        if sizes.get(name) == width * colours:
            return name, (1, width, colours)
    found = [name for name, size in sizes.items() if size == height * width * colours]
    found.sort(key=lambda name: name.startswith('head'))  # it is first only where it is alone
    return (found[0], (height, width, colours)) if found else ('', ())


def _check(activation_fn: Callable, shape: tuple[int, ...], channels_N: np.ndarray,
           mean: Sequence[float], std: Sequence[float], steps: int,
           data_maxima_N: np.ndarray | None) -> None:
    if len(shape) != 3 or min(shape) < 1:
        raise ConfigError(f'shape: {shape}; give (height, width, colours) of an image')
    if len(mean) != shape[2] or len(std) != shape[2] or min(std) <= 0:
        raise ConfigError(f'mean and std: {list(mean)} and {list(std)}; give one number for each '
                          f'of {shape[2]} colours, std above 0')
    if steps < 1:
        raise ConfigError(f'steps: {steps}; give 1 or more')
    found = jax.eval_shape(activation_fn, jax.ShapeDtypeStruct((1, *shape), jnp.float32))
    if len(found.shape) < 2 or found.shape[0] != 1:
        raise ConfigError(f'activation_fn: gives shape {found.shape} for one image; give (N, ..., '
                          'channels)')
    wrong = [one for one in channels_N.tolist() if one not in range(found.shape[-1])]
    if wrong or not channels_N.size or channels_N.dtype.kind not in 'iu':
        raise ConfigError(f'channels: {first_few(wrong) or "none"}; give channels from 0 to '
                          f'{found.shape[-1] - 1}')
    if data_maxima_N is not None and np.shape(data_maxima_N) != channels_N.shape:
        raise ConfigError(f'data_maxima_N: shape {np.shape(data_maxima_N)}; give one number for '
                          f'each of {channels_N.size} channels')


def _start(rng: np.random.Generator, shape: tuple[int, ...], natural: bool) -> jax.Array:
    """Returns random parameters: (N, H, W, C), or the spectrum (2, N, H, W // 2 + 1, C)."""
    N, H, W, C = shape
    size = (2, N, H, W // 2 + 1, C) if natural else shape
    return jnp.asarray(START * rng.normal(size=size), jnp.float32)


def _images(parameters: jax.Array, shape: tuple[int, ...], natural: bool) -> jax.Array:
    """Returns the images of the parameters, float32 (N, H, W, C) in 0 to 1."""
    if not natural:
        return jax.nn.sigmoid(parameters)
    H, W, C = shape
    # In photographs the amplitude of a frequency falls as 1 / frequency (cycles per pixel).
    frequency_HF = np.hypot(np.fft.fftfreq(H)[:, None], np.fft.rfftfreq(W)[None])
    falling_HF = np.asarray(CONTRAST / np.maximum(frequency_HF, 1 / max(H, W)), np.float32)
    spectrum_NHFC = (jax.lax.complex(parameters[0], parameters[1])
                     * falling_HF[None, :, :, None].astype(np.complex64))
    x_NHWC = jnp.fft.irfft2(spectrum_NHFC, s=(H, W), axes=(1, 2), norm='ortho')
    if C == 3:
        x_NHWC = jnp.einsum('nhwc,cd->nhwd', x_NHWC, COLOURS)
    return jax.nn.sigmoid(x_NHWC)


def _activations(activation_fn: Callable, images_NHWC: jax.Array, channels_N: jax.Array,
                 colours_2C: jax.Array) -> jax.Array:
    """Returns the mean activation of each image's channel, float32 (N,)."""
    mean_111C, std_111C = colours_2C[:, None, None, None]
    found = activation_fn((images_NHWC - mean_111C) / std_111C)
    mean_NC = found.reshape(len(found), -1, found.shape[-1]).astype(jnp.float32).mean(axis=1)
    return jnp.take_along_axis(mean_NC, channels_N[:, None], axis=1)[:, 0]


@functools.partial(jax.jit, static_argnames=('shape', 'natural'))
def _ascend(activation_fn: Callable, parameters: jax.Array, state, channels_N: jax.Array,
            colours_2C: jax.Array, moved_4: jax.Array, *, shape: tuple[int, ...], natural: bool):
    """Returns parameters and the state of Adam after a step."""
    def loss(parameters):
        images_NHWC = _images(parameters, shape, natural)
        if natural:
            images_NHWC = _moved(images_NHWC, moved_4)
        return -_activations(activation_fn, images_NHWC, channels_N, colours_2C).sum()

    gradients = jax.grad(loss)(parameters)
    with jax.numpy_dtype_promotion('standard'):  # optax relies on it
        updates, state = optax.adam(LEARNING_RATE).update(gradients, state)
    return optax.apply_updates(parameters, updates), state


def _moved(images_NHWC: jax.Array, moved_4: jax.Array) -> jax.Array:
    """Returns the images rotated, scaled and shifted by moved_4, float32 (4,) in -1 to 1."""
    H, W = images_NHWC.shape[1:3]
    angle, zoom = ANGLE * moved_4[0], 1 + ZOOM * moved_4[1]
    y_HW, x_HW = (np.asarray(grid - (side - 1) / 2, np.float32)
                  for grid, side in zip(np.mgrid[:H, :W], (H, W), strict=True))
    sine, cosine = zoom * jnp.sin(angle), zoom * jnp.cos(angle)
    from_y_HW = cosine * y_HW - sine * x_HW + ((H - 1) / 2 + H * SHIFT * moved_4[2])
    from_x_HW = sine * y_HW + cosine * x_HW + ((W - 1) / 2 + W * SHIFT * moved_4[3])

    def sample(image_HW):
        return ndimage.map_coordinates(image_HW, [from_y_HW, from_x_HW], order=1, mode='nearest')

    return jax.vmap(jax.vmap(sample, in_axes=2, out_axes=2))(images_NHWC)
