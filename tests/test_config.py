import copy
import hashlib
import json

import pytest

from configs import base, digits
from imgjax import config as config_lib
from imgjax.errors import ConfigError
from imgjax.process import overrides


@pytest.fixture
def config() -> dict:
    return config_lib.to_plain(digits.get_config())


def test_base_has_exactly_the_fields_that_are_checked():
    assert set(config_lib.flatten(json.loads(json.dumps(base.get_config().to_dict())))) == set(
        config_lib.FIELDS)


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
        config_lib.to_plain(config | change)
    assert message in str(error.value)
    assert '\n' not in str(error.value)


def test_nested_fields_are_named(config):
    config['model']['dtype'] = 'float16'
    with pytest.raises(ConfigError, match="config.model.dtype: takes one of 'float32', 'bfloat16'"):
        config_lib.to_plain(config)
    del config['model']['dtype']
    with pytest.raises(ConfigError, match='config.model.dtype: missing'):
        config_lib.to_plain(config)


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
    assert config_lib.read(str(tmp_path)) == config
    path = tmp_path / 'config.json'
    path.write_text(path.read_text().replace('"batch_size": 128', '"batch_size": 64'))
    with pytest.raises(ConfigError, match='was edited'):
        config_lib.read(str(tmp_path))
    path.write_text('{')
    with pytest.raises(ConfigError, match='cannot be used'):
        config_lib.read(str(tmp_path))


@pytest.mark.parametrize('argument, message', [
    ('--config.hparams.learning_rte=1',
     "config.hparams.learning_rte: no such field; did you mean 'hparams.learning_rate'?"),
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


def test_a_config_of_before_a_field_keeps_its_hash_and_gets_what_it_did(config, tmp_path):
    later = {name: field for name, field in config_lib.FIELDS.items() if field.before is not None}
    assert later
    old = copy.deepcopy(config)
    for name, field in later.items():
        group, _, last = name.rpartition('.')
        assert (old[group] if group else old).pop(last) == field.before, (
            f'configs/base.py: {name} must start at what runs did before it was there')
    flat = {name: value for name, value in config_lib.flatten(old).items()
            if not name.startswith(config_lib.INVOCATION)}
    written = hashlib.sha256(json.dumps(flat, sort_keys=True).encode()).hexdigest()[:16]
    (tmp_path / 'config.json').write_text(json.dumps({'hash': written, 'config': old}))
    assert config_lib.read(str(tmp_path)) == config
    assert config_lib.digest(config) == written
    config['data']['sampler'] = 'class_balanced'
    assert config_lib.digest(config) != written


@pytest.mark.parametrize('weights, message', [
    (['balenced'], "config.hparams.class_weights: takes (), ('balanced',) or a number"),
    ([1.0, -1.0], "config.hparams.class_weights: takes (), ('balanced',) or a number"),
])
def test_class_weights_are_checked(weights, message, config):
    config['hparams']['class_weights'] = weights
    with pytest.raises(ConfigError) as error:
        config_lib.to_plain(config)
    assert message in str(error.value)
    config['hparams']['class_weights'] = ['balanced']
    config_lib.to_plain(config)
