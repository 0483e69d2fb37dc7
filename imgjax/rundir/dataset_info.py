"""What a run knows of its dataset (dataset.json), and whether a dataset is still that one."""

import hashlib
import json
import os
from typing import NamedTuple

from imgjax import config as config_lib
from imgjax.config import Config, write_json
from imgjax.errors import ConfigError, DataError, first_few
from imgjax.process import processes
from imgjax.rundir import files


class DatasetInfo(NamedTuple):
    """What a run knows of its dataset, also where the dataset is not at hand."""

    class_names: list[str]
    image_shape: list[int]  # H, W, C of the pixels that the model sees
    train_examples: int
    eval_examples: int
    train_fingerprint: str
    eval_fingerprint: str
    multi_label: bool = False  # an image may have several labels, or none


def write(workdir: str, dataset: DatasetInfo) -> None:
    """Writes dataset.json, from which a run directory can be used without its dataset."""
    write_json(os.path.join(workdir, 'dataset.json'),
               {'hash': _hash(dataset), 'dataset': dataset._asdict()})


def _hash(dataset: DatasetInfo) -> str:
    # Fields that came later are left out where they say what went without saying before.
    said = [value for name, value in dataset._asdict().items()
            if value != DatasetInfo._field_defaults.get(name)]
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:16]


def read(workdir: str) -> DatasetInfo:
    """Reads dataset.json of a run directory.

    Raises:
      DataError: it is missing or not as it was written.
    """
    path = os.path.join(workdir, 'dataset.json')
    try:
        stored = files.read_json(path)
        dataset = DatasetInfo(**stored['dataset'])
        _check(dataset)
        if _hash(dataset) != stored['hash']:
            raise ValueError('it is not as it was written')
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise DataError(f'{path}: cannot be used ({error}); restore it, or take a new '
                        '--workdir') from None
    return dataset


def _check(dataset: DatasetInfo) -> None:
    """Checks that what was read is of the kinds that everything else relies on."""
    names, shape = dataset.class_names, dataset.image_shape
    if not (isinstance(names, list) and names and all(type(name) is str for name in names)):
        raise ValueError('class_names takes a list of names')
    if not (isinstance(shape, list) and len(shape) == 3 and all(type(n) is int for n in shape)
            and all(0 < n < 2**16 for n in shape[:2]) and shape[2] in (1, 3)):
        raise ValueError('image_shape takes [height, width, channels] of at most 65,535 pixels')
    if not all(type(n) is int and n >= 0 for n in (dataset.train_examples, dataset.eval_examples)):
        raise ValueError('train_examples and eval_examples take a number of at least 0')


def check_same_data(workdir: str, stored: DatasetInfo, found: DatasetInfo) -> None:
    """Checks that a dataset is still the one a run began with.

    Raises:
      ConfigError: it has other classes than the checkpoint's model.
      DataError: other examples.
    """
    if stored.class_names != found.class_names:
        odd = sorted(set(stored.class_names) ^ set(found.class_names))
        raise ConfigError(
            f'{workdir}: its model has {len(stored.class_names)} classes, the dataset has '
            f'{len(found.class_names)}{f" (first {odd[0]!r})" if odd else " in another order"}; '
            'use the dataset it was trained on, or a new --workdir')
    if stored != found:
        raise DataError(f'{workdir}: the dataset is not the one that this run began with, it '
                        f'{data_difference(stored, found, "that one")}; bring that one back, or '
                        'take a new --workdir')


# What may differ between the processes of a run: where and how each reads the same files.
_OWN = ('data.path', 'data.data_dir', 'data.workers')


def check_processes(config: Config, dataset: DatasetInfo) -> None:
    """Checks that all processes of a run have the same config and see the same data.

    Every process calls it, and all raise the same. A digest travels; more only where one differs.

    Args:
      config: checked, as it was given.
      dataset: what is known of the data that this process sees.

    Raises:
      ConfigError: names the first process with another config, and the field.
      DataError: names the first process that sees other data, and the class or the count.
    """
    if processes.count() == 1:
        return
    flat = {name: value for name, value in config_lib.flatten(config).items() if name not in _OWN}
    mine = json.dumps([flat, dataset._asdict()], sort_keys=True)
    marks = processes.gather_to_first(hashlib.sha256(mine.encode()).hexdigest())
    if processes.broadcast_from_first(lambda: 'yes' if len(set(marks)) == 1 else 'no') == 'yes':
        return
    theirs, theirs_dataset = json.loads(processes.broadcast_from_first(lambda: mine))
    kind, difference = 'config', _config_difference(json.loads(mine)[0], theirs)
    if not difference:
        kind, difference = 'data', data_difference(DatasetInfo(**theirs_dataset), dataset)
    told = processes.gather_to_first(f'{kind} {difference}' if difference else '')
    kind, _, line = processes.broadcast_from_first(lambda: _first_of(told)).partition(' ')
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


def data_difference(first: DatasetInfo, mine: DatasetInfo, first_name: str = 'process 0') -> str:
    """Returns how a dataset differs from another one, '' if it does not.

    Args:
      first: the other dataset.
      mine: the dataset.
      first_name: the words for the other one.
    """
    there, here = set(first.class_names), set(mine.class_names)
    if there != here:
        words = [f'{first_few(map(repr, sorted(names)), 3)} {where}' for names, where in (
            (here - there, 'only there'), (there - here, f'only in {first_name}')) if names]
        return f'has other classes than {first_name}: {", ".join(words)}'
    for number, (name, other) in enumerate(zip(mine.class_names, first.class_names, strict=True)):
        if name != other:
            return (f'has the classes in another order than {first_name}: class {number} is '
                    f'{name!r}, there {other!r}')
    for split, count in (('training', 'train_examples'), ('evaluation', 'eval_examples')):
        if getattr(mine, count) != getattr(first, count):
            return (f'has {getattr(mine, count):,} {split} images, {first_name} has '
                    f'{getattr(first, count):,}')
    for split, mark in (('training', 'train_fingerprint'), ('evaluation', 'eval_fingerprint')):
        if getattr(mine, mark) != getattr(first, mark):
            return (f'has other {split} images than {first_name}: as many, with other names, '
                    'sizes, labels or pixels')
    if mine != first:
        return (f'has images of {"x".join(map(str, mine.image_shape))}, {first_name} of '
                f'{"x".join(map(str, first.image_shape))}')
    return ''
