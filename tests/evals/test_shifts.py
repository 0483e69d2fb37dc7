"""Shifts of images: where pixels go, and what is counted of the answers."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from imgjax.errors import ConfigError, DataError
from imgjax.evals import shifts
from imgjax.evals.intervals import wilson


def shifted(kind, image_HWC, amount) -> np.ndarray:
    return np.asarray(shifts.shifted(kind, jnp.asarray(image_HWC[None], jnp.float32),
                                     jnp.float32(amount))[0])


def spot(row, column, background=20.0) -> np.ndarray:
    image_HWC = np.full((8, 8, 1), background, np.float32)
    image_HWC[row, column] = 220
    return image_HWC


def by_column(images_NHWC) -> jax.Array:
    """A model of eight classes: the brightest column."""
    return images_NHWC.mean((1, 3))


@pytest.mark.parametrize(('kind', 'amount', 'goes_to'), [
    ('shift_x', 2 / 8, (2, 5)), ('shift_y', -1 / 8, (1, 3)), ('rotation', 90, (3, 5)),
    ('rotation', -90, (4, 2)), ('flip_x', 1, (2, 4)), ('flip_y', 1, (5, 3)),
])
def test_a_spot_goes_where_the_amount_says(kind, amount, goes_to):
    found_HWC = shifted(kind, spot(2, 3), amount)
    np.testing.assert_allclose(found_HWC, spot(*goes_to), atol=0.01)


@pytest.mark.parametrize('kind', shifts.KINDS)
def test_the_neutral_amount_changes_nothing(kind):
    image_HWC = np.random.default_rng(0).uniform(0, 255, (6, 8, 3))
    np.testing.assert_allclose(shifted(kind, image_HWC, shifts.KINDS[kind].neutral), image_HWC,
                               atol=0.01)


@pytest.mark.parametrize(('kind', 'amount', 'matrix'), [
    # From (y, x) of the result to those of the source, about the centre.
    ('rotation', 30, [[math.cos(math.pi / 6), -0.5], [0.5, math.cos(math.pi / 6)]]),
    ('scale', 1.75, [[1 / 1.75, 0], [0, 1 / 1.75]]),
    ('shear', 0.4, [[1, 0], [0.4, 1]]),
])
def test_pixels_come_from_where_scipy_fetches_them(kind, amount, matrix):
    image_HW = np.random.default_rng(1).uniform(0, 255, (9, 9))
    border = np.concatenate([image_HW[0], image_HW[-1], image_HW[1:-1, 0], image_HW[1:-1, -1]])
    fill = np.median(border)
    centre = np.array([4.0, 4.0])
    expected_HW = fill + ndimage.affine_transform(
        image_HW - fill, matrix, centre - matrix @ centre, order=1, mode='grid-constant')
    np.testing.assert_allclose(shifted(kind, image_HW[..., None], amount)[..., 0], expected_HW,
                               atol=0.02)


def test_what_comes_from_outside_has_the_colour_of_the_border():
    image_HWC = np.full((8, 8, 3), (10, 100, 200), np.float32)
    image_HWC[2:6, 2:6] = 255
    for kind, amount in (('shift_x', 0.5), ('rotation', 45), ('scale', 0.5), ('shear', 0.4)):
        np.testing.assert_allclose(shifted(kind, image_HWC, amount)[0, 0], (10, 100, 200),
                                   atol=0.01)


def test_colours_are_blended():
    image_HWC = np.random.default_rng(2).uniform(20, 120, (4, 4, 3))
    np.testing.assert_allclose(shifted('brightness', image_HWC, 2), 2 * image_HWC, rtol=1e-5)
    np.testing.assert_allclose(shifted('contrast', image_HWC, 0.25),
                               image_HWC.mean() + 0.25 * (image_HWC - image_HWC.mean()), rtol=1e-4)
    grey_HW1 = image_HWC @ np.array([[0.299], [0.587], [0.114]])
    np.testing.assert_allclose(shifted('colour', image_HWC, 0), np.repeat(grey_HW1, 3, 2),
                               rtol=1e-4)


def test_accuracy_and_consistency_are_those_of_the_shifted_images():
    images_NHWC = np.stack([spot(row % 8, row % 7) for row in range(40)])
    labels_N = np.arange(40) % 7
    labels_N[:10] = (labels_N[:10] + 1) % 7  # a quarter of the answers are wrong
    found = shifts.measure(by_column, images_NHWC, labels_N,
                           amounts={'shift_x': (1 / 8, 0), 'flip_y': (1,)})
    json.dumps(found, allow_nan=False)
    still, moved = found['curves']['shift_x']
    assert still['amount'] == 0 and moved['amount'] == 1 / 8
    assert still['accuracy'] == 0.75 and still['consistency'] == 1
    # Each spot goes to the next column: right are the ten whose label was one too high, except
    # that of the last of seven columns, whose label is 0.
    assert moved['accuracy'] == 9 / 40 and moved['consistency'] == 0
    assert (moved['accuracy_low'], moved['accuracy_high']) == wilson(9, 40)
    assert found['curves']['flip_y'][1]['consistency'] == 1
    assert still['confidence'] == pytest.approx(moved['confidence'], abs=1e-6)


def test_chunks_change_no_answer(monkeypatch):
    images_NHWC = np.random.default_rng(3).integers(0, 255, (37, 8, 8, 1)).astype(np.uint8)
    whole = shifts.measure(by_column, images_NHWC, np.arange(37) % 8)
    monkeypatch.setattr(shifts.chunks, 'images_at_once', lambda *_: 8)
    parts = shifts.measure(by_column, images_NHWC, np.arange(37) % 8)
    for kind, rows in whole['curves'].items():
        for one, other in zip(rows, parts['curves'][kind], strict=True):
            assert one['accuracy'] == other['accuracy']
            assert one['confidence'] == pytest.approx(other['confidence'], abs=1e-6)


def test_an_amount_compiles_nothing():
    images_NHWC = np.stack([spot(2, 3)] * 5)
    model = jax.tree_util.Partial(lambda scale, x_NHWC: scale * by_column(x_NHWC), jnp.float32(1))
    shifts.measure(model, images_NHWC, np.zeros(5, int))
    before = shifts._changed._cache_size(), shifts._predicted._cache_size()
    shifts.measure(model, images_NHWC, np.zeros(5, int),
                   amounts={kind: (one.least, one.most) for kind, one in shifts.KINDS.items()})
    assert (shifts._changed._cache_size(), shifts._predicted._cache_size()) == before


def test_grey_images_have_no_colours():
    found = shifts.measure(by_column, np.stack([spot(1, 1)] * 3), np.ones(3, int))
    assert 'colour' not in found['curves']
    assert found['notes'] == ['Colour is not changed: the images have 1 channel, not three.']


@pytest.mark.parametrize(('change', 'error', 'line'), [
    (dict(amounts={'rotate': (3,)}), ConfigError, 'amounts: no kind .rotate.; did you mean'),
    (dict(amounts={'colour': (1.5,)}), ConfigError, 'amounts: colour by 1.5; give 0 to 1'),
    (dict(images_NHWC=np.zeros((3, 8, 8))), DataError, 'images_NHWC: shape'),
    (dict(images_NHWC=np.full((3, 8, 8, 1), -0.5)), DataError, 'within 0 to 255'),
    (dict(labels_N=np.zeros((3, 8), int)), DataError, 'several labels per image'),
    (dict(predict=lambda x_NHWC: by_column(x_NHWC) * np.float32(np.nan)), DataError,
     'the logits of 3 of 3 images are not finite'),
])
def test_what_does_not_fit_is_one_line(change, error, line):
    given = dict(predict=by_column, images_NHWC=np.stack([spot(1, 1)] * 3),
                 labels_N=np.ones(3, int)) | change
    with pytest.raises(error, match=line) as raised:
        shifts.measure(given.pop('predict'), given.pop('images_NHWC'), given.pop('labels_N'),
                       **given)
    assert '\n' not in str(raised.value)
