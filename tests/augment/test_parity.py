"""The plain image functions against Pillow and scipy, on photographs."""

import colorsys
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
from PIL import Image, ImageEnhance, ImageOps

from imgjax.augment import boxes, color, filter, geometric, mix, policy, tables, tone
from tests import real

HEIGHT, WIDTH, FILL = 64, 88, 37
CHANGES = (-0.9, 0.37, 0.99)
GEOMETRIC = ('shear_x', 'shear_y', 'translate_x', 'translate_y', 'rotate')


def warped(image, *coefficients):
    return image.transform(image.size, Image.AFFINE, coefficients, Image.NEAREST,
                           fillcolor=(FILL,) * 3)


def sum_below(image, amount):
    return image.point([min(i + int(amount), 255) if i < 128 else i for i in range(256)] * 3)


# Operation -> values, Pillow's version. Values as policy.transform takes them.
PILLOW = {
    'identity': ((0.0,), lambda image, v: image),
    'shear_x': ((0.3, -0.99), lambda image, v: warped(image, 1, v, 0, 0, 1, 0)),
    'shear_y': ((0.21, -0.3), lambda image, v: warped(image, 1, 0, 0, v, 1, 0)),
    'translate_x': ((13.0, -7.3), lambda image, v: warped(image, 1, 0, -v, 0, 1, 0)),
    'translate_y': ((-13.0, 7.3), lambda image, v: warped(image, 1, 0, 0, 0, 1, -v)),
    'rotate': ((30.0, -107.0), lambda image, v: image.rotate(-v, fillcolor=(FILL,) * 3)),
    'brightness': (CHANGES, lambda image, v: ImageEnhance.Brightness(image).enhance(1 + v)),
    'color': (CHANGES, lambda image, v: ImageEnhance.Color(image).enhance(1 + v)),
    'contrast': (CHANGES, lambda image, v: ImageEnhance.Contrast(image).enhance(1 + v)),
    'sharpness': (CHANGES, lambda image, v: ImageEnhance.Sharpness(image).enhance(1 + v)),
    'posterize': ((1, 4, 7, 8), lambda image, v: ImageOps.posterize(image, int(v))),
    'solarize': ((0, 77, 128, 255, 256), lambda image, v: ImageOps.solarize(image, v)),
    'solarize_add': ((0, 33, 110), sum_below),
    'autocontrast': ((0.0,), lambda image, v: ImageOps.autocontrast(image)),
    'equalize': ((0.0,), lambda image, v: ImageOps.equalize(image)),
    'invert': ((0.0,), lambda image, v: ImageOps.invert(image)),
}
CASES = [(name, value) for name, (values, _) in PILLOW.items() for value in values]
EXACT = ('identity', 'posterize', 'solarize', 'solarize_add', 'equalize', 'invert')


@pytest.fixture(scope='module')
def images():
    """Photographs, one of them dark and flat, one of two values only."""
    bytes_NHWC = real.photographs(4, HEIGHT, WIDTH).copy()
    bytes_NHWC[2] = bytes_NHWC[2] // 3 + 20
    bytes_NHWC[3] = np.where(bytes_NHWC[3] > 99, 180, 60)
    return bytes_NHWC


def close(ours, pillow, name, value):
    """Within one level: Pillow truncates where we round."""
    wrong = np.abs(np.asarray(ours, np.float64) - np.asarray(pillow)).max(-1)
    limit = 0.01 if name in EXACT else 1.0 + 1e-3
    if name in GEOMETRIC:
        # Pillow steps along a row in units of 2^-16 pixel, which decides between two neighbours
        # otherwise where a place falls next to the border of a pixel.
        assert np.mean(wrong > 0) < 0.01, (name, value)
    else:
        assert wrong.max() <= limit, (name, value, wrong.max())


def test_every_operation_of_a_policy_against_pillow(images):
    names = tuple(PILLOW)
    every = [(name, value, image) for name, value in CASES for image in images]
    out = jax.jit(functools.partial(
        policy.transform, names=names, interpolation='nearest', fill=float(FILL)))(
            jnp.stack([image for _, _, image in every]),
            op_N=jnp.asarray([names.index(name) for name, _, _ in every], jnp.int32),
            value_N=jnp.asarray([value for _, value, _ in every], jnp.float32))
    assert out.dtype == jnp.uint8
    for ours, (name, value, image) in zip(out, every, strict=True):
        close(ours, PILLOW[name][1](Image.fromarray(image), value), name, value)


PLAIN = {
    'brightness': lambda x, v: color.brighten(x, 1.0 + v),
    'color': lambda x, v: color.saturate(x, 1.0 + v),
    'contrast': lambda x, v: color.change_contrast(x, 1.0 + v, color.mean_luma(x)),
    'sharpness': lambda x, v: filter.sharpen(x, 1.0 + v),
    'posterize': tone.keep_bits,
    'solarize': tone.invert_above,
    'autocontrast': lambda x, v: tone.stretch(x, *tone.extremes(x)),
}


def test_posterize_to_no_bit_is_black(images):
    """Pillow no longer takes it; timm and AugMix draw it."""
    assert not tone.keep_bits(images.astype(np.float32), jnp.zeros(4)).any()


def test_plain_functions_against_pillow(images):
    """In float, so that what Pillow truncates differs by less than a level, and its gray by half
    of one more."""
    cases = [(name, value) for name, value in CASES if name in PLAIN]

    @jax.jit
    def all_of_them(images_NHWC):
        return [PLAIN[name](images_NHWC, jnp.full(4, value, jnp.float32)) for name, value in cases]

    for (name, value), out in zip(cases, all_of_them(images.astype(np.float32)), strict=True):
        for ours, image in zip(out, images, strict=True):
            reference = PILLOW[name][1](Image.fromarray(image), value)
            wrong = np.abs(np.asarray(ours) - np.asarray(reference))
            assert wrong.max() <= (0.01 if name in EXACT else 1.5), (name, value, wrong.max())


@pytest.mark.parametrize('interpolation', ('nearest', 'bilinear'))
def test_affine_against_pillow(interpolation, images):
    rng = np.random.default_rng(0)
    draws = rng.uniform(-1, 1, (5, 4)).astype(np.float32)
    matrix_N23 = np.asarray(geometric.affine_matrix(
        HEIGHT, WIDTH, radians=draws[0], shear_x=draws[1] * 0.3, shear_y=draws[2] * 0.3,
        right=draws[3] * 20, down=draws[4] * 20))
    out = jax.jit(functools.partial(
        geometric.affine, interpolation=interpolation, fill=float(FILL)))(
            images.astype(np.float32), matrix_N23[:4])
    method = Image.NEAREST if interpolation == 'nearest' else Image.BILINEAR
    for image, matrix_23, ours in zip(images, matrix_N23, out, strict=True):
        reference = np.asarray(Image.fromarray(image).transform(
            (WIDTH, HEIGHT), Image.AFFINE, matrix_23.ravel().tolist(), method,
            fillcolor=(FILL,) * 3))
        wrong_HW = np.abs(np.asarray(ours) - reference).max(-1)
        if interpolation == 'nearest':
            assert np.mean(wrong_HW > 0) < 0.01
            continue
        # On the outermost pixel of the source we run into the fill, while Pillow repeats it.
        x_HW, y_HW = (row[0] * (np.arange(WIDTH) + 0.5)[None] + row[2]
                      + row[1] * (np.arange(HEIGHT) + 0.5)[:, None] for row in matrix_23)
        depth_HW = np.minimum.reduce([x_HW, y_HW, WIDTH - x_HW, HEIGHT - y_HW])
        away_HW = np.abs(depth_HW) > 0.51
        assert away_HW.mean() > 0.9 and 0.1 < (depth_HW > 0).mean() < 1
        assert wrong_HW[away_HW].max() <= 1.01


def test_hue_against_colorsys(images):
    turns = (-0.5, -0.13, 0.0, 0.31)
    out = np.asarray(jax.jit(color.turn_hue)(images.astype(np.float32), jnp.float32(turns)))
    assert np.array_equal(out[2], images[2])
    for image, turn, ours in zip(images, turns, out, strict=True):
        for y, x in np.random.default_rng(0).integers(0, HEIGHT, (300, 2)):
            hue, saturation, value = colorsys.rgb_to_hsv(*(image[y, x] / 255))
            rgb = colorsys.hsv_to_rgb((hue + turn) % 1, saturation, value)
            np.testing.assert_allclose(ours[y, x], np.multiply(rgb, 255), atol=0.01)


def test_luma_against_pillow(images):
    for ours, image in zip(color.luma(images.astype(np.float32)), images, strict=True):
        reference = np.asarray(Image.fromarray(image).convert('L'))
        assert np.abs(np.asarray(ours)[..., 0] - reference).max() <= 0.51


def test_blur_against_scipy(images):
    sigmas = (0.1, 0.7, 1.3, 2.0)
    out = jax.jit(functools.partial(filter.blur, radius=6))(
        images.astype(np.float32), jnp.float32(sigmas))
    for image, sigma, ours in zip(images, sigmas, out, strict=True):
        reference = scipy.ndimage.gaussian_filter(
            image.astype(np.float64), (sigma, sigma, 0), mode='mirror', radius=(6, 6, 0))
        np.testing.assert_allclose(ours, reference, atol=0.01)


@pytest.mark.parametrize('method', ('bilinear', 'bicubic'))
def test_enlarge_against_pillow(method, images):
    box_N4 = np.float32([[0, 0, HEIGHT, WIDTH], [10, 5, 20, 30], [0, 40, 40, 48], [3, 7, 61, 9]])
    out = jax.jit(functools.partial(boxes.enlarge, method=method))(
        images.astype(np.float32), box_N4)
    out = np.asarray(out)
    assert np.array_equal(out[0], images[0])
    for image, (top, left, high, wide), ours in zip(images, box_N4, out, strict=True):
        reference = Image.fromarray(image).resize(
            (WIDTH, HEIGHT), getattr(Image, method.upper()),
            box=(left, top, left + wide, top + high))
        # Pillow rounds once between its two passes.
        assert np.abs(ours - np.asarray(reference)).max() <= 2


def test_resize_mix_pastes_what_pillow_resizes(images):
    out, targets_NK = jax.jit(functools.partial(mix.resize_mix, min_scale=0.4, max_scale=0.6))(
        jax.random.key(1), images.astype(np.float32), jnp.eye(4), jnp.float32(1))
    pasted_HW = (np.asarray(out) != images).any((0, 3))
    rows, columns = np.flatnonzero(pasted_HW.any(1)), np.flatnonzero(pasted_HW.any(0))
    size = columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1
    assert 0.4 * WIDTH - 1 <= size[0] <= 0.6 * WIDTH
    share = size[0] * size[1] / (WIDTH * HEIGHT)
    np.testing.assert_allclose(
        targets_NK, (1 - share) * np.eye(4) + share * np.roll(np.eye(4), 1, 0), atol=1e-6)
    for i in range(4):
        reference = Image.fromarray(images[i - 1]).resize(size, Image.BILINEAR)
        ours = np.asarray(out)[i][rows[0]:rows[-1] + 1, columns[0]:columns[-1] + 1]
        assert np.abs(ours - np.asarray(reference)).max() <= 2


@pytest.mark.parametrize('space', (*tables.SPACES.values(), tables.auto, tables.wide,
                                   tables.mixing_chain_all))
def test_spaces_hold_what_transform_knows(space):
    assert set(space(32, 32)) <= set(PILLOW)
