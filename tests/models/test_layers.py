"""The layers against flax's, numpy's or their own definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from flax import linen as nn

from imgjax.models.parts import attention, branches, convolve, forms, layers, pooling


def normal(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize(
    ('kernel', 'strides', 'groups', 'side'),
    [
        (1, 1, 1, 6),
        (1, 2, 1, 6),
        (1, 2, 1, 7),
        (1, 1, 2, 6),
        (3, 1, 1, 6),
        (3, 2, 2, 7),
        (7, 2, 1, 8),
    ],
)
def test_conv_is_flax_conv_with_torch_padding(kernel, strides, groups, side):
    x = normal(2, side, side, 4)
    ours = convolve.Conv(6, kernel, strides, groups=groups, use_bias=True)
    theirs = nn.Conv(
        6,
        (kernel, kernel),
        strides,
        padding=[(kernel // 2, kernel // 2)] * 2,
        feature_group_count=groups,
    )
    variables = {'params': {'kernel': normal(kernel, kernel, 4 // groups, 6), 'bias': normal(6)}}
    shapes = jax.eval_shape(
        lambda: (ours.init(jax.random.key(0), x), theirs.init(jax.random.key(0), x))
    )
    assert shapes[0] == shapes[1]
    y = ours.apply(variables, x)
    np.testing.assert_allclose(y, theirs.apply(variables, x), rtol=1e-5, atol=1e-5)
    assert y.shape == (2, -(-side // strides), -(-side // strides), 6)


def test_pointwise_conv_is_a_dot():
    conv = convolve.Conv(6, 1, 2)
    variables, x = {'params': {'kernel': normal(1, 1, 4, 6)}}, normal(2, 6, 6, 4)
    traced = str(jax.make_jaxpr(conv.apply)(variables, x))
    assert 'dot_general' in traced and 'conv_general' not in traced


def _like_lax(form, x, kernel, strides, padding, dilation, groups):
    """The form's result and both gradients are lax.conv's."""
    @jax.jit
    def both(x, kernel):
        results = []
        for name in (form, 'lax'):
            y, transpose = jax.vjp(
                lambda x, kernel, name=name: forms.FORMS[name](
                    x, kernel, strides, padding, dilation, groups), x, kernel)
            results.append([y, *transpose(normal(*y.shape))])
        return results

    for ours, theirs in zip(*both(x, kernel), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5 * np.abs(theirs).max())


@pytest.mark.parametrize('dilation', [1, 2])
@pytest.mark.parametrize('strides', [1, 2, 3])
@pytest.mark.parametrize('size', [(1, 1), (2, 2), (1, 3), (5, 4)])
def test_taps_is_convolution(size, strides, dilation):
    padding = ((2, 2), (3, 2))
    _like_lax('taps', normal(2, *size, 4), normal(3, 3, 4, 6), (strides, strides), padding,
              (dilation, dilation), 1)


@pytest.mark.parametrize(('channels', 'features', 'groups'),
                         [(8, 8, 2), (12, 24, 4), (8, 16, 8), (64, 32, 4), (96, 48, 16)])
def test_split_is_convolution(channels, features, groups):
    _like_lax('split', normal(2, 6, 5, channels), normal(3, 3, channels // groups, features),
              (2, 2), ((1, 1), (1, 1)), (1, 1), groups)


@pytest.mark.parametrize(('batch', 'side', 'kernel', 'strides', 'dilation'),
                         [(1, 5, 3, 1, 1), (7, 6, 3, 2, 1), (12, 7, 5, 2, 1), (16, 9, 3, 1, 2)])
def test_shifted_is_convolution(batch, side, kernel, strides, dilation):
    reach = kernel // 2 * dilation
    x, weights = normal(batch, side, side + 1, 4), normal(kernel, kernel, 1, 4)
    rest = (strides, strides), ((reach, reach), (reach, 0)), (dilation, dilation), 4
    _like_lax('shifted', x, weights, *rest)
    for ours, theirs in zip(_moved('shifted', x, weights, rest), _moved('lax', x, weights, rest),
                            strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5 * np.abs(theirs).max())


def _moved(form, x, kernel, rest):
    """How the form's result moves with the image alone, and with the kernel alone."""
    run = forms.FORMS[form]
    return jax.jit(lambda x, kernel: (
        jax.jvp(lambda x: run(x, kernel, *rest), (x,), (x[::-1],))[1],
        jax.jvp(lambda kernel: run(x, kernel, *rest), (kernel,), (kernel[::-1],))[1]))(x, kernel)


@pytest.mark.parametrize('ceil', [False, True])
@pytest.mark.parametrize('padding', [0, 1])
@pytest.mark.parametrize(('window', 'strides'), [(2, 2), (3, 2), (3, 1), (2, 3)])
def test_max_pool_is_flax_max_pool_with_its_ties(window, strides, padding, ceil):
    x = np.round(normal(2, 7, 9, 3))  # rounded: ties in nearly every window
    pads = pooling._pool_pads(x.shape[1:3], window, strides, padding, ceil)
    dx = normal(*x.shape)

    @jax.jit
    def both(x):
        def ours(x):
            return pooling.max_pool(x, window, strides, padding, ceil)

        y, transpose = jax.vjp(ours, x)
        expected, of_flax = jax.vjp(
            lambda x: nn.max_pool(x, (window, window), (strides, strides), pads), x)
        dy = normal(*y.shape)
        moved = jax.jvp(ours, (x,), (dx,))[1]
        return y, expected, transpose(dy)[0], of_flax(dy)[0], moved, dy

    y, expected, back, of_flax, moved, dy = both(x)
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_allclose(back, of_flax, atol=1e-5)
    assert np.vdot(moved, dy) == pytest.approx(np.vdot(dx, back), rel=1e-4)


def test_max_pool_lets_nan_through():
    x = normal(1, 4, 4, 1)
    x[0, 1, 1] = np.nan  # a step that diverged is seen by it
    y, _ = jax.vjp(lambda x: pooling.max_pool(x, 2, 2), x)
    assert np.isnan(y).sum() == 1


def test_attention_has_the_derivatives_of_its_definition():
    def defined(q, k, v):
        scores = jnp.einsum('nqhk,nvhk->nhqv', q, k) * q.shape[-1] ** -0.5
        return jnp.einsum('nhqv,nvhk->nqhk', jax.nn.softmax(scores), v)

    args = tuple(normal(2, length, 3, 4) for length in (3, 5, 5))
    moves = tuple(arg[::-1] for arg in args)

    @jax.jit
    def both(args, moves):
        return [
            (jax.jvp(f, args, moves), jax.vjp(f, *args)[1](args[0]),
             jax.jvp(jax.grad(lambda *args, f=f: jnp.square(f(*args)).sum(), (0, 1, 2)), args,
                     moves))
            for f in (lambda *args: attention.attend(*args)[0], defined)]

    ours, theirs = both(args, moves)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), ours, theirs)


def test_gelu_is_the_exact_one():
    x = np.linspace(-12, 12, 2001, dtype=np.float32)
    exact = x.astype(np.float64) * scipy.stats.norm.cdf(x.astype(np.float64))
    np.testing.assert_allclose(layers.gelu(x), exact, atol=1e-6)
    assert layers.gelu(x.astype(jnp.bfloat16)).dtype == jnp.bfloat16


def test_kaiming_counts_the_outputs():
    fast = {'xla_backend_optimization_level': 0}
    init = jax.jit(lambda key: layers.kaiming_fan_out(key, (3, 3, 16, 64)), compiler_options=fast)
    kernel = init(jax.random.key(0))
    np.testing.assert_allclose(np.std(kernel), np.sqrt(2 / (9 * 64)), rtol=0.05)


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
@pytest.mark.parametrize('name', ['batch', 'group', 'layer'])
def test_norms_normalise(name, dtype):
    x = (3 * normal(4, 5, 5, 48) + 2).astype(layers.compute_dtype(dtype))

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            return layers.norm(name, train=True, dtype=x.dtype)(name='norm')(x)

    y, variables = Net().init_with_output(jax.random.key(0), x)
    assert y.dtype == x.dtype
    assert set(variables['params']['norm']) == {'scale', 'bias'}
    y = np.asarray(y, np.float32)
    if name == 'group':
        y = y.reshape(4, 25, 16, 3).swapaxes(1, 2).reshape(4, 16, 75)
    axis = (0, 1, 2) if name == 'batch' else -1
    np.testing.assert_allclose(y.mean(axis), 0, atol=1e-2)
    np.testing.assert_allclose(y.std(axis), 1, atol=1e-2)


def test_batch_norm_remembers_a_tenth():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x, train):
            return layers.norm('batch', train=train, dtype=x.dtype)(name='norm')(x)

    x = 3 * normal(64, 4) + 2
    start = {
        'params': {'norm': {'scale': np.ones(4, np.float32), 'bias': np.zeros(4, np.float32)}},
        'batch_stats': {'norm': {'mean': np.zeros(4, np.float32), 'var': np.ones(4, np.float32)}},
    }
    _, stats = Net().apply(start, x, train=True, mutable=['batch_stats'])
    mean, var = (np.asarray(stats['batch_stats']['norm'][name]) for name in ('mean', 'var'))
    np.testing.assert_allclose(mean, 0.1 * x.mean(0), rtol=1e-4)
    np.testing.assert_allclose(var, 0.9 + 0.1 * x.var(0, ddof=1), rtol=1e-4)
    y = Net().apply({**start, **stats}, x, train=False)
    np.testing.assert_allclose(
        y, (x - mean[None]) / np.sqrt(var[None] + np.float32(1e-5)), rtol=1e-4, atol=1e-5
    )


def test_layer_norm_is_exact_far_from_zero():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            return layers.layer_norm(dtype=x.dtype, epsilon=1e-6)(x)

    x = normal(64, 384) + 30
    exact = (x - x.mean(-1, keepdims=True, dtype=np.float64)) / x.std(
        -1, keepdims=True, dtype=np.float64
    )
    y, _ = Net().init_with_output(jax.random.key(0), x)
    np.testing.assert_allclose(y, exact, atol=3e-5)


@pytest.mark.parametrize('bias', [None, (3, 7, 9), (1, 3, 7, 9), (2, 3, 7, 9), (1, 1, 7, 9)])
@pytest.mark.parametrize('attend', [attention.attend, attention.maps])
def test_gradients_of_attention(attend, bias):
    rng = np.random.default_rng(0)
    weight_NHLL = rng.normal(size=(2, 3, 7, 9)).astype(np.float32)
    qkvb = [rng.normal(size=shape).astype(np.float32)
            for shape in [(2, 7, 3, 8), (2, 9, 3, 8), (2, 9, 3, 8), *([bias] if bias else [])]]

    def plain(q, k, v, b=None):
        scores = jnp.einsum('nqhk,nvhk->nhqv', q, k) / jnp.sqrt(jnp.float32(8))
        if b is not None:
            scores += b.reshape((1,) * (4 - b.ndim) + b.shape)
        attn = jax.nn.softmax(scores)
        return jnp.einsum('nhqv,nvhk->nqhk', attn, v), attn

    def gradients(function):
        def loss(arrays):
            y_NLHK, attn_NHLL = function(*arrays)
            maps = 0 if attend is attention.attend else (attn_NHLL * weight_NHLL).sum()
            return jnp.square(y_NLHK).sum() + maps
        return jax.jit(jax.grad(loss))(qkvb)

    for ours, theirs in zip(gradients(attend), gradients(plain), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-5)


def test_residual_drops_whole_examples_and_keeps_the_mean():
    x, y = np.zeros((2000, 3, 2), np.float32), np.ones((2000, 3, 2), np.float32)
    rngs = {'dropout': jax.random.key(0)}
    z = np.asarray(branches.Residual(False).apply({}, x, y, 0.25, rngs=rngs))
    assert set(np.unique(z).tolist()) == {0.0, float(np.float32(1 / 0.75))}
    assert (z.reshape(2000, -1) == z[:, :1, 0]).all()
    np.testing.assert_allclose(z.mean(), 1, atol=0.05)
    assert (branches.Residual(True).apply({}, x + 2, y, 0.25) == 3).all()


def test_pick_names_the_right_ones():
    with pytest.raises(ValueError, match=r"unknown act 'sillu'; did you mean 'silu'\?"):
        layers.activation('sillu')
    with pytest.raises(ValueError, match="unknown dtype 'float16'"):
        layers.compute_dtype(jnp.float16)
    assert layers.compute_dtype(jnp.bfloat16) == jnp.bfloat16


def test_gelu_is_exact():
    x = np.linspace(-3, 3, 13, dtype=np.float32)
    exact = x * 0.5 * (1 + jax.scipy.special.erf(x / np.sqrt(np.float32(2))))
    np.testing.assert_allclose(layers.activation('gelu')(x), exact, atol=1e-6)
    assert np.abs(np.asarray(layers.activation('gelu_tanh')(x) - exact)).max() > 1e-5


@pytest.mark.parametrize('depth', [1, 2, 12, 48])
def test_drop_path_rates_rise_linearly(depth):
    rates = np.asarray(branches.drop_path_rates(0.3, depth), np.float32)
    np.testing.assert_array_equal(rates, np.linspace(0, 0.3, depth, dtype=np.float32))


@pytest.mark.parametrize(('channels', 'least', 'rounded'), [
    (1, 0, 8), (11.9, 0, 8), (12, 0, 16), (20, 0, 24), (35, 0, 32), (35, 0.9, 32), (11, 0.9, 16)])
def test_multiple_of_8(channels, least, rounded):
    assert layers.multiple_of_8(channels, least) == rounded


def test_prepended_tokens_are_the_same_for_all_examples():
    x_NLD, tokens_1LD = normal(3, 4, 5), normal(1, 2, 5)
    y_NLD = layers.prepend(jnp.asarray(tokens_1LD), jnp.asarray(x_NLD))
    np.testing.assert_array_equal(y_NLD[:, 2:], x_NLD)
    np.testing.assert_array_equal(y_NLD[:, :2], np.repeat(tokens_1LD, 3, axis=0))
