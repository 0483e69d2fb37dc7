"""Finds the image files below a folder, and those that are one file under several names."""

import os
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from imgjax.data import left_out as left_out_lib
from imgjax.data import records
from imgjax.data.decode import EXTENSIONS
from imgjax.errors import DataError

# Folders that macOS, Synology, Linux and Windows make; Synology's holds small copies of images.
OF_SYSTEMS = ('__MACOSX', '@eaDir', 'lost+found', '$RECYCLE.BIN', 'System Volume Information')


class Found(NamedTuple):
    """The image files below a folder.

    Attributes:
      names: relative to the folder, with '/', in torchvision's order: the folders sorted by path,
        and the files in each by name.
      sizes: their sizes in bytes.
      files: uint64 (N, 2), device and inode of each, which are equal for links to one file.
      left_out: what else is there, counted by kind.
    """

    names: list[str]
    sizes: list[int]
    files: np.ndarray
    left_out: dict[str, tuple[int, str]]


def is_image(name: str) -> bool:
    """Returns whether a file's name ends as that of an image; blanks at its end do not count."""
    return name.rstrip().lower().endswith(EXTENSIONS)


def is_hidden(name: str) -> bool:
    """Returns whether a file or folder is hidden or made by an operating system."""
    return name.startswith('.') or name in OF_SYSTEMS


def is_folder(entry: os.DirEntry) -> bool:
    """Returns whether an entry is a folder or a link to one."""
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def below(folder: str, prefix: str = '') -> Found:
    """Finds the images in a folder and in those below it, also through links.

    Hidden files and folders are left out.

    Args:
      folder: the folder to search.
      prefix: what stands before each name.

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
    """Returns the os.stat_result of an image, 'folder', or None for what is left out."""
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
    """Returns for each row of `files` the first row that is the same file, int (N,).

    Args:
      files: devices and inodes, uint64 (N, 2); rows with an inode of 0 count as different files.
    """
    inodes = files[:, 1]
    alone = np.arange(len(files))
    order = np.lexsort((alone, files[:, 0], inodes))
    same = np.r_[False, (files[order][1:] == files[order][:-1]).all(axis=1)] & (inodes[order] > 0)
    first = np.maximum.accumulate(np.where(same, 0, alone))  # where each run of equal rows begins
    numbers = np.empty(len(files), np.int64)
    numbers[order] = order[first]
    return numbers


def check_one_label(numbers: np.ndarray, labels: np.ndarray, names: Sequence[str],
                    class_names: Sequence[str], place: str) -> None:
    """Checks that rows of the same file have the same label.

    Args:
      numbers: what `file_numbers` returned, int (N,).
      labels: int (N,) or bool (N, K).
      names: the names of the rows.
      class_names: the names of the classes.
      place: what errors call the set.

    Raises:
      DataError: two rows differ; the line names both.
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
    count = '1 file has' if len(rows) == 1 else f'{len(rows):,} files have'
    raise DataError(
        f'{place}: {count} two labels, first {records.shown(names[first])} '
        f'({words(first)}) and {records.shown(names[row])} ({words(row)}), which are one file; '
        'give each one label')


def shared(train: np.ndarray, held_out: np.ndarray) -> np.ndarray:
    """Returns the rows of `held_out` that are files of `train`; both are like Found.files."""
    likely = np.flatnonzero(np.isin(held_out[:, 1], train[:, 1]) & (held_out[:, 1] > 0))
    there = set(map(tuple, train[np.isin(train[:, 1], held_out[likely, 1])].tolist()))
    return np.array([row for row in likely if tuple(held_out[row].tolist()) in there], np.int64)
