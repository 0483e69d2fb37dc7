"""Sets of right classes for each image, such as ReaL's labels of ImageNet.

Beyer et al., "Are we done with ImageNet?", 2020 (https://arxiv.org/abs/2006.07159).
"""

import json
import re
from collections.abc import Sequence

import numpy as np

from imgjax.errors import DataError, first_few


def read(path: str, names: Sequence[str]) -> list[list[int]]:
    """Returns the right classes of each image, from a file such as the real.json of ReaL.

    The file has JSON: {image name: [class, ...]}, with names as in `names` or without their
    folders; or a list with the classes of each image, in the order of the file names without their
    folders, where ...10.JPEG comes after ...9.JPEG. The classes are indices.

    Args:
      path: the file.
      names: the name of each image, with '/'.

    Raises:
      DataError: the file cannot be read, or does not have exactly these images.
    """
    try:
        with open(path, encoding='utf-8') as file:
            stored = json.load(file)
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f'{path}: cannot be read as JSON ({type(error).__name__}); name a file of '
                        '{image name: [class, ...]}') from error
    bases = [name.rpartition('/')[2] for name in names]
    if isinstance(stored, dict):
        found = [stored.get(name, stored.get(base))
                 for name, base in zip(names, bases, strict=True)]
        absent = [name for name, classes in zip(names, found, strict=True) if classes is None]
        if absent:
            raise DataError(f'{path}: has no classes for {len(absent):,} of {len(names):,} images: '
                            f'{first_few(absent, 3)}; add them, [] for an image without any')
    elif isinstance(stored, list):
        if len(stored) != len(names):
            raise DataError(f'{path}: has {len(stored):,} lists for {len(names):,} images; give '
                            'one per image')
        if len(set(bases)) < len(bases):
            raise DataError(f'{path}: a list needs file names that differ, as its order is theirs; '
                            'write {image name: [class, ...]}')
        order = sorted(range(len(bases)), key=lambda row: natural(bases[row]))
        found = [classes for _, classes in sorted(zip(order, stored, strict=True),
                                                  key=lambda pair: pair[0])]
    else:
        raise DataError(f'{path}: is neither a dict nor a list; write {{image name: [class, ...]}}')
    for name, classes in zip(names, found, strict=True):
        if not isinstance(classes, list) or not all(map(is_class, classes)):
            raise DataError(f'{path}: {name}: {str(classes)[:60]} is no list of class indices '
                            'from 0 on; write [class, ...]')
    return found


def check(label_sets: Sequence[Sequence[int]], images: int, classes: int) -> None:
    """Raises DataError unless there is one set per image, of classes from 0 to `classes` - 1."""
    if len(label_sets) != images:
        raise DataError(f'label_sets: {len(label_sets):,} sets for {images:,} images; give one '
                        'per image')
    for row, right in enumerate(label_sets):
        if not all(is_class(one) and one < classes for one in right):
            raise DataError(f'label_sets: the set of image {row} is {first_few(right)}; give '
                            f'classes from 0 to {classes - 1}')


def is_class(value) -> bool:
    """Returns whether a value is an integer, and not below 0."""
    is_integer = isinstance(value, int | np.integer) and not isinstance(value, bool)
    return is_integer and 0 <= value < 2**31


def natural(name: str) -> list:
    """Returns a key by which 'image10' is sorted after 'image9'."""
    parts = re.split('([0-9]+)', name)  # text and digits in turns
    return [int(part) if i % 2 else part for i, part in enumerate(parts)]
