"""What the operations draw: which, how often, how much, how large."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imgjax import augment
from imgjax.augment import boxes, color, policy, tables
from tests import real

COPIES = 256


@pytest.fixture(scope='module')
def copies():
    """One photograph at every place of a batch: 16x20x3."""
    return jnp.asarray(np.repeat(real.photographs(1, 16, 20), COPIES, 0), jnp.float32)


def run(name, images_NHWC, strength, seed=0, **options):
    targets_NK = jnp.eye(len(images_NHWC))
    return jax.jit(lambda strength: augment.apply(
        [[name, options]], jax.random.key(seed), images_NHWC, targets_NK, {name: strength}))(
            jnp.float32(strength))


def transformed(images_NHWC, names, ops, values):
    out = jax.jit(functools.partial(
        policy.transform, names=names, interpolation='nearest', fill=0.0))(
            jnp.asarray(images_NHWC, jnp.uint8), op_N=jnp.asarray(ops, jnp.int32),
            value_N=jnp.asarray(values, jnp.float32))
    return np.asarray(out, np.float32)


def test_rand_augment_draws_each_operation_at_its_magnitude(copies):
    out = np.asarray(run('rand_augment', copies, 7.0, num_ops=1)[0])
    space = tables.paper(16, 20)
    candidates = [(i, unit) for i, row in enumerate(space.values())
                  for unit in ((0.0, 0.9) if row.signed else (0.9,))]
    place = jnp.asarray([i for i, _ in candidates], jnp.int32)
    values = policy.values(space, place, jnp.full(len(candidates), 0.7),
                           jnp.asarray([unit for _, unit in candidates], jnp.float32))
    expected = transformed(copies[:len(candidates)], tuple(space), place, values)
    seen = [np.flatnonzero(np.abs(expected - image).max((1, 2, 3)) == 0) for image in out]
    assert all(len(which) for which in seen)
    counts = np.bincount([which[0] for which in seen], minlength=len(candidates))
    assert (counts > 0).sum() >= len(candidates) - 1  # two of them may look the same
    assert counts.max() < COPIES / 14 * 2.2


def test_auto_augment_follows_its_table(copies):
    out = np.asarray(run('auto_augment', copies, 1.0, policy='cifar10')[0])
    space = tables.auto(16, 20)
    names = tuple(space)
    chains = set()
    for row in tables.POLICIES['cifar10']:
        both = []
        for name, chance, level in row:
            value = float(policy.values(space, jnp.int32([names.index(name)]),
                                        jnp.float32([(level or 0) / 9]), jnp.ones(1))[0])
            signs = (value, -value) if space[name].signed else (value,)
            both.append([(names.index(name), v) for v in signs if chance > 0]
                        + ([(-1, 0.0)] if chance < 1 else []))
        chains |= set(itertools.product(*both))
    chains = sorted(chains)
    images = np.repeat(np.asarray(copies[:1]), len(chains), 0)
    for place in range(2):
        images = transformed(images, names, [chain[place][0] for chain in chains],
                             [chain[place][1] for chain in chains])
    seen = [np.flatnonzero(np.abs(images - image).max((1, 2, 3)) == 0) for image in out]
    assert all(len(which) for which in seen)
    assert len({which[0] for which in seen}) > 40


def test_timm_spaces():
    """Values of timm's own level functions at magnitude 9."""
    def at_nine(space):
        names = list(space)
        values = policy.values(space, jnp.arange(len(names)), jnp.full(len(names), 0.9),
                               jnp.ones(len(names)))
        return dict(zip(names, values.tolist(), strict=True))

    plain, more = at_nine(tables.timm(100, 200)), at_nine(tables.timm_increasing(100, 200))
    assert plain['posterize'] == 3 and more['posterize'] == 1  # 4 - 3
    assert plain['solarize'] == 230 and more['solarize'] == 26
    assert plain['solarize_add'] == more['solarize_add'] == 99
    assert plain['color'] == pytest.approx(0.72) and more['color'] == pytest.approx(0.81)
    assert plain['translate_x'] == pytest.approx(81) and plain['rotate'] == pytest.approx(27)


@pytest.mark.parametrize('alpha', (1.0, 0.4))
def test_dirichlet(alpha):
    weight_NW = jax.jit(lambda key: policy._dirichlet(key, 4000, 3, alpha))(jax.random.key(0))
    np.testing.assert_allclose(weight_NW.sum(1), 1, rtol=1e-5)
    np.testing.assert_allclose(weight_NW.mean(0), 1 / 3, atol=0.02)
    np.testing.assert_allclose(weight_NW.var(0), 2 / 9 / (3 * alpha + 1), rtol=0.1)


@pytest.mark.parametrize('name', ('grayscale', 'invert', 'random_erasing', 'three_augment'))
def test_strength_is_the_probability(name, copies):
    changed = [np.any(image != copies[0]) for image in np.asarray(run(name, copies, 0.3)[0])]
    assert 0.2 < np.mean(changed) < 0.4


def test_random_boxes_keep_to_their_limits():
    box_N4, fits_N = boxes.random_boxes(
        jax.random.key(0), (4000, 50, 80, 3), 0.1, 0.5, np.log(2.0), proper=True)
    top, left, high, wide = np.asarray(box_N4)[np.asarray(fits_N)].T
    assert fits_N.mean() > 0.99
    assert top.min() == 0 and left.min() == 0
    assert (top + high).max() == 50 and (left + wide).max() == 80
    area, ratio = high * wide / 4000, (wide / 80) / (high / 50)
    assert 0.09 < area.min() < 0.12 and 0.46 < area.max() < 0.52
    assert 0.45 < ratio.min() < 0.55 and 1.8 < ratio.max() < 2.2


def test_random_resized_crop_narrows_with_strength(copies):
    ramp_NHWC = jnp.broadcast_to(jnp.linspace(0, 255, 64)[None, None, :, None], (COPIES, 64, 64, 1))
    for strength, least in ((0.5, 0.54), (1.0, 0.08)):
        out = np.asarray(run('random_resized_crop', ramp_NHWC, strength)[0])
        width = np.ptp(out[:, 0, :, 0], axis=1) / 255
        assert width.min() > np.sqrt(least * 0.75) - 0.05 and width.min() < np.sqrt(least) + 0.1


def test_cutout_paints_squares(copies):
    out = np.asarray(run('cutout', copies * 0 + 1, 0.5, size=10)[0])
    painted = (out == 0).all(-1).sum((1, 2))
    assert painted.max() == 25 and painted.min() >= 4


def test_color_jitter_keeps_to_its_ranges():
    gray_NHWC = jnp.full((COPIES, 2, 2, 3), 100.0)
    out = np.asarray(run('color_jitter', gray_NHWC, 0.5, brightness=0.6, hue=0.0)[0])
    assert 70 <= out.min() < 75 and 125 < out.max() <= 130.001


def test_color_jitter_does_not_do_without_an_order(copies):
    """Contrast then brightness differs from brightness then contrast."""
    strong = functools.partial(
        color.color_jitter, brightness=0.9, contrast=0.9, saturation=0.0, hue=0.0)
    out = np.asarray(jax.jit(strong)(jax.random.key(0), copies, jnp.float32(1)))
    # Contrast last keeps the mean of the image it gets; brightness last makes black what was black.
    assert len(np.unique(out.mean((1, 2, 3)).round(2))) > COPIES / 2


@pytest.mark.parametrize('name', ('cutmix', 'mixup', 'mixup_or_cutmix', 'resize_mix'))
def test_mixing_is_linear_in_the_targets(name, copies):
    """Several labels and a last column that says whether an example is real."""
    images_NHWC = jnp.asarray(np.random.default_rng(0).uniform(0, 255, (8, 6, 6, 1)), jnp.float32)
    labels_NK = np.float32(np.random.default_rng(1).integers(0, 2, (8, 5)))
    labels_NK[5:, -1] = 0

    def mixed(targets_NK):
        return augment.apply([[name, {}]], jax.random.key(3), images_NHWC, targets_NK, {name: 1.0})

    ours, share = jax.jit(lambda: (mixed(jnp.asarray(labels_NK))[1], mixed(jnp.eye(8))[1][0, 0]))()
    np.testing.assert_allclose(
        ours, share * labels_NK + (1 - share) * np.roll(labels_NK, 1, 0), atol=1e-6)


def test_mixup_or_cutmix_takes_both():
    numbers_N = jnp.arange(1.0, 9.0)
    images_NHWC = jnp.broadcast_to(numbers_N[:, None, None, None], (8, 6, 6, 1))

    @jax.jit
    def mixed(seed):
        return augment.apply([['mixup_or_cutmix', {}]], jax.random.key(seed), images_NHWC,
                             jnp.eye(8), {'mixup_or_cutmix': 0.4})

    kinds = []
    for seed in range(60):
        out, targets_NK = (np.asarray(x) for x in mixed(seed))
        share = targets_NK[0, 0]
        flat = np.ptp(out, axis=(1, 2, 3)).max() == 0
        np.testing.assert_allclose(  # the pixels and the targets agree
            out.mean((1, 2, 3)), targets_NK @ numbers_N, rtol=1e-4)
        kinds.append('none' if share == 1 else 'mixup' if flat else 'cutmix')
    # Some boxes of cutmix are empty, too.
    assert 30 < kinds.count('none') < 50
    assert kinds.count('mixup') > 5 and kinds.count('cutmix') > 5


def test_two_channels_have_no_luma():
    with pytest.raises(ValueError, match='the images have 2'):
        color.luma(jnp.zeros((1, 2, 2, 2)))
