"""Which files a split lies in, and whether all of them are there."""

import pytest

from imgjax.data import shards
from imgjax.errors import ConfigError, DataError


def make(path, names):
    for name in names.split():
        file = path / f'{name}.tar'
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    return str(path)


def found(path, names):
    splits = shards.files(make(path, names), '.tar')
    return {split: ' '.join(file.removeprefix(f'{path}/').removesuffix('.tar') for file in files)
            for split, files in splits.items()}


@pytest.mark.parametrize('names, splits', [
    ('train-000 train-001 val-000', {'train': 'train-000 train-001', 'val': 'val-000'}),
    ('train test', {'train': 'train', 'test': 'test'}),
    ('train_0 train_1 val.00', {'train': 'train_0 train_1', 'val': 'val.00'}),
    ('train-00000-of-00002 train-00001-of-00002 val-00000-of-00001-0123456789abcdef',
     {'train': 'train-00000-of-00002 train-00001-of-00002',
      'val': 'val-00000-of-00001-0123456789abcdef'}),
    ('train-000 train-extra-000 val-000 val-corrupted-000 val-corrupted-001',
     {'train': 'train-000', 'train-extra': 'train-extra-000', 'val': 'val-000',
      'val-corrupted': 'val-corrupted-000 val-corrupted-001'}),
    ('imagenet1k-train-0000 imagenet1k-validation-00',
     {'train': 'imagenet1k-train-0000', 'validation': 'imagenet1k-validation-00'}),
    ('my-set-train-000', {'train': 'my-set-train-000'}),
    ('train-shard-00 train-shard-01 val_part_0',
     {'train': 'train-shard-00 train-shard-01', 'val': 'val_part_0'}),
    ('shard-0 shard-1', {'train': 'shard-0 shard-1'}),
    ('clean-train-0 noisy-train-0',
     {'clean-train': 'clean-train-0', 'noisy-train': 'noisy-train-0'}),
    ('00000 00001', {'train': '00000 00001'}),
    ('train/00000 train/00001 val/x-0 val/y-0',
     {'train': 'train/00000 train/00001', 'val': 'val/x-0 val/y-0'}),
    ('val/val-000 val/val-corrupted-000',
     {'val': 'val/val-000', 'val-corrupted': 'val/val-corrupted-000'}),
    ('data/train-000 data/test-000', {'train': 'data/train-000', 'test': 'data/test-000'}),
    ('plain/train-000 plain/test-000',
     {'plain-train': 'plain/train-000', 'plain-test': 'plain/test-000'}),
    ('.train-000 .imgjax/train-000', {}),
])
def test_the_split_is_what_stands_before_the_number(names, splits, tmp_path):
    assert found(tmp_path, names) == splits


@pytest.mark.parametrize('names, words', [
    ('train-0-of-4 train-1-of-4 train-3-of-4',
     r'train-2-of-4.tar: is missing \(3 of 4 files are there\); download'),
    ('train-0000-of-0003-0123abcd',
     r'train-0001-of-0003\*.tar: is missing, and 1 more \(1 of 3 files'),
    ('train-1-of-3 train-3-of-3', 'train-2-of-3.tar: is missing'),
    ('train/a-0-of-2 train/b-0-of-1', 'a-1-of-2.tar: is missing'),
    ('train-0-of-2-ab train-0-of-2-cd train-1-of-2-ab', 'ab.tar|cd.tar: the number 0 is there twi'),
    ('train-0-of-2 train-1-of-2 train-0-of-1', 'train-0-of-1.tar: of another set of files than .*'
     'train-0-of-2.tar'),
    ('train-0-of-1 train-1', 'train-0-of-1.tar: of another set of files than .*train-1.tar'),
    ('train-0-of-2 train-1-of-2 train-5-of-2', 'train-5-of-2.tar: its number is beyond 2'),
    ('train-0 train/0', "the split 'train' lies there and in .*train; keep one"),
])
def test_a_set_that_is_not_whole_is_refused(names, words, tmp_path):
    with pytest.raises(DataError, match=words):
        shards.check('train', shards.files(make(tmp_path, names), '.tar')['train'])


@pytest.mark.parametrize('names, warned', [
    ('train-000 train-001', False), ('train-001 train-002', False), ('train', False),
    ('train-1-of-2 train-2-of-2', False), ('train-000 train-001 train-003', True)])
def test_a_gap_in_the_numbers_is_warned_of(names, warned, tmp_path, caplog):
    shards.check('train', shards.files(make(tmp_path, names), '.tar')['train'])
    assert [f'{tmp_path}/train-002.tar: is not there, 1 of' in r.getMessage()
            for r in caplog.records] == [True] * warned


def test_a_path_that_is_no_folder_of_such_files(tmp_path):
    make(tmp_path, 'train')
    with pytest.raises(ConfigError, match=f'is a file; name the folder that holds .*: {tmp_path}$'):
        shards.files(str(tmp_path / 'train.tar'), '.tar')
    (tmp_path / 'train.tar').rename(tmp_path / 'train.tar.gz')
    with pytest.raises(ConfigError, match='train.tar.gz: is compressed, .*; unpack the files'):
        shards.files(str(tmp_path), '.tar')


@pytest.mark.parametrize('packed', [
    'train-001.tar.gz', 'set-train-003.tgz', 'val-000.tgz', 'VAL.TAR.ZST'])
def test_no_file_of_a_split_is_left_compressed(packed, tmp_path):
    make(tmp_path, 'train-000 extra')
    (tmp_path / 'train-002.TAR').touch()
    for beside in ('train-000.tar.gz', 'train.tar.gz', 'img_train.tgz', 'annotations.tar.gz'):
        (tmp_path / beside).touch()
    assert len(shards.files(str(tmp_path), '.tar')['train']) == 2, 'of any case'
    (tmp_path / packed).touch()
    with pytest.raises(ConfigError, match=f'{packed}: is compressed, .*; unpack the files'):
        shards.files(str(tmp_path), '.tar')
