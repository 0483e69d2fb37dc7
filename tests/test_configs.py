"""Every recipe is loaded, checked, counted at full size and stepped once."""

import importlib
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imgjax import build, state
from imgjax import config as config_lib
from imgjax.rundir import dataset_info
from imgjax.study import plan

ROOT = pathlib.Path(__file__).parent.parent

# recipe: (image shape, classes, parameters)
RECIPES = {
    'digits:cnn': ((8, 8, 1), 10, None),
    'digits:mlp': ((8, 8, 1), 10, 85_002),
    'digits:rnn': ((8, 8, 1), 10, None),
    'digits:resnet': ((8, 8, 1), 10, 269_434),  # 269,722 without two of three stem channels
    'digits:vit': ((8, 8, 1), 10, None),
    'cifar10_resnet20': ((32, 32, 3), 10, 269_722),
    'cifar10_resnet20:folder': ((32, 32, 3), 10, 269_722),
    'folder': ((224, 224, 3), 10, 11_181_642),
    'folder:small': ((32, 32, 3), 10, 269_722),
    'finetune': ((224, 224, 3), 10, None),
    'imagenet_resnet50': ((224, 224, 3), 1000, 25_557_032),
    'imagenet_vit_s16': ((224, 224, 3), 1000, None),
    'imagenet_vit_b16': ((224, 224, 3), 1000, None),
}
TINY = {'resnet50': 'tiny_resnet', 'resnet18': 'tiny_resnet', 'vit_small_patch16_224': 'tiny_vit',
        'vit_base_patch16_224': 'tiny_vit', 'resnet20_cifar': 'tiny_resnet'}
# With a tiny variant their steps are made of the others': cifar10_resnet20 and digits:resnet have
# the flip and the optimizer of folder, imagenet_vit_b16 has all of imagenet_vit_s16.
LIKE_OTHERS = {'cifar10_resnet20:folder', 'folder', 'folder:small', 'imagenet_vit_s16'}


def load(recipe: str) -> dict:
    name, _, arg = recipe.partition(':')
    return config_lib.checked(importlib.import_module(f'configs.{name}').get_config(arg))


STUDIES = sorted((ROOT / 'configs/studies').glob('*.py'))


@pytest.mark.parametrize('path', STUDIES, ids=lambda path: path.stem)
def test_every_study_is_a_question_whose_arms_can_be_run(path):
    study = plan.load(str(path))
    assert study.question.endswith('?')
    assert f'--study=configs/studies/{path.name}' in study.text
    for arm in study.arms:
        build.check(arm.config)


def dataset(shape, classes) -> dataset_info.DatasetInfo:
    names = [f'class {i}' for i in range(classes)]
    return dataset_info.DatasetInfo(names, list(shape), 1000, 100, 'a', 'b')


def test_every_recipe_is_in_the_table():
    files = {p.stem for p in (ROOT / 'configs').glob('*.py')} - {'base'}
    assert files == {recipe.partition(':')[0] for recipe in RECIPES}


@pytest.mark.parametrize('recipe', RECIPES)
def test_recipe_says_what_it_is(recipe):
    text = importlib.import_module(f'configs.{recipe.partition(":")[0]}').__doc__
    first = text.strip().splitlines()[0]
    assert first.endswith('?'), 'the first line is the question that the recipe answers'
    assert 'python -m launch.train --config=configs/' in text
    assert 'Result' in text, 'the result, or untested'


@pytest.mark.parametrize('recipe', RECIPES)
def test_recipe_is_counted_and_its_step_traces_at_full_size(recipe):
    shape, classes, parameters = RECIPES[recipe]
    setup = build.setup(load(recipe) | {'steps': 1000, 'epochs': 0.0}, dataset(shape, classes))
    found = state.parameter_count(setup.target)
    assert parameters is None or found == parameters
    batch = {'image': jax.ShapeDtypeStruct((16, *shape), jnp.uint8),
             'label': jax.ShapeDtypeStruct((16,), jnp.int32),
             'weight': jax.ShapeDtypeStruct((16,), jnp.float32)}
    hparams = jax.eval_shape(lambda: state.hparams_of(setup.config))
    after, metrics = jax.eval_shape(setup.train_step, setup.target, batch, hparams)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(
        lambda x: (x.shape, x.dtype), setup.target)
    assert {'loss', 'accuracy', 'grad_norm', 'learning_rate'} <= set(metrics)


@pytest.mark.parametrize('recipe', sorted(set(RECIPES) - LIKE_OTHERS))
def test_recipe_steps_once(recipe):
    """With the family's tiny variant on small synthetic images, for the larger ones."""
    shape, classes, _ = RECIPES[recipe]
    config = load(recipe) | {'steps': 1000, 'epochs': 0.0}
    if config.model.name in TINY:
        config |= {'model': config.model | {'name': TINY[config.model.name]}}
        shape, classes = (min(shape[0], 16), min(shape[1], 16), shape[2]), 10
    setup = build.setup(config, dataset(shape, classes), jax.devices()[:1])
    hparams = state.hparams_of(setup.config)
    rng = np.random.default_rng(0)
    batch = {'image': rng.integers(0, 255, (8, *shape), np.uint8),
             'label': rng.integers(0, classes, 8).astype(np.int32),
             'weight': np.ones(8, np.float32)}
    after, metrics = jax.jit(lambda batch, hparams: setup.train_step(
        state.init(setup.model, setup.config, shape, hparams), batch, hparams))(batch, hparams)
    assert int(after.step) == 1
    assert not any(after.skipped.values())
    assert np.isfinite(metrics['loss']) and metrics['grad_norm'] > 0
