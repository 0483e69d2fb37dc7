"""plan.json: what is not as it was written is not relied on, and the study begins anew."""

import json
import logging

import pytest

from imgjax.study import record

GROUP = {'like': 'base', 'strategy': 'vmap', 'why': 'faster', 'cells': 4,
         'step_seconds': 0.1, 'compile_seconds': None,
         'populations': [{'cells': ['a', 'b'], 'devices': 2}, {'cells': ['c'], 'devices': 0}]}
WHOLE = {'groups': {'key': GROUP}, 'ran': ['a'], 'seconds': 1.5,
         'halving': {'rule': 'x', 'judged': [20], 'stopped': {'half': 20}}}
NOTHING = {'groups': {}, 'ran': [], 'seconds': 0.0,
           'halving': {'rule': '', 'judged': [], 'stopped': {}}}


def group(**changed) -> dict:
    return WHOLE | {'groups': {'key': GROUP | changed}}


def test_a_record_comes_back(tmp_path):
    assert record.read(str(tmp_path)) == NOTHING
    record.write(str(tmp_path), WHOLE)
    assert record.read(str(tmp_path)) == WHOLE
    (tmp_path / 'part-0-of-2').mkdir()
    record.write(str(tmp_path / 'part-0-of-2'), WHOLE)
    both = record.read_all(str(tmp_path))
    assert len(both['groups']) == 2 and both['seconds'] == 3.0


@pytest.mark.parametrize('spoiled', [
    [], {}, WHOLE | {'seconds': '1'}, WHOLE | {'groups': []}, WHOLE | {'groups': {'key': 1}},
    WHOLE | {'ran': [1]}, WHOLE | {'halving': {'rule': 'x', 'judged': ['20'], 'stopped': {}}},
    WHOLE | {'halving': []}, group(cells='4'), group(step_seconds='1'), group(populations=[1]),
    group(populations=[{'cells': [], 'devices': 1}]),
    group(populations=[{'cells': ['a', 'b', 'c'], 'devices': 2}]),
    group(populations=[{'cells': ['a', 'b'], 'devices': 0}]), group(strategy=None),
    group(strategy='any'),
])
def test_a_spoiled_record_is_none(spoiled, tmp_path, caplog):
    (tmp_path / 'plan.json').write_text(json.dumps(spoiled))
    with caplog.at_level(logging.WARNING, 'imgjax.study'):
        assert record.read(str(tmp_path)) == NOTHING
    assert 'the strategies are chosen again' in caplog.text


def test_what_is_no_json_is_none(tmp_path, caplog):
    (tmp_path / 'plan.json').write_text('{"groups": ')
    with caplog.at_level(logging.WARNING, 'imgjax.study'):
        assert record.read(str(tmp_path)) == NOTHING
    assert 'cannot be used' in caplog.text
