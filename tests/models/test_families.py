"""What only one of the convolutional and recurrent families has."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imgjax import models
from imgjax.models import regnet, repvgg, resnet


def normal(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def shapes(name, side, channels=3, **options):
    model = models.create(name, 10, **options)
    x = jax.ShapeDtypeStruct((2, side, side, channels), jnp.float32)
    (_, out), variables = jax.eval_shape(
        lambda x: model.init_with_output(jax.random.key(0), x, train=True), x
    )
    return jax.tree.map(lambda leaf: leaf.shape, (out, variables))


def filled(model, x):
    tree = jax.eval_shape(lambda: model.init(jax.random.key(0), x, train=False))
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda s: 0.3 * rng.normal(size=s.shape).astype(s.dtype), tree)


def run(model, variables, x):
    fast = {'xla_backend_optimization_level': 0}
    return jax.jit(functools.partial(model.apply, train=False), compiler_options=fast)(variables, x)


def test_resnet_strides_and_shapes():
    out, variables = shapes('resnet50', 224)
    assert out['stem'] == (2, 56, 56, 64)
    assert [out[f'stage{i}'] for i in (1, 2, 3, 4)] == [
        (2, 56, 56, 256),
        (2, 28, 28, 512),
        (2, 14, 14, 1024),
        (2, 7, 7, 2048),
    ]
    assert variables['params']['layer2.0']['downsample.0']['kernel'] == (1, 1, 256, 512)
    assert shapes('resnet20_cifar', 32)[0]['stage3'] == (2, 8, 8, 64)
    assert 'batch_stats' not in shapes('resnet18', 32, norm='group')[1]


def test_resnet_halves_in_its_3x3():
    # v1.5: the 1x1 before the stride sees every pixel, v1's would skip three of four.
    model = models.create('tiny_resnet', 5, norm='none', depths=(1, 1))
    x = normal(1, 8, 8, 3)
    variables = filled(model, x)
    _, out = run(model, variables, x)
    x_NHWC, block = out['stage1'], variables['params']['layer2.0']
    conv = functools.partial(
        jax.lax.conv_general_dilated, dimension_numbers=('NHWC', 'HWIO', 'NHWC')
    )
    y = jax.nn.relu(
        x_NHWC @ block['conv1']['kernel'][0, 0] + block['conv1']['bias'].reshape(1, 1, 1, -1)
    )
    y = conv(y, block['conv2']['kernel'], (2, 2), [(1, 1)] * 2) + block['conv2']['bias'].reshape(
        1, 1, 1, -1
    )
    y = jax.nn.relu(y) @ block['conv3']['kernel'][0, 0] + block['conv3']['bias'].reshape(
        1, 1, 1, -1
    )
    s = x_NHWC[:, ::2, ::2] @ block['downsample.0']['kernel'][0, 0]
    s = s + block['downsample.0']['bias'].reshape(1, 1, 1, -1)
    np.testing.assert_allclose(out['stage2'], jax.nn.relu(y + s), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('block', ['basic', 'bottleneck'])
def test_resnet_blocks_start_as_their_shortcut(block):
    model = models.create(
        'tiny_resnet', 5, block=block, shortcut='pad', depths=(2, 1), widths=(8, 16), norm='group'
    )
    x = normal(1, 8, 8, 3)
    variables = filled(model, x)
    last = {'basic': 'bn2', 'bottleneck': 'bn3'}[block]
    for name, params in variables['params'].items():
        if name.startswith('layer'):
            params[last] = jax.tree.map(np.zeros_like, params[last])
    _, out = run(model, variables, x)
    np.testing.assert_array_equal(out['stage1_block0'], out['stage1_block1'])
    # Option A: every other pixel, and zeros for the channels that are new, half on each side.
    new = out['stage2'].shape[-1] - out['stage1'].shape[-1]
    inside = np.asarray(out['stage2'])[..., new // 2 : -(new // 2)]
    np.testing.assert_array_equal(inside, np.asarray(out['stage1'])[:, ::2, ::2])
    assert np.asarray(out['stage2']).sum() == pytest.approx(inside.sum(), rel=1e-6)


@pytest.mark.parametrize(('zero_init', 'start'), [(True, 0), (False, 1)])
def test_resnet_zero_init(zero_init, start):
    model = models.create('tiny_resnet', 5, zero_init=zero_init, depths=(1,), widths=(4,))

    @jax.jit  # drops the random draws of all the rest
    def scales():
        params = model.init(jax.random.key(0), normal(1, 4, 4, 1), train=False)['params']
        return [params['layer1.0'][norm]['scale'] for norm in ('bn2', 'bn3')]

    middle, last = scales()
    assert (middle == 1).all() and (last == start).all()


def test_resnet_variants_are_complete():
    assert all({'depths', 'block'} <= set(v) for v in resnet.VARIANTS.values())


@pytest.mark.parametrize('side', [28, 32])
def test_lenet5_is_the_published_one(side):
    out, variables = shapes('lenet5', side, 1)
    assert out['stage1'] == (2, 14, 14, 6) and out['stage2'] == (2, 5, 5, 16)
    assert variables['params']['hidden1']['kernel'] == (400, 120)


@pytest.mark.parametrize(('side', 'inputs'), [(8, 4), (17, 25), (32, 16), (224, 16)])
def test_cnn_takes_any_size(side, inputs):
    out, variables = shapes('cnn', side)
    assert variables['params']['hidden1']['kernel'] == (inputs * 64, 128)
    assert out['logits'] == (2, 10)


def test_cnn_refuses_what_valid_convolutions_cannot_take():
    with pytest.raises(ValueError, match='too small'):
        shapes('cnn', 8, padding='valid', kernel_size=5)


@pytest.mark.parametrize('cell', ['lstm', 'gru'])
def test_rnn_backward_is_forward_on_the_image_upside_down(cell):
    x = normal(2, 6, 4, 3)
    both = models.create('rnn', 5, cell=cell, hidden=7, bidirectional=True)
    variables = filled(both, x)
    _, out = run(both, variables, x)
    assert out['layer1'].shape == (2, 6, 14)
    one = models.create('rnn', 0, cell=cell, hidden=7)
    ways = {
        way: run(one, {'params': {'forward1': variables['params'][f'{way}1']}}, image)[1]['layer1']
        for way, image in (('forward', x), ('backward', x[:, ::-1]))
    }
    np.testing.assert_allclose(out['layer1'][..., :7], ways['forward'], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        out['layer1'][..., 7:], ways['backward'][:, ::-1], rtol=1e-5, atol=1e-6
    )
    final = np.concatenate([ways['forward'][:, -1], ways['backward'][:, -1]], axis=-1)
    np.testing.assert_allclose(out['pre_logits'], final, rtol=1e-5, atol=1e-6)
    mean, _ = run(
        models.create('rnn', 0, cell=cell, hidden=7, bidirectional=True, pool='mean'),
        {'params': {k: v for k, v in variables['params'].items() if k != 'head'}},
        x,
    )
    np.testing.assert_allclose(mean, out['layer1'].mean(1), rtol=1e-5, atol=1e-6)


def test_regnet_widths_are_the_published_ones():
    # Table of the paper's appendix: widths and blocks of RegNetX-3.2GF and RegNetY-16GF.
    def plan(name):
        options = regnet.VARIANTS[name]
        keys = ('depth', 'w0', 'wa', 'wm', 'group_width')
        return regnet.stages(*(options[key] for key in keys))

    assert plan('regnetx_032') == [(96, 2, 2), (192, 6, 4), (432, 15, 9), (1008, 2, 21)]
    assert plan('regnety_160') == [(224, 2, 2), (448, 4, 4), (1232, 11, 11), (3024, 1, 27)]


@pytest.mark.parametrize('groups', [1, 4])
def test_repvgg_fused_is_the_form_that_trained(groups):
    options = {'depths': (2, 2), 'groups': groups}
    model = models.create('tiny_repvgg', 5, **options)
    x = normal(3, 9, 9, 3)
    variables = filled(model, x)
    variables['batch_stats'] = jax.tree.map(lambda a: 0.5 + np.abs(a), variables['batch_stats'])
    logits, out = run(model, variables, x)
    plain = models.create('tiny_repvgg', 5, fused=True, drop_path=0.5, **options)
    fused = repvgg.fuse(variables)
    shapes = jax.eval_shape(lambda: plain.init(jax.random.key(0), x, train=False))
    assert jax.tree.map(jnp.shape, fused) == jax.tree.map(jnp.shape, shapes)
    fused_logits, fused_out = run(plain, fused, x)
    np.testing.assert_allclose(fused_out['stage1'], out['stage1'], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(fused_logits, logits, rtol=1e-4, atol=1e-4)
    assert np.std(logits) > 0.1
    with pytest.raises(ValueError, match='fused'):
        plain.apply(fused, x, train=True)


def test_shufflenet_refuses_an_odd_width():
    with pytest.raises(ValueError, match='even'):
        shapes('shufflenet_v2_x1_0', 32, widths=(15, 30, 60))
