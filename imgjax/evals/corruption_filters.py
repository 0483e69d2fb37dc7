"""Filters of the common corruptions: blurs, zooms, displaced pixels.

Images are float32 images_NHWC in levels, 0 to 255; the strength of a filter may be a traced number.
Blurs along an axis are products with a matrix, which is exact at the borders and fast on every
kind of device.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

HIGHEST = jax.lax.Precision.HIGHEST
DOUBLINGS = 5  # a chain of displaced pixels is followed over 2**5 links; see displaced


def gaussian(images_NHWC, sigmas, largest: Sequence[float], border: str = 'edge',
             truncate: float = 4.0) -> jax.Array:
    """Convolves with a Gaussian, as scikit-image's `gaussian` does.

    Args:
      images_NHWC: float32.
      sigmas: two float32 numbers in pixels, 0 or more, along the height and the width.
      largest: the largest values that these two can have.
      border: 'edge' repeats the last pixel, 'symmetric' mirrors and repeats it (np.pad).
      truncate: the kernel ends at so many standard deviations.
    """
    rows, columns = (
        _gaussian_matrix(length, sigma, int(truncate * most + 0.5), border, truncate)
        for length, sigma, most in zip(images_NHWC.shape[1:3], sigmas, largest, strict=True))
    return sum_rows(sum_columns(images_NHWC, columns), rows)


def sum_columns(images_NHWC, weights_VW) -> jax.Array:
    """Returns images_NHVC, whose columns are weighted sums of columns."""
    return jnp.einsum('nchw,vw->nchv', images_NHWC.transpose(0, 3, 1, 2), weights_VW,
                      precision=HIGHEST).transpose(0, 2, 3, 1)


def sum_rows(images_NHWC, weights_GH) -> jax.Array:
    """Returns images_NGWC, whose rows are weighted sums of rows."""
    return jnp.einsum('nchw,gh->ncgw', images_NHWC.transpose(0, 3, 1, 2), weights_GH,
                      precision=HIGHEST).transpose(0, 2, 3, 1)


def _gaussian_matrix(length, sigma, reach, border, truncate) -> jax.Array:
    source_LK = np.pad(np.arange(length), reach, mode=border)[
        np.arange(length)[:, None] + np.arange(2 * reach + 1)]
    offset_K = jnp.arange(-reach, reach + 1, dtype=jnp.float32)
    weight_K = jnp.exp(-0.5 * (offset_K / jnp.maximum(sigma, 1e-3)) ** 2)
    weight_K = jnp.where(jnp.abs(offset_K) <= jnp.floor(truncate * sigma + 0.5), weight_K, 0.0)
    weight_LK = jnp.broadcast_to(weight_K / jnp.sum(weight_K), source_LK.shape)
    return jnp.zeros((length, length), jnp.float32).at[
        np.arange(length)[:, None], source_LK].add(weight_LK)


def discs(radii: Sequence[float], blurs: Sequence[float]) -> np.ndarray:
    """Returns kernels of discs, float32 (D, K, K), for `convolve`.

    A disc is the pixels within its radius, with the sum 1, then blurred by a Gaussian so that its
    edge is smooth: over 3 pixels to a radius of 8, over 5 above. The array of the paper's authors,
    17 pixels wide at least, is mirrored at its border. From a radius of 8 on the disc reaches it,
    so that the sum is about 1 % off.

    Args:
      radii: in pixels.
      blurs: the standard deviations of the Gaussians in pixels.
    """
    reach = max(math.ceil(max(radii)), 1) + 1
    kernels = np.zeros((len(radii), 2 * reach + 1, 2 * reach + 1))
    for kernel_KK, radius, sigma in zip(kernels, radii, blurs, strict=True):
        half = 8 if radius <= 8 else int(radius)
        place = np.arange(-half, half + 1)
        disc = (place[:, None] ** 2 + place[None] ** 2 <= radius**2).astype(np.float64)
        disc /= disc.sum()
        near = 1 if radius <= 8 else 2
        weights = np.exp(-0.5 * (np.arange(-near, near + 1) / sigma) ** 2)
        weights /= weights.sum()
        for axis in (0, 1):
            border = [(near, near) if i == axis else (0, 0) for i in (0, 1)]
            padded = np.pad(disc, border, mode='reflect')
            disc = sum(weight * np.take(padded, range(k, k + len(place)), axis)
                       for k, weight in enumerate(weights))
        kept = min(half, reach)
        middle = slice(half - kept, half + kept + 1)
        kernel_KK[reach - kept:reach + kept + 1, reach - kept:reach + kept + 1] = disc[
            middle, middle]
    return kernels.astype(np.float32)


def convolve(images_NHWC, kernel_KK) -> jax.Array:
    """Convolves with a kernel that is its own mirror image, by an FFT; the border is mirrored."""
    _, height, width, _ = images_NHWC.shape
    reach = kernel_KK.shape[0] // 2
    padded = jnp.pad(images_NHWC.transpose(0, 3, 1, 2),
                     ((0, 0), (0, 0), (reach, reach), (reach, reach)), mode='reflect')
    shape = tuple(_smooth_length(length) for length in padded.shape[2:])
    spectrum = (jnp.fft.rfft2(padded, shape) *
                jnp.fft.rfft2(kernel_KK, shape)[None, None])
    found = jnp.fft.irfft2(spectrum, shape)[:, :, 2 * reach:, 2 * reach:]
    return found[:, :, :height, :width].transpose(0, 2, 3, 1)


def _smooth_length(length: int) -> int:
    """Returns the least length from `length` up whose FFT is fast: 2, 3 and 5 divide it only."""
    while True:
        rest = length
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return length
        length += 1


def trail(images_NHWC, radius, sigma, degrees_N, largest: int) -> jax.Array:
    """Blurs each image along a line, as a camera does that moves.

    The weights are one half of a Gaussian; each step along the line is rounded to whole pixels, and
    pixels from outside are those of the border (the motion blur of `imagecorruptions`).

    Args:
      images_NHWC: float32.
      radius: int32 number; the line has 2 * radius + 1 pixels.
      sigma: float32 number, in pixels.
      degrees_N: float32, the direction from which the pixels come: 0 is from the right, 90 from
        below.
      largest: the largest value that `radius` can have.
    """
    _, height, width, channels = images_NHWC.shape
    reach, steps = 2 * largest, 2 * radius + 1
    place_K = jnp.arange(2 * largest + 1, dtype=jnp.int32)
    far_K = place_K.astype(jnp.float32)
    weight_K = jnp.where(place_K < steps, jnp.exp(-0.5 * (far_K / sigma) ** 2), 0.0)
    weight_K = weight_K / jnp.sum(weight_K)
    radians_N = jnp.deg2rad(degrees_N)
    start_KN2 = reach + jnp.ceil(
        far_K[:, None, None] * jnp.stack([jnp.sin(radians_N), jnp.cos(radians_N)], 1)[None]
        - 0.5).astype(jnp.int32)
    padded = jnp.pad(images_NHWC, ((0, 0), (reach, reach), (reach, reach), (0, 0)), mode='edge')

    def window(padded_HWC, start_2):
        return jax.lax.dynamic_slice(padded_HWC, (start_2[0], start_2[1], jnp.int32(0)),
                                     (height, width, channels))

    def add(k, total_NHWC):
        return total_NHWC + weight_K[k] * jax.vmap(window)(padded, start_KN2[k])

    return jax.lax.fori_loop(0, steps, add, jnp.zeros_like(images_NHWC))


def zoom_tables(length: int, zooms: np.ndarray, centred: bool) -> tuple[np.ndarray, ...]:
    """Returns where the pixels of a line come from that is cut at its middle and enlarged.

    As SciPy's linear `zoom` of the middle ceil(length / zoom) pixels, cut to the old length.

    Args:
      length: pixels of the line.
      zooms: float64 of any shape (...), 1 or more.
      centred: whether the middle of the enlarged line is kept, or its beginning.

    Returns:
      int32 (..., length), the first of two neighbours; float32 (..., length), the weight of the
      second; float32 (..., length), 1, or 0 where the enlarged line has ended by rounding.
    """
    zooms = zooms[..., None]
    cut = np.ceil(length / zooms)
    made = np.round(cut * zooms)
    place = np.arange(length) + (np.maximum(0, (made - length) // 2) if centred else 0)
    inside = place < made
    place = place * (cut - 1) / (made - 1)
    low = np.clip(np.floor(place), 0, cut - 2)
    return (((length - cut) // 2 + low).astype(np.int32),
            np.clip(place - low, 0, 1).astype(np.float32), inside.astype(np.float32))


def zoomed(images_NHWC, row_lines, column_lines) -> jax.Array:
    """Returns images_NHWC enlarged, by what `zoom_tables` returns for the height and the width."""
    for axis, (low_L, weight_L, inside_L) in ((1, row_lines), (2, column_lines)):
        shape = tuple(-1 if i == axis else 1 for i in range(4))
        first, second = (jnp.take(images_NHWC, at_L, axis=axis, mode='clip')
                         for at_L in (low_L, low_L + 1))
        images_NHWC = (first + weight_L.reshape(shape) * (second - first)) * inside_L.reshape(shape)
    return images_NHWC


def averages(length: int, count: int) -> np.ndarray:
    """Returns the matrix that averages the pixels of a line in groups, float32 (count, length).

    The groups are those of Pillow's box filter.
    """
    scale = length / count
    middle_C1 = (np.arange(count)[:, None] + 0.5) * scale
    pixel_L = np.arange(length)[None] + 0.5
    inside_CL = np.abs((pixel_L - middle_C1) / scale + 1e-9) <= 0.5
    return (inside_CL / inside_CL.sum(axis=1, keepdims=True)).astype(np.float32)


def displaced(draw, height: int, width: int, most, times) -> jax.Array:
    """Returns which pixel each pixel takes its value from, int32 source_NP, P = H * W.

    Each of `times` passes goes over the pixels from the last to the first, and gives each pixel the
    value that a random one near it has at that moment: the glass blur of the paper's authors. (They
    mean to swap two pixels, but NumPy has overwritten the first when it writes the second.) A pixel
    whose source was passed before takes what that took: chains that are followed here by doubling
    their length, for all pixels at once. Chains of more than 32 links, which one of a million
    images has, end there.

    Args:
      draw: (pass) -> unit_N2P, uniform in [0, 1).
      height: of the images.
      width: of the images.
      most: int32 number; rows and columns differ by -most to most - 1.
      times: int32 number of passes.
    """
    place_P = jnp.arange(height * width, dtype=jnp.int32)
    row_P, column_P = place_P // width, place_P % width
    passed_P = ((row_P > most) & (row_P <= height - most) &
                (column_P > most) & (column_P <= width - most))

    def follow(first_NP, second_NP):
        return jnp.take_along_axis(first_NP, second_NP, axis=1, mode='promise_in_bounds')

    def go(time, source_NP):
        move_N2P = jnp.floor(draw(time) * (2 * most).astype(jnp.float32)).astype(jnp.int32) - most
        taken_NP = jnp.where(passed_P[None], place_P[None] + move_N2P[:, 1] * width
                             + move_N2P[:, 0], place_P[None])
        is_later_NP = (taken_NP > place_P[None]) & passed_P[taken_NP]
        last_NP = jnp.where(is_later_NP, taken_NP, place_P[None])
        for _ in range(DOUBLINGS):
            last_NP = follow(last_NP, last_NP)
        return follow(source_NP, follow(taken_NP, last_NP))

    images = jax.eval_shape(draw, jnp.int32(0)).shape[0]
    return jax.lax.fori_loop(0, times, go, jnp.broadcast_to(place_P[None], (images, len(place_P))))


def sample(images_NHWC, y_NHW, x_NHW) -> jax.Array:
    """Returns images_NHWC at real places, bilinearly; outside, the image is mirrored."""
    size, height, width, channels = images_NHWC.shape
    pixels_NPC = images_NHWC.reshape(size, height * width, channels)
    low_y, low_x = jnp.floor(y_NHW), jnp.floor(x_NHW)
    part_y, part_x = (y_NHW - low_y)[..., None], (x_NHW - low_x)[..., None]
    rows = [_mirrored(low_y.astype(jnp.int32) + i, height) * width for i in (0, 1)]
    columns = [_mirrored(low_x.astype(jnp.int32) + i, width) for i in (0, 1)]

    def at(row_NHW, column_NHW):
        place_NP1 = (row_NHW + column_NHW).reshape(size, -1, 1)
        return jnp.take_along_axis(pixels_NPC, place_NP1, axis=1,
                                   mode='promise_in_bounds').reshape(images_NHWC.shape)

    top, bottom = (at(row, columns[0]) * (1 - part_x) + at(row, columns[1]) * part_x
                   for row in rows)
    return top * (1 - part_y) + bottom * part_y


def _mirrored(place, length) -> jax.Array:
    place = place % (2 * length)
    return jnp.where(place < length, place, 2 * length - 1 - place)
