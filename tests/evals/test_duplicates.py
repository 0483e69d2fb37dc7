"""Planted copies are found, different images are not, and bad input is refused in one line."""

import io

import numpy as np
import pytest
from PIL import Image

from benchmarks import duplicates as copies
from imgjax.errors import DataError
from imgjax.evals import duplicates, near_duplicates
from tests import real


@pytest.fixture(autouse=True)
def less_work(monkeypatch):
    monkeypatch.setattr(near_duplicates, 'BLOCK', 128)
    monkeypatch.setattr(near_duplicates, 'RANDOM_PAIRS', 250)


def textures(count: int, side: int = 48) -> list[np.ndarray]:
    """Returns different images without duplicates, uint8 (side, side, 3)."""
    rng = np.random.default_rng(0)
    small_NHWC = rng.integers(40, 200, (count, 7, 7, 3), dtype=np.uint8)
    return [np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC))
            for image in small_NHWC]


def measured(images: list[np.ndarray], labels=None, is_eval=None, **options) -> dict:
    hashes, descriptors_ND = copies.described(images)
    count = len(images)
    return duplicates.measure(
        hashes, descriptors_ND, np.zeros(count, int) if labels is None else np.array(labels),
        np.zeros(count, bool) if is_eval is None else np.array(is_eval), **options)


def test_hash_is_that_of_pixels_and_shape():
    image = textures(1)[0]
    files = [io.BytesIO() for _ in range(3)]
    for file, (name, options) in zip(files, (
            ('PNG', {}), ('BMP', {}), ('WEBP', {'lossless': True})), strict=True):
        Image.fromarray(image).save(file, name, **options)
    hashes = [duplicates.pixel_hash(copies.decoded(file.getvalue())) for file in files]
    assert {duplicates.pixel_hash(image)} == set(hashes)
    assert len(hashes[0]) == 16 and int(hashes[0], 16) >= 0
    assert duplicates.pixel_hash(np.asfortranarray(image)) == hashes[0]
    changed = image.copy()
    changed[5, 5, 1] ^= 1
    assert duplicates.pixel_hash(changed) != hashes[0]
    assert duplicates.pixel_hash(image.reshape(24, 96, 3)) != hashes[0]


def test_descriptors_do_not_depend_on_the_batch_the_channels_or_the_size():
    images_NHWC = np.stack(textures(3))
    descriptors_ND = near_duplicates.describe(images_NHWC)
    assert descriptors_ND.dtype == np.float32 and descriptors_ND.shape == (3, 576)
    assert np.array_equal(descriptors_ND[1:2], near_duplicates.describe(images_NHWC[1:2]))
    grey_NHWC = images_NHWC[..., :1]
    np.testing.assert_allclose(near_duplicates.describe(grey_NHWC),
                               near_duplicates.describe(np.repeat(grey_NHWC, 3, axis=3)), atol=1e-2)
    larger = np.stack([np.asarray(Image.fromarray(image).resize((150, 70)))
                       for image in images_NHWC])
    assert np.abs(near_duplicates.describe(larger) - descriptors_ND).mean() < 3  # of 255
    # A filter keeps a ramp: pixel i of 24 is the mean of the pixels 2i and 2i + 1 of 48.
    ramp_HW = np.repeat(np.arange(48, dtype=np.uint8)[None], 48, axis=0)
    thumbnail_SS = near_duplicates.describe(ramp_HW[None, ..., None]).reshape(24, 24)
    np.testing.assert_allclose(thumbnail_SS[:, 1:-1], np.tile(np.arange(2.5, 46, 2), (24, 1)),
                               rtol=1e-5)


def test_groups_leaks_and_conflicts():
    own = textures(30)
    images = [*own, own[0], copies.jpeg(own[1]), copies.mirrored(own[2]), own[3].copy(),
              copies.cropped(own[4], 0.5, 0.5), copies.brighter(own[4])]
    labels = np.zeros(36, int)
    labels[[2, 4]] = 1
    is_eval = np.zeros(36, bool)
    is_eval[[5, 30, 31, 34]] = True
    result = measured(images, labels, is_eval)
    groups = [(group['indices'], group['kind'], group['across'], group['conflict'])
              for group in result['groups']]
    assert groups == [
        ([4, 34, 35], 'near', True, True), ([0, 30], 'exact', True, False),
        ([1, 31], 'near', True, False), ([2, 32], 'near', False, True),
        ([3, 33], 'exact', False, False)]
    assert {name: result[name] for name in (
        'images', 'exact_groups', 'near_groups', 'exact_leaks', 'near_leaks', 'conflicts')} == dict(
        images=36, exact_groups=2, near_groups=3, exact_leaks=1, near_leaks=2, conflicts=2)
    assert np.flatnonzero(~np.array(result['without_leaks'])).tolist() == [30, 31, 34]
    assert all(result['threshold'] <= group['similarity'] <= 1 for group in result['groups'])


def test_result_depends_on_the_images_only(monkeypatch):
    images = textures(12)
    images += [copies.jpeg(image) for image in images[:5]]
    result = measured(images)
    assert sorted(group['indices'] for group in result['groups']) == [[i, 12 + i] for i in range(5)]
    assert result == measured(images)
    assert [group['indices'] for group in measured(images, seed=1)['groups']] == [
        group['indices'] for group in result['groups']]
    monkeypatch.setattr(near_duplicates, 'BLOCK', 5)
    monkeypatch.setattr(near_duplicates, 'RANDOM_PAIRS', 30)
    for a, b in zip(measured(images)['groups'], result['groups'], strict=True):
        assert a['similarity'] == pytest.approx(b['similarity'], abs=1e-4)
        assert {**a, 'similarity': 0} == {**b, 'similarity': 0}


def test_more_copies_than_neighbours_are_one_group():
    own = textures(100)
    variants = [np.clip(own[0] + np.int16(shift), 0, 255).astype(np.uint8)
                for shift in range(1, 13)]
    assert len(variants) > near_duplicates.NEIGHBOURS
    result = measured(own + variants)
    assert [group['indices'] for group in result['groups']] == [[0, *range(100, 112)]]


@pytest.mark.parametrize('images, groups', [
    (textures(1), []),
    (textures(2), []),
    ([textures(1)[0], copies.mirrored(textures(1)[0])], [[0, 1]]),
    ([np.full((9, 9, 3), grey, np.uint8) for grey in (0, 9, 9)], [[1, 2]]),  # flat: exact only
])
def test_tiny_and_flat_sets(images, groups):
    assert [group['indices'] for group in measured(images)['groups']] == groups


def test_threshold_by_hand():
    z_P = np.linspace(0, 1, 101)  # median 0.5, 99 % quantile 0.99
    assert near_duplicates.threshold_of(np.tanh(2 * z_P)) == pytest.approx(
        np.tanh(2 * (0.5 + 2.75 * 0.49)))
    assert near_duplicates.threshold_of(np.tanh(z_P)) == 0.96  # above tanh(1.8475) = 0.9515
    assert near_duplicates.threshold_of(np.zeros(0)) == 0.96


def test_digits_have_no_exact_duplicates():
    hashes = [duplicates.pixel_hash(image) for image in copies.digits()]
    assert len(set(hashes)) == 1797


def of_arrays(**changed):
    arguments = {'hashes': ['0', '1'], 'descriptors_ND': np.zeros((2, 576), np.float32),
                 'labels_N': np.zeros(2, int), 'is_eval_N': np.zeros(2, bool)}
    return duplicates.measure(**(arguments | changed))


IMAGE = np.zeros((1, 4, 4, 3), np.uint8)


@pytest.mark.parametrize('call, words', [
    (lambda: duplicates.pixel_hash(IMAGE[0].astype(np.float32)), 'float32 (4, 4, 3)'),
    (lambda: duplicates.pixel_hash(IMAGE[0, :, :, 0]), 'uint8 (4, 4)'),
    (lambda: duplicates.pixel_hash(IMAGE[0, :0]), '(0, 4, 3)'),
    (lambda: near_duplicates.describe(IMAGE[0]), '(4, 4, 3)'),
    (lambda: near_duplicates.describe(IMAGE[:0]), '(0, 4, 4, 3)'),
    (lambda: near_duplicates.describe(IMAGE / 255), 'float64'),
    (lambda: near_duplicates.describe(np.repeat(IMAGE, 2, axis=3)), '1 or 3 channels'),
    (lambda: of_arrays(hashes=[]), 'no images'),
    (lambda: of_arrays(labels_N=np.zeros(3, int)), 'labels_N: 3 rows for 2'),
    (lambda: of_arrays(is_eval_N=np.zeros(2, int)), 'is_eval_N of int64'),
    (lambda: of_arrays(descriptors_ND=np.zeros((2, 9), np.float32)), '(2, 9)'),
    (lambda: of_arrays(descriptors_ND=np.full((2, 576), np.nan, np.float32)), 'not finite'),
])
def test_bad_input_is_refused_in_one_line(call, words):
    with pytest.raises(DataError) as error:
        call()
    assert words in str(error.value) and '\n' not in str(error.value)


@real.needs_jpegs
def test_copies_of_photographs_are_found():
    images = list(real.photographs(40, 96, 128))
    hashes, descriptors_ND = copies.described(images)
    assert measured(images)['groups'] == []
    floors = {'JPEG, quality 50': 1, 'mirrored': 1, 'cropped to 80 %, corner': 1,
              'cropped to 80 %, random place': 0.6, 'resized, JPEG': 1,
              'mirrored, brighter, JPEG': 1}
    found = {kind: copies.recall(images, hashes, descriptors_ND, copies.KINDS[kind])
             for kind in floors}
    assert {kind: share for kind, share in found.items() if share < floors[kind]} == {}
