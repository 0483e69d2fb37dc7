"""Matches the classes of several splits by name, whatever their order and Unicode spelling."""

import logging
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from imgjax.data import Source, labels_are_cheap, read
from imgjax.errors import DataError, first_few, nearest

log = logging.getLogger('imgjax')


def _spelled(name: str) -> str:
    return unicodedata.normalize('NFC', name)


def check_names(names: Sequence[str], place: str) -> None:
    """Checks that each class name is one line, and that no two of them look the same.

    Two names look the same if they differ only in blanks, in invisible characters, or in their
    Unicode normal form (NFC or NFD), which file systems change.

    Raises:
      DataError: they do; the line shows the names in ASCII.
    """
    seen = {}
    for name in names:
        if len(f'{name}.'.splitlines()) > 1 or '\0' in name:
            raise DataError(f'{place}: the class {name!a} has a line break in its name; rename it')
        visible = ''.join(letter for letter in _spelled(name)
                          if unicodedata.category(letter) != 'Cf')
        other = seen.setdefault(' '.join(visible.split()), name)
        if other != name:
            raise DataError(f'{place}: the classes {other!a} and {name!a} look the same; rename '
                            'one of them to the other')


class _Renumbered:
    """Examples of a split with their labels renumbered for other class names."""

    def __init__(self, source: Source, numbers: np.ndarray, classes: int,
                 rows: np.ndarray | None = None):
        """Takes the split and the new numbers of its classes.

        Args:
          source: the split.
          numbers: int (K,), the new number of each class; -1 for a class that no chosen example has
            alone.
          classes: the number of classes after that.
          rows: int (N,), the chosen examples; None takes all.
        """
        self._source = source
        self._numbers = numbers
        self._classes = classes
        self._rows = np.arange(len(source.examples)) if rows is None else rows
        self.labels_are_cheap = labels_are_cheap(source)

    def __len__(self) -> int:
        return len(self._rows)

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
        examples = read(self._source, self._rows[np.asarray(indices, np.int64)].tolist())
        labels = self._renumber(np.array([example['label'] for example in examples]))
        return [example | {'label': label if self._source.multi_label else int(label)}
                for example, label in zip(examples, labels, strict=True)]

    def labels(self) -> np.ndarray:
        return self._renumber(self._source.labels()[self._rows])


def renumbered(source: Source, class_names: Sequence[str], split: str) -> Source:
    """Returns a split whose classes have the numbers that they have in `class_names`.

    The classes are matched by name. Those of the split may have another order or Unicode normal
    form; some may be missing, which is logged; and others may be there if they have no examples.

    >>> import numpy as np
    >>> from imgjax.data import classes
    >>> from imgjax.data.sources import arrays
    >>> source = arrays.source(np.zeros((2, 8, 8), np.uint8), np.array(['cat', 'dog']))
    >>> classes.renumbered(source, ('dog', 'cat'), 'test').labels().tolist()
    [1, 0]

    Args:
      source: the split; it keeps its fingerprint.
      class_names: the classes of the training split or of a model.
      split: what the log and errors call the split.

    Raises:
      DataError: the split has examples of a class that `class_names` lacks; the line names it.
    """
    class_names = tuple(class_names)
    if source.class_names == class_names:
        return source
    numbers = places(source, class_names)
    if -1 in numbers:
        _check_unused(source, np.flatnonzero(numbers < 0), class_names, split)
    lacking = sorted(set(range(len(class_names))) - set(numbers.tolist()))
    if lacking:
        log.warning('%s: has no images of %d of the %d classes, first %r; accuracy there is of the '
                    'others', split, len(lacking), len(class_names), class_names[lacking[0]])
    examples = _Renumbered(source, numbers, len(class_names))
    return source._replace(examples=examples, class_names=class_names, labels=examples.labels)


def places(source: Source, class_names: Sequence[str]) -> np.ndarray:
    """Returns the index in `class_names` of each class of the source, int (K,).

    It is -1 for a class that is not there, or there twice (ImageNet has two classes 'crane').
    """
    number_of = {}
    for number, name in enumerate(map(_spelled, class_names)):
        number_of[name] = number if name not in number_of else -1
    return np.array([number_of.get(_spelled(name), -1) for name in source.class_names])


def _check_unused(source: Source, extra: np.ndarray, class_names: tuple, split: str) -> None:
    """Checks that the classes `extra`, which `class_names` lacks, have no examples."""
    labels = source.labels()
    counts = labels.sum(0) if source.multi_label else np.bincount(
        labels, minlength=len(source.class_names))
    used = [i for i in extra if counts[i]]
    if used:
        first = source.class_names[used[0]]
        raise DataError(
            f'{split}: has {int(counts[used].sum()):,} images of {len(used)} other classes than '
            f'the {len(class_names)} trained ones, first {first!r}'
            f'{nearest(first, class_names) or "."} Add training images of it, or take it out')


class Compared(NamedTuple):
    """Which classes a split and a model have in common.

    Attributes:
      both: the number of classes of the model that the split has images of.
      model_only: the names of the other classes of the model.
      split_only: the names of the other classes of the split.
      left_out: the number of images with classes of `split_only` alone, which are not evaluated.
    """

    both: int
    model_only: list[str]
    split_only: list[str]
    left_out: int

    def line(self) -> str:
        """Returns the comparison as a line for people."""
        words = [f'classes compared: {self.both} of {self.both + len(self.model_only)}']
        words += [f'{what}: {first_few(names)}' for what, names in (
            ('not in the run', self.split_only), ('not in the data', self.model_only)) if names]
        if self.left_out:
            words.append(f'{self.left_out:,} images of classes that the run does not know are left '
                         'out')
        return '; '.join(words)


def compared(source: Source, class_names: Sequence[str], split: str) -> tuple[Source, Compared]:
    """Returns a split with the class numbers of a model, without images of classes it lacks.

    Classes are matched by name, in any order and Unicode normal form. An image with several labels
    is left out if the model has none of them; an image without a label stays.

    >>> import numpy as np
    >>> from imgjax.data import classes
    >>> from imgjax.data.sources import arrays
    >>> source = arrays.source(np.zeros((3, 8, 8), np.uint8), np.array(['cat', 'dog', 'cat']))
    >>> known, found = classes.compared(source, ('dog', 'fox'), 'test')
    >>> known.labels().tolist(), found.left_out, found.split_only, found.model_only
    ([0], 2, ['cat'], ['fox'])

    Args:
      source: the split.
      class_names: the classes of the model.
      split: what errors call the split.

    Raises:
      DataError: the split has no images of the model's classes.
    """
    numbers = places(source, class_names)
    labels = source.labels()
    several = source.multi_label
    counts = (labels > 0).sum(0) if several else np.bincount(
        labels, minlength=len(source.class_names))
    here = np.flatnonzero((numbers >= 0) & (counts > 0))
    if not len(here):
        raise DataError(
            f'{split}: has images of none of the {len(class_names)} classes of the model '
            f'({first_few(class_names)}); its own are {first_few(source.class_names)}')
    chosen = ((labels[:, numbers >= 0] > 0).any(1) | ~(labels > 0).any(1)) if several else (
        numbers[labels] >= 0)
    both = set(numbers[here].tolist())
    found = Compared(
        len(both), [name for i, name in enumerate(class_names) if i not in both],
        [name for name, number, count in zip(source.class_names, numbers, counts, strict=True)
         if number < 0 and count], int((~chosen).sum()))
    if source.class_names == tuple(class_names) and chosen.all():
        return source, found
    examples = _Renumbered(source, numbers, len(class_names), np.flatnonzero(chosen))
    return source._replace(examples=examples, class_names=tuple(class_names),
                           labels=examples.labels), found
