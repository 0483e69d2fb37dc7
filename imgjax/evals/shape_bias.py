"""Whether the answers follow the shape or the texture: images whose two cues disagree.

Geirhos et al., "ImageNet-trained CNNs are biased towards texture", ICLR 2019
(https://arxiv.org/abs/1811.12231), transfer the style of one image to another. Here a conflict is
made without a network: the phase of the Fourier transform of one image, which carries its outlines,
with the amplitude of an image of another class, which carries the statistics of its texture
(Oppenheim and Lim, "The importance of phase in signals", Proc. IEEE 69:529, 1981,
https://doi.org/10.1109/PROC.1981.12022). The shape bias of these images is not that of Geirhos'
set; images of that set are counted by `bias_of`, from the names of their files (`cues_of_name`).

Further images keep one cue: shuffled patches keep the texture (Luo et al., "Defective
convolutional networks", https://arxiv.org/abs/1911.08432, and Brendel and Bethge, "Approximating
CNNs with bag-of-local-features models", ICLR 2019, https://arxiv.org/abs/1904.00760), low and high
frequencies the coarse and the fine structure (Yin et al., "A Fourier perspective on model
robustness", NeurIPS 2019, https://arxiv.org/abs/1906.08988), and edges the outlines.
"""

import functools
import re
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from imgjax.augment import color
from imgjax.errors import ConfigError, DataError
from imgjax.evals.checks import check_single_labels
from imgjax.evals.intervals import share_of
from imgjax.evals.shifts import answers, check_images

GRIDS = (2, 4, 8)  # patches per side
CUTOFFS = (2.0, 4.0, 8.0, 16.0, 32.0)  # cycles per side
SMALLEST_PATCH = 2  # pixels

_CUES = re.compile(r'([^/]*?\D)\d*-([^/]*?\D)\d*(?:\.\w+)?$')


def measure(predict: Callable, images_NHWC: np.ndarray, labels_N: np.ndarray, *,
            grids: Sequence[int] = GRIDS, cutoffs: Sequence[float] = CUTOFFS,
            seed: int = 0) -> dict:
    """Returns what the model answers where shape and texture disagree, and where one is missing.

    The result can be written as JSON:
      images: int.
      clean: the row of the images as they are; a row has `accuracy`, and the ends of its 95 %
        Wilson interval, `accuracy_low` and `accuracy_high`.
      conflict: what `bias_of` returns, over the images for which both images of the pair are
        answered right when they are clean (as Geirhos et al. choose theirs), and `pairs`, the
        number of all pairs; None if no class but one has images.
      shuffled: a row per `grid`.
      low_pass, high_pass: a row per `cutoff`, in cycles per side.
      edges: a row.
      notes: sentences on what was left out.

    Args:
      predict: (float32 (N, H, W, C) in 0 to 255) -> logits_NK, as `shifts.measure` takes it.
      images_NHWC: uint8 or float32 in 0 to 255.
      labels_N: int (N,), the classes, from 0.
      grids: into how many patches per side the images are cut, each 2 or more.
      cutoffs: frequencies in cycles per side, each above 0.
      seed: of the pairs and the places of the patches.

    Raises:
      ConfigError: a grid or a cutoff is out of its range.
      DataError: the arrays do not fit together, or logits are not finite.
    """
    images_NHWC, labels_N = check_images(images_NHWC, labels_N)
    if not len(grids) or min(grids) < 2 or not len(cutoffs) or min(cutoffs) <= 0:
        raise ConfigError(f'grids: {list(grids)}, cutoffs: {list(cutoffs)}; give 2 patches per '
                          'side or more, and cutoffs above 0')
    side, notes = min(images_NHWC.shape[1:3]), []
    kept_grids = [grid for grid in grids if side // grid >= SMALLEST_PATCH]
    kept_cutoffs = [cutoff for cutoff in cutoffs if cutoff < side / 2]
    for name, kept, all_of, why in (
            ('patches per side', kept_grids, grids, f'would be below {SMALLEST_PATCH} pixels wide'),
            ('cycles per side', kept_cutoffs, cutoffs, 'are more than half the pixels')):
        if left := [f'{one:g}' for one in all_of if one not in kept]:
            notes.append(f'{", ".join(left)} {name} are left out: they {why} on {side} pixels.')
    clean_N, _ = answers(predict, images_NHWC)

    def row(function: Callable, *args, **more) -> dict:
        changed_N, _ = answers(predict, images_NHWC, jax.tree_util.Partial(function, *args))
        return more | _row(changed_N == labels_N)

    key = jax.random.key(seed)
    found = {
        'images': len(labels_N), 'clean': _row(clean_N == labels_N), 'conflict': None,
        'shuffled': [row(_shuffle(grid), key, grid=int(grid)) for grid in kept_grids],
        'low_pass': [row(_low, jnp.float32(one), cutoff=float(one)) for one in kept_cutoffs],
        'high_pass': [row(_high, jnp.float32(one), cutoff=float(one)) for one in kept_cutoffs],
        'edges': row(_edges) if images_NHWC.shape[-1] in (1, 3) else None, 'notes': notes}
    if found['edges'] is None:
        notes.append(f'No edges are drawn: the images have {images_NHWC.shape[-1]} channels, not '
                     'one or three.')
    if len(np.unique(labels_N)) < 2:
        notes.append('There is no conflict of shape and texture: all images have one class.')
        return found
    partner_N = partners(labels_N, seed)
    textures_NHWC = jnp.asarray(images_NHWC)  # an argument of the program, not a constant in it
    answers_N, _ = answers(predict, images_NHWC, jax.tree_util.Partial(
        _conflicting, textures_NHWC, jnp.asarray(partner_N, jnp.int32)))
    right_N = clean_N == labels_N
    chosen_N = right_N & right_N[partner_N]
    conflict = bias_of(answers_N[chosen_N], labels_N[chosen_N], labels_N[partner_N[chosen_N]])
    return found | {'conflict': conflict | {'pairs': len(labels_N)}}


def bias_of(answers_N: np.ndarray, shapes_N: np.ndarray, textures_N: np.ndarray) -> dict:
    """Returns the shape bias of answers to images whose shape and texture are of two classes.

    The shape bias is the share of answers that name the class of the shape, among those that name
    one of the two classes. A model that guesses has 0.5. The result can be written as JSON:
      images: int, those whose two classes differ.
      shape, texture, neither: how many answers name which class.
      shape_bias, low, high: the share with its 95 % Wilson interval; None where no answer names one
        of the two.

    Args:
      answers_N: int (N,), the classes that were answered.
      shapes_N: int (N,), the classes of the shapes.
      textures_N: int (N,), those of the textures. Images where it is the same class do not count.

    Raises:
      DataError: the arrays do not fit together.
    """
    answers_N, shapes_N, textures_N = map(np.asarray, (answers_N, shapes_N, textures_N))
    for name, array in (('answers_N', answers_N), ('shapes_N', shapes_N),
                        ('textures_N', textures_N)):
        if array.size or array.shape != answers_N.shape:
            check_single_labels(array, len(answers_N), name=name)
    differs_N = shapes_N != textures_N
    is_shape_N = (answers_N == shapes_N) & differs_N
    is_texture_N = (answers_N == textures_N) & differs_N
    shape, texture, images = (int(one.sum()) for one in (is_shape_N, is_texture_N, differs_N))
    share = low = high = None
    if shape + texture:
        share, low, high = share_of(is_shape_N[is_shape_N | is_texture_N])
    return {'images': images, 'shape': shape, 'texture': texture,
            'neither': images - shape - texture, 'shape_bias': share, 'low': low, 'high': high}


def cues_of_name(name: str) -> tuple[str, str] | None:
    """Returns the classes of shape and texture in a file name of Geirhos' set; None if it has none.

    >>> cues_of_name('cat/cat1-truck3.png')
    ('cat', 'truck')
    """
    found = _CUES.search(name)
    return (found[1], found[2]) if found else None


def partners(labels_N: np.ndarray, seed: int) -> np.ndarray:
    """Returns for each image one of another class, int64 (N,), drawn uniformly by the seed.

    Raises:
      DataError: all images have one class.
    """
    labels_N = np.asarray(labels_N)
    order_N = np.argsort(labels_N, kind='stable')
    sorted_N = labels_N[order_N]
    first_N, last_N = (np.searchsorted(sorted_N, labels_N, side) for side in ('left', 'right'))
    others_N = len(labels_N) - (last_N - first_N)
    if not others_N.all():
        raise DataError('labels_N: all images have one class; give images of two or more')
    bits_N = np.random.Philox(key=[seed, 0]).random_raw(len(labels_N))
    place_N = (bits_N % others_N.astype(np.uint64)).astype(np.int64)
    # Among the sorted images those of the own class are skipped.
    return order_N[np.where(place_N < first_N, place_N, place_N + last_N - first_N)]


def with_amplitude(shape_NHWC: jax.Array, texture_NHWC: jax.Array) -> jax.Array:
    """Returns images with the phases of one set and the amplitudes of another.

    Each channel has its own transform. The mean colour is that of `texture_NHWC`.

    Args:
      shape_NHWC: float32 in 0 to 255, whose phases are taken.
      texture_NHWC: float32 in 0 to 255, whose amplitudes are taken.

    Returns:
      float32 images_NHWC, cut off at 0 and 255.
    """
    phase_NHFC = jnp.angle(jnp.fft.rfft2(shape_NHWC, axes=(1, 2)))
    amplitude_NHFC = jnp.abs(jnp.fft.rfft2(texture_NHWC, axes=(1, 2)))
    spectrum_NHFC = jax.lax.complex(amplitude_NHFC * jnp.cos(phase_NHFC),
                                    amplitude_NHFC * jnp.sin(phase_NHFC))
    mixed_NHWC = jnp.fft.irfft2(spectrum_NHFC, s=shape_NHWC.shape[1:3], axes=(1, 2))
    return jnp.clip(mixed_NHWC, 0.0, 255.0)


def shuffled(key: jax.Array, images_NHWC: jax.Array, rows_N: jax.Array, grid: int) -> jax.Array:
    """Returns images whose patches have other places.

    Where the side is no multiple of `grid`, the pixels that remain at the right and at the bottom
    keep their places.

    Args:
      key: PRNG key.
      images_NHWC: any dtype.
      rows_N: int32 (N,), the places of the images among all; an image has its own order by it.
      grid: patches per side.

    Returns:
      images_NHWC of the same dtype.
    """
    size, height, width, channels = images_NHWC.shape
    tall, wide = height // grid, width // grid
    inner_NHWC = images_NHWC[:, :tall * grid, :wide * grid]
    patches_NPhwC = inner_NHWC.reshape(size, grid, tall, grid, wide, channels).transpose(
        0, 1, 3, 2, 4, 5).reshape(size, grid * grid, tall, wide, channels)

    def order(row):
        return jax.random.permutation(jax.random.fold_in(key, row), grid * grid)

    order_NP = jax.vmap(order)(rows_N)
    patches_NPhwC = jnp.take_along_axis(patches_NPhwC, order_NP[:, :, None, None, None], axis=1)
    inner_NHWC = patches_NPhwC.reshape(size, grid, grid, tall, wide, channels).transpose(
        0, 1, 3, 2, 4, 5).reshape(inner_NHWC.shape)
    return images_NHWC.at[:, :tall * grid, :wide * grid].set(inner_NHWC)


def low_pass(images_NHWC: jax.Array, cutoff: jax.Array) -> jax.Array:
    """Returns images without their fine structure, float32 (N, H, W, C) in 0 to 255.

    The weight of a frequency f is exp(-(f / cutoff)^2 / 2), with f in cycles per side. Images are
    mirrored at their borders, so that opposite borders do not run into each other.

    Args:
      images_NHWC: float32 in 0 to 255.
      cutoff: float32 scalar, cycles per side, above 0; it may be traced.
    """
    height, width = images_NHWC.shape[1:3]
    mirrored_NHWC = jnp.pad(images_NHWC, ((0, 0), (0, height), (0, width), (0, 0)), 'symmetric')
    # A cycle per two sides has the frequency 1 of the mirrored image.
    y_H, x_F = (np.asarray(frequency * side, np.float32) for frequency, side in (
        (np.fft.fftfreq(2 * height), height), (np.fft.rfftfreq(2 * width), width)))
    squared_HF = jnp.asarray(np.square(y_H)[:, None] + np.square(x_F)[None])
    weight_HF = jnp.exp(-squared_HF / (2 * jnp.square(jnp.asarray(cutoff, jnp.float32))))
    spectrum_NHFC = jnp.fft.rfft2(mirrored_NHWC, axes=(1, 2))
    weight_HF = jax.lax.complex(weight_HF, jnp.zeros_like(weight_HF))
    smooth_NHWC = jnp.fft.irfft2(spectrum_NHFC * weight_HF[None, :, :, None],
                                 s=mirrored_NHWC.shape[1:3], axes=(1, 2))
    return jnp.clip(smooth_NHWC[:, :height, :width], 0.0, 255.0)


def high_pass(images_NHWC: jax.Array, cutoff: jax.Array) -> jax.Array:
    """Returns what `low_pass` takes away, about the mean colour of each image.

    The arguments are those of `low_pass`; the result is cut off at 0 and 255.
    """
    mean_N11C = images_NHWC.mean((1, 2), keepdims=True)
    return jnp.clip(images_NHWC - low_pass(images_NHWC, cutoff) + mean_N11C, 0.0, 255.0)


def edges(images_NHWC: jax.Array) -> jax.Array:
    """Returns dark outlines on white, float32 (N, H, W, C): the Sobel gradients of the grey image.

    The steepest place of an image is black.

    Args:
      images_NHWC: float32 in 0 to 255, one or three channels.
    """
    height, width = images_NHWC.shape[1:3]
    padded_NHW1 = jnp.pad(color.luma(images_NHWC), ((0, 0), (1, 1), (1, 1), (0, 0)), 'edge')

    def at(down: int, right: int) -> jax.Array:
        return padded_NHW1[:, down:down + height, right:right + width]

    across_NHW1 = (at(0, 2) + 2 * at(1, 2) + at(2, 2)) - (at(0, 0) + 2 * at(1, 0) + at(2, 0))
    along_NHW1 = (at(2, 0) + 2 * at(2, 1) + at(2, 2)) - (at(0, 0) + 2 * at(0, 1) + at(0, 2))
    steepness_NHW1 = jnp.hypot(across_NHW1, along_NHW1)
    steepest_N111 = jnp.maximum(steepness_NHW1.max((1, 2, 3), keepdims=True), 1e-6)
    return jnp.broadcast_to(255 * (1 - steepness_NHW1 / steepest_N111), images_NHWC.shape)


def _row(right_N: np.ndarray) -> dict:
    share, low, high = share_of(right_N)
    return {'accuracy': share, 'accuracy_low': low, 'accuracy_high': high}


# The changes as `shifts.answers` takes them: (arguments, images_BHWC, rows_B).


@functools.cache
def _shuffle(grid: int) -> Callable:
    """Returns the same function for the same grid, so that it is compiled once."""
    return lambda key, images_BHWC, rows_B: shuffled(key, images_BHWC, rows_B, grid)


def _low(cutoff: jax.Array, images_BHWC: jax.Array, _rows_B: jax.Array) -> jax.Array:
    return low_pass(images_BHWC, cutoff)


def _high(cutoff: jax.Array, images_BHWC: jax.Array, _rows_B: jax.Array) -> jax.Array:
    return high_pass(images_BHWC, cutoff)


def _edges(images_BHWC: jax.Array, _rows_B: jax.Array) -> jax.Array:
    return edges(images_BHWC)


def _conflicting(textures_NHWC: jax.Array, partner_N: jax.Array, images_BHWC: jax.Array,
                 rows_B: jax.Array) -> jax.Array:
    return with_amplitude(images_BHWC, textures_NHWC[partner_N[rows_B]].astype(jnp.float32))
