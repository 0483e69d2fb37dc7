"""Policies and image functions against torchvision, on photographs.

For an environment with torch and torchvision; it needs nothing of the rest but JAX:
``python -m pytest tests/reference``.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from imgjax.augment import color, filter, geometric, policy, tables
from tests import real

torch = pytest.importorskip('torch')
transforms = pytest.importorskip('torchvision.transforms')
functional = transforms.functional
autoaugment = transforms.autoaugment

HEIGHT, WIDTH = 64, 88
NAMES = {'Identity': 'identity', 'ShearX': 'shear_x', 'ShearY': 'shear_y',
         'TranslateX': 'translate_x', 'TranslateY': 'translate_y', 'Rotate': 'rotate',
         'Brightness': 'brightness', 'Color': 'color', 'Contrast': 'contrast',
         'Sharpness': 'sharpness', 'Posterize': 'posterize', 'Solarize': 'solarize',
         'AutoContrast': 'autocontrast', 'Equalize': 'equalize', 'Invert': 'invert'}
GEOMETRIC = ('shear_x', 'shear_y', 'translate_x', 'translate_y', 'rotate')


@pytest.fixture(scope='module')
def images():
    return real.photographs(3, HEIGHT, WIDTH)


def as_tensor(image):
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def as_array(tensor):
    return tensor.permute(1, 2, 0).numpy().astype(np.float64)


SPACES = [
    (tables.paper, autoaugment.RandAugment(), 31, (HEIGHT, WIDTH)),
    (tables.auto, autoaugment.AutoAugment(), 10, (HEIGHT, WIDTH)),
    (tables.wide, autoaugment.TrivialAugmentWide(), 31, None),
    (tables.mixing_chain_all, autoaugment.AugMix(), 10, (HEIGHT, WIDTH)),
    (tables.mixing_chain, autoaugment.AugMix(all_ops=False), 10, (HEIGHT, WIDTH)),
]


@pytest.mark.parametrize(('ours', 'theirs', 'bins', 'size'), SPACES)
def test_spaces(ours, theirs, bins, size):
    space = ours(HEIGHT, WIDTH)
    reference = theirs._augmentation_space(*((bins, size) if size else (bins,)))
    assert set(space) == {NAMES[name] for name in reference}
    for name, (magnitudes, signed) in reference.items():
        row = space[NAMES[name]]
        assert row.signed == signed
        if magnitudes.ndim:
            level = jnp.linspace(0.0, 1.0, bins)
            place = jnp.full(bins, list(space).index(NAMES[name]), jnp.int32)
            values = policy.values(space, place, level, jnp.ones(bins))
            expected = magnitudes.numpy().astype(np.float64)
            if NAMES[name].startswith('translate'):
                # Its _apply_op does that; 32 * 15 / 30 is a hair below 16 for it.
                expected = np.trunc(expected + 1e-4)
            np.testing.assert_allclose(values, expected, atol=2e-4)
            negative = policy.values(space, place, level, jnp.zeros(bins))
            np.testing.assert_array_equal(negative, -values if signed else values)


@pytest.mark.parametrize('name', tables.POLICIES)
def test_auto_augment_tables(name):
    theirs = autoaugment.AutoAugment(autoaugment.AutoAugmentPolicy(name)).policies
    named = tuple(tuple((NAMES[op], chance, level) for op, chance, level in row) for row in theirs)
    assert tables.POLICIES[name] == named


def test_operations(images):
    """Each operation of each space at three magnitudes and both signs."""
    cases = []
    for _, theirs, bins, size in SPACES:
        reference = theirs._augmentation_space(*((bins, size) if size else (bins,)))
        for op, (magnitudes, signed) in reference.items():
            chosen = magnitudes[[1, bins // 2, bins - 1]].tolist() if magnitudes.ndim else [0.0]
            signs = (1, -1) if signed else (1,)
            cases += [(op, sign * value) for value in chosen for sign in signs]
    cases = sorted(set(cases))
    names = tuple(NAMES.values())
    every = [(op, value, image) for op, value in cases for image in images]
    # Its shifts are made whole by the operation, ours by the table; it turns the other way round.
    value_N = [np.trunc(value) if op.startswith('Translate') else
               -value if op == 'Rotate' else value for op, value, _ in every]
    out = jax.jit(functools.partial(
        policy.transform, names=names, interpolation='nearest', fill=0.0))(
            jnp.stack([image for _, _, image in every]),
            op_N=jnp.asarray([names.index(NAMES[op]) for op, _, _ in every], jnp.int32),
            value_N=jnp.asarray(value_N, jnp.float32))
    for (op, value, image), ours in zip(every, np.asarray(out, np.float64), strict=True):
        # On Pillow's images: on tensors the gray of Color and Contrast is truncated as well. But
        # Pillow no longer takes 0 bits, which AugMix draws.
        bits = op == 'Posterize'
        theirs = autoaugment._apply_op(
            as_tensor(image) if bits else Image.fromarray(image), op, value,
            transforms.InterpolationMode.NEAREST, None)
        wrong = np.abs(ours - (as_array(theirs) if bits else np.asarray(theirs))).max(-1)
        if NAMES[op] in GEOMETRIC:
            # Nearest neighbours of places half way between two pixels are a matter of rounding.
            assert np.mean(wrong > 0) < 0.02, (op, value, np.mean(wrong > 0))
        else:
            assert wrong.max() <= 1, (op, value)


@pytest.mark.parametrize('interpolation', ('nearest', 'bilinear'))
def test_affine(interpolation, images):
    """Border and all, with fill 0: torchvision weighs another fill by the square of its share."""
    angles, shifts = (20.0, -75.0, 4.0), (5.0, 0.0, -11.5)
    out = jax.jit(functools.partial(geometric.affine, interpolation=interpolation, fill=0.0))(
        images.astype(np.float32), geometric.affine_matrix(
            HEIGHT, WIDTH, radians=np.radians(angles).astype(np.float32),
            right=np.float32(shifts), down=-np.float32(shifts)))
    for image, angle, shift, ours in zip(images, angles, shifts, out, strict=True):
        theirs = as_array(functional.affine(
            as_tensor(image).float(), angle, [shift, -shift], 1.0, [0.0, 0.0],
            interpolation=transforms.InterpolationMode(interpolation)))
        wrong = np.abs(ours - theirs).max(-1)
        assert np.mean(wrong > 0.1) < (0.01 if interpolation == 'nearest' else 1e-4)


def test_hue(images):
    turns = (-0.4, 0.1, 0.5)
    out = jax.jit(color.turn_hue)(images.astype(np.float32), jnp.float32(turns))
    for image, turn, ours in zip(images, turns, out, strict=True):
        theirs = as_array(functional.adjust_hue(as_tensor(image), turn))
        assert np.abs(ours - theirs).max() <= 1.0


@pytest.mark.parametrize('sigma', (0.3, 1.0, 2.0))
def test_blur(sigma, images):
    out = filter.blur(jnp.asarray(images, jnp.float32), jnp.full(3, sigma), radius=6)
    for image, ours in zip(images, out, strict=True):
        theirs = as_array(functional.gaussian_blur(as_tensor(image).float(), [13, 13], [sigma] * 2))
        np.testing.assert_allclose(ours, theirs, atol=0.02)
