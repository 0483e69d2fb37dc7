import io
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
               train_crop='center', eval_crop_fraction=1.0)


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
    (tmp_path / 'train' / '.thumbs').mkdir()
    return tmp_path


def test_digits_are_scikit_learns_in_a_fixed_stratified_split(data_dir):
    train, test = (data.open_split(split, OPTIONS) for split in ('train', 'test'))
    assert (len(train.examples), len(test.examples)) == (1442, 355)
    scans = load_digits()
    pixels = np.rint(scans.images * (255 / 16)).astype(np.uint8)
    known = {p.tobytes(): t for p, t in zip(pixels, scans.target, strict=True)}
    held_out = [test.examples[i] for i in range(355)]
    for example in held_out + [train.examples[i] for i in range(0, 1442, 50)]:
        image = decode.as_array(decode.decode(example['image'], 1, ''))
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


def test_tfds_names_and_splits(data_dir):
    with pytest.raises(ConfigError, match="'cifr10' is neither.*did you mean 'cifar10'"):
        data.open_split('train', OPTIONS | {'name': 'cifr10'})
    with pytest.raises(DataError, match=r"cifar10 is not prepared here; prepare it with: python"):
        data.open_split('train', OPTIONS | {'name': 'cifar10'})
    with pytest.raises(ConfigError, match="no split 'tset'; it has test, train; did you"):
        data.open_split('tset', OPTIONS)
    with pytest.raises(ConfigError, match='takes letters a-z'):
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
    with pytest.raises(ConfigError, match="no folder 'val' for that split; it has train"):
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


def encoded(image: Image.Image, kind='PNG', **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


PIXELS = np.random.default_rng(0).integers(0, 255, (20, 30, 4), np.uint8)
RGB = Image.fromarray(PIXELS[..., :3])


@pytest.mark.parametrize('content, mode', [
    (encoded(RGB), 'RGB'),
    (encoded(RGB, 'JPEG'), 'RGB'),
    (encoded(RGB, 'WEBP'), 'RGB'),
    (encoded(RGB.convert('P')), 'P'),
    (encoded(RGB.convert('L')), 'L'),
    (encoded(RGB.convert('1')), '1'),
    (encoded(Image.fromarray(PIXELS)), 'RGBA'),
    (encoded(RGB.convert('LA')), 'LA'),
    (encoded(RGB.convert('CMYK'), 'JPEG'), 'CMYK'),
    (encoded(Image.fromarray(PIXELS[..., 0].astype(np.uint16) * 257)), 'I;16'),
    (encoded(Image.new('RGB', (1, 1), (9, 9, 9))), 'RGB'),
], ids=lambda value: value if isinstance(value, str) else '')
@pytest.mark.parametrize('channels', [1, 3])
def test_every_kind_is_converted(content, mode, channels):
    image = decode.decode(content, channels, 'x')
    array = decode.as_array(image)
    assert array.dtype == np.uint8 and array.shape[-1] == channels
    if mode == 'I;16':
        np.testing.assert_array_equal(array[..., 0], PIXELS[..., 0])
    assert decode.center_crop(image, 16, 0.875).shape == (16, 16, channels)
    rng = np.random.default_rng(1)
    assert decode.random_resized_crop(image, 16, rng).shape == (16, 16, channels)


JPEG = encoded(RGB.resize((200, 200)), 'JPEG')


@pytest.mark.parametrize('content', [
    JPEG[:len(JPEG) // 2], b'this is text', b'', encoded(RGB)[:60],
    encoded(Image.new('1', (9000, 9000))), bytes(decode.MAX_BYTES + 1),
    encoded(Image.new('L', (1, 30000))), b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n',
], ids=['cut jpeg', 'text', 'empty', 'cut png', 'bomb', 'large', 'narrow', 'postscript'])
def test_what_is_no_image_is_named(content):
    with pytest.raises(DataError, match='place/7.png: not a readable image .*; replace or remove'):
        decode.decode(content, 3, 'place/7.png')


def test_center_crop_is_pillows():
    photo = Image.fromarray(np.random.default_rng(2).integers(0, 255, (300, 400, 3), np.uint8))
    resized = photo.resize((341, 256), Image.Resampling.BICUBIC)
    expected = np.asarray(resized.crop((58, 16, 282, 240)))
    np.testing.assert_array_equal(decode.center_crop(photo, 224, 0.875), expected)
