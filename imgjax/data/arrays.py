"""Arrays in memory: of a script, or of a NumPy archive (.npz).

The archive holds `<split>_images` and `<split>_labels` of each split, or Keras' `x_train`,
`y_train`, `x_test` and `y_test`; and `class_names`, or the classes are numbers.
"""

import math
import os
import zipfile
import zlib
from collections.abc import Sequence

import numpy as np
import xxhash

from imgjax.data import Source, source_options, splits
from imgjax.data import labels as labels_lib
from imgjax.errors import ConfigError, DataError


class _Examples:
    """Rows of two arrays."""

    def __init__(self, images: np.ndarray, labels: np.ndarray, name: str):
        self._images = images
        self._labels = labels
        self._name = name

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> dict:
        return {'image': self._images[index], 'label': labels_lib.at(self._labels, index),
                'name': f'{self._name}[{index}]'}

    def labels(self) -> np.ndarray:
        return labels_lib.whole(self._labels)


def source(images: np.ndarray, labels: np.ndarray, class_names: Sequence[str] = (),
           name: str = 'images') -> Source:
    """Makes a source of arrays.

    Args:
      images: uint8 (N, H, W) or (N, H, W, C) with C of 1, 3 or 4.
      labels: int (N,) or (N, 1); or 0 and 1 (N, K) for a multi-label set.
      class_names: one a label; () takes the numbers, of (N,) up to the largest.
      name: what an error calls the images.

    Raises:
      DataError: shapes, dtypes or labels that do not fit.
    """
    if images.dtype != np.uint8 or images.ndim not in (3, 4):
        raise DataError(f'{name}: takes images uint8 (N, H, W) or (N, H, W, C), got {images.dtype} '
                        f'{images.shape}; of 0 to 1 store (x * 255).round().astype("uint8")')
    images = images if images.ndim == 4 else images[..., None]
    if images.shape[-1] not in (1, 3, 4) or 0 in images.shape[1:]:
        raise DataError(f'{name}: takes 1, 3 or 4 channels last, got {images.shape}')
    if labels.dtype.kind not in 'iub' and not np.isin(labels, (0, 1)).all():
        raise DataError(f'{name}: takes labels of whole numbers, got {labels.dtype}')
    if labels.ndim == 2 and labels.shape[1] == 1:  # as Keras and MedMNIST have them
        labels = labels[:, 0]
    if labels.ndim not in (1, 2) or len(labels) != len(images):
        raise DataError(f'{name}: takes one label for each of {len(images):,} images, got labels '
                        f'{labels.shape}')
    if labels.ndim == 2:
        if not np.isin(labels, (0, 1)).all() or len(class_names) not in (0, labels.shape[1]):
            raise DataError(f'{name}: labels {labels.shape} of several classes take 0 and 1, and '
                            f'{labels.shape[1]} class names')
        labels = labels.astype(bool)
        class_names = tuple(class_names) or tuple(map(str, range(labels.shape[1])))
    else:
        class_names, labels = labels_lib.numbered(labels, class_names, name)
    mark = xxhash.xxh3_64('\0'.join(class_names).encode())
    for array in (images, labels):
        mark.update(str(array.shape).encode())
        mark.update(np.ascontiguousarray(array))
    examples = _Examples(images, labels, name)
    return Source(examples, tuple(class_names), mark.hexdigest(), examples.labels,
                  labels.ndim == 2)


def open_split(split: str, options: dict) -> Source:
    """Opens a split of the archive config.data.path.

    Raises:
      ConfigError: no path given, or no such file or split.
      DataError: it is no archive, or what it declares does not fit into memory.
    """
    source_options(options)
    path = splits.data_path(options, 'a file .npz of images and labels')
    try:
        headers = _headers(path)
        there = {name.removesuffix('_images'): (name, f'{name.removesuffix("_images")}_labels')
                 for name in headers if name.endswith('_images')}
        there |= {name[2:]: (name, f'y_{name[2:]}') for name in headers if name.startswith('x_')}
        split = splits.resolve(split, there, f'config.data: {path} has no split {split!r} (arrays '
                               f'{split}_images and {split}_labels)')
        wanted = [*there[split], *({'class_names'} & set(headers))]
        _check_sizes(path, headers, wanted)
        with np.load(path) as file:
            arrays = {name: file[name] for name in wanted}
            classes = _class_names(path, file, headers, there, arrays)
    except (OSError, EOFError, ValueError, KeyError, TypeError, RuntimeError,
            zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f'{path}: not a readable .npz ({" ".join(str(error).split())[:200]}); '
                        'write it with numpy.savez') from None
    return source(*(arrays[name] for name in there[split]), classes, f'{path}:{split}')


def _headers(path: str) -> dict[str, tuple[tuple[int, ...], np.dtype, int]]:
    """Returns {name: (shape, dtype, bytes that the archive says it has)} and loads nothing."""
    headers = {}
    with zipfile.ZipFile(path) as archive:
        for item in archive.infolist():
            if item.filename.endswith('.npy'):
                with archive.open(item) as file:
                    version = np.lib.format.read_magic(file)
                    read = (np.lib.format.read_array_header_1_0 if version == (1, 0)
                            else np.lib.format.read_array_header_2_0)
                    shape, _, dtype = read(file)
                    headers[item.filename.removesuffix('.npy')] = (
                        shape, dtype, item.file_size - file.tell())
    return headers


def _check_sizes(path: str, headers: dict, wanted: list[str]) -> None:
    memory = os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')
    total = 0
    for name in wanted:
        if name not in headers:
            raise ConfigError(f'{path}: has no array {name!r}; it has {", ".join(headers)}')
        shape, dtype, stored = headers[name]
        declared = math.prod(shape) * dtype.itemsize
        if dtype.hasobject or declared != stored:
            raise DataError(f'{path}: {name!r} says {dtype} {shape} and has {stored:,} bytes; '
                            'store arrays of numbers, or of text as dtype "U"')
        total += declared
    if total > memory:
        raise DataError(f'{path}: declares {total / 2**30:.0f} GiB, more than the memory of '
                        f'{memory / 2**30:.0f} GiB; prepare it as tar files')


def _class_names(path: str, file, headers: dict, there: dict, arrays: dict) -> tuple[str, ...]:
    """Returns the class names; without any the numbers of all splits, so that they agree."""
    if 'class_names' in arrays:
        return tuple(str(name) for name in arrays['class_names'].tolist())
    labels = [label for _, label in there.values() if label in headers]
    _check_sizes(path, headers, labels)
    shapes = {headers[name][0][1:] for name in labels} - {(), (1,)}
    if shapes:
        return ()  # 0 and 1 of each class
    top = max((int(file[name].max(initial=0)) for name in labels), default=0)
    return tuple(str(number) for number in range(min(top, 10_000_000) + 1))
