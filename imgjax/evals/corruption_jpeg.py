"""What JPEG loses, on the device: an image after it was written and read, without a file.

The baseline codec of libjpeg, as Pillow calls it: ISO/IEC 10918-1 (https://www.w3.org/Graphics/JPEG/
itu-t81.pdf), with the example quantisation tables of its annex K scaled by the quality, colours as
in JFIF (YCbCr), chroma at half of the resolution (4:2:0), and libjpeg's triangle filter where the
chroma is enlarged again. Entropy coding loses nothing, so there is none.

The sums of the cosine transforms are in float32, libjpeg's in whole numbers with constants of 13
bits; about one coefficient of a thousand, beside the middle of two steps, falls on the other one.
"""

import jax
import jax.numpy as jnp
import numpy as np

HIGHEST = jax.lax.Precision.HIGHEST
TIE = 1e-4  # steps by which a quotient in float32 may be below the middle of two
LUMA = np.array([
    [16, 11, 10, 16, 24, 40, 51, 61], [12, 12, 14, 19, 26, 58, 60, 55],
    [14, 13, 16, 24, 40, 57, 69, 56], [14, 17, 22, 29, 51, 87, 80, 62],
    [18, 22, 37, 56, 68, 109, 103, 77], [24, 35, 55, 64, 81, 104, 113, 92],
    [49, 64, 78, 87, 103, 121, 120, 101], [72, 92, 95, 98, 112, 100, 103, 99]])
CHROMA = np.full((8, 8), 99)
CHROMA[:4, :4] = [[17, 18, 24, 47], [18, 21, 26, 66], [24, 26, 56, 99], [47, 66, 99, 99]]


def tables(quality: int) -> np.ndarray:
    """Returns the steps of luma and chroma, int (2, 64), for a quality from 1 to 100."""
    percent = 5000 // quality if quality < 50 else 200 - 2 * quality
    return np.clip((np.stack([LUMA, CHROMA]).reshape(2, 64) * percent + 50) // 100, 1, 255)


def jpeg(images_NHWC, steps_2Q) -> jax.Array:
    """Returns the images after a JPEG file, float32 images_NHWC of whole numbers.

    Args:
      images_NHWC: float32, whole numbers 0 to 255. Images of one channel are luma alone.
      steps_2Q: float32 (2, 64), as `tables` gives them.
    """
    if images_NHWC.shape[3] == 1:
        return _coded(images_NHWC[..., 0], steps_2Q[0])[..., None]
    red, green, blue = (images_NHWC[..., c] for c in range(3))
    luma = jnp.round(0.299 * red + 0.587 * green + 0.114 * blue)
    chroma = [jnp.round(128.0 + factor * (primary - (0.299 * red + 0.587 * green + 0.114 * blue)))
              for factor, primary in ((0.5 / 0.886, blue), (0.5 / 0.701, red))]
    luma = _coded(luma, steps_2Q[0])
    cb, cr = (_enlarged(_coded(_halved(plane), steps_2Q[1]), luma.shape) - 128.0
              for plane in chroma)
    return jnp.clip(jnp.round(jnp.stack(
        [luma + 1.402 * cr, luma - 0.344136286 * cb - 0.714136286 * cr, luma + 1.772 * cb],
        axis=-1)), 0.0, 255.0)


def _cosines() -> np.ndarray:
    """Returns the transform of a block of 8 x 8 pixels, float32 (frequencies 64, pixels 64)."""
    k, x = np.arange(8)[:, None], np.arange(8)[None]
    line = np.cos((2 * x + 1) * k * np.pi / 16) * np.where(k == 0, np.sqrt(1 / 8), 0.5)
    return np.kron(line, line).astype(np.float32)


def _coded(plane_NHW, step_Q) -> jax.Array:
    """Returns a plane after quantisation, its blocks filled up by its last row and column."""
    size, height, width = plane_NHW.shape
    rows, columns = -(-height // 8), -(-width // 8)
    padded = jnp.pad(plane_NHW, ((0, 0), (0, 8 * rows - height), (0, 8 * columns - width)),
                     mode='edge')
    blocks = padded.reshape(size, rows, 8, columns, 8).swapaxes(2, 3).reshape(-1, 64) - 128.0
    transform = _cosines()
    # libjpeg has coefficients in eighths, and the middle between two steps goes away from 0.
    eighths = jnp.round(8.0 * jnp.matmul(blocks, transform.T, precision=HIGHEST))
    levels = jnp.sign(eighths) * jnp.floor(jnp.abs(eighths) / (8.0 * step_Q[None]) + 0.5 + TIE)
    blocks = jnp.matmul(levels * step_Q[None], transform, precision=HIGHEST)
    blocks = jnp.clip(jnp.round(blocks) + 128.0, 0.0, 255.0)
    return blocks.reshape(size, rows, columns, 8, 8).swapaxes(2, 3).reshape(padded.shape)[
        :, :height, :width]


def _halved(plane_NHW) -> jax.Array:
    """Averages 2 x 2 pixels; of a sum that is rounded, every other column is rounded up."""
    _, height, width = plane_NHW.shape
    # Columns are filled up to whole blocks before they are averaged, rows to an even number only.
    padded = jnp.pad(plane_NHW, ((0, 0), (0, height % 2), (0, -width % 16)), mode='edge')
    rows = padded[:, ::2] + padded[:, 1::2]
    sums = rows[:, :, ::2] + rows[:, :, 1::2]
    up_1 = jnp.arange(sums.shape[2], dtype=jnp.int32) % 2
    return jnp.floor((sums + 1.0 + up_1.astype(jnp.float32)[None, None]) / 4.0)


def _enlarged(plane_NHW, shape) -> jax.Array:
    """Returns a plane at twice its resolution, from 3/4 of the nearest and 1/4 of the next."""
    _, height, width = shape
    plane_NHW = plane_NHW[:, :, :(width + 1) // 2]
    padded = jnp.pad(plane_NHW, ((0, 0), (1, 1), (0, 0)), mode='edge')
    nearest = 3.0 * padded[:, 1:-1]
    rows = _woven(nearest + padded[:, :-2], nearest + padded[:, 2:], 1)
    padded = jnp.pad(rows, ((0, 0), (0, 0), (1, 1)), mode='edge')
    nearest = 3.0 * padded[:, :, 1:-1]
    left = jnp.floor((nearest + padded[:, :, :-2] + 8.0) / 16.0)
    right = jnp.floor((nearest + padded[:, :, 2:] + 7.0) / 16.0)
    return _woven(left, right, 2)[:, :height, :width]


def _woven(first, second, axis) -> jax.Array:
    """Returns lines of the first and the second in turn."""
    shape = tuple(2 * length if i == axis else length for i, length in enumerate(first.shape))
    return jnp.stack([first, second], axis=axis + 1).reshape(shape)
