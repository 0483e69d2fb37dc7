"""Augmentations: one row of OPERATIONS buys a new operation the tests of the contract."""

import functools
import inspect
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
import scipy.special
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from sklearn.datasets import load_digits

from configs import digits
from imgjax import augment, build, checks
from imgjax import config as config_lib
from imgjax.augment import color, geometric, mix, policy, tables
from imgjax.config import Config
from imgjax.errors import ConfigError

# Operation -> static options, full strength.
OPERATIONS = {
    'augmix': ({'width': 2}, 3.0),
    'auto_augment': ({'policy': 'cifar10'}, 0.9),
    'autocontrast': ({}, 0.5),
    'color_jitter': ({'hue': 0.2}, 1.0),
    'cutmix': ({}, 1.0),
    'cutout': ({'size': 4, 'fill': 128}, 1.0),
    'equalize': ({}, 0.5),
    'gaussian_blur': ({'max_sigma': 1.5}, 0.5),
    'grayscale': ({}, 0.5),
    'invert': ({}, 0.5),
    'mixup': ({}, 1.0),
    'mixup_or_cutmix': ({'mixup_alpha': 0.5}, 1.0),
    'pad_crop': ({'padding': 2, 'mode': 'reflect'}, 1.0),
    'posterize': ({'bits': 2}, 0.5),
    'rand_augment': ({'ops': 'timm_increasing', 'magnitude_std': 0.5}, 9.0),
    'random_erasing': ({'mode': 'pixel'}, 0.5),
    'random_flip': ({}, 0.5),
    'random_resized_crop': ({'min_area': 0.2, 'method': 'bicubic'}, 1.0),
    'resize_mix': ({}, 1.0),
    'rotate': ({'max_degrees': 90, 'interpolation': 'nearest'}, 1.0),
    'sharpness': ({}, 1.0),
    'shear': ({'fill': 99}, 1.0),
    'shift_rotate': ({'max_pixels': 1.5, 'max_degrees': 30, 'max_scale': 0.2}, 1.0),
    'solarize': ({'threshold': 100}, 0.5),
    'three_augment': ({'max_sigma': 1.5}, 0.5),
    'translate': ({}, 1.0),
    'trivial_augment_wide': ({}, 0.9),
}
MIXING_OPERATIONS = ('cutmix', 'mixup', 'mixup_or_cutmix', 'resize_mix')
IMAGE_OPERATIONS = [name for name in OPERATIONS if name not in MIXING_OPERATIONS]
SIZE = 64

every_operation = pytest.mark.parametrize('name', OPERATIONS)
every_mixing_operation = pytest.mark.parametrize('name', MIXING_OPERATIONS)
every_image_operation = pytest.mark.parametrize('name', IMAGE_OPERATIONS)


@pytest.fixture(scope='module')
def batch():
    """Real images, 8x7x1 in [0, 255], and one-hot targets."""
    digits = load_digits()
    images_NHWC = (digits.images[:SIZE, :, :7, None] * (255 / 16)).astype(np.float32)
    return jnp.asarray(images_NHWC), jax.nn.one_hot(digits.target[:SIZE], 10, dtype=jnp.float32)


@pytest.fixture(scope='module')
def colours(batch):
    """The same in three colours: 8x7x3."""
    return batch[0] * jnp.asarray([1.0, 0.7, 0.4])[None, None, None], batch[1]


def apply_one(name, key, images_NHWC, targets_NK, strength):
    TRACES.append(name)
    ops = [[name, OPERATIONS[name][0]]]
    return augment.apply(ops, key, images_NHWC, targets_NK, {name: strength})


TRACES = []
jitted = jax.jit(apply_one, static_argnums=0)


def run(name, seed, batch, strength=None):
    strength = OPERATIONS[name][1] if strength is None else strength
    return jitted(name, jax.random.key(seed), *batch, jnp.float32(strength))


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def test_every_operation_has_a_row():
    assert augment.names() == sorted(OPERATIONS)


# The contract of every operation.


@every_operation
def test_zero_strength_is_the_identity(name, colours):
    for seed in range(5):
        assert same(run(name, seed, colours, 0.0), colours)


@every_operation
def test_function_of_the_key(name, colours):
    first = run(name, 0, colours)
    assert same(first, run(name, 0, colours))
    assert not same(first, run(name, 1, colours))


@every_operation
def test_values_stay_in_range(name, colours):
    images_NHWC, targets_NK = run(name, 3, colours)
    assert images_NHWC.dtype == targets_NK.dtype == jnp.float32
    assert 0 <= images_NHWC.min() and images_NHWC.max() <= 255 * (1 + 1e-6)
    np.testing.assert_allclose(targets_NK.sum(-1), 1, rtol=1e-6)


@every_operation
def test_sharding_changes_no_bit(name, colours):
    mesh = Mesh(np.array(jax.devices()), 'data')
    assert mesh.size == 8
    by_example = NamedSharding(mesh, PartitionSpec('data'))
    sharded = jax.device_put(colours, by_example)
    out = run(name, 0, sharded)
    assert len(out[0].sharding.device_set) == 8
    assert same(out, run(name, 0, colours))


@every_operation
def test_strength_is_traced_and_vmapped(name, colours):
    strengths = jnp.asarray([0.0, 0.3, 1.0])
    solo = [run(name, 0, colours, 0.0)]
    traced = len(TRACES)
    solo += [run(name, 0, colours, strength) for strength in strengths[1:]]
    assert len(TRACES) == traced
    arms = jax.jit(jax.vmap(functools.partial(apply_one, name, jax.random.key(0), *colours)))(
        strengths)
    for i, arm in enumerate(solo):
        np.testing.assert_allclose(arms[0][i], arm[0], rtol=1e-6, atol=1e-3)
        np.testing.assert_allclose(arms[1][i], arm[1], rtol=1e-6, atol=1e-6)


@every_image_operation
def test_examples_are_independent(name, colours):
    images_NHWC, targets_NK = run(name, 0, colours)
    others, _ = run(name, 0, (colours[0].at[10:].set(0.0), colours[1]))
    assert np.array_equal(others[:10], images_NHWC[:10])
    assert np.array_equal(targets_NK, colours[1])
    # The same image at all places of the batch is not treated in the same way everywhere.
    copies_NHWC = jnp.broadcast_to(colours[0][3], colours[0].shape)
    images_NHWC, _ = run(name, 0, (copies_NHWC, colours[1]))
    assert len(np.unique(np.asarray(images_NHWC).reshape(SIZE, -1), axis=0)) > 1


def test_example_keys_do_not_depend_on_the_batch_size():
    few, many = (jax.random.key_data(augment.example_keys(jax.random.key(0), size))
                 for size in (5, 20))
    assert np.array_equal(few, many[:5])
    assert np.array_equal(
        few[3], jax.random.key_data(jax.random.fold_in(jax.random.key(0), 3)))
    assert len(np.unique(many, axis=0)) == 20


def test_apply_runs_in_order_with_own_keys(batch):
    ops = (('pad_crop', {'padding': 2}), ('random_flip', {}), ('mixup', {}))
    strengths = {'pad_crop': 1.0, 'random_flip': 0.5, 'mixup': 0.4, 'other': 1.0}
    key = jax.random.key(7)

    @jax.jit
    def both(images_NHWC, targets_NK):
        keys = [jax.random.fold_in(key, i) for i in range(3)]
        one_NHWC = geometric.pad_crop(keys[0], images_NHWC, 1.0, padding=2)
        two_NHWC = geometric.random_flip(keys[1], one_NHWC, 0.5)
        return (mix.mixup(keys[2], two_NHWC, targets_NK, 0.4),
                augment.apply(ops, key, images_NHWC, targets_NK, strengths))

    assert same(*both(*batch))


def test_apply_takes_uint8(batch):
    bytes_NHWC = batch[0].astype(jnp.uint8)
    ops, strengths = [['random_flip', {}]], {'random_flip': 0.5}
    key = jax.random.key(0)
    out = augment.apply(ops, key, bytes_NHWC, batch[1], strengths)
    assert same(out, augment.apply(ops, key, bytes_NHWC.astype(jnp.float32), batch[1], strengths))
    assert augment.apply([], key, bytes_NHWC, batch[1], {})[0].dtype == jnp.float32


# Look-up.


@pytest.mark.parametrize(('ops', 'parts'), [
    ([['mixip', {}]], ["'mixip'", "'mixup'", 'cutmix, cutout, equalize']),
    ([['normalize', {}]], ['unknown', 'random_flip']),  # public, but no operation
    ([['warp', {}]], ['unknown']),
    ([['../mix', {}]], ["'../mix'"]),
    ([['_blend', {}]], ["'_blend'"]),
    ([['example_keys', {}]], ['unknown']),
    ([[3, {}]], ['unknown']),
    ([['pad_crop', {'paddng': 4}]], ["'paddng'", "'padding'", 'pad_crop']),
    ([['mixup', {'alpha': 1}]], ["'alpha'", 'none']),
    ([['pad_crop', {'padding': '4'}]], ["'padding'", 'int', "'4'"]),
    ([['pad_crop', {'strength': 4}]], ["'strength'"]),
    (['mixup'], ["['name', {options}]", "'mixup'"]),
    ([['mixup']], ["['name', {options}]"]),
])
def test_check_names_the_fault(ops, parts):
    with pytest.raises(ValueError) as error:
        augment.check(ops)
    message = str(error.value)
    assert all(part in message for part in parts), message
    assert '\n' not in message


def test_check_passes_what_is_right():
    augment.check([[name, options] for name, (options, _) in OPERATIONS.items()])


def test_missing_strength_is_named(batch):
    with pytest.raises(ValueError, match="'mixup' has no strength"):
        augment.apply([['mixup', {}]], jax.random.key(0), *batch, {'cutmix': 1.0})


# Operation -> the range of its strength.
RANGES = {name: (0, 1) for name in OPERATIONS} | {
    'augmix': (0, 10), 'rand_augment': (0, 10), 'color_jitter': (0, 10),
    'mixup': (0, 100), 'cutmix': (0, 100)}


@every_operation
def test_strengths_out_of_range_are_refused(name):
    low, high = RANGES[name]
    ops = [[name, OPERATIONS[name][0]]]
    ends = f'{name}: takes {low} to {high}'
    for strength in (low, high, OPERATIONS[name][1]):
        augment.check_strengths(ops, {name: strength})
    for strength in (low - 0.01, -1, high + 0.01, 1000 * high):
        with pytest.raises(ValueError, match=re.escape(ends)):
            augment.check_strengths(ops, {name: strength})
    for strength in (math.nan, math.inf, -math.inf):
        with pytest.raises(ValueError, match=name):
            augment.check_strengths(ops, {name: strength})


def test_apply_looks_at_strengths_that_are_numbers(batch):
    with pytest.raises(ValueError, match='rand_augment: takes 0 to 10 .*, got 15.0'):
        augment.apply([['rand_augment', {}]], jax.random.key(0), *batch, {'rand_augment': 15.0})


def test_a_strength_of_no_operation_is_refused():
    ops = [['random_flip', {}], ['mixup', {}]]
    with pytest.raises(ValueError, match="mixap: .* did you mean 'mixup'.*random_flip, mixup"):
        augment.check_strengths(ops, {'random_flip': 0.5, 'mixap': 0.2})
    with pytest.raises(ValueError, match='mixup: .*it has none'):
        augment.check_strengths([], {'mixup': 0.0})


def test_the_strengths_of_a_recipe_may_stay_where_augmentation_is_turned_off(caplog):
    checks.check_strengths(Config({'augment': [], 'hparams': {'augment': {'mixup': 0.2}}}))
    assert 'mixup has no effect, as config.augment is empty' in caplog.text
    with pytest.raises(ConfigError, match='config.hparams.augment.mixap'):
        checks.check_strengths(Config({'augment': [], 'hparams': {'augment': {'mixap': 0.2}}}))


def test_every_number_among_the_options_has_a_range():
    for name, (function, _) in augment._operations().items():
        for parameter in inspect.signature(function).parameters.values():
            if parameter.name == 'strength' or type(parameter.default) in (int, float, str):
                limits = getattr(parameter.annotation, '__metadata__', ())
                words = getattr(parameter.annotation, '__args__', ())
                assert limits or words, f'{name}: {parameter} has no range'
                assert all(isinstance(end, str) or math.isfinite(end)
                           for limit in limits for end in limit[:2]), f'{name}: {parameter}'
    words = inspect.signature(policy.rand_augment).parameters['ops'].annotation.__args__
    assert set(words) == set(tables.SPACES)
    words = inspect.signature(policy.auto_augment).parameters['policy'].annotation.__args__
    assert set(words) == set(tables.POLICIES)


@pytest.mark.parametrize(('name', 'options', 'part'), [
    ('rand_augment', {'ops': 'tim'}, "'ops' .*'tim'; did you mean 'timm'"),
    ('rand_augment', {'num_ops': 0}, "'num_ops' .*1 to 100 .how many., got 0"),
    ('rand_augment', {'probability': 1.5}, "'probability' .*0 to 1 .*got 1.5"),
    ('auto_augment', {'policy': 'svnh'}, "imagenet, cifar10, got 'svnh'"),
    ('rotate', {'interpolation': 'cubic'}, "nearest, bilinear, got 'cubic'"),
    ('rotate', {'fill': 256}, "'fill' .*0 to 255 .*got 256"),
    ('random_resized_crop', {'method': 'nearest'}, "bilinear, bicubic, got 'nearest'"),
    ('random_erasing', {'mode': 'rand'}, "constant, pixel, got 'rand'"),
    ('random_erasing', {'min_area': 0.5}, r"'min_area' .* max_area \(0.333333\), got 0.5"),
    ('gaussian_blur', {'min_sigma': 0.0}, "'min_sigma' .*got 0.0"),
    ('gaussian_blur', {'min_sigma': 3.0}, r"max_sigma \(2\), got 3.0"),
    ('resize_mix', {'max_scale': 2.0}, "'max_scale' .*0 to 1, got 2.0"),
    ('random_erasing', {'max_area': 2.0}, "'max_area' .*1e-06 to 1, got 2.0"),
    ('shear', {'max_shear': 15.0}, r"'max_shear' .*0 to 1 .a slope, not degrees., got 15.0"),
    ('pad_crop', {'mode': 'wrap'}, "constant, reflect, edge, got 'wrap'"),
    ('pad_crop', {'padding': -1}, "'padding' .*0 to the image's side .4096. .pixels., got -1"),
    ('color_jitter', {'hue': math.nan}, "'hue' .*0 to 0.5, got nan"),
    ('mixup_or_cutmix', {'cutmix_alpha': 101.0}, "'cutmix_alpha' .*0 to 100 .alpha of a Beta"),
    ('posterize', {'bits': 9}, "'bits' .*1 to 8, got 9"),
])
def test_options_out_of_range_are_refused(name, options, part):
    with pytest.raises(ValueError, match=part) as error:
        augment.check([[name, options]])
    assert '\n' not in str(error.value)


@pytest.mark.parametrize(('name', 'options', 'field'), [
    ('cutout', {}, 'size'), ('pad_crop', {'padding': 9}, 'padding'),
    ('shift_rotate', {'max_pixels': 8.5}, 'max_pixels')])
def test_no_more_pixels_than_the_image_has(name, options, field, data_dir):
    config = digits.get_config()
    config.augment, config.hparams.augment = ((name, options),), {name: 1.0}
    words = f"config.augment: option '{field}' .* takes 0 to the image's side .8. .pixels., got "
    plain = config_lib.checked(config)
    build.check(plain)  # 8 pixels is what the data says
    splits = build.open_dataset(plain)
    with pytest.raises(ConfigError, match=words):
        build.describe(plain, *splits)
    build.describe(plain, *splits, begun=True)
    config.data.image_size = 8
    plain = config_lib.checked(config)
    with pytest.raises(ConfigError, match=words):
        build.check(plain)
    build.check(plain, begun=True)
    config.augment = ((name, {field: 8}),)
    build.check(config_lib.checked(config))


# What each operation does.


def test_random_flip_mirrors_left_to_right(batch):
    flipped = run('random_flip', 0, batch, 1.0)[0]
    assert np.array_equal(flipped, batch[0][:, :, ::-1])
    half = np.asarray(run('random_flip', 0, batch, 0.5)[0])
    was_flipped = [np.array_equal(a, b) for a, b in zip(half, flipped, strict=True)]
    kept = [np.array_equal(a, b) for a, b in zip(half, batch[0], strict=True)]
    assert all(a != b for a, b in zip(was_flipped, kept, strict=True))
    assert 0.3 < np.mean(was_flipped) < 0.7


jitted_crop = jax.jit(geometric.pad_crop, static_argnames=('padding', 'mode'))


@pytest.mark.parametrize('mode', ('constant', 'reflect', 'edge'))
@pytest.mark.parametrize(('strength', 'reach'), [(1.0, 2), (0.5, 1), (0.2, 0)])
def test_pad_crop_cuts_windows_of_the_padded_image(mode, strength, reach):
    image_HWC = np.arange(5 * 7 * 3, dtype=np.float32).reshape(5, 7, 3) + 1
    padded = np.pad(image_HWC, ((2, 2), (2, 2), (0, 0)), mode=mode)
    windows = {(y, x): padded[2 + y:7 + y, 2 + x:9 + x]
               for y in range(-reach, reach + 1) for x in range(-reach, reach + 1)}
    images_NHWC = jnp.broadcast_to(image_HWC, (400, 5, 7, 3))
    out = np.asarray(jitted_crop(
        jax.random.key(0), images_NHWC, jnp.float32(strength), padding=2, mode=mode))
    seen = [[yx for yx, window in windows.items() if np.array_equal(image, window)]
            for image in out]
    assert all(len(places) == 1 for places in seen)
    assert {places[0] for places in seen} == set(windows)


def test_warp_against_scipy(batch):
    rng = np.random.default_rng(0)
    images_NHWC = jnp.concatenate([batch[0], batch[0][::-1] * 0.5], axis=-1)
    shift_N2 = rng.uniform(-2, 2, (SIZE, 2)).astype(np.float32)
    radians_N = rng.uniform(-3, 3, SIZE).astype(np.float32)
    scale_N = rng.uniform(0.5, 2, SIZE).astype(np.float32)
    warped = jax.jit(geometric.warp)(images_NHWC, shift_N2, radians_N, scale_N)
    middle = np.array([3.5, 3.0])
    for image, shift, radians, scale, ours in zip(
            np.asarray(images_NHWC), shift_N2, radians_N, scale_N, warped, strict=True):
        # The map forwards, in (row, column), and scipy's inverse of it.
        forward = scale * np.array([[np.cos(radians), np.sin(radians)],
                                    [-np.sin(radians), np.cos(radians)]])
        inverse = np.linalg.inv(forward)
        offset = middle - inverse @ (middle + shift)
        for channel in range(2):
            reference = scipy.ndimage.affine_transform(
                image[..., channel], inverse, offset, order=1, mode='grid-constant')
            np.testing.assert_allclose(ours[..., channel], reference, atol=2e-3)


def test_warp_directions(batch):
    square_HWC = np.asarray(batch[0][0])[:7]
    moved, turned, smaller = np.asarray(jax.jit(geometric.warp)(
        jnp.stack([square_HWC] * 3), jnp.float32([(1, 2), (0, 0), (0, 0)]),
        jnp.float32([0, np.pi / 2, 0]), jnp.float32([1, 1, 0.5])))
    np.testing.assert_array_equal(moved[1:, 2:], square_HWC[:-1, :-2])
    assert not moved[0].any() and not moved[:, :2].any()
    np.testing.assert_allclose(turned, np.rot90(square_HWC, k=-1), atol=1e-3)  # clockwise
    np.testing.assert_array_equal(smaller[1:6, 1:6], np.pad(
        square_HWC[1::2, 1::2], ((1, 1), (1, 1), (0, 0))))
    assert not smaller[[0, 6]].any() and not smaller[:, [0, 6]].any()


def test_shift_rotate_keeps_to_its_limits():
    dot_NHWC = jnp.zeros((200, 9, 9, 1)).at[:, 4, 4].set(255.0)
    @jax.jit
    def both(strength):
        key = jax.random.key(0)
        return [geometric.shift_rotate(
            key, dot_NHWC, strength, max_pixels=pixels, max_degrees=degrees)
            for pixels, degrees in ((3.0, 0.0), (0.0, 90.0))]

    moved, turned = (np.asarray(x) for x in both(jnp.float32(0.5)))
    place_9 = np.arange(9) - 4
    centre_N2 = np.stack([moved.sum((2, 3)) @ place_9, moved.sum((1, 3)) @ place_9], 1) / 255
    assert 1.4 < np.abs(centre_N2).max() <= 1.5 + 1e-4
    assert np.abs(centre_N2.mean(0)).max() < 0.2
    # A rotation leaves the middle where it is.
    np.testing.assert_allclose(turned[:, 4, 4], 255, rtol=1e-5)


# Mixing: each image holds its own number in every pixel, so that what came from where shows.


@pytest.fixture(scope='module')
def numbered():
    numbers_N = jnp.arange(1, SIZE + 1, dtype=jnp.float32)
    images_NHWC = jnp.broadcast_to(numbers_N[:, None, None, None], (SIZE, 8, 7, 1))
    return images_NHWC, jax.nn.one_hot(jnp.arange(SIZE) % 10, 10, dtype=jnp.float32)


def expected_targets(share, targets_NK):
    targets_NK = np.asarray(targets_NK)
    return share * targets_NK + (1 - share) * np.roll(targets_NK, 1, axis=0)


@pytest.mark.parametrize('alpha', (0.2, 1.0, 5.0))
def test_mixup_moves_targets_by_the_share_of_the_pixels(alpha, numbered):
    for seed in range(5):
        images_NHWC, targets_NK = run('mixup', seed, numbered, alpha)
        share = float(targets_NK[0, 0])
        np.testing.assert_allclose(targets_NK, expected_targets(share, numbered[1]), atol=1e-6)
        own = np.asarray(numbered[0])
        np.testing.assert_allclose(
            images_NHWC, share * own + (1 - share) * np.roll(own, 1, 0), rtol=1e-5)


@pytest.mark.parametrize('alpha', (0.2, 1.0, 5.0))
def test_cutmix_moves_targets_by_the_share_of_the_pixels(alpha, numbered):
    shares = []
    for seed in range(20):
        images_NHWC, targets_NK = run('cutmix', seed, numbered, alpha)
        own, partner = np.asarray(numbered[0]), np.roll(np.asarray(numbered[0]), 1, 0)
        assert np.all((images_NHWC == own) | (images_NHWC == partner))
        share = np.mean(np.asarray(images_NHWC) == own)
        np.testing.assert_allclose(targets_NK, expected_targets(share, numbered[1]), atol=1e-6)
        # What was pasted is one box.
        pasted_HW = np.asarray(images_NHWC)[0, :, :, 0] != own[0, :, :, 0]
        assert np.array_equal(pasted_HW, pasted_HW.any(1)[:, None] & pasted_HW.any(0)[None])
        shares.append(share)
    assert len(set(shares)) > 5


def test_mixing_share_is_beta_distributed():
    def share(key, alpha):
        return mix.mixup(key, jnp.zeros((2, 1, 1, 1)), jnp.eye(2), alpha)[1][0, 0]

    alphas = np.float32([0.1, 0.4, 1.0, 4.0])
    keys = jax.random.split(jax.random.key(0), 20_000)
    shares = jax.jit(jax.vmap(jax.vmap(share, (0, None)), (None, 0)))(keys, alphas)
    for x in (1e-4, 0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99, 1 - 1e-4):
        np.testing.assert_allclose(
            (shares < x).mean(1), scipy.special.betainc(alphas, alphas, np.float32(x)), atol=0.01)


def test_alpha_zero_computes_no_nan(numbered):
    with jax.debug_nans(True):  # every intermediate, since nothing is jitted
        mix.mixup(jax.random.key(0), *numbered, jnp.float32(0))


@pytest.mark.parametrize('name', ('mixup', 'cutmix'))
def test_any_alpha_is_finite(name, numbered):
    for alpha in (0.0, 1e-30, 1e-3, 100.0, 1e6):
        for seed in range(10):
            assert all(np.isfinite(x).all() for x in run(name, seed, numbered, alpha))


# Normalisation.


@pytest.mark.parametrize('dtype', (jnp.uint8, jnp.float32))
def test_normalize(dtype):
    images_NHWC = jnp.arange(2 * 4 * 4 * 3).reshape(2, 4, 4, 3).astype(dtype)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    out = color.normalize(images_NHWC, mean, std)
    assert out.dtype == jnp.float32
    reference = (np.asarray(images_NHWC, np.float64) / 255 - mean) / std
    np.testing.assert_allclose(out, reference, rtol=1e-5, atol=1e-6)


def test_normalize_names_wrong_channels():
    with pytest.raises(ValueError, match='3 channels, got 1 and 1'):
        color.normalize(jnp.zeros((1, 2, 2, 3)), (0.5,), (0.5,))
