import json
import os
import shutil

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image
from sklearn.datasets import load_digits

from imgjax import data
from imgjax.data import decode
from imgjax.errors import ConfigError, DataError

OPTIONS = dict(name='digits', path='', data_dir='', image_size=0, channels=1,
               train_crop='center', eval_crop_fraction=1.0, train_resize='bicubic',
               eval_resize='bicubic', eval_transform='pil', exif_orientation=False,
               pixel_range=[], background=[],
               max_pixels=64_000_000, max_bytes=32 * 2**20)


def folder_options(path) -> dict:
    return OPTIONS | {'name': 'folder', 'path': str(path), 'channels': 3}


@pytest.fixture
def folder(tmp_path):
    """PATH/train/{cat,dog,emu}/N.png and other files among them."""
    for label, name in enumerate(('dog', 'cat', 'emu')):
        path = tmp_path / 'train' / name
        path.mkdir(parents=True)
        for i in (10, 2, 1):
            Image.new('RGB', (8, 8), (label, i, 0)).save(path / f'{i}.png')
    (tmp_path / 'train' / 'cat' / 'notes.txt').write_text('not an image')
    (tmp_path / 'train' / 'cat' / '._1.png').write_text('what some systems leave behind')
    (tmp_path / 'train' / '.thumbs').mkdir()
    for name in ('cat', 'dog'):
        (tmp_path / 'test' / name).mkdir(parents=True)
    return tmp_path


def test_digits_are_scikit_learns_in_a_fixed_stratified_split(data_dir):
    train, test = (data.open_split(split, OPTIONS) for split in ('train', 'test'))
    assert (len(train.examples), len(test.examples)) == (1442, 355)
    scans = load_digits()
    pixels = np.rint(scans.images * (255 / 16)).astype(np.uint8)
    known = {p.tobytes(): t for p, t in zip(pixels, scans.target, strict=True)}
    held_out = [test.examples[i] for i in range(355)]
    for example in held_out + [train.examples[i] for i in range(0, 1442, 50)]:
        image = decode.pixels(example, OPTIONS, 8)
        assert known[image.tobytes()] == example['label']
    counts = np.bincount([example['label'] for example in held_out])
    np.testing.assert_array_equal(counts, np.bincount(scans.target) // 5)


def test_digits_are_a_prepared_tfds_set_of_array_records(data_dir):
    data.open_split('train', OPTIONS)
    builder = tfds.builder_from_directory(os.path.join(data_dir, 'imgjax_digits', '1.0.0'))
    assert builder.info.file_format == tfds.core.FileFormat.ARRAY_RECORD


def test_any_prepared_tfds_set_is_read_by_its_name(data_dir):
    digits = data.open_split('train', OPTIONS)
    same = data.open_split('train', OPTIONS | {'name': 'imgjax_digits'})
    assert same.examples[7] == digits.examples[7]
    half = data.open_split('train[:50%]', OPTIONS)
    assert len(half.examples) == 721 and half.fingerprint != digits.fingerprint
    assert half.examples[7] == digits.examples[7]


def test_tfds_names_and_splits(data_dir):
    with pytest.raises(ConfigError, match="'cifr10' is neither.*did you mean 'cifar10'"):
        data.open_split('train', OPTIONS | {'name': 'cifr10'})
    with pytest.raises(DataError, match='cifar10 is not prepared here; prepare it with: python -m '
                       'launch.prepare --dataset=cifar10 --data_dir='):
        data.open_split('train', OPTIONS | {'name': 'cifar10'})
    with pytest.raises(ConfigError, match="no split 'tset'; it has test, train; did you"):
        data.open_split('tset', OPTIONS)
    with pytest.raises(ConfigError, match='is refused'):
        data.open_split('train', OPTIONS | {'name': '../evil'})


def test_a_set_without_random_access_is_named_with_its_conversion(data_dir, tmp_path):
    data.open_split('train', OPTIONS)
    shutil.copytree(os.path.join(data_dir, 'imgjax_digits'), tmp_path / 'imgjax_digits')
    path = tmp_path / 'imgjax_digits' / '1.0.0' / 'dataset_info.json'
    info = json.loads(path.read_text())
    info['fileFormat'] = 'tfrecord'
    path.write_text(json.dumps(info))
    with pytest.raises(DataError, match='convert_format'):
        data.open_split('train', OPTIONS | {'name': 'imgjax_digits', 'data_dir': str(tmp_path)})


def test_folder_is_listed_in_order(folder):
    source = data.open_split('train', folder_options(folder))
    assert source.class_names == ('cat', 'dog', 'emu')
    listed = [(e['name'][-10:], e['label']) for e in map(source.examples.__getitem__, range(9))]
    assert listed[:4] == [('/cat/1.png', 0), ('cat/10.png', 0), ('/cat/2.png', 0),
                          ('/dog/1.png', 1)]


def test_folder_fingerprint_follows_the_files(folder):
    first = data.open_split('train', folder_options(folder)).fingerprint
    assert data.open_split('train', folder_options(folder)).fingerprint == first
    os.rename(folder / 'train/cat/1.png', folder / 'train/cat/3.png')
    assert data.open_split('train', folder_options(folder)).fingerprint != first


def test_folder_errors_name_the_place_and_the_fix(folder, tmp_path):
    with pytest.raises(ConfigError, match='config.data.path: empty'):
        data.open_split('train', folder_options(''))
    with pytest.raises(ConfigError, match='no such folder'):
        data.open_split('train', folder_options(tmp_path / 'nothing'))
    with pytest.raises(ConfigError, match="no folder 'val' for that split; it has test, train"):
        data.open_split('val', folder_options(folder))
    for name in ('cat', 'emu'):
        shutil.rmtree(folder / 'train' / name)
    with pytest.raises(ConfigError, match=r"'folder' has 1 class \(dog\)"):
        data.open_split('train', folder_options(folder))
    (folder / 'train' / 'elk').mkdir()
    with pytest.raises(DataError, match='elk: no images in this class folder'):
        data.open_split('train', folder_options(folder))
    shutil.rmtree(folder / 'train')
    (folder / 'train').mkdir()
    with pytest.raises(DataError, match='train: no images; expected'):
        data.open_split('train', folder_options(folder))
