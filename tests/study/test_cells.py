"""What a cell is known by, and what is believed of its directory."""

import json
import os

import numpy as np
import pytest
import safetensors.numpy

from configs import digits
from imgjax import evaluate
from imgjax.errors import ConfigError, DataError
from imgjax.rundir import result
from imgjax.study import cells, code, plan

BASE = digits.get_config('mlp')


def cells_of(folder='/cells', **fields):
    return cells.cells_of(plan.read(dict(base=BASE) | fields, 'name'), folder)


def test_a_cell_is_its_config_data_and_code():
    """Not its name, its study, where it lies, or what says how fast it is run."""
    mine = cells_of(arms={'a': {}, 'b': {'hparams.learning_rate': 0.5}}, seeds=2)
    assert len({cell.digest for cell in mine}) == 4 and len({cell.group for cell in mine}) == 1
    other = cells_of('/elsewhere', arms={'z': {'name': 'x', 'watchdog_seconds': 77}}, seeds=[1])[0]
    assert other.digest == mine[1].digest and other.group == mine[1].group
    assert os.path.basename(other.directory) == os.path.basename(mine[1].directory)
    assert other.directory.endswith(f'-{code.version(other.config)}')
    wider = cells_of(arms={'a': {'batch_size': 64}})[0]
    assert wider.digest != mine[0].digest and wider.group != mine[0].group


def test_the_same_run_twice_is_an_error():
    with pytest.raises(ConfigError, match="the arms 'a' and 'b' are the same run with seed 0"):
        cells_of(arms={'a': {}, 'b': {'watchdog_seconds': 77}})


@pytest.mark.parametrize('fields, message', [
    ({'model.name': 'no_such'}, "arm 'bad': config.model: unknown"),
    ({'data.name': 'folder', 'data.path': '/nowhere'}, "arm 'bad': config.data.path: /nowhere"),
])
def test_an_arm_that_cannot_be_run_is_named_before_anything_is(fields, message):
    with pytest.raises(ConfigError) as error:
        cells_of(arms={'good': {}, 'bad': fields})
    assert message in str(error.value)


def test_halving_falls_on_evaluated_steps():
    """A cell that another study has finished has a score there too."""
    for every, step in ((5, 7), (0, 10), (5, 10_000)):
        with pytest.raises(ConfigError, match='halving.steps: takes multiples of eval_every'):
            cells_of(arms={'a': {'eval_every': every}}, halving={'steps': [step], 'keep': 0.5})


def test_what_cannot_be_compared_is_said_before_anything_is_run():
    with pytest.raises(ConfigError, match='metric: mean_average_precision is of images with sever'):
        cells_of(arms={'a': {}}, metric='mean_average_precision')
    with pytest.raises(ConfigError, match="has no 'acuracy'; did you mean 'accuracy'"):
        cells_of(arms={'a': {}}, metric='acuracy')
    with pytest.raises(ConfigError, match="'a' and 'b' are evaluated on different images"):
        cells_of(arms={'a': {}, 'b': {'data.eval_split': 'train'}}, comparisons=[('a', 'b')])


def results(count=5) -> evaluate.Columns:
    return {'labels': np.arange(count, dtype=np.int32),
            'predictions': np.arange(count, dtype=np.int32),
            'confidences': np.full(count, 0.5, np.float32), 'loss': np.full(count, 0.7, np.float32),
            'accuracy': np.arange(count) > 1, 'top5_accuracy': np.ones(count, bool),
            'margin': np.arange(count, dtype=np.float32)}


def test_answers_come_back_as_they_were(tmp_path):
    result.write_answers(str(tmp_path), results())
    found = result.read_answers(str(tmp_path))
    assert found['accuracy'].tolist() == [False, False, True, True, True]
    assert found['labels'].dtype == np.int32 and found['loss'].dtype == np.float32
    assert found['margin'].tolist() == [0, 1, 2, 3, 4], 'columns of any metric'


@pytest.mark.parametrize('spoil', ['missing', 'cut', 'link', 'kind', 'lengths', 'garbage'])
def test_answers_that_are_none_are_one_line(tmp_path, spoil):
    path = tmp_path / 'predictions.safetensors'
    result.write_answers(str(tmp_path), results())
    arrays = safetensors.numpy.load(path.read_bytes())
    if spoil == 'missing':
        path.unlink()
    elif spoil == 'cut':
        path.write_bytes(path.read_bytes()[:-3])
    elif spoil == 'garbage':
        path.write_bytes(b'\xff' * 64)
    elif spoil == 'link':
        path.rename(tmp_path / 'other')
        path.symlink_to(tmp_path / 'other')
    elif spoil == 'kind':
        path.write_bytes(safetensors.numpy.save(arrays | {'accuracy': np.ones(5)}))
    else:
        path.write_bytes(safetensors.numpy.save(arrays | {'margin': np.ones(4, np.float32)}))
    with pytest.raises(DataError, match='predictions.safetensors: cannot be used'):
        result.read_answers(str(tmp_path))


@pytest.mark.parametrize('spoil', ['edited', 'cut', 'link', 'nested', 'list'])
def test_a_result_that_was_not_written_so_is_none(tmp_path, spoil):
    path = tmp_path / 'result.json'
    result.write(str(tmp_path), {'state': 'done', 'accuracy': float('nan'), 'loss': 0.1})
    assert result.read(str(tmp_path)) == {'state': 'done', 'accuracy': None, 'loss': 0.1}
    text = path.read_text()
    if spoil == 'link':
        path.rename(tmp_path / 'other')
        path.symlink_to(tmp_path / 'other')
    else:
        path.write_text({'edited': text.replace('0.1', '0.2'), 'cut': text[:-9],
                         'nested': '[' * 10_000, 'list': json.dumps([1])}[spoil])
    assert result.read(str(tmp_path)) is None
