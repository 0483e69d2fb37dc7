"""How answers change when images are moved, turned, scaled, sheared, recoloured or mirrored.

Each kind of shift has an amount, and gives a curve: the accuracy, and the share of images whose
answer is that of the clean image. A shift keeps the label for most datasets, but not for all: a
digit that is mirrored or turned by 180 degrees may be no digit any more.

Sources: Engstrom et al., "Exploring the landscape of spatial robustness", ICML 2019
(https://arxiv.org/abs/1712.02779), for rotations and translations; Azulay and Weiss, "Why do deep
convolutional networks generalize so poorly to small image transformations?", JMLR 2019
(https://arxiv.org/abs/1805.12177), for the consistency of answers.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from imgjax.augment import color, geometric
from imgjax.errors import ConfigError, DataError, nearest
from imgjax.evals import chunks
from imgjax.evals.checks import check_single_labels
from imgjax.evals.intervals import share_of


class Kind(NamedTuple):
    """One kind of shift.

    Attributes:
      title: what is done, in words.
      unit: of the amount.
      neutral: the amount that leaves an image as it is.
      amounts: those that are measured by default, without the neutral one.
      mild: those of `amounts` that leave the object easy to see for people.
      least, most: the range of amounts.
    """

    title: str
    unit: str
    neutral: float
    amounts: tuple[float, ...]
    mild: tuple[float, ...]
    least: float
    most: float


KINDS = {
    'shift_x': Kind('moved to the right', 'of the width', 0, (-1/4, -1/8, -1/16, 1/16, 1/8, 1/4),
                    (-1/8, -1/16, 1/16, 1/8), -1, 1),
    'shift_y': Kind('moved down', 'of the height', 0, (-1/4, -1/8, -1/16, 1/16, 1/8, 1/4),
                    (-1/8, -1/16, 1/16, 1/8), -1, 1),
    'rotation': Kind('turned clockwise', 'degrees', 0, (-90, -45, -30, -15, 15, 30, 45, 90),
                     (-15, 15), -360, 360),
    'scale': Kind('scaled about the centre', 'times the size', 1, (0.5, 0.75, 1.25, 1.75),
                  (0.75, 1.25), 0.05, 20),
    'shear': Kind('sheared: a row moves against the next one', 'pixels', 0,
                  (-0.4, -0.2, 0.2, 0.4), (-0.2, 0.2), -2, 2),
    'contrast': Kind('contrast about the mean of the image', 'times', 1, (0.1, 0.25, 0.5, 2),
                     (0.5,), 0, 20),
    'brightness': Kind('brightness', 'times', 1, (0.25, 0.5, 1.5, 2), (0.5, 1.5), 0, 20),
    'colour': Kind('colour that is left, from grey to full', 'share', 1, (0, 0.5), (0, 0.5), 0, 1),
    'flip_x': Kind('mirrored left to right', '1 is mirrored', 0, (1,), (), 0, 1),
    'flip_y': Kind('upside down', '1 is upside down', 0, (1,), (), 0, 1),
}


def measure(predict: Callable, images_NHWC: np.ndarray, labels_N: np.ndarray, *,
            amounts: Mapping[str, Sequence[float]] | None = None) -> dict:
    """Returns the accuracy and the consistency of the answers for each amount of each shift.

    The result can be written as JSON:
      images: int.
      clean: the row of the images as they are.
      curves: {kind: a list of rows, in the order of the amounts, the clean one among them}. A row
        has `amount`; `accuracy`, the share of right answers; `consistency`, the share of answers
        that are those of the clean images; for both the ends of the 95 % Wilson interval, as
        `accuracy_low` and so on; and `confidence`, the mean probability of the answers.
      notes: sentences on what was left out.

    Args:
      predict: (float32 (N, H, W, C) in 0 to 255) -> logits_NK. A `jax.tree_util.Partial` with the
        parameters as its first argument keeps them out of the compiled program.
      images_NHWC: uint8 or float32 in 0 to 255.
      labels_N: int (N,), the classes, from 0.
      amounts: {kind of KINDS: amounts}; None takes those of KINDS.

    Raises:
      ConfigError: a kind is unknown, or an amount is out of its range.
      DataError: the arrays do not fit together, or logits are not finite.
    """
    images_NHWC, labels_N = check_images(images_NHWC, labels_N)
    given: dict[str, Sequence[float]] = {kind: one.amounts for kind, one in KINDS.items()}
    if amounts is not None:
        given = dict(amounts)
    _check_amounts(given)
    notes = []
    if images_NHWC.shape[-1] != 3 and 'colour' in given:
        del given['colour']
        notes.append(f'Colour is not changed: the images have {images_NHWC.shape[-1]} channel, '
                     'not three.')
    clean_N, confidence_N = answers(predict, images_NHWC)
    clean = _row(None, clean_N, confidence_N, clean_N, labels_N)
    curves = {}
    for kind, chosen in given.items():
        neutral = KINDS[kind].neutral
        rows = [clean | {'amount': float(neutral)}]
        for amount in sorted(set(map(float, chosen)) - {float(neutral)}):
            change = jax.tree_util.Partial(_change(kind), jnp.float32(amount))
            rows.append(_row(amount, *answers(predict, images_NHWC, change), clean_N, labels_N))
        curves[kind] = sorted(rows, key=lambda row: row['amount'])
    return {'images': len(labels_N), 'clean': clean, 'curves': curves, 'notes': notes}


def shifted(kind: str, images_NHWC: jax.Array, amount: jax.Array) -> jax.Array:
    """Returns shifted images, float32 (N, H, W, C) in 0 to 255.

    What comes from outside has the median colour of the outermost pixels of the image, each channel
    for itself. Pixels are sampled bilinearly; smaller images are low-pass filtered before.

    Args:
      kind: of KINDS.
      images_NHWC: float32 in 0 to 255; three channels for `colour`.
      amount: float32 scalar, in the unit of KINDS; it may be traced.
    """
    size, height, width, _ = images_NHWC.shape
    amount_N = jnp.broadcast_to(jnp.asarray(amount, jnp.float32), (size,))
    zero_N, one_N = jnp.zeros(size, jnp.float32), jnp.ones(size, jnp.float32)
    if kind == 'contrast':
        return color.blend(images_NHWC, images_NHWC.mean((1, 2, 3), keepdims=True), amount_N)
    if kind == 'brightness':
        return color.brighten(images_NHWC, amount_N)
    if kind == 'colour':
        return color.saturate(images_NHWC, amount_N)
    if kind in ('flip_x', 'flip_y'):
        flipped_NHWC = images_NHWC[:, :, ::-1] if kind == 'flip_x' else images_NHWC[:, ::-1]
        share = jnp.asarray(amount, jnp.float32)
        return jnp.where(share > 0.5, flipped_NHWC, images_NHWC)
    fill_N11C = _border_colour(images_NHWC)
    moved_NHWC = images_NHWC - fill_N11C  # so that the 0 from outside becomes this colour
    if kind == 'shift_x':
        moved_NHWC = geometric.warp(
            moved_NHWC, jnp.stack([zero_N, amount_N * width], axis=1), zero_N, one_N)
    elif kind == 'shift_y':
        moved_NHWC = geometric.warp(
            moved_NHWC, jnp.stack([amount_N * height, zero_N], axis=1), zero_N, one_N)
    elif kind == 'rotation':
        moved_NHWC = geometric.warp(
            moved_NHWC, jnp.zeros((size, 2), jnp.float32), jnp.deg2rad(amount_N), one_N)
    elif kind == 'shear':
        matrix_N23 = geometric.affine_matrix(
            height, width, shear_x=amount_N, right=amount_N * (height / 2))  # about the centre
        moved_NHWC = geometric.affine(moved_NHWC, matrix_N23, interpolation='bilinear', fill=0.0)
    else:
        moved_NHWC = _scaled(moved_NHWC, jnp.asarray(amount, jnp.float32))
    return moved_NHWC + fill_N11C


def answers(predict: Callable, images_NHWC: np.ndarray,
            change: Callable | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Returns the answers to images, int64 (N,), and their probabilities, float64 (N,).

    Args:
      predict: as `measure` takes it.
      images_NHWC: uint8 or float32 in 0 to 255.
      change: (float32 images_BHWC, int32 rows_B, their places among all images) -> changed images;
        None changes nothing. A Partial whose arrays are its leaves is compiled once.

    Raises:
      DataError: logits are not finite.
    """
    predict, change = (_partial(function) for function in (predict, change or _unchanged))
    shape = jax.ShapeDtypeStruct((1, *images_NHWC.shape[1:]), jnp.float32)
    total = len(images_NHWC)
    most = chunks.images_at_once(_predicted, predict, shape)
    size = -(-total // -(-total // most))  # chunks of equal size leave little padding
    found = []
    for rows in chunks.chunks(total, size):
        # Whatever pads the last chunk is dropped below: images do not depend on each other.
        padded_B = np.minimum(np.arange(rows.start, rows.start + size), total - 1)
        changed_BHWC = _changed(change, jnp.asarray(images_NHWC[padded_B], jnp.float32),
                                jnp.asarray(padded_B, jnp.int32))
        found.append([array[:rows.stop - rows.start]
                      for array in map(np.asarray, _predicted(predict, changed_BHWC))])
    answers_N, confidences_N = map(np.concatenate, zip(*found, strict=True))
    if not np.isfinite(confidences_N).all():
        bad_N = ~np.isfinite(confidences_N)
        raise DataError(f'predict: the logits of {bad_N.sum():,} of {total:,} images are not '
                        f'finite, first of image {bad_N.argmax()}; the model diverged, use an '
                        'earlier checkpoint')
    return answers_N.astype(np.int64), confidences_N.astype(np.float64)


def check_images(images_NHWC: np.ndarray, labels_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns images and labels as arrays, after a check that they fit together.

    Raises:
      DataError: they do not.
    """
    images_NHWC, labels_N = np.asarray(images_NHWC), np.asarray(labels_N)
    if images_NHWC.ndim != 4 or not images_NHWC.size:
        raise DataError(f'images_NHWC: shape {images_NHWC.shape}; give (images, height, width, '
                        'channels), at least one of each')
    check_single_labels(labels_N, len(images_NHWC))
    if images_NHWC.dtype != np.uint8 and not (
            (images_NHWC >= 0).all() and (images_NHWC <= 255).all()):
        raise DataError('images_NHWC: not all pixels are within 0 to 255; give images as they are '
                        'decoded, not normalised')
    return images_NHWC, labels_N


def _check_amounts(given: dict[str, Sequence[float]]) -> None:
    for kind, amounts in given.items():
        if kind not in KINDS:
            raise ConfigError(f'amounts: no kind {kind!r}{nearest(kind, KINDS) or "."} There are '
                              f'{", ".join(KINDS)}')
        one = KINDS[kind]
        for amount in amounts:
            if not one.least <= amount <= one.most:
                raise ConfigError(f'amounts: {kind} by {amount:g}; give {one.least:g} to '
                                  f'{one.most:g} ({one.unit})')


def _row(amount: float | None, answers_N: np.ndarray, confidences_N: np.ndarray,
         clean_N: np.ndarray, labels_N: np.ndarray) -> dict:
    row = {'amount': amount, 'confidence': float(confidences_N.mean())}
    for name, truth_N in (('accuracy', labels_N), ('consistency', clean_N)):
        row[name], row[f'{name}_low'], row[f'{name}_high'] = share_of(answers_N == truth_N)
    return row


def _partial(function: Callable) -> jax.tree_util.Partial:
    return (function if isinstance(function, jax.tree_util.Partial)
            else jax.tree_util.Partial(function))


def _unchanged(images_BHWC: jax.Array, _rows_B: jax.Array) -> jax.Array:
    return images_BHWC


@functools.cache
def _change(kind: str) -> Callable:
    """Returns (amount, images_BHWC, rows_B) -> shifted images, the same function at each call."""
    return lambda amount, images_BHWC, _rows_B: shifted(kind, images_BHWC, amount)


@jax.jit
def _changed(change: Callable, images_BHWC: jax.Array, rows_B: jax.Array) -> jax.Array:
    return change(images_BHWC, rows_B)


@jax.jit
def _predicted(predict: Callable, images_BHWC: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the answers, int32 (B,), and their probabilities, float32 (B,), NaN with NaN."""
    logits_BK = predict(images_BHWC).astype(jnp.float32)
    confidences_B = jax.nn.softmax(logits_BK, axis=1).max(axis=1)
    return logits_BK.argmax(axis=1).astype(jnp.int32), confidences_B


def _border_colour(images_NHWC: jax.Array) -> jax.Array:
    """Returns the median of the outermost pixels of each channel, float32 (N, 1, 1, C)."""
    sides = (images_NHWC[:, 0], images_NHWC[:, -1], images_NHWC[:, 1:-1, 0],
             images_NHWC[:, 1:-1, -1])
    return jnp.median(jnp.concatenate(sides, axis=1), axis=1)[:, None, None]


def _scaled(images_NHWC: jax.Array, scale: jax.Array) -> jax.Array:
    height, width = images_NHWC.shape[1:3]
    sides_2 = jnp.asarray([height, width], jnp.float32)
    return jax.image.scale_and_translate(
        images_NHWC, images_NHWC.shape, (1, 2), jnp.broadcast_to(scale, (2,)),
        sides_2 / 2 * (1 - scale), method='linear', antialias=True)
