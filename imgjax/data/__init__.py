"""Datasets: where examples come from, how they are decoded, which batch is step k's.

A source is one file of this folder with `open_split(split, options) -> Source`; every other name
is taken for a TFDS dataset. Nothing here imports JAX.
"""

import importlib
import pkgutil
import re
from collections.abc import Sequence
from typing import NamedTuple

from imgjax.errors import ConfigError

_NOT_SOURCES = ('decode', 'pipeline', 'tfds')


class Source(NamedTuple):
    """One split of a dataset, in random access.

    Attributes:
      examples: examples[i] is {'image': encoded bytes or uint8 (H, W, C), 'label': int,
        'name': str}; reading it is thread-safe and always gives the same.
      class_names: one a label.
      fingerprint: changes when the list of examples does.
    """

    examples: Sequence[dict]
    class_names: tuple[str, ...]
    fingerprint: str


def names() -> list[str]:
    """Returns the sources that are files of this folder."""
    return [m.name for m in pkgutil.iter_modules(__path__) if m.name not in _NOT_SOURCES]


def open_split(split: str, options: dict) -> Source:
    """Opens one split of the dataset that config.data names.

    Args:
      split: such as 'train'.
      options: plain config['data'].

    Raises:
      ConfigError: unknown dataset or split, or fewer than two classes.
      DataError: the dataset is there but cannot be read.
    """
    name = options['name']
    if not re.fullmatch(r'[a-z0-9_]+', name):
        raise ConfigError(f'config.data.name: takes letters a-z, digits and _, got {name!r}')
    module = name if name in names() else 'tfds'
    source = importlib.import_module(f'imgjax.data.{module}').open_split(split, options)
    if len(source.class_names) < 2:
        raise ConfigError(
            f'config.data: {name!r} has {len(source.class_names)} class '
            f'({", ".join(source.class_names)}); a classifier takes at least two')
    if not len(source.examples):
        raise ConfigError(f'config.data: the split {split!r} of {name!r} is empty')
    return source
