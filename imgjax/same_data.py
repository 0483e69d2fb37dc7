"""Whether data are the same: in all processes of a run, and those that a run began with."""

import hashlib
import json

from imgjax import config as config_lib
from imgjax import processes
from imgjax.build import Facts
from imgjax.errors import ConfigError, DataError

# What may differ between the processes of a run: where and how each reads the same files.
_OWN = ('data.path', 'data.data_dir', 'data.workers')
# Fields that name a dataset or a part of it; the others say how its images are read.
_NAMING = ('data.name', 'data.path', 'data.options', 'data.data_dir', 'data.held_out')


def check_processes(config: dict, facts: Facts) -> None:
    """Checks that all processes of a run have the same config and see the same data.

    Every process calls it, and all raise the same. A digest travels; more only where one differs.

    Args:
      config: plain, as it was given.
      facts: of the data that this process sees.

    Raises:
      ConfigError: names the first process with another config, and the field.
      DataError: names the first process that sees other data, and the class or the count.
    """
    if processes.count() == 1:
        return
    flat = {name: value for name, value in config_lib.flatten(config).items() if name not in _OWN}
    mine = json.dumps([flat, facts._asdict()], sort_keys=True)
    marks = processes.to_first(hashlib.sha256(mine.encode()).hexdigest())
    if processes.from_first(lambda: 'alike' if len(set(marks)) == 1 else 'unlike') == 'alike':
        return
    theirs, theirs_facts = json.loads(processes.from_first(lambda: mine))
    kind, difference = 'config', _config_difference(flat, theirs)
    if not difference:
        kind, difference = 'data', data_difference(Facts(**theirs_facts), facts)
    told = processes.to_first(f'{kind} {difference}' if difference else '')
    kind, _, line = processes.from_first(lambda: _first_of(told)).partition(' ')
    error = ConfigError(line) if kind == 'config' else DataError(line)
    error.together = True
    raise error


def _first_of(told: list[str]) -> str:
    """Returns 'KIND LINE' of the first process that told a difference."""
    odd = [place for place, words in enumerate(told) if words]
    kind, _, difference = told[odd[0]].partition(' ')
    others = f' ({len(odd)} of {len(told)} processes differ)' if len(odd) > 1 else ''
    fix = {'config': 'give every process the same flags',
           'data': 'give every process the same files (config.data.path may differ)'}[kind]
    return f'{kind} process {odd[0]} {difference}{others}; {fix}'


def _config_difference(mine: dict, theirs: dict) -> str:
    for name in config_lib.FIELDS:
        if mine.get(name) != theirs.get(name):
            return (f'has config.{name}={mine.get(name)!r}, process 0 has '
                    f'{theirs.get(name)!r}')
    return ''


def data_difference(first: Facts, mine: Facts) -> str:
    """Returns how the data of a process differ from those of the first one, '' if they do not."""
    there, here = set(first.class_names), set(mine.class_names)
    if there != here:
        words = [f'{_some(names)} {where}' for names, where in (
            (here - there, 'only there'), (there - here, 'only in process 0')) if names]
        return f'has other classes than process 0: {", ".join(words)}'
    for number, (name, other) in enumerate(zip(mine.class_names, first.class_names, strict=True)):
        if name != other:
            return (f'has the classes in another order than process 0: class {number} is {name!r}, '
                    f'there {other!r}')
    for split, count in (('training', 'train_examples'), ('evaluation', 'eval_examples')):
        if getattr(mine, count) != getattr(first, count):
            return (f'has {getattr(mine, count):,} {split} images, process 0 has '
                    f'{getattr(first, count):,}')
    for split, mark in (('training', 'train_fingerprint'), ('evaluation', 'eval_fingerprint')):
        if getattr(mine, mark) != getattr(first, mark):
            return (f'has other {split} images than process 0: as many, with other names, sizes, '
                    'labels or pixels')
    if mine != first:
        return (f'has images of {"x".join(map(str, mine.image_shape))}, process 0 of '
                f'{"x".join(map(str, first.image_shape))}')
    return ''


def _some(names) -> str:
    names = sorted(names)
    more = f' and {len(names) - 3} more' if len(names) > 3 else ''
    return ', '.join(map(repr, names[:3])) + more
