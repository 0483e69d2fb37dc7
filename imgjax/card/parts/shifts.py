"""Images that are moved, turned or recoloured, or that lose their shape or their texture."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from imgjax.card.parts import Finding
from imgjax.errors import DataError
from imgjax.evals import shape_bias, shifts
from imgjax.report import card_page
from imgjax.report.text import percent

TITLE = 'Shifts'
QUESTION = 'What happens to the answers when images are moved, turned, recoloured or cut up?'

MOST = 1_000  # images
SIDE = 56  # pixels of the example pictures, at most
PICTURES = 5  # of each kind of shift
NOTABLE = 0.02  # a smaller loss of accuracy is not spoken of


def measure(inputs, images: int = MOST) -> dict:
    """Measures on images of the evaluation split, at most MOST; with another model, also that one.

    Raises:
      DataError: images have several labels, or one cannot be decoded.
    """
    if inputs.multi_label:
        raise DataError('shifts take images with one label each')
    rows = inputs.subset(len(inputs.labels_of(inputs.split)), min(images, MOST))
    images_NHWC = inputs.images(inputs.split, rows)
    labels_N = inputs.labels_of(inputs.split)[rows]
    other = inputs.other_predict()

    def of(predict) -> dict:
        return {'shifts': shifts.measure(predict, images_NHWC, labels_N),
                'shape': shape_bias.measure(predict, images_NHWC, labels_N, seed=inputs.seed)}

    found = of(inputs.predict)
    right_N = shifts.answers(inputs.predict, images_NHWC)[0] == labels_N
    example = int(right_N.argmax())  # the first image if no answer is right
    return {'split': inputs.split, **found, 'other': of(other) if other else None,
            'titles': {kind: [one.title, one.unit] for kind, one in shifts.KINDS.items()},
            'worst': _worst(found['shifts']), 'example': int(rows[example]),
            'pictures': _shift_pictures(images_NHWC[example], list(found['shifts']['curves'])),
            'cue_pictures': _cue_pictures(images_NHWC, labels_N, example, inputs.seed,
                                          found['shape'])}


def findings(found: dict) -> list[Finding]:
    clean, worst = found['shifts']['clean'], found['worst']
    told = []
    if clean['accuracy'] - worst['accuracy'] > NOTABLE:
        title, unit = found['titles'][worst['kind']]
        far = worst['accuracy_high'] < clean['accuracy_low']
        told.append(Finding(
            'look' if far else 'note', f'The mild shift that costs most is "{title}" by '
            f'{worst["amount"]:g} ({unit}): accuracy {percent(worst["accuracy"], 1)} in place of '
            f'{percent(clean["accuracy"], 1)}, and {percent(1 - worst["consistency"], 1)} of the '
            'answers change.'))
    else:
        told.append(Finding('good', 'No mild shift (moved, turned, scaled, sheared, recoloured) '
                            f'costs more than {percent(NOTABLE, 0)} of the images.'))
    conflict = found['shape']['conflict']
    if conflict and conflict['shape_bias'] is not None:
        told.append(Finding(
            'note', f'Where outlines and texture are of two classes, '
            f'{percent(conflict["shape_bias"], 0)} of the answers that name one of them name that '
            f'of the outlines (95 % interval {percent(conflict["low"], 0)} to '
            f'{percent(conflict["high"], 0)}); this is not Geirhos\' stylised set.'))
    return told


def figures(found: dict) -> dict:
    given = {'worst_mild_shift_accuracy': found['worst']['accuracy']}
    conflict = found['shape']['conflict']
    if conflict and conflict['shape_bias'] is not None:
        given['fourier_shape_bias'] = conflict['shape_bias']
    return given


def _worst(found: dict) -> dict:
    """Returns the row of the mild shift with the lowest accuracy, with its `kind`."""
    rows = [row | {'kind': kind} for kind, curve in found['curves'].items() for row in curve
            if row['amount'] in shifts.KINDS[kind].mild]
    return min(rows, key=lambda row: row['accuracy'])


@functools.partial(jax.jit, static_argnums=0)
def _shifted(kind: str, images_NHWC: jax.Array, amount: jax.Array) -> jax.Array:
    return shifts.shifted(kind, images_NHWC, amount)


def _shift_pictures(image_HWC: np.ndarray, kinds: list[str]) -> dict:
    """Returns {kind: a list of {amount, pixels}} of one image."""
    small_1HWC = jnp.asarray(card_page.small(image_HWC, SIDE)[None], jnp.float32)
    made = {}
    for kind in kinds:
        one = shifts.KINDS[kind]
        amounts = sorted({*one.amounts, one.neutral})
        places = np.linspace(0, len(amounts) - 1, min(PICTURES, len(amounts))).round().astype(int)
        made[kind] = [{'amount': amounts[at], 'pixels': _pixels(
            _shifted(kind, small_1HWC, jnp.float32(amounts[at]))[0])} for at in places]
    return made


def _cue_pictures(images_NHWC: np.ndarray, labels_N: np.ndarray, row: int, seed: int,
                  found: dict) -> list[dict]:
    """Returns {title, pixels} of the images that keep one cue, and of a conflict of two."""

    image_1HWC = jnp.asarray(images_NHWC[row:row + 1], jnp.float32)
    rows_1 = jnp.asarray([row], jnp.int32)
    made = [('as it is', image_1HWC)]
    shuffled = jax.jit(shape_bias.shuffled, static_argnums=3)  # operation by operation it is slow
    made += [(f'{one["grid"]} × {one["grid"]} patches', shuffled(
        jax.random.key(seed), image_1HWC, rows_1, one['grid'])) for one in found['shuffled']]
    if found['low_pass']:
        cutoff = found['low_pass'][len(found['low_pass']) // 2]['cutoff']
        made += [(f'{what} {cutoff:g} cycles', jax.jit(function)(image_1HWC, jnp.float32(cutoff)))
                 for what, function in (('below', shape_bias.low_pass),
                                        ('above', shape_bias.high_pass))]
    if found['edges']:
        made.append(('edges', jax.jit(shape_bias.edges)(image_1HWC)))
    if found['conflict']:
        partner = shape_bias.partners(labels_N, seed)[row]
        texture_1HWC = jnp.asarray(images_NHWC[partner:partner + 1], jnp.float32)
        made += [('texture of the conflict', texture_1HWC),
                 ('conflict', jax.jit(shape_bias.with_amplitude)(image_1HWC, texture_1HWC))]
    return [{'title': title, 'pixels': _pixels(card_page.small(_bytes(image_1HWC[0]), SIDE))}
            for title, image_1HWC in made]


def _bytes(image_HWC) -> np.ndarray:
    return np.round(np.asarray(image_HWC)).astype(np.uint8)


def _pixels(image_HWC) -> list:
    """Returns an image in 0 to 255 as lists of bytes, which JSON holds and the page shows."""
    return _bytes(image_HWC).tolist()
