"""Smaller copies of any source."""

import io
import json
import os
import signal
import tarfile
import time

import numpy as np
import pytest
from PIL import Image

from configs import base
from imgjax import data
from imgjax.commands import reduce
from imgjax.data import jpeg
from imgjax.errors import ConfigError, DataError

OPTIONS = base.get_config().data.to_dict()
SETTINGS = dict(shorter_side=32, quality=90, shard_size=4)


def encoded(image, kind='JPEG', **more) -> bytes:
    file = io.BytesIO()
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    image.save(file, kind, **more)
    return file.getvalue()


def photo(seed: int, size=(60, 45), mode='RGB') -> Image.Image:
    """Something smooth, as JPEG of noise says little."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 255, (6, 8, 3), np.uint8))
    return small.resize(size, Image.Resampling.BICUBIC).convert(mode)


@pytest.fixture
def photos(tmp_path):
    """PATH/{train,test}/{a,b}/N.png: 10 of train, 4 of test."""
    sizes = [(60, 45), (45, 60), (20, 16), (64, 32), (33, 100)]
    for split, count in (('train', 5), ('test', 2)):
        for c, name in enumerate('ab'):
            (tmp_path / 'photos' / split / name).mkdir(parents=True)
            for i in range(count):
                mode = 'L' if i == 1 else 'RGB'
                photo(10 * c + i, sizes[i], mode).save(
                    tmp_path / 'photos' / split / name / f'{i}.png')
    return tmp_path / 'photos'


def options_of(path, name='folder', **more) -> dict:
    return OPTIONS | dict(name=name, path=str(path), **more)


def bytes_of(path) -> dict:
    return {p.name: p.read_bytes() for p in sorted(path.iterdir()) if p.is_file()}


def image_of(example: dict) -> Image.Image:
    return Image.open(io.BytesIO(example['image']))


def test_a_copy_has_the_same_images_smaller(photos, tmp_path):
    result = reduce.write(
        options_of(photos), str(tmp_path / 'out'), ['train', 'test'], **SETTINGS)
    assert result == {'output': str(tmp_path / 'out'), 'splits': {'train': 10, 'test': 4},
                      'classes': 2, 'unreadable': 0}
    for split in ('train', 'test'):
        before = data.open_split(split, options_of(photos))
        after = data.open_split(split, options_of(tmp_path / 'out', 'tar'))
        assert after.class_names == before.class_names
        np.testing.assert_array_equal(after.labels(), before.labels())
        for i in range(len(before.examples)):
            a, b = image_of(before.examples[i]), image_of(after.examples[i])
            assert b.format == ('JPEG' if min(a.size) > 32 else a.format) and b.mode == a.mode
            assert min(b.size) == min(32, min(a.size)), 'never enlarged'
            assert abs(b.size[0] / b.size[1] - a.size[0] / a.size[1]) < 0.05
            wanted = a.resize(b.size, Image.Resampling.BICUBIC).convert('L')
            difference = np.asarray(b.convert('L'), np.float32) - np.asarray(wanted, np.float32)
            assert np.abs(difference).mean() < 4


def test_neither_workers_nor_a_cut_change_a_byte(photos, tmp_path, monkeypatch):
    reduce.write(
        options_of(photos), str(tmp_path / 'a'), ['train', 'test'], workers=1, **SETTINGS)
    reduce.write(
        options_of(photos), str(tmp_path / 'b'), ['train', 'test'], workers=7, **SETTINGS)
    whole = bytes_of(tmp_path / 'a')
    whole.pop('lock')
    assert {k: v for k, v in bytes_of(tmp_path / 'b').items() if k != 'lock'} == whole
    assert 'train-00002-of-00003.tar' in whole and 'test-00000-of-00001.tar' in whole

    class Full(OSError):
        pass

    def fail(source, row, *rest):
        if row == 6:
            raise Full(28, 'No space left on device')
        return real(source, row, *rest)

    real = reduce._reduced
    monkeypatch.setattr(reduce, '_reduced', fail)
    with pytest.raises(Full):
        reduce.write(options_of(photos), str(tmp_path / 'c'), ['train', 'test'], **SETTINGS)
    first = tmp_path / 'c' / 'train-00000-of-00003.tar'
    assert first.exists() and not (tmp_path / 'c' / 'train-00001-of-00003.tar').exists()
    before = first.stat().st_mtime_ns
    monkeypatch.setattr(reduce, '_reduced', real)
    reduce.write(options_of(photos), str(tmp_path / 'c'), ['train', 'test'], **SETTINGS)
    assert first.stat().st_mtime_ns == before, 'what is whole is kept'
    assert {k: v for k, v in bytes_of(tmp_path / 'c').items() if k != 'lock'} == whole


def test_a_killed_copy_goes_on(launch, tmp_path):
    """By signal 9, in the middle: the same command ends with the bytes of one that was let be."""
    made_up = {'examples': 240, 'height': 400, 'width': 400, 'classes': 2}

    def start():
        return launch('prepare', '--source=synthetic', f'--output={tmp_path}/killed',
                      '--shorter_side=300', f'--options={json.dumps(made_up)}',
                      '--splits=train,held_out', '--shard_size=40', '--workers=2')

    process = start()
    while not (tmp_path / 'killed' / 'train-00001-of-00006.tar').exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / 'killed' / 'train-00005-of-00006.tar').exists(), 'killed too late'
    out, err = start().communicate(timeout=100)
    result = json.loads(out.strip().splitlines()[-1])
    assert result['splits'] == {'train': 240, 'held_out': 24}, err
    reduce.write(options_of('', 'synthetic') | {'options': made_up}, str(tmp_path / 'let_be'),
                 ['train', 'held_out'], shorter_side=300, quality=90, shard_size=40)
    whole, resumed = bytes_of(tmp_path / 'let_be'), bytes_of(tmp_path / 'killed')
    assert resumed.keys() == whole.keys()
    assert all(resumed[name] == content for name, content in whole.items() if name != 'lock')


def test_what_cannot_be_read_is_left_out_and_listed(photos, tmp_path):
    (photos / 'train' / 'a' / '3.png').write_bytes(b'no image')
    (photos / 'train' / 'b' / '1.png').write_bytes(b'')
    for _ in range(2):  # and again, where all files are there
        result = reduce.write(options_of(photos), str(tmp_path / 'out'), ['train'], **SETTINGS)
        assert (result['splits'], result['unreadable']) == ({'train': 8}, 2)
        lines = (tmp_path / 'out' / 'unreadable.txt').read_text().splitlines()
        assert [line.split(': ')[0] for line in lines] == [
            f'{photos}/train/a/3.png', f'{photos}/train/b/1.png']
    source = data.open_split('train', options_of(tmp_path / 'out', 'tar', eval_split='train'))
    assert source.labels().tolist() == [0] * 4 + [1] * 4


def test_a_class_that_a_split_lacks_keeps_its_number(photos, tmp_path):
    (photos / 'train' / '0').mkdir()
    photo(9).save(photos / 'train' / '0' / '1.png')
    options = options_of(photos)
    reduce.write(options, str(tmp_path / 'out'), ['test', 'train'], **SETTINGS)
    copy = data.open_split('test', options_of(tmp_path / 'out', 'tar'))
    assert copy.class_names == ('0', 'a', 'b') and set(copy.labels().tolist()) == {1, 2}


def test_a_set_without_one_readable_image(photos, tmp_path):
    for path in (photos / 'test').rglob('*.png'):
        path.write_bytes(b'no image')
    with pytest.raises(DataError, match="not one image of 'test' could be read; see .*unreadable"):
        reduce.write(options_of(photos), str(tmp_path / 'out'), ['test'], **SETTINGS)


def test_several_labels_and_slices_are_copied(tmp_path):
    rows = ['file,label,split']
    for i in range(6):
        photo(i).save(tmp_path / f'{i}.png')
        rows.append(f'{i}.png,{"cat|dog" if i % 2 else "emu"},train')
    photo(6).save(tmp_path / '6.png')
    (tmp_path / 'list.csv').write_text('\n'.join(rows + ['6.png,emu,test']))
    options = options_of(tmp_path / 'list.csv', 'listing')
    reduce.write(options, str(tmp_path / 'out'), ['train=train[:4]', 'rest=train[4:]+test'],
                 **SETTINGS)
    for name, spec in (('train', 'train[:4]'), ('rest', 'train[4:]+test')):
        copy = data.open_split(name, options_of(tmp_path / 'out', 'tar', eval_split='rest'))
        before = data.open_split(spec, options)
        assert copy.class_names == ('cat', 'dog', 'emu') and copy.multi_label
        np.testing.assert_array_equal(copy.labels(), before.labels())


def test_a_copy_of_train_alone_says_what_is_held_out(tmp_path, caplog):
    np.savez(tmp_path / 'set.npz', images=np.zeros((20, 4, 4), np.uint8), labels=[0, 1] * 10)
    options = options_of(tmp_path / 'set.npz', 'arrays')
    del options['eval_split']
    for specs, counts, said in ((['train'], {'train': 18}, True),
                                (['train', 'held_out'], {'train': 18, 'held_out': 2}, False)):
        caplog.clear()
        out = tmp_path / str(len(specs))
        assert reduce.write(options, str(out), specs, **SETTINGS)['splits'] == counts
        assert any('left out: 2 images of the held-out share (' in line
                   for line in caplog.messages) is said


@pytest.mark.parametrize('specs, said', [
    (['train', 'val', 'test'], False), (['train', 'val'], True), (['train'], False)])
def test_splits_that_are_copied_too_are_not_said_to_be_left_out(specs, said, tmp_path, caplog):
    np.savez(tmp_path / 'set.npz', **{
        f'{split}_{kind}': value for split in ('train', 'val', 'test') for kind, value in (
            ('images', np.zeros((4, 4, 4), np.uint8)), ('labels', [0, 1] * 2))})
    options = options_of(tmp_path / 'set.npz', 'arrays')
    del options['eval_split']
    reduce.write(options, str(tmp_path / 'out'), specs, **SETTINGS)
    assert any('1 splits that this run does not read (test)' in line
               for line in caplog.messages) is said


def test_another_copy_in_its_place_is_refused(photos, tmp_path, monkeypatch):
    out = str(tmp_path / 'out')
    reduce.write(options_of(photos), out, ['train'], **SETTINGS)
    reduce.write(options_of(photos), out, ['test'], **SETTINGS)  # one more split may come
    with pytest.raises(ConfigError, match='holds a copy made with {"shorter_side": 32'):
        reduce.write(options_of(photos), out, ['test'], **SETTINGS | {'quality': 80})
    os.remove(photos / 'train' / 'a' / '0.png')
    with pytest.raises(ConfigError, match="its 'train' was made of other images"):
        reduce.write(options_of(photos), out, ['train'], **SETTINGS)
    before = sorted(photos.rglob('*'))
    for output, words in (
            (photos, "holds 'test', which launch.prepare did not write there"),
            (photos / 'small', 'lies in the source, --path=.*; take a folder outside')):
        with pytest.raises(ConfigError, match=words):
            reduce.write(options_of(photos), f'{output}/', ['train'], **SETTINGS)
    with monkeypatch.context() as later, pytest.raises(ZeroDivisionError):
        later.setattr(reduce, '_begin', lambda *_: 1 / 0)
        reduce.write(options_of(photos), f'{tmp_path}/new/out', ['train'], **SETTINGS)
    assert sorted(photos.rglob('*')) == before and not (tmp_path / 'new').exists()
    with pytest.raises(ConfigError, match="--splits: takes names .* got 'train\\[:3\\]'"):
        reduce.write(options_of(photos), out, ['train[:3]'], **SETTINGS)




def reduced(image, *settings) -> tuple[bytes, str]:
    return reduce.reduce({'image': image, 'name': 'x'}, OPTIONS, *settings)


def test_reduced_images_are_small_jpegs():
    picture = photo(0, (400, 300))
    small, extension = reduced(encoded(picture, 'PNG'), 150, 90)
    assert extension == '.jpg'
    with Image.open(io.BytesIO(small)) as image:
        assert image.size == (200, 150) and image.layer[1][1:3] == (1, 1)
        assert image.layer[0][1:3] == (2, 2), 'chroma 4:2:0'
    # 13 blocks of 16 pixels a row, which no number but 13 divides: whole rows.
    assert jpeg.read_frame(small).tile == (208, 16), 'a crop is decoded without what surrounds it'
    assert reduced(np.asarray(picture), 150, 90) == (small, '.jpg')
    assert len(reduced(encoded(picture), 150, 50)[0]) < len(small)
    with pytest.raises(DataError, match='x: not a readable image'):
        reduced(b'no image', 150, 90)


@pytest.mark.parametrize('kind, extension', [
    ('PNG', '.png'), ('JPEG', '.jpg'), ('WEBP', '.webp'), ('BMP', '.bmp'),
    ('MPO', '.jpg'), ('AVIF', '.avif'), ('PPM', '.ppm')])
def test_what_is_small_enough_keeps_its_bytes(kind, extension):
    original = encoded(photo(0, (40, 30)), kind)
    assert reduced(original, 150, 90) == reduced(original, 0, 90) == (original, extension)
    with pytest.raises(DataError, match='x: not a readable image'):
        reduced(original[:-len(original) // 3], 150, 90)


def test_an_array_becomes_a_png_and_a_turned_photo_stays_so():
    pixels = np.asarray(photo(0, (40, 30)))
    content, extension = reduced(pixels, 0, 90)
    assert extension == '.png'
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(content))), pixels)
    exif = Image.Exif()
    exif[0x0112] = 6
    content, _ = reduced(encoded(photo(0, (400, 300)), exif=exif), 150, 90)
    with Image.open(io.BytesIO(content)) as image:
        assert image.size == (200, 150) and image.getexif()[0x0112] == 6


def test_a_copy_is_an_ordinary_webdataset(photos, tmp_path):
    reduce.write(options_of(photos), str(tmp_path / 'out'), ['test'], **SETTINGS)
    with tarfile.open(tmp_path / 'out' / 'test-00000-of-00001.tar') as tar:
        assert tar.getnames()[:2] == ['00000000.jpg', '00000000.cls']
        assert tar.extractfile('00000003.cls').read() == b'1'
    assert (tmp_path / 'out' / 'classnames.txt').read_text() == 'a\nb\n'
