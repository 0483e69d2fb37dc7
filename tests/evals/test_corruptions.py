"""The common corruptions: their arithmetic, their random numbers, and all kinds of images."""

import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from imgjax.errors import ConfigError, DataError
from imgjax.evals import corruption_fields, corruption_filters, corruption_jpeg, corruptions
from tests import real

KEY = jax.random.key(0)
UNCHANGED_GREY = ('saturate',)
RANDOM = ('gaussian_noise', 'shot_noise', 'impulse_noise', 'glass_blur', 'motion_blur', 'snow',
          'frost', 'fog', 'elastic_transform', 'speckle_noise', 'spatter')


@pytest.fixture(scope='module')
def photographs():
    """uint8 (3, 32, 32, 3)."""
    return real.photographs(3, 32, 32)


def corrupted(name, severity, images_NHWC, indices_N=None, key=KEY):
    return np.asarray(corruptions.corrupt(name, severity, images_NHWC, key, indices_N))


def test_names_are_those_of_imagenet_c():
    assert len(corruptions.COMMON) == 15 and len(corruptions.NAMES) == 19
    assert set(corruptions.CATEGORIES['extra']).isdisjoint(corruptions.COMMON)


@pytest.mark.parametrize('name', corruptions.NAMES)
def test_results_are_whole_levels_that_change_more_with_severity(name, photographs):
    changes = []
    for severity in corruptions.SEVERITIES:
        found = corrupted(name, severity, photographs)
        assert found.dtype == np.float32 and found.shape == photographs.shape
        assert (found == np.round(found)).all() and found.min() >= 0 and found.max() <= 255
        changes.append(np.abs(found - photographs).mean())
    assert min(changes) > 0.1
    if name not in ('spatter', 'saturate', 'elastic_transform'):  # other kinds, not more of one
        assert changes[4] > 1.2 * changes[0]


@pytest.mark.parametrize('name', corruptions.NAMES)
def test_random_numbers_are_those_of_the_image_not_of_its_chunk(name, photographs):
    whole = corrupted(name, 4, photographs, np.array([5, 6, 7]))
    part = corrupted(name, 4, photographs, np.array([6, 6, 6]))
    np.testing.assert_array_equal(whole[1], part[1])
    same = np.stack([photographs[0]] * 3)
    first, second, third = corrupted(name, 4, same, np.array([5, 6, 5]))
    np.testing.assert_array_equal(first, third)
    assert (np.abs(first - second).max() > 0) == (name in RANDOM)


@pytest.mark.parametrize('name', corruptions.NAMES)
@pytest.mark.parametrize('shape', [(2, 8, 8, 1), (2, 9, 13, 3)])
def test_small_grey_and_oblong_images(name, shape):
    images = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    found = [corrupted(name, severity, images) for severity in (1, 5)]
    assert all(one.shape == shape and np.isfinite(one).all() for one in found)
    if shape[3] == 3 or name not in UNCHANGED_GREY:
        assert np.abs(found[1] - images).mean() > 0.5
    else:
        np.testing.assert_array_equal(found[1], images)


@pytest.mark.parametrize('name', ['defocus_blur', 'contrast', 'pixelate', 'jpeg_compression',
                                  'zoom_blur', 'brightness', 'gaussian_blur'])
def test_grey_images_are_those_with_three_equal_channels(name, photographs):
    grey = photographs[..., 1:2]
    alone = corrupted(name, 3, grey)
    three = corrupted(name, 3, np.repeat(grey, 3, axis=3))
    assert np.abs(alone - three).max() <= 1


def test_black_and_white_images_stay_finite():
    images = np.zeros((2, 16, 16, 3), np.uint8)
    images[1] = 255
    for name in corruptions.NAMES:
        assert np.isfinite(corrupted(name, 5, images)).all(), name


def test_floats_are_rounded_and_the_severity_may_be_traced(photographs):
    floats = photographs.astype(np.float32) + np.float32(0.25)
    traced = jax.jit(lambda severity: corruptions.corrupt(
        'contrast', severity, floats, KEY))(jnp.int32(2))
    np.testing.assert_array_equal(traced, corrupted('contrast', 2, photographs))


@pytest.mark.parametrize('name, severity, images, error, words', [
    ('fogg', 1, np.zeros((1, 8, 8, 3), np.uint8), ConfigError, "did you mean 'fog'"),
    ('fog', 0, np.zeros((1, 8, 8, 3), np.uint8), ConfigError, 'severity: 0'),
    ('fog', 1, np.zeros((1, 7, 8, 3), np.uint8), DataError, '8 x 8 pixels'),
    ('fog', 1, np.zeros((8, 8, 3), np.uint8), DataError, 'shape'),
    ('fog', 1, np.zeros((1, 8, 8, 4), np.uint8), DataError, '1 or 3 channels'),
    ('fog', 1, np.zeros((1, 8, 8, 3), np.int32), DataError, 'int32')])
def test_errors_name_the_field(name, severity, images, error, words):
    with pytest.raises(error, match=words):
        corruptions.corrupt(name, severity, images, KEY)


def test_noise_has_the_distribution_of_its_constants():
    grey = np.full((1, 128, 128, 3), 102, np.uint8)  # 0.4
    noise = corrupted('gaussian_noise', 1, grey) - 102  # of ImageNet-C: 0.08
    assert noise.std() == pytest.approx(0.08 * 255, rel=0.02)
    assert noise.mean() == pytest.approx(-0.5, abs=0.4)  # fractions are cut off
    shots = corrupted('shot_noise', 5, grey)  # Poisson with the mean 0.4 * 3, in steps of 1 / 3
    assert set(np.unique(shots)) == {0, 85, 170, 255}
    from scipy import stats
    for count in range(3):
        assert (shots == 85 * count).mean() == pytest.approx(stats.poisson.pmf(count, 1.2), abs=.01)
    impulse = corrupted('impulse_noise', 5, grey)
    assert (impulse == 0).mean() == pytest.approx(0.135, abs=0.01)
    assert (impulse == 255).mean() == pytest.approx(0.135, abs=0.01)


def test_shot_noise_at_many_photons_is_poisson(photographs):
    grey = np.full((4, 64, 64, 3), 255, np.uint8)
    counts = corrupted('shot_noise', 1, grey // 2) / 255 * 500  # CIFAR's constant
    assert counts.mean() == pytest.approx(127 / 255 * 500 - 1, rel=0.01)
    assert counts.var() == pytest.approx(127 / 255 * 500, rel=0.05)


@pytest.mark.parametrize('mode, shape', [('RGB', (48, 32)), ('RGB', (37, 51)), ('L', (24, 24))])
@pytest.mark.parametrize('quality', [10, 40, 80])
def test_jpeg_loses_what_pillow_loses(mode, shape, quality):
    image = real.photographs(1, *shape)[0]
    image = image if mode == 'RGB' else image[..., 1]
    file = io.BytesIO()
    Image.fromarray(image).save(file, 'JPEG', quality=quality)
    theirs = np.asarray(Image.open(file)).reshape(*shape, -1)
    steps = jnp.asarray(corruption_jpeg.tables(quality), jnp.float32)
    ours = np.asarray(corruption_jpeg.jpeg(jnp.asarray(image.reshape(1, *shape, -1), jnp.float32),
                                           steps))[0]
    # A few of the coefficients beside the middle of two steps fall on the other one.
    assert np.abs(ours - theirs).mean() < 0.6
    lost, theirs_lost = (np.abs(found - image.reshape(found.shape).astype(np.float32)).mean()
                         for found in (ours, theirs))
    assert lost > 1 and lost == pytest.approx(theirs_lost, rel=0.03)


def one_by_one(height, width, most, moves_PT2):
    """Returns the source of each pixel when they are passed one after the other."""
    source = np.arange(height * width)
    for moves_P2 in moves_PT2:
        for row in range(height - most, most, -1):
            for column in range(width - most, most, -1):
                right, down = moves_P2[row * width + column]
                source[row * width + column] = source[(row + down) * width + column + right]
    return source


@pytest.mark.parametrize('most, times', [(1, 2), (2, 3), (4, 2)])
def test_glass_blur_displaces_as_one_pixel_after_the_other(most, times):
    height, width = 24, 17
    unit_T2P = np.random.default_rng(most).random((times, 2, height * width), np.float32)
    moves_TP2 = np.floor(unit_T2P * (2 * most)).astype(int).swapaxes(1, 2) - most
    found = corruption_filters.displaced(
        lambda time: jnp.asarray(unit_T2P)[time][None], height, width, jnp.int32(most),
        jnp.int32(times))
    np.testing.assert_array_equal(found[0], one_by_one(height, width, most, moves_TP2))


def test_gaussian_is_that_of_scipy():
    from scipy import ndimage
    images = np.random.default_rng(0).normal(size=(2, 20, 15, 3)).astype(np.float32)
    for border, mode in (('edge', 'nearest'), ('symmetric', 'reflect')):
        ours = corruption_filters.gaussian(images, (jnp.float32(1.3), jnp.float32(0.6)), (2, 2),
                                           border)
        theirs = ndimage.gaussian_filter(images, (0, 1.3, 0.6, 0), mode=mode)
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_a_trail_goes_one_way():
    images = np.zeros((2, 15, 15, 1), np.float32)
    images[:, 7, 7] = 1
    found = np.asarray(corruption_filters.trail(images, jnp.int32(2), jnp.float32(2),
                                                jnp.float32([0, 90]), 3))[..., 0]
    weights = np.exp(-0.5 * (np.arange(5) / 2) ** 2)
    np.testing.assert_allclose(found[0, 7, 7:2:-1], weights / weights.sum(), rtol=1e-5)
    np.testing.assert_allclose(found[1, 7:2:-1, 7], weights / weights.sum(), rtol=1e-5)
    np.testing.assert_allclose(found.sum(axis=(1, 2)), 1, rtol=1e-5)


def test_plasma_is_rougher_with_a_slower_decay():
    keys_N = jax.random.split(KEY, 4)
    smooth, rough = (np.asarray(corruption_fields.plasma(keys_N, 20, 30, jnp.float32(decay)))
                     for decay in (3.0, 1.4))
    assert smooth.shape == (4, 20, 30) and smooth.min() >= 0 and smooth.max() <= 1
    steps = [np.abs(np.diff(field, axis=2)).mean() for field in (smooth, rough)]
    assert steps[1] > 2 * steps[0]


def test_frost_has_the_mean_and_the_variance_of_the_photographs():
    ice = np.asarray(corruption_fields.frost(jax.random.split(KEY, 200), 32, 32, 1.0))
    np.testing.assert_allclose(ice.mean(axis=(0, 1, 2)),
                               corruption_fields.FROST[:, 0].mean(axis=0), atol=12)
    within = ice.std(axis=(1, 2)).mean(axis=0)
    np.testing.assert_allclose(within, corruption_fields.FROST[:, 2].mean(axis=0), rtol=0.12)


def test_water_is_only_where_there_is_liquid():
    liquid = np.zeros((2, 40, 40), np.float32)
    liquid[0, 10:22, 15:30] = 0.7
    water = np.asarray(corruption_fields.water(jnp.asarray(liquid)))
    assert water[0].max() == 1 and (water[0][liquid[0] == 0] == 0).all()
    assert (water[1] == 0).all()
