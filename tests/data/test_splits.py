"""Which examples a split holds: folders, the share held out by hash, slices."""

import json
import shutil

import numpy as np
import pytest

from configs import base
from imgjax import data
from imgjax.data import splits
from imgjax.errors import ConfigError, DataError

COUNTS = {'ant': 40, 'bee': 7, 'cat': 2, 'dog': 1}


def options_of(path, name='folder', **more) -> dict:
    return base.get_config().data.to_dict() | dict(name=name, path=str(path), **more)


def fill(path, counts=COUNTS):
    """Files that nothing here decodes."""
    for name, count in counts.items():
        (path / name).mkdir(parents=True)
        for i in range(count):
            (path / name / f'{i}.jpg').write_bytes(bytes(10 + i))


def names_in(source) -> list[str]:
    return ['/'.join(e['name'].split('/')[-2:])
            for e in map(source.examples.__getitem__, range(len(source.examples)))]


@pytest.mark.parametrize('inner', ['', 'train'])
@pytest.mark.parametrize('word', ['held_out', 'test', 'val', 'validation'])
def test_without_a_second_folder_a_share_of_each_class_is_held_out(inner, word, tmp_path):
    fill(tmp_path / 'set' / inner)
    train = data.open_split('train', options_of(tmp_path / 'set'))
    held_out = data.open_split(word, options_of(tmp_path / 'set'))
    assert train.class_names == held_out.class_names == tuple(COUNTS)
    np.testing.assert_array_equal(np.bincount(held_out.labels()), [4, 1, 1])
    together = names_in(train) + names_in(held_out)
    assert len(together) == 50 and len(set(together)) == 50
    # A copy elsewhere is divided the same; the seed of a run has no say in it.
    shutil.copytree(tmp_path / 'set' / inner, tmp_path / 'copy')
    assert names_in(data.open_split(word, options_of(tmp_path / 'copy'))) == names_in(held_out)


def test_the_share_is_an_option(tmp_path):
    fill(tmp_path)
    half = data.open_split('held_out', options_of(tmp_path, held_out=0.5))
    np.testing.assert_array_equal(np.bincount(half.labels()), [20, 4, 1])
    tenth = data.open_split('held_out', options_of(tmp_path))
    assert set(names_in(tenth)) < set(names_in(half)), 'a larger share adds to a smaller one'
    assert half.fingerprint != tenth.fingerprint
    assert len(data.open_split('train', options_of(tmp_path, held_out=0)).examples) == 50
    with pytest.raises(ConfigError, match='the split .held_out. of .folder. is empty'):
        data.open_split('held_out', options_of(tmp_path, held_out=0))
    with pytest.raises(ConfigError, match='config.data.held_out: takes 0 to below 1, got 1'):
        data.open_split('train', options_of(tmp_path, held_out=1))


@pytest.mark.parametrize('folders, chosen', [
    (('train', 'test'), 'test'), (('train', 'test', 'val'), 'val'), (('train', 'dev'), 'dev'),
    (('train', 'validation', 'test'), 'validation'), (('train', 'held_out', 'val'), 'held_out')])
def test_held_out_is_the_first_folder_there_is(folders, chosen, tmp_path):
    for i, name in enumerate(folders):
        fill(tmp_path / name, {'ant': 3 + i, 'bee': 2})
    options = options_of(tmp_path)
    assert len(data.open_split('train', options).examples) == 5, 'all of it'
    held_out = data.open_split('held_out', options)
    assert held_out.fingerprint == data.open_split(chosen, options).fingerprint


def test_a_folder_that_is_no_held_out_split_takes_nothing_from_the_rule(tmp_path):
    fill(tmp_path / 'train')
    fill(tmp_path / 'sketches', {'ant': 2, 'bee': 2})
    options = options_of(tmp_path)
    assert len(data.open_split('sketches', options).examples) == 4
    assert (len(data.open_split('train', options).examples)
            + len(data.open_split('test', options).examples)) == 50


def test_train_can_be_a_class(tmp_path):
    fill(tmp_path, {'bus': 10, 'car': 10, 'train': 10})
    source = data.open_split('train', options_of(tmp_path))
    assert source.class_names == ('bus', 'car', 'train') and len(source.examples) == 27


def test_images_beside_the_class_folders_are_not_classes(tmp_path):
    """The validation images of ImageNet come like this."""
    fill(tmp_path / 'train')
    (tmp_path / 'val').mkdir()
    (tmp_path / 'val' / '1.jpg').write_bytes(b'x')
    with pytest.raises(DataError, match='val: no images; expected .*<class>/<name>.jpg'):
        data.open_split('val', options_of(tmp_path))


@pytest.mark.parametrize('kind', ['csv', 'json'])
def test_a_listing_without_splits_is_divided_like_the_folder(kind, tmp_path):
    fill(tmp_path)
    rows = [(f'{name}/{i}.jpg', name) for name, count in COUNTS.items() for i in range(count)]
    path = tmp_path / f'list.{kind}'
    path.write_text(
        json.dumps([{'file': file, 'label': label} for file, label in rows]) if kind == 'json'
        else '\n'.join(['file,label', *map(','.join, rows)]))
    for split in ('train', 'held_out'):
        folder = data.open_split(split, options_of(tmp_path))
        listing = data.open_split(split, options_of(path, 'listing'))
        assert sorted(names_in(listing)) == sorted(names_in(folder))
        assert listing.class_names == folder.class_names


def test_listed_numbers_are_in_the_order_of_numbers(tmp_path):
    fill(tmp_path, {'a': 3})
    (tmp_path / 'list.csv').write_text('file,label\na/0.jpg,10\na/1.jpg,9\na/2.jpg,2\n')
    source = data.open_split('train', options_of(tmp_path / 'list.csv', 'listing', held_out=0))
    assert source.class_names == ('2', '9', '10')
    assert source.labels().tolist() == [2, 1, 0]


def test_of_several_labels_the_first_divides(tmp_path):
    labels = np.zeros((60, 3), bool)
    labels[:40, 0] = labels[20:, 2] = True
    held_out = splits.held_out_share([str(i) for i in range(60)], labels, 0.1)
    assert (held_out[:40].sum(), held_out[40:].sum()) == (4, 2)


SYNTHETIC = options_of('', 'synthetic', options=dict(examples=1000, height=2, width=2))


@pytest.mark.parametrize('spec, wanted', [
    ('train[:90%]', range(900)), ('train[90%:]', range(900, 1000)),
    ('train[100:200]', range(100, 200)), ('train[-10:]', range(990, 1000)),
    ('train[:5]+train[995:]', [*range(5), *range(995, 1000)]),
    ('train[12.5%:13%]', range(125, 130)),
])
def test_slices_are_of_the_index(spec, wanted):
    whole = data.open_split('train', SYNTHETIC)
    source = data.open_split(spec, SYNTHETIC)
    assert len(source.examples) == len(wanted)
    assert [e['name'] for e in data.read(source, range(len(wanted)))] == [
        f'synthetic/train[{i}]' for i in wanted]
    np.testing.assert_array_equal(source.labels(), whole.labels()[list(wanted)])
    assert source.fingerprint != whole.fingerprint
    assert source.fingerprint == data.open_split(spec, SYNTHETIC).fingerprint


@pytest.mark.parametrize('spec, words', [
    ('train[:90%', 'Unrecognized split format'), ('train[:2000]', 'incompatible with 1000 exam'),
    ('train[:3shard]', 'shards are of the files'), ('tran[:10]', "no split 'tran'; .*mean 'train'"),
    ('train[5:5]', 'is empty'), ('train+', "no split ''"),
])
def test_slices_that_cannot_be(spec, words):
    with pytest.raises(ConfigError, match=words) as caught:
        data.open_split(spec, SYNTHETIC)
    assert '\n' not in str(caught.value)


def test_splits_of_other_classes_are_not_added_up(tmp_path):
    fill(tmp_path / 'train', {'a': 2, 'b': 2})
    fill(tmp_path / 'test', {'a': 2, 'c': 2})
    with pytest.raises(DataError, match="test: has 2 images of 1 other classes .* first 'c'"):
        data.open_split('train+test', options_of(tmp_path))
