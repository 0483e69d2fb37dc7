"""Random fields of the common corruptions: fog, frost, and the drops of spatter.

A field is float32 field_NHW, or (N, H, W, C); each image has a key of its own.
"""

import jax
import jax.numpy as jnp
import numpy as np

# Six photographs of frost, those of the paper's authors as `imagecorruptions` 1.1.5 has them,
# enlarged by 1.1 and cut to 224 x 224 pixels at 100 places each: the mean of red, green and blue,
# the standard deviation of a cut's mean, and that within a cut. The second photograph is the third.
FROST = np.array([
    [[78.2, 146.3, 164.9], [15.8, 8.5, 6.5], [23.0, 13.8, 13.0]],
    [[195.0, 199.3, 210.0], [5.9, 6.5, 6.9], [19.1, 19.7, 20.5]],
    [[195.0, 199.3, 210.0], [5.9, 6.5, 6.9], [19.1, 19.7, 20.5]],
    [[144.1, 159.8, 172.9], [7.8, 7.7, 8.4], [25.6, 25.7, 27.0]],
    [[99.0, 110.4, 122.4], [12.7, 12.2, 11.4], [34.9, 34.5, 33.8]],
    [[66.8, 86.7, 94.4], [11.0, 12.9, 13.3], [29.9, 36.6, 42.5]]], np.float32)
# The spectrum, fitted so that frosted images differ from the clean ones as with the photographs
# (tests/reference/test_evals_corruptions.py); a line through the power of their cuts has -2.17.
FROST_SLOPE = -1.95  # of the logarithm of the power over that of the frequency
FROST_SOFT = 0.5  # cycles per pixel, towards which the power falls faster
DISTANCE = 20  # pixels, from which on a pixel is as far from the edge of a drop as any
TANGENT = float(np.tan(np.pi / 8))


def normals(keys_N, shape) -> jax.Array:
    """Returns standard normal numbers, float32 of the shape `(N, *shape)`."""
    return jax.vmap(lambda key: jax.random.normal(key, shape))(keys_N)


def uniforms(keys_N, shape) -> jax.Array:
    """Returns numbers uniform in [0, 1), float32 of the shape `(N, *shape)`."""
    return jax.vmap(lambda key: jax.random.uniform(key, shape))(keys_N)


def plasma(keys_N, height: int, width: int, decay) -> jax.Array:
    """Returns clouds, float32 field_NHW in 0 to 1: the diamond-square algorithm on a torus.

    Fournier, Fussell and Carpenter, "Computer rendering of stochastic models", 1982
    (https://doi.org/10.1145/358523.358553).

    Args:
      keys_N: PRNG keys.
      height: of the field; it is cut from a square whose side is the next power of two.
      width: of the field.
      decay: float32 number; from level to level the reach of the random numbers is divided by its
        square.
    """
    levels = (max(height, width) - 1).bit_length()
    unit_NR = 2.0 * uniforms(keys_N, (4**levels,)) - 1.0
    field = jnp.zeros((len(keys_N), 1, 1), jnp.float32)
    reach, used = jnp.float32(1.0), 1
    for level in range(levels):
        side = 2**level
        middle, top, left = (
            unit_NR[:, used + i * side**2:used + (i + 1) * side**2].reshape(field.shape) * reach
            for i in range(3))
        used += 3 * side**2
        below = field + jnp.roll(field, -1, 1)
        right = field + jnp.roll(field, -1, 2)
        middle = middle + (below + jnp.roll(below, -1, 2)) / 4
        top = top + (middle + jnp.roll(middle, 1, 1) + right) / 4
        left = left + (middle + jnp.roll(middle, 1, 2) + below) / 4
        rows = [jnp.stack(pair, axis=3).reshape(-1, side, 2 * side)
                for pair in ((field, top), (left, middle))]
        field = jnp.stack(rows, axis=2).reshape(-1, 2 * side, 2 * side)
        reach = reach / decay**2
    low_N11, high_N11 = (of(field, axis=(1, 2), keepdims=True) for of in (jnp.min, jnp.max))
    return ((field - low_N11) / (high_N11 - low_N11))[:, :height, :width]


def frost(keys_N, height: int, width: int, scale: float) -> jax.Array:
    """Returns artificial frost, float32 images_NHWC of red, green and blue, 0 to 255.

    Each image takes one of six photographs at random, of which only the statistics in FROST are
    here: it is a Gaussian field with that mean and that variance and one spectrum for all six. It
    has no edges of crystals.

    Args:
      keys_N: PRNG keys.
      height: of the images.
      width: of the images.
      scale: to which the photographs were scaled, 1 or less.
    """
    noise_NHW = normals(keys_N, (height, width))
    more_keys_N = jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys_N, 1)
    chosen_N = jnp.floor(uniforms(more_keys_N, (2,))[:, 0] * len(FROST)).astype(jnp.int32)
    offset_N = normals(more_keys_N, (3,))[:, 2]
    frequency_HF = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency_HF[0, 0] = np.inf  # the mean is drawn apart
    gain_HF = frequency_HF ** (FROST_SLOPE / 2) / (1 + (scale * frequency_HF / FROST_SOFT) ** 4)
    spectrum = jnp.fft.rfft2(noise_NHW) * jnp.asarray(gain_HF, jnp.complex64)[None]
    field_NHW = jnp.fft.irfft2(spectrum, (height, width))
    # The weights of frequencies that rfft2 leaves out are those of their mirror images.
    times_F = np.where((np.arange(gain_HF.shape[1]) == 0) | (2 * np.arange(gain_HF.shape[1])
                                                            == width), 1, 2)
    field_NHW = field_NHW / np.float32(np.sqrt((gain_HF**2 * times_F).sum() / (height * width)))
    mean_NC, spread_NC, within_NC = (jnp.asarray(FROST[:, i])[chosen_N] for i in range(3))
    level_NC = mean_NC + spread_NC * offset_N[:, None]
    return jnp.clip(level_NC[:, None, None] + within_NC[:, None, None] * field_NHW[..., None],
                    0.0, 255.0)


def water(liquid_NHW) -> jax.Array:
    """Returns how much water is at each pixel, float32 (N, H, W), 0 to 1, from smooth noise.

    A drop is where there is liquid. Its depth is shaded by the distance from its edge, levelled and
    embossed, as the paper's authors do it with OpenCV (Canny, distanceTransform, equalizeHist,
    filter2D). Distances are exact here, up to 20 pixels, and a weak edge counts beside a strong
    one only. An image without a drop has no water.

    Args:
      liquid_NHW: float32, 0 where there is none, else at most 1.
    """
    liquid_NHW = jnp.floor(jnp.clip(liquid_NHW, 0.0, 1.0) * 255.0)
    distance_NHW = jnp.floor(_mean3(_distance(_edges(liquid_NHW))) + 1e-3)
    levelled = _levelled(distance_NHW)
    kernel = np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]], np.float32)
    embossed = jnp.clip(sum(float(kernel[i, j]) * shifted for (i, j), shifted in _around(
        levelled, 'reflect').items() if kernel[i, j]), 0.0, 255.0)
    depth_NHW = liquid_NHW * jnp.round(_mean3(embossed))
    return depth_NHW / jnp.maximum(jnp.max(depth_NHW, axis=(1, 2), keepdims=True), 1.0)


def _around(field_NHW, border: str) -> dict:
    """Returns {(i, j): the field moved so that a pixel finds its neighbour there}, i, j from 0."""
    _, height, width = field_NHW.shape
    padded = jnp.pad(field_NHW, ((0, 0), (1, 1), (1, 1)), mode=border)
    return {(i, j): padded[:, i:i + height, j:j + width] for i in range(3) for j in range(3)}


def _mean3(field_NHW) -> jax.Array:
    return sum(_around(field_NHW, 'reflect').values()) / 9.0


def _edges(liquid_NHW) -> jax.Array:
    """Returns the edges that Canny's detector finds with the thresholds 50 and 150, bool."""
    at = _around(liquid_NHW, 'edge')
    across = (at[0, 2] - at[0, 0]) + 2.0 * (at[1, 2] - at[1, 0]) + (at[2, 2] - at[2, 0])
    down = (at[2, 0] - at[0, 0]) + 2.0 * (at[2, 1] - at[0, 1]) + (at[2, 2] - at[0, 2])
    strength = jnp.abs(across) + jnp.abs(down)
    near = _around(strength, 'constant')
    flat = jnp.abs(down) < TANGENT * jnp.abs(across)
    steep = jnp.abs(across) < TANGENT * jnp.abs(down)
    falling = across * down >= 0
    before = jnp.where(flat, near[1, 0], jnp.where(steep, near[0, 1],
                       jnp.where(falling, near[0, 0], near[0, 2])))
    after = jnp.where(flat, near[1, 2], jnp.where(steep, near[2, 1],
                      jnp.where(falling, near[2, 2], near[2, 0])))
    is_top = (strength > before) & jnp.where(flat | steep, strength >= after, strength > after)
    strong = (is_top & (strength > 150.0)).astype(jnp.float32)
    beside_strong = sum(_around(strong, 'constant').values()) > 0
    return is_top & (strength > 50.0) & beside_strong


def _distance(edges_NHW) -> jax.Array:
    """Returns the distance to the nearest edge in pixels, float32, at most DISTANCE."""
    _, height, width = edges_NHW.shape
    place_1W = jnp.arange(width, dtype=jnp.float32)[None, None]
    far = jnp.float32(4 * DISTANCE + width)
    left = jax.lax.cummax(jnp.where(edges_NHW, place_1W, -far), axis=2)
    right = jax.lax.cummin(jnp.where(edges_NHW, place_1W, 2 * far), axis=2, reverse=True)
    in_row = jnp.minimum(jnp.minimum(place_1W - left, right - place_1W), DISTANCE)
    padded = jnp.pad(in_row, ((0, 0), (DISTANCE, DISTANCE), (0, 0)), constant_values=DISTANCE)

    def nearer(k, best):
        rows = jax.lax.dynamic_slice_in_dim(padded, k, height, 1)
        return jnp.minimum(best, rows**2 + (k - DISTANCE).astype(jnp.float32) ** 2)

    return jnp.sqrt(jax.lax.fori_loop(0, 2 * DISTANCE + 1, nearer,
                                      jnp.full_like(in_row, DISTANCE**2)))


def _levelled(field_NHW) -> jax.Array:
    """Levels the histogram of whole numbers from 0 to DISTANCE, to 0 to 255."""
    size, height, width = field_NHW.shape
    values_1V = jnp.arange(DISTANCE + 1, dtype=jnp.float32)[None]
    most_NV = jnp.stack([jnp.sum(field_NHW <= value, axis=(1, 2), dtype=jnp.float32)
                         for value in range(DISTANCE + 1)], axis=1)
    least_N1 = jnp.min(field_NHW, axis=(1, 2))[:, None]
    first_N1 = jnp.sum(jnp.where(values_1V == least_N1, most_NV, 0.0), axis=1, keepdims=True)
    rest_N1 = height * width - first_N1
    table_NV = jnp.where(rest_N1 > 0, jnp.round(
        jnp.maximum(most_NV - first_N1, 0.0) * (255.0 / jnp.maximum(rest_N1, 1.0))), values_1V)
    place_NP = field_NHW.reshape(size, -1).astype(jnp.int32)
    return jnp.take_along_axis(table_NV, place_NP, axis=1,
                               mode='promise_in_bounds').reshape(field_NHW.shape)
