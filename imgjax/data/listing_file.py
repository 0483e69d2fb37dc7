"""Reads the rows of a listing, .csv, .tsv or .json, without the blanks around labels and splits."""

import codecs
import csv
import itertools
import json
from collections.abc import Iterator
from typing import NamedTuple

from imgjax.data import left_out as left_out_lib
from imgjax.data import records
from imgjax.errors import ConfigError, DataError

# A line put after the last one; behind an open quotation mark it becomes part of a cell.
_END = 'here the listing ends'
_COLUMNS = 'it takes file,label or file,label,split, separated by , or ; or tabs'


class Row(NamedTuple):
    """One row: a file, its labels and its split ('' if it has none)."""

    place: str  # 'line 3' of a .csv, 'item 2' of a .json
    file: str
    labels: tuple[str, ...]
    split: str


def read(path: str, left_out: dict[str, tuple[int, str]]) -> list[Row]:
    """Returns the rows of a listing, and counts in `left_out` what it ignores.

    Raises:
      ConfigError: it is no .csv, .tsv or .json, or its first line lacks a column.
      DataError: it cannot be read, or a row has the wrong form.
    """
    ending = path.lower().rpartition('.')[2]
    if ending not in ('csv', 'tsv', 'json'):
        raise ConfigError(f'config.data.path: {path}: takes a listing .csv, .tsv or .json')
    try:
        with open(path, 'rb') as file:
            wide = file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
        # Names of files may be bytes that are no UTF-8.
        encoding, errors = ('utf-16', 'strict') if wide else ('utf-8-sig', 'surrogateescape')
        with open(path, newline='', encoding=encoding, errors=errors) as file:
            rows = list((_json_rows if ending == 'json' else _csv_rows)(file, path, left_out))
    except (ValueError, csv.Error, OSError, RecursionError) as error:
        raise DataError(f'{path}: cannot be read ({error})') from None
    if not rows:
        raise DataError(f'{path}: lists nothing')
    _check_shown({label for row in rows for label in row.labels}, path)
    return [row._replace(labels=tuple(map(records.shown, row.labels))) for row in rows]


def _csv_rows(file, path: str, left_out: dict) -> Iterator[Row]:
    first = file.readline()
    for delimiter in ',;\t':
        columns = [name.strip().lower() for name in next(csv.reader([first], delimiter=delimiter),
                                                         [])]
        if 'file' in columns and 'label' in columns:
            break
    else:
        found = ', '.join(map(repr, next(csv.reader([first]), [])))[:200] or 'nothing'
        missing = next((name for name in ('file', 'label') if name not in first.lower()), 'file')
        raise ConfigError(f'{path}: the first line has no column {missing!r}, it has {found}; '
                          f'{_COLUMNS}')
    at = {name: columns.index(name) for name in ('file', 'label', 'split') if name in columns}
    twice = [name for name in at if columns.count(name) > 1]
    if twice:
        raise ConfigError(f'{path}: the first line has the column {twice[0]!r} twice; {_COLUMNS}')
    for name in columns:
        if name not in at:
            left_out_lib.count(left_out, 'columns that are not read', repr(name))
    reader, begins = csv.reader(itertools.chain(file, [_END]), delimiter=delimiter), 2
    for cells in reader:
        place, begins = f'line {begins}', reader.line_num + 2
        if cells == [_END]:
            return
        if any(_END in cell for cell in cells):
            raise DataError(f'{path}: a quotation mark of {place} is not closed; close it, or take '
                            'it out')
        if not any(cell.strip() for cell in cells):
            if cells:
                left_out_lib.count(left_out, 'lines without a word', place)
            continue
        if len(cells) != len(columns):
            raise DataError(f'{path}: {place} has {len(cells)} columns, and the first line has '
                            f'{len(columns)}')
        name = cells[at['file']]
        if not name.strip():
            raise DataError(f'{path}: {place} names no file')
        text = cells[at['label']]
        if broken := [cells[i] for i in at.values() if len(cells[i].strip().splitlines()) > 1]:
            raise DataError(f'{path}: {place}: {broken[0][:60]!r} goes over several lines; is a '
                            'quotation mark missing, or one too many?')
        yield Row(place, name, _labels(text.split('|') if text.strip() else [], place, left_out),
                  cells[at['split']].strip() if 'split' in at else '')


def _json_rows(file, path: str, left_out: dict) -> Iterator[Row]:
    items = json.load(file, object_pairs_hook=_fields)
    if not isinstance(items, list):
        raise DataError(f'{path}: takes a list of {{"file", "label"}}, got {type(items).__name__}')
    others = {name: None for item in items if isinstance(item, dict) for name in item
              if name not in ('file', 'label', 'split')}
    for name in others:
        left_out_lib.count(left_out, 'fields that are not read', repr(name))
    for number, item in enumerate(items):
        place = f'item {number}'
        fields = item if isinstance(item, dict) else {}
        labels = fields.get('label', {})
        labels = labels if isinstance(labels, list) else [] if labels is None else [labels]
        split = fields.get('split') or ''  # pandas writes null where there is none
        if not (all(type(label) in (str, int) for label in labels)
                and isinstance(fields.get('file'), str) and fields['file'].strip()
                and isinstance(split, str)):
            raise DataError(f'{path}: {place} is not {{"file": text, "label": text or list of '
                            f'texts, "split": text}}: {str(item)[:100]}')
        yield Row(place, fields['file'], _labels(list(map(str, labels)), place, left_out),
                  split.strip())


def _fields(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Returns the fields of an item, with names in lower case and without blanks around them."""
    names = [name.strip().lower() for name, _ in pairs]
    twice = [name for name in ('file', 'label', 'split') if names.count(name) > 1]
    if twice:
        raise ValueError(f'an item has the field {twice[0]!r} twice')
    return dict(zip(names, (value for _, value in pairs), strict=True))


def _labels(words: list[str], place: str, left_out: dict) -> tuple[str, ...]:
    """Returns labels without blanks around them, without empty ones, and each once."""
    labels = [word.strip() for word in words]
    if blank := sum(word != label for word, label in zip(words, labels, strict=True)):
        left_out_lib.count(left_out, 'blanks around labels', place, blank)
    if '' in labels and len(labels) > 1:
        left_out_lib.count(left_out, 'empty labels beside others', place, labels.count(''))
    labels = [label for label in labels if label]
    once = tuple(dict.fromkeys(labels))
    if len(once) < len(labels):
        left_out_lib.count(left_out, 'labels that stand twice in a row', place)
    return once


def _check_shown(labels: set[str], path: str) -> None:
    """Checks that labels remain different when bytes that are no UTF-8 are written as '?'."""
    seen = {}
    for label in sorted(labels):
        if seen.setdefault(records.shown(label), label) != label:
            raise DataError(f'{path}: several labels would be called {records.shown(label)!r}; '
                            'save the file as UTF-8')
