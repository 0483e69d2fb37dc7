"""Whose a run directory is."""

import json
import os
import types

import pytest

from configs import digits
from imgjax import config as config_lib
from imgjax.errors import ConfigError
from imgjax.rundir import claim, dataset_info, result

LOCK = 'process 7 on host since 2026-01-01T00:00:00'


def job_of(steps: int, path: str = '') -> types.SimpleNamespace:
    config = digits.get_config('mlp')
    config.steps = steps
    config.data.path = path
    dataset = dataset_info.DatasetInfo(['a', 'b'], [8, 8, 1], 10, 5, f'train {steps}', 'test')
    return types.SimpleNamespace(config=config_lib.checked(config), dataset=dataset)


@pytest.mark.parametrize('files, strange', [
    ({}, None),
    ({'lock': LOCK}, None),
    ({'lock': LOCK, 'dataset.json': '{}', 'config.json.tmp': '{'}, None),
    ({'lock': ''}, None),
    ({'lock': 'my door'}, 'lock'),
    ({'dataset.json': '{"images": []}'}, 'dataset.json'),
    ({'result.json': '{"accuracy": 1}'}, 'result.json'),
    ({'lock': LOCK, 'thesis.tex': ''}, 'thesis.tex')])
def test_a_directory_of_something_else_is_left_as_it_is(files, strange, tmp_path):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    if strange is None:
        with claim.claimed(str(tmp_path)):
            assert (tmp_path / 'lock').read_text().startswith(f'process {os.getpid()} ')
        return
    with pytest.raises(ConfigError, match=f'holds {strange!r} but no run'), claim.claimed(
            str(tmp_path)):
        pass
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == files


def test_a_cell_that_failed_is_begun_again(tmp_path):
    result.write(str(tmp_path), {'state': 'failed', 'error': 'too hot'})
    with claim.claimed(str(tmp_path)):
        pass
    assert sorted(os.listdir(tmp_path)) == ['lock', 'result.json']


def test_a_directory_is_of_a_config_from_its_first_checkpoint_on(tmp_path, caplog):
    workdir = str(tmp_path)
    (tmp_path / 'unreadable.jsonl').write_text('{"index": 0, "file": "a.png", "kind": "cut"}\n')
    (tmp_path / 'notes.txt').write_text('mine')
    row = json.dumps({'step': 7, 'split': 'train'}) + '\n'
    for steps in (10, 20):  # of the first one no step was saved
        assert claim.check(workdir, job_of(steps)) == claim.take(workdir, job_of(steps), 0) == ''
        assert len(caplog.messages) == (steps == 20)
        for name, text in (('metrics.jsonl', row), ('diverged.json', '{}')):
            (tmp_path / name).write_text(text)
    assert 'at step 7 or later' in caplog.text and '(steps: 10 -> 20)' in caplog.text
    assert caplog.messages[0].endswith(
        'is replaced: metrics.jsonl (1 rows), tensorboard, diverged.json')
    assert (tmp_path / 'notes.txt').read_text() == 'mine'
    assert config_lib.read(workdir)['steps'] == 20
    assert dataset_info.read(workdir).train_fingerprint == 'train 20'
    assert not (tmp_path / 'unreadable.jsonl').exists()
    (tmp_path / 'saved').touch()
    other = job_of(20)
    other.config |= {'objective': {'name': 'sigmoid', 'options': {}}}
    with pytest.raises(ConfigError, match="another config .objective.name: 'softmax' -> 'sig"):
        claim.check(workdir, other)
    claim.check(workdir, job_of(20))
    claim.take(workdir, job_of(20, path='/moved'), 1)
    assert config_lib.read(workdir)['data']['path'] == '/moved'


def test_a_cell_is_of_its_config_from_the_start(tmp_path):
    workdir = str(tmp_path / f'{"a" * 16}-{"b" * 8}')
    with claim.claimed(workdir):
        claim.take(workdir, job_of(10), 0)
        claim.check(workdir, job_of(10))
        with pytest.raises(ConfigError, match='is a cell of a study'):
            claim.check(workdir, job_of(20))
