"""Corrected labels: a .csv with a row for each image whose label is changed or that is left out.

`launch.audit` writes such a file. Its columns are split, index, given and label, in any order, and
others, which are for people:

  split  the split of the image, as it is opened, such as train or train[:90%]
  index  the number of the image in this split, from 0
  given  its label in the dataset, of several labels all, separated by '|'
  label  its label from now on, likewise; an image without one is left out

A column `dataset`, if there is one, is the fingerprint of the split: where files were added or
removed, the numbers of the images are others, and the file is refused. Without it only `given` is
compared with the dataset.
"""

import csv
import logging
import os
from typing import NamedTuple

import numpy as np

from imgjax.data import Source, check_labels_are_cheap, labels, left_out, slices
from imgjax.data.fingerprint import fingerprint
from imgjax.errors import ConfigError, DataError, nearest

log = logging.getLogger('imgjax')

COLUMNS = ('split', 'index', 'given', 'label')
_BYTES = 2**28  # of a file


class Row(NamedTuple):
    """A row: its line in the file, the number of an image, its given labels and its new ones.

    `dataset` is the fingerprint of the split that the row is about, '' where it is not given.
    """

    line: int
    dataset: str
    number: int
    given: tuple[str, ...]
    label: tuple[str, ...]


def apply(source: Source, split: str, path: str) -> Source:
    """Returns a split with the labels of a file, and without the images that it leaves out.

    Args:
      source: the split.
      split: its name, as it was opened; rows of other splits are not for it.
      path: the file.

    Raises:
      ConfigError: there is no such file, or it lacks a column.
      DataError: a row is not of this dataset, or names a class that the dataset lacks.
    """
    path = os.path.expanduser(path)
    rows, others = read(path, split, source.multi_label)
    if not rows:
        log.info('%s: %s changes no label of it; its rows are of %s', split, path,
                 ', '.join(sorted(others)) or 'no split')
        return source
    check_labels_are_cheap(source, 'data.relabel')
    numbers = {name: number for number, name in enumerate(source.class_names)}
    changed, kept = source.labels().copy(), np.ones(len(source.examples), bool)
    for row in rows:
        _check(source, changed, row, f'{path}, line {row.line}')
        unknown = next((name for name in row.label if name not in numbers), None)
        if unknown is not None:
            raise DataError(f'{path}, line {row.line}: the dataset has no class {unknown!r}'
                            f'{nearest(unknown, numbers)}')
        if not row.label:
            kept[row.number] = False
        elif source.multi_label:
            changed[row.number] = np.isin(np.arange(len(numbers)), [numbers[n] for n in row.label])
        else:
            changed[row.number] = numbers[row.label[0]]
    chosen = np.flatnonzero(kept)
    log.info('%s: %d labels changed and %d images left out by %s', split,
             sum(bool(row.label) and row.label != row.given for row in rows),
             len(kept) - len(chosen), path)
    examples = _Relabelled(slices.Selection([(source, chosen)]), changed[chosen])
    unused = dict(source.left_out)
    unused.pop(left_out.ABSENT, None)
    left_out.count_absent(unused, source.class_names, examples.labels())
    mark = fingerprint([source.fingerprint, *(f'{row.number} {"|".join(row.label)}\n'
                                              for row in rows)])
    return source._replace(
        examples=examples, labels=examples.labels, fingerprint=mark, left_out=unused,
        files=None if source.files is None else source.files[chosen])


def read(path: str, split: str, several: bool) -> tuple[list[Row], set[str]]:
    """Returns (the rows of a split in the order of the indices, the other splits of the file).

    Args:
      path: the file.
      split: the split; rows of others are not read.
      several: whether an image may have several labels, separated by '|'.

    Raises:
      ConfigError: there is no such file, or it lacks a column.
      DataError: a row has no valid index, or an image stands in two rows.
    """
    where = f'config.data.relabel: {path}'
    if not os.path.isfile(path):
        raise ConfigError(f'{where}: no such file')
    if os.path.getsize(path) > _BYTES:
        raise ConfigError(f'{where}: has more than {_BYTES:,} bytes')
    rows: dict[int, Row] = {}
    others: set[str] = set()
    try:
        with open(path, encoding='utf-8-sig', newline='') as file:
            reader = csv.DictReader(file.read().splitlines(keepends=True))
        missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
        if missing:
            raise ConfigError(f'{where}: the first line has no column {missing[0]!r}; it takes '
                              f'{", ".join(COLUMNS)}')
        for cells in reader:
            index = cells['index'] or ''
            if cells['split'] != split:
                others.add(str(cells['split']))
                continue
            if not (index.isascii() and index.isdecimal()) or int(index) in rows:
                raise DataError(f'{path}, line {reader.line_num}: index: takes the number of an '
                                f'image that no other row has, got {index!r}')
            given, label = (_names(cells[name] or '', several) for name in ('given', 'label'))
            rows[int(index)] = Row(reader.line_num, cells.get('dataset') or '', int(index), given,
                                   label)
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f'{path}: cannot be read as .csv in UTF-8 ({error})') from None
    return [rows[index] for index in sorted(rows)], others


def _names(cell: str, several: bool) -> tuple[str, ...]:
    words = cell.split('|') if several else [cell]
    return tuple(word.strip() for word in words if word.strip())


def _check(source: Source, given: np.ndarray, row: Row, place: str) -> None:
    """Checks that a row is about this dataset."""
    count = len(source.examples)
    if row.dataset not in ('', source.fingerprint):
        raise DataError(f'{place}: is of another dataset, or of another state of it; audit it anew')
    if row.number >= count:
        raise DataError(f'{place}: there is no image {row.number:,}, the split has {count:,}; the '
                        'file is of another dataset, or of another state of it')
    here = np.flatnonzero(given[row.number]) if source.multi_label else [given[row.number]]
    names = tuple(source.class_names[number] for number in here)
    if set(names) != set(row.given):
        raise DataError(f'{place}: image {row.number:,} is given as {"|".join(row.given)!r}, and '
                        f'the dataset has {"|".join(names)!r}; the file is of another dataset, or '
                        'of another state of it')


class _Relabelled:
    """Examples with other labels than those stored with them."""

    def __init__(self, examples: slices.Selection, changed: np.ndarray):
        self._examples = examples
        self._labels = changed
        self.labels_are_cheap = True

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> dict:
        return self._examples[index] | {'label': labels.at(self._labels, index)}

    def __getitems__(self, indices) -> list[dict]:
        return [example | {'label': labels.at(self._labels, int(index))} for index, example in zip(
            indices, self._examples.__getitems__(indices), strict=True)]

    def labels(self) -> np.ndarray:
        return labels.whole(self._labels)
