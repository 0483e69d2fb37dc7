"""Tar files in WebDataset's layout, in random access: `KEY.jpg` and `KEY.cls`, or `KEY.json`.

Files are `PATH/<split>-*.tar`, `PATH/<split>/*.tar` or `PATH/<split>.tar`. Their headers are read
once and stored as an index; images are then read in place. `KEY.cls` holds the class number, or in
all files the class name; `KEY.json` holds the number under "label", or a list of them, which makes
the set multi-label. If both hold one they must agree; a `KEY.json` without "label" is not read.
Class names are the lines of `PATH/classnames.txt`, else the names or numbers in the labels.

As in WebDataset a key ends at the first dot of the file name, so that `KEY.depth.png` is another
field of KEY and no example. It is an example where `KEY.depth.cls` (or .json) gives it a label, or
where KEY has a label and no other image.
"""

import collections
import concurrent.futures
import json
import logging
import os
import tarfile
from collections.abc import Sequence

import numpy as np

from imgjax.data import Source, label_columns, records, shards, source_options, split_names, splits
from imgjax.data import labels as labels_lib
from imgjax.data import left_out as left_out_lib
from imgjax.data.decode import EXTENSIONS
from imgjax.data.label_columns import LabelColumn
from imgjax.errors import DataError, one_line

log = logging.getLogger('imgjax')

MAX_LABEL_BYTES = {'.cls': 100, '.json': 2**20}
_INDEX = '4'  # the version of stored indexes; another one makes them again


def open_split(split: str, options: dict) -> Source:
    """Opens a split of config.data.path.

    Where `train` is the only split, `held_out` (or `test`, `val`) is a share of it,
    config.data.held_out.
    Options: cache, the folder of the index ('' is beside the files, or in ~/.cache/imgjax).

    Raises:
      ConfigError: there is no path, or no such folder or split.
      DataError: a file is missing or cut off, or a key has no image or no label.
    """
    cache = source_options(options, cache='')['cache']
    path = splits.data_path(options, 'folder', 'the folder that holds <split>-*.tar')
    every = shards.files(path, '.tar')

    def open_one(split: str) -> Source:
        shards.check(split, every[split])
        index = _cached_index(path, split, every[split], cache)
        if not _has_labels(index):
            raise DataError(records.unpacked(index['without_label'])[0])
        train = split_names.find('train', every)
        first = index if train in (None, split) else _cached_index(path, train, every[train], cache)
        names, index['labels'] = _labels(path, split, index, first)
        multi_label = bool(index['multi_label'])
        if multi_label:
            index['labels'] = labels_lib.from_lists(
                np.split(index['labels'], np.cumsum(index['counts'])[:-1]), len(names))
        examples = records.Ranges(every[split], index, options)
        left_out = {kind: tuple(value)
                    for kind, value in json.loads(index['left_out'].tobytes()).items()}
        return Source(examples, names, examples.fingerprint(names), examples.labels, multi_label,
                      left_out)

    return splits.open_part(split, every, f'config.data: {path} has no {split}-*.tar for that '
                            'split', options, open_one, lambda split: _has_labels(
                                _cached_index(path, split, every[split], cache)))


def _has_labels(index: dict[str, np.ndarray]) -> bool:
    return not index['without_label'].size


def _labels(path: str, split: str, index: dict[str, np.ndarray],
            first: dict[str, np.ndarray]) -> tuple[tuple[str, ...], np.ndarray]:
    """Returns (class names, the class number of each label of the split, int32).

    Without classnames.txt the classes are those of the split and of the `first` one.

    Raises:
      DataError: one split holds names and the other numbers, or classnames.txt lacks a class.
    """
    names = _class_names(path)
    mine, others = (records.unpacked(one['class_names']) for one in (index, first))
    if not names and _has_labels(first) and bool(mine) != bool(others):
        kinds = ('names', 'numbers')[::1 if mine else -1]
        raise DataError(f'{path}: the labels of {split} are class {kinds[0]}, those of train '
                        f'{kinds[1]}; write names or numbers in all')
    if not mine:
        if not names:
            top = max(int(one['numbers'].max(initial=0)) for one in (index, first))
            names = labels_lib.numbered([top], (), path)[0]
        return labels_lib.numbered(index['numbers'], names, path)
    names = names or tuple(labels_lib.in_order({*mine, *others}))
    listed = LabelColumn(os.path.join(path, 'classnames.txt'), names, [])
    numbers = label_columns.by_name(mine, names, f'{path}: {split}', listed).astype(np.int32)
    return names, numbers[index['numbers']]


def _cached_index(path: str, split: str, paths: list[str], cache: str) -> dict[str, np.ndarray]:
    def fits(_, index: dict) -> bool:
        sizes = np.array([os.path.getsize(p) for p in paths])
        return bool(np.all((index['offset'] >= 0) & (index['size'] >= 0)
                           & (index['offset'] + index['size'] <= sizes[index['shard']])))

    mark = records.stamp(paths, _INDEX, *EXTENSIONS)
    return records.cached_index(path, f'{split}.tar', mark, lambda _: _index(paths), fits, cache)[1]


def _class_names(path: str) -> tuple[str, ...]:
    place = os.path.join(path, 'classnames.txt')
    if not os.path.exists(place):
        return ()
    try:
        with open(place, encoding='utf-8-sig') as file:
            names = [line.strip() for line in file.read().rstrip().splitlines()]
    except (OSError, ValueError) as error:
        raise DataError(f'{place}: cannot be read ({error})') from None
    if '' in names:
        raise DataError(f'{place}: line {names.index("") + 1} is empty; each line names the class '
                        'of its number, from 0')
    return tuple(names)


def _index(paths: list[str]) -> dict[str, np.ndarray]:
    log.info('%s: indexing %d tar files, once', os.path.dirname(paths[0]), len(paths))
    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        found, kinds = zip(*threads.map(_scan, paths), strict=True)
    left_out = left_out_lib.added_up(kinds)
    rows = [row for one in found for row in one]
    if not rows:
        raise DataError(f'{paths[0]}: no images in the tar files of this split'
                        f'{"; " if left_out else ""}{left_out_lib.sentence(left_out)}')
    without = [label for *_, label in rows if isinstance(label, _NoLabel)]
    if without and len(without) < len(rows):
        raise DataError(f'{without[0]} ({len(without):,} of the {len(rows):,} images have none)')
    names = [] if without else _names_of(paths, found)
    number = {name: i for i, name in enumerate(names)}
    labels = [[-1] if without else label if isinstance(label, list) else [number.get(label, label)]
              for *_, label in rows]
    numbers = [number for one in labels for number in one]
    if all(isinstance(row[3], list) for row in rows):
        labels_lib.check_class_numbers(labels, paths[0])
    return {
        'shard': np.repeat(np.arange(len(paths), dtype=np.int32), [len(one) for one in found]),
        'offset': np.array([offset for _, offset, _, _ in rows], np.int64),
        'size': np.array([size for _, _, size, _ in rows], np.int64),
        'names': records.pack_names([name for name, _, _, _ in rows]),
        'numbers': np.array(numbers, np.int64),
        'counts': np.array([len(one) for one in labels], np.int64),
        'class_names': records.pack_names(names),
        'without_label': records.pack_names([str(one) for one in without[:1]]),
        'multi_label': np.array(any(isinstance(row[3], list) for row in rows)),
        'left_out': np.frombuffer(json.dumps(left_out).encode(), np.uint8),
    }


def _names_of(paths: Sequence[str], found: Sequence[list[tuple]]) -> list[str]:
    """Returns the class names in the labels of all images, in order; [] if they are numbers.

    Raises:
      DataError: some labels are names and some are numbers.
    """
    rows = [(f'{path}:{name}', label) for path, one in zip(paths, found, strict=True)
            for name, _, _, label in one]
    names = {label for _, label in rows if isinstance(label, str)}
    other = next((row for row in rows if not isinstance(row[1], str)), None)
    if names and other:
        place, name = next(row for row in rows if isinstance(row[1], str))
        raise DataError(f'{place}: its label is the name {name!r}, and that of {other[0]} is '
                        f'{other[1]}; write names or numbers in all')
    return labels_lib.in_order(names)


class _NoLabel(DataError):
    """An image has no label, or -1, which stands for none; this may be so for a whole split."""


def _scan(path: str) -> tuple[list[tuple], left_out_lib.LeftOut]:
    """Returns (rows, left_out) of a tar file.

    A row is (name, offset, size, label or labels) of an image, in the order of the file.
    """
    images, labels, left_out = {}, {}, {}  # by the name without its last ending
    try:
        with open(path, 'rb') as file, tarfile.open(fileobj=file, mode='r:') as tar:
            for member in tar:
                key, extension = os.path.splitext(member.name)
                extension, place = extension.rstrip().lower(), f'{path}:{member.name}'
                if member.isdir():
                    pass
                elif os.path.basename(member.name).startswith('.'):
                    left_out_lib.count(left_out, 'hidden files', member.name)
                elif not member.isreg():
                    left_out_lib.count(left_out, 'links or other kinds of files', member.name)
                elif extension in EXTENSIONS:
                    if member.issparse():
                        raise DataError(f'{place}: stored with holes (GNU sparse); pack it again '
                                        'without --sparse')
                    if key in images:
                        raise DataError(f'{place}: a second image of the key {key!r}')
                    images[key] = (member.name, member.offset_data, member.size)
                elif extension in MAX_LABEL_BYTES:
                    size = min(member.size, MAX_LABEL_BYTES[extension] + 1)
                    content = os.pread(file.fileno(), size, member.offset_data)
                    labels.setdefault(key, []).append(
                        (member.name, _label(content, extension, place)))
                else:
                    left_out_lib.count(left_out, 'with other endings', member.name)
                tar.members = []  # type: ignore[attr-defined]  # tarfile would collect all members
            _check_end(file.fileno(), tar.offset, path)
    except (tarfile.TarError, OSError, ValueError, EOFError) as error:
        raise DataError(f'{path}: not a whole tar file ({one_line(error)}); make or '
                        'copy it again') from None
    fields, labelled = collections.Counter(map(_webdataset_key, images)), bool(labels)
    rows = []
    for key, image in images.items():
        field_of = _webdataset_key(key)
        if key not in labels and fields[field_of] == 1 and field_of in labels:
            key = field_of
        if key in labels:
            rows.append((*image, _label_of(f'{path}:{key}', labels.pop(key))))
        elif key != field_of and labelled:
            left_out_lib.count(left_out, 'with a dot in their key and no label of their own',
                               image[0])
        else:
            rows.append((*image, _NoLabel(
                f'{path}:{image[0]}: has no label; expected {key}.cls or {key}.json')))
    for files in labels.values():
        known = any(not isinstance(label, DataError) for _, label in files)
        left_out_lib.count(left_out, 'labels without an image' if known else 'with other endings',
                           files[0][0], len(files))
    return rows, left_out


def _webdataset_key(name: str) -> str:
    folder, base = os.path.split(name)
    return os.path.join(folder, base.split('.')[0])


def _label_of(key: str, found: list[tuple[str, int | str | list[int] | DataError]]):
    """Returns the label of a key: a number, a name, a list of numbers, or _NoLabel.

    Args:
      key: what errors call the key.
      found: (file name, label or the error in it) for each label file of the key.

    Raises:
      DataError: no file holds a label that can be read, or they hold different ones.
    """
    wrong = [label for name, label in found if isinstance(label, DataError)
             and not isinstance(label, _NoLabel)
             and (name.lower().rstrip().endswith('.cls') or len(found) == 1)]
    if wrong:
        raise wrong[0]
    labels = [label for _, label in found if not isinstance(label, DataError)]
    if not labels:
        return next((label for _, label in found if isinstance(label, _NoLabel)), found[0][1])
    several = [label if isinstance(label, list) else [label] for label in labels]
    if any(sorted(one, key=str) != sorted(several[0], key=str) for one in several):
        readings = ', '.join(f'{os.path.basename(name)} says {label}' for name, label in found
                             if not isinstance(label, DataError))
        raise DataError(f'{key}: {readings}; make them agree or remove one')
    return labels[0] if len(set(map(type, labels))) == 1 else several[0]


def _check_end(descriptor: int, offset: int, path: str) -> None:
    # tarfile treats a file that is cut between two members, or damaged there, as complete.
    if os.pread(descriptor, tarfile.BLOCKSIZE, offset) != bytes(tarfile.BLOCKSIZE):
        raise DataError(f'{path}: cut short or damaged (no end mark at byte {offset:,}); make or '
                        'copy it again')


def _label(content: bytes, extension: str, place: str) -> int | str | list[int] | DataError:
    """Returns the label in a file, or the error that says why it has none."""
    most = MAX_LABEL_BYTES[extension]
    if len(content) > most:
        return DataError(f'{place}: a label has at most {most:,} bytes')
    wanted = ('a class number or name' if extension == '.cls'
              else '{"label": a class number or a list}')
    words = f'{place}: holds {content[:60]!r}; expected {wanted}'
    try:
        value = _class_of(content) if extension == '.cls' else json.loads(content)['label']
        if value is None or value == -1:
            return _NoLabel(words)
        if isinstance(value, str) and extension == '.cls':
            return value
        numbers = value if isinstance(value, list) else [value]
        if all(isinstance(n, int) and not isinstance(n, bool) and 0 <= n < 2**31 for n in numbers):
            return value
    except KeyError:
        return _NoLabel(words)
    except (ValueError, TypeError, RecursionError):
        pass
    return DataError(words)


def _class_of(content: bytes) -> int | str:
    """Returns the class number or name in a .cls file.

    Raises:
      ValueError: it is empty, has more than one line, or is a number that no class can have.
    """
    text = content.decode().strip()
    if text.isascii() and text.isdigit() or text == '-1':
        return int(text)
    try:
        float(text)
    except ValueError:
        if text.isprintable() and text:
            return text
    raise ValueError(text)
