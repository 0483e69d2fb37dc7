"""A folder of class folders: `PATH/cat/1.jpg`, or `PATH/train/cat/1.jpg` and `PATH/test/...`.

Splits are the folders of PATH. Where nothing but `train/` is there, or PATH holds the class folders
itself, a share of each class is held out by the hash of the file's name.
"""

import concurrent.futures
import hashlib
import os

import numpy as np

from imgjax.data import Source, source_options, splits
from imgjax.data.decode import EXTENSIONS
from imgjax.data.records import Files
from imgjax.errors import DataError


def open_split(split: str, options: dict) -> Source:
    """Opens a split of config.data.path; its folders are the classes, in sorted order.

    Where there is no second split, `held_out` (or `test`, `val`) is config.data.held_out of it.

    Raises:
      ConfigError: no path given, or no such folder or split.
      DataError: no images in it.
    """
    source_options(options)
    path = splits.data_path(options, 'the folder that holds the class folders')
    there = _split_folders(path)
    part, held_out = splits.resolve_share(
        split, there or ['train'], f'config.data: {path} has no folder {split!r} for that split')
    root = os.path.join(path, part) if there else path
    class_names, names, sizes, labels = _list(root)
    if held_out is not None:
        chosen = splits.held_out_share(
            names, labels, options['held_out']) == held_out
        rows = np.flatnonzero(chosen)
        names, sizes = [names[row] for row in rows], [sizes[row] for row in rows]
        labels = labels[rows]
    listing = hashlib.sha256()
    for name, size in zip(names, sizes, strict=True):
        listing.update(os.fsencode(f'{name} {size}\n'))
    examples = Files(root, names, labels, options)
    return Source(examples, class_names, listing.hexdigest()[:16], examples.labels)


def _folders(path: str) -> list[str]:
    return sorted(entry.name for entry in os.scandir(path)
                  if not entry.name.startswith('.') and entry.is_dir())


def _split_folders(path: str) -> list[str]:
    """Returns the folders of `path` if they are splits; none if they are classes."""
    folders = _folders(path)

    def is_class(name: str) -> bool:  # there is also a class `train`, of the vehicle
        entries = list(os.scandir(os.path.join(path, name)))
        return (any(e.name.lower().endswith(EXTENSIONS) for e in entries)
                and not any(e.is_dir() for e in entries))

    known = {'train', *splits.HELD_OUT} & set(folders)
    return [] if all(is_class(name) for name in known) else folders


def _list(root: str) -> tuple[tuple[str, ...], list[str], list[int], np.ndarray]:
    """Returns (class names, file names relative to root, their bytes, int32 labels)."""
    classes = _folders(root)

    def images(name: str) -> list[tuple[str, int]]:
        # Sorted by name: the order of a directory is the file system's own affair.
        with os.scandir(os.path.join(root, name)) as entries:
            return sorted((f'{name}/{entry.name}', entry.stat().st_size) for entry in entries
                          if entry.name.lower().endswith(EXTENSIONS)
                          and not entry.name.startswith('.') and entry.is_file())

    with concurrent.futures.ThreadPoolExecutor(4) as threads:  # for file systems behind a network
        found = list(threads.map(images, classes))
    if not any(found):
        raise DataError(
            f'{root}: no images; expected {root}/<class>/<name>.jpg ({", ".join(EXTENSIONS)})')
    for name, files in zip(classes, found, strict=True):
        if not files:
            raise DataError(f'{root}/{name}: no images in this class folder; remove it or fill it')
    counts = [len(files) for files in found]
    return (tuple(classes), [name for files in found for name, _ in files],
            [size for files in found for _, size in files],
            np.repeat(np.arange(len(classes), dtype=np.int32), counts))
