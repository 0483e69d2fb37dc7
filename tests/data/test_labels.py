"""Labels as stored: what is no number of a class is refused in one line."""

import pytest

from imgjax.data import labels
from imgjax.errors import DataError


@pytest.mark.parametrize('lists, wrong', [
    ([[1, 0, 0], [0, 1, 0]], True),
    ([[0, 1], [1, 0]], True),
    ([[0, 1], [0, 1]], False),  # as likely two classes of every image
    ([[0, 1, 2], [0, 1, 0]], False),
    ([[1, 0], [1]], False),
    ([[1], [0]], False),
    ([[]], False),
    ([], False),
    ([1, 0], False),
])
def test_zeros_and_ones_of_each_class_are_not_taken_for_class_numbers(lists, wrong):
    if not wrong:
        return labels.check_class_numbers(lists, 'a.parquet')
    with pytest.raises(DataError, match='store the numbers of the classes that an image has'):
        labels.check_class_numbers(lists, 'a.parquet')


@pytest.mark.parametrize('odd', [[], ['cat', 'dog']])
def test_an_image_has_one_label_unless_the_set_has_several(odd):
    with pytest.raises(DataError, match=f'a.csv: example 1 has {len(odd)} labels; give it one'):
        labels.from_names([['cat'], odd, ['dog']], False, 'a.csv')
    names, matrix = labels.from_names([['cat'], odd, ['dog']], True, 'a.csv')
    assert names == ('cat', 'dog') and matrix.sum() == 2 + len(odd)


@pytest.mark.parametrize('numbers, names, message', [
    ([0, 3], ('a', 'b', 'c'), r'label 1 \(from 0\) is 3; labels are 0 to 2'),
    ([0, -1], (), r'label 1 \(from 0\) is -1; labels are 0 to the number of classes - 1'),
    ([0, labels.MOST_CLASSES], (), 'labels are 0 to the number of classes - 1'),
    ([2**64], (), 'more than 63 bits'),
])
def test_numbers_that_are_of_no_class_are_named(numbers, names, message):
    with pytest.raises(DataError, match=message):
        labels.numbered(numbers, names, 'a.npz')


def test_without_names_the_numbers_are_the_names():
    assert labels.numbered([], (), 'a.npz')[0] == ()
    names, found = labels.numbered([2, 0], (), 'a.npz')
    assert names == ('0', '1', '2') and found.tolist() == [2, 0]
