"""Image files below a folder, and which of them are one file under several names."""

import os
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from imgjax.data import left_out as left_out_lib
from imgjax.data import records
from imgjax.data.decode import EXTENSIONS
from imgjax.errors import DataError

# Folders that macOS, Synology, Linux and Windows make; that of Synology holds small copies.
OF_SYSTEMS = ('__MACOSX', '@eaDir', 'lost+found', '$RECYCLE.BIN', 'System Volume Information')


class Found(NamedTuple):
    """Image files below a folder.

    Attributes:
      names: relative to it, with '/'; the order is torchvision's: folder by folder in the order of
        their paths, in each by name.
      sizes: their bytes.
      files: uint64 (N, 2), device and inode of each, which links to one file share.
      left_out: what else lies there.
    """

    names: list[str]
    sizes: list[int]
    files: np.ndarray
    left_out: dict[str, tuple[int, str]]


def is_image(name: str) -> bool:
    """Returns whether a file's name ends as that of an image; blanks after it do not count."""
    return name.rstrip().lower().endswith(EXTENSIONS)


def is_hidden(name: str) -> bool:
    """Returns whether a file or folder is none that a person put there."""
    return name.startswith('.') or name in OF_SYSTEMS


def is_folder(entry: os.DirEntry) -> bool:
    """Returns whether it is a folder or a link to one."""
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def below(folder: str, prefix: str = '') -> Found:
    """Finds the images in a folder and in the folders below it, also through links.

    Hidden files and folders are left out.

    Args:
      folder: where to look.
      prefix: put before each name.

    Raises:
      DataError: a folder cannot be read.
    """
    images, left_out = {}, {}
    parents = [os.stat(parent) for parent in pathlib.Path(os.path.abspath(folder)).parents]
    waiting = [(prefix, folder, frozenset((one.st_dev, one.st_ino) for one in parents))]
    while waiting:
        place, path, above = waiting.pop()
        images[place] = []
        try:
            status = os.stat(path)
            above = above | {(status.st_dev, status.st_ino)}
            with os.scandir(path) as entries:
                for entry in sorted(entries, key=lambda entry: entry.name):
                    name = f'{place}/{entry.name}' if place else entry.name
                    found = _look(entry, name, above, left_out)
                    if found == 'folder':
                        waiting.append((name, entry.path, above))
                    elif found:
                        images[place].append((name, found))
        except OSError as error:
            raise DataError(f'{path}: cannot be read ({error.strerror}); allow it, or take it out '
                            'of the set') from None
    rows = [row for place in sorted(images) for row in images[place]]
    return Found([name for name, _ in rows], [status.st_size for _, status in rows],
                 np.array([(status.st_dev, status.st_ino) for _, status in rows],
                          np.uint64).reshape(-1, 2), left_out)


def _look(entry: os.DirEntry, name: str, above: frozenset, left_out: dict):
    """Returns the os.stat_result of an image, 'folder', or None of what is left out."""
    if is_hidden(entry.name):
        if entry.name in OF_SYSTEMS:
            left_out_lib.count(left_out, 'folders of operating systems', name)
        elif is_image(entry.name):
            left_out_lib.count(left_out, 'hidden', name)
        return None
    try:
        status = entry.stat()
    except OSError:  # a link to nothing, or to itself
        left_out_lib.count(left_out, 'dead links', name)
        return None
    if entry.is_dir():
        if (status.st_dev, status.st_ino) not in above:
            return 'folder'
        left_out_lib.count(left_out, 'links to a folder above', name)
    elif not is_image(entry.name):
        left_out_lib.count(left_out, 'with other endings', name)
    elif not entry.is_file():
        left_out_lib.count(left_out, 'that are no plain files', name)
    else:
        return status
    return None


def file_numbers(files: np.ndarray) -> np.ndarray:
    """Returns a number for each row of `files`, the same for rows that are one file, int (N,).

    Args:
      files: uint64 (N, 2) of devices and inodes; an inode of 0 says nothing.
    """
    inodes = files[:, 1]
    alone = np.arange(len(files))
    order = np.lexsort((alone, files[:, 0], inodes))
    same = np.r_[False, (files[order][1:] == files[order][:-1]).all(axis=1)] & (inodes[order] > 0)
    first = np.maximum.accumulate(np.where(same, 0, alone))  # where the run of equals begins
    numbers = np.empty(len(files), np.int64)
    numbers[order] = order[first]
    return numbers


def check_one_label(numbers: np.ndarray, labels: np.ndarray, names: Sequence[str],
                    class_names: Sequence[str], place: str) -> None:
    """Checks that rows which are one file have one label.

    Args:
      numbers: of `file_numbers`, int (N,).
      labels: int (N,), or bool (N, K) of which a row is a label.
      names: of the rows.
      class_names: of the classes.
      place: what an error calls the set.

    Raises:
      DataError: names two rows.
    """
    other = labels != labels[numbers]
    rows = np.flatnonzero(other if labels.ndim == 1 else other.any(axis=1))
    if not len(rows):
        return

    def words(row: int) -> str:
        label = labels[row]
        chosen = [label] if labels.ndim == 1 else np.flatnonzero(label).tolist()
        return '|'.join(class_names[i] for i in chosen) or 'none'

    row, first = int(rows[0]), int(numbers[rows[0]])
    raise DataError(
        f'{place}: {len(rows):,} files have two labels, first {records.shown(names[first])} '
        f'({words(first)}) and {records.shown(names[row])} ({words(row)}), which are one file; '
        'give each one label')


def shared(train: np.ndarray, held_out: np.ndarray) -> np.ndarray:
    """Returns the rows of `held_out` that are files of `train`, both uint64 (N, 2) as above."""
    likely = np.flatnonzero(np.isin(held_out[:, 1], train[:, 1]) & (held_out[:, 1] > 0))
    there = set(map(tuple, train[np.isin(train[:, 1], held_out[likely, 1])].tolist()))
    return np.array([row for row in likely if tuple(held_out[row].tolist()) in there], np.int64)
