"""Class names of several splits: matched by name, whatever their order and spelling."""

import logging
import unicodedata
from collections.abc import Sequence

import numpy as np

from imgjax.data import Source, read
from imgjax.errors import DataError, nearest

log = logging.getLogger('imgjax')


def _spelled(name: str) -> str:
    return unicodedata.normalize('NFC', name)


def check_spellings(names: Sequence[str], place: str) -> None:
    """Checks that no two names are one name in two Unicode spellings (NFC and NFD).

    They look the same, and file systems and archives turn one into the other.

    Raises:
      DataError: names both as Python writes them in ASCII.
    """
    seen = {}
    for name in names:
        other = seen.setdefault(_spelled(name), name)
        if other != name:
            raise DataError(f'{place}: the classes {other!a} and {name!a} are one name in two '
                            'Unicode spellings; rename one of them to the other')


class _Renumbered:
    """The examples of a split, their labels in the order of other class names."""

    def __init__(self, source: Source, numbers: np.ndarray, classes: int):
        """Takes a split, the new number of each of its classes (-1: no example has it), and how
        many classes there are then.
        """
        self._source = source
        self._numbers = numbers
        self._classes = classes

    def __len__(self) -> int:
        return len(self._source.examples)

    def _renumber(self, labels: np.ndarray) -> np.ndarray:
        if not self._source.multi_label:
            return self._numbers[labels].astype(np.int32)
        there = self._numbers >= 0
        renumbered = np.zeros((*labels.shape[:-1], self._classes), np.float32)
        renumbered[..., self._numbers[there]] = labels[..., there]
        return renumbered

    def __getitem__(self, index: int) -> dict:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[dict]:
        examples = read(self._source, indices)
        labels = self._renumber(np.array([example['label'] for example in examples]))
        return [example | {'label': label if self._source.multi_label else int(label)}
                for example, label in zip(examples, labels, strict=True)]

    def labels(self) -> np.ndarray:
        return self._renumber(self._source.labels())


def renumbered(source: Source, class_names: Sequence[str], split: str) -> Source:
    """Returns a split with its classes numbered as `class_names` are, matched by name.

    Its own class names may stand in another order, may be spelled otherwise (NFC, NFD), may lack
    some, which is logged, and may name more as long as these have no example.

    Args:
      source: the split; it keeps its fingerprint.
      class_names: of the training split, or of a model.
      split: what the log and errors call it.

    Raises:
      DataError: the split has examples of a class that `class_names` lacks; it is named.
    """
    class_names = tuple(class_names)
    if source.class_names == class_names:
        return source
    number_of = {_spelled(name): i for i, name in enumerate(class_names)}
    numbers = np.array([number_of.get(_spelled(name), -1) for name in source.class_names])
    if -1 in numbers:
        _check_unused(source, np.flatnonzero(numbers < 0), class_names, split)
    lacking = sorted(set(range(len(class_names))) - set(numbers.tolist()))
    if lacking:
        log.warning('%s: has no images of %d of the %d classes, first %r; accuracy there is of the '
                    'others', split, len(lacking), len(class_names), class_names[lacking[0]])
    examples = _Renumbered(source, numbers, len(class_names))
    return source._replace(examples=examples, class_names=class_names, labels=examples.labels)


def _check_unused(source: Source, extra: np.ndarray, class_names: tuple, split: str) -> None:
    """Checks that the classes of the numbers `extra`, which `class_names` lacks, have no
    example.
    """
    labels = source.labels()
    counts = labels.sum(0) if source.multi_label else np.bincount(
        labels, minlength=len(source.class_names))
    used = [i for i in extra if counts[i]]
    if used:
        first = source.class_names[used[0]]
        raise DataError(
            f'{split}: has {int(counts[used].sum()):,} images of {len(used)} other classes than '
            f'the {len(class_names)} trained ones, first {first!r}{nearest(first, class_names)}; '
            'add training images of it, or take it out')
