"""What is found in class folders, and what is left out."""

import os

import numpy as np
import pytest

from imgjax import build, data
from imgjax.config import Config
from imgjax.data import image_files, splits
from imgjax.errors import ConfigError, DataError
from tests.data.test_splits import fill, names_in, options_of


def test_all_that_lies_in_class_folders_is_read_or_counted(tmp_path):
    fill(tmp_path, {'cat': 2, 'dog': 2, 'cat/b/c': 1, 'cat/b-a': 1, 'cat/b': 1})
    for ending in ('jfif', 'AVIF', 'ppm', 'jp2', 'JPG ', 'tif'):
        (tmp_path / 'dog' / f'x.{ending}').write_bytes(b'x')
    for name in ('notes.txt', '._0.jpg', '.DS_Store', 'labels.csv'):
        (tmp_path / 'dog' / name).write_bytes(b'x')
    os.mkfifo(tmp_path / 'dog' / 'pipe.png')
    (tmp_path / 'beside.jpg').write_bytes(b'x')
    for link, target in (('dog/dead.png', 'nothing.png'), ('owl', 'nothing'), ('cat/up', '..'),
                         ('dog/round.jpg', 'round.jpg'), ('turn', 'turn')):
        (tmp_path / link).symlink_to(target)
    source = data.open_split('train', options_of(tmp_path, held_out=0))
    assert source.class_names == ('cat', 'dog')
    assert names_in(source) == [
        'cat/0.jpg', 'cat/1.jpg', 'b/0.jpg', 'b-a/0.jpg', 'c/0.jpg', 'dog/0.jpg', 'dog/1.jpg',
        'dog/x.AVIF', 'dog/x.JPG ', 'dog/x.jfif', 'dog/x.jp2', 'dog/x.ppm', 'dog/x.tif']
    assert source.left_out == {
        'beside the class folders': (1, 'beside.jpg'), 'dead links': (2, 'dog/dead.png'),
        'dead links in place of class folders': (2, 'owl'),
        'links to a folder above': (1, 'cat/up'), 'hidden': (1, 'dog/._0.jpg'),
        'with other endings': (2, 'dog/labels.csv'), 'that are no plain files': (1, 'dog/pipe.png')}


def test_folders_of_operating_systems_are_no_classes(tmp_path):
    fill(tmp_path, {'cat': 2, 'dog': 2, 'cat/@eaDir/0.jpg': 3, '__MACOSX/cat': 1, 'lost+found': 0})
    source = data.open_split('train', options_of(tmp_path, held_out=0))
    assert source.class_names == ('cat', 'dog') and len(source.examples) == 4
    assert source.left_out == {'folders of operating systems': (3, '__MACOSX')}


def test_linked_folders_are_followed(tmp_path):
    fill(tmp_path / 'elsewhere', {'days': 3})
    fill(tmp_path / 'set', {'cat': 1, 'dog': 1})
    (tmp_path / 'set' / 'owl').symlink_to(tmp_path / 'elsewhere')
    source = data.open_split('train', options_of(tmp_path / 'set', held_out=0))
    np.testing.assert_array_equal(source.labels(), [0, 1, 2, 2, 2])


@pytest.mark.parametrize('link', [os.link, os.symlink])
def test_one_file_is_in_one_split_and_has_one_label(link, tmp_path):
    fill(tmp_path / 'train', {'cat': 2, 'dog': 2})
    fill(tmp_path / 'val', {'cat': 2, 'dog': 2})
    build.open_dataset(Config({'data': options_of(tmp_path)}))  # equal names are no leak
    link(tmp_path / 'train' / 'dog' / '1.jpg', tmp_path / 'val' / 'dog' / '2.jpg')
    with pytest.raises(DataError, match="1 files are in both 'train' and 'held_out', first "
                       '.*val/dog/2.jpg; remove them from one split'):
        build.open_dataset(Config({'data': options_of(tmp_path)}))
    as_asked_for = Config({'data': options_of(tmp_path, eval_split='train')})
    build.open_dataset(as_asked_for)
    link(tmp_path / 'train' / 'dog' / '1.jpg', tmp_path / 'train' / 'cat' / '2.jpg')
    with pytest.raises(DataError, match=r'1 file has two labels, first cat/2.jpg \(cat\) and '
                       r'dog/1.jpg \(dog\), which are one file'):
        data.open_split('train', options_of(tmp_path))


def test_a_share_takes_whole_files():
    rng = np.random.default_rng(0)
    for _ in range(20):
        numbers = np.repeat(np.arange(20), 3)[rng.permutation(60)]
        labels = numbers % 2
        names = [f'{number}.jpg' for number in numbers]
        held_out = splits.held_out_share(names, labels, 0.25, numbers)
        assert not set(numbers[held_out]) & set(numbers[~held_out])
        assert len(set(numbers[held_out])) == 4, 'a share of each class, of files'
    alone = splits.held_out_share(names[:5], labels[:5], 0.5)
    np.testing.assert_array_equal(
        splits.held_out_share(names[:5], labels[:5], 0.5, np.arange(5)), alone)


def test_files_are_numbered_by_device_and_inode():
    files = np.array([[1, 7], [1, 5], [2, 7], [1, 7], [0, 0], [0, 0], [1, 7]], np.uint64)
    assert image_files.file_numbers(files).tolist() == [0, 1, 2, 0, 4, 5, 0]
    assert image_files.shared(files, files[[2, 4]]).tolist() == [0]


@pytest.mark.parametrize('name, path, words', [
    ('folder', 'set.zip', 'set.zip: is an archive; unpack it, and name the folder that holds the'),
    ('listing', 'set.tar.gz', 'is an archive; unpack it, and name a file .csv or .json'),
    ('folder', '0.jpg', '0.jpg: is a file; name the folder that holds the class folders: /'),
    ('listing', '.', 'is a folder; name a file .csv or .json that lists'),
    ('arrays', '.', 'is a folder; name a file .npz')])
def test_a_path_of_another_kind_is_named(name, path, words, tmp_path):
    for file in ('set.zip', 'set.tar.gz', '0.jpg'):
        (tmp_path / file).write_bytes(b'PK')
    with pytest.raises(ConfigError, match=words):
        data.open_split('train', options_of(tmp_path / path, name))


def test_names_that_are_not_utf_8_are_shown_with_question_marks(tmp_path):
    root = os.fsencode(tmp_path)
    for name in (b'caf\xe9', b'dog'):
        os.mkdir(os.path.join(root, name))
        for i in range(3):
            with open(os.path.join(root, name, b'\xf1%d.jpg' % i), 'wb') as file:
                file.write(b'x')
    source = data.open_split('train', options_of(tmp_path, held_out=0))
    assert source.class_names == ('caf?', 'dog')
    assert names_in(source)[:1] == ['caf?/?0.jpg'] and source.examples[0]['image'] == b'x'
    os.mkdir(os.path.join(root, b'caf\xe8'))
    os.link(os.path.join(root, b'dog', b'\xf10.jpg'), os.path.join(root, b'caf\xe8', b'1.jpg'))
    os.remove(os.path.join(root, b'dog', b'\xf10.jpg'))
    with pytest.raises(DataError, match="2 class folders would be called 'caf.'"):
        data.open_split('train', options_of(tmp_path))
