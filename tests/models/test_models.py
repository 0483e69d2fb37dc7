"""One row a family: its tiny variant goes through every check. Published models: their counts."""

import functools
import json
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from imgjax import models
from imgjax.models import layers

# variant: an option that changes the network, and the names of `out` besides the last two.
TINY = {
    'test_mlp': ({'hidden': (8,)}, ['hidden1', 'hidden2']),
    'test_cnn': ({'norm': 'group'}, ['stage1', 'stage2', 'hidden1', 'hidden2']),
    'test_rnn': ({'cell': 'gru'}, ['layer1', 'layer2']),
    'test_resnet': (
        {'norm': 'group'},
        ['stem', 'stage1_block0', 'stage1', 'stage2_block0', 'stage2'],
    ),
    'test_vit': ({'pool': 'avg'}, ['embed', 'block00', 'block01', 'encoded']),
}
tiny = pytest.mark.parametrize('variant', TINY)

# variant: image side, channels, classes, parameters.
COUNTS = {
    'lenet5': (28, 1, 10, 61_706),
    'resnet20_cifar': (32, 3, 10, 269_722),
    'resnet32_cifar': (32, 3, 10, 464_154),
    'resnet44_cifar': (32, 3, 10, 658_586),
    'resnet56_cifar': (32, 3, 10, 853_018),
    'resnet110_cifar': (32, 3, 10, 1_727_962),
    'resnet18': (224, 3, 1000, 11_689_512),
    'resnet26': (224, 3, 1000, 15_995_176),
    'resnet34': (224, 3, 1000, 21_797_672),
    'resnet50': (224, 3, 1000, 25_557_032),
    'resnet101': (224, 3, 1000, 44_549_160),
    'resnet152': (224, 3, 1000, 60_192_808),
    'vit_tiny_patch16_224': (224, 3, 1000, 5_717_416),
    'vit_small_patch16_224': (224, 3, 1000, 22_050_664),
    'vit_small_patch32_224': (224, 3, 1000, 22_878_952),
    'vit_base_patch8_224': (224, 3, 1000, 86_576_872),
    'vit_base_patch16_224': (224, 3, 1000, 86_567_656),
    'vit_base_patch16_384': (384, 3, 1000, 86_859_496),
    'vit_base_patch32_224': (224, 3, 1000, 88_224_232),
    'vit_large_patch16_224': (224, 3, 1000, 304_326_632),
    'vit_large_patch32_224': (224, 3, 1000, 306_535_400),
    'vit_huge_patch14_224': (224, 3, 1000, 632_045_800),
}
FACTS = pathlib.Path(__file__).parents[3] / 'shared/facts/param_counts.json'


# Compiling is what these tests wait for, and XLA's optimiser is not under test.
jit = functools.partial(jax.jit, compiler_options={'xla_backend_optimization_level': 0})


def images(n=8, channels=3):
    return np.random.default_rng(7).normal(size=(n, 8, 8, channels)).astype(np.float32)


@functools.cache
def built(variant, **options):
    """The model and variables in which no layer is silent, as zero-started ones are."""
    model = models.create(variant, 5, **options)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), images(1), train=False))
    rng = np.random.default_rng(0)

    def fill(path, leaf):
        start = np.float32(path[-1].key in ('scale', 'var'))
        width = 0.2 if leaf.ndim < 2 else 1.5 / np.sqrt(np.prod(leaf.shape[:-1]))
        return start + rng.uniform(-width, width, leaf.shape).astype(leaf.dtype)

    return model, jax.tree_util.tree_map_with_path(fill, shapes)


def apply(model, variables, x, train=False):
    rngs = {'dropout': jax.random.key(2)}
    (logits, out), stats = model.apply(
        variables, x, train=train, rngs=rngs, mutable=['batch_stats']
    )
    return logits, out, stats


@functools.cache
def evaluated(variant, **options):
    model, variables = built(variant, **options)
    return jit(functools.partial(apply, model))(variables, images())


@functools.cache
def trained(variant):
    """((loss, (logits, out, batch_stats)), gradients) of one batch in training."""
    model, variables = built(variant)

    def loss(params):
        results = apply(model, {**variables, 'params': params}, images(), train=True)
        return jnp.mean(jax.nn.logsumexp(results[0], axis=-1) - results[0][:, 0]), results

    return jit(jax.value_and_grad(loss, has_aux=True))(variables['params'])


def sizes(variables, collection):
    return sum(leaf.size for leaf in jax.tree.leaves(variables.get(collection, {})))


def test_every_family_has_its_row_and_every_variant_one_family():
    assert {f'test_{family}' for family in models.families()} == set(TINY)
    assert 'layers' not in models.families()
    per_family = [
        sys.modules[f'imgjax.models.{family}'].VARIANTS
        for family in sorted(set(models.variants().values()))
    ]
    assert sum(map(len, per_family)) == len(models.variants()), 'a name in two families'


@tiny
def test_forward(variant):
    (_, training), _ = trained(variant)
    for logits, out, _ in (training, evaluated(variant)):
        assert logits.shape == (8, 5) and logits.dtype == jnp.float32
        assert set(out) == {*TINY[variant][1], 'pre_logits', 'logits'}
        for name, array in jax.device_get(out).items():
            assert array.shape[0] == 8 and np.isfinite(array).all() and array.std() > 0, name
        np.testing.assert_array_equal(out['logits'], logits)


@tiny
def test_init(variant):
    model = models.create(variant, 5)
    init = jit(functools.partial(model.init, train=False))
    variables = jax.device_get(init(jax.random.key(0), images(1)))
    assert set(variables) <= {'params', 'batch_stats'}
    assert jax.tree.map(jnp.shape, variables) == jax.tree.map(jnp.shape, built(variant)[1])
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
        assert leaf.dtype == np.float32 and np.isfinite(leaf).all()
        if path[-1].key == 'kernel' and path[1].key != 'head':
            assert 0.02 < leaf.std() < 1, path


@tiny
def test_weight_matrices_and_nothing_else_are_called_kernel(variant):
    _, variables = built(variant)
    vectors = {'bias', 'scale', 'pos_embedding', 'cls_token'}
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables['params']):
        name = path[-1].key
        assert name in vectors or (name == 'kernel' and leaf.ndim >= 2), path


@tiny
def test_every_parameter_gets_a_finite_gradient(variant):
    (loss, _), grads = trained(variant)
    assert np.isfinite(loss)
    for path, grad in jax.tree_util.tree_leaves_with_path(jax.device_get(grads)):
        assert np.isfinite(grad).all() and np.any(grad != 0), jax.tree_util.keystr(path)


@tiny
def test_jit_is_eager(variant):
    eager, _, _ = apply(*built(variant), images(), train=True)
    (_, (logits, _, _)), _ = trained(variant)
    np.testing.assert_allclose(logits, eager, rtol=1e-5, atol=1e-5)


@tiny
def test_bfloat16_computes_near_float32(variant):
    exact, _, _ = evaluated(variant)
    near, out, _ = evaluated(variant, dtype='bfloat16')
    assert {leaf.dtype for leaf in jax.tree.leaves(built(variant, dtype='bfloat16')[1])} == {
        np.dtype('float32')
    }
    assert near.dtype == jnp.float32 and out[TINY[variant][1][0]].dtype == jnp.bfloat16
    error = np.abs(np.asarray(near) - np.asarray(exact)).max()
    assert 0 < error < 0.05 * np.abs(np.asarray(exact)).max()


@tiny
def test_no_classes_gives_the_features(variant):
    model, variables = models.create(variant, 0), dict(built(variant)[1])
    variables['params'] = {k: v for k, v in variables['params'].items() if k != 'head'}
    logits, out, _ = jit(functools.partial(apply, model))(variables, images())
    assert logits.dtype == jnp.float32
    np.testing.assert_array_equal(logits, out['pre_logits'])
    np.testing.assert_allclose(logits, evaluated(variant)[1]['pre_logits'], rtol=1e-5, atol=1e-5)


@tiny
@pytest.mark.parametrize('channels', [1, 3, 4])
def test_any_number_of_channels(variant, channels):
    shape = jax.eval_shape(
        lambda x: models.create(variant, 5).init_with_output(jax.random.key(0), x, train=True),
        images(2, channels),
    )
    assert shape[0][0].shape == (2, 5)


@tiny
def test_every_activation(variant):
    _, variables = built(variant)
    names = list(layers.ACTIVATIONS)
    traced = {
        name: str(
            jax.make_jaxpr(functools.partial(apply, models.create(variant, 5, act=name)))(
                variables, images(2)
            )
        )
        for name in names
    }
    assert len(set(traced.values())) == len(names)


@tiny
def test_a_wrong_option_is_named_with_the_right_ones(variant):
    for options, words in (
        ({'dtyp': 'float32'}, ["'dtyp'", "did you mean 'dtype'?", 'act, ']),
        ({'act': 'rellu'}, ["'rellu'", "did you mean 'relu'?", 'gelu_tanh']),
        ({'dtype': 'bfloat61'}, ["'bfloat61'", "did you mean 'bfloat16'?", 'float32']),
    ):
        with pytest.raises(ValueError) as error:
            model = models.create(variant, 5, **options)
            jax.eval_shape(lambda model=model: model.init(jax.random.key(0), images(2), train=True))
        assert all(word in str(error.value) for word in words) and '\n' not in str(error.value)


@tiny
def test_an_option_changes_the_network(variant):
    shapes = [jax.tree.map(jnp.shape, built(variant, **o)[1]) for o in ({}, TINY[variant][0])]
    assert shapes[0] != shapes[1]


@tiny
def test_dropout_is_random_in_training_only(variant):
    model, variables = models.create(variant, 5, dropout=0.5), built(variant)[1]

    def logits(seed, train):
        rngs = {'dropout': jax.random.key(seed)}
        results = model.apply(variables, images(2), train=train, rngs=rngs, mutable=['batch_stats'])
        return results[0][0]

    training = jit(functools.partial(logits, train=True))
    assert np.any(np.asarray(training(0)) != np.asarray(training(1)))
    np.testing.assert_array_equal(training(0), training(0))
    evaluation = jax.make_jaxpr(functools.partial(logits, train=False))(0)
    assert 'random_bits' not in str(evaluation)


@tiny
def test_eight_devices_are_one(variant):
    model, variables = built(variant)
    mesh = Mesh(np.asarray(jax.devices()).reshape(8), ('data',))
    x = jax.device_put(images(), NamedSharding(mesh, PartitionSpec('data')))
    everywhere = jax.device_put(variables, NamedSharding(mesh, PartitionSpec()))
    logits, _, stats = jit(functools.partial(apply, model, train=True))(everywhere, x)
    (_, (one_logits, _, one_stats)), _ = trained(variant)
    np.testing.assert_allclose(logits, one_logits, rtol=1e-5, atol=1e-5)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5), stats, one_stats
    )


@pytest.mark.parametrize('variant', COUNTS)
def test_published_counts(variant):
    side, channels, classes, count = COUNTS[variant]
    model = models.create(variant, classes)
    x = jax.ShapeDtypeStruct((1, side, side, channels), jnp.float32)
    (_, out), variables = jax.eval_shape(
        lambda x: model.init_with_output(jax.random.key(0), x, train=False), x
    )
    assert sizes(variables, 'params') == count
    if not FACTS.exists() or variant not in (facts := json.loads(FACTS.read_text())):
        return
    head, features = variables['params']['head'], out['pre_logits'].shape[-1]
    found = [count, sizes({'head': head}, 'head'), sizes(variables, 'batch_stats'), features]
    assert found == facts[variant]


def test_create_takes_variants_and_families():
    assert models.create('resnet50', 10).depths == (3, 4, 6, 3)
    assert models.create('resnet50', 10, depths=(1, 1, 1, 1)).depths == (1, 1, 1, 1)
    assert models.create('vit', 10) == models.create('vit_small_patch16_224', 10)


@pytest.mark.parametrize(
    ('name', 'words'),
    [
        ('resnt50', ["'resnt50'", 'resnet50', 'families: cnn, mlp, ']),
        ('layers', ["unknown model 'layers'"]),
        ('../vit', ["'../vit'", 'refused']),
        ('vit.Model', ['refused']),
        ('vit\n', ['refused']),
        ('', ['refused']),
        (None, ['refused']),
    ],
)
def test_a_wrong_name_is_refused_in_one_line(name, words):
    with pytest.raises(ValueError) as error:
        models.create(name, 5)
    assert all(word in str(error.value) for word in words) and '\n' not in str(error.value)


def test_importing_and_creating_touch_no_device():
    code = (
        'from imgjax import models; models.families(); models.create("vit", 5)\n'
        'from jax._src import xla_bridge\n'
        'assert not xla_bridge.backends_are_initialized()'
    )
    subprocess.run([sys.executable, '-c', code], check=True, timeout=60)
