"""Files and splits that say each for themselves what their class numbers mean."""


import numpy as np
import pytest

from imgjax import data
from imgjax.data import label_columns
from imgjax.data.label_columns import LabelColumn
from imgjax.errors import DataError
from tests.data import test_formats as formats


def columns(*rows):
    return [LabelColumn(place, tuple(names), values) for place, names, values in rows]


# (columns of the split, the first one of the set, those of other splits, class names, labels)
AGREED = {
    'the same': ([('a', ('cat', 'dog'), [0, 1]), ('b', ('cat', 'dog'), [1])],
                 ('a', ('cat', 'dog'), []), [], 'cat dog', [0, 1, 1]),
    'another order in a shard': (
        [('a', ('cat', 'dog'), [0, 1]), ('b', ('dog', 'cat'), [0, 1])],
        ('a', ('cat', 'dog'), []), [], 'cat dog', [0, 1, 1, 0]),
    'another order in a split': (
        [('b', ('owl', 'dog', 'cat'), [0, 1, 2])], ('a', ('cat', 'dog', 'owl'), []), [],
        'cat dog owl', [2, 1, 0]),
    'a class is missing': ([('b', ('dog',), [0, 0])], ('a', ('cat', 'dog'), []), [], 'cat dog',
                           [1, 1]),
    'a class that has no example': ([('b', ('emu', 'dog'), [1])], ('a', ('cat', 'dog'), []), [],
                                    'cat dog', [1]),
    'another spelling in Unicode': ([('b', ('e\u0301', 'a'), [0, 1])], ('a', ('a', '\u00e9'), []),
                                    [], 'a \u00e9', [1, 0]),
    'names in place of numbers': (
        [('a', ('dog', 'cat'), [0]), ('b', (), ['cat', 'dog'])], ('a', ('dog', 'cat'), []), [],
        'dog cat', [0, 1, 0]),
    'several labels': ([('b', ('dog', 'cat'), [[0], [0, 1], []])], ('a', ('cat', 'dog'), []), [],
                       'cat dog', [[0, 1], [1, 1], [0, 0]]),
    'two classes of one name': ([('a', ('crane', 'crane'), [0, 1])], ('a', ('crane', 'crane'), []),
                                [], 'crane crane', [0, 1]),
    'numbers alone': ([('b', (), [0, 1])], ('a', (), [2]), [('a', (), [2])], '0 1 2', [0, 1]),
    'numbers that pandas made floats': ([('a', (), [1.0, 0.0])], ('a', (), [1.0]), [], '0 1',
                                        [1, 0]),
    'names alone': ([('b', (), ['dog'])], ('a', (), ['owl']), [('c', (), ['ant'])], 'ant dog owl',
                    [1]),
    'blanks around names': ([('a', (), ['dog ', ' cat', 'dog'])], ('a', (), [' cat', 'dog ']), [],
                            'cat dog', [1, 0, 1]),
    'an unlabelled split beside': ([('a', (), [0, 1])], ('a', (), [0, 1]), [('c', (), [-1, -1])],
                                   '0 1', [0, 1]),
    'an unlabelled split beside names': (
        [('a', (), ['x', 'y'])], ('a', (), ['x', 'y']), [('c', (), [None]), ('d', (), [-1])],
        'x y', [0, 1]),
    'the same two labels of all': ([('a', (), [[0, 1], [0, 1]])], ('a', (), []), [], '0 1',
                                   [[1, 1], [1, 1]]),
}


@pytest.mark.parametrize('mine, first, others, names, labels', AGREED.values(), ids=AGREED)
def test_labels_are_those_that_the_names_say(mine, first, others, names, labels, caplog):
    found = label_columns.agreed(columns(*mine), columns(first)[0], lambda: columns(*others))
    assert ' '.join(found[0]) == names
    np.testing.assert_array_equal(found[1], labels)
    assert found[2] is isinstance(labels[0], list)
    moved = [place for place, own, values in mine
             if own not in ((), first[1]) or 'dog ' in values]
    assert [r.getMessage().split(':')[0] for r in caplog.records] == moved[:1], 'said once'


REFUSED = {
    'a class that the first has not': (
        [('b', ('cat', 'owl'), [1])], ('a', ('cat', 'dog'), []), [],
        r"b: has the class 'owl', which a has not \(cat, dog\)"),
    'no names in one shard': (
        [('a', ('cat', 'dog'), [0]), ('b', (), [0])], ('a', ('cat', 'dog'), []), [],
        r'b: does not say which class a number means, but a does \(cat, dog\)'),
    'no names in the first': ([('b', ('cat', 'dog'), [0])], ('a', (), [0]), [],
                              'a: does not say .* but b does'),
    'no names in this split': ([('a', (), [0])], ('a', (), [0]), [('b', ('cat', 'dog'), [1])],
                               'a: does not say .* but b does'),
    'a number beyond the names': ([('b', ('dog', 'cat'), [2])], ('a', ('cat', 'dog'), []), [],
                                  r'b: label 0 \(from 0\) is 2; labels are 0 to 1'),
    'two classes of one name': ([('b', ('y', 'x', 'x'), [0])], ('a', ('x', 'x', 'y'), []), [],
                                "a: two classes are named 'x', and b has another order"),
    'names and numbers': ([('b', (), ['cat'])], ('a', (), [0]), [],
                          r"b: holds names \('cat'\), and a holds numbers \(0\); write all"),
    'no whole number': ([('a', (), [0.5])], ('a', (), [0]), [], 'a: holds 0.5'),
    'a name is missing': ([('a', (), ['x', None])], ('a', (), ['x']), [], 'a: holds None'),
    'lists in lists': ([('a', (), [[[0]], [[1]]])], ('a', (), []), [], r'a: holds \[0\]'),
    'groups of fields': ([('a', (), [{'x': 1}])], ('a', (), []), [], "a: holds {'x': 1}"),
    'a number of 64 bits': ([('a', (), [2**63])], ('a', (), [0]), [],
                            'a: holds the class number 9223372036854775808; there can be'),
    'a number of 64 bits beside names': ([('a', ('x', 'y'), [2**63])], ('a', ('x', 'y'), []), [],
                                         'a: a label has more than 63 bits'),
    'one-hot lists': ([('a', (), [[0, 1], [1, 0]])], ('a', (), []), [],
                      r'a: its labels, such as \[0, 1\], are 0 and 1 of each class; store the'),
    'several-hot lists': ([('a', ('x', 'y', 'z'), [[0, 1, 1]])], ('a', ('x', 'y', 'z'), []), [],
                          'are 0 and 1 of each class'),
}


@pytest.mark.parametrize('mine, first, others, words', REFUSED.values(), ids=REFUSED)
def test_what_no_name_says_is_refused(mine, first, others, words):
    with pytest.raises(DataError, match=words):
        label_columns.agreed(columns(*mine), columns(first)[0], lambda: columns(*others))


@pytest.mark.parametrize('writer', [formats.write_parquet, formats.write_huggingface],
                         ids=lambda w: w.__name__)
def test_splits_that_name_the_classes_in_another_order_read_alike(writer, tmp_path):
    """Each split is written with its own order; both are read in that of train."""
    if writer is formats.write_parquet:
        writer(tmp_path / 'set', {'train': formats.SPLITS['train']}, formats.CLASSES)
        writer(tmp_path / 'b', {'test': formats.SPLITS['test']}, formats.CLASSES[::-1])
        for path in (tmp_path / 'b' / 'data').iterdir():
            path.rename(tmp_path / 'set' / 'data' / path.name)
        options = formats.options_of('parquet', tmp_path / 'set')
    else:
        hub = pytest.importorskip('datasets')
        both = {}
        for split, names in (('train', formats.CLASSES), ('test', formats.CLASSES[::-1])):
            writer(tmp_path / split, {split: formats.SPLITS[split]}, names)
            both[split] = hub.load_from_disk(str(tmp_path / split))[split]
        hub.DatasetDict(both).save_to_disk(str(tmp_path / 'set'))
        options = formats.options_of('huggingface', tmp_path / 'set')
    train, test = data.open_split('train', options), data.open_split('test', options)
    assert train.class_names == test.class_names == formats.CLASSES
    assert train.labels().tolist() == [label for _, _, label in formats.SPLITS['train']]
    assert test.labels().tolist() == [2 - label for _, _, label in formats.SPLITS['test']]
    assert data.open_split('train+test', options).class_names == formats.CLASSES
