"""Prepared datasets beside that of a model: folders of class folders, and trees of corruptions.

ImageNet-A, -R, -V2, Sketch and the like are folders with a folder per class. ImageNet-C (Hendrycks
and Dietterich, ICLR 2019, https://arxiv.org/abs/1903.12261) has such folders below
CORRUPTION/SEVERITY, where the corruptions may lie in folders of kinds (noise/gaussian_noise/1).
"""

import os
from collections.abc import Sequence
from typing import NamedTuple

from imgjax import data
from imgjax.card import store
from imgjax.commands import evaluation_data
from imgjax.data import Source, classes, image_files, split_names
from imgjax.errors import ConfigError, DataError

FLAG = '--sets'
DEPTH = 2  # of the folders above the severities


class Cell(NamedTuple):
    """A folder of class folders: a set, or one corruption of one severity.

    Attributes:
      path: the folder.
      corruption: '' for a set that is no tree of corruptions.
      severity: 0 for such a set.
    """

    path: str
    corruption: str = ''
    severity: int = 0


class OtherSet(NamedTuple):
    """The images of a cell that have classes of the model.

    Attributes:
      source: with the classes of the model.
      compared: what the set and the model have in common.
      by_number: whether its folders are called by the numbers of the classes.
    """

    source: Source
    compared: classes.Compared
    by_number: bool


def check(paths: Sequence[str]) -> dict[str, list[Cell]]:
    """Returns {path: its cells} of the paths that the flag names; no image is opened.

    Raises:
      ConfigError: a path is no folder, is there twice, or has no folders.
    """
    found: dict[str, list[Cell]] = {}
    for path in paths:
        place = os.path.abspath(os.path.expanduser(path))
        if not os.path.isdir(place):
            raise ConfigError(f'{FLAG}={path}: no such folder; name a folder of class folders, or '
                              'of CORRUPTION/SEVERITY/CLASS')
        if place in found:
            raise ConfigError(f'{FLAG}={path}: is named twice; name it once')
        folders = _folders(place)
        if not folders:
            raise ConfigError(f'{FLAG}={path}: has no folders; name a folder of class folders, or '
                              'of CORRUPTION/SEVERITY/CLASS')
        if all(map(split_names.kind, folders)):
            raise ConfigError(f'{FLAG}={path}: has the splits {", ".join(folders)}; name the '
                              f'folder of one, {os.path.join(path, folders[-1])}')
        found[place] = _tree(place, os.path.basename(place), DEPTH) or [Cell(place)]
    return found


def content(paths: Sequence[str]) -> str:
    """Returns a digest of the names, sizes and times of all files, for the key of the part."""
    changed = []
    for place in check(paths):
        for folder, folders, names in os.walk(place):
            folders.sort()
            for name in sorted(names):
                found = os.lstat(os.path.join(folder, name))
                changed.append([folder, name, found.st_size, found.st_mtime_ns])
    return store.key_of(changed)


def opened(cell: Cell, options, class_names: Sequence[str]) -> OtherSet:
    """Opens a cell, with the classes of a model.

    Classes are matched by name; folders that are all numbers, as those of ImageNet-V2, by number
    where no name fits.

    Args:
      cell: of `check`.
      options: config.data of the model, which say how images are read.
      class_names: those of the model.

    Raises:
      DataError: it has no images, or no class of the model.
    """
    options = options | {
        'name': 'folder', 'path': cell.path, 'options': {}, 'relabel': '', 'held_out': 0.0,
        'train_split': 'train', 'eval_split': 'held_out'}
    try:
        with evaluation_data.quietly():
            source = data.open_split('train', options)
        by_number = _is_numbered(source.class_names, class_names)
        if by_number:
            source = source._replace(class_names=tuple(
                class_names[int(name)] for name in source.class_names))
        source, compared = classes.compared(source, class_names, cell.path)
    except (ConfigError, DataError) as error:
        told = str(error).removeprefix(f'{cell.path}: ')
        raise DataError(f'{FLAG}={cell.path}: {told}') from None
    return OtherSet(source, compared, by_number)


def _is_numbered(names: Sequence[str], class_names: Sequence[str]) -> bool:
    return (not set(names) & set(class_names)
            and all(name.isdecimal() and int(name) < len(class_names) for name in names))


def _folders(path: str) -> list[str]:
    return sorted(entry.name for entry in os.scandir(path)
                  if not image_files.is_hidden(entry.name) and image_files.is_folder(entry))


def _tree(path: str, name: str, depth: int) -> list[Cell]:
    """Returns the cells of a tree of corruptions; [] if it is none."""
    folders = _folders(path)
    if folders and all(map(str.isdecimal, folders)):
        places = [os.path.join(path, folder) for folder in folders]
        # Folders of images that are numbers are classes.
        return [Cell(place, name, int(folder)) for folder, place in zip(
            folders, places, strict=True)] if all(map(_folders, places)) else []
    found: list[Cell] = []
    for folder in folders if depth else ():
        below = _tree(os.path.join(path, folder), folder, depth - 1)
        if not below:
            return []
        found += below
    return found
