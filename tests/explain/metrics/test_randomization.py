"""Randomised weights: the layers and their order, and maps that do or do not depend on them."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from imgjax import models
from imgjax.errors import ConfigError, DataError
from imgjax.explain.metrics import baselines, randomization


def variables_of(model):
    return jax.eval_shape(lambda key: model.init(key, jnp.zeros((1, 32, 32, 3)), train=False),
                          jax.random.key(0))


@pytest.mark.parametrize(('name', 'first', 'last'), [
    ('tiny_resnet', ['conv1', 'bn1', 'layer1.0/conv1'], ['head']),
    ('tiny_vit', ['patch_embed.proj', 'pos_embed', 'cls_token'], ['norm', 'head']),
    ('tiny_mlp', ['hidden1', 'hidden2'], ['head']),
])
def test_layers_are_in_the_order_in_which_the_image_meets_them(name, first, last):
    model = models.create(name, num_classes=4)
    variables = variables_of(model)

    @jax.jit  # the order is found within an inner program
    def apply_fn(variables, images_NHWC):
        return model.apply(variables, images_NHWC, train=False)

    images_NHWC = np.zeros((2, 32, 32, 3), np.float32)
    names = randomization.layers(apply_fn, variables, images_NHWC)
    assert names[-len(last):] == last and len(set(names)) == len(names)
    assert names[:len(first)] == first
    modules = {'/'.join(part.key for part in path[:-1]) or path[0].key
               for path, _ in jax.tree_util.tree_flatten_with_path(variables['params'])[0]}
    assert set(names) == modules


def test_weights_that_are_prepared_together_count_where_they_are_used():
    def apply_fn(variables, images_NHWC):
        half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), variables['params'])
        x = images_NHWC.reshape(len(images_NHWC), -1).astype(jnp.bfloat16)
        x = jax.checkpoint(lambda kernel, x: x @ kernel)(half['z']['kernel'], x)
        return (x @ half['a']['kernel']).astype(jnp.float32), {}

    variables = {'params': {name: {'kernel': np.zeros((4, 4), np.float32)} for name in 'abz'}}
    assert randomization.layers(apply_fn, variables, np.zeros((1, 2, 2, 1))) == ['z', 'a']


def test_values_are_permuted_layer_by_layer():
    rng = np.random.default_rng(0)
    layer = lambda: {'kernel': rng.normal(size=(3, 4)).astype(np.float32),  # noqa: E731
                     'bias': np.arange(4, dtype=np.float32)}
    variables = {'params': {'a': layer(), 'b': layer(), 'token': np.arange(5.0)},
                 'batch_stats': {'b': {'mean': np.arange(4, dtype=np.float32)}}}
    changed = randomization.randomized(variables, ['b'], seed=1)
    for of in (lambda one: one['params']['a'], lambda one: one['params']['token']):
        jax.tree.map(np.testing.assert_array_equal, of(variables), of(changed))
    kernel = changed['params']['b']['kernel']
    assert (kernel != variables['params']['b']['kernel']).any()
    np.testing.assert_array_equal(np.sort(kernel, axis=None),
                                  np.sort(variables['params']['b']['kernel'], axis=None))
    # A mean moves with the other values of its channel.
    np.testing.assert_array_equal(changed['batch_stats']['b']['mean'],
                                  changed['params']['b']['bias'])
    assert (changed['batch_stats']['b']['mean'] != np.arange(4)).any()
    again = randomization.randomized(variables, ['token', 'a', 'b'], seed=1)
    np.testing.assert_array_equal(again['params']['b']['kernel'], kernel)
    assert (again['params']['token'] != np.arange(5)).any()


def test_maps_of_a_gradient_change_and_edges_do_not(trained, contributions):
    maps_NHW = contributions(*trained)
    found = randomization.measure(contributions, *trained, maps_NHW)
    assert [one['layer'] for one in found['stages']] == ['head', 'conv2', 'conv1']
    assert [one['randomized'] for one in found['stages']] == [1, 2, 3]
    assert found['stages'][-1]['high'] < 0.5 and found['stages'][-1]['same'] == 0
    assert found['images'] == 30 and found['layers'] == 3 and not found['notes']
    random = randomization.randomized(trained.variables, ['conv1', 'conv2', 'head'], 0)
    changed_NHW = contributions(trained.apply_fn, random, *trained[2:])
    expected = [stats.spearmanr(a.ravel(), b.ravel()).statistic
                for a, b in zip(maps_NHW, changed_NHW, strict=True)]
    assert found['stages'][-1]['per_image'] == pytest.approx(expected, abs=1e-6)
    before, after = randomization.entropy(maps_NHW), randomization.entropy(changed_NHW)
    assert found['complexity']['per_image'] == pytest.approx((after - before) / before)
    json.dumps(found, allow_nan=False)

    edges = randomization.measure(baselines.edges, *trained, baselines.edges(*trained), stages=1)
    assert [stage['randomized'] for stage in edges['stages']] == [3]
    assert edges['stages'][0]['same'] == 30
    assert edges['stages'][0]['mean'] == pytest.approx(1) and edges['complexity']['mean'] == 0


def test_bottom_up_begins_at_the_image(trained, contributions):
    maps_NHW = contributions(*trained)
    found = randomization.measure(contributions, *trained, maps_NHW, bottom_up=True, absolute=True)
    assert [one['layer'] for one in found['stages']] == ['conv1', 'conv2', 'head']
    top_down = randomization.measure(contributions, *trained, maps_NHW, absolute=True)
    assert found['stages'][-1]['per_image'] == top_down['stages'][-1]['per_image']
    assert found['stages'][0]['per_image'] != top_down['stages'][0]['per_image']


def test_smooth_maps_are_means_over_noise(trained, contributions):
    assert (randomization.smooth(contributions, samples=1)(*trained) ==
            contributions(*trained)).all()
    smooth = randomization.smooth(contributions, samples=4, noise=0.1)
    maps_NHW = smooth(*trained)
    np.testing.assert_array_equal(maps_NHW, smooth(*trained))
    assert 0 < np.abs(maps_NHW - contributions(*trained)).max() < np.abs(maps_NHW).max()
    rows = np.array([7, 3])
    few = randomization.smooth(contributions, samples=4, noise=0.1, indices_N=rows)(
        *trained[:2], trained.images_NHWC[rows], trained.targets_N[rows])
    np.testing.assert_allclose(few, maps_NHW[rows], rtol=1e-4, atol=1e-5)
    found = randomization.measure(smooth, *trained, maps_NHW)
    assert found['stages'][-1]['high'] < 0.5


def test_a_method_that_gives_no_maps_for_random_weights(trained, contributions):
    def explain(apply_fn, variables, images_NHWC, targets_N):
        if variables is not trained.variables:
            raise DataError('gradient: is zero everywhere; take another method')
        return contributions(apply_fn, variables, images_NHWC, targets_N)

    found = randomization.measure(explain, *trained, explain(*trained), stages=2)
    assert [one['mean'] for one in found['stages']] == [0, 0]
    assert len(found['notes']) == 2
    assert found['notes'][0].startswith('With 1 of 3 layers random there are no maps')


@pytest.mark.parametrize('options', [{'stages': 0}, {'bins': 1}])
def test_bad_options(trained, contributions, options):
    with pytest.raises(ConfigError, match='stages: .*, bins: '):
        randomization.measure(contributions, *trained, contributions(*trained), **options)


def test_bad_noise(contributions):
    with pytest.raises(ConfigError, match='samples: 0, noise'):
        randomization.smooth(contributions, samples=0)


def test_a_model_without_parameters(trained):
    with pytest.raises(DataError, match='the model uses no parameters'):
        randomization.layers(lambda variables, images_NHWC: (images_NHWC.sum(axis=(1, 2)), {}), {},
                             trained.images_NHWC)
