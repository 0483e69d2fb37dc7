"""One row a family: its tiny variant goes through every check. Published models: their counts."""

import functools
import json
import os
import pathlib
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from imgjax import models
from imgjax.models.parts import frozen, layers
from imgjax.optimizers.parts import finetune

# variant: image side, an option that changes the network, names of `out` besides the last two.
TINY = {
    'tiny_mlp': (8, {'hidden': (8,)}, 'hidden1 hidden2'),
    'tiny_cnn': (8, {'norm': 'group'}, 'stage1 stage2 hidden1 hidden2'),
    'tiny_rnn': (8, {'cell': 'gru'}, 'layer1 layer2'),
    'tiny_resnet': (8, {'norm': 'group'}, 'stem stage1_block0 stage1 stage2_block0 stage2'),
    'tiny_alexnet': (8, {'grid': 1}, 'stage1 stage2 hidden1 hidden2'),
    'tiny_vgg': (8, {'norm': 'batch'}, 'stage1 stage2 hidden1 hidden2'),
    'tiny_squeezenet': (8, {'squeezes': ((4,), (4,))}, 'stem stage1 stage2'),
    'tiny_googlenet': (8, {'norm': 'group'}, 'stem stage1 stage2'),
    'tiny_inception_v3': (8, {'norm': 'group'}, 'stem stage1 stage2'),
    'tiny_densenet': (8, {'norm': 'group'}, 'stem stage1 stage2'),
    'tiny_coatnet': (16, {'form': 'rw'}, 'stem stage1 stage2'),
    'tiny_hiera': (16, {'patch_size': 5}, 'stem stage1 stage2'),
    'tiny_maxvit': (16, {'window': 1}, 'stem stage1 stage2'),
    'tiny_swin': (16, {'windows': (2, 2)}, 'stem stage1 stage2'),
    'tiny_swinv2': (16, {'heads': (4, 4)}, 'stem stage1 stage2'),
    'tiny_efficientnet': (8, {'se': 'expanded'}, 'stem stage1 stage2 conv_head'),
    'tiny_mobilenetv1': (8, {'head': 16}, 'stem stage1 stage2'),
    'tiny_mobilenetv2': (8, {'width': 2.0}, 'stem stage1 stage2 conv_head'),
    'tiny_mnasnet': (8, {'se': 'none'}, 'stem stage1 stage2 conv_head'),
    'tiny_efficientnetv2': (16, {'se': 'expanded'}, 'stem stage1 stage2 stage3 conv_head'),
    'tiny_mobilenetv3': (8, {'se': 'input'}, 'stem stage1 stage2'),
    'tiny_mobilenetv4': (16, {'layer_scale': None}, 'stem stage1 stage2'),
    'tiny_vit': (8, {'pool': 'avg'}, 'embed block00 block01 encoded'),
    'tiny_mlp_mixer': (8, {'token_ratio': 2.0}, 'embed block00 block01 encoded'),
    'tiny_resmlp': (8, {'layer_scale': None}, 'embed block00 block01 encoded'),
    'tiny_gmlp': (8, {'mlp_ratio': 2.0}, 'embed block00 block01 encoded'),
    'tiny_convmixer': (8, {'kernel_size': 5}, 'stem block00 block01'),
    'tiny_convnext': (8, {'response_norm': True}, 'stem stage1 stage2'),
    'tiny_metaformer': (16, {'bias': True}, 'stem stage1 stage2'),
    'tiny_cait': (8, {'width': 24}, 'embed block00 block01 token00 encoded'),
    'tiny_xcit': (8, {'token_depth': 1}, 'embed block00 block01 token00 token01 encoded'),
    'tiny_mobilevit': (16, {'features': 24}, 'stem stage1 stage2 final'),
    'tiny_mobilevitv2': (16, {'stem': 8}, 'stem stage1 stage2'),
    'tiny_eva02': (8, {'joint_qkv': True}, 'embed block00 block01 encoded'),
    'tiny_beit': (8, {'pool': 'token'}, 'embed block00 block01 encoded'),
    'tiny_resnetv2': (8, {'block': 'basic'}, 'stem stage1 stage2'),
    'tiny_regnet': (8, {'se_ratio': 0.0}, 'stem stage1 stage2'),
    'tiny_repvgg': (8, {'fused': True}, 'stem stage1 stage2'),
    'tiny_nfnet': (8, {'attention': 'eca'}, 'stem stage1 stage2 final'),
    'tiny_shufflenet_v2': (8, {'depths': (1, 1)}, 'stem stage1 stage2 final'),
}
# A variant's tests share what they compile, so they go to one process.
tiny = pytest.mark.parametrize(
    'variant', [pytest.param(name, marks=pytest.mark.xdist_group(name)) for name in TINY])

# variant: image side, channels, classes, parameters; for what the facts below do not have.
COUNTS = {
    'lenet5': (28, 1, 10, 61_706),
    'resnet20_cifar': (32, 3, 10, 269_722),
    'resnet32_cifar': (32, 3, 10, 464_154),
    'resnet44_cifar': (32, 3, 10, 658_586),
    'resnet56_cifar': (32, 3, 10, 853_018),
    'resnet110_cifar': (32, 3, 10, 1_727_962),
    'wrn_28_10': (32, 3, 10, 36_479_194),
    'alexnet': (224, 3, 1000, 61_100_840),
    'vgg11_bn': (224, 3, 1000, 132_868_840),
    'vgg13_bn': (224, 3, 1000, 133_053_736),
    'squeezenet1_0': (224, 3, 1000, 1_248_424),
    'squeezenet1_1': (224, 3, 1000, 1_235_496),
    'googlenet': (224, 3, 1000, 6_624_904),
    'densenet_bc_100_12': (32, 3, 10, 769_162),
    'resnet50': (224, 3, 1000, 25_557_032),
    'vit_small_patch16_224': (224, 3, 1000, 22_050_664),
    'shufflenet_v2_x0_5': (224, 3, 1000, 1_366_792),
    'shufflenet_v2_x2_0': (224, 3, 1000, 7_393_996),
}
# timm's counts at 1,000 classes: [parameters, of the head, batch statistics, features].
FACTS = json.loads((pathlib.Path(__file__).parent / 'timm_counts.json').read_text())
# Sides of images where the name does not say it: the first pattern that matches.
SIDES = (('dinov2', 518), ('inception_v3', 299), ('', 224))


# Compiling is what these tests wait for, and XLA's optimiser is not under test.
jit = functools.partial(jax.jit, compiler_options={'xla_backend_optimization_level': 0})


def images(variant, n=16, channels=3):
    side = TINY[variant][0]
    return np.random.default_rng(7).normal(size=(n, side, side, channels)).astype(np.float32)


def shapes_of(model, image_NHWC, train=False):
    return jax.eval_shape(
        lambda x: model.init_with_output(jax.random.key(0), x, train=train), image_NHWC)


@functools.cache
def built(variant, seed=0, **options):
    """The model and variables in which no layer is silent, as zero-started ones are."""
    model = models.create(variant, 5, **options)
    rng = np.random.default_rng(seed)

    def fill(path, leaf):
        start = np.float32(path[-1].key in ('scale', 'var', 'gain'))
        width = 0.2 if leaf.ndim < 2 else 1.5 / np.sqrt(np.prod(leaf.shape[:-1]))
        return start + rng.uniform(-width, width, leaf.shape).astype(leaf.dtype)

    _, variables = shapes_of(model, images(variant, 1))
    return model, jax.tree_util.tree_map_with_path(fill, variables)


def apply(model, variables, x, train=False):
    rngs = {'dropout': jax.random.key(2)}
    (logits, out), stats = model.apply(
        variables, x, train=train, rngs=rngs, mutable=['batch_stats'])
    return logits, out, stats


@functools.cache
def forward(variant, **options):
    return jit(functools.partial(apply, built(variant, **options)[0]))


@functools.cache
def evaluated(variant, **options):
    return forward(variant, **options)(built(variant, **options)[1], images(variant))


def training_loss(params, model, variables, x):
    """The mean loss of images labelled in turns, and what `apply` returns."""
    results = apply(model, {**variables, 'params': params}, x, train=True)
    losses_N = optax.softmax_cross_entropy_with_integer_labels(results[0], jnp.arange(len(x)) % 5)
    return jnp.mean(losses_N), results


@functools.cache
def stepper(variant):
    """The optimizer's start and a jitted step of it on all images, labelled in turns."""
    model, variables = built(variant)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(3e-3))
    x = images(variant)

    @jit
    def step(variables, opt_state):
        (value, results), grads = jax.value_and_grad(training_loss, has_aux=True)(
            variables['params'], model, variables, x)
        with jax.numpy_dtype_promotion('standard'):  # optax multiplies floats and counts
            updates, opt_state = optimizer.update(grads, opt_state)
        params = optax.apply_updates(variables['params'], updates)
        return (value, results, grads), {'params': params, **results[2]}, opt_state

    return optimizer.init(variables['params']), step


@functools.cache
def trained(variant):
    """(loss, (logits, out, batch_stats), gradients) of the first step."""
    start, step = stepper(variant)
    return step(built(variant)[1], start)[0]


def sizes(variables, collection):
    return sum(leaf.size for leaf in jax.tree.leaves(variables.get(collection, {})))


def test_every_family_has_its_row_and_every_variant_one_family():
    assert {f'tiny_{family}' for family in models.families()} == set(TINY)
    assert 'layers' not in models.families()
    per_family = [
        sys.modules[f'imgjax.models.{family}'].VARIANTS
        for family in sorted(set(models.variants().values()))
    ]
    assert sum(map(len, per_family)) == len(models.variants()), 'a name in two families'


@tiny
def test_forward(variant):
    for logits, out, _ in (trained(variant)[1], evaluated(variant)):
        assert logits.shape == (16, 5) and logits.dtype == jnp.float32
        assert set(out) == {*TINY[variant][2].split(), 'pre_logits', 'logits'}
        for name, array in jax.device_get(out).items():
            assert array.shape[0] == 16 and np.isfinite(array).all() and array.std() > 0, name
        np.testing.assert_array_equal(out['logits'], logits)


@tiny
def test_init(variant):
    model = models.create(variant, 5)
    init = jit(functools.partial(model.init, train=False))
    variables = jax.device_get(init(jax.random.key(0), images(variant, 1)))
    assert set(variables) <= {'params', 'batch_stats'}
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
        assert leaf.dtype == np.float32 and np.isfinite(leaf).all()
        if path[-1].key == 'kernel' and not path[1].key.startswith('head'):
            assert 0.01 < leaf.std() < 1, path


@tiny
def test_weight_matrices_and_nothing_else_are_called_kernel(variant):
    # Weight decay reads the name: a kernel has two axes or more, and is what acts on the input.
    _, variables = built(variant)
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables['params']):
        name = path[-1].key
        assert name not in ('weight', 'w') and (name != 'kernel' or leaf.ndim >= 2), path


@tiny
def test_every_parameter_gets_a_finite_gradient(variant):
    loss, _, grads = trained(variant)
    assert np.isfinite(loss)
    for path, grad in jax.tree_util.tree_leaves_with_path(jax.device_get(grads)):
        assert np.isfinite(grad).all() and np.any(grad != 0), jax.tree_util.keystr(path)


@tiny
def test_jit_is_eager(variant):
    eager, _, _ = apply(*built(variant), images(variant))
    np.testing.assert_allclose(evaluated(variant)[0], eager, rtol=1e-4, atol=1e-4)


@tiny
def test_sixteen_images_are_learnt_by_heart_in_sixty_steps(variant):
    opt_state, step = stepper(variant)
    variables = built(variant)[1]
    for _ in range(60):
        (loss, results, _), variables, opt_state = step(variables, opt_state)
    accuracy = np.mean(np.argmax(results[0], axis=-1) == np.arange(16) % 5)
    assert accuracy == 1 and loss < 0.3 * trained(variant)[0]


@tiny
def test_bfloat16_computes_near_float32(variant):
    exact, _, _ = evaluated(variant)
    near, out, _ = evaluated(variant, dtype='bfloat16')
    assert {leaf.dtype for leaf in jax.tree.leaves(built(variant, dtype='bfloat16')[1])} == {
        np.dtype('float32')
    }
    first = TINY[variant][2].split()[0]
    assert near.dtype == jnp.float32 and out[first].dtype == jnp.bfloat16
    error = np.abs(np.asarray(near) - np.asarray(exact)).max()
    assert 0 < error < 0.05 * np.abs(np.asarray(exact)).max()


@tiny
def test_no_classes_gives_the_features(variant):
    (features, out), variables = shapes_of(models.create(variant, 0), images(variant, 2))
    assert features.dtype == jnp.float32 and features.shape == out['pre_logits'].shape
    heads = [name for name in built(variant)[1]['params'] if name not in variables['params']]
    assert all(name.startswith('head') for name in heads) and heads


@tiny
@pytest.mark.parametrize('channels', [1, 4])
def test_any_number_of_channels(variant, channels):
    (logits, _), _ = shapes_of(models.create(variant, 5), images(variant, 2, channels), train=True)
    assert logits.shape == (2, 5)


@tiny
def test_every_activation(variant):
    names = list(layers.ACTIVATIONS)
    traced = {
        name: str(jax.make_jaxpr(functools.partial(apply, models.create(variant, 5, act=name)))(
            built(variant)[1], images(variant, 2)))
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
            shapes_of(models.create(variant, 5, **options), images(variant, 2))
        assert all(word in str(error.value) for word in words) and '\n' not in str(error.value)


@tiny
def test_an_option_changes_the_network(variant):
    shapes = [jax.tree.map(jnp.shape, shapes_of(models.create(variant, 5, **options),
                                                images(variant, 2))[1])
              for options in ({}, TINY[variant][1])]
    assert shapes[0] != shapes[1]


@tiny
@pytest.mark.parametrize('option', ['dropout', 'drop_path'])
def test_dropout_is_random_in_training_only(variant, option):
    options = models.options(variant)
    if option not in options:
        assert option == 'drop_path', 'every family has dropout'
        return
    model = models.create(variant, 5, **{option: 0.5})

    def traced(train):
        return str(jax.make_jaxpr(functools.partial(apply, model, train=train))(
            built(variant)[1], images(variant, 2)))

    assert 'random_bits' in traced(True) and 'random_bits' not in traced(False)


@tiny
def test_with_frozen_norms_training_is_inference(variant):
    options = {name: 0.0 for name in ('dropout', 'drop_path') if name in models.options(variant)}
    with frozen.norms(lambda name: True):
        trained, evaluated = (
            str(jax.make_jaxpr(functools.partial(
                apply, models.create(variant, 5, **options), train=train))(
                    built(variant)[1], images(variant, 2))) for train in (True, False))
    assert trained == evaluated


@tiny
def test_a_new_head_starts_with_the_loss_of_chance_and_learns(variant):
    variables, family = built(variant)[1], variant.removeprefix('tiny_')
    start = getattr(sys.modules[f'imgjax.models.{family}'], 'NEW_HEAD_BIAS', 0.0)
    begun = {**variables, 'params': finetune.with_new_classifiers(variables['params'], start)}
    opt_state, step = stepper(variant)
    (loss, (logits, *_), grads), _, _ = step(begun, opt_state)
    assert loss == pytest.approx(np.log(5)) and np.all(logits == logits[0, 0])
    assert logits[0, 0] == 0 or start
    assert any(np.any(leaf != 0) for leaf in jax.tree.leaves(grads['head']) if leaf.ndim > 1)


@tiny
def test_forward_mode_is_reverse_mode(variant):
    model, variables = built(variant)
    start, direction = variables['params'], built(variant, seed=1)[1]['params']

    def loss(params):
        return training_loss(params, model, variables, images(variant))[0]

    slope = jit(lambda *args: jax.jvp(loss, args[:1], args[1:])[1])(start, direction)
    products = jax.tree.map(lambda a, b: np.vdot(a, b), trained(variant)[2], direction)
    size = jax.tree.reduce(lambda a, b: a + abs(b), products, 0.0)
    assert abs(slope - sum(jax.tree.leaves(products))) < 1e-4 * size
    # Hessian times vector by forward over reverse; traced only, as compiling takes long.
    jax.eval_shape(lambda *args: jax.jvp(jax.grad(loss), args[:1], args[1:]), start, direction)


@tiny
def test_depths_rise_along_the_path_of_the_data(variant):
    model, called = models.create(variant, 5), []

    def note(method, args, kwargs, context):
        called.extend(context.module.path[:1])
        return method(*args, **kwargs)

    with nn.intercept_methods(note):
        shapes_of(model, images(variant, 1))
    depths = {name: {int(leaf) for leaf in jax.tree.leaves(tree)}
              for name, tree in finetune.depths(model, images(variant).shape[1:]).items()}
    assert all(len(numbers) == 1 for numbers in depths.values())  # a block is one layer
    path = [depths[name].copy().pop() for name in dict.fromkeys(called) if name in depths]
    assert path == sorted(path) and path[0] in (0, 1) and len(set(path)) > 2
    for name, numbers in depths.items():
        assert name in called or numbers == {0}, name  # class tokens, positions
        assert not name.startswith('head') or numbers == {path[-1]}


@tiny
def test_remat_changes_no_shape(variant):
    if 'remat' in models.options(variant):
        jaxpr = str(jax.make_jaxpr(functools.partial(
            apply, models.create(variant, 5, remat=True)))(built(variant)[1], images(variant, 2)))
        assert 'remat' in jaxpr or 'checkpoint' in jaxpr


@tiny
def test_eight_devices_are_one(variant):
    model, variables = built(variant)
    mesh = Mesh(np.asarray(jax.devices()).reshape(8), ('data',))
    x = jax.device_put(images(variant), NamedSharding(mesh, PartitionSpec('data')))
    everywhere = jax.device_put(variables, NamedSharding(mesh, PartitionSpec()))
    logits, _, stats = jit(functools.partial(apply, model, train=True))(everywhere, x)
    _, (one_logits, _, one_stats), _ = trained(variant)
    np.testing.assert_allclose(logits, one_logits, rtol=1e-4, atol=1e-4)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4), stats, one_stats)


@tiny
def test_two_seeds_at_once_are_two_alone(variant):
    model, first = built(variant)
    second = built(variant, seed=1)[1]
    both = jax.tree.map(lambda *leaves: np.stack(leaves), first, second)
    one = functools.partial(apply, model)
    logits, _, _ = jit(jax.vmap(one, in_axes=(0, None)))(both, images(variant))
    np.testing.assert_allclose(logits[0], evaluated(variant)[0], rtol=1e-4, atol=1e-4)
    alone, _, _ = forward(variant)(second, images(variant))
    np.testing.assert_allclose(logits[1], alone, rtol=1e-4, atol=1e-4)


def count(variant, side, channels, classes):
    x = jax.ShapeDtypeStruct((1, side, side, channels), jnp.float32)
    (_, out), variables = shapes_of(models.create(variant, classes), x)
    heads = {k: v for k, v in variables['params'].items() if k.startswith('head')}
    return [sizes(variables, 'params'), sizes({'heads': heads}, 'heads'),
            sizes(variables, 'batch_stats'), out['pre_logits'].shape[-1]]


@pytest.mark.parametrize('variant', COUNTS)
def test_published_counts(variant):
    *where, expected = COUNTS[variant]
    assert count(variant, *where)[0] == expected


@pytest.mark.parametrize('variant', sorted(set(FACTS) & set(models.variants())))
def test_counts_are_timms(variant):
    expected = FACTS[variant]
    said = re.findall(r'_(\d{3})(?:_|$)', variant)
    side = int(said[-1]) if said and int(said[-1]) >= 128 else next(
        side for part, side in SIDES if part in variant)
    *sums, width = count(variant, side, 3, 1000 if expected[1] else 0)
    assert sums == expected[:3]
    # timm's features are those before a hidden layer of the head; what pre_logits are comes after.
    assert width in (expected[3], expected[1] // 1000 - 1)


def test_create_takes_variants_and_families():
    assert models.create('resnet50', 10).depths == (3, 4, 6, 3)
    assert models.create('resnet50', 10, depths=(1, 1, 1, 1)).depths == (1, 1, 1, 1)
    assert models.create('vit', 10) == models.create('vit_small_patch16_224', 10)


@pytest.mark.parametrize(
    ('name', 'words'),
    [
        ('resnt50', ["'resnt50'", 'resnet50', 'The families are ']),
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
    """On a platform that there is not: whatever asks JAX for a device fails."""
    code = 'from imgjax import models; models.families(); models.create("vit", 5)'
    subprocess.run([sys.executable, '-c', code], check=True, timeout=60,
                   env=os.environ | {'JAX_PLATFORMS': 'none_such'})
