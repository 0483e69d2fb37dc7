"""What only the vision transformer has: layouts of its blocks, positions, maps."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imgjax import models
from imgjax.models import vit

X = np.random.default_rng(0).normal(size=(4, 8, 8, 3)).astype(np.float32)


@functools.cache
def parameters(**options):
    model = models.create('tiny_vit', 5, **options)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), X, train=False))
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda s: 0.3 * rng.normal(size=s.shape).astype(s.dtype), shapes)['params']


def stacked(params):
    """The parameters of scanned blocks from those of single ones."""
    names = [name for name in params if name.startswith('blocks.')]
    rest = {name: params[name] for name in params if name not in names}
    return rest | {'blocks': jax.tree.map(lambda *x: np.stack(x), *(params[n] for n in names))}


def jit(f):
    # Compiling is what these tests wait for, and XLA's optimiser is not under test.
    return jax.jit(f, compiler_options={'xla_backend_optimization_level': 0})


def forward(params, x=X, train=False, **options):
    model, rngs = models.create('tiny_vit', 5, **options), {'dropout': jax.random.key(1)}
    return jit(lambda p: model.apply({'params': p}, x, train=train, rngs=rngs))(params)


def loss_and_grads(params, **options):
    model = models.create('tiny_vit', 5, **options)

    def loss(params):
        logits, out = model.apply({'params': params}, X, train=False)
        return jnp.mean(logits**2), (logits, out)

    return jit(jax.value_and_grad(loss, has_aux=True))(params)


def close(a, b):
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), a, b)


def test_scanned_and_recomputed_blocks_are_the_blocks():
    plain = loss_and_grads(parameters())
    close(loss_and_grads(parameters(), remat=True), plain)
    (loss, aux), grads = loss_and_grads(stacked(parameters()), scan_layers=True, remat=True)
    close((loss, aux), plain[0])
    close(grads, stacked(plain[1]))


def test_scan_has_the_same_number_of_parameters_with_a_leading_axis():
    scanned = parameters(scan_layers=True)
    assert jax.tree.map(np.shape, scanned) == jax.tree.map(np.shape, stacked(parameters()))
    assert scanned['blocks']['attn']['qkv']['kernel'].shape == (2, 16, 48)


def test_scanned_blocks_start_and_drop_apart():
    model = models.create('tiny_vit', 5, scan_layers=True)
    init = jit(lambda: model.init(jax.random.key(0), X, train=False)['params']['blocks'])
    kernels = np.asarray(init()['mlp']['fc1']['kernel'])
    assert np.abs(kernels[0] - kernels[1]).max() > 0.1

    # Blocks whose MLP adds 1 to every token: the tokens tell for which examples they were dropped.
    params = jax.tree.map(np.zeros_like, parameters(scan_layers=True))
    params['blocks']['mlp']['fc2']['bias'] = np.ones((2, 16), np.float32)
    _, out = forward(params, np.tile(X, (16, 1, 1, 1)), train=True, scan_layers=True, drop_path=0.5)
    first, second = (
        np.asarray(out[after] - out[before])[:, 0, 0]
        for before, after in (('embed', 'block00'), ('block00', 'block01'))
    )
    assert set(first.tolist()) == {1} and set(second.tolist()) == {0, 2}


def test_maps_are_the_attention():
    logits, out = forward(parameters())
    mapped, out_and_maps = forward(parameters(), attention='maps')
    close(mapped, logits)
    for name in ('block00_attn', 'block01_attn'):
        attn_NHLL = out_and_maps.pop(name)
        assert attn_NHLL.shape == (4, 2, 5, 5)
        np.testing.assert_allclose(attn_NHLL.sum(-1), 1, rtol=1e-5)
    close(out_and_maps, out)


def test_without_a_class_token():
    assert parameters()['pos_embed'].shape == (1, 5, 16)
    pooled = parameters(pool='avg')
    assert pooled['pos_embed'].shape == (1, 4, 16) and 'cls_token' not in pooled
    assert 'pos_embed' not in parameters(pos='sincos')


def test_patches_are_a_convolution():
    params = parameters(pool='avg', pos='sincos')
    _, out = forward(params, pool='avg', pos='sincos')
    patch, layout = params['patch_embed.proj'], ('NHWC', 'HWIO', 'NHWC')
    conv = jax.lax.conv_general_dilated(
        X, patch['kernel'], (4, 4), 'VALID', dimension_numbers=layout)
    embed = np.asarray(conv).reshape(4, 4, 16) + patch['bias'] + vit.sincos_2d(2, 2, 16)
    np.testing.assert_allclose(out['embed'], embed, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(out['pre_logits'], out['encoded'].mean(1), rtol=1e-5, atol=1e-6)


def test_sincos_positions():
    table = vit.sincos_2d(3, 4, 8)
    assert table.shape == (1, 12, 8) and table.dtype == np.float32
    row, column = 2, 3
    angles = [column, column * 1e-4], [row, row * 1e-4]
    expected = [f(angle) for angle in angles for f in (np.sin, np.cos)]
    np.testing.assert_allclose(table[0, row * 4 + column], np.ravel(expected), rtol=1e-5)


def test_the_head_starts_at_zero():
    model = models.create('tiny_vit', 5)
    head = jax.jit(lambda: model.init(jax.random.key(0), X, train=False)['params']['head'])()
    assert not head['kernel'].any() and not head['bias'].any()


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'patch_size': 3}, 'patches of 3 pixels do not tile an image of 8 by 8'),
        ({'heads': 3}, 'width 16 is not divisible by 3 heads'),
        ({'pos': 'sincos', 'width': 6}, 'divisible by 4, not 6'),
        ({'pool': 'tokens'}, "unknown pool 'tokens'; did you mean 'token'"),
        ({'attention': 'flash'}, "unknown attention 'flash'"),
        ({'pos': 'learnt'}, "unknown pos 'learnt'; did you mean 'learned'"),
    ],
)
def test_what_cannot_be_built(options, message):
    with pytest.raises(ValueError, match=message):
        parameters(**options)
