"""A file that lists images and their labels: .csv (`file,label[,split]`) or .json.

Of the .json each item is {"file": ..., "label": ... or [...], "split": ...}. In a .csv several
labels are separated by '|'. An item with several makes the set multi-label, where one without a
label has none of the classes. Files are relative to the listing's folder.
"""

import concurrent.futures
import csv
import hashlib
import json
import os

import numpy as np

from imgjax.data import Source, source_options, splits
from imgjax.data import labels as labels_lib
from imgjax.data.records import Files
from imgjax.errors import ConfigError, DataError


def open_split(split: str, options: dict) -> Source:
    """Opens a split of the listing config.data.path; its classes are those of all its splits.

    Where it names no second split, `held_out` (or `test`, `val`) is config.data.held_out of it.
    Options: root, a folder that absolute file names must lie in ('' refuses them).

    Raises:
      ConfigError: no path given, or no such file, split or column.
      DataError: a row or a file that is not as it should be.
    """
    settings = source_options(options, root='')
    path = splits.data_path(options, 'a file .csv or .json that lists the images')
    names, lists, named_splits = _read(path)
    for row, name in enumerate(names):
        _check_inside(name, f'{path}: item {row}', os.path.expanduser(settings['root']))
    multi_label = any(len(one) > 1 for one in lists)
    class_names, labels = labels_lib.from_names(lists, multi_label, path)
    there = set(named_splits) - {''} or {'train'}
    part, held_out = splits.resolve_share(split, there, f'config.data: {path} has no split '
                                          f'{split!r}')
    rows = np.flatnonzero([(one or 'train') == part for one in named_splits])
    if held_out is not None:
        chosen = splits.held_out_share([names[row] for row in rows], labels[rows],
                                       options['held_out'])
        rows = rows[chosen == held_out]
    names, labels = [names[row] for row in rows], labels[rows]
    root = os.path.dirname(path)
    listing = hashlib.sha256('\0'.join(class_names).encode())
    for name, size in zip(names, _sizes(root, names, path), strict=True):
        listing.update(os.fsencode(f'{name} {size}\n'))
    listing.update(np.ascontiguousarray(labels))
    examples = Files(root, names, labels, options)
    return Source(examples, class_names, listing.hexdigest()[:16], examples.labels, multi_label)


def _read(path: str) -> tuple[list[str], list[list[str]], list[str]]:
    """Returns (files, labels of each, split of each or '') of a listing."""
    if not path.endswith(('.csv', '.json')):
        raise ConfigError(f'config.data.path: {path}: takes a .csv or .json listing')
    try:
        with open(path, encoding='utf-8-sig', newline='') as file:
            items = json.load(file) if path.endswith('.json') else _csv_items(file, path)
    except (ValueError, csv.Error, OSError, RecursionError) as error:
        raise DataError(f'{path}: cannot be read ({error})') from None
    if not isinstance(items, list):
        raise DataError(f'{path}: takes a list of {{"file", "label"}}, got {type(items).__name__}')
    for row, item in enumerate(items):
        labels = item.get('label') if isinstance(item, dict) else None
        labels = labels if isinstance(labels, list) else [labels]
        if not (all(isinstance(label, str | int) for label in labels)
                and isinstance(item.get('file'), str) and item['file']
                and isinstance(item.get('split', ''), str)):
            raise DataError(f'{path}: item {row} is not {{"file": text, "label": text or list of '
                            f'texts, "split": text}}: {str(item)[:100]}')
        item['label'] = [str(label) for label in labels]
    if not items:
        raise DataError(f'{path}: lists nothing')
    return ([item['file'] for item in items], [item['label'] for item in items],
            [item.get('split', '') for item in items])


def _csv_items(file, path: str) -> list[dict]:
    rows = csv.DictReader(file)
    for name in ('file', 'label'):
        if name not in (rows.fieldnames or ()):
            raise ConfigError(f'{path}: the first line has no column {name!r}; it is '
                              f'file,label or file,label,split')
    items = []
    for row in rows:
        if None in row or None in row.values():
            raise DataError(f'{path}: line {rows.line_num} has other columns than the first line')
        items.append({'file': row['file'], 'split': row.get('split', ''),
                      'label': row['label'].split('|') if row['label'] else []})
    return items


def _check_inside(name: str, place: str, root: str) -> None:
    if '..' in name.split('/'):
        raise DataError(f"{place}: {name!r}: '..' may not be in a file name; list files below "
                        'the folder of the listing')
    if os.path.isabs(name) and not (root and name.startswith(os.path.join(root, ''))):
        raise DataError(f'{place}: {name!r} is absolute; list it relative to the folder of the '
                        'listing, or set config.data.options.root to a folder that it lies in')


def _sizes(root: str, names: list[str], path: str) -> list[int]:
    """Returns the bytes of each file."""
    def sizes_of(block: list[str]) -> list[int]:
        sizes = []
        for name in block:
            try:
                sizes.append(os.stat(os.path.join(root, name)).st_size)
            except (OSError, ValueError):
                sizes.append(-1)
        return sizes

    blocks = [names[i:i + 1000] for i in range(0, len(names), 1000)]
    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        sizes = [size for block in threads.map(sizes_of, blocks) for size in block]
    missing = [name for name, size in zip(names, sizes, strict=True) if size < 0]
    if missing:
        raise DataError(f'{path}: {len(missing):,} of {len(names):,} files are missing, first '
                        f'{os.path.join(root, missing[0])!r}')
    return sizes
