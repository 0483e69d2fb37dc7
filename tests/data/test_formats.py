"""Every source reads the same images alike: index to pixels and label, in whatever they lie."""

import concurrent.futures
import csv
import io
import json
import os
import pathlib
import pickle
import shutil
import tarfile
import zipfile

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from configs import base
from imgjax import build, data
from imgjax.data.sources import arrays
from imgjax.errors import ConfigError, DataError
from imgjax.samplers import class_balanced
from tests import real

ROOT = pathlib.Path(__file__).parent.parent.parent
CLASSES = ('ant', 'bee', 'cat')


def options_of(name, path='', **options) -> dict:
    return base.get_config().data.to_dict() | dict(
        name=name, path=str(path), data_dir=str(path), options=options)


def pixels(example: dict) -> np.ndarray:
    image = example['image']
    return image if isinstance(image, np.ndarray) else np.asarray(
        Image.open(io.BytesIO(image)).convert('RGB'))


# Writers: (folder, {split: [(name, encoded bytes, label or labels)]}, class names) -> options.

def write_folder(path, splits, names):
    for split, rows in splits.items():
        for name in names:
            (path / split / name).mkdir(parents=True)
        for name, encoded, label in rows:
            (path / split / names[label] / name).write_bytes(encoded)
    return options_of('folder', path)


def _write_files(path, splits):
    for split, rows in splits.items():
        (path / split).mkdir(parents=True)
        for name, encoded, _ in rows:
            (path / split / name).write_bytes(encoded)


def _names_of(label, names) -> list[str]:
    return [names[i] for i in (label if isinstance(label, list) else [label])]


def write_csv(path, splits, names):
    _write_files(path, splits)
    with open(path / 'list.csv', 'w', newline='', encoding='utf-8') as file:
        rows = csv.writer(file)
        rows.writerow(['file', 'label', 'split'])
        for split, examples in splits.items():
            for name, _, label in examples:
                rows.writerow([f'{split}/{name}', '|'.join(_names_of(label, names)), split])
    return options_of('listing', path / 'list.csv')


def write_json(path, splits, names):
    _write_files(path, splits)
    (path / 'list.json').write_text(json.dumps([
        {'file': f'{split}/{name}', 'split': split,
         'label': _names_of(label, names) if isinstance(label, list) else names[label]}
        for split, rows in splits.items() for name, _, label in rows]))
    return options_of('listing', path / 'list.json')


def write_tar(path, splits, names, shard_size=5):
    path.mkdir(parents=True)
    (path / 'classnames.txt').write_text(''.join(f'{name}\n' for name in names))
    for split, rows in splits.items():
        for first in range(0, len(rows), shard_size):
            with tarfile.open(path / f'{split}-{first // shard_size:04d}.tar', 'w') as tar:
                for name, encoded, label in rows[first:first + shard_size]:
                    extension = 'json' if isinstance(label, list) else 'cls'
                    text = json.dumps({'label': label}) if extension == 'json' else str(label)
                    for member, content in ((name, encoded), (f'{name.split(".")[0]}.{extension}',
                                                              text.encode())):
                        info = tarfile.TarInfo(member)
                        info.size = len(content)
                        tar.addfile(info, io.BytesIO(content))
    return options_of('tar', path)


def write_parquet(path, splits, names, label_type='number'):
    pa = pytest.importorskip('pyarrow')
    import pyarrow.parquet as pq
    (path / 'data').mkdir(parents=True)
    for split, rows in splits.items():
        several = isinstance(rows[0][2], list)
        feature = {'names': list(names), '_type': 'ClassLabel'}
        features = {'image': {'_type': 'Image'}, 'label': [feature] if several else feature}
        labels = [row[2] for row in rows]
        if label_type == 'text':
            labels = [names[label] for label in labels]
        table = pa.table({
            'image': pa.array([{'bytes': encoded, 'path': name} for name, encoded, _ in rows],
                              pa.struct([('bytes', pa.binary()), ('path', pa.string())])),
            'label': pa.array(labels)})
        if label_type == 'number':
            table = table.replace_schema_metadata(
                {'huggingface': json.dumps({'info': {'features': features}})})
        half = len(rows) // 2
        for shard, part in enumerate((table.slice(0, half), table.slice(half))):
            pq.write_table(part, path / 'data' / f'{split}-{shard:05d}-of-00002.parquet',
                           row_group_size=3)
    return options_of('parquet', path)


def write_parquet_text(path, splits, names):
    return write_parquet(path, splits, names, 'text')


def write_huggingface(path, splits, names):
    hub = pytest.importorskip('datasets')
    every = {}
    for split, rows in splits.items():
        label = hub.ClassLabel(names=list(names))
        label = hub.Sequence(label) if isinstance(rows[0][2], list) else label
        every[split] = hub.Dataset.from_dict(
            {'image': [{'bytes': encoded, 'path': name} for name, encoded, _ in rows],
             'label': [row[2] for row in rows]},
            features=hub.Features({'image': hub.Image(), 'label': label}))
    hub.disable_progress_bars()
    hub.DatasetDict(every).save_to_disk(str(path))
    return options_of('huggingface', path)


def write_npz(path, splits, names):
    path.mkdir(parents=True)
    stored = {'class_names': np.array(names)}
    for split, rows in splits.items():
        stored[f'{split}_images'] = np.stack([
            np.asarray(Image.open(io.BytesIO(encoded)).convert('RGB')) for _, encoded, _ in rows])
        labels = [row[2] for row in rows]
        if isinstance(labels[0], list):
            labels = [[i in one for i in range(len(names))] for one in labels]
        stored[f'{split}_labels'] = np.array(labels, np.uint8)
    np.savez_compressed(path / 'set.npz', **stored)
    return options_of('arrays', path / 'set.npz')


# Read without its code, as a set that someone else prepared is.
with tfds.core.registered.skip_registration():
    class ImgjaxFormats(tfds.core.GeneratorBasedBuilder):
        """What a test gives it, in that order."""

        VERSION = tfds.core.Version('1.0.0')

        def __init__(self, *, splits=None, names=(), **more):
            self._given = splits
            self._names = list(names)
            super().__init__(**more)

        def _info(self):
            label = tfds.features.ClassLabel(names=self._names)
            several = self._given and isinstance(next(iter(self._given.values()))[0][2], list)
            labels = {'labels': tfds.features.Sequence(label)} if several else {'label': label}
            return tfds.core.DatasetInfo(
                builder=self, description='x', disable_shuffling=True,
                features=tfds.features.FeaturesDict({'image': tfds.features.Image(), **labels}))

        def _split_generators(self, dl_manager):
            return {split: self._generate_examples(rows) for split, rows in self._given.items()}

        def _generate_examples(self, rows):
            for row, (_, encoded, label) in enumerate(rows):
                field = 'labels' if isinstance(label, list) else 'label'
                yield row, {'image': encoded, field: label}


def write_tfds(path, splits, names):
    tfds.disable_progress_bar()
    builder = ImgjaxFormats(splits=splits, names=names, data_dir=str(path),
                            file_format='array_record')
    builder.download_and_prepare()
    return options_of('imgjax_formats', path)


WRITERS = (write_folder, write_csv, write_json, write_tar, write_parquet, write_parquet_text,
           write_huggingface, write_npz, write_tfds)
MULTI_LABEL = [w for w in WRITERS if w not in (write_folder, write_parquet_text)]


def encoded(seed: int) -> bytes:
    file = io.BytesIO()
    rng = np.random.default_rng(seed)
    Image.fromarray(rng.integers(0, 255, (6, 8, 3), np.uint8)).save(file, 'PNG')
    return file.getvalue()


def images(count: int, first: int = 0) -> list[tuple]:
    """Returns `count` examples, sorted by class as folders are."""
    labels = sorted(i % 3 for i in range(count))
    return [(f'{i:03d}.png', encoded(first + i), label) for i, label in enumerate(labels)]


SPLITS = {'train': images(12), 'test': images(7, 100)}


@pytest.fixture(scope='module')
def written(tmp_path_factory):
    """Returns written(writer) -> options; each format is written once."""
    done = {}

    def write(writer):
        if writer not in done:
            done[writer] = writer(tmp_path_factory.mktemp('set') / 'in', SPLITS, CLASSES)
        return done[writer]

    return write


def assert_same(source: data.Source, rows: list[tuple]):
    assert len(source.examples) == len(rows)
    np.testing.assert_array_equal(source.labels(), [label for _, _, label in rows])
    assert source.labels().dtype == np.int32 and not source.multi_label
    for index, (_, content, label) in enumerate(rows):
        example = source.examples[index]
        assert example['label'] == label and isinstance(example['label'], int)
        np.testing.assert_array_equal(pixels(example), pixels({'image': content, 'name': ''}))


@pytest.mark.parametrize('writer', WRITERS, ids=lambda w: w.__name__)
def test_every_source_gives_the_same_images_at_the_same_index(writer, written):
    options = written(writer)
    for split, rows in SPLITS.items():
        source = data.open_split(split, options)
        assert source.class_names == CLASSES
        assert_same(source, rows)


@pytest.mark.parametrize('writer', WRITERS, ids=lambda w: w.__name__)
def test_every_source_keeps_the_contract(writer, written):
    options = written(writer)
    source = data.open_split('train', options)
    indices = np.random.default_rng(0).integers(0, 12, 40).tolist()
    wanted = [source.examples[i] for i in indices]

    def same(examples):
        return all(a['name'] == b['name'] and a['label'] == b['label']
                   and np.array_equal(pixels(a), pixels(b))
                   for a, b in zip(examples, wanted, strict=True))

    assert same(data.read(source, indices))
    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        assert same(threads.map(source.examples.__getitem__, indices))
    stored = pickle.dumps(source.examples)  # as a decoding process gets them
    with pytest.raises(IndexError):
        source.examples[12]
    assert data.open_split('train', options).fingerprint == source.fingerprint
    held_out = data.open_split('held_out', options)
    assert held_out.fingerprint == data.open_split('test', options).fingerprint
    assert held_out.fingerprint != source.fingerprint
    del source  # and the files it held open
    elsewhere = pickle.loads(stored)
    assert same([elsewhere[i] for i in indices])


@pytest.mark.parametrize('writer', WRITERS, ids=lambda w: w.__name__)
def test_every_source_takes_slices_and_refuses_what_it_does_not_know(writer, written):
    options = written(writer)
    rows = SPLITS['train'][9:] + SPLITS['test'][:2]
    source = data.open_split('train[75%:]+test[:2]', options)
    assert_same(source, rows)
    names = [example['name'] for example in data.read(source, [4, 0, 2])]
    assert names == [source.examples[i]['name'] for i in (4, 0, 2)]
    with pytest.raises(ConfigError, match="'?vl'?.*; it has test, train"):
        data.open_split('vl', options)
    with pytest.raises(ConfigError, match=r'config.data.options.hold_out: .* has no such option'):
        data.open_split('train', options | {'options': {'hold_out': 0.1}})


@pytest.mark.parametrize('writer', WRITERS[3:], ids=lambda w: w.__name__)  # others: test_splits
def test_of_a_set_without_a_second_split_a_share_of_each_class_is_held_out(writer, tmp_path):
    rows = images(30)
    options = writer(tmp_path / 'set', {'train': rows}, CLASSES) | {'held_out': 0.2}
    train, held_out = (data.open_split(split, options) for split in ('train', 'held_out'))
    np.testing.assert_array_equal(np.bincount(train.labels()), [8, 8, 8])
    np.testing.assert_array_equal(np.bincount(held_out.labels()), [2, 2, 2])
    together = [example['name'] for source in (train, held_out)
                for example in data.read(source, range(len(source.examples)))]
    assert len(set(together)) == 30
    assert_same(train, [row for row in rows if any(
        np.array_equal(pixels({'image': row[1]}), pixels(e)) for e in
        data.read(train, range(24)))])
    elsewhere = pickle.loads(pickle.dumps(held_out.examples))  # a decoding process
    assert elsewhere[5]['name'] == held_out.examples[5]['name']
    assert data.open_split('val', options).fingerprint == held_out.fingerprint
    assert len({train.fingerprint, held_out.fingerprint,
                data.open_split('train', options | {'held_out': 0.1}).fingerprint}) == 3
    # Runs that evaluate on a slice of train have all of it, as before there was a share.
    whole = options | {'eval_split': 'train[80%:]'}
    assert_same(data.open_split('train', whole), rows)
    with pytest.raises(ConfigError, match='it has train; set config.data.eval_split=held_out'):
        data.open_split('val', whole)


def test_the_only_split_is_divided_whatever_its_name(tmp_path):
    options = write_npz(tmp_path / 'set', {'all': images(30)}, CLASSES)
    with pytest.raises(ConfigError, match='no split .train.*; it has all'):
        data.open_split('train', options)
    options |= {'train_split': 'all'}
    assert [len(data.open_split(split, options).examples) for split in ('all', 'val')] == [27, 3]
    whole = options | {'eval_split': 'all[90%:]'}
    assert len(data.open_split('all', whole).examples) == 30


def test_labels_that_lie_among_many_images_are_not_read_to_divide(tmp_path, monkeypatch):
    options = write_tfds(tmp_path / 'set', {'train': images(12)}, CLASSES)
    monkeypatch.setattr('imgjax.data.sources.tfds.CHEAP_BYTES', 0)
    with pytest.raises(ConfigError, match=r'set train_split=train\[:90%\] and eval_spl'):
        data.open_split('train', options)
    part = data.open_split('train[:90%]', options | {'train_split': 'train[:90%]',
                                                     'eval_split': 'train[90%:]'})
    with pytest.raises(ConfigError, match='config.sampler.name=class_balanced: takes the labels'):
        class_balanced.order(part, {}, 0)
    with pytest.raises(ConfigError, match='hparams.class_weights=.*a copy that launch.prepare'):
        build._balanced(part)


@pytest.mark.parametrize('writer', MULTI_LABEL, ids=lambda w: w.__name__)
def test_several_labels_are_zeros_and_ones(writer, tmp_path):
    labels = [[0, 2], [1], [2], [0, 1, 2], [1, 2], [0]]
    rows = [(f'{i:03d}.png', encoded(i), label) for i, label in enumerate(labels)]
    splits = {'train': rows, 'test': rows[:1]}
    source = data.open_split('train', writer(tmp_path / 'set', splits, CLASSES))
    matrix = np.float32([[1, 0, 1], [0, 1, 0], [0, 0, 1], [1, 1, 1], [0, 1, 1], [1, 0, 0]])
    assert source.class_names == CLASSES and source.multi_label is True
    np.testing.assert_array_equal(source.labels(), matrix)
    assert source.labels().dtype == np.float32
    for index in range(6):
        label = source.examples[index]['label']
        assert label.dtype == np.float32
        np.testing.assert_array_equal(label, matrix[index])
    half = data.open_split('train[3:]', writer(tmp_path / 'again', splits, CLASSES))
    assert half.multi_label and half.labels().shape == (3, 3)


@pytest.fixture(scope='module')
def cifar(tmp_path_factory):
    """2,000 training images of CIFAR-10 as {'train': examples}, in the order of a folder."""
    with zipfile.ZipFile(real.CIFAR) as archive:
        files = sorted(name for name in archive.namelist()
                       if name.startswith('train/') and name.endswith('.jpg'))[::25]
        names = sorted({name.split('/')[1] for name in files})
        rows = [(f'{i:05d}.jpg', archive.read(name), names.index(name.split('/')[1]))
                for i, name in enumerate(files)]
    return {'train': rows, 'test': rows[::10]}, names


@real.needs_cifar
@pytest.mark.parametrize('writer', [write_folder, write_tar, write_parquet, write_tfds],
                         ids=lambda w: w.__name__)
def test_cifar_is_the_same_in_every_format(writer, cifar, tmp_path):
    splits, names = cifar
    more = {'shard_size': 700} if writer is write_tar else {}
    source = data.open_split('train', writer(tmp_path / 'set', splits, names, **more))
    assert len(source.examples) == 2000 and list(source.class_names) == names
    assert_same(source, splits['train'])


# What wrong input says, a row each: (writer, harm, error, words).

def _shard(path):
    return path / 'train-0001.tar'


def _add_member(path, name, content):
    with tarfile.open(_shard(path), 'a') as tar:
        info = tarfile.TarInfo(name)
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content))


def _cut(path, size):
    os.truncate(path, size if size >= 0 else path.stat().st_size + size)


def _cut_between_members(path):
    with tarfile.open(_shard(path)) as tar:
        offset = tar.getmembers()[4].offset
    os.truncate(_shard(path), offset)


def _rewrite(path, old, new):
    path.write_text(path.read_text().replace(old, new))


def _parquet(**columns):
    def harm(path):
        import pyarrow as pa
        import pyarrow.parquet as pq
        file = path / 'data' / 'train-00000-of-00002.parquet'
        table = pq.read_table(file)
        for name, values in columns.items():
            table = table.drop_columns([name] if name in table.column_names else [])
            if values is not None:
                table = table.append_column(name, pa.array(values))
        pq.write_table(table, file)
    return harm


def _npz(**changes):
    def harm(path):
        with np.load(path / 'set.npz') as file:
            stored = dict(file) | changes
        np.savez(path / 'set.npz', **{k: v for k, v in stored.items() if v is not None})
    return harm


def _declare(path, shape):
    """An archive whose header promises another shape than is stored."""
    with zipfile.ZipFile(path / 'set.npz', 'w') as archive:
        for name, dims, kind in (('train_images', shape, '|u1'), ('train_labels', (12,), '<i8')):
            file = io.BytesIO()
            np.lib.format.write_array_header_1_0(
                file, {'descr': kind, 'fortran_order': False, 'shape': dims})
            archive.writestr(f'{name}.npy', file.getvalue() + bytes(96))


_NO_BYTES = [{'bytes': None, 'path': 'a.png'}] * 5 + [{'bytes': b'', 'path': 'b.png'}]

BAD = [
    (write_csv, lambda p: _rewrite(p / 'list.csv', 'file,label', 'path,label'), ConfigError,
     "first line has no column 'file'"),
    (write_csv, lambda p: _rewrite(p / 'list.csv', 'train/003.png,ant,train', 'train/003.png'),
     DataError, 'line 5 has 1 columns, and the first line has 3'),
    (write_csv, lambda p: [os.remove(p / 'train' / f'00{i}.png') for i in (4, 7)], DataError,
     r'2 of 12 files are missing, first .*train/004.png'),
    (write_csv, lambda p: _rewrite(p / 'list.csv', 'train/003.png', 'train/../../x.png'),
     DataError, r"line 5: .*'\.\.' may not be"),
    (write_csv, lambda p: _rewrite(p / 'list.csv', 'train/003.png', '/etc/passwd'), DataError,
     "line 5: '/etc/passwd' is absolute; .*config.data.options.root"),
    (write_csv, lambda p: _rewrite(p / 'list.csv', '003.png,ant', '003.png,'), DataError,
     r'line 5 has no label \(1 rows have none\)'),
    (write_csv, lambda p: (p / 'list.csv').write_bytes(b'\xff\xfe\0'), DataError,
     'list.csv: cannot be read'),
    (write_csv, lambda p: (p / 'list.csv').write_text('file,label\n'), DataError,
     'lists nothing'),
    (write_json, lambda p: _cut(p / 'list.json', -5), DataError, 'list.json: cannot be read'),
    (write_json, lambda p: (p / 'list.json').write_text('{}'), DataError, 'takes a list of'),
    (write_json, lambda p: (p / 'list.json').write_text('[{"file": "x"}]'), DataError,
     'item 0 is not {"file": text'),
    (write_tar, lambda p: _cut(_shard(p), -11000), DataError, r'0001.tar: .*(not a whole|cut sh)'),
    (write_tar, _cut_between_members, DataError, '0001.tar: cut short or damaged'),
    (write_tar, lambda p: _shard(p).write_bytes(b'no tar' * 1000), DataError, 'not a whole tar'),
    (write_tar, lambda p: _add_member(p, 'x.png', encoded(0)), DataError,
     r'x.png: has no label; expected x.cls or x.json'),
    (write_tar, lambda p: _add_member(p, '005.cls', b'many'), DataError,
     '005.cls says 1, 005.cls says many; make them agree'),
    (write_tar, lambda p: [_add_member(p, 'x.png', encoded(0)), _add_member(p, 'x.cls', b'many')],
     DataError, "x.png: its label is the name 'many', and that of .*000.png is 0; write names"),
    (write_tar, lambda p: _add_member(p, '005.cls', b'1' * 101), DataError, 'at most 100'),
    (write_tar, lambda p: _add_member(p, '005.cls', b'1_0'), DataError, "holds b'1_0'; expected"),
    (write_tar, lambda p: [_add_member(p, 'x.png', encoded(0)), _add_member(p, 'x.cls', b'3')],
     DataError, 'is 3; labels are 0 to 2'),
    (write_tar, lambda p: [_add_member(p, 'x.png', encoded(0)),
                           _add_member(p, 'x.json', b'{"label": "ant"}')], DataError,
     'x.json: holds .*; expected {"label": a class number or a list}'),
    (write_tar, lambda p: _add_member(p, '005.json', b'{"label": 2}'), DataError,
     '0001.tar:005: 005.cls says 1, 005.json says 2; make them agree or remove one'),
    (write_tar, lambda p: _add_member(p, '005.jpg', encoded(0)), DataError,
     "a second image of the key '005'"),
    (write_parquet, lambda p: _cut(p / 'data' / 'train-00000-of-00002.parquet', -9), DataError,
     'cannot be read .*download it again'),
    (write_parquet, _parquet(label=None), ConfigError,
     "config.data.options.label: .* has no column 'label'; it has image"),
    (write_parquet, _parquet(label=None, image=None, photo=[b'x'] * 6, kind=[0] * 6), ConfigError,
     "no column 'image' and no column 'label'; it has photo, kind; give it, such as "
     '--config.data.options.image=photo --config.data.options.label=kind'),
    (write_parquet, _parquet(label=['ant', ' '] * 3), DataError, r'label 1 \(from 0\) is empty'),
    (write_parquet, _parquet(image=['x'] * 6), ConfigError, "column 'image' is string; images are"),
    (write_parquet, lambda p: [harm(p) for harm in (
        _parquet(image=_NO_BYTES), lambda p: os.remove(p / 'data/train-00001-of-00002.parquet'),
        lambda p: os.rename(p / 'data/train-00000-of-00002.parquet', p / 'data/train.parquet'))],
     DataError, "column 'image' stores no bytes; save the set with its images embedded"),
    (write_parquet, lambda p: os.remove(p / 'data/train-00001-of-00002.parquet'), DataError,
     'train-00001-of-00002.parquet: is missing'),
    (write_parquet, _parquet(label=[0, 1, 2, 0, 1, 3]), DataError, r'label 5 \(from 0\) is 3'),
    (write_parquet, _parquet(label=[0.5] * 6), DataError, 'holds 0.5; expected class numbers'),
    (write_tar, lambda p: (p / 'classnames.txt').write_text('ant\n\nbee\ncat\n'), DataError,
     'classnames.txt: line 2 is empty; each line names'),
    (write_huggingface, lambda p: shutil.rmtree(p / 'train'), DataError,
     'not what Dataset.save_to_disk writes|no such'),
    (write_huggingface, lambda p: os.remove(next((p / 'train').glob('*.arrow'))), DataError,
     'data-00000-of-00001.arrow: is missing; save or copy the set again'),
    (write_tfds, lambda p: os.remove(next(p.rglob('*train.array_record*'))), DataError,
     'imgjax_formats-train.array_record-00000-of-00001: is missing'),
    (write_npz, lambda p: _cut(p / 'set.npz', -30), DataError, 'not a readable .npz'),
    (write_npz, _npz(train_images=np.zeros((12, 4, 4, 3), np.float32)), DataError,
     r'takes images uint8 \(N, H, W\) .*got float32 .* store \(x \* 255\).round'),
    (write_npz, _npz(train_images=np.full((12, 4, 4, 3), 255)), DataError,
     r'got int64 .*; for values from 0 to 255 store x.round\(\).astype\("uint8"\)'),
    (write_npz, _npz(train_images=np.full((12, 4, 4, 3), -1.5)), DataError,
     'its values are -1.5 to -1.5: scale them to 0 to 255'),
    (write_npz, _npz(train_images=np.zeros((12, 3, 5, 5), np.uint8)), DataError,
     r'channels last, got .*; store x.transpose\(0, 2, 3, 1\)'),
    (write_npz, _npz(train_labels=np.full(12, 0.5)), DataError, 'whole numbers, .*, such as 0.5'),
    (write_npz, _npz(train_labels=np.array(['ant', 'emu'] * 6)), DataError,
     r"has the label 'emu', which class_names lacks \(ant, bee, cat\)"),
    (write_npz, _npz(train_labels=np.array(['ant'] * 12), class_names=None), DataError,
     'some of test_labels, train_labels are names and some are numbers'),
    (write_npz, _npz(train_images=np.zeros((12, 4, 4, 7), np.uint8)), DataError, '1, 3 or 4 chan'),
    (write_npz, _npz(train_labels=np.zeros(11, np.int64)), DataError, 'one label for each of 12'),
    (write_npz, _npz(train_labels=np.full(12, 3)), DataError, 'is 3; labels are 0 to 2'),
    (write_npz, _npz(train_labels=np.array([None] * 12)), DataError, "'train_labels' says object"),
    (write_npz, _npz(train_labels=None), ConfigError, "has no array 'train_labels'"),
    (write_npz, lambda p: _declare(p, (12, 2**20, 2**20, 3)), DataError, "'train_images' says"),
]


@pytest.mark.parametrize('writer, harm, error, words', BAD, ids=[row[3] for row in BAD])
def test_wrong_input_is_named_in_one_line(writer, harm, error, words, tmp_path):
    options = writer(tmp_path / 'set', SPLITS, CLASSES)
    data.open_split('train', options)
    harm(tmp_path / 'set')
    with pytest.raises(error, match=words) as caught:
        data.open_split('train', options)
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize('name', ['folder', 'listing', 'tar', 'parquet', 'huggingface', 'arrays'])
def test_a_path_that_is_not_there(name, tmp_path):
    with pytest.raises(ConfigError, match='config.data.path: empty; name '):
        data.open_split('train', options_of(name))
    with pytest.raises(ConfigError, match='nothing: no such '):
        data.open_split('train', options_of(name, tmp_path / 'nothing'))


@pytest.mark.parametrize('name, module, extra', [
    ('parquet', 'pyarrow', 'parquet'), ('huggingface', 'datasets', 'huggingface')])
def test_a_missing_package_is_named(name, module, extra, monkeypatch, tmp_path):
    monkeypatch.setitem(__import__('sys').modules, module, None)
    with pytest.raises(ConfigError, match=rf"pip install 'imgjax\[{extra}\]'"):
        data.open_split('train', options_of(name, tmp_path))


@pytest.mark.parametrize('writer', [write_folder, write_csv, write_tar, write_parquet])
def test_of_a_huge_image_only_what_decoding_refuses_is_read(writer, tmp_path):
    rows = [('0.png', encoded(0), 0), ('1.png', bytes(9000), 1), ('2.png', b'', 2)]
    options = writer(tmp_path / 'set', {'train': rows, 'test': rows[:1]}, CLASSES)
    source = data.open_split('train', options | {'max_bytes': 2000})
    assert [len(e['image']) for e in data.read(source, range(3))] == [len(rows[0][1]), 2001, 0]


@pytest.mark.parametrize('writer', WRITERS[3:], ids=lambda w: w.__name__)  # others: test_splits
def test_a_split_says_which_classes_it_lacks_and_train_what_is_not_read(writer, tmp_path):
    splits = {'train': images(12), 'test': images(9, 100)[:6], 'extra': images(3, 200)}
    options = writer(tmp_path / 'set', splits, CLASSES) | {'eval_split': 'test'}
    absent, unread = 'classes without images', 'splits that this run does not read'
    assert data.open_split('train', options).left_out == {unread: (1, 'extra')}
    assert data.open_split('test', options).left_out == {absent: (1, 'cat')}
    # What one part of a sum lacks the other has, and what is not read is said once.
    assert data.open_split('test+train', options).left_out == {unread: (1, 'extra')}
    both = options | {'train_split': 'train+test', 'eval_split': 'train'}
    assert data.open_split('train+test', both).left_out == {unread: (1, 'extra')}
    del options['eval_split']  # as of a copy
    assert data.open_split('train', options).left_out == {}


def test_labels_that_lie_among_many_images_are_not_read_to_say_what_lacks(tmp_path, monkeypatch):
    splits = {'train': images(12), 'test': images(9, 100)[:6]}
    options = write_tfds(tmp_path / 'set', splits, CLASSES) | {'eval_split': 'test'}
    monkeypatch.setattr('imgjax.data.sources.tfds.QUICK_BYTES', 0)
    monkeypatch.setattr('imgjax.data.sources.tfds._Examples.labels', lambda self: 1 / 0)
    assert data.open_split('test', options).left_out == {}


def test_objects_of_a_split_that_is_not_read_are_no_matter(tmp_path):
    options = write_npz(tmp_path / 'set', SPLITS, CLASSES) | {'eval_split': 'train[90%:]'}
    _npz(test_labels=np.array([None] * 7))(tmp_path / 'set')
    assert_same(data.open_split('train', options), SPLITS['train'])
    with pytest.raises(DataError, match="'test_labels' says object .*; store arrays of numbers"):
        data.open_split('held_out', options | {'eval_split': 'held_out'})


@pytest.mark.parametrize('writer', [write_parquet, write_huggingface], ids=lambda w: w.__name__)
def test_other_columns_of_images_and_classes_are_said_unless_one_is_named(writer, tmp_path):
    hub = pytest.importorskip('datasets')
    writer(tmp_path / 'set', SPLITS, CLASSES)
    label = hub.ClassLabel(names=['no', 'yes'])
    sets = {split: hub.Dataset.from_dict(
        {**{name: [{'bytes': row[1], 'path': row[0]} for row in rows]
            for name in ('image', 'mask')},
         'label': [row[2] for row in rows], 'sick': [0] * len(rows), 'age': [50] * len(rows)},
        features=hub.Features({'image': hub.Image(), 'mask': hub.Image(), 'sick': label,
                               'label': hub.ClassLabel(names=list(CLASSES)),
                               'age': hub.Value('int32')})) for split, rows in SPLITS.items()}
    path = tmp_path / 'other'
    if writer is write_huggingface:
        hub.DatasetDict(sets).save_to_disk(str(path))
    else:
        for split, one in sets.items():
            os.makedirs(path, exist_ok=True)
            one.to_parquet(str(path / f'{split}-00000-of-00001.parquet'))
    options = options_of(writer.__name__.removeprefix('write_'), path)
    assert data.open_split('train', options).left_out == {
        'columns of images that are not read': (1, 'mask'),
        'columns of classes that are not read': (1, 'sick')}
    assert data.open_split('test', options).left_out == {}, 'said once'
    options['options'] = {'image': 'mask', 'label': 'label'}
    assert data.open_split('train', options).left_out == {}


def _without_cls(path, split='test'):
    for file in path.glob(f'{split}-*.tar'):
        file.unlink()
    with tarfile.open(path / f'{split}-0000.tar', 'w') as tar:
        for name, content, _ in images(5, 100):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def _parquet_without_label(path, split='test'):
    import pyarrow.parquet as pq
    for file in (path / 'data').glob(f'{split}-*'):
        pq.write_table(pq.read_table(file).drop_columns(['label']), file)


def _huggingface_without_label(path, split='test'):
    hub = pytest.importorskip('datasets')
    bare = hub.load_from_disk(str(path / split)).remove_columns('label')
    bare.save_to_disk(str(path / 'new'))
    shutil.rmtree(path / split)
    os.rename(path / 'new', path / split)


@pytest.mark.parametrize('writer, harm', [
    (write_tar, _without_cls), (write_parquet, _parquet_without_label),
    (write_huggingface, _huggingface_without_label),
    (write_npz, lambda path, split: _npz(**{f'{split}_labels': None})(path))],
    ids=['tar', 'parquet', 'huggingface', 'npz'])
def test_the_split_with_labels_decides_where_train_has_none(writer, harm, tmp_path):
    """A set that is only evaluated may have labels only there."""
    options = writer(tmp_path / 'set', {'train': images(6), 'test': images(6, 100)},
                     CLASSES) | {'train_split': 'test', 'eval_split': 'test'}
    harm(tmp_path / 'set', 'train')
    assert data.open_split('test', options).class_names == CLASSES


# How test sets come without labels: (writer, label of each image, harm, what names it).
UNLABELLED = [
    (write_tar, -1, None, "000.cls: holds b'-1'; expected .*; or, as test has no labels, evaluate"),
    (write_tar, 0, _without_cls, '000.png: has no label; expected .*; or, as test has no labels'),
    (write_parquet, -1, None, 'is -1; labels are 0 to 2; or, as test has no labels, evaluate on a'),
    (write_parquet, None, None, 'holds None; .*; or, as test has no labels'),
    (write_parquet, 0, _parquet_without_label, "no column 'label'.*; or, as test has no labels"),
    (write_huggingface, -1, None, 'is -1; labels are 0 to 2; or, as test has no labels'),
    (write_huggingface, 0, _huggingface_without_label, "no column 'label'.*; or, as test has no"),
    (write_npz, 0, _npz(test_labels=np.full(5, -1)), 'is -1; labels .*; or, as test has no labels'),
    (write_npz, 0, _npz(test_labels=np.full(5, np.nan)), 'such as nan; or, as test has no labels'),
    (write_npz, 0, _npz(test_labels=None), "has no array 'test_labels'.*; or, as test has no lab"),
    (write_tfds, -1, None, "the images of the split 'test' have no labels; evaluate on a share"),
]


@pytest.mark.parametrize('writer, label, harm, words', UNLABELLED)
def test_of_a_test_split_without_labels_nothing_is_evaluated(writer, label, harm, words, tmp_path):
    rows = {'train': images(30), 'test': [(*row[:2], label) for row in images(5, 100)]}
    options = writer(tmp_path / 'set', rows, CLASSES) | {'eval_split': 'held_out'}
    if harm:
        harm(tmp_path / 'set')
    train, held_out = (data.open_split(split, options) for split in ('train', 'held_out'))
    assert (len(train.examples), len(held_out.examples)) == (27, 3)
    assert train.class_names == CLASSES
    assert train.left_out == {'splits that this run does not read': (1, 'test')}
    whole = options | {'eval_split': 'train[90%:]'}
    assert len(data.open_split('train', whole).examples) == 30
    for other in (options, options | {'eval_split': 'test'}):
        with pytest.raises((ConfigError, DataError), match=words) as caught:
            data.open_split('test', other)
        assert '\n' not in str(caught.value)


def test_held_out_is_the_first_split_with_labels(tmp_path):
    rows = {'train': images(12), 'test': images(6, 50),
            'val': [(*row[:2], -1) for row in images(6, 100)]}
    options = write_tar(tmp_path / 'set', rows, CLASSES) | {'eval_split': 'held_out'}
    assert_same(data.open_split('train', options), rows['train'])
    assert_same(data.open_split('held_out', options), rows['test'])
    options['eval_split'] = 'test'  # reads no file of val
    shutil.rmtree(tmp_path / 'set' / '.imgjax')
    for split in ('train', 'test'):
        assert_same(data.open_split(split, options), rows[split])
    assert not list((tmp_path / 'set' / '.imgjax').glob('val*'))


def test_an_index_follows_its_files(tmp_path):
    options = write_tar(tmp_path / 'set', SPLITS, CLASSES)
    first = data.open_split('train', options)
    kept = tmp_path / 'set' / '.imgjax' / 'train.tar.npz'
    before = kept.stat().st_mtime_ns
    data.open_split('train', options)
    assert kept.stat().st_mtime_ns == before, 'indexed once'
    kept.write_bytes(kept.read_bytes()[:100] + b'flipped' + kept.read_bytes()[107:])
    assert data.open_split('train', options).fingerprint == first.fingerprint
    write_tar(tmp_path / 'other', {'train': images(9, 50)}, CLASSES)
    os.replace(tmp_path / 'other' / 'train-0001.tar', tmp_path / 'set' / 'train-0001.tar')
    changed = data.open_split('train', options)
    assert changed.fingerprint != first.fingerprint
    assert changed.examples[5]['image'] == encoded(55)


@pytest.mark.parametrize('writer', [write_tar, write_parquet])
def test_what_cannot_be_kept_beside_the_data_is_kept_elsewhere(writer, tmp_path, monkeypatch):
    options = writer(tmp_path / 'set', SPLITS, CLASSES)
    (tmp_path / 'set' / '.imgjax').write_text('in the way, as root may write anywhere')
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    assert_same(data.open_split('train', options), SPLITS['train'])
    assert list((tmp_path / 'cache').rglob('train.*.npz'))
    given = options | {'options': {'cache': str(tmp_path / 'given')}}
    assert_same(data.open_split('train', given), SPLITS['train'])
    assert list((tmp_path / 'given').rglob('train.*.npz'))


def test_a_split_without_labels_beside_is_no_matter(tmp_path):
    import pyarrow.parquet as pq
    options = write_parquet_text(tmp_path / 'set', SPLITS, CLASSES)
    for file in (tmp_path / 'set' / 'data').glob('test-*'):
        pq.write_table(pq.read_table(file).drop_columns(['label']), file)
    assert data.open_split('train', options).class_names == CLASSES
    with pytest.raises(ConfigError, match="has no column 'label'; it has image"):
        data.open_split('test', options)


def test_parquet_copies_are_replaced_not_collected(tmp_path):
    options = write_parquet(tmp_path / 'set', SPLITS, CLASSES)
    data.open_split('train', options)
    for shard in (0, 1):
        name = f'{shard:05d}-of-00002.parquet'
        os.link(tmp_path / f'set/data/train-{name}', tmp_path / f'set/data/train-extra-{name}')
    data.open_split('train-extra', options)
    _parquet(image=[encoded(i) for i in range(30, 36)])(tmp_path / 'set')
    assert data.open_split('train', options).examples[2]['image'] == encoded(32)
    # A copy that lost its end is made again; that of another split stays.
    copy, = set((tmp_path / 'set' / '.imgjax').glob('train-*.images')) - {
        *(tmp_path / 'set' / '.imgjax').glob('train-extra-*.images')}
    assert len(list(copy.parent.glob('train-extra-*.images'))) == 1
    _cut(copy, -1)
    assert data.open_split('train', options).examples[11]['image'] == encoded(11)


@pytest.mark.parametrize('writer', [write_tar, write_parquet])
def test_sets_that_share_a_cache_leave_each_others_files(writer, tmp_path):
    shared = {'options': {'cache': str(tmp_path / 'cache')}}
    (tmp_path / 'cache').mkdir()
    (tmp_path / 'cache' / 'train-cats.images').write_text('of the user')
    sets = [writer(tmp_path / name, SPLITS | {'train': images(12, first)}, CLASSES) | shared
            for name, first in (('a', 0), ('b', 500))]
    first = data.open_split('train', sets[0])
    kept = {file: file.stat().st_mtime_ns for file in (tmp_path / 'cache').rglob('*.*')}
    assert len(kept) >= 3
    for options in sets[1], sets[0]:
        data.open_split('train', options)
    assert {file: file.stat().st_mtime_ns for file in kept} == kept, 'left as they are'
    assert first.examples[3]['image'] == encoded(3)


def test_runs_that_read_other_columns_keep_their_copies(tmp_path):
    options = write_parquet(tmp_path / 'set', SPLITS, CLASSES)
    import pyarrow.parquet as pq
    for file in (tmp_path / 'set' / 'data').glob('train-*'):
        table = pq.read_table(file)
        pq.write_table(table.append_column('left', table['image']), file)
    given = options | {'options': {'image': 'left'}}
    place = tmp_path / 'set' / '.imgjax'
    place.mkdir()
    (place / 'train-0123456789abcdef.images.tmp').write_text('of a run that was killed')
    (place / 'train-new.images').write_text('of the user')
    for _ in range(2):
        sources = [data.open_split('train', each) for each in (options, given)]
    assert sources[0].examples[3]['image'] == sources[1].examples[3]['image'] == encoded(3)
    assert len(list(place.glob('train*.images'))) == 3, 'one per column, and that of the user'
    assert not list(place.glob('*.tmp'))


def test_tfds_records_read_by_threads_are_the_same(written, monkeypatch):
    source = data.open_split('train', written(write_tfds))
    indices = np.random.default_rng(0).integers(0, 12, 40).tolist()
    one_by_one = [source.examples[i] for i in indices]
    read = []
    monkeypatch.setattr('imgjax.data.sources.tfds.WORTH_THREADS', 0)
    many = type(source.examples._data_source).__getitems__
    monkeypatch.setattr(type(source.examples._data_source), '__getitems__',
                        lambda self, keys: read.append(len(keys)) or many(self, keys))
    assert data.read(source, indices) == one_by_one
    assert source.labels().tolist() == [label for _, _, label in SPLITS['train']]
    assert read == [40, 12]


def test_a_tfds_label_that_is_no_class_is_named(tmp_path):
    rows = [('0.png', encoded(0), 0), ('1.png', encoded(1), -1)]  # as unlabelled test sets have it
    source = data.open_split('train', write_tfds(tmp_path / 'set', {'train': rows}, CLASSES))
    with pytest.raises(DataError, match=r'imgjax_formats/train/1: has 1 image and the labels .-1.'):
        source.examples[1]


def test_tar_cut_while_in_use_is_named(tmp_path):
    source = data.open_split('train', write_tar(tmp_path / 'set', SPLITS, CLASSES))
    os.truncate(tmp_path / 'set' / 'train-0002.tar', 100)
    with pytest.raises(DataError, match='train-0002.tar:011.png: the file ends before it'):
        source.examples[11]


def test_absolute_files_need_a_root_they_lie_in(tmp_path):
    options = write_csv(tmp_path / 'set', SPLITS, CLASSES)
    _rewrite(tmp_path / 'set' / 'list.csv', 'train/003.png', f'{tmp_path}/set/train/003.png')
    rooted = options | {'options': {'root': str(tmp_path)}}
    assert_same(data.open_split('train', rooted), SPLITS['train'])
    with pytest.raises(DataError, match='is absolute'):
        data.open_split('train', options | {'options': {'root': f'{tmp_path}/se'}})


@pytest.mark.parametrize('images_name, labels_name', [
    ('{}_images', '{}_labels'), ('x_{}', 'y_{}'), ('X_{}', 'y_{}')])
@pytest.mark.parametrize('train, test, names, numbers', [
    (np.array([[0], [2], [1], [0]]), np.array([[3], [0]]), '0 1 2 3', [0, 2, 1, 0]),
    (np.array([0, 1, 1, 0], np.uint8), np.array([0, 0], np.uint8), '0 1', [0, 1, 1, 0]),
    (np.array([0., 1, 1, 0]), np.array([2., 0]), '0 1 2', [0, 1, 1, 0]),
    (np.array(['dog', 'cat', 'cat', 'dog']), np.array(['owl', 'cat']), 'cat dog owl', [1, 0, 0, 1]),
    (np.array([b'dog', b'cat', b'cat', b'dog']), np.array([b'cat', b'dog']), 'cat dog',
     [1, 0, 0, 1]),
    (np.array(['10', '9', '9', '10']), np.array(['9', '10']), '9 10', [1, 0, 0, 1]),
    (np.eye(3)[[2, 0, 1, 0]], np.eye(3)[[1, 1]], '0 1 2', [2, 0, 1, 0]),
    (np.eye(3, dtype=bool)[[2, 0, 1, 0]], np.eye(3, dtype=bool)[[1, 1]], '0 1 2', [2, 0, 1, 0]),
    (np.array([[1, 0], [1, 1], [0, 1], [0, 1]]), np.eye(2, dtype=int), '0 1',
     [[1, 0], [1, 1], [0, 1], [0, 1]]),
])
def test_archives_as_keras_and_others_have_them(images_name, labels_name, train, test, names,
                                                numbers, tmp_path):
    np.savez(tmp_path / 'set.npz', **{
        images_name.format('train'): np.zeros((4, 5, 5), np.uint8),
        labels_name.format('train'): train,
        images_name.format('test'): np.zeros((2, 5, 5, 1), np.uint8),
        labels_name.format('test'): test})
    for split, labels in (('train', numbers), ('test', None)):
        source = data.open_split(split, options_of('arrays', tmp_path / 'set.npz'))
        assert ' '.join(source.class_names) == names, 'those of all splits'
        assert source.examples[0]['image'].shape == (5, 5, 1)
        assert source.multi_label is isinstance(numbers[0], list)
        if labels:
            np.testing.assert_array_equal(source.labels(), labels)


TWICE = [
    ({'x_train': 0, 'train_images': 0, 'y_train': 1},
     "'train_images' and 'x_train' are both the images of the split 'train'; keep one"),
    ({'x_train': 0, 'X_train': 0, 'y_train': 1}, "'x_train' and 'X_train' are both the images"),
    ({'x_train': 0, 'y_train': 1, 'train_labels': 1},
     "'train_labels' and 'y_train' are both the labels of the split 'train'; keep one"),
    ({'images': 0, 'labels': 1, 'x': 0, 'y': 1}, "'images' and 'x' are both the images"),
]


@pytest.mark.parametrize('names, words', TWICE, ids=[row[1] for row in TWICE])
def test_an_array_under_two_names_is_refused(names, words, tmp_path):
    arrays_ = np.zeros((4, 5, 5), np.uint8), np.array([0, 1, 0, 1])
    np.savez(tmp_path / 'set.npz', **{name: arrays_[kind] for name, kind in names.items()})
    with pytest.raises(ConfigError, match=words):
        data.open_split('train', options_of('arrays', tmp_path / 'set.npz'))


def test_arrays_of_two_conventions_are_one_split(tmp_path):
    np.savez(tmp_path / 'set.npz', x_train=np.zeros((4, 5, 5), np.uint8), train_labels=[0, 1] * 2,
             ids=np.arange(4))
    options = options_of('arrays', tmp_path / 'set.npz') | {'eval_split': 'train'}
    source = data.open_split('train', options)
    assert source.left_out == {'arrays of no split': (1, 'ids')}, 'said'
    assert source.labels().tolist() == [0, 1, 0, 1]


ONE_HOT = np.eye(3, dtype=int)[[0, 1, 2, 0]]
ALIKE = [  # labels of train, of test; what they are read as, or what the error says
    (ONE_HOT, np.array([2, 1]), [0, 1, 2, 0], [2, 1]),
    (np.array([0, 1, 2, 0]), ONE_HOT[:2], [0, 1, 2, 0], [0, 1]),
    (ONE_HOT, np.full(2, -1), [0, 1, 2, 0], None),
    (np.eye(3)[[0, 1, 1, 0]], np.array([0, 1]), [0, 1, 1, 0], [0, 1]),  # no image of class 2
    (ONE_HOT, np.array([3, 1]), "'test_labels' holds the class number 3, and 'train_labels' is "
     'one-hot with 3 classes, 0 to 2; store both', None),
    (ONE_HOT, np.eye(2), "'test_labels' has 2 columns, one per class, and 'train_labels' has 3",
     None),
    (np.array([[1, 1, 0]] * 4), np.array([2, 1]), "'train_labels' holds 0 and 1 of each class, "
     "with any number of classes per image, and 'test_labels' one class per image", None),
    (ONE_HOT, np.array(['a', 'b']), 'are names and some are numbers', None)]


@pytest.mark.parametrize('train, test, wanted, tested', ALIKE)
def test_one_hot_and_numbered_labels_are_read_as_the_same_classes(train, test, wanted, tested,
                                                                  tmp_path):
    np.savez(tmp_path / 'set.npz', train_images=np.zeros((4, 5, 5), np.uint8), train_labels=train,
             test_images=np.zeros((2, 5, 5), np.uint8), test_labels=test)
    options = options_of('arrays', tmp_path / 'set.npz')
    if isinstance(wanted, str):
        with pytest.raises(DataError, match=wanted):
            data.open_split('train', options)
        return
    for split, labels in (('train', wanted), ('test', tested)):
        if labels:
            source = data.open_split(split, options)
            assert source.class_names == ('0', '1', '2') and not source.multi_label
            assert source.labels().tolist() == labels


@pytest.mark.parametrize('names', [('images', 'labels'), ('x', 'y'), ('X', 'y')])
def test_arrays_that_name_no_split_are_train(names, tmp_path):
    np.savez(tmp_path / 'set.npz', **dict(zip(names, (np.zeros((4, 5, 5), np.uint8), [0, 1, 0, 1]),
                                              strict=True)))
    counts = [len(data.open_split(split, options_of('arrays', tmp_path / 'set.npz')).examples)
              for split in ('train', 'held_out')]
    assert counts == [2, 2]


def test_arrays_of_a_script():
    rng = np.random.default_rng(0)
    pixels_, labels = rng.integers(0, 255, (5, 4, 4, 3), np.uint8), np.arange(5) % 2
    source = arrays.source(pixels_, labels, ('no', 'yes'))
    np.testing.assert_array_equal(source.examples[3]['image'], pixels_[3])
    assert source.examples[3]['label'] == 1 and source.class_names == ('no', 'yes')
    changed = pixels_.copy()
    changed[4, 0, 0, 0] ^= 1
    assert arrays.source(changed, labels).fingerprint != arrays.source(pixels_, labels).fingerprint
    named = arrays.source(pixels_, np.array(['no', 'yes', 'no', 'yes', 'no'], object))
    assert named.class_names == ('no', 'yes') and named.labels().tolist() == [0, 1, 0, 1, 0]


@pytest.mark.parametrize('kind', ['', 'jpeg', 'png'])
def test_synthetic_images_are_of_their_index(kind):
    options = options_of('synthetic', examples=50, classes=5, height=12, width=16, encoded=kind)
    first, again = (data.open_split('train', options) for _ in range(2))
    assert len(first.examples) == 50 and len(first.class_names) == 5
    held_out = data.open_split('held_out', options)
    assert len(held_out.examples) == 5
    for i in (0, 7, 49):
        np.testing.assert_array_equal(pixels(first.examples[i]), pixels(again.examples[i]))
        assert first.examples[i]['label'] == first.labels()[i] == i % 5
        assert pixels(first.examples[i]).shape == (12, 16, 3)
    assert not np.array_equal(pixels(first.examples[0]), pixels(held_out.examples[0]))


def test_synthetic_classes_can_be_told_apart():
    options = options_of('synthetic', examples=200, classes=4)
    source = data.open_split('train', options)
    spectra = np.stack([np.abs(np.fft.fft2(pixels(e)[..., 0] - 127.0))[:16, :16].ravel()
                        for e in map(source.examples.__getitem__, range(200))])
    labels = source.labels()
    means = np.stack([spectra[:100][labels[:100] == k].mean(axis=0) for k in range(4)])
    nearest = ((spectra[100:, None] - means) ** 2).sum(-1).argmin(1)
    assert (nearest == labels[100:]).mean() > 0.9


@pytest.mark.parametrize('options, words', [
    ({'classes': 1}, 'config.data.options.classes: takes 2 to'),
    ({'encoded': 'gif'}, "config.data.options.encoded: takes '', 'jpeg' or 'png'"),
    ({'height': 1.5}, 'config.data.options.height: takes int, got 1.5'),
    ({'classes': True}, 'config.data.options.classes: takes int, got True'),
    ({'clases': 3}, "no such option; did you mean 'classes'?"),
])
def test_synthetic_options(options, words):
    with pytest.raises(ConfigError, match=words):
        data.open_split('train', options_of('synthetic', **options))
