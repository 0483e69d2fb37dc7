"""Which members of tar files are examples, what their labels are, and what is left out."""

import io
import logging
import tarfile

import pytest

from imgjax import data
from imgjax.errors import DataError
from tests.data.test_formats import encoded, options_of


def pack(path, members):
    """Packs {name: content}; of an image the content is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, 'w') as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            if content is None:
                info.type, info.linkname = tarfile.LNKTYPE, members[0][0]
            else:
                info.size = len(content)
            tar.addfile(info, io.BytesIO(content or b''))
    return options_of('tar', path.parent) | {'eval_split': 'train'}


IMAGE = encoded(0)
PLAIN = [('0.png', IMAGE), ('0.cls', b'0'), ('1.jpg', IMAGE), ('1.cls', b'1')]


@pytest.mark.parametrize('more, labels, left_out', [
    ([('a.jfif', IMAGE), ('a.cls', b'1'), ('b.MPO ', IMAGE), ('b.CLS', b'0')], [0, 1, 1, 0], {}),
    ([(f'scan_2.{i}.{kind}', IMAGE if kind == 'png' else b'1')
      for i in range(2) for kind in ('png', 'cls')], [0, 1, 1, 1], {}),
    ([('0.depth.png', IMAGE), ('1.depth.png', IMAGE)], [0, 1],
     {'with a dot in their key and no label of their own': (2, '0.depth.png')}),
    ([('2.input.png', IMAGE), ('2.cls', b'1')], [0, 1, 1], {}),
    ([('2.left.png', IMAGE), ('2.right.png', IMAGE), ('2.cls', b'1')], [0, 1],
     {'with a dot in their key and no label of their own': (2, '2.left.png'),
      'labels without an image': (1, '2.cls')}),
    ([('0.txt', b'x'), ('0.more.json', b'{}'), ('2.cls', b'1'), ('._0.png', b'x')], [0, 1],
     {'with other endings': (2, '0.txt'), 'hidden files': (1, '._0.png'),
      'labels without an image': (1, '2.cls')}),
    ([('2.png', None)], [0, 1], {'links or other kinds of files': (1, '2.png')}),
    ([('0.json', b'{"width": 16}'), ('1.json', b'no JSON')], [0, 1], {}),
    ([('0.json', b'{"label": 0}'), ('1.json', b'{"label": "owl"}')], [0, 1], {}),
    ([('v1.0/2.png', IMAGE), ('v1.0/2.cls', b'1')], [0, 1, 1], {}),
])
def test_members_are_read_or_counted(more, labels, left_out, tmp_path):
    options = pack(tmp_path / 'train-000.tar', PLAIN + more)
    for _ in range(2):  # from its index the second time
        source = data.open_split('train', options)
        assert source.labels().tolist() == labels
        assert source.left_out == left_out
        assert not source.multi_label


def test_a_list_and_a_number_that_agree_are_several_labels(tmp_path):
    source = data.open_split('train', pack(tmp_path / 'train.tar', [
        *PLAIN, ('0.json', b'{"label": [0]}'), ('2.png', IMAGE), ('2.json', b'{"label": [0, 1]}')]))
    assert source.labels().tolist() == [[1, 0], [0, 1], [1, 1]]


CATS = [('0.png', IMAGE), ('0.cls', b'dog\n'), ('1.png', IMAGE), ('1.cls', ' caf\u00e9'.encode())]


@pytest.mark.parametrize('train, val, listed, classes, labels', [
    (CATS, CATS, '', ('caf\u00e9', 'dog'), [[1, 0], [1, 0]]),
    (CATS, CATS[:2], '', ('caf\u00e9', 'dog'), [[1, 0], [1]]),
    (CATS, CATS, 'owl\ndog\ncaf\u00e9\n', ('owl', 'dog', 'caf\u00e9'), [[1, 2], [1, 2]]),
    (CATS, CATS, 'dog\ncafe\u0301\n', ('dog', 'cafe\u0301'), [[0, 1], [0, 1]]),
    (CATS, PLAIN, 'dog\ncaf\u00e9\n', ('dog', 'caf\u00e9'), [[0, 1], [0, 1]]),
])
def test_labels_may_be_names(train, val, listed, classes, labels, tmp_path):
    options = pack(tmp_path / 'train-000.tar', train)
    pack(tmp_path / 'val-000.tar', val)
    if listed:
        (tmp_path / 'classnames.txt').write_text(listed, encoding='utf-8')
    for _ in range(2):  # from its index the second time
        for split, wanted in zip(('train', 'val'), labels, strict=True):
            source = data.open_split(split, options)
            assert source.class_names == classes and source.labels().tolist() == wanted


@pytest.mark.parametrize('content', [b'-2', b'1.0', b'nan', b'', b'a\nb', b'\xff', b'a\0b'])
def test_what_is_no_number_and_no_name_is_refused(content, tmp_path):
    options = pack(tmp_path / 'train.tar', [*PLAIN, ('2.png', IMAGE), ('2.cls', content)])
    with pytest.raises(DataError, match='2.cls: holds .*; expected a class number or name') as said:
        data.open_split('train', options)
    assert '\n' not in str(said.value)


def test_names_and_numbers_are_not_mixed(tmp_path):
    options = pack(tmp_path / 'train-000.tar', CATS)
    pack(tmp_path / 'val-000.tar', PLAIN)
    with pytest.raises(DataError, match='the labels of val are class numbers, those of train '
                       'names; write names or numbers in all'):
        data.open_split('val', options)
    pack(tmp_path / 'train-000.tar', PLAIN)
    pack(tmp_path / 'val-000.tar', CATS)
    with pytest.raises(DataError, match='of val are class names, those of train numbers'):
        data.open_split('val', options)
    (tmp_path / 'classnames.txt').write_text('dog\nowl\n')
    with pytest.raises(DataError, match="val: has the class 'caf.* .*classnames.txt has not .dog"):
        data.open_split('val', options)


def test_an_image_without_a_label_among_others_is_refused(tmp_path):
    for more in ([('2.png', IMAGE)], [('2.png', IMAGE), ('2.cls', b'-1')],
                 [('2.png', IMAGE), ('2.json', b'{"label": null}')]):
        options = pack(tmp_path / 'train.tar', PLAIN + more)
        with pytest.raises(DataError, match=r'train.tar:2.*1 of the 3 images have none'):
            data.open_split('train', options)


def test_zeros_and_ones_of_each_class_are_no_class_numbers(tmp_path):
    with pytest.raises(DataError, match=r'labels, such as \[0, 1, 0\], are 0 and 1 of each class'):
        data.open_split('train', pack(tmp_path / 'train.tar', [
            ('0.png', IMAGE), ('0.json', b'{"label": [0, 1, 0]}')]))


def test_without_an_example_the_error_says_what_is_there(tmp_path):
    with pytest.raises(DataError, match=r'no images .*; left out: 1 with other endings \(a.txt\)'):
        data.open_split('train', pack(tmp_path / 'train.tar', [('a.txt', b'')]))


def test_classes_without_names_are_those_of_train_too(tmp_path, caplog):
    pack(tmp_path / 'train-000.tar', [*PLAIN, ('2.png', IMAGE), ('2.cls', b'2')])
    options = pack(tmp_path / 'val-000.tar', PLAIN)
    pack(tmp_path / 'val-corrupted-000.tar', PLAIN)
    with caplog.at_level(logging.INFO, 'imgjax'):
        assert data.open_split('val', options).class_names == ('0', '1', '2')
    assert (f'val: 2 images of 3 classes in {tmp_path}; left out: 1 classes without images (2)'
            in caplog.messages)
