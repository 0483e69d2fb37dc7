"""Arrays in memory, from a script or from a NumPy archive (.npz).

The archive holds `<split>_images` and `<split>_labels` of each split, or Keras' `x_train`,
`y_train`, `x_test` and `y_test` (`X_train` too); `images` and `labels`, or `x` and `y`, are the
split train where there is no other. Labels are class numbers, names, or a 0 or 1 per class;
`class_names` names the numbers.
"""

import logging
import math
import os
import zipfile
import zlib
from collections.abc import Iterable, Sequence

import numpy as np
import xxhash

from imgjax.data import Source, label_columns, left_out, modes, source_options, splits
from imgjax.data import labels as labels_lib
from imgjax.errors import ConfigError, DataError, one_line

log = logging.getLogger('imgjax')


class _Examples:
    """Examples from the rows of two arrays."""

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
    """Makes a source from arrays.

    >>> import numpy as np
    >>> from imgjax.data.sources import arrays
    >>> source = arrays.source(np.zeros((3, 8, 8), np.uint8), np.array(['dog', 'cat', 'dog']))
    >>> source.class_names, source.labels().tolist(), source.examples[0]['image'].shape
    (('cat', 'dog'), [1, 0, 1], (8, 8, 1))

    Args:
      images: uint8 (N, H, W), or (N, H, W, C) with C of 1, 3 or 4.
      labels: class numbers (N,) or (N, 1), of any dtype that holds whole numbers; or names, of
        dtype U or S; or 0 and 1 (N, K) for a multi-label set.
      class_names: one name per class; () takes the numbers up to the largest one, or the names.
      name: what errors call the images.

    Raises:
      DataError: shapes, dtypes or labels do not fit.
    """
    images = _checked_images(np.asarray(images), name)
    labels = _tidy(np.asarray(labels), name)
    if labels.ndim not in (1, 2) or len(labels) != len(images):
        raise DataError(f'{name}: takes one label for each of {len(images):,} images, got labels '
                        f'{labels.shape}')
    class_names = tuple(class_names)
    if labels.dtype.kind == 'U':
        class_names, labels = _numbers_of(labels, class_names, name)
    elif labels.ndim == 2:
        if not np.isin(labels, (0, 1)).all() or len(class_names) not in (0, labels.shape[1]):
            raise DataError(f'{name}: labels {labels.shape} of several classes take 0 and 1, and '
                            f'{labels.shape[1]} class names')
        labels = labels.astype(bool)
        class_names = class_names or tuple(map(str, range(labels.shape[1])))
    else:
        class_names, labels = labels_lib.numbered(labels, class_names, name)
    mark = xxhash.xxh3_64('\0'.join(class_names).encode())
    for array in (images, labels):
        mark.update(str(array.shape).encode())
        mark.update(np.ascontiguousarray(array))
    examples = _Examples(images, labels, name)
    return Source(examples, tuple(class_names), mark.hexdigest(), examples.labels,
                  labels.ndim == 2)


def _checked_images(images: np.ndarray, name: str) -> np.ndarray:
    """Returns the images as uint8 (N, H, W, C)."""
    if images.dtype != np.uint8 or images.ndim not in (3, 4):
        raise DataError(f'{name}: takes images uint8 (N, H, W) or (N, H, W, C), got {images.dtype} '
                        f'{images.shape}{_as_uint8(images)}')
    images = images if images.ndim == 4 else images[..., None]
    if images.shape[-1] not in (1, 3, 4) or 0 in images.shape[1:]:
        first = images.shape[1] in (1, 3, 4)
        raise DataError(f'{name}: takes 1, 3 or 4 channels last, got {images.shape}'
                        f'{"; store x.transpose(0, 2, 3, 1)" if first else ""}')
    return images


def _as_uint8(images: np.ndarray) -> str:
    """Returns how to convert the values to uint8, where their range shows it, else ''."""
    if images.dtype == np.uint8 or images.dtype.kind not in 'biuf' or not images.size:
        return ''
    low, high = float(images.min()), float(images.max())
    if 0 <= low <= high <= 1:
        return ('; for values from 0 to 1 store (x * 255).round().astype("uint8"), or, for a .npz, '
                'set config.data.pixel_range=(0, 1)')
    if 0 <= low <= high <= 255:
        return '; for values from 0 to 255 store x.round().astype("uint8")'
    return (f'; its values are {low:g} to {high:g}: scale them to 0 to 255 and store uint8, or, '
            'for a .npz, set config.data.pixel_range=(BLACK, WHITE)')


def _tidy(labels: np.ndarray, name: str) -> np.ndarray:
    """Returns labels as text (dtype U) or as integers; (N, 1), as Keras has it, becomes (N,).

    Raises:
      DataError: they are neither.
    """
    if labels.ndim == 2 and labels.shape[1] == 1:  # MedMNIST too
        labels = labels[:, 0]
    if labels.dtype == object and all(isinstance(label, str) for label in labels.flat):
        labels = labels.astype('U')  # as pandas has them
    if labels.dtype.kind == 'S':
        try:
            labels = np.char.decode(labels, 'utf-8')
        except UnicodeDecodeError:
            raise DataError(f'{name}: its labels are text that is not UTF-8; store them as dtype '
                            '"U"') from None
    if labels.dtype.kind == 'f':
        whole = np.isfinite(labels) & (labels == np.floor(labels))
        if not whole.all():
            odd = labels[~whole].flat[0]
            raise DataError(f'{name}: takes labels of whole numbers, got {labels.dtype}, such as '
                            f'{odd:g}')
        labels = labels.astype(np.int64)
    if labels.dtype.kind not in 'iubU' or (labels.dtype.kind == 'U' and labels.ndim != 1):
        raise DataError(f'{name}: takes labels of whole numbers or names, got {labels.dtype} '
                        f'{labels.shape}')
    return labels


def _numbers_of(labels: np.ndarray, class_names: tuple[str, ...],
                name: str) -> tuple[tuple[str, ...], np.ndarray]:
    """Returns (class names, int32 (N,)) of labels that are names; () takes the names that occur."""
    there, numbers = np.unique(label_columns.without_blanks(labels.tolist(), name),
                               return_inverse=True)
    there = there.tolist()
    class_names = class_names or _names_in([labels])
    number = {one: i for i, one in enumerate(class_names)}
    unknown = [one for one in there if one not in number]
    if unknown:
        raise DataError(f'{name}: has the label {unknown[0]!r}, which class_names lacks '
                        f'({", ".join(class_names[:10])})')
    return class_names, np.array([number[one] for one in there], np.int32)[numbers]


def _names_in(several: Iterable[np.ndarray]) -> tuple[str, ...]:
    names = {str(name).strip() for labels in several for name in np.unique(labels)}
    return tuple(labels_lib.in_order(names - {''}))


def open_split(split: str, options: dict) -> Source:
    """Opens a split of the archive config.data.path.

    Where `train` is the only split, `held_out` (or `test`, `val`) is a share of it,
    config.data.held_out.

    Raises:
      ConfigError: there is no path, or no such file or split.
      DataError: it is no archive, or declares more than fits into memory.
    """
    source_options(options)
    path = splits.data_path(options, 'file', 'a file .npz of images and labels')
    try:
        headers = _headers(path)
        there = _splits(headers, path)
        opened = splits.open_part(
            split, there, f'config.data: {path} has no split {split!r} (arrays {split}_images and '
            f'{split}_labels)', options, lambda split: _open(
                path, headers, there, split, options['pixel_range']),
            lambda split: _has_labels(path, headers, there[split][1]))
        read = {'class_names', *(name for pair in there.values() for name in pair)}
        unused = dict(opened.left_out)
        for name in sorted(set(headers) - read) if splits.reports_unread(split, options) else ():
            left_out.count(unused, 'arrays of no split', name)
        return opened._replace(left_out=unused)
    except (OSError, EOFError, ValueError, KeyError, TypeError, RuntimeError,
            zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f'{path}: not a readable .npz ({one_line(error)}); '
                        'write it with numpy.savez') from None


def _splits(names: Iterable[str], path: str) -> dict[str, tuple[str, str]]:
    """Returns {split: (name of its array of images, name of that of labels)}.

    The array of labels may be missing from the archive; it then has the usual name.

    Raises:
      ConfigError: a split has two arrays of images, or of labels.
    """
    names = set(names)
    image_arrays: dict[str, list[str]] = {}  # by split
    for split in _between(names, '', '_images'):
        image_arrays.setdefault(split, []).append(f'{split}_images')
    for letter in 'xX':
        for split in _between(names, f'{letter}_', ''):
            image_arrays.setdefault(split, []).append(f'{letter}_{split}')
    found = {}
    for split, images in image_arrays.items():
        labels = [name for name in (f'{split}_labels', f'y_{split}') if name in names]
        _check_one(images, 'images', split, path)
        _check_one(labels, 'labels', split, path)
        usual = f'{split}_labels' if images[0].endswith('_images') else f'y_{split}'
        found[split] = (images[0], labels[0] if labels else usual)
    return found or _only_split(names, path)


def _only_split(names: set[str], path: str) -> dict[str, tuple[str, str]]:
    """Returns the split `train` of an archive whose arrays name no split; {} if it has none."""
    pairs = [pair for pair in (('images', 'labels'), ('x', 'y'), ('X', 'y'))
             if set(pair) <= names]
    _check_one([images for images, _ in pairs], 'images', 'train', path)
    return {'train': pairs[0]} if pairs else {}


def _check_one(arrays: list[str], what: str, split: str, path: str) -> None:
    if len(arrays) > 1:
        raise ConfigError(f'{path}: {arrays[0]!r} and {arrays[1]!r} are both the {what} of the '
                          f'split {split!r}; keep one of them')


def _between(names: Iterable[str], before: str, after: str) -> list[str]:
    """Returns the part between `before` and `after` of each name that has both."""
    return sorted(name[len(before):len(name) - len(after)] for name in names
                  if name.startswith(before) and name.endswith(after))


def _open(path: str, headers: dict, there: dict[str, tuple[str, str]], split: str,
          pixel_range) -> Source:
    image, label = there[split]
    others = [other for _, other in there.values() if other in headers]
    of_labels = {label, *(other for other in others if not headers[other][1].hasobject)}
    _check_sizes(path, headers, [image, *of_labels, *({'class_names'} & set(headers))])
    with np.load(path) as file:
        images = file[image]
        labels = {name: file[name] for name in sorted(of_labels)}
        named = np.atleast_1d(file['class_names']) if 'class_names' in headers else np.array([])
    labels = {name: _tidy(one, f'{path}:{name}') for name, one in labels.items()
              if name == label or not _say_nothing(one)}
    labels, classes = _as_numbers(labels, label, path)
    if pixel_range and images.dtype != np.uint8 and images.dtype.kind in 'iuf':
        images = _bytes_of(images, pixel_range, f'{path}:{image}')
    return source(images, labels[label], _class_names(named, labels, classes, path),
                  f'{path}:{split}')


def _has_labels(path: str, headers: dict, label: str) -> bool:
    if label not in headers or headers[label][1].hasobject:
        return label in headers  # objects are refused where they are read
    _check_sizes(path, headers, [label])
    with np.load(path) as file:
        return not _say_nothing(file[label])


def _say_nothing(labels: np.ndarray) -> bool:
    """Returns whether labels stand for none: all are -1, NaN or empty."""
    if labels.dtype.kind in 'if':
        return bool(((labels == -1) | np.isnan(labels)).all())
    return labels.dtype.kind in 'US' and not np.char.strip(labels).astype(bool).any()


def _as_numbers(labels: dict[str, np.ndarray], own: str,
                path: str) -> tuple[dict[str, np.ndarray], int]:
    """Returns (labels, number of classes), one-hot arrays as class numbers where all are one-hot.

    Arrays of 0 and 1 with any number of classes per image stay, and the number is then 0; so it is
    where all arrays hold one label per image.

    Args:
      labels: the arrays of labels by name, (N,) or (N, K).
      own: the name of the array of the split that is opened.
      path: what errors call the archive.

    Raises:
      DataError: the arrays differ in their number of columns, or only some have columns and these
        are no one-hot labels of the others' classes.
    """
    matrices = {name: array for name, array in labels.items() if array.ndim > 1}
    if not matrices:
        return labels, 0
    first = next(iter(matrices))
    classes = matrices[first].shape[1]
    for name, array in matrices.items():
        if array.shape[1] != classes:
            raise DataError(f'{path}: {first!r} has {classes} columns, one per class, and '
                            f'{name!r} has {array.shape[1]}; store both with the same classes')
    lists = {name: array for name, array in labels.items() if name not in matrices}
    several = next((name for name, array in matrices.items() if not _one_hot(array)), '')
    if several and lists:
        raise DataError(f'{path}: {several!r} holds 0 and 1 of each class, with any number of '
                        f'classes per image, and {next(iter(lists))!r} one class per image; store '
                        'both alike')
    if several:
        return labels, 0
    for name, array in lists.items():
        top = int(array.max(initial=0)) if array.dtype.kind in 'iu' else 0
        if top >= classes:
            raise DataError(f'{path}: {name!r} holds the class number {top}, and {first!r} is '
                            f'one-hot with {classes} classes, 0 to {classes - 1}; store both with '
                            'the same classes')
    if own in matrices:
        log.info('%s: its labels %s are one-hot, one class per image: read as the number of the 1',
                 path, labels[own].shape)
    numbers = {name: array.argmax(axis=1) for name, array in matrices.items()}
    return {name: numbers.get(name, array) for name, array in labels.items()}, classes


def _bytes_of(images: np.ndarray, pixel_range, name: str) -> np.ndarray:
    """Returns images (N, ...) as uint8, one by one, as float64 takes eight times the memory."""
    try:
        return np.stack([modes.to_bytes(image, *pixel_range) for image in images])
    except ValueError as error:
        raise DataError(f'{name}: {error}; repair it') from None


def _one_hot(labels: np.ndarray) -> bool:
    return bool(labels.ndim == 2 and np.isin(labels, (0, 1)).all()
                and (labels.sum(axis=1) == 1).all())


def _headers(path: str) -> dict[str, tuple[tuple[int, ...], np.dtype, int]]:
    """Returns {name: (shape, dtype, declared bytes)} of the arrays, and loads none of them."""
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
                            'store arrays of numbers, or of text as x.astype("U")')
        total += declared
    if total > memory:
        raise DataError(f'{path}: declares {total / 2**30:.0f} GiB, more than the memory of '
                        f'{memory / 2**30:.0f} GiB; prepare it as tar files')


def _class_names(named: np.ndarray, labels: dict[str, np.ndarray], classes: int,
                 path: str) -> tuple[str, ...]:
    """Returns the class names, or without them the names or numbers in the labels of all splits.

    Args:
      named: the array of class names, empty if there is none.
      labels: the labels of each split that has some.
      classes: the number of classes of one-hot labels, 0 if no labels are one-hot.
      path: what errors call the archive.
    """
    if named.size:
        return tuple(map(str, _tidy(named, f'{path}:class_names').tolist()))
    kinds = {one.dtype.kind == 'U' for one in labels.values()}
    if len(kinds) > 1:
        raise DataError(f'{path}: some of {", ".join(labels)} are names and some are numbers; '
                        'store all as one of them')
    if True in kinds:
        return _names_in(labels.values())
    if any(one.ndim != 1 for one in labels.values()):
        return ()  # 0 and 1 of each class
    top = max((int(one.max(initial=0)) for one in labels.values()), default=0)
    return tuple(str(number) for number in range(max(min(top, 10_000_000) + 1, classes)))
