"""Odd images that were planted are found, each for its reason, and a clean set gives nothing."""

import json

import numpy as np
import pytest
from scipy import ndimage

from imgjax.errors import ConfigError, DataError
from imgjax.evals import odd_images
from tests.real import photographs


def table(images, sizes=None):
    """Returns the descriptions of images, one array per key; sizes are (height, width)."""
    sizes = [image.shape[:2] for image in images] if sizes is None else sizes
    rows = [odd_images.describe(image, *size) for image, size in zip(images, sizes, strict=True)]
    return {key: np.array([row[key] for row in rows]) for key in rows[0]}


@pytest.fixture(scope='module')
def pictures():
    return list(photographs(40, 96, 96))


def test_describe_by_hand():
    image_HWC = np.array([[0, 0, 0, 120]] * 2 + [[0, 0, 0, 120]], np.uint8)[:, :, None]
    result = odd_images.describe(image_HWC, 30, 60)
    assert {key: round(value, 6) for key, value in result.items()} == {
        'brightness': 30.0, 'contrast': round(120 * (3 / 16)**0.5, 6), 'most_common': 0.75,
        'sharpness': 7200.0,  # the Laplacian of a row is 0, 0, 120, -120
        'colorfulness': 0.0, 'aspect': 2.0, 'side': 30.0}
    red = np.broadcast_to(np.array([255, 0, 0], np.uint8), (4, 4, 3))
    result = odd_images.describe(red, 4, 4)
    assert result['colorfulness'] == pytest.approx(0.3 * np.hypot(255, 127.5))
    assert result['brightness'] == pytest.approx(0.299 * 255)


def test_a_clean_set_gives_nothing(pictures):
    assert odd_images.odd(table(pictures)) == []
    drawn = np.zeros((50, 32, 32, 1), np.uint8)  # mostly black, like MNIST, but all alike
    drawn[:, 8:24, 14:18] = np.arange(200, 250)[:, None, None, None]
    assert odd_images.odd(table(drawn)) == []


def flat(image):
    return np.full_like(image, 128)


def in_a_corner(image):
    small = np.full_like(image, 128)
    small[:4, :4] = image[:4, :4] // 2
    return small


PLANTED = {
    'blank': flat,
    'nearly blank': in_a_corner,
    'very dark': lambda image: image // 16,
    'very bright': lambda image: 255 - (255 - image) // 16,
    'very blurred': lambda image: ndimage.gaussian_filter(image, (6, 6, 0)),
}


@pytest.mark.parametrize('reason', PLANTED)
def test_odd_pixels(pictures, reason):
    found = odd_images.odd(table([*pictures, PLANTED[reason](pictures[0])]))
    assert {one['index'] for one in found} == {40}
    assert reason in [one['reason'] for one in found]
    if reason == 'blank':
        assert len(found) == 1
    one = next(one for one in found if one['reason'] == reason)
    assert one['value'] < one['usual_low'] or one['value'] > one['usual_high']
    assert json.loads(json.dumps(found)) == found


@pytest.mark.parametrize('size, reasons', [
    ((375, 500), []), ((500, 375), []), ((90, 120), ['tiny']), ((94, 120), []),
    ((375, 1300), ['odd aspect']), ((1300, 375), ['odd aspect']),
    ((20, 120), ['odd aspect', 'tiny']),
])
def test_odd_sizes(pictures, size, reasons):
    found = odd_images.odd(table(pictures, [(375, 500 + i) for i in range(39)] + [size]))
    assert [(one['index'], one['reason']) for one in found] == [(39, reason) for reason in reasons]


def test_what_is_usual_in_a_set_is_not_odd(pictures):
    """A set of panoramas, dark and blurred ones, of widely varying sizes."""
    images = [ndimage.gaussian_filter(image // 10, (6, 6, 0)) for image in pictures]
    sizes = [(round(2**(4 + i % 20 / 4)), round(4 * 2**(4 + i % 20 / 4))) for i in range(40)]
    reasons = {one['reason'] for one in odd_images.odd(table(images, sizes))}
    assert not reasons & {'very dark', 'very blurred', 'odd aspect', 'tiny'}


def test_imbalance():
    labels_N = np.repeat([0, 1, 2], [80, 16, 4])
    result = odd_images.imbalance(labels_N, ['cat', 'dog', 'car', 'zebra'])
    assert result['counts'] == {'cat': 80, 'dog': 16, 'car': 4, 'zebra': 0}
    assert (result['ratio'], result['without_images'], result['few_images']) == (
        20, ['zebra'], ['car'])
    assert result['effective_classes'] == pytest.approx(
        0.8**-0.8 * 0.16**-0.16 * 0.04**-0.04)
    several = odd_images.imbalance(np.eye(4)[labels_N], ['cat', 'dog', 'car', 'zebra'])
    assert several == result == json.loads(json.dumps(result))
    even = odd_images.imbalance(np.arange(40) % 4, list('abcd'))
    assert (even['ratio'], even['effective_classes']) == (1, pytest.approx(4))


def test_far_from_class():
    rng = np.random.default_rng(0)
    labels_N = np.repeat([0, 1, 2], [100, 100, 5])
    features_ND = rng.normal(size=(205, 16)) * 0.1 + np.eye(3, 16)[labels_N]
    assert odd_images.far_from_class(features_ND, labels_N)['left_out'] == [2]
    features_ND[7] = 5 * features_ND[150]  # an image of another class, and its length says nothing
    features_ND[101] = -features_ND[101]
    result = odd_images.far_from_class(features_ND, labels_N)
    assert [(one['index'], one['label']) for one in result['far'][:2]] == [(101, 1), (7, 0)]
    assert result['far'][0]['distance'] == pytest.approx(2, abs=0.2)
    assert len(result['far']) <= 4
    assert all(one['z'] >= 3.5 for one in result['far'])
    assert json.loads(json.dumps(result)) == result
    same = odd_images.far_from_class(np.ones((20, 4)), np.zeros(20, int))
    assert same == {'far': [], 'left_out': []}


def test_far_images_do_not_move_the_mean_of_their_class():
    features_ND = np.repeat(np.eye(2), [15, 5], axis=0)
    far = odd_images.far_from_class(features_ND, np.zeros(20, int))['far']
    assert [one['index'] for one in far] == [15, 16, 17, 18, 19]
    np.testing.assert_allclose([one['distance'] for one in far], 2**0.5)


def test_co_occurrence():
    # 0 always with 1; 2 never with 1, although both are common; 3 in no image.
    labels_NK = np.zeros((100, 4), np.float32)
    labels_NK[:20, 0], labels_NK[:40, 1], labels_NK[50:90, 2] = 1, 1, 1
    result = odd_images.co_occurrence(labels_NK)
    assert result['counts'] == [[20, 20, 0, 0], [20, 40, 0, 0], [0, 0, 40, 0], [0, 0, 0, 0]]
    assert result['lift'][0] == [5.0, 2.5, 0.0, None]
    assert result['lift'][3] == [None] * 4
    assert (result['always'], result['never']) == ([[0, 1]], [[1, 2]])
    assert json.loads(json.dumps(result)) == result


GREY = np.zeros((4, 4, 1), np.uint8)
GOOD = table([GREY, GREY])
REFUSED = {
    'float image': (odd_images.describe, (GREY / 255, 4, 4), DataError, 'decode it to uint8'),
    'alpha': (odd_images.describe, (np.zeros((4, 4, 4), np.uint8), 4, 4), DataError, '1 or 3'),
    'no height': (odd_images.describe, (GREY, 0, 4), DataError, 'stored as 0 x 4'),
    'missing': (odd_images.odd, ({'side': [1.0]},), ConfigError, "'brightness' is missing"),
    'nan': (odd_images.odd, (GOOD | {'side': [1.0, np.nan]},), DataError, 'side of image 1 is nan'),
    'length': (odd_images.odd, (GOOD | {'side': [1.0]},), DataError, 'brightness has the shape'),
    'empty': (odd_images.odd, (dict.fromkeys(GOOD, []),), DataError, 'one image or more'),
    'class': (odd_images.imbalance, (np.array([0, 2]), ['a', 'b']), DataError,
              '2 of image 1 is no class; give integers from 0 to 1'),
    'no label': (odd_images.imbalance, (np.zeros((2, 2)), ['a', 'b']), DataError, 'no image has'),
    'shape': (odd_images.far_from_class, (np.ones((3, 2)), np.zeros(2, int)), DataError,
              'shape \\(2,\\) for 3 images; give one class per image'),
    'zeros': (odd_images.far_from_class, (np.zeros((3, 2)), np.zeros(3, int)), DataError,
              'image 0 are all 0'),
    'one label': (odd_images.co_occurrence, (np.zeros(3),), DataError, 'of 0 and 1'),
    'values': (odd_images.co_occurrence, (np.full((3, 2), 0.5),), DataError, 'are 0 or 1'),
}


@pytest.mark.parametrize('name', REFUSED)
def test_bad_input(name):
    function, arguments, error, message = REFUSED[name]
    with pytest.raises(error, match=message) as caught:
        function(*arguments)
    assert '\n' not in str(caught.value)
