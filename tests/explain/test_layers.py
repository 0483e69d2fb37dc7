"""Gradients at named intermediates, and which of them have positions, in all families."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imgjax import models
from imgjax.errors import ConfigError, DataError
from imgjax.evals import chunks
from imgjax.explain import layers

# The last layer of the smallest variant of a family, for images of 32 by 64 pixels; None for none.
LAST = {
    'alexnet': ('stage2', (7, 15, 0)),
    'beit': ('block01', (8, 16, 1)),
    'cait': ('block01', (8, 16, 0)),
    'cnn': ('stage2', (8, 16, 0)),
    'coatnet': ('stage2', (4, 8, 0)),
    'convmixer': ('block01', (16, 32, 0)),
    'convnext': ('stage2', (8, 16, 0)),
    'densenet': ('stage2', (16, 32, 0)),
    'efficientnet': ('conv_head', (8, 16, 0)),
    'efficientnetv2': ('conv_head', (4, 8, 0)),
    'eva02': ('block01', (8, 16, 1)),
    'gmlp': ('encoded', (8, 16, 0)),
    'googlenet': ('stage2', (16, 32, 0)),
    'hiera': ('stage2', (8, 16, 0)),
    'inception_v3': ('stage2', (15, 31, 0)),
    'maxvit': ('stage2', (4, 8, 0)),
    'metaformer': ('stage2', (4, 8, 0)),
    'mlp': None,
    'mlp_mixer': ('encoded', (8, 16, 0)),
    'mnasnet': ('conv_head', (8, 16, 0)),
    'mobilenetv1': ('stage2', (8, 16, 0)),
    'mobilenetv2': ('conv_head', (8, 16, 0)),
    'mobilenetv3': ('stage2', (8, 16, 0)),
    'mobilenetv4': ('stage2', (8, 16, 0)),
    'mobilevit': ('final', (8, 16, 0)),
    'mobilevitv2': ('stage2', (8, 16, 0)),
    'nfnet': ('final', (16, 32, 0)),
    'regnet': ('stage2', (8, 16, 0)),
    'repvgg': ('stage2', (8, 16, 0)),
    'resmlp': ('encoded', (8, 16, 0)),
    'resnet': ('stage2', (16, 32, 0)),
    'resnetv2': ('stage2', (16, 32, 0)),
    'rnn': None,
    'shufflenet_v2': ('final', (8, 16, 0)),
    'squeezenet': ('stage2', (7, 15, 0)),
    'swin': ('stage2', (8, 16, 0)),
    'swinv2': ('stage2', (8, 16, 0)),
    'vgg': ('hidden2', (7, 15, 0)),
    'vit': ('block00', (8, 16, 1)),  # the class token is read: the input of the last block
    'xcit': ('token00', (8, 16, 1)),
}


@functools.cache
def traced(name: str, height: int = 32, width: int = 64, **options):
    """(apply_fn, variables, images) of a model, of shapes only."""
    model = models.create(name, 4, **options)

    def apply_fn(variables, images_NHWC):
        return model.apply(variables, images_NHWC, train=False)

    images = jax.ShapeDtypeStruct((2, height, width, 3), jnp.float32)
    variables = jax.eval_shape(
        lambda x: model.init(jax.random.key(0), x, train=False), images)
    return apply_fn, variables, images


@functools.cache
def filled(name: str, height: int = 16, width: int = 32, **options):
    """The same with random weights, none of them zero, and random images."""
    apply_fn, variables, images = traced(name, height, width, **options)
    rng = np.random.default_rng(0)
    variables = jax.tree_util.tree_map_with_path(
        lambda path, x: (rng.uniform(0.5, 1.5, x.shape) if 'var' in str(path[-1])
                         else rng.normal(0, 0.3, x.shape)).astype(np.float32), variables)
    return apply_fn, variables, rng.normal(size=images.shape).astype(np.float32)


def test_the_table_has_all_families():
    assert list(LAST) == models.families()


@pytest.mark.parametrize('family', LAST)
def test_the_last_layer_with_positions(family):
    if LAST[family] is None:
        with pytest.raises(DataError, match='no layer with positions; take .* gradient, '):
            layers.last_spatial(*traced(f'tiny_{family}'))
    else:
        assert layers.last_spatial(*traced(f'tiny_{family}')) == LAST[family]


@pytest.mark.parametrize('options, name, other, read', [
    ({'pool': 'avg'}, 'encoded', 0, (0, 32)),
    ({'pool': 'map'}, 'encoded', 0, (0, 32)),
    ({'pool': 'token_avg'}, 'encoded', 1, (0, 33)),
    ({'distilled': True}, 'block00', 2, (0, 2)),
    ({'remat': True}, 'block00', 1, (0, 1)),
    ({'dtype': 'bfloat16'}, 'block00', 1, (0, 1)),
    ({'attention': 'maps'}, 'block00', 1, (0, 1)),
])
def test_what_the_head_of_a_vit_reads(options, name, other, read):
    model = traced('tiny_vit', 32, 16, **options)
    assert layers.last_spatial(*model) == (name, (8, 4, other))
    assert layers.tokens_read(*model, 32 + other) == read


def test_tokens_that_the_mean_leaves_out_are_not_read():
    assert layers.tokens_read(*traced('tiny_beit', 32, 16), 33) == (1, 33)
    assert layers.tokens_read(*traced('tiny_eva02', 32, 16, registers=4), 37) == (5, 37)
    assert layers.last_spatial(*traced('tiny_eva02', 32, 16, registers=4))[1] == (8, 4, 5)
    assert layers.tokens_read(*traced('tiny_resnet'), 33) is None


def test_layers_come_in_the_order_of_the_program():
    assert list(layers.spatial_layers(*traced('tiny_resnet'))) == [
        'stem', 'stage1', 'stage1_block0', 'stage2', 'stage2_block0']


def test_another_layer_can_be_named():
    assert layers.last_spatial(*traced('tiny_vit'), 'embed') == ('embed', (8, 16, 1))
    with pytest.raises(ConfigError, match="unknown layer 'stge1'; did you mean 'stage1'"):
        layers.last_spatial(*traced('tiny_resnet'), 'stge1')
    with pytest.raises(DataError, match="'encoded' has no positions .* embed or block00$"):
        layers.last_spatial(*traced('tiny_vit'), 'encoded')


def test_blocks_of_a_scan_are_refused():
    model = traced('tiny_vit', scan_layers=True)
    with pytest.raises(DataError, match='scan_layers=False'):
        layers.last_spatial(*model)
    apply_fn, variables, images = model
    with pytest.raises(DataError, match="not computed from out\\['block00'\\]"):
        layers.with_deltas(apply_fn, variables, images, {'block00': jnp.ones((2, 33, 16))})


@pytest.mark.parametrize('length, height, width, grid', [
    (197, 224, 224, (14, 14, 1)),
    (201, 224, 224, (14, 14, 5)),  # DINOv3: a class token and four registers
    (1370, 518, 518, (37, 37, 1)),
    (128, 32, 64, (8, 16, 0)),
    (5, 32, 32, (2, 2, 1)),
    (1, 32, 32, None),
    (50, 32, 32, None),
])
def test_grid_of_tokens(length, height, width, grid):
    assert layers.grid_of_tokens(length, height, width) == grid


def toy():
    """A program with a call of each kind, whose tail from `middle` on is also a function."""
    @jax.custom_vjp
    def double(x):
        return 2 * x

    # Not the true derivative, to see that it is kept.
    double.defvjp(lambda x: (double(x), None), lambda _, dy: (3 * dy,))

    def tail(weights, middle_NHWC):
        def step(carry, weight):
            return jax.nn.relu(carry * weight), None

        x, _ = jax.lax.scan(step, middle_NHWC, weights['scan'])
        x = jax.checkpoint(lambda x: jnp.sin(double(x)))(x)
        x = jax.lax.cond(weights['scan'][0] > 0, lambda x: x, lambda x: -x, x)
        return jnp.einsum('nhwc,ck->nk', x, weights['head'])

    @jax.jit
    def head_of(weights, images_NHWC):
        return {'middle': jax.nn.gelu(images_NHWC) * weights['scan'][1]}

    @jax.jit
    def apply_fn(weights, images_NHWC):
        out = head_of(weights, images_NHWC)
        out['copy'] = out['middle'].transpose(0, 2, 1, 3).reshape(2, 6, 2, 3)
        logits_NK = tail(weights, out['middle'])
        return logits_NK, out | {'logits': logits_NK, 'double': 2 * logits_NK}

    rng = np.random.default_rng(1)
    weights = {'scan': jnp.asarray([0.7, 1.2, 0.5], jnp.float32),
               'head': rng.normal(size=(3, 4)).astype(np.float32)}
    return apply_fn, tail, weights, rng.normal(size=(2, 3, 4, 3)).astype(np.float32)


def test_gradients_are_those_of_the_tail():
    apply_fn, tail, weights, images_NHWC = toy()
    targets_N = jnp.asarray([1, 3], jnp.int32)
    values, gradients = layers.values_and_gradients(
        apply_fn, weights, images_NHWC, targets_N, ('middle', 'copy'))
    expected = jax.jit(jax.grad(
        lambda x: tail(weights, x)[jnp.arange(2), targets_N].sum()))(values['middle'])
    np.testing.assert_allclose(gradients['middle'], expected, rtol=1e-5, atol=1e-6)
    assert np.abs(expected).max() > 0.1
    # A copy that the logits do not use has the gradient of what it is a copy of.
    np.testing.assert_array_equal(
        gradients['copy'], gradients['middle'].transpose(0, 2, 1, 3).reshape(2, 6, 2, 3))


def test_nothing_changes_without_deltas():
    apply_fn, _, weights, images_NHWC = toy()
    expected, out = apply_fn(weights, images_NHWC)
    found, same = jax.jit(lambda w, x: layers.with_deltas(apply_fn, w, x, {}))(weights, images_NHWC)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert set(same) == set(out)


def test_a_result_of_the_logits_has_no_gradient():
    apply_fn, _, weights, images_NHWC = toy()
    with pytest.raises(DataError, match="not computed from out\\['double'\\]"):
        layers.with_deltas(apply_fn, weights, images_NHWC, {'double': jnp.ones((2, 4))})
    with pytest.raises(ConfigError, match="unknown layer 'midle'; did you mean 'middle'"):
        layers.with_deltas(apply_fn, weights, images_NHWC, {'midle': jnp.ones((2, 4))})


def test_a_delta_arrives_at_its_own_place_of_unrolled_tokens():
    """Hiera computes with its tokens in another order than that of `out`."""
    apply_fn, variables, images_NHWC = filled('tiny_hiera', 16, 32)
    grids = layers.spatial_layers(apply_fn, variables, images_NHWC)
    h, w, _ = grids['stage1']
    delta = np.zeros((2, h, w, 16), np.float32)
    delta[:, 1, w - 2, 3] = 5
    run = jax.jit(lambda v, x, d: layers.with_deltas(apply_fn, v, x, {'stage1': d}))
    logits_NK, out = run(variables, images_NHWC, delta)
    plain_NK, before = run(variables, images_NHWC, 0 * delta)
    np.testing.assert_allclose(out['stage1'] - before['stage1'], delta, atol=1e-5)
    assert np.abs(logits_NK - plain_NK).max() > 1e-3


def test_a_second_batch_is_not_compiled_again():
    apply_fn, _, weights, images_NHWC = toy()
    targets_N = np.zeros(2, np.int32)
    sizes = []
    for move in range(2):
        layers.values_and_gradients(apply_fn, weights, images_NHWC + move, targets_N, ('middle',))
        sizes.append(layers.values_and_gradients._cache_size())
    assert sizes[0] == sizes[1]


def test_chunks_change_nothing(monkeypatch):
    apply_fn, variables, images_NHWC = filled('tiny_resnet')
    images_NHWC = np.concatenate([images_NHWC, images_NHWC[::-1], 2 * images_NHWC[:1]])
    targets_N = np.arange(5) % 4
    whole = layers.on_layer(apply_fn, variables, images_NHWC, targets_N)
    monkeypatch.setattr(chunks, 'images_at_once', lambda *args, most=256: 2)
    parts = layers.on_layer(apply_fn, variables, images_NHWC, targets_N)
    for one, other in zip(whole, parts, strict=True):
        assert one.shape == other.shape == (5, 8, 16, 64)
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
