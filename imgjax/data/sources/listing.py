"""A file that lists images and their labels: .csv or .tsv (`file,label[,split]`) or .json.

Each item of the .json is {"file": ..., "label": ... or [...], "split": ...}. In a .csv several
labels are separated by '|'. A row with several labels makes the set multi-label, and a row without
a label then has none of the classes. Files are relative to the folder of the listing.

A file has one set of labels and is in one split. If several rows name it, training draws it as
often (so that rare classes can be repeated), and evaluation counts it once.
"""

import concurrent.futures
import contextlib
import itertools
import logging
import os
import posixpath
import stat
import unicodedata
from collections.abc import Sequence

import numpy as np

from imgjax.data import (
    Source,
    image_files,
    listing_file,
    records,
    source_options,
    split_names,
    splits,
)
from imgjax.data import labels as labels_lib
from imgjax.data import left_out as left_out_lib
from imgjax.data.fingerprint import fingerprint
from imgjax.data.listing_file import Row
from imgjax.errors import ConfigError, DataError

log = logging.getLogger('imgjax')


def open_split(split: str, options: dict) -> Source:
    """Opens a split of the listing config.data.path; its classes are those of all its splits.

    Where it has no second split, `held_out` (or `test`, `val`) is a share of the first,
    config.data.held_out. Options: root, a folder that absolute file names have to be in ('' refuses
    them).

    Raises:
      ConfigError: there is no path, no such file, split or column, or a split is not read while a
        share of `train` is held out.
      DataError: a row or a file has the wrong form, a file is in two splits or has two labels, or a
        class is evaluated and not trained.
    """
    settings = source_options(options, root='')
    path = splits.data_path(options, 'file', 'a file .csv or .json that lists the images')
    left_out = {}
    rows = listing_file.read(path, left_out)
    for row in rows:
        _check_inside(row.file, f'{path}: {row.place}', os.path.expanduser(settings['root']))
    multi_label = any(len(row.labels) > 1 for row in rows)
    split_of = _split_of(rows)
    labelled = _with_labels(path, rows, split_of, split, multi_label)
    part, held_out = split_names.resolve_share(
        split, labelled, f'config.data: {path} has no split {split!r}')
    trains = split in split_names.bare(options.get('train_split', 'train'))
    for name in _unread(path, split, split_of, labelled, held_out, options):
        left_out_lib.count(left_out, 'rows of splits that this run does not read', repr(name),
                           split_of.count(name))
    usable = [number for number, name in enumerate(split_of) if name in labelled]
    rows, splits_of_rows = [rows[i] for i in usable], np.array([split_of[i] for i in usable])
    class_names, labels = _labels(path, rows, multi_label)
    _check_run(path, rows, splits_of_rows, labels, class_names, options)
    mine = np.flatnonzero(splits_of_rows == part)
    names, sizes, files = _found(os.path.dirname(path), [rows[i] for i in mine], path)
    labels = labels[mine]
    numbers = image_files.file_numbers(files)
    image_files.check_one_label(
        numbers, labels, [f'{rows[i].file} in {rows[i].place}' for i in mine], class_names, path)
    taken = np.ones(len(mine), bool)
    if held_out is not None:
        chosen = splits.held_out_share(names, labels, options['held_out'], numbers)
        taken = chosen == held_out
        if held_out:
            splits.log_share(part, chosen, options)
        else:
            splits.count_unused_share(names, chosen, options, left_out)
    repeated = taken & (numbers != np.arange(len(mine)))
    if repeated.any():
        first = records.shown(names[repeated.argmax()])
        if trains:
            log.warning('%s: %d of its %d rows repeat a file (%s); it is drawn as often as it is '
                        'listed', split, repeated.sum(), taken.sum(), first)
        else:
            left_out_lib.count(left_out, 'rows that repeat a file', first, int(repeated.sum()))
            taken &= ~repeated
    taken = np.flatnonzero(taken)
    left_out_lib.count_absent(left_out, class_names, labels[taken])
    return _source(os.path.dirname(path), [names[i] for i in taken], [sizes[i] for i in taken],
                   labels[taken], class_names, options)._replace(
                       multi_label=multi_label, left_out=left_out, files=files[taken])


def _source(root: str, names: list[str], sizes: list[int], labels: np.ndarray, class_names,
            options: dict) -> Source:
    files = (os.fsencode(f'{name} {size}\n') for name, size in zip(names, sizes, strict=True))
    mark = fingerprint(itertools.chain(
        ['\0'.join(class_names)], files, [np.ascontiguousarray(labels)]))
    examples = records.Files(root, names, labels, options)
    return Source(examples, class_names, mark, examples.labels)


def _split_of(rows: Sequence[Row]) -> list[str]:
    """Returns the split of each row, 'train' for a row without one.

    Names that differ only in case, blanks or signs become the same.
    """
    one = {}
    for word in sorted({row.split or 'train' for row in rows}):
        one.setdefault(split_names.plain(word), word)
    return [one[split_names.plain(row.split or 'train')] for row in rows]


def _with_labels(path: str, rows: Sequence[Row], split_of: list[str], split: str,
                 multi_label: bool) -> list[str]:
    """Returns the splits that have labels, which in a multi-label set are all.

    Raises:
      DataError: `split` names another one.
    """
    labelled = sorted({name for row, name in zip(rows, split_of, strict=True)
                       if row.labels or multi_label})
    wanted = split_names.find(split, set(split_of))
    if wanted in labelled or wanted is None or split_names.kind(split) == 'held_out':
        return labelled
    raise DataError(f'{path}: the rows of the split {split!r} have no labels; evaluate on another '
                    'with config.data.eval_split, and classify their images with launch.predict')


def _unread(path: str, split: str, split_of: list[str], labelled: list[str],
            held_out: bool | None, options: dict) -> list[str]:
    """Returns the splits that the run does not read.

    Raises:
      ConfigError: one of them has labels, and a share of `train` would be held out instead.
    """
    evaluated = split_names.bare(options.get('eval_split', 'held_out'))
    unread = splits.unread_splits(split, set(split_of), labelled, options)
    share = held_out is False and any(map(split_names.is_held_out, evaluated))
    if share and set(unread) & set(labelled):
        name = sorted(set(unread) & set(labelled))[0]
        raise ConfigError(f'config.data.eval_split: no split reads the {split_of.count(name):,} '
                          f'rows of {name!r} in {path}, and a share of train would be held out; '
                          f'set eval_split={name}, or take these rows out')
    return unread


def _labels(path: str, rows: Sequence[Row],
            multi_label: bool) -> tuple[tuple[str, ...], np.ndarray]:
    """Returns (class names, labels of the rows, int32 (N,) or bool (N, K))."""
    without = [row for row in rows if not row.labels]
    if without and not multi_label:
        raise DataError(f'{path}: {without[0].place} has no label ({len(without):,} rows have '
                        'none); give each one, or take it out')
    return labels_lib.from_names([row.labels for row in rows], multi_label, path)


def _check_run(path: str, rows: Sequence[Row], split_of: np.ndarray, labels: np.ndarray,
               class_names: Sequence[str], options: dict) -> None:
    """Checks that the run's splits share no file, and that all evaluated classes are trained."""
    there = set(split_of.tolist())
    train, held_out = ({split_names.find(name, there) for name in split_names.bare(spec)} - {None}
                       for spec in (options.get('train_split', 'train'),
                                    options.get('eval_split', 'held_out')))
    if not train or not held_out or train & held_out:
        return
    train_rows, eval_rows = (np.flatnonzero(np.isin(split_of, list(names))).tolist()
                             for names in (train, held_out))
    lines = {_plain_path(rows[i].file): i for i in train_rows}
    both = [(lines[file], i) for i in eval_rows if (file := _plain_path(rows[i].file)) in lines]
    if both:
        first, second = (rows[i] for i in both[0])
        raise DataError(
            f'{path}: {len(both):,} rows of the split {split_of[both[0][1]]} name files that are '
            f'trained on, first {records.shown(first.file)} in {first.place} and '
            f'{second.place}; keep each file in one split')
    trained, evaluated = (labels_lib.present(labels[part], len(class_names))
                          for part in (train_rows, eval_rows))
    extra = np.flatnonzero(evaluated & ~trained)
    if len(extra):
        raise DataError(
            f'{path}: the split {split_of[eval_rows[0]]} has images of {len(extra)} classes that '
            f'are not trained, first {class_names[extra[0]]!r}; add training images of it, or '
            'take it out')


def _plain_path(name: str) -> str:
    name = unicodedata.normalize('NFC', name.strip().replace('\\', '/'))
    return posixpath.normpath(name)


def _check_inside(name: str, place: str, root: str) -> None:
    if '..' in name.strip().replace('\\', '/').split('/'):
        raise DataError(f"{place}: {name!r}: '..' may not be in a file name; list files below "
                        'the folder of the listing')
    if os.path.isabs(name.strip()) and not (root and name.startswith(os.path.join(root, ''))):
        raise DataError(f'{place}: {name!r} is absolute; list it relative to the folder of the '
                        'listing, or set config.data.options.root to a folder that it lies in')


def _found(root: str, rows: Sequence[Row], path: str) -> tuple[list[str], list[int], np.ndarray]:
    """Returns (names, sizes in bytes, device and inode uint64 (N, 2)) of the files of the rows.

    A file that does not exist as it is written is searched for without blanks around its name, with
    / for \\, and in other Unicode normal forms.
    """
    def look(name: str):
        spellings = [name, name.strip(), name.strip().replace('\\', '/')]
        spellings += [unicodedata.normalize(form, spellings[2]) for form in ('NFC', 'NFD')]
        for spelling in dict.fromkeys(spellings):
            with contextlib.suppress(OSError, ValueError):
                status = os.stat(os.path.join(root, spelling))
                if stat.S_ISREG(status.st_mode):
                    return spelling, status
        return None

    blocks = [rows[i:i + 1000] for i in range(0, len(rows), 1000)]
    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        looked = threads.map(lambda block: [look(row.file) for row in block], blocks)
        found = [one for block in looked for one in block]
    missing = [row.file for row, one in zip(rows, found, strict=True) if one is None]
    if missing:
        raise DataError(f'{path}: {len(missing):,} of {len(rows):,} files are missing, first '
                        f'{records.shown(os.path.join(root, missing[0]))!r}')
    numbers = {}
    files = [(status.st_dev, status.st_ino) if status.st_ino
             else (2**64 - 1, 1 + numbers.setdefault(name, len(numbers))) for name, status in found]
    return ([name for name, _ in found], [status.st_size for _, status in found],
            np.array(files, np.uint64).reshape(-1, 2))
