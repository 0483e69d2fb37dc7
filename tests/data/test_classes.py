"""Classes of one split in the order of another's, and names that look alike."""

import contextlib
import unicodedata

import numpy as np
import pytest

from configs import base
from imgjax import build
from imgjax.config import Config
from imgjax.data import classes, labels, read
from imgjax.data.sources import arrays, synthetic
from imgjax.errors import DataError

PIXELS = np.zeros((4, 2, 2, 1), np.uint8)
NFC, NFD = (unicodedata.normalize(form, 'café') for form in ('NFC', 'NFD'))


@pytest.mark.parametrize('names, wanted', [
    (['1', '01', '10', '2'], ['01', '1', '2', '10']), (['01', '1', '2', '10'][::-1], None),
    (['1', '01', 'b', '10'], ['01', '1', '10', 'b']), ([], [])])
def test_the_order_of_class_names_is_total(names, wanted):
    assert labels.in_order(names) == (wanted or sorted(names, key=lambda n: (int(n), n)))
    assert labels.in_order(names[::-1]) == labels.in_order(names)


@pytest.mark.parametrize('mine, trained, wanted', [
    (('b', 'a'), ('a', 'b'), [1, 0, 0, 1]),  # another order
    (('a', 'c'), ('a', 'b', 'c'), [0, 2, 2, 0]),  # one is missing
    (('a', 'b', 'unused'), ('b', 'a'), [1, 0, 0, 1]),  # one more, of which there is no image
    (('a', NFD), (NFC, 'a'), [1, 0, 0, 1])])  # another spelling
def test_classes_are_matched_by_name(mine, trained, wanted):
    source = arrays.source(PIXELS, np.array([0, 1, 1, 0]), mine)
    found = classes.renumbered(source, trained, 'val')
    assert found.class_names == trained and found.fingerprint == source.fingerprint
    assert found.labels().tolist() == wanted and found.labels().dtype == np.int32
    assert [example['label'] for example in read(found, range(4))] == wanted
    assert found.examples[3]['label'] == wanted[3] and len(found.examples) == 4
    rows = np.eye(len(mine), dtype=np.int64)[[0, 1, 1, 0]]
    several = classes.renumbered(arrays.source(PIXELS, rows, mine), trained, 'val')
    np.testing.assert_array_equal(several.labels(), np.eye(len(trained))[wanted])
    np.testing.assert_array_equal(several.examples[1]['label'], np.eye(len(trained))[wanted[1]])


def test_a_class_that_is_not_trained_is_refused_by_name():
    source = arrays.source(PIXELS, np.array([0, 1, 1, 2]), ('a', 'owl', 'b'))
    with pytest.raises(DataError, match="val: has 2 images of 1 other classes .* first 'owl'"):
        classes.renumbered(source, ('a', 'b', 'bowl'), 'val')


def test_two_splits_are_opened_with_the_classes_of_the_first(monkeypatch, caplog):
    splits = {'train': ('a', 'b', 'c'), 'test': ('c', 'b')}
    monkeypatch.setattr(synthetic, 'open_split', lambda split, _: arrays.source(
        PIXELS, np.array([0, 1, 1, 0]), splits[split]))
    config = base.get_config().to_dict()
    config['data'] |= dict(name='synthetic', train_split='train', eval_split='test')
    train, test = build.open_dataset(Config(config))
    assert train.class_names == test.class_names and test.labels().tolist() == [2, 1, 1, 2]
    assert "test: has no images of 1 of the 3 classes, first 'a'" in caplog.text


@pytest.mark.parametrize('names, words', [
    ((NFC, 'cafe', NFD), r"the classes 'caf\\xe9' and 'cafe\\u0301' look the same; rename"),
    (('cat', 'dog', 'cat '), "the classes 'cat' and 'cat ' look the same"),
    (('hot dog', 'hot\xa0dog'), r"'hot dog' and 'hot\\xa0dog' look the same"),
    (('\ufeffcat', 'cat'), r"'\\ufeffcat' and 'cat' look the same"),
    (('cat\ndog', 'cat'), r"the class 'cat\\ndog' has a line break"),
    (('cat', 'dog\n'), r"the class 'dog\\n' has a line break"),
    (('crane', 'crane', 'Crane', 'a  b', 'ab'), None)])
def test_names_that_look_the_same_are_refused(names, words):
    with pytest.raises(DataError, match=words) if words else contextlib.nullcontext():
        classes.check_names(names, 'PATH')


@pytest.mark.parametrize('given, wanted', [
    ([0, 1, 2, 3], [2, 0, 3]),
    ([[1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 1, 1], [0, 0, 0, 0]],
     [[1, 0, 1, 0], [0, 0, 0, 1], [0, 0, 0, 0]])], ids=['one label', 'several'])
def test_a_split_is_compared_with_the_classes_of_a_model(given, wanted):
    """In any order and spelling; images of other classes alone are left out, and counted."""
    source, names = arrays.source(PIXELS, np.array(given), ('d', 'a', 'x', NFD)), (
        'a', 'b', 'd', NFC)
    found, told = classes.compared(source, names, 'test')
    np.testing.assert_array_equal(found.labels(), wanted)
    assert len(found.examples) == 3 and found.class_names == names
    np.testing.assert_array_equal(
        [example['label'] for example in read(found, range(3))], wanted)
    assert told == classes.Compared(3, ['b'], ['x'], 1)
    assert told.line() == ('classes compared: 3 of 4; not in the run: x; not in the data: b; 1 '
                           'images of classes that the run does not know are left out')
    with pytest.raises(DataError, match='none of the 2 classes of the model .p, q.; its own are d'):
        classes.compared(source, ('p', 'q'), 'test')
