"""Tar files in WebDataset's layout, in random access: `KEY.jpg` and `KEY.cls`, or `KEY.json`.

Files are `PATH/<split>-*.tar`, `PATH/<split>/*.tar` or `PATH/<split>.tar`. Their headers are read
once and kept as an index; images are then read where they lie. `KEY.cls` holds the class number;
`KEY.json` holds it under "label", or a list of them, which makes the set multi-label. Class names
are the lines of `PATH/classnames.txt`, else the numbers.
"""

import concurrent.futures
import json
import logging
import os
import tarfile

import numpy as np

from imgjax.data import Source, records, shards, source_options, splits
from imgjax.data import labels as labels_lib
from imgjax.data.decode import EXTENSIONS
from imgjax.errors import DataError

log = logging.getLogger('imgjax')

MAX_LABEL_BYTES = {'.cls': 100, '.json': 2**20}


def open_split(split: str, options: dict) -> Source:
    """Opens a split of config.data.path.

    Options: cache, where the index is kept ('': beside the files, or in ~/.cache/imgjax).

    Raises:
      ConfigError: no path given, or no such folder or split.
      DataError: a file is cut, or a key has no image or no label.
    """
    cache = source_options(options, cache='')['cache']
    path = splits.data_path(options, 'the folder that holds <split>-*.tar')
    every = shards.files(path, '.tar')
    split = splits.resolve(split, every, f'config.data: {path} has no {split}-*.tar for that split')
    paths = every[split]
    shards.check(split, paths)

    def fits(_, index: dict) -> bool:
        sizes = np.array([os.path.getsize(p) for p in paths])
        return bool(np.all((index['offset'] >= 0) & (index['size'] >= 0)
                           & (index['offset'] + index['size'] <= sizes[index['shard']])))

    _, index = records.kept(path, f'{split}.tar', records.stamp(paths), lambda _: _index(paths),
                            fits, cache)
    multi_label = bool(index['multi_label'])
    names = _class_names(path)
    names, index['labels'] = labels_lib.numbered(index['numbers'], names, path)
    if multi_label:
        index['labels'] = labels_lib.from_lists(
            np.split(index['numbers'], np.cumsum(index['counts'])[:-1]), len(names))
    examples = records.Ranges(paths, index, options)
    return Source(examples, names, examples.fingerprint(names), examples.labels, multi_label)


def _class_names(path: str) -> tuple[str, ...]:
    place = os.path.join(path, 'classnames.txt')
    if not os.path.exists(place):
        return ()
    try:
        with open(place, encoding='utf-8') as file:
            return tuple(line.strip() for line in file if line.strip())
    except (OSError, ValueError) as error:
        raise DataError(f'{place}: cannot be read ({error})') from None


def _index(paths: list[str]) -> dict[str, np.ndarray]:
    log.info('%s: indexing %d tar files, once', os.path.dirname(paths[0]), len(paths))
    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        found = list(threads.map(_scan, paths))
    rows = [row for one in found for row in one]
    if not rows:
        raise DataError(f'{paths[0]}: no images in the tar files of this split')
    labels = [label if isinstance(label, list) else [label] for _, _, _, label in rows]
    numbers = [number for one in labels for number in one]
    return {
        'shard': np.repeat(np.arange(len(paths), dtype=np.int32), [len(one) for one in found]),
        'offset': np.array([offset for _, offset, _, _ in rows], np.int64),
        'size': np.array([size for _, _, size, _ in rows], np.int64),
        'names': records.pack_names([name for name, _, _, _ in rows]),
        'numbers': np.array(numbers, np.int64),
        'counts': np.array([len(one) for one in labels], np.int64),
        'multi_label': np.array(any(isinstance(row[3], list) for row in rows)),
    }


def _scan(path: str) -> list[tuple]:
    """Returns (name, offset, size, label or labels) of each image of a tar file, in its order."""
    images, labels = {}, {}
    try:
        with open(path, 'rb') as file, tarfile.open(fileobj=file, mode='r:') as tar:
            for member in tar:
                if not member.isreg() or os.path.basename(member.name).startswith('.'):
                    continue
                folder, base = os.path.split(member.name)
                key, dot, extension = base.partition('.')
                key, extension = os.path.join(folder, key), dot + extension.lower()
                place = f'{path}:{member.name}'
                if extension in EXTENSIONS:
                    if member.issparse():
                        raise DataError(f'{place}: stored with holes (GNU sparse); pack it again '
                                        'without --sparse')
                    if key in images:
                        raise DataError(f'{place}: a second image of the key {key!r}')
                    images[key] = (member.name, member.offset_data, member.size)
                elif extension in MAX_LABEL_BYTES:
                    if member.size > MAX_LABEL_BYTES[extension]:
                        raise DataError(f'{place}: {member.size} bytes; a label has at most '
                                        f'{MAX_LABEL_BYTES[extension]}')
                    labels[key] = _label(os.pread(file.fileno(), member.size, member.offset_data),
                                         extension, place)
                tar.members = []  # it would keep each
            _check_end(file.fileno(), tar.offset, path)
    except (tarfile.TarError, OSError, ValueError, EOFError) as error:
        raise DataError(f'{path}: not a whole tar file ({" ".join(str(error).split())}); make or '
                        'copy it again') from None
    for key, (name, _, _) in images.items():
        if key not in labels:
            raise DataError(f'{path}:{name}: has no label; expected {key}.cls or {key}.json')
    return [(*image, labels[key]) for key, image in images.items()]


def _check_end(descriptor: int, offset: int, path: str) -> None:
    # tarfile reads a file that is cut between two members, or has garbage there, as if it ended.
    if os.pread(descriptor, tarfile.BLOCKSIZE, offset) != bytes(tarfile.BLOCKSIZE):
        raise DataError(f'{path}: cut short or damaged (no end mark at byte {offset:,}); make or '
                        'copy it again')


def _label(content: bytes, extension: str, place: str) -> int | list[int]:
    try:
        value = int(content) if extension == '.cls' else json.loads(content)['label']
        numbers = value if isinstance(value, list) else [value]
        if all(isinstance(n, int) and not isinstance(n, bool) and 0 <= n < 2**31 for n in numbers):
            return value
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    wanted = 'a class number' if extension == '.cls' else '{"label": a class number or a list}'
    raise DataError(f'{place}: holds {content[:60]!r}; expected {wanted}')
