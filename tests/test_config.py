import copy
import json
import pathlib
import pickle

import pytest

from configs import base, digits
from imgjax import config as config_lib
from imgjax.commands import fields
from imgjax.errors import ConfigError
from imgjax.process import overrides


@pytest.fixture
def config() -> dict:
    return config_lib.plain(config_lib.checked(digits.get_config()))


def test_a_checked_config_is_frozen_and_hashable():
    config = config_lib.checked(digits.get_config())
    for edit in (lambda: config.update(steps=9), lambda: config.data.pop('mean'),
                 lambda: config['model'].__setitem__('name', 'vit'),
                 lambda: setattr(config.hparams, 'seed', 1), lambda: config.__delitem__('ema')):
        with pytest.raises(TypeError, match='a config is frozen'):
            edit()
    other = config | {'steps': 9, 'data': config.data | {'mean': [0.1]}}
    assert (other.steps, other.data.mean, other.data.std) == (9, (0.1,), config.data.std)
    assert config.steps != 9 and len({config, other, config_lib.checked(config)}) == 2
    assert pickle.loads(pickle.dumps(other)) == copy.deepcopy(other) == other
    assert json.loads(json.dumps(other)) == config_lib.plain(other)
    with pytest.raises(AttributeError, match="no field 'dta'"):
        print(config.dta)


def test_base_has_exactly_the_fields_that_are_checked():
    assert set(config_lib.flatten(json.loads(json.dumps(base.get_config().to_dict())))) == set(
        config_lib.FIELDS)
    assert all(field.help for field in config_lib.FIELDS.values())


@pytest.mark.parametrize('change, message', [
    ({'batch_sise': 1}, "config.batch_sise: no such field; did you mean 'batch_size'?"),
    ({'batch_size': 1.5}, 'config.batch_size: takes int, got 1.5'),
    ({'batch_size': True}, 'config.batch_size: takes int, got True'),
    ({'batch_size': 0}, 'config.batch_size: takes at least 1, got 0'),
    ({'ema': 'yes'}, "config.ema: takes bool, got 'yes'"),
    ({'steps': 0}, 'config.steps: set either steps or epochs above 0'),
    ({'epochs': 1.0}, 'config.steps: set either steps or epochs above 0'),
    ({'accumulation_steps': 3}, 'config.accumulation_steps: batch_size 128 is not divisible by 3'),
    ({'augment': ['mixup']}, "config.augment: takes (("),
    ({'augment': [['mixup', {}]]}, 'config.hparams.augment.mixup: missing; it takes the strength'),
    ({'schedule': {'name': 'step', 'warmup_steps': 0, 'milestones': ['a'], 'factor': 0.1}},
     "config.schedule.milestones: takes numbers, got ['a']"),
    ({'watchdog_seconds': float('nan')}, 'config.watchdog_seconds: takes a finite number, got nan'),
    ({'data': {'mean': (0.5, float('-inf'))}}, 'config.data.mean: takes a finite number, got -inf'),
    ({'epochs': {1, 2}}, 'config: not plain JSON data'),
    ({'schedule': {'name': 'cosine', 'warmup_steps': 2.5, 'milestones': [], 'factor': 0.1}},
     'config.schedule.warmup_steps: takes a whole number of steps, or a share of the run below 1'),
])
def test_wrong_fields_are_named(change, message, config):
    with pytest.raises(ConfigError) as error:
        config_lib.checked(config | change)
    assert message in str(error.value)
    assert '\n' not in str(error.value)


def test_nested_fields_are_named(config):
    config['model']['dtype'] = 'float16'
    with pytest.raises(ConfigError, match="config.model.dtype: takes one of 'float32', 'bfloat16'"):
        config_lib.checked(config)
    del config['model']['dtype']
    assert config_lib.checked(config)['model']['dtype'] == 'float32'


def test_hash_follows_the_result_only(config):
    other = copy.deepcopy(config)
    other['mesh']['fsdp'] = 4
    other['data']['data_dir'] = '/elsewhere'
    other['checkpoint']['every'] = 7
    assert config_lib.digest(other) == config_lib.digest(config)
    assert not config_lib.differences(other, config)
    other['hparams']['learning_rate'] = 0.5
    assert config_lib.digest(other) != config_lib.digest(config)
    assert config_lib.differences(other, config) == {
        'hparams.learning_rate': 'hparams.learning_rate: 0.002 -> 0.5'}


def test_what_was_written_is_read_and_an_edit_is_noticed(config, tmp_path):
    assert config_lib.read(str(tmp_path)) is None
    config_lib.write(str(tmp_path), config)
    assert config_lib.read(str(tmp_path)) == config_lib.Config(config)
    path = tmp_path / 'config.json'
    path.write_text(path.read_text().replace('"batch_size": 128', '"batch_size": 64'))
    with pytest.raises(ConfigError, match='was edited'):
        config_lib.read(str(tmp_path))
    path.write_text('{')
    with pytest.raises(ConfigError, match='cannot be used'):
        config_lib.read(str(tmp_path))


@pytest.mark.parametrize('argument, message', [
    ('--config.hparams.learning_rte=1',
     ''),  # parts.complete speaks of numbers
    ('--config.hparam.augment.mixup=1', 'config.hparam.augment.mixup: no such field'),
    ('--config.model.options.depth=3', ''),
    ("--config.model.options= {'depth': 3}", ''),
    ('--config.model=vit', "takes a dict, got 'vit'; one entry of it is set by --config.model.na"),
    ('--config.model.options=depth=3', 'set by --config.model.options.NAME=VALUE'),
    ('--config.data.options.splits.val=3', "data.options has no dict 'splits' to set 'val' in"),
    ('--config.hparams.learning_rate=1', ''),
])
def test_overrides_are_explained(argument, message):
    found = overrides.explain([argument])
    assert message in found and bool(message) == bool(found)


def test_a_config_without_a_field_has_its_default_and_the_same_hash(config, tmp_path):
    """So the run directory of an older version is read and goes on."""
    old = copy.deepcopy(config)
    for name, field in config_lib.FIELDS.items():
        group, _, last = name.rpartition('.')
        inner = old.get(group, {}) if group else old
        if '.' not in group and inner.get(last) == config_lib.plain(field.default):
            del inner[last]
    (tmp_path / 'config.json').write_text(json.dumps(
        {'hash': config_lib.digest(config), 'config': old}))
    assert config_lib.read(str(tmp_path)) == config_lib.Config(config)
    config['sampler']['name'] = 'class_balanced'
    assert config_lib.read(str(tmp_path)) != config_lib.Config(config)


@pytest.mark.parametrize('weights, message', [
    (['balenced'], "config.hparams.class_weights: takes float, got 'balenced'"),
    ([1.0, -1.0], 'config.hparams.class_weights: takes at least 0, got -1.0'),
])
def test_class_weights_are_checked(weights, message, config):
    config['hparams']['class_weights'] = weights
    with pytest.raises(ConfigError) as error:
        config_lib.checked(config)
    assert message in str(error.value)
    config['hparams']['class_weights'] = ['balanced']
    config_lib.checked(config)


@pytest.mark.parametrize('change, message', [
    ({'hparams.label_smothing': 0.1}, "did you mean 'hparams.label_smoothing'?"),
    ({'hparams.momentum': 0.9}, 'config.hparams.momentum: nothing reads it (objective softmax, '
     'optimizer adamw, sampler shuffle); optimizer muon or sgd would; leave it out'),
    ({'hparams.b1': 1.5}, 'config.hparams.b1: takes 0 to 1, got 1.5'),
    ({'hparams.b1': 'x'}, "config.hparams.b1: takes float, got 'x'"),
    ({'optimizer.options.nesterov': True},
     'config.optimizer.options.nesterov: optimizer adamw has no such option. It takes no options'),
    ({'optimizer.name': 'sgd', 'optimizer.options.nesterov': 1},
     'config.optimizer.options.nesterov: takes bool, got 1'),
    ({'optimizer.name': 'sdg'}, "there is no optimizer 'sdg'; did you mean 'sgd'?"),
    ({'objective.name': 'sofmax'}, "there is no objective 'sofmax'; did you mean 'softmax'?"),
    ({'sampler.name': 'schuffle'}, "there is no sampler 'schuffle'; did you mean 'shuffle'?"),
    ({'metrics': (('acuracy', {}),)}, "there is no metric 'acuracy'; did you mean 'accuracy'?"),
    ({'metrics': ('accuracy',)}, 'config.metrics: takes (("metric", {options}), ...)'),
    ({'metrics': (('accuracy', {'k': 5}),)}, 'config.metrics: accuracy.k: metric accuracy has no'),
    ({'objective.name': 'projects.poly_loss'}, 'config.objective.name: projects/poly_loss.py: '
     'there is no such file in'),
    ({'objective.name': '../poly'}, 'config.objective.name: the name'),
])
def test_numbers_and_options_are_those_of_the_parts(change, message):
    config = digits.get_config().to_dict()
    for name, value in change.items():
        config_lib.put(config, name, value)
    with pytest.raises(ConfigError) as error:
        config_lib.checked(config)
    assert message in str(error.value) and '\n' not in str(error.value)


def test_a_part_has_its_numbers_in_the_config(config):
    assert config['hparams']['b1'] == 0.9 and config['hparams']['label_smoothing'] == 0.1
    assert config['hparams']['class_weights'] == [] and 'momentum' not in config['hparams']
    sgd = copy.deepcopy(config)
    sgd['optimizer']['name'] = 'sgd'
    for name in ('b1', 'b2', 'eps'):
        del sgd['hparams'][name]
    sgd = config_lib.checked(sgd)
    assert sgd['optimizer']['options'] == {'nesterov': True} and sgd['hparams']['momentum'] == 0.9
    assert config_lib.digest(sgd) != config_lib.digest(config)


def test_the_list_of_fields_in_the_docs_is_the_one_that_the_command_prints():
    path = pathlib.Path(__file__).parents[1] / 'docs' / 'reference' / 'fields.md'
    assert path.read_text() == f'{fields.whole()}\n', (
        'run `python -m launch.fields 2>docs/reference/fields.md`')
