"""Datasets: where examples come from, how they are decoded, and which of them batch k has.

A source is one file of `sources/`, or `projects.<file>` of the user's own, with
`open_split(split, options) -> Source`; every other name is taken for a TFDS dataset. Nothing here
imports JAX.
"""

import importlib
import logging
import pkgutil
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from imgjax.data import left_out as left_out_lib
from imgjax.errors import ConfigError, nearest
from imgjax.process import projects

log = logging.getLogger('imgjax')


class Examples(Protocol):
    """The examples of a split in random access.

    An example is {'image': encoded bytes or uint8 (H, W, C), 'label': int, or float32 (K,) of 0 and
    1 where an image may have several labels, 'name': str}. Threads may read at the same time, and
    an example is always the same. Where it is cheaper to read many at once, there is also
    `__getitems__(indices) -> list[dict]`; `read` uses whichever there is.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> dict: ...


class Source(NamedTuple):
    """One split of a dataset in random access.

    Attributes:
      examples: the images with their labels and names.
      class_names: one name per class.
      fingerprint: a hash that changes when the list of examples does.
      labels: () -> int32 (N,), or float32 (N, K) where multi_label; it decodes no image.
      multi_label: whether an example may have none, one or several of the classes.
      left_out: what was found and is not used, {kind: (how many, an example)}, as
        imgjax.data.left_out counts it; `open_split` logs it.
      files: device and inode of each example, uint64 (N, 2), where each is a file; else None.
    """

    examples: Examples
    class_names: tuple[str, ...]
    fingerprint: str
    labels: Callable[[], np.ndarray]
    multi_label: bool = False
    left_out: left_out_lib.LeftOut = {}
    files: np.ndarray | None = None


def read(source: Source, indices: Sequence[int] | np.ndarray) -> list[dict]:
    """Returns the examples at `indices`, in that order."""
    many = getattr(source.examples, '__getitems__', None)
    return many(indices) if many else [source.examples[index] for index in indices]


def labels_are_cheap(source: Source) -> bool:
    """Returns whether all labels can be read without reading the images for hours."""
    return getattr(source.examples, 'labels_are_cheap', True) and len(source.examples) < 10**8


def check_labels_are_cheap(source: Source, field: str) -> None:
    """Checks that the labels of a whole split can be read, for a field of the config that asks it.

    Raises:
      ConfigError: the labels lie among the images, so that all images would be read.
    """
    if not labels_are_cheap(source):
        raise ConfigError(f'config.{field}: takes the labels of all {len(source.examples):,} '
                          'images, which lie among the images; train on a copy that '
                          'launch.prepare makes')


def names() -> list[str]:
    """Returns the names of the sources that have a file of their own; tfds.py opens all others."""
    from imgjax.data import sources
    return [m.name for m in pkgutil.iter_modules(sources.__path__) if m.name != 'tfds']


def open_split(split: str, options: dict) -> Source:
    """Opens one split of the dataset that config.data names, and logs in one line what it holds.

    >>> from imgjax import config, data
    >>> options = config.defaults()['data'] | {
    ...     'name': 'synthetic', 'options': {'examples': 100, 'height': 32, 'width': 32}}
    >>> source = data.open_split('train', options)
    >>> len(source.examples), source.examples[0]['image'].shape
    (100, (32, 32, 3))

    Args:
      split: such as 'train'; every source also takes slices and sums of slices as TFDS writes them
        (https://www.tensorflow.org/datasets/splits): 'train[:90%]', 'train[10%:]+test',
        'train[100:200]'.
      options: config.data.

    Raises:
      ConfigError: the dataset, split or option is unknown, or there are fewer than two classes to
        train.
      DataError: the dataset exists but cannot be read, or two class names look the same.
    """
    name = options['name']
    from imgjax.data import (
        classes,
        ignored,
        relabel,
        slices,  # they need Source
    )
    module = _module(name)
    if '[' in split or '+' in split:
        source = slices.open_slices(split, lambda bare: module.open_split(bare, options))
    else:
        source = module.open_split(split, options)
    if options.get('relabel'):
        source = relabel.apply(source, split, options['relabel'])
    if len(source.class_names) < 2 and split == options.get('train_split', split):
        raise ConfigError(
            f'config.data: {name!r} has {len(source.class_names)} class '
            f'({", ".join(source.class_names)}); a classifier takes at least two')
    classes.check_names(source.class_names, options['path'] or name)
    if not len(source.examples):
        raise ConfigError(f'config.data: the split {split!r} of {options["path"] or name} is '
                          'empty; take another split, or add images (a share of a class takes two)')
    _log(split, source, options)
    ignored.look(split, source.examples, options)
    return source


def _module(name: str):
    """Returns the module of a source: a file of `sources/`, or of the user's `projects/`."""
    if '.' in name:
        try:
            return projects.load(name)
        except ValueError as error:
            raise ConfigError(f'config.data.name: {error}') from None
    if not re.fullmatch(r'[a-z0-9_]+', name):
        raise ConfigError(f'config.data.name: takes letters a-z, digits and _, got {name!r}')
    return importlib.import_module(f'imgjax.data.sources.{name if name in names() else "tfds"}')


def _log(split: str, source: Source, options: dict) -> None:
    """Logs what a split holds and leaves out, of several processes in the first one."""
    found = (f'{split}: {len(source.examples):,} images of {len(source.class_names):,} classes in '
             f'{options["path"] or options["name"]}')
    if source.left_out:
        log.warning('%s; %s', found, left_out_lib.sentence(source.left_out))
    else:
        log.info('%s', found)


def source_options(options: dict, **defaults) -> dict:
    """Returns config.data.options completed by the defaults of a source.

    Args:
      options: config.data.
      **defaults: all options that the source takes; a value must have the type of its default.

    Raises:
      ConfigError: the source does not take an option, or not of this type.
    """
    given = options.get('options', {})
    for key, value in given.items():
        field = f'config.data.options.{key}'
        if key not in defaults:
            there = ', '.join(defaults) or 'no options'
            raise ConfigError(f'{field}: {options["name"]!r} has no such option'
                              f'{nearest(key, defaults) or "."} It takes {there}')
        kind = type(defaults[key])
        fits = isinstance(value, int | float if kind is float else kind)
        if not fits or (isinstance(value, bool) and kind is not bool):
            raise ConfigError(f'{field}: takes {kind.__name__}, got {value!r}')
    return defaults | given
