"""Finds the files of each split by their names, and checks that none of them is missing.

    train-000.tar train_part_0.tar train.tar   shards of the split train
    train-00000-of-00005[-HASH].parquet        one of five, and the other four have to exist
    val-corrupted-000.tar                      the split val-corrupted, not val
    train/000.tar  train/imagenet-000.tar      the split train
"""

import logging
import os
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from imgjax.data import split_names
from imgjax.errors import ConfigError, DataError

log = logging.getLogger('imgjax')

_NAME = re.compile(r'(?:(?P<split>.+?)[-_.])??(?:(?:shard|part)[-_.]?)?(?P<number>[0-9]+)'
                   r'(?:[-_]of[-_](?P<count>[0-9]+)(?:[-_.][0-9a-f]+)?)?')
_COMPRESSED = ('.gz', '.zst', '.xz', '.bz2')
_SHORT = {'.tgz': '.tar', '.txz': '.tar', '.tbz2': '.tar'}


class _Shard(NamedTuple):
    """What a file's name says: its split, its number, and of how many; None where it does not."""

    split: str
    number: int | None
    of: int | None


def _parse(stem: str) -> _Shard:
    found = _NAME.fullmatch(stem)
    if not found:
        return _Shard(stem, None, None)
    of = found['count']
    return _Shard(found['split'] or '', int(found['number']), int(of) if of else None)


def files(path: str, extension: str) -> dict[str, list[str]]:
    """Returns {split: its files, sorted by name}.

    The files are in `path`, in `path`/data, or in a folder of `path` with the name of the split. A
    beginning that all names share is no part of the split: imagenet-train-000.tar belongs to train.

    Args:
      path: the folder of the dataset.
      extension: '.tar' or '.parquet'.

    Raises:
      ConfigError: `path` is a file, or a file of a split is compressed.
    """
    if os.path.isfile(path):
        raise ConfigError(f'config.data.path: {path}: is a file; name the folder that holds '
                          f'<split>-*{extension}: {os.path.dirname(path) or "."}')
    found = {}
    for folder in (path, os.path.join(path, 'data')):
        for split, names in _by_split(_names(folder, extension)).items():
            found.setdefault(split, []).extend(os.path.join(folder, name) for name in names)
    for entry in sorted(os.scandir(path), key=lambda entry: entry.name):
        if not entry.is_dir() or entry.name.startswith('.') or entry.name == 'data':
            continue
        inner = _by_split(_names(entry.path, extension))
        has_splits = any(map(split_names.kind, inner)) and len(inner) > 1
        for split, names in inner.items():
            if not has_splits or split in ('', entry.name):
                split = entry.name
            elif not split.startswith(entry.name):
                split = f'{entry.name}-{split}'
            found.setdefault(split, []).extend(os.path.join(entry.path, name) for name in names)
    for folder in {path, *(os.path.dirname(file) for files in found.values() for file in files)}:
        _check_unpacked(folder, extension, found)
    return {split: sorted(paths) for split, paths in found.items()}


def _check_unpacked(folder: str, extension: str, found: Iterable[str]) -> None:
    """Checks that no file of a split exists in compressed form only.

    Raises:
      ConfigError: one does; the line names it.
    """
    for name in sorted(os.listdir(folder)):
        stem, ending = os.path.splitext(name)
        plain = stem if ending.lower() in _COMPRESSED else stem + _SHORT.get(ending.lower(), '')
        if not plain.lower().endswith(extension) or os.path.exists(os.path.join(folder, plain)):
            continue
        split, number, _ = _parse(os.path.splitext(plain)[0])
        known = split_names.kind(split) and split not in found
        if not found or known or (number is not None and any(map(split.endswith, found))):
            raise ConfigError(
                f'config.data.path: {os.path.join(folder, name)}: is compressed, so that no image '
                'can be read without all before it; unpack the files')


def _names(folder: str, extension: str) -> list[str]:
    if not os.path.isdir(folder):
        return []
    return sorted(entry.name for entry in os.scandir(folder)
                  if entry.name.lower().endswith(extension) and not entry.name.startswith('.')
                  and not entry.is_dir())


def _by_split(names: Iterable[str]) -> dict[str, list[str]]:
    """Returns {split: file names}; files named by a number alone are the split train."""
    found = {}
    for name in names:
        found.setdefault(_parse(os.path.splitext(name)[0]).split, []).append(name)
    if set(found) == {''}:
        return {'train': found['']}
    shared = _shared_beginning(found)
    return {split.removeprefix(shared): files for split, files in found.items()}


def _shared_beginning(splits: Iterable[str]) -> str:
    """Returns the shared beginning of all splits' names after which a known name is left, or ''."""
    splits = list(splits)
    for end in re.finditer('[-_.]', splits[0]) if splits else ():
        beginning = splits[0][:end.end()]
        rest = [split.removeprefix(beginning) for split in splits
                if split.startswith(beginning)]
        if len(rest) == len(splits) and any(map(split_names.kind, rest)):
            return beginning
    return ''


def check(split: str, paths: Sequence[str]) -> None:
    """Checks that the files of a split are one complete set.

    Raises:
      DataError: a file is missing, exists twice, or belongs to another set; the line names it.
    """
    folders = sorted({os.path.dirname(path) for path in paths})
    if len(folders) > 1:
        raise DataError(f'{folders[0]}: the split {split!r} lies there and in {folders[1]}; keep '
                        'one of them')
    sets = {}
    for path in paths:
        shard = _parse(os.path.splitext(os.path.basename(path))[0])
        sets.setdefault(shard.split, []).append((path, shard))
    for shards in sets.values():
        counts = {shard.of for _, shard in shards}
        if len(counts) > 1:
            odd = [next(path for path, shard in shards if shard.of == count)
                   for count in counts]
            raise DataError(f'{min(odd)}: of another set of files than {max(odd)}; keep the files '
                            'of one set')
        if counts == {None}:
            _warn_of_gaps(shards)
        else:
            _check_numbers(shards, *counts)


def _check_numbers(shards: list[tuple[str, _Shard]], count: int) -> None:
    there = {}
    for path, shard in shards:
        if shard.number in there:
            raise DataError(f'{path}: the number {shard.number} is there twice, the other is '
                            f'{there[shard.number]}; remove one')
        there[shard.number] = path
    first = int(count in there)  # some count from one
    missing = [number for number in range(first, first + count) if number not in there]
    beyond = sorted(set(there) - set(range(first, first + count)))
    if beyond:
        raise DataError(f'{there[beyond[0]]}: its number is beyond {count}; remove it or name it '
                        'right')
    if missing:
        path, shard = shards[0]
        more = f', and {len(missing) - 1:,} more' if len(missing) > 1 else ''
        raise DataError(f'{_renumbered(path, missing[0])}: is missing{more} ({len(there):,} of '
                        f'{count:,} files are there); download or copy the set again')


def _warn_of_gaps(shards: list[tuple[str, _Shard]]) -> None:
    numbered = {shard.number: path for path, shard in shards if shard.number is not None}
    if not numbered:
        return
    low, high = min(numbered), max(numbered)
    missing = high - low + 1 - len(numbered)
    if missing:
        first = next(number for number in range(low, high) if number not in numbered)
        log.warning('%s: is not there, %d of the numbers %d to %d are missing; is a file lost?',
                    _renumbered(numbered[low], first), missing, low, high)


def _renumbered(path: str, number: int) -> str:
    """Returns the path of shard `number` of the same set, with '*' for what is unknown."""
    folder, name = os.path.split(path)
    stem, extension = os.path.splitext(name)
    found = _NAME.fullmatch(stem)
    after = stem[found.end('number'):]
    if found['count']:
        known = found.end('count') - found.end('number')
        after = after[:known] + ('*' if after[known:] else '')
    width = len(found['number'])
    return os.path.join(folder, f'{stem[:found.start("number")]}{number:0{width}d}{after}'
                        f'{extension}')
