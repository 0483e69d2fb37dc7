"""plan.json of a study: how its cells are run, which arms are stopped, and the time it took.

A later start repeats the choices that were made by timing, because another choice would round
differently.
"""

import glob
import json
import logging
import os

from imgjax import config as config_lib
from imgjax.process import processes
from imgjax.rundir import files
from imgjax.study import strategy

log = logging.getLogger('imgjax.study')

_GROUP = {'like': str, 'strategy': str, 'why': str, 'cells': int, 'populations': list}


def read(workdir: str) -> dict:
    """Returns the record in a study's directory, the same in all processes of the study.

    The record has these fields:

      groups    {hash of the group's structure: {like: the name of one of its arms, cells: how many,
                strategy, why, step_seconds, compile_seconds, populations: [{cells: [names],
                devices}]}}; a population with 0 devices has one cell, which is a single run
      halving   {rule: its hash, judged: [steps], stopped: {arm: step}}, see halving.py
      ran       the names of the cells that this study ran itself
      seconds   the time of all starts together

    If plan.json is missing or cannot be used, the record is empty; the latter logs a warning.
    """
    return json.loads(processes.broadcast_from_first(lambda: json.dumps(_read(workdir))))


def _read(workdir: str) -> dict:
    path = os.path.join(workdir, 'plan.json')
    try:
        found = files.read_json(path)
        if _is_record(found):
            return found
        log.warning('%s: not as it was written; the strategies are chosen again', path)
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as error:
        log.warning('%s: cannot be used (%s); the strategies are chosen again', path, error)
    return {'groups': {}, 'halving': {'rule': '', 'judged': [], 'stopped': {}}, 'ran': [],
            'seconds': 0.0}


def write(workdir: str, record: dict) -> None:
    """Writes plan.json, which at no time is an incomplete file."""
    if processes.first():
        config_lib.write_json(os.path.join(workdir, 'plan.json'), record)


def read_all(workdir: str) -> dict:
    """Returns the records in a study's directory and in those of its parts, merged into one."""
    return json.loads(processes.broadcast_from_first(lambda: json.dumps(_read_all(workdir))))


def _read_all(workdir: str) -> dict:
    merged = _read(workdir)
    for path in sorted(glob.glob(os.path.join(glob.escape(workdir), 'part-*'))):
        found = _read(path)
        merged['groups'] |= {f'{key} {path}': value for key, value in found['groups'].items()}
        merged['ran'] += found['ran']
        merged['seconds'] += found['seconds']
    return merged


def _is_record(found) -> bool:
    """Returns whether a value has the form that `write` writes, so that the study can use it."""
    return (
        _has(found, {'groups': dict, 'halving': dict, 'ran': list, 'seconds': float})
        and all(map(_is_group, found['groups'].values()))
        and _has(found['halving'], {'rule': str, 'judged': list, 'stopped': dict})
        and _all(int, [*found['halving']['judged'], *found['halving']['stopped'].values()])
        and _all(str, found['ran']))


def _is_group(group) -> bool:
    return (
        _has(group, _GROUP)
        and group['strategy'] in strategy.NAMES
        and all(isinstance(group.get(name, ''), float | None)
                for name in ('step_seconds', 'compile_seconds'))
        and all(_has(population, {'cells': list, 'devices': int})
                and _all(str, population['cells'])
                and _divides(population['devices'], len(population['cells']))
                for population in group['populations']))


def _divides(devices: int, cells: int) -> bool:
    return cells == 1 if devices == 0 else cells > 0 and devices > 0 and cells % devices == 0


def _has(found, fields: dict[str, type]) -> bool:
    return isinstance(found, dict) and all(
        type(found.get(name)) is kind for name, kind in fields.items())


def _all(kind: type, values) -> bool:
    return all(type(value) is kind for value in values)
