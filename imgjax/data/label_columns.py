"""Label columns of several files or splits, renumbered to one order of classes.

Class numbers of one file are never taken for those of another: the names translate them, or they
are refused.
"""

import logging
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from imgjax.data import labels as labels_lib
from imgjax.errors import DataError, first_few

log = logging.getLogger('imgjax')


class LabelColumn(NamedTuple):
    """The labels of one file or split.

    Attributes:
      place: what errors call the column.
      names: the class names of its numbers, () where it has none.
      values: for each example a class number, a name, or a list of either.
    """

    place: str
    names: tuple[str, ...]
    values: list


def agreed(mine: Sequence[LabelColumn], first: LabelColumn,
           others: Callable[[], Iterable[LabelColumn]]) -> tuple[tuple[str, ...], np.ndarray, bool]:
    """Returns (class names, labels, multi_label) of a split.

    The classes are those that `first` names, in its order. If it names none, they are the names or
    the numbers in all columns.

    Args:
      mine: the columns of the split, in order.
      first: the column that decides the order of the classes, the same one for every split.
      others: returns the columns of the other splits; called only if `first` has no names.

    Raises:
      DataError: a column has a class that `first` lacks, has no names where another one has, or
        holds something that is no label.
    """
    multi_label = any(isinstance(value, list) for column in mine for value in column.values)
    if first.names:
        class_names = first.names
    else:
        every = [first, *mine, *others()]
        for column in every:
            if column.names:
                raise _unnamed(first, column)
        class_names = _found(every)
    parts, counts, moved = [], [], []
    for column in mine:
        flat, count = _flat(column)
        if flat and all(isinstance(value, str) for value in flat):
            flat = without_blanks(flat, column.place)
        parts.append(_numbers(column._replace(values=flat), class_names, first))
        if multi_label and not isinstance(next(iter(flat), ''), str):
            labels_lib.check_class_numbers(column.values, column.place)
        counts += count
        if column.names not in ((), class_names):
            moved.append(column.place)
    if moved:
        log.warning('%s: names the classes in another order than %s%s; its labels were translated '
                    'by the names', moved[0], first.place,
                    f' (so do {len(moved) - 1} more)' if len(moved) > 1 else '')
    numbers = np.concatenate(parts)
    if multi_label:
        lists = np.split(numbers, np.cumsum(counts)[:-1])
        return class_names, labels_lib.from_lists(lists, len(class_names)), True
    return class_names, numbers.astype(np.int32), False


def has_labels(columns: Iterable[LabelColumn]) -> bool:
    """Returns whether any example has a label; -1, null and NaN do not count as labels."""
    return any(value not in (None, -1, '') and value == value
               for column in columns for value in _flat(column)[0])


def _flat(column: LabelColumn) -> tuple[list, list[int]]:
    """Returns (all labels in one list, the number of labels of each example)."""
    lists = [value if isinstance(value, list) else [value] for value in column.values]
    return [value for one in lists for value in one], [len(one) for one in lists]


def without_blanks(names: list[str], place: str) -> list[str]:
    """Returns names without the blanks around them, and logs how many had some.

    Raises:
      DataError: a name is empty.
    """
    if '' in (stripped := [name.strip() for name in names]):
        raise DataError(f'{place}: label {stripped.index(""):,} (from 0) is empty; name its class')
    odd = [name for name, bare in zip(names, stripped, strict=True) if name != bare]
    if odd:
        log.warning('%s: %d of %d labels have blanks around them (%r); they are read without',
                    place, len(odd), len(names), odd[0])
    return stripped


def _found(columns: Sequence[LabelColumn]) -> tuple[str, ...]:
    """Returns the classes, as names or numbers, of columns whose metadata has no class names."""
    names, numbers = {}, {}  # each with a column that has it; other values mean: no label
    for column in columns:
        for value in _flat(column)[0]:
            if isinstance(value, str):
                names.setdefault(value.strip(), column.place)
            elif _is_whole(value) and value >= 0:
                numbers.setdefault(int(value), column.place)
    names.pop('', None)
    if names and numbers:
        (name, place), (number, other) = next(iter(names.items())), next(iter(numbers.items()))
        raise DataError(f'{place}: holds names ({name!r}), and {other} holds numbers ({number}); '
                        'write all files of the set with one of them')
    if names:
        return tuple(labels_lib.in_order(names))
    top = max(numbers, default=0)
    if top >= labels_lib.MOST_CLASSES:
        raise DataError(f'{numbers[top]}: holds the class number {top}; there can be '
                        f'{labels_lib.MOST_CLASSES:,} classes')
    return labels_lib.numbered([top], (), columns[0].place)[0]


def _is_whole(value) -> bool:
    return not isinstance(value, bool) and (
        isinstance(value, int) or (isinstance(value, float) and value.is_integer()))


def _numbers(column: LabelColumn, class_names: tuple[str, ...], first: LabelColumn) -> np.ndarray:
    """Returns the indices in `class_names` of a column with one label per example."""
    values, place = column.values, column.place
    text = any(isinstance(value, str) for value in values)
    odd = [value for value in values
           if not (isinstance(value, str) if text else _is_whole(value))]
    if odd:
        raise DataError(f'{place}: holds {odd[0]!r}; expected class numbers, or names, in every '
                        'row')
    if text:
        return by_name(values, class_names, place, first)
    if first.names and not column.names and values:
        raise _unnamed(column, first)
    if column.names in ((), class_names):
        return labels_lib.numbered(values, class_names, place)[1]
    _, numbers = labels_lib.numbered(values, column.names, place)
    used = np.unique(numbers)  # unused classes need no translation
    translated = np.zeros(len(column.names), np.int64)
    translated[used] = by_name([column.names[i] for i in used], class_names, place, first)
    return translated[numbers]


def by_name(names: Sequence[str], class_names: tuple[str, ...], place: str,
            first: LabelColumn) -> np.ndarray:
    """Returns the index in `class_names` of each name, in any Unicode normal form.

    Args:
      names: one per label.
      class_names: all classes, in order.
      place: what errors call the source of the names.
      first: the column that `class_names` come from.

    Raises:
      DataError: `class_names` lacks a name, or has it twice.
    """
    spelled = [unicodedata.normalize('NFC', name) for name in class_names]
    number = {name: i for i, name in enumerate(spelled)}
    if len(number) < len(class_names):
        twice = next(name for i, name in enumerate(spelled) if number[name] != i)
        raise DataError(f'{first.place}: two classes are named {twice!r}, and {place} has another '
                        'order; give each class a name of its own')
    names = [unicodedata.normalize('NFC', name) for name in names]
    unknown = [name for name in names if name not in number]
    if unknown:
        raise DataError(f'{place}: has the class {unknown[0]!r}, which {first.place} has not '
                        f'({first_few(class_names)}); write all files of the set with the same '
                        'class names')
    return np.fromiter((number[name] for name in names), np.int64, len(names))


def _unnamed(without: LabelColumn, named: LabelColumn) -> DataError:
    return DataError(
        f'{without.place}: does not say which class a number means, but {named.place} does '
        f'({first_few(named.names)}); write all files of the set with the same features')
