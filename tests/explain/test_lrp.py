"""Layer-wise relevance propagation: what a layer hands on, and the models that allow it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imgjax import models
from imgjax.errors import ConfigError, DataError
from imgjax.explain import lrp
from imgjax.models import repvgg

WORK = {'alexnet', 'cnn', 'densenet', 'googlenet', 'inception_v3', 'mlp', 'mobilenetv1',
        'mobilenetv2', 'repvgg', 'resnet', 'shufflenet_v2', 'vgg'}
# Of families whose tiny variant has a gate, GELU or a norm of each image, those that have none.
CHOSEN = {'squeezenet': {'act': 'relu'}, 'regnet': {'se_ratio': 0.0}, 'resnetv2': {'norm': 'batch'}}


def normal(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def function(model):
    return lambda variables, images_NHWC: model.apply(variables, images_NHWC, train=False)


def shapes(model, side=32):
    image = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    return jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), image)


def filled(model, side, biases=True):
    """Returns variables, none of which is 0 but for the biases, if they are not wanted."""
    rng = np.random.default_rng(1)

    def fill(path, leaf):
        values = rng.normal(size=leaf.shape).astype(np.float32)
        if path[-1].key == 'var':
            return 0.5 + np.abs(values)
        if path[-1].key in ('bias', 'mean') and not biases:
            return np.zeros_like(values)
        if path[-1].key == 'scale':
            return 1 + np.float32(0.3) * values
        fan_in = max(1, int(np.prod(leaf.shape[:-1])))
        return values * np.float32((2 / fan_in) ** 0.5 if len(leaf.shape) > 1 else 0.3)

    return jax.tree_util.tree_map_with_path(fill, shapes(model, side))


def test_a_layer_hands_on_its_relevance_as_the_equation_says():
    model = models.create('tiny_mlp', 3, hidden=(7, 6))
    variables, images = filled(model, 4), normal(5, 4, 4, 3)
    targets, epsilon = np.array([0, 1, 2, 0, 1]), 0.2
    params = variables['params']
    names = [name for name in params if name != 'head'] + ['head']
    inputs, x = [], images.reshape(5, -1).astype(np.float64)
    for name in names:
        z = x @ params[name]['kernel'] + params[name]['bias']
        inputs.append((x, z))
        x = np.maximum(z, 0)
    R = np.where(np.arange(3) == targets[:, None], inputs[-1][1], 0)
    for name, (x, z) in zip(names[::-1], inputs[::-1], strict=True):
        terms = x[:, :, None] * params[name]['kernel']  # (N, I, O)
        R = (terms / (z + epsilon * np.where(z >= 0, 1, -1))[:, None] * R[:, None]).sum(2)
    apply_fn = function(model)
    found = lrp.attributions(apply_fn, variables, images, targets, epsilon=epsilon)
    assert len(names) == 3 and found.dtype == jnp.float32
    np.testing.assert_allclose(found, R.reshape(5, 4, 4, 3), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(
        lrp.explain(apply_fn, variables, images, targets, epsilon=epsilon), found.sum(-1))


@pytest.mark.parametrize('name', ['tiny_vgg', 'tiny_resnet', 'tiny_mobilenetv2'])
def test_without_biases_nothing_is_lost(name):
    model = models.create(name, 4)
    images, targets = normal(2, 32, 32, 3), np.array([1, 3])
    apply_fn, lost = function(model), {}
    for biases in (False, True):
        variables = filled(model, 32, biases)
        maps_NHW = lrp.explain(apply_fn, variables, images, targets, epsilon=1e-6)
        logits_N = apply_fn(variables, images)[0][np.arange(2), targets]
        assert maps_NHW.shape == (2, 32, 32) and np.abs(logits_N).min() > 0.01
        lost[biases] = np.abs(maps_NHW.sum((1, 2)) - logits_N).max() / np.abs(logits_N).max()
    assert lost[False] < 1e-4 < 1e-3 < lost[True]


def test_with_hardly_an_epsilon_it_is_the_gradient_times_the_image():
    model = models.create('tiny_resnet', 4)
    variables, images, targets = filled(model, 32), normal(2, 32, 32, 3), np.array([1, 3])
    apply_fn = function(model)

    def logits(images):
        return apply_fn(variables, images)[0][np.arange(2), targets].sum()

    expected = images * jax.grad(logits)(images)
    found = {epsilon: lrp.attributions(apply_fn, variables, images, targets, epsilon=epsilon)
             for epsilon in (1e-7, 0.25)}
    largest = np.abs(expected).max()
    assert np.abs(found[1e-7] - expected).max() < 1e-3 * largest
    assert np.abs(found[0.25] - expected).max() > 1e-1 * largest


def test_a_convolution_and_its_norm_are_one_layer():
    options = {'depths': (1, 1)}
    model = models.create('tiny_repvgg', 4, **options)
    plain = models.create('tiny_repvgg', 4, fused=True, **options)
    variables, images, targets = filled(model, 9), normal(2, 9, 9, 3), np.array([1, 3])
    maps_NHW = lrp.explain(function(model), variables, images, targets)
    fused_NHW = lrp.explain(function(plain), repvgg.fuse(variables), images, targets)
    np.testing.assert_allclose(fused_NHW, maps_NHW, atol=1e-4 * np.abs(maps_NHW).max())


def test_a_map_depends_on_its_image_alone():
    model = models.create('tiny_cnn', 4)
    variables, images, targets = filled(model, 32), normal(4, 32, 32, 3), np.array([0, 1, 2, 3])
    apply_fn = function(model)
    together = lrp.explain(apply_fn, variables, images, targets)
    alone = lrp.explain(apply_fn, variables, images[2:3], targets[2:3])
    np.testing.assert_allclose(alone[0], together[2], atol=1e-5 * np.abs(alone).max())


def traced(model):
    """Traces the rule; nothing is computed."""
    image = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    return jax.eval_shape(
        functools.partial(lrp._relevance, function(model)), shapes(model), image,
        jax.ShapeDtypeStruct((1,), jnp.int32), jax.ShapeDtypeStruct((), jnp.float32))


def test_every_family_works_or_says_why_not():
    refused = {}
    for family in models.families():
        try:
            assert traced(models.create(f'tiny_{family}', 4)).shape == (1, 32, 32, 3)
        except DataError as error:
            refused[family] = str(error)
    assert set(models.families()) - set(refused) == WORK
    for family, why in refused.items():
        assert 'in Model' in why and 'take integrated_gradients' in why and '\n' not in why, family
    for family, word in (('vit', 'layer norm'), ('mobilenetv4', 'attention'), ('rnn', 'recurrence'),
                         ('squeezenet', 'GELU'), ('regnet', 'gate'), ('nfnet', 'SiLU')):
        assert word in refused[family], family
    assert 'blocks.0/norm1' in refused['vit']  # where it is


@pytest.mark.parametrize('family', CHOSEN)
def test_variants_of_refused_families_work(family):
    traced(models.create(f'tiny_{family}', 4, **CHOSEN[family]))


@pytest.mark.parametrize('act', ['relu', 'relu6', 'leaky_relu', 'elu', 'selu', 'tanh'])
def test_activations_pass_relevance_on(act):
    model = models.create('tiny_mlp', 3, hidden=(6,), act=act)
    variables, images = filled(model, 4, biases=False), 2 * normal(3, 4, 4, 3)
    targets = np.array([0, 1, 2])
    maps_NHW = lrp.explain(function(model), variables, images, targets, epsilon=1e-6)
    logits_N = function(model)(variables, images)[0][np.arange(3), targets]
    np.testing.assert_allclose(maps_NHW.sum((1, 2)), logits_N, rtol=1e-3)


def test_what_depends_on_comparisons_or_constants_is_refused():
    def choosing(variables, images):
        return jnp.where(images > 0, images, 0.5 * images).sum((1, 2)), {}

    def bounded(variables, images):
        return jnp.maximum(images, 1.0).sum((1, 2)), {}

    for apply_fn, word in ((choosing, "'gt'"), (bounded, "'max'")):
        with pytest.raises(DataError, match=f'not defined for {word}'):
            lrp.explain(apply_fn, {}, normal(1, 4, 4, 3), np.array([0]))


def test_what_is_unused_does_not_matter():
    def apply_fn(variables, images):
        return images.sum((1, 2)), {'squares': jnp.square(images)}

    maps_NHW = lrp.explain(apply_fn, {}, np.ones((1, 4, 4, 3), np.float32), np.array([0]))
    np.testing.assert_allclose(maps_NHW, 16 / 16.1 * np.ones((1, 4, 4)), rtol=1e-6)


def test_what_says_nothing_is_an_error():
    model = models.create('tiny_mlp', 3, hidden=(6,))
    images, apply_fn = normal(2, 4, 4, 3), function(model)
    variables = filled(model, 4)
    with pytest.raises(ConfigError, match='epsilon: 0 is not above 0'):
        lrp.explain(apply_fn, variables, images, np.array([0, 1]), epsilon=0)
    with pytest.raises(DataError, match='3'):
        lrp.explain(apply_fn, variables, images, np.array([0, 3]))
    for factor, word in ((0.0, 'zero for all'), (np.inf, 'not finite')):
        broken = jax.tree.map(lambda x: x * np.float32(factor), variables)  # noqa: B023
        with pytest.raises(DataError, match=word):
            lrp.explain(apply_fn, broken, images, np.array([0, 1]))
