"""The study file: which arms it means, and one line for each way to get it wrong."""

import numpy as np
import pytest

from configs import digits
from imgjax.errors import ConfigError
from imgjax.study import plan

BASE = digits.get_config('mlp')
TWO = {'a': {}, 'b': {'hparams.learning_rate': 1.0}}
LR, WD = 'hparams.learning_rate', 'hparams.weight_decay'


def read(**fields) -> plan.Study:
    return plan.read(dict(base=BASE) | fields, 'name', 'A question?\n\nAnd more\nof it.\n')


@pytest.mark.parametrize('found, names', [
    (dict(arms={'a': {}, 'b': {LR: 1.0}}), ['a', 'b']),
    (dict(ablate={'no decay': {WD: 0.0}}), ['base', 'no decay']),
    (dict(product={LR: [1e-3, 1e-2], WD: [0.0, 0.5]}), [
        'learning_rate=0.001 weight_decay=0.0', 'learning_rate=0.001 weight_decay=0.5',
        'learning_rate=0.01 weight_decay=0.0', 'learning_rate=0.01 weight_decay=0.5']),
    (dict(zip={LR: [1e-3, 1e-2], WD: [0.0, 0.5]}), [
        'learning_rate=0.001 weight_decay=0.0', 'learning_rate=0.01 weight_decay=0.5']),
    # two fields with the same last word are written out
    (dict(zip={'model.name': ['mlp', 'cnn'], 'optimizer.name': ['sgd', 'adamw']}), [
        'model.name=mlp optimizer.name=sgd', 'model.name=cnn optimizer.name=adamw']),
])
def test_arms(found, names):
    assert [arm.name for arm in read(**found).arms] == names


def test_an_arm_changes_its_fields_and_no_other():
    study = read(arms={'a': {LR: 0.5, 'model.options.act': 'tanh',
                             'hparams.augment.shift_rotate': 0.25}}, split='train')
    config = study.arms[0].config
    assert config['hparams']['learning_rate'] == 0.5 and config['hparams']['b1'] == 0.9
    assert config['model']['options'] == {'act': 'tanh'}
    assert config['hparams']['augment'] == {'shift_rotate': 0.25}
    assert config['data']['eval_split'] == 'train'
    assert BASE.hparams.learning_rate != 0.5, 'the base is as it was'


def test_a_whole_config_is_an_arm():
    study = read(arms={'mlp': {}, 'vit': digits.get_config('vit')})
    assert [arm.config['model']['name'] for arm in study.arms] == ['mlp', 'vit']
    mlp, vit = study.arms
    assert mlp.fields == {} and vit.fields['model.name'] == 'vit'
    assert not {'name', 'hparams.seed', 'augment'} & set(vit.fields), 'only what differs'


@pytest.mark.parametrize('method', ['random', 'halton'])
def test_draws_lie_where_they_shall_and_are_the_same_each_time(method):
    draw = dict(count=64, method=method, seed=3, fields={
        LR: {'low': 1e-4, 'high': 1e-1, 'scale': 'log'}, WD: {'low': 0.0, 'high': 1.0},
        'model.options.act': {'values': ['relu', 'tanh']}})
    arms = read(draw=draw).arms
    assert [arm.fields for arm in arms] == [arm.fields for arm in read(draw=draw).arms]
    rates = np.array([arm.fields[LR] for arm in arms])
    assert 1e-4 <= rates.min() < 1e-3 and 1e-2 < rates.max() <= 1e-1
    assert 0.3 < (np.log10(rates) < -2.5).mean() < 0.7, 'even on the scale of the logarithm'
    assert {arm.fields['model.options.act'] for arm in arms} == {'relu', 'tanh'}


def test_seeds_and_comparisons():
    study = read(ablate={'a': {LR: 1.0}, 'b': {WD: 1.0}}, seeds={'base': [1, 2], 'a': [3, 4],
                                                                  'b': [5, 6]})
    assert [arm.seeds for arm in study.arms] == [[1, 2], [3, 4], [5, 6]]
    assert study.comparisons == [('base', 'a'), ('base', 'b')], 'each against the base'
    assert read(arms={'a': {}}, seeds=3).arms[0].seeds == [0, 1, 2]
    assert read(arms=TWO, seeds={'a': [1, 0], 'b': [0, 1]}).arms[0].seeds == [0, 1], 'in order'
    assert (study.question, study.text) == ('A question?', 'And more\nof it.')
    assert read(product={LR: [1.0, 2.0]}).grid == {LR: [1.0, 2.0]}


@pytest.mark.parametrize('found, message', [
    (dict(), 'takes one of arms, ablate, product, zip, draw, got none'),
    (dict(arms={'a': {}}, product={LR: [1.0]}), "got ['arms', 'product']"),
    (dict(arm={'a': {}}), "'arm': no such field of a study; did you mean 'arms'?"),
    (dict(arms={}), 'arms: gives no arm'),
    (dict(arms={'a': {'hparams.learning_rte': 1.0}}),
     "arm 'a': config.hparams.learning_rte: nothing reads it"),
    (dict(arms={'a': {LR: 'high'}}), "arm 'a': config.hparams.learning_rate: "),
    (dict(arms={'a\n': {}}), "takes printable names of arms, got 'a\\n'"),
    (dict(arms={'a': {}}, metric=3), 'metric: takes the name of a metric'),
    (dict(arms={'a': {}}, seeds=0), 'seeds: takes a number of seeds'),
    (dict(arms={'a': {}}, seeds=[1, 1]), "'a' has one twice"),
    (dict(arms={'a': {}}, seeds={'b': [1]}), "none for the arm 'a'"),
    (dict(arms={'a': {}, 'b': {LR: 1.0}}, comparisons=[('a', 'bb')]),
     "comparisons: no arm 'bb'; did you mean 'b'?"),
    (dict(arms={'a': {}}, comparisons=[('a', 'a')]), 'takes pairs of two arms'),
    (dict(arms={'a': {}, 'b': {LR: 1.0}}, comparisons=[('a', 'b'), ('b', 'a')]),
     'one of them is given twice'),
    (dict(arms={'a': {}, 'b': {LR: 1.0}}, comparisons=[('a', 'b')], seeds={'a': [1], 'b': [1, 2]}),
     'give both the same seeds'),
    (dict(arms=TWO, comparisons=[('a', 'b')], seeds={'a': [0, 1], 'b': [1, 2]}),
     'give both the same seeds'),
    (dict(ablate={'base': {}}), 'adds the arm base by itself'),
    (dict(zip={LR: [1.0], WD: [0.0, 1.0]}), 'zip: takes the same number of values'),
    (dict(draw={'fields': {LR: {'low': 0.0, 'high': 1.0, 'scale': 'log'}}, 'count': 2}),
     'takes low < high and a scale of linear, or log with both above 0'),
    (dict(draw={'fields': {LR: {'low': 0.0}}, 'count': 2}), "takes {'low', 'high', 'scale'}"),
    (dict(draw={'fields': {LR: {'values': [1.0]}}, 'count': 2, 'method': 'sobol'}),
     'draw.method: takes random or halton'),
    (dict(arms={'a': {}}, halving={'steps': [10], 'keep': 2}), 'halving.keep: takes a share'),
    (dict(arms={'a': {}}, halving={'steps': [20, 10], 'keep': 0.5}), 'growing numbers of steps'),
    *((dict(arms={'a': {}}, halving={'steps': steps, 'keep': 0.5}), 'growing numbers of steps')
      for steps in (10, ['a'], [])),
    (dict(arms={'a': {}}, halving={'steps': [10], 'keep': 'x'}), 'halving.keep: takes a share'),
    *((dict(arms={'a': {}}, seeds=seeds), 'seeds: takes a number of seeds, or a list')
      for seeds in (None, 2.5, True, 'x', [2**31], [-1], [])),
    *((dict(arms=TWO, comparisons=pairs), 'comparisons: takes pairs of names of arms')
      for pairs in (5, [1], [(['a'], 'b')], ['ab', ('a',)])),
    (dict(arms={'a': None}), "arm 'a': takes {field: value}, got None"),
    (dict(arms={'a': {1: 2}}), "arm 'a': takes {field: value}, got {1: 2}"),
    (dict(arms=['a']), 'arms: takes a dict, got list'),
    (dict(arms={}), 'arms: gives no arm'),
    (dict(product={}), 'product: gives no arm'),
    (dict(product={1: [1]}), 'product: takes {field: [values]}, got 1: [1]'),
    (dict(product={LR: 0.1}), 'product: takes {field: [values]}'),
    (dict(product={LR: [0.1, 0.1]}), "product: gives the arm 'learning_rate=0.1' twice"),
    (dict(zip={LR: [0.1, 0.1], WD: [0.0, 0.0]}), 'twice'),
    (dict(arms={'a': {f'{WD}.x': 1.0}}), 'takes a group of fields, got 0.05'),
    (dict(arms={'a': {'hparams.augment.shift_rotate.x': 1.0}}), 'takes a group of fields, got 1.0'),
    (dict(base={}, arms={'a': {}}, split='test'), "arm 'a': config."),
    (dict(base=5, arms={'a': {}}), 'base: takes a config, got int'),
    (dict(draw={'fields': [LR], 'count': 2}), 'draw: takes {field: range} as fields'),
    (dict(draw={'fields': {LR: {'values': 5}}, 'count': 2}), 'values: takes a list, got 5'),
    (dict(draw={'fields': {LR: {'low': None, 'high': 1.0}}, 'count': 2}), 'takes numbers for low'),
    (dict(draw={'fields': {LR: {'values': [1.0, 2.0]}}, 'count': 9}), 'twice'),
    (dict(draw={'fields': {LR: {'low': 0.0, 'high': 1.0}}, 'count': 2, 'seed': 'x'}),
     'draw.seed: takes a whole number'),
])
def test_what_is_no_study(found, message):
    with pytest.raises(ConfigError) as error:
        read(**found)
    assert message in str(error.value) and '\n' not in str(error.value)


@pytest.mark.parametrize('text, message', [
    ('get_study = 1', "TypeError: 'int' object is not callable"),
    ('def get_study(): return 1', 'get_study returns a dict, got int'),
    ('import no_such_module', "No module named 'no_such_module'"),
])
def test_a_file_that_is_none(text, message, tmp_path):
    (tmp_path / 'study.py').write_text(text)
    with pytest.raises(ConfigError) as error:
        plan.load(str(tmp_path / 'study.py'))
    assert message in str(error.value)
    with pytest.raises(ConfigError, match="no such file '.*none.py'"):
        plan.load(str(tmp_path / 'none.py'))
