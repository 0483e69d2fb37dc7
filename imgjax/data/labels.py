"""Labels: as they are stored, int32 (N,) or bool (N, K), as names, and as a Source returns them."""

from collections.abc import Collection, Sequence

import numpy as np

from imgjax.errors import DataError

MOST_CLASSES = 10_000_000


def at(labels: np.ndarray, index: int) -> int | np.ndarray:
    """Returns the label of one example: an int, or float32 (K,) from labels bool (N, K)."""
    return int(labels[index]) if labels.ndim == 1 else labels[index].astype(np.float32)


def whole(labels: np.ndarray) -> np.ndarray:
    """Returns all labels as a Source gives them: int32 (N,), or float32 (N, K) from bool (N, K)."""
    return labels.astype(np.int32 if labels.ndim == 1 else np.float32)


def present(labels: np.ndarray, classes: int) -> np.ndarray:
    """Returns which classes have an example, bool (K,), of labels int (N,) or bool (N, K).

    A number that is no class, such as -1, does not count.
    """
    if labels.ndim == 2:
        return np.asarray(labels.any(axis=0))
    counts: np.ndarray = np.bincount(labels[labels >= 0], minlength=classes)[:classes]
    return counts.astype(bool)


def from_lists(lists: Sequence[Sequence[int] | np.ndarray], classes: int) -> np.ndarray:
    """Returns labels bool (N, K) from the class numbers of each example."""
    matrix = np.zeros((len(lists), classes), bool)
    rows = np.repeat(np.arange(len(lists)), [len(numbers) for numbers in lists])
    matrix[rows, np.fromiter((n for numbers in lists for n in numbers), np.int64, len(rows))] = True
    return matrix


def check_class_numbers(lists: Sequence[Sequence[int]], place: str) -> None:
    """Checks that the labels of examples are class numbers, and not a 0 or 1 per class.

    Raises:
      DataError: all lists have the same length above one, hold only 0 and 1, and are not all
        [0, 1].
    """
    width = len(lists[0]) if len(lists) and isinstance(lists[0], list) else 0
    if width > 1 and all(isinstance(one, list) and len(one) == width and set(one) <= {0, 1}
                         for one in lists) and lists != [[0, 1]] * len(lists):
        raise DataError(f'{place}: its labels, such as {str(list(lists[0]))[:60]}, are 0 and 1 of '
                        'each class; store the numbers of the classes that an image has')


def in_order(names: Collection[str]) -> list[str]:
    """Returns class names in the order of their numbers: as integers if all are, else as text.

    The order is total: '01' comes before '1', whatever order they were given in.
    """
    numbers = all(name.isdecimal() for name in names)
    return sorted(names, key=(lambda name: (int(name), name)) if numbers else None)


def from_names(lists: Sequence[Sequence[str]], multi_label: bool,
               place: str) -> tuple[tuple[str, ...], np.ndarray]:
    """Returns (class names in the order of `in_order`, labels) from the names of each example.

    Args:
      lists: the label names of each example, exactly one unless `multi_label`.
      multi_label: whether the labels become bool (N, K) or int32 (N,).
      place: what errors call the set.

    Raises:
      DataError: an example does not have exactly one label where `multi_label` is False.
    """
    there = {name for names in lists for name in names}
    names = tuple(in_order(there))
    number = {name: i for i, name in enumerate(names)}
    numbers = [[number[name] for name in one] for one in lists]
    if multi_label:
        return names, from_lists(numbers, len(names))
    for row, one in enumerate(numbers):
        if len(one) != 1:
            raise DataError(f'{place}: example {row} has {len(one)} labels; give it one')
    return names, np.fromiter((one[0] for one in numbers), np.int32, len(numbers))


def numbered(labels: np.ndarray | Sequence, class_names: Sequence[str],
             place: str) -> tuple[tuple[str, ...], np.ndarray]:
    """Returns (class names, labels int32 (N,)); without names the numbers become the names.

    Raises:
      DataError: a number is negative or has no name.
    """
    try:
        values = np.asarray(labels, np.int64)
    except OverflowError:
        raise DataError(f'{place}: a label has more than 63 bits; give class numbers') from None
    top = int(values.max(initial=-1))
    limit = len(class_names) or top + 1
    if values.min(initial=0) < 0 or top >= limit or limit > MOST_CLASSES:
        row = int(np.argmax((values < 0) | (values >= limit)))
        raise DataError(f'{place}: label {row:,} (from 0) is {values[row]}; labels are 0 to '
                        f'{len(class_names) - 1 if class_names else "the number of classes - 1"}')
    names = tuple(class_names) or tuple(str(number) for number in range(limit))
    return names, values.astype(np.int32)
