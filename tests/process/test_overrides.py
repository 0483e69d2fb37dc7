"""Flags --config.FIELD=VALUE on top of a recipe, and fields that would have no effect."""

import logging

import pytest
from absl import flags
from ml_collections import config_flags

from configs import base, digits
from imgjax import checks, parts, train
from imgjax import config as config_lib
from imgjax.config import unread
from imgjax.errors import ConfigError
from imgjax.optimizers.parts import schedule
from imgjax.process import overrides
from imgjax.study import plan
from tests.test_configs import RECIPES, load


def parsed(recipe, *given: str) -> dict:
    """Returns the plain config of a recipe under flags, as an entry point gets it."""
    arguments = ['launch.train', f'--config={recipe}', *given]
    values = flags.FlagValues()
    flag = config_flags.DEFINE_config_file(
        'config', None, flag_values=values, sys_argv=arguments, accept_new_attributes=True,
        lock_config=False)
    values(arguments)
    overrides.finish(values, arguments)
    return config_lib.checked(flag.value)


@pytest.mark.parametrize('recipe, given, field, value, said', [
    ('digits.py:rnn', ['--config.model.options.dropout=0.1'], 'model.options',
     {'bidirectional': True, 'dropout': 0.1}, ''),
    ('digits.py:rnn', ["--config.model.options={'dropout': 0.1}"], 'model.options',
     {'dropout': 0.1}, "{'bidirectional': True} is left out; --config.model.options.dropout=0.1"),
    ('digits.py:mlp', ['--config.model.options.hidden=(8, 8)', '--config.model.options.act=silu'],
     'model.options', {'hidden': [8, 8], 'act': 'silu'}, ''),
    ('folder.py', ['--config.data.options.image=img', '--config.data.options.label=7'],
     'data.options', {'image': 'img', 'label': 7}, ''),
    ('digits.py', ['--config.hparams.augment.mixup=0.2', '--config.augment=()'], 'hparams.augment',
     {'shift_rotate': 1.0, 'mixup': 0.2}, ''),
    ('digits.py', ["--config.augment=(('mixup', {}),)", '--config.hparams.augment.mixup=0.2'],
     'hparams.augment', {'mixup': 0.2},
     "replaces the recipe's; the strengths of shift_rotate are left out"),
    ('digits.py', ['--config.epochs=2'], 'steps', 0,
     "config.epochs: 2.0 replaces the recipe's steps=1500"),
    ('folder.py', ['--config.steps=20'], 'epochs', 0.0,
     "config.steps: 20 replaces the recipe's epochs=30.0"),
    ('digits.py', ['--config.steps=0', '--config.epochs=3'], 'epochs', 3.0, ''),
    ('digits.py', ['--config.schedule.warmup_steps=0.05'], 'schedule.warmup_steps', 0.05, ''),
    ('folder.py', ['--config.schedule.warmup_steps=5'], 'schedule.warmup_steps', 5, ''),
    # What the recipe reads may be left over.
    ('folder.py', ['--config.data.train_crop=center'], 'data.crop_min_area', 0.35, ''),
    ('imagenet_vit_b16.py', ['--config.ema=False'], 'hparams.ema_decay', 0.9999, ''),
    ('cifar10_resnet20.py', ['--config.optimizer.name=adamw'], 'optimizer.options', {},
     'config.optimizer.name: replaces a part of the recipe; hparams.momentum, '
     'optimizer.options.nesterov, which only that part read, is left out'),
    ('digits.py', ['--config.optimizer.name=adafactor', '--config.hparams.weight_decay_rate=1e-4',
                   '--config.optimizer.decay_mask=all'], 'optimizer.decay_mask', 'all',
     'config.optimizer.name: replaces a part of the recipe; hparams.weight_decay, '),
    # nadamw decays the weights by default.
    ('cifar10_resnet20.py', ['--config.optimizer.name=nadamw', '--config.optimizer.decay_mask=all'],
     'optimizer.decay_mask', 'all', 'config.optimizer.name: replaces a part of the recipe'),
    ('digits.py', ['--config.optimizer.name=sgd', '--config.hparams.momentum=0.5'],
     'hparams.momentum', 0.5, ''),
    ('digits.py', ['--config.optimizer.name=prodigy', '--config.hparams.estim_lr_coef=2'],
     'hparams.estim_lr_coef', 2, ''),
    ('finetune.py', [], 'init.head', 'new', ''),
])
def test_flags_lie_on_top_of_the_recipe(recipe, given, field, value, said, caplog):
    caplog.set_level(logging.INFO, 'imgjax')
    found = config_lib.plain(config_lib.flatten(parsed(f'configs/{recipe}', *given))[field])
    assert found == value and type(found) is type(value)
    assert said in caplog.text and len(caplog.messages) == bool(said)


@pytest.mark.parametrize('given, message', [
    (['--config.steps=5', '--config.epochs=2'], 'were both given; give one of them'),
    (['--config.hparams.learning_rte=1'], "did you mean 'hparams.learning_rate'?"),
    (['--config.hparams.layer_decay=0.1'],
     'config.hparams.layer_decay: nothing reads it while config.optimizer.layerwise is False; set '
     'that to True, or leave 0.1 out'),
    (['--config.hparams.ema_decay=0.5'], 'config.ema is False'),
    (["--config.metrics=('margin',)"], 'config.metrics: takes (("metric", {options}), ...)'),
    (['--config.metrics=margin'], 'config.metrics: takes (("metric", {options}), ...)'),
    (["--config.augment=('mixup',)"], 'config.augment: takes (("operation", {options}), ...)'),
    (['--config.hparams.momentum=0.1'], 'optimizer adamw, sampler shuffle); optimizer muon or sgd'),
    (['--config.optimizer.name=sgd', '--config.hparams.b2=0.9'], 'config.hparams.b2: nothing'),
    (['--config.optimizer.options.nesterov=False'], 'optimizer adamw has no such option'),
    (['--config.hparams.focal_gamma=1'], 'objective focal would'),
    (['--config.hparams.consistency_weight=1'], 'objective jsd would'),
    (['--config.schedule.milestones=(0.1, 0.2)'], "config.schedule.name is 'cosine'"),
    (['--config.schedule.name=step', '--config.hparams.end_learning_rate=1e-4'],
     'config.hparams.end_learning_rate: nothing reads'),
    (['--config.data.crop_min_area=0.5'], "config.data.train_crop is 'center'"),
    (['--config.data.path=DIR'], "config.data.name is 'digits'"),
    (['--config.init.head=new'], "config.init.weights is ''"),
    (['--config.init.preprocessing=config'], "config.init.weights is ''"),
    (['--config.profile.start=5'], 'config.profile.steps is 0; set that to a value'),
    (['--config.hparams.weight_decay=0', '--config.optimizer.decay_mask=all'],
     'config.hparams.weight_decay is 0.0; set that to a value, or leave'),
    (['--config.data.train_resize=linear'], "config.data.train_crop is 'center'"),
    (['--config.data.eval_transform=tf', '--config.data.eval_crop_fraction=0.5'],
     "config.data.eval_transform is 'tf' and config.init.weights is ''"),
    (['--config.eval_every=0', '--config.checkpoint.every=0', '--config.checkpoint.keep_newest=5'],
     'config.checkpoint.every is 0 and config.eval_every is 0; set config.checkpoint.every to a '),
    (['--config.eval_every=0', '--config.checkpoint.every=0', '--config.checkpoint.keep_every=5'],
     'config.checkpoint.keep_every: nothing reads it'),
    (['--config.data.held_out=0.2'], "config.data.name is 'digits'"),
    (['--config.data.name=folder', '--config.data.data_dir=DIR'],
     "config.data.name is 'folder'; set that to a set of TFDS"),
    (['--config.data.name=cifar10', '--config.data.path=DIR'], "config.data.name is 'cifar10'"),
    (['--config.data.image_size=16', '--config.data.usual_size=32'],
     'config.data.image_size is 16; set that to 0'),
])
def test_what_has_no_effect_is_refused(given, message):
    with pytest.raises(ConfigError) as error:
        parsed('configs/digits.py', *given)
    assert message in str(error.value) and '\n' not in str(error.value)


def test_flags_without_a_config_lie_on_top_of_the_run(tmp_path):
    config = load('digits:rnn') | {'steps': 7, 'epochs': 0.0}
    config_lib.write(str(tmp_path), config)
    given = ['--config.epochs=2', '--config.data.options.image=img',
             '--config.model.options.dropout=0.1']

    def of_run(workdir, given):
        values = flags.FlagValues()
        arguments = ['launch.train', *given]
        config_flags.DEFINE_config_file(
            'config', base.__file__, flag_values=values, sys_argv=arguments,
            accept_new_attributes=True, lock_config=False)
        values(arguments)
        return overrides.of_run(values['config'], str(workdir))

    found = config_lib.checked(of_run(tmp_path, given))
    assert found['steps'] == 0 and found['epochs'] == 2
    assert found['data'] == config['data'] | {'options': {'image': 'img'}}
    assert found['model']['options'] == {'bidirectional': True, 'dropout': 0.1}
    assert of_run(tmp_path, []) is None
    with pytest.raises(ConfigError, match='no run was started here yet; give --config'):
        of_run(tmp_path / 'none', given)


def test_what_a_recipe_sets_in_vain_is_refused(tmp_path):
    path = tmp_path / 'mine.py'
    path.write_text('from configs import digits\n\ndef get_config():\n'
                    '    config = digits.get_config()\n    config.hparams.layer_decay = 0.5\n'
                    '    return config\n')
    with pytest.raises(ConfigError, match='config.hparams.layer_decay: nothing reads it'):
        parsed(path)


@pytest.mark.parametrize('recipe', RECIPES)
def test_every_recipe_reads_what_it_sets(recipe):
    found = [name for name in unread.warnings(load(recipe)) if not name.startswith('init.')]
    assert not found, found


def test_what_reads_a_field_is_there():
    known = {*config_lib.FIELDS, *(
        f'hparams.{name}' for optimizer in ('adamw', 'adafactor')
        for name in parts.hparams_of(parts.find('optimizer', optimizer)))}
    assert all(set(field.when) <= known for field in config_lib.FIELDS.values())


def test_an_arm_that_nothing_reads_is_refused():
    arms = {'a': {}, 'b': {'hparams.momentum': 0.5}}
    with pytest.raises(ConfigError, match="arm 'b': config.hparams.momentum: nothing reads it"):
        plan.read({'base': digits.get_config(), 'arms': arms}, 'study')
    arms['b'] = {'hparams.b1': 0.5, 'optimizer.name': 'sgd'}  # which the base's optimizer reads
    with pytest.raises(ConfigError, match="arm 'b': config.hparams.b1: nothing reads it"):
        plan.read({'base': digits.get_config(), 'arms': arms}, 'study')
    arms['b'] = {'hparams.momentum': 0.5, 'optimizer.name': 'sgd'}
    plan.read({'base': digits.get_config(), 'arms': arms}, 'study')


@pytest.mark.parametrize('changes, steps, refused, warned', [
    (dict(warmup_steps=100), 60, '', 'config.schedule.warmup_steps: 100 of 60 steps'),
    (dict(warmup_steps=60), 60, '', ''),
    (dict(warmup_steps=0.1, head_steps=0.1), 5, '', ''),
    (dict(head_steps=6), 5, 'config.schedule.head_steps: 6 of 5 steps', ''),
    (dict(head_steps=5), 5, '', ''),
    (dict(name='step', milestones=(30, 60)), 90, 'config.schedule.milestones: takes fractions', ''),
])
def test_a_schedule_is_as_long_as_the_run(changes, steps, refused, warned, caplog):
    config = digits.get_config()
    config.schedule.update(warmup_steps=0)
    config.schedule.update(changes)
    config = config_lib.checked(config) | {'steps': steps}
    if refused:
        with pytest.raises(ConfigError, match=refused):
            schedule.check(config)
    else:
        schedule.check(config)
    assert warned in caplog.text and len(caplog.messages) == bool(warned)


def test_what_comes_after_the_last_step_is_said(caplog):
    caplog.set_level(logging.INFO, 'imgjax')
    config = digits.get_config()
    config.schedule.warmup_steps = 0
    config = config_lib.checked(config) | {
        'steps': 20, 'log_every': 21, 'eval_every': 20}
    checks.check_intervals(config | {'checkpoint': config['checkpoint'] | {'every': 30}})
    assert caplog.messages == ['config.log_every 21, config.checkpoint.every 30: more than the 20 '
                               'steps, so that happens at the end only']


def test_all_that_nothing_reads_is_named_once(caplog):
    config = config_lib.checked(digits.get_config())
    config |= {'hparams': config.hparams | {'layer_decay': 0.5, 'ema_decay': 0.5},
               'profile': config.profile | {'start': 3}}
    train._say_unread(config)
    assert len(caplog.messages) == 1 and caplog.text.rstrip().endswith(
        '; nor are these read: config.hparams.ema_decay, config.profile.start')
