"""A folder of class folders: `PATH/cat/1.jpg`, or `PATH/train/cat/1.jpg` and `PATH/test/...`."""

import hashlib
import os

from imgjax.data import Source
from imgjax.data.decode import EXTENSIONS
from imgjax.errors import ConfigError, DataError, nearest


class _Examples:
    """The listed files, read when asked for."""

    def __init__(self, root: str, files: list[tuple[str, int]]):
        self._root = root
        self._files = files

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> dict:
        name, label = self._files[index]
        path = os.path.join(self._root, name)
        try:
            with open(path, 'rb') as file:
                return {'image': file.read(), 'label': label, 'name': path}
        except OSError as error:
            raise DataError(f'{path}: cannot be read ({error.strerror})') from None


def open_split(split: str, options: dict) -> Source:
    """Opens `PATH/<split>`, whose sub-folders are the classes, in sorted order.

    Raises:
      ConfigError: no path given, or no such folder or split.
      DataError: no images in it.
    """
    path = os.path.expanduser(options['path'])
    if not path:
        raise ConfigError('config.data.path: empty; name the folder that holds the class folders')
    root = os.path.join(path, split)
    if not os.path.isdir(root):
        if not os.path.isdir(path):
            raise ConfigError(f'config.data.path: {path}: no such folder')
        there = sorted(entry.name for entry in os.scandir(path) if entry.is_dir())
        raise ConfigError(
            f'config.data: {path} has no folder {split!r} for that split; it has '
            f'{", ".join(there[:10]) or "no folders"}{nearest(split, there)}')
    classes = sorted(entry.name for entry in os.scandir(root)
                     if entry.is_dir() and not entry.name.startswith('.'))
    files, listing = [], hashlib.sha256()
    for label, name in enumerate(classes):
        # Sorted by name: the order of a directory is the file system's own affair.
        for entry in sorted(os.scandir(os.path.join(root, name)), key=lambda e: e.name):
            if entry.is_file() and entry.name.lower().endswith(EXTENSIONS):
                files.append((os.path.join(name, entry.name), label))
                listing.update(f'{name}/{entry.name} {entry.stat().st_size}\n'.encode())
    if not files:
        raise DataError(
            f'{root}: no images; expected {root}/<class>/<name>.jpg ({", ".join(EXTENSIONS)})')
    empty = sorted(set(classes) - {name.split(os.sep)[0] for name, _ in files})
    if empty:
        raise DataError(f'{root}/{empty[0]}: no images in this class folder; remove it or fill it')
    return Source(_Examples(root, files), tuple(classes), listing.hexdigest()[:16])
