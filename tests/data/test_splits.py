"""Which examples a split holds: folders, the share held out by hash, slices."""

import json
import logging
import shutil

import numpy as np
import pytest

from configs import base
from imgjax import build, data
from imgjax.config import Config
from imgjax.data import labels, splits
from imgjax.errors import ConfigError, DataError

COUNTS = {'ant': 40, 'bee': 7, 'cat': 2, 'dog': 1}


def options_of(path, name='folder', **more) -> dict:
    return base.get_config().data.to_dict() | dict(name=name, path=str(path),
                                                   eval_split='held_out') | more


def fill(path, counts=COUNTS):
    """Files that nothing here decodes."""
    for name, count in counts.items():
        (path / name).mkdir(parents=True, exist_ok=True)
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
    with pytest.raises(ConfigError, match='the split .held_out. of .* is empty; take another'):
        data.open_split('held_out', options_of(tmp_path, held_out=0))
    with pytest.raises(ConfigError, match='config.data.held_out: takes 0 to below 1, got 1'):
        data.open_split('train', options_of(tmp_path, held_out=1))


@pytest.mark.parametrize('share, counts', [(0.01, [1, 1, 0]), (0.5, [2, 1, 0]), (0.99, [3, 1, 0])])
def test_a_class_gives_at_least_one_image_and_keeps_at_least_one(share, counts):
    labels = np.repeat([0, 1, 2], [4, 2, 1])
    chosen = splits.held_out_share([str(i) for i in range(7)], labels, share)
    np.testing.assert_array_equal(np.bincount(labels[chosen], minlength=3), counts)
    matrix = np.eye(3, dtype=bool)[labels]  # several labels an image: the first counts
    np.testing.assert_array_equal(
        splits.held_out_share([str(i) for i in range(7)], matrix, share), chosen)


def test_which_classes_there_are_of_one_label_or_several():
    np.testing.assert_array_equal(labels.present(np.array([0, 2, 2]), 4), [1, 0, 1, 0])
    np.testing.assert_array_equal(
        labels.present(np.array([[0, 1, 0], [0, 1, 1]], bool), 3), [0, 1, 1])


def test_a_batch_over_several_parts_keeps_its_order(tmp_path):
    """The parts are of sources that read many examples at once."""
    rng = np.random.default_rng(0)
    images = {split: rng.integers(0, 255, (6, 4, 4, 3), np.uint8) for split in ('train', 'test')}
    np.savez(tmp_path / 'set.npz', **{f'{split}_images': one for split, one in images.items()},
             **{f'{split}_labels': np.arange(6) % 2 for split in images})
    source = data.open_split('train[2:]+test[:3]', options_of(tmp_path / 'set.npz', 'arrays'))
    expected = np.concatenate([images['train'][2:], images['test'][:3]])
    order = [6, 0, 4, 3, 5, 1]
    for index, example in zip(order, data.read(source, order), strict=True):
        np.testing.assert_array_equal(example['image'], expected[index])


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


def test_a_folder_of_images_that_no_split_reads_is_refused_or_named(tmp_path, caplog):
    fill(tmp_path / 'train')
    fill(tmp_path / 'sketches', {'ant': 2, 'bee': 2})
    with pytest.raises(ConfigError, match='no split reads .*sketches, and a share of train would'):
        data.open_split('train', options_of(tmp_path))
    options = options_of(tmp_path, eval_split='sketches')
    assert len(data.open_split('sketches', options).examples) == 4
    fill(tmp_path / 'val', {'ant': 1, 'bee': 1})
    source = data.open_split('train', options_of(tmp_path))
    assert len(source.examples) == 50, 'nothing is held out of it'
    assert source.left_out == {'folders that no split of this run reads': (1, 'sketches')}


def test_without_a_split_to_evaluate_nothing_is_said_of_others(tmp_path):
    fill(tmp_path / 'train')
    options = options_of(tmp_path)
    del options['eval_split']  # as of a copy
    left_out = data.open_split('train', options).left_out
    assert {kind: count for kind, (count, _) in left_out.items()} == {
        'images of the held-out share': 6}
    fill(tmp_path / 'val', {'ant': 1, 'bee': 1})
    fill(tmp_path / 'sketches', {'ant': 2, 'bee': 2})
    assert data.open_split('train', options).left_out == {}


@pytest.mark.parametrize('names', [('Training', 'Testing'), ('fold1', 'fold2'), ('a', 'b c')])
def test_any_folders_can_be_named_as_splits(names, tmp_path):
    for count, name in enumerate(names, 2):
        fill(tmp_path / name, {'ant': count, 'bee': 1})
    options = options_of(tmp_path, train_split=names[0], eval_split=names[1])
    for count, name in enumerate(names, 2):
        assert len(data.open_split(name, options).examples) == count + 1


@pytest.mark.parametrize('inner', ['', 'unknown'])
def test_of_an_unlabelled_test_folder_nothing_is_evaluated(inner, tmp_path, caplog):
    fill(tmp_path / 'train')
    fill(tmp_path / 'test', {inner: 5}) if inner else None
    (tmp_path / 'test').mkdir(exist_ok=True)
    (tmp_path / 'test' / '1.jpg').write_bytes(b'x')
    with caplog.at_level(logging.INFO, 'imgjax'):
        train, held_out = (data.open_split(split, options_of(tmp_path))
                           for split in ('train', 'held_out'))
    assert (len(train.examples), len(held_out.examples)) == (44, 6)
    assert 'left out: 1 folders that no split of this run reads (test)' in caplog.text
    assert 'a share of each class of train is held out, 6 of 50 images' in caplog.text
    with pytest.raises(DataError, match='test: its images lie in no class folder.*eval_split=held_'
                       'out, and classify these with launch.predict --images=.*/test'):
        data.open_split('test', options_of(tmp_path))


@pytest.mark.parametrize('folders, words', [
    (('seg_train/cat', 'seg_train/dog', 'seg_test/cat', 'seg_test/dog'), 'looks like a split'),
    (('set/train/cat', 'set/train/dog', 'set/val/cat'), 'the splits lie in .*set; name that one'),
    (('set/cat', 'set/dog'), 'has one class folder, set, which holds cat, dog; if these .*/set$'),
    (('cat/train', 'cat/test', 'dog/train'), 'the splits lie in .*cat; name that one'),
    (('train', 'test'), 'images of test, train lie in no class folders')])
def test_folders_of_splits_are_not_taken_for_classes(folders, words, tmp_path):
    for folder in folders:
        fill(tmp_path, {folder: 2})
    with pytest.raises((ConfigError, DataError), match=words) as caught:
        data.open_split('train', options_of(tmp_path))
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize('splits', [('val',), ('val', 'test')])
def test_splits_without_class_folders_are_one_line(splits, tmp_path):
    for split in splits:
        (tmp_path / split).mkdir()
    with pytest.raises(DataError, match='no split has class folders'):
        data.open_split('held_out', options_of(tmp_path))


def test_a_class_that_is_missing_in_a_split_is_no_class_there(tmp_path):
    fill(tmp_path / 'train', {'ant': 3, 'bee': 3, 'cat': 3})
    fill(tmp_path / 'val', {'ant': 2, 'bee': 0, 'cat': 1})
    options = options_of(tmp_path)
    assert data.open_split('val', options).class_names == ('ant', 'cat')
    train, val = build.open_dataset(Config({'data': options}))
    assert val.class_names == train.class_names and val.labels().tolist() == [0, 0, 2]


def test_train_can_be_a_class(tmp_path):
    fill(tmp_path, {'bus': 10, 'car': 10, 'train': 10})
    source = data.open_split('train', options_of(tmp_path))
    assert source.class_names == ('bus', 'car', 'train') and len(source.examples) == 27


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


@pytest.mark.parametrize('spec, said', [
    ('train[90%:]', 'train[90%:]: has no images of 2 of the 3 classes, such as ant, bee;'),
    ('train[:50%]', 'has no images of 1 of the 3 classes, such as cat;'),
    ('train[:50%]+test', ''), ('train[10%:]', '')])
def test_a_slice_that_lacks_classes_says_so(spec, said, tmp_path, caplog):
    fill(tmp_path / 'train', {'ant': 5, 'bee': 5, 'cat': 5})
    fill(tmp_path / 'test', {'ant': 1, 'bee': 1, 'cat': 1})
    data.open_split(spec, options_of(tmp_path))
    lines = [line for line in caplog.messages if 'in the order of its classes' in line]
    assert len(lines) == bool(said) and all(said in line for line in lines)


def test_slices_divide_files_not_rows(tmp_path):
    fill(tmp_path, {'a': 6})
    lines = [f'a/{i}.jpg,{"ab"[i % 2]}\n' for i in (0, 1, 2, 3, 4, 5, 0, 4)]
    (tmp_path / 'list.csv').write_text('file,label\n' + ''.join(lines))
    train, held_out = (data.open_split(split, options_of(
        tmp_path / 'list.csv', 'listing', eval_split='train[50%:]', held_out=0))
        for split in ('train[:50%]', 'train[50%:]'))
    assert names_in(train) == ['a/0.jpg', 'a/1.jpg', 'a/2.jpg', 'a/3.jpg', 'a/0.jpg']
    assert names_in(held_out) == ['a/4.jpg', 'a/5.jpg', 'a/4.jpg']


def test_a_slice_shares_no_file_with_another_split(tmp_path):
    fill(tmp_path / 'train', {'a': 4, 'b': 4})
    (tmp_path / 'val').symlink_to('train')
    with pytest.raises(DataError, match="4 files are in both 'train.:50%.' and 'val', first"):
        build.open_dataset(Config({'data': options_of(
            tmp_path, train_split='train[:50%]', eval_split='val')}))


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
