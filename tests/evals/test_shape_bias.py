"""Shape against texture: which cue each kind of image keeps, and what is counted."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imgjax.errors import ConfigError, DataError
from imgjax.evals import shape_bias
from imgjax.evals.intervals import wilson


def images(count=12, side=16, channels=3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, side, side, channels)).astype(np.uint8)


def as_float(images_NHWC) -> jax.Array:
    return jnp.asarray(images_NHWC, jnp.float32)


def test_a_conflict_has_the_phase_of_one_image_and_the_amplitude_of_the_other():
    rng = np.random.default_rng(1)
    shape, texture = (as_float(120 + 10 * rng.normal(size=(2, 12, 10, 3))) for _ in range(2))
    mixed = np.asarray(shape_bias.with_amplitude(shape, texture))  # nothing is cut off
    assert 0 < mixed.min() and mixed.max() < 255
    spectra = [np.fft.fft2(np.asarray(x, np.float64), axes=(1, 2)) for x in (mixed, shape, texture)]
    np.testing.assert_allclose(np.abs(spectra[0]), np.abs(spectra[2]), rtol=1e-2, atol=0.05)
    turned = spectra[0] * np.conj(spectra[1]) / np.abs(spectra[0] * spectra[1])
    np.testing.assert_allclose(turned, 1, atol=0.02)


def test_partners_are_of_another_class_and_drawn_evenly():
    labels_N = np.random.default_rng(2).permutation(np.repeat([0, 3, 7], [4, 10, 6]))
    drawn = np.stack([shape_bias.partners(labels_N, seed) for seed in range(600)])
    assert (labels_N[drawn] != labels_N).all()
    for image, label in enumerate(labels_N):
        counts = np.bincount(drawn[:, image], minlength=20)[labels_N != label]
        expected = 600 / len(counts)
        assert counts.min() > expected - 5 * expected**0.5
        assert counts.max() < expected + 5 * expected**0.5
    np.testing.assert_array_equal(drawn[5], shape_bias.partners(labels_N, 5))


def test_the_bias_counts_answers_that_name_one_of_the_two():
    shapes, textures = np.array([0, 0, 1, 1, 2, 2]), np.array([1, 1, 0, 0, 0, 2])
    found = shape_bias.bias_of(np.array([0, 0, 1, 0, 3, 2]), shapes, textures)
    low, high = wilson(3, 4)
    assert found == {'images': 5, 'shape': 3, 'texture': 1, 'neither': 1, 'shape_bias': 0.75,
                     'low': low, 'high': high}
    nothing = shape_bias.bias_of(np.array([5]), np.array([0]), np.array([1]))
    assert nothing['shape_bias'] is None and nothing['neither'] == 1


@pytest.mark.parametrize(('name', 'cues'), [
    ('cat1-truck3.png', ('cat', 'truck')), ('set/cat/cat10-elephant2.png', ('cat', 'elephant')),
    ('knife-oven.png', ('knife', 'oven')), ('n01440764_18.JPEG', None), ('12-34.png', None),
])
def test_names_of_files_give_both_classes(name, cues):
    assert shape_bias.cues_of_name(name) == cues


def test_a_model_that_reads_the_mean_colour_follows_the_texture():
    # The mean colour is the amplitude of the frequency 0, hence a part of the texture.
    rng = np.random.default_rng(3)
    labels_N = np.arange(20) % 2
    bright_N = np.where(labels_N, 160, 90)[:, None, None, None]
    pictures = np.clip(bright_N + rng.normal(0, 10, (20, 16, 16, 1)), 0, 255).astype(np.float32)

    def by_brightness(x_NHWC):
        mean_N = x_NHWC.mean((1, 2, 3))
        return jnp.stack([125 - mean_N, mean_N - 125], axis=1)

    found = shape_bias.measure(by_brightness, pictures, labels_N)
    json.dumps(found, allow_nan=False)
    assert found['clean']['accuracy'] == 1
    assert found['conflict']['texture'] == found['conflict']['images'] == 20
    assert found['conflict']['shape_bias'] == 0
    assert all(row['accuracy'] == 1 for row in found['shuffled'] + found['low_pass'])
    assert found['edges']['accuracy'] == 0.5
    assert found['notes'] == ['8, 16, 32 cycles per side are left out: they are more than half the '
                              'pixels on 16 pixels.']


def test_only_pairs_that_are_answered_right_count():
    labels_N = np.array([0, 0, 1, 1])
    pictures = np.full((4, 8, 8, 1), 100, np.uint8)
    pictures[2:] = 150
    pictures[1] = 150  # is answered wrong
    found = shape_bias.measure(lambda x: jnp.stack(
        [125 - x.mean((1, 2, 3)), x.mean((1, 2, 3)) - 125], axis=1), pictures, labels_N)
    right = np.array([True, False, True, True])
    chosen = right & right[shape_bias.partners(labels_N, 0)]
    assert found['conflict']['images'] == chosen.sum() and found['conflict']['pairs'] == 4


@pytest.mark.parametrize('grid', [2, 4, 3])
def test_shuffled_patches_are_the_same_patches(grid):
    given = images()
    found = np.asarray(shape_bias.shuffled(jax.random.key(0), as_float(given), jnp.arange(12),
                                           grid))
    side = 16 // grid

    def patches(image_HWC):
        return sorted(image_HWC[y * side:(y + 1) * side, x * side:(x + 1) * side].tobytes()
                      for y in range(grid) for x in range(grid))

    for one, other in zip(given, found.astype(np.uint8), strict=True):
        assert patches(one) == patches(other)
    assert (found != given).any((1, 2, 3)).mean() > 0.8
    np.testing.assert_array_equal(found[:, side * grid:], given[:, side * grid:])


def test_the_order_of_patches_is_that_of_the_image_and_not_of_the_chunk():
    given = as_float(images())
    key = jax.random.key(1)
    whole = shape_bias.shuffled(key, given, jnp.arange(12), 4)
    part = shape_bias.shuffled(key, given[5:7], jnp.arange(5, 7), 4)
    np.testing.assert_array_equal(whole[5:7], part)


def test_low_and_high_frequencies_are_split_at_the_cutoff():
    x_W = (np.arange(64) + 0.5) / 64
    slow, fast = np.cos(2 * np.pi * x_W), np.cos(2 * np.pi * 16 * x_W)
    given = as_float((120 + 50 * slow + 50 * fast)[None, None, :, None] + np.zeros((1, 64, 1, 1)))
    low = np.asarray(shape_bias.low_pass(given, jnp.float32(4)))[0, 20, :, 0]
    weight = np.exp(-((1 / 4) ** 2) / 2), np.exp(-((16 / 4) ** 2) / 2)
    np.testing.assert_allclose(low, 120 + 50 * weight[0] * slow + 50 * weight[1] * fast, atol=0.01)
    high = np.asarray(shape_bias.high_pass(given, jnp.float32(4)))[0, 20, :, 0]
    np.testing.assert_allclose(high, np.asarray(given)[0, 20, :, 0] - low + 120, atol=0.01)


def test_edges_are_dark_where_the_picture_changes():
    given = np.zeros((1, 8, 8, 3), np.float32)
    given[:, :, 4:] = 200
    found = np.asarray(shape_bias.edges(as_float(given)))[0]
    np.testing.assert_allclose(found[:, [3, 4]], 0, atol=0.01)
    np.testing.assert_allclose(found[:, [0, 1, 2, 5, 6, 7]], 255, atol=0.01)
    np.testing.assert_allclose(np.asarray(shape_bias.edges(as_float(given * 0))), 255)


def test_one_class_has_no_conflict_and_the_note_says_so():
    found = shape_bias.measure(lambda x: x.mean((1, 3))[:, :2], images(3), np.ones(3, int))
    assert found['conflict'] is None and 'all images have one class' in found['notes'][-1]


@pytest.mark.parametrize(('call', 'error', 'line'), [
    (lambda: shape_bias.measure(jnp.sin, images(2), np.arange(2), grids=(1,)), ConfigError,
     r'grids: \[1\]'),
    (lambda: shape_bias.measure(jnp.sin, images(2), np.arange(2), cutoffs=(0,)), ConfigError,
     'cutoffs above 0'),
    (lambda: shape_bias.measure(jnp.sin, images(2), np.arange(3)), DataError, 'for 2 images'),
    (lambda: shape_bias.partners(np.zeros(3, int), 0), DataError, 'all images have one class'),
    (lambda: shape_bias.bias_of(np.arange(3), np.arange(3), np.arange(2)), DataError,
     'textures_N: shape'),
])
def test_what_does_not_fit_is_one_line(call, error, line):
    with pytest.raises(error, match=line) as raised:
        call()
    assert '\n' not in str(raised.value)
