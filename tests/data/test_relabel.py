"""A file of corrected labels changes exactly what it names, and only the dataset it is of."""

import logging

import numpy as np
import pytest

from imgjax import data
from imgjax.data import relabel
from imgjax.data.sources import arrays
from imgjax.errors import ConfigError, DataError

HEAD = 'index,split,given,label,reason\n'


@pytest.fixture
def source():
    images = np.arange(6 * 4 * 4 * 1, dtype=np.uint8).reshape(6, 4, 4, 1)
    return arrays.source(images, np.array([0, 1, 2, 0, 1, 2]), ['cat', 'dog', 'a|b'])


@pytest.fixture
def several():
    images = np.zeros((3, 4, 4, 1), np.uint8)
    labels = np.array([[1, 0, 1], [0, 1, 0], [0, 0, 0]], bool)
    return arrays.source(images, labels, ['cat', 'dog', 'bird'])


def write(folder, text: str) -> str:
    path = folder / 'relabel.csv'
    path.write_text(text, encoding='utf-8')
    return str(path)


def test_labels_are_changed_and_images_left_out(source, tmp_path, caplog):
    caplog.set_level(logging.INFO, 'imgjax')
    path = write(tmp_path, HEAD + '1,train,dog,cat,label\n5,train,a|b,,label\n0,test,dog,,label\n'
                 '3,train,cat,cat,label\n')
    changed = relabel.apply(source, 'train', path)
    assert changed.labels().tolist() == [0, 0, 2, 0, 1] and changed.labels().dtype == np.int32
    assert len(changed.examples) == 5
    for index in range(5):
        one = changed.examples[index]
        assert one['label'] == changed.labels()[index]
        assert (one['image'] == source.examples[index]['image']).all()
    [last] = data.read(changed, [4])
    assert last['label'] == 1
    assert 'train: 1 labels changed and 1 images left out' in caplog.text
    assert changed.fingerprint != source.fingerprint
    assert relabel.apply(source, 'test', write(tmp_path, HEAD)) is source


def test_another_file_is_another_dataset(source, tmp_path):
    one = relabel.apply(source, 'train', write(tmp_path, HEAD + '1,train,dog,cat,x\n'))
    other = relabel.apply(source, 'train', write(tmp_path, HEAD + '1,train,dog,a|b,x\n'))
    assert len({source.fingerprint, one.fingerprint, other.fingerprint}) == 3


def test_several_labels(several, tmp_path):
    path = write(tmp_path, HEAD + '0,train,bird|cat,dog|cat,x\n1,train,dog,,x\n')
    changed = relabel.apply(several, 'train', path)
    assert changed.labels().tolist() == [[1, 1, 0], [0, 0, 0]]
    assert changed.examples[0]['label'].dtype == np.float32


@pytest.mark.parametrize(('text', 'error', 'message'), [
    ('index,split,given\n', ConfigError, "no column 'label'"),
    (HEAD + '9,train,cat,,x\n', DataError, r'line 2: there is no image 9, the split has 6'),
    (HEAD + '1,train,cat,,x\n', DataError, r"line 2: image 1 is given as 'cat'.* has 'dog'"),
    (HEAD + '1,train,dog,cot,x\n', DataError, r"no class 'cot'; did you mean 'cat'"),
    (HEAD + '1,train,dog,,x\n1,train,dog,cat,x\n', DataError, "line 3: index: .* got '1'"),
    (HEAD + 'one,train,dog,,x\n', DataError, "line 2: index: .* got 'one'"),
])
def test_what_is_refused(source, tmp_path, text, error, message):
    with pytest.raises(error, match=message):
        relabel.apply(source, 'train', write(tmp_path, text))


def test_a_missing_file_and_bytes_are_refused(source, tmp_path):
    with pytest.raises(ConfigError, match='no such file'):
        relabel.apply(source, 'train', str(tmp_path / 'no.csv'))
    path = tmp_path / 'bytes.csv'
    path.write_bytes(b'index,split,given,label\n1,train,\xff\xfe,\n')
    with pytest.raises(DataError, match='cannot be read as .csv in UTF-8'):
        relabel.apply(source, 'train', str(path))
