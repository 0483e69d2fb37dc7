"""The common corruptions of ImageNet-C and CIFAR-10-C, on the device and without a host codec.

Hendrycks and Dietterich, "Benchmarking neural network robustness to common corruptions and
perturbations", ICLR 2019 (https://arxiv.org/abs/1903.12261): 15 corruptions in the categories
noise, blur, weather and digital, and 4 more that the paper keeps for validation (here `extra`),
each at the severities 1 to 5. The arithmetic is that of `imagecorruptions`
(https://github.com/bethgelab/imagecorruptions); the constants of images whose shorter side has

- more than 64 pixels are those of ImageNet-C, as that package has them;
- 64 pixels or fewer are those of CIFAR-10-C, which the paper's authors published as make_cifar_c.py
  (https://github.com/hendrycks/robustness);
- fewer than 32 pixels are those of CIFAR-10-C too. Their blurs are about a pixel wide, and a
  narrower one would change nothing, so they stay. Only the lines of motion_blur and snow would
  cross the image: their lengths shrink with the side, to half at the least.

What differs from the published images, which are files of random numbers that nobody can draw
again:

- frost adds no photograph, but an artificial field with the mean, variance and spectrum of those
  photographs (corruption_fields.frost).
- elastic_transform is that of `imagecorruptions` above 64 pixels. Up to 64 it is that of
  make_cifar_c.py, whose two resamplings, an affine map and the displacement, are one here.
- motion_blur and snow blur by the rule of `imagecorruptions` at all sizes; make_cifar_c.py used
  ImageMagick. The streaks of snow begin in the image, not above it.
- spatter's drops have exact distances (corruption_fields.water).
- a grey image has one channel in all that is computed, as if it were three equal ones that share
  their random numbers. saturate does not change it.
"""

import functools
import math
from types import MappingProxyType

import jax
import jax.numpy as jnp
import numpy as np

from imgjax.errors import ConfigError, DataError, unknown
from imgjax.evals import corruption_fields, corruption_filters, corruption_jpeg
from imgjax.evals.corruption_fields import normals, uniforms

CATEGORIES = MappingProxyType({
    'noise': ('gaussian_noise', 'shot_noise', 'impulse_noise'),
    'blur': ('defocus_blur', 'glass_blur', 'motion_blur', 'zoom_blur'),
    'weather': ('snow', 'frost', 'fog', 'brightness'),
    'digital': ('contrast', 'elastic_transform', 'pixelate', 'jpeg_compression'),
    'extra': ('speckle_noise', 'gaussian_blur', 'spatter', 'saturate'),
})
NAMES = tuple(name for names in CATEGORIES.values() for name in names)
COMMON = NAMES[:15]
SEVERITIES = (1, 2, 3, 4, 5)
SMALL = 64  # the longest shorter side, in pixels, for the constants of CIFAR-10-C
LEAST = 8  # pixels of a side

# {name: (the five rows of ImageNet-C, the five rows of CIFAR-10-C)}; the functions unpack them.
_CONSTANTS = {
    'gaussian_noise': ([.08, .12, .18, .26, .38], [.04, .06, .08, .09, .10]),
    'shot_noise': ([60, 25, 12, 5, 3], [500, 250, 100, 75, 50]),
    'impulse_noise': ([.03, .06, .09, .17, .27], [.01, .02, .03, .05, .07]),
    'defocus_blur': ([(3, .1), (4, .5), (6, .5), (8, .5), (10, .5)],
                     [(.3, .4), (.4, .5), (.5, .6), (1, .2), (1.5, .1)]),
    'glass_blur': ([(.7, 1, 2), (.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)],
                   [(.05, 1, 1), (.25, 1, 1), (.4, 1, 1), (.25, 1, 2), (.4, 1, 2)]),
    'motion_blur': ([(10, 3), (15, 5), (15, 8), (15, 12), (20, 15)],
                    [(6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)]),
    'zoom_blur': ([(1.11, .01), (1.16, .01), (1.21, .02), (1.26, .02), (1.31, .03)],
                  [(1.06, .01), (1.11, .01), (1.16, .01), (1.21, .01), (1.26, .01)]),
    'snow': ([(.1, .3, 3, .5, 10, 4, .8), (.2, .3, 2, .5, 12, 4, .7),
              (.55, .3, 4, .9, 12, 8, .7), (.55, .3, 4.5, .85, 12, 8, .65),
              (.55, .3, 2.5, .85, 12, 12, .55)],
             [(.1, .2, 1, .6, 8, 3, .95), (.1, .2, 1, .5, 10, 4, .9),
              (.15, .3, 1.75, .55, 10, 4, .9), (.25, .3, 2.25, .6, 12, 6, .85),
              (.3, .3, 1.25, .65, 14, 12, .8)]),
    'frost': ([(1, .4), (.8, .6), (.7, .7), (.65, .7), (.6, .75)],
              [(1, .2), (1, .3), (.9, .4), (.85, .4), (.75, .45)]),
    'fog': ([(1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)],
            [(.2, 3), (.5, 3), (.75, 2.5), (1, 2), (1.5, 1.75)]),
    'brightness': ([.1, .2, .3, .4, .5], [.05, .1, .15, .2, .3]),
    'contrast': ([.4, .3, .2, .1, .05], [.75, .5, .4, .3, .15]),
    'elastic_transform': ([(12.5, .01), (16.25, .01), (21.25, .01), (25, .01), (30, .01)],
                          [(0, 0, .08), (.05, .2, .07), (.08, .06, .06), (.1, .04, .05),
                           (.1, .03, .03)]),
    'pixelate': ([.6, .5, .4, .3, .25], [.95, .9, .85, .75, .65]),
    'jpeg_compression': ([25, 18, 15, 10, 7], [80, 65, 58, 50, 40]),
    'speckle_noise': ([.15, .2, .35, .45, .6], [.06, .1, .12, .16, .2]),
    'gaussian_blur': ([1, 2, 3, 4, 6], [.4, .6, .7, .8, 1]),
    'spatter': ([(.65, .3, 4, .69, .6, 0), (.65, .3, 3, .68, .6, 0), (.65, .3, 2, .68, .5, 0),
                 (.65, .3, 1, .65, 1.5, 1), (.67, .4, 1, .65, 1.5, 1)],
                [(.62, .1, .7, .7, .5, 0), (.65, .1, .8, .7, .5, 0), (.65, .3, 1, .69, .5, 0),
                 (.65, .1, .7, .69, .6, 1), (.65, .1, .5, .68, .6, 1)]),
    'saturate': ([(.3, 0), (.1, 0), (2, 0), (5, .1), (20, .2)],
                 [(.3, 0), (.1, 0), (1.5, 0), (2, .1), (2.5, .2)]),
}
_GREY = (0.299, 0.587, 0.114)
_WATER, _MUD = (175, 238, 238), (63, 42, 20)  # red, green, blue
_FROST_SCALE = 0.2  # of the photographs of frost beside images of CIFAR


def corrupt(name: str, severity, images_NHWC, key, indices_N=None) -> jax.Array:
    """Returns corrupted images, float32 images_NHWC of whole numbers 0 to 255.

    An image has random numbers of its own, by its index, and the same ones at each severity. The
    function is one compiled program per name and shape; the severity is an argument of it.

    >>> import jax
    >>> import numpy as np
    >>> from imgjax.evals import corruptions
    >>> grey_NHWC = np.full((2, 32, 32, 3), 100, np.uint8)
    >>> found_NHWC = corruptions.corrupt('brightness', 5, grey_NHWC, jax.random.key(0))
    >>> found_NHWC.shape, float(found_NHWC[0, 0, 0, 0])
    ((2, 32, 32, 3), 176.0)

    Args:
      name: one of NAMES.
      severity: 1 to 5; an int, or a traced int32 number, which is not checked.
      images_NHWC: uint8, or float32 in 0 to 255, which is rounded; of 8 x 8 pixels or more and 1 or
        3 channels.
      key: PRNG key.
      indices_N: int (N,), what each image's random numbers depend on besides the key, such as its
        place in a dataset; None counts from 0. So images may come in chunks of any size.

    Raises:
      ConfigError: there is no such corruption or severity.
      DataError: the shape or the dtype of the images.
    """
    if name not in NAMES:
        raise ConfigError(unknown('corruption', name, NAMES))
    if not isinstance(severity, jax.Array) and severity not in SEVERITIES:
        raise ConfigError(f'severity: {severity}; give 1, 2, 3, 4 or 5')
    shape, dtype = np.shape(images_NHWC), images_NHWC.dtype
    if len(shape) != 4 or shape[3] not in (1, 3) or min(shape[1:3]) < LEAST:
        raise DataError(f'images: shape {shape}; give (images, height, width, 1 or 3 channels), '
                        f'{LEAST} x {LEAST} pixels or more')
    if dtype not in (jnp.uint8, jnp.float32):
        raise DataError(f'images: {dtype}; give uint8, or float32 in 0 to 255')
    if indices_N is None:
        indices_N = np.arange(shape[0])
    return _corrupt(name, jnp.asarray(severity, jnp.int32), jnp.asarray(images_NHWC), key,
                    jnp.asarray(indices_N, jnp.uint32))


@functools.partial(jax.jit, static_argnums=0)
def _corrupt(name, severity, images_NHWC, key, indices_N):
    images_NHWC = jnp.round(jnp.clip(images_NHWC.astype(jnp.float32), 0.0, 255.0))
    key = jax.random.fold_in(key, NAMES.index(name))
    keys_N = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, indices_N)
    small = min(images_NHWC.shape[1:3]) <= SMALL
    row = jnp.clip(severity - 1, 0, 4)
    rows = jnp.asarray(_CONSTANTS[name][small], jnp.float32)
    found_NHWC = _FUNCTIONS[name](images_NHWC, rows[row], row, keys_N, small)
    # ImageNet-C cuts the fraction off; a whole number stays one despite the rounding of float32.
    return jnp.floor(jnp.clip(found_NHWC, 0.0, 255.0) + 1 / 256)


def _gaussian_noise(images_NHWC, scale, row, keys_N, small):
    return images_NHWC + 255.0 * scale * normals(keys_N, images_NHWC.shape[1:])


def _shot_noise(images_NHWC, photons, row, keys_N, small):
    """Poisson numbers by bisection of a table of their distribution for the 256 levels."""
    most = 1024 if small else 128  # of `photons`: 13 standard deviations above the mean
    count_1K = jnp.arange(most, dtype=jnp.float32)[None]
    mean_V1 = (jnp.arange(256, dtype=jnp.float32) / 255.0 * photons)[:, None]
    below_VK = jnp.cumsum(jnp.exp(jax.scipy.special.xlogy(count_1K, mean_V1) - mean_V1
                                  - jax.scipy.special.gammaln(count_1K + 1.0)), axis=1)
    below = (below_VK / below_VK[:, -1:]).reshape(-1)
    unit = uniforms(keys_N, images_NHWC.shape[1:])
    first = images_NHWC.astype(jnp.int32) * most
    place, step = first, most // 2
    while step:
        passed = below.at[place + (step - 1)].get(mode='promise_in_bounds') <= unit
        place = place + jnp.where(passed, step, 0)
        step //= 2
    return (place - first).astype(jnp.float32) * 255.0 / photons


def _impulse_noise(images_NHWC, share, row, keys_N, small):
    unit = uniforms(keys_N, images_NHWC.shape[1:])
    return jnp.where(unit < share / 2, 255.0, jnp.where(unit < share, 0.0, images_NHWC))


def _speckle_noise(images_NHWC, scale, row, keys_N, small):
    return images_NHWC * (1.0 + scale * normals(keys_N, images_NHWC.shape[1:]))


def _defocus_blur(images_NHWC, radius_blur, row, keys_N, small):
    kernels = corruption_filters.discs(
        *zip(*_CONSTANTS['defocus_blur'][small], strict=True))
    return corruption_filters.convolve(images_NHWC, jnp.asarray(kernels)[row])


def _gaussian_blur(images_NHWC, sigma, row, keys_N, small):
    most = max(_CONSTANTS['gaussian_blur'][small])
    return corruption_filters.gaussian(images_NHWC, (sigma, sigma), (most, most))


def _glass_blur(images_NHWC, constants, row, keys_N, small):
    sigma, most, times = constants
    size, height, width, channels = images_NHWC.shape
    largest = max(one[0] for one in _CONSTANTS['glass_blur'][small])

    def blurred(images_NHWC):
        return corruption_filters.gaussian(images_NHWC, (sigma, sigma), (largest, largest))

    def draw(time):
        keys = jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys_N, time)
        return uniforms(keys, (2, height * width))

    source_NP = corruption_filters.displaced(draw, height, width, most.astype(jnp.int32),
                                             times.astype(jnp.int32))
    pixels_NPC = jnp.floor(blurred(images_NHWC) + 1 / 256).reshape(size, -1, channels)
    moved_NPC = jnp.take_along_axis(pixels_NPC, source_NP[..., None], axis=1,
                                    mode='promise_in_bounds')
    return blurred(moved_NPC.reshape(images_NHWC.shape))


def _motion_blur(images_NHWC, radius_sigma, row, keys_N, small):
    degrees_N = 90.0 * uniforms(keys_N, ()) - 45.0
    return _trail('motion_blur', 0, images_NHWC, radius_sigma, degrees_N, small)


def _trail(name, column, images_NHWC, radius_sigma, degrees_N, small):
    """Blurs along a line; `column` is where the radius stands among the constants of `name`."""
    side = min(images_NHWC.shape[1:3])
    factor = min(1.0, max(side / 32, 0.5)) if small else 1.0
    largest = math.ceil(factor * max(one[column] for one in _CONSTANTS[name][small]))
    radius = jnp.ceil(factor * radius_sigma[0]).astype(jnp.int32)
    return corruption_filters.trail(images_NHWC, radius, factor * radius_sigma[1], degrees_N,
                                    largest)


def _zoom_blur(images_NHWC, constants, row, keys_N, small):
    """The mean of the image and its enlargements."""
    _, height, width, _ = images_NHWC.shape
    zooms = [np.arange(1, end, step) for end, step in _CONSTANTS['zoom_blur'][small]]
    counts = [len(one) for one in zooms]
    filled = [np.pad(one, (0, max(counts) - len(one)), constant_values=1) for one in zooms]
    tables = {length: corruption_filters.zoom_tables(length, np.stack(filled), small)
              for length in {height, width}}
    count = jnp.asarray(counts, jnp.int32)[row]

    def add(k, total_NHWC):
        rows, columns = ([jnp.asarray(table)[row, k] for table in tables[length]]
                         for length in (height, width))
        return total_NHWC + corruption_filters.zoomed(images_NHWC, rows, columns)

    total_NHWC = jax.lax.fori_loop(0, count, add, images_NHWC)
    return total_NHWC / (count + 1).astype(jnp.float32)


def _snow(images_NHWC, constants, row, keys_N, small):
    _, height, width, _ = images_NHWC.shape
    mean, spread, _, least, radius, sigma, kept = constants
    angle_keys_N = jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys_N, 1)
    layer = mean + spread * normals(keys_N, (height, width))
    zooms = np.array([one[2] for one in _CONSTANTS['snow'][small]])
    rows, columns = ([jnp.asarray(table)[row] for table in corruption_filters.zoom_tables(
        length, zooms, small)] for length in (height, width))
    layer = corruption_filters.zoomed(layer[..., None], rows, columns)
    layer = jnp.clip(jnp.where(layer < least, 0.0, layer), 0.0, 1.0)
    degrees_N = 90.0 * uniforms(angle_keys_N, ()) - 135.0
    layer = jnp.round(255.0 * _trail('snow', 4, layer, (radius, sigma), degrees_N, small))
    white = jnp.maximum(images_NHWC, 1.5 * _grey(images_NHWC) + 127.5)
    return kept * images_NHWC + (1.0 - kept) * white + layer + layer[:, ::-1, ::-1]


def _frost(images_NHWC, weights, row, keys_N, small):
    _, height, width, channels = images_NHWC.shape
    scale = _FROST_SCALE if small else 1.0
    ice_NHWC = corruption_fields.frost(keys_N, height, width, scale)
    ice_NHWC = _grey(ice_NHWC) if channels == 1 else ice_NHWC
    return weights[0] * images_NHWC + weights[1] * ice_NHWC


def _fog(images_NHWC, constants, row, keys_N, small):
    _, height, width, _ = images_NHWC.shape
    amount, decay = constants
    cloud_NHW1 = corruption_fields.plasma(keys_N, height, width, decay)[..., None]
    highest_N111 = jnp.max(images_NHWC, axis=(1, 2, 3), keepdims=True) / 255.0
    return (images_NHWC + 255.0 * amount * cloud_NHW1) * (highest_N111 / (highest_N111 + amount))


def _brightness(images_NHWC, more, row, keys_N, small):
    """Adds to the value of HSV; its hue and saturation stay."""
    value_NHW1 = jnp.max(images_NHWC, axis=3, keepdims=True)
    raised_NHW1 = jnp.minimum(value_NHW1 + 255.0 * more, 255.0)
    return jnp.where(value_NHW1 > 0.0, images_NHWC / jnp.maximum(value_NHW1, 1.0), 1.0
                     ) * raised_NHW1


def _saturate(images_NHWC, constants, row, keys_N, small):
    """Scales the saturation of HSV; grey has the hue of red, as in scikit-image."""
    if images_NHWC.shape[3] == 1:
        return images_NHWC
    value, least = (of(images_NHWC, axis=3, keepdims=True) for of in (jnp.max, jnp.min))
    span = value - least
    saturation = jnp.where(value > 0.0, span / jnp.maximum(value, 1.0), 0.0)
    wanted = jnp.clip(saturation * constants[0] + constants[1], 0.0, 1.0)
    hue = jnp.where(span > 0.0, (value - images_NHWC) / jnp.maximum(span, 1.0),
                    jnp.asarray([0.0, 1.0, 1.0], jnp.float32)[None, None, None])
    return value * (1.0 - wanted * hue)


def _contrast(images_NHWC, kept, row, keys_N, small):
    mean_N11C = jnp.mean(images_NHWC, axis=(1, 2), keepdims=True)
    return (images_NHWC - mean_N11C) * kept + mean_N11C


def _elastic_transform(images_NHWC, constants, row, keys_N, small):
    size, height, width, _ = images_NHWC.shape
    unit = 2.0 * uniforms(keys_N, (height * width * 2 + 6,)) - 1.0
    noise_NHW2 = unit[:, 6:].reshape(size, height, width, 2)
    side = min(height, width)
    strength, spread = constants[:2]
    largest = max(one[1] for one in _CONSTANTS['elastic_transform'][small])
    if small:
        lengths, reach = (side, side), strength * side
    else:
        lengths, reach = (height, width), strength * (0.005 * height)
    move_NHW2 = reach * corruption_filters.gaussian(
        noise_NHW2, [spread * length for length in lengths],
        [largest * length for length in lengths], 'symmetric', truncate=3.0)
    y_NHW = jnp.arange(height, dtype=jnp.float32)[None, :, None] + move_NHW2[..., 0]
    x_NHW = jnp.arange(width, dtype=jnp.float32)[None, None] + move_NHW2[..., 1]
    if small:
        y_NHW, x_NHW = _affine(y_NHW, x_NHW, constants[2] * side * unit[:, :6].reshape(size, 3, 2))
    return corruption_filters.sample(images_NHWC, y_NHW, x_NHW)


def _affine(y_NHW, x_NHW, moves_N32):
    """Returns where places come from when the corners of a right triangle move so far (x, y)."""
    _, height, width = y_NHW.shape
    half = min(height, width) // 3
    corners_32 = np.float32([[1, 1], [1, -1], [-1, -1]]) * half + np.float32(
        [[width // 2, height // 2]])
    moved_N32 = jnp.asarray(corners_32)[None] + moves_N32
    sides_N22 = moved_N32[:, :2] - moved_N32[:, 1:]
    (a_N, b_N), (c_N, d_N) = sides_N22[:, 0].T, sides_N22[:, 1].T
    u, v = x_NHW - moved_N32[:, 2, 0, None, None], y_NHW - moved_N32[:, 2, 1, None, None]
    # (u, v) is so much of the two sides, and these were (0, 2 half) and (2 half, 0).
    per_N11 = (2 * half / (a_N * d_N - b_N * c_N))[:, None, None]
    of_first = (u * d_N[:, None, None] - v * c_N[:, None, None]) * per_N11
    of_second = (v * a_N[:, None, None] - u * b_N[:, None, None]) * per_N11
    return of_first + float(corners_32[2, 1]), of_second + float(corners_32[2, 0])


def _pixelate(images_NHWC, share, row, keys_N, small):
    """Averages groups of pixels, and repeats the averages."""
    down, back = {}, {}
    for length in set(images_NHWC.shape[1:3]):
        counts = [int(length * one) for one in _CONSTANTS['pixelate'][small]]
        tables = np.zeros((5, max(counts), length), np.float32)
        for table, count in zip(tables, counts, strict=True):
            table[:count] = corruption_filters.averages(length, count)
        down[length] = jnp.asarray(tables)[row]
        back[length] = jnp.asarray(np.stack([
            np.floor((np.arange(length) + 0.5) * count / length).astype(np.int32)
            for count in counts]))[row]
    _, height, width, _ = images_NHWC.shape
    few = jnp.floor(corruption_filters.sum_columns(images_NHWC, down[width]) + 0.5)
    few = jnp.floor(corruption_filters.sum_rows(few, down[height]) + 0.5)
    few = jnp.take(few, back[height], axis=1, mode='clip')
    return jnp.take(few, back[width], axis=2, mode='clip')


def _jpeg_compression(images_NHWC, quality, row, keys_N, small):
    tables = np.stack([corruption_jpeg.tables(one)
                       for one in _CONSTANTS['jpeg_compression'][small]])
    return corruption_jpeg.jpeg(images_NHWC, jnp.asarray(tables, jnp.float32)[row])


def _spatter(images_NHWC, constants, row, keys_N, small):
    """Drops of water, or splashes of mud from severity 4."""
    _, height, width, channels = images_NHWC.shape
    mean, spread, sigma, least, strength, is_mud = constants
    rows = _CONSTANTS['spatter'][small]
    most, edge = max(one[2] for one in rows), max(one[4] for one in rows if one[5])
    liquid = mean + spread * normals(keys_N, (height, width, 1))
    liquid = corruption_filters.gaussian(liquid, (sigma, sigma), (most, most))[..., 0]
    liquid = jnp.where(liquid < least, 0.0, liquid)

    def coloured(color):
        color = jnp.asarray(color, jnp.float32)[None, None, None]
        return _grey(color) if channels == 1 else color

    def add_water(liquid):
        depth_NHW = strength * corruption_fields.water(liquid)
        return images_NHWC + depth_NHW[..., None] * coloured(_WATER)

    def add_mud(liquid):
        mud = (liquid > least).astype(jnp.float32)[..., None]
        mud = corruption_filters.gaussian(mud, (strength, strength), (edge, edge))
        mud = jnp.where(mud < 0.8, 0.0, mud)
        return images_NHWC * (1.0 - mud) + mud * coloured(_MUD)

    return jax.lax.cond(is_mud > 0, add_mud, add_water, liquid)


def _grey(images_NHWC):
    """Returns the luma of images, with one channel."""
    if images_NHWC.shape[3] == 1:
        return images_NHWC
    return sum(weight * images_NHWC[..., c:c + 1] for c, weight in enumerate(_GREY))


# Each is (images_NHWC, the row of _CONSTANTS, its index, keys_N, whether the images are small) ->
# images_NHWC, not yet cut to whole levels.
_FUNCTIONS = {
    'gaussian_noise': _gaussian_noise, 'shot_noise': _shot_noise, 'impulse_noise': _impulse_noise,
    'defocus_blur': _defocus_blur, 'glass_blur': _glass_blur, 'motion_blur': _motion_blur,
    'zoom_blur': _zoom_blur, 'snow': _snow, 'frost': _frost, 'fog': _fog,
    'brightness': _brightness, 'contrast': _contrast, 'elastic_transform': _elastic_transform,
    'pixelate': _pixelate, 'jpeg_compression': _jpeg_compression, 'speckle_noise': _speckle_noise,
    'gaussian_blur': _gaussian_blur, 'spatter': _spatter, 'saturate': _saturate}
