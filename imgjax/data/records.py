"""Examples that are files, or byte ranges of a few large files, and a cache of their indexes."""

import contextlib
import errno
import fcntl
import logging
import os
import tempfile
import zipfile
from collections.abc import Callable, Sequence

import numpy as np

from imgjax.data import labels as labels_lib
from imgjax.data.fingerprint import fingerprint
from imgjax.errors import DataError

log = logging.getLogger('imgjax')

MAX_BYTES = 32 * 2**20  # of an image, where the config gives no limit
MOST_OPEN = 256  # files of a set that stay open; the others are opened for each example


def _most(options: dict) -> int:
    """Returns how many bytes of an image are read: one more than the limit that decoding checks."""
    return options.get('max_bytes', MAX_BYTES) + 1


class Files:
    """Image files of a list."""

    def __init__(self, root: str, names: Sequence[str], labels: np.ndarray, options: dict):
        """Takes names relative to `root`, labels int (N,) or bool (N, K), and config.data."""
        self._root = root
        self._names = names
        self._labels = labels
        self._most = _most(options)

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> dict:
        path = os.path.join(self._root, self._names[index])
        try:
            with open(path, 'rb', buffering=0) as file:
                large = os.fstat(file.fileno()).st_size > self._most
                image = file.read(self._most) if large else file.read()
        except OSError as error:
            raise DataError(f'{shown(path)}: cannot be read ({error.strerror})') from None
        return {'image': image, 'label': labels_lib.at(self._labels, index), 'name': shown(path)}

    def labels(self) -> np.ndarray:
        return labels_lib.whole(self._labels)


class Ranges:
    """Images that are byte ranges of files, read without a lock or a shared position."""

    def __init__(self, paths: Sequence[str], index: dict[str, np.ndarray], options: dict):
        """Takes the files and an index of them.

        Args:
          paths: the files.
          index: for each image 'shard' (N,), the number of its file, 'offset' (N,) and 'size' (N,)
            in bytes, 'labels' int (N,) or bool (N, K), and 'names', as `pack_names` returns them.
          options: config.data.
        """
        self._paths = paths
        self._shard, self._offset, self._size = index['shard'], index['offset'], index['size']
        self._labels = index['labels']
        self._names = index['names']
        self._name_ends = np.flatnonzero(self._names == 0)
        self._most = _most(options)
        self._open = {}

    def __getstate__(self) -> dict:
        return self.__dict__ | {'_open': {}}  # a decoding process opens the files itself

    def __len__(self) -> int:
        return len(self._shard)

    def name(self, index: int) -> str:
        start = self._name_ends[index - 1] + 1 if index else 0
        text = self._names[start:self._name_ends[index]].tobytes().decode(errors='replace')
        return f'{shown(self._paths[self._shard[index]])}:{text}'

    def names(self) -> list[str]:
        """Returns the name of each image without that of its file."""
        return unpacked(self._names)

    def __getitem__(self, index: int) -> dict:
        file, size = int(self._shard[index]), min(int(self._size[index]), self._most)
        try:
            image = self._read(file, size, int(self._offset[index]))
        except OSError as error:
            raise DataError(f'{self.name(index)}: cannot be read ({error.strerror})') from None
        if len(image) != size:
            raise DataError(f'{self.name(index)}: the file ends before it; it was cut while in use')
        return {'image': image, 'label': labels_lib.at(self._labels, index),
                'name': self.name(index)}

    def _read(self, file: int, size: int, offset: int) -> bytes:
        descriptor = self._open.get(file)
        if descriptor is not None:
            return os.pread(descriptor, size, offset)
        descriptor = os.open(self._paths[file], os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.pread(descriptor, size, offset)
        finally:
            # Another thread may have stored one first; stored descriptors are not closed in use.
            if (len(self._open) >= MOST_OPEN
                    or self._open.setdefault(file, descriptor) != descriptor):
                os.close(descriptor)

    def __del__(self, close=os.close):  # bound here: at the end of the process `os` may be gone
        for descriptor in getattr(self, '_open', {}).values():
            close(descriptor)

    def labels(self) -> np.ndarray:
        return labels_lib.whole(self._labels)

    def fingerprint(self, class_names: Sequence[str]) -> str:
        """Returns a hash of the names, sizes and labels, but not of where the files are."""
        return fingerprint(['\0'.join(class_names), self._names,
                            np.ascontiguousarray(self._size, np.int64),
                            np.ascontiguousarray(self._labels)])


def shown(name: str) -> str:
    """Returns a file name that can be written anywhere: bytes that are no UTF-8 become '?'."""
    return name.encode(errors='replace').decode()


def pack_names(names: Sequence[str]) -> np.ndarray:
    """Returns names as uint8, each ended by a zero, in a fraction of the memory of a list."""
    text = ''.join(name.replace('\0', '?') + '\0' for name in names)
    return np.frombuffer(text.encode(errors='replace'), np.uint8)


def unpacked(names: np.ndarray) -> list[str]:
    """Returns the names that `pack_names` packed."""
    return names.tobytes().decode(errors='replace').split('\0')[:-1]


def stamp(paths: Sequence[str], *more: str) -> str:
    """Returns a hash that changes when a file is written again, or with `more`."""
    found = [(os.path.basename(path), os.stat(path)) for path in paths]
    return fingerprint(['\0'.join(more), *(f'\0{name} {status.st_size} {status.st_mtime_ns}'
                                           for name, status in found)])


def _places(folder: str, given: str) -> list[str]:
    """Returns the folders for indexes of `folder`: beside the data, else in the user's cache.

    In a folder that several sets share, each set has a folder of its own.
    """
    mark = fingerprint([os.path.abspath(folder)])
    if given:
        return [os.path.join(os.path.expanduser(given), mark)]
    home = os.environ.get('XDG_CACHE_HOME') or os.path.expanduser('~/.cache')
    return [os.path.join(folder, '.imgjax'), os.path.join(home, 'imgjax', mark)]


def _load(path: str, mark: str) -> dict[str, np.ndarray] | None:
    try:
        with np.load(path) as file:  # a zip, whose checksums it verifies
            index = {name: file[name] for name in file.files}
        return index if str(index.pop('stamp')) == mark else None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None  # it is missing or cannot be used


def _writable(places: Sequence[str]) -> str:
    for place in places:
        with contextlib.suppress(OSError):
            os.makedirs(place, exist_ok=True)
            with tempfile.TemporaryFile(dir=place):
                return place
    raise DataError(f'{places[-1]}: cannot be written, and an index has to be stored; '
                    'set config.data.options.cache to a folder that can be')


def cached_index(folder: str, name: str, mark: str, make: Callable[[str], dict[str, np.ndarray]],
                 fits: Callable[[str, dict], bool], cache: str = '') -> tuple[str, dict]:
    """Returns (folder, index): the index of an earlier run if it fits, else a new one.

    It is stored in `.imgjax` beside the data or, where that cannot be written, in ~/.cache/imgjax.

    Args:
      folder: the folder of the data.
      name: the name of the index.
      mark: the `stamp` of the files in the index.
      make: folder -> arrays; it may write other files into the folder.
      fits: (folder, arrays) -> whether the arrays fit the files.
      cache: another folder for indexes, in which each set has a folder of its own.

    Raises:
      DataError: no folder can be written.
    """
    places = _places(folder, cache)

    def find():
        for place in places:
            index = _load(os.path.join(place, f'{name}.npz'), mark)
            if index is not None and fits(place, index):
                return place, index
        return None

    found = find()
    if found:
        return found
    place = _writable(places)
    with open(os.path.join(place, f'{name}.lock'), 'w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # one of several runs that start at once makes it
        found = find()
        if found:
            return found
        index = make(place)
        path = os.path.join(place, f'{name}.npz')
        try:
            with open(f'{path}.tmp', 'wb') as file:
                np.savez(file, stamp=mark, **index)  # type: ignore[arg-type]
            os.replace(f'{path}.tmp', path)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            log.warning('%s: no space for the index; the next run makes it again', path)
    return place, index
