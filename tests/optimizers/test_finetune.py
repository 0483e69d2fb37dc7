"""Which parameters train, and how fast."""

import functools

import jax
import numpy as np
import pytest

from configs import base
from imgjax import build, models, state, train
from imgjax import config as config_lib
from imgjax.errors import ConfigError
from imgjax.optimizers.parts import finetune
from imgjax.rundir import dataset_info
from imgjax.study import population

FACTS = dataset_info.DatasetInfo(['a', 'b', 'c'], [8, 8, 3], 30, 10, '', '')


def config_of(name='tiny_vit', freeze=(), layerwise=False, head_steps=0, **hparams) -> dict:
    config = base.get_config()
    config.model = dict(name=name, dtype='float32', options={})
    config.optimizer.update(name='sgd', freeze=freeze, layerwise=layerwise)
    config.schedule.update(name='constant', head_steps=head_steps)
    config.hparams.update(learning_rate=0.1, momentum=0.0, weight_decay=0.01, **hparams)
    config.update(steps=10, batch_size=8)
    return config_lib.checked(config)


@functools.cache
def batch():
    rng = np.random.default_rng(0)
    return {'image': rng.integers(0, 256, (8, 8, 8, 3), np.uint8),
            'label': np.arange(8, dtype=np.int32) % 3, 'weight': np.ones(8, np.float32)}


def changes(config, steps=1) -> dict[str, np.ndarray]:
    """How far each parameter and statistic is from its start, by name."""
    setup = build.setup(config, FACTS, jax.devices()[:1])
    hparams = state.hparams_of(config)
    start = now = train.initial_state(setup, hparams)
    step = jax.jit(setup.train_step, compiler_options={'xla_backend_optimization_level': 0})
    for _ in range(steps):
        now, _ = step(now, batch(), hparams)
    both = ({'params': s.params, 'batch_stats': s.batch_stats} for s in (now, start))
    moved = jax.tree.map(lambda a, b: np.asarray(a - b), *both)
    return {finetune.name_of(path[1:]): leaf
            for path, leaf in jax.tree_util.tree_leaves_with_path(moved)}


def test_frozen_parts_stay_and_the_rest_trains():
    moved = changes(config_of('tiny_resnet', freeze=('conv1', 'bn1', 'layer1.*')))
    for name, change in moved.items():
        if name.startswith(('conv1', 'bn1', 'layer1.')):
            assert not change.any(), name  # statistics, too
        elif name.endswith(('.mean', '.var')) or name.startswith('head'):
            assert change.any(), name


def test_a_norm_with_a_parameter_that_trains_is_not_frozen():
    moved = changes(config_of('tiny_resnet', freeze=('*.scale', 'bn1.*', 'layer2.0.*.bias')))
    stays = [name for name in moved if name.endswith('.mean') and not moved[name].any()]
    assert {'bn1.mean', 'layer2.0.bn1.mean'} <= set(stays)
    assert moved['layer1.0.bn1.mean'].any() and moved['layer1.0.bn1.var'].any()


def test_a_frozen_network_is_the_same_in_training_and_in_evaluation():
    config = config_of('tiny_resnet', freeze=('conv1', 'bn1', 'layer[12].*'))
    setup = build.setup(config | {'accumulation_steps': 2}, FACTS, jax.devices()[:1])
    hparams = state.hparams_of(config)
    start = train.initial_state(setup, hparams)
    stored = jax.tree.map(lambda leaf: 0.5 * leaf, start.batch_stats)
    loud = jax.tree.map(lambda leaf: 100 * leaf, start.params['head'])
    start = start.replace(batch_stats=stored, params=start.params | {'head': loud})
    after, measured = jax.jit(setup.train_step)(start, batch(), hparams)
    jax.tree.map(np.testing.assert_array_equal, after.batch_stats, stored)
    evaluated = jax.jit(setup.eval_step)(
        start, batch() | {'mask': np.ones(8, bool)}, state.hparams_of(setup.config))
    np.testing.assert_allclose(measured['loss'], evaluated['loss'].mean(), rtol=1e-5)
    assert measured['loss'] > 1.2 and measured['accuracy'] == evaluated['accuracy'].mean()


def test_frozen_norms_stay_in_each_member_of_a_population():
    """As study/population.py maps the step: members of other rates end as each does alone."""
    config = config_of('tiny_cnn', freeze=('conv2', 'norm2'))
    setup = build.setup(config, FACTS, jax.devices()[:1])
    members = [state.hparams_of(config | {'hparams': config['hparams'] | {'learning_rate': rate}})
               for rate in (0.1, 0.3)]
    start = train.initial_state(setup, members[0])
    options = {'xla_backend_optimization_level': 0}
    stacked_step = jax.vmap(setup.train_step, in_axes=(0, None, 0))
    together, _ = jax.jit(stacked_step, compiler_options=options)(
        population.stack([jax.device_get(start)] * 2), batch(), population.stack(members))
    alone = jax.jit(setup.train_step, compiler_options=options)
    for place, hparams in enumerate(members):
        mine, _ = alone(start, batch(), hparams)
        one = jax.tree.map(lambda leaf, place=place: leaf[place], together)
        jax.tree.map(np.testing.assert_array_equal, one.batch_stats['norm2'],
                     start.batch_stats['norm2'])
        assert not np.array_equal(one.batch_stats['norm1']['mean'],
                                  start.batch_stats['norm1']['mean'])
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
                     (one.params, one.batch_stats), (mine.params, mine.batch_stats))


def test_no_gradient_is_computed_for_what_is_frozen():
    def size(freeze):
        config = config_of('tiny_resnet', freeze=freeze)
        setup = build.setup(config, FACTS, jax.devices()[:1])
        compiled = jax.jit(setup.train_step).lower(setup.target, batch(), state.hparams_of(config))
        return compiled.compile().cost_analysis()['flops']

    assert size(('conv1', 'bn1', 'layer1.0', 'layer2.0')) < 0.6 * size(())


def test_the_head_trains_first():
    config = config_of('tiny_resnet', head_steps=2)
    for steps in (2, 4):
        moved = changes(config, steps)
        for name, change in moved.items():
            if name.startswith('head'):
                assert change.any()
            elif name.rpartition('.')[2] in ('kernel', 'scale', 'bias'):
                assert change.any() == (steps == 4), name


@pytest.mark.parametrize('options', [{'distilled': True}, {'scan_layers': True}])
def test_learning_rates_fall_with_the_depth(options):
    """BEiT's numbers: embedding 0, a block each, norm and heads on top, which are all trained."""
    config = config_of(layerwise=True, layer_decay=0.5)
    config |= {'model': config.model | {'options': options}}
    even = config | {'hparams': config['hparams'] | {'layer_decay': 1.0}}
    slow, fast = changes(config), changes(even)
    depth = {'patch_embed.proj': 0, 'pos_embed': 0, 'cls_token': 0, 'dist_token': 0, 'norm': 3,
             'head': 3, 'head_dist': 3, 'blocks.0': 1, 'blocks.1': 2, 'blocks': np.array([1, 2])}
    for name, change in slow.items():
        at = next(depth[key] for key in sorted(depth, key=len, reverse=True)
                  if name == key or name.startswith(f'{key}.'))
        factor = 0.5 ** (3.0 - at)
        if np.ndim(factor):
            factor = factor.reshape(-1, *[1] * (change.ndim - 1))
        np.testing.assert_allclose(change, fast[name] * factor, rtol=1e-4, atol=1e-7, err_msg=name)
        assert change.any() or not name.startswith('head'), name


@pytest.mark.parametrize('variant, layers, options', [
    ('resnet18', 8, {}), ('vit_tiny_patch16_224', 12, {}), ('tiny_mlp', 2, {}),
    ('tiny_convnext', 2, {}), ('googlenet', 9, {}), ('densenet121', 58, {}),
    ('cait_xxs24_224', 26, {}), ('tiny_vit', 3, {'pool': 'map'}),
    ('tiny_rnn', 2, {'bidirectional': True})])
def test_depths_follow_the_network(variant, layers, options):
    side = 224 if '224' in variant else 32
    found = finetune.depths(models.create(variant, 3, **options), (side, side, 3))
    heads = {int(leaf) for leaf in jax.tree.leaves(found['head'])}
    numbers = {int(leaf.max()) for leaf in jax.tree.leaves(found)}
    assert heads == {layers + 1} and numbers | {0} == set(range(layers + 2))


@pytest.mark.parametrize('freeze, words', [
    (('blokcs.*',), "config.optimizer.freeze: 'blokcs.\\*' matches no parameter"),
    (('*',), 'config.optimizer.freeze: freezes every parameter')])
def test_patterns_that_make_no_sense(freeze, words):
    with pytest.raises(ConfigError, match=words):
        build.setup(config_of(freeze=freeze), FACTS, jax.devices()[:1])


def test_without_any_of_it_updates_are_the_optimizers():
    updates = {'a': np.ones(3)}
    assert finetune.scale(config_of(), {}, None, 0, updates) is updates
