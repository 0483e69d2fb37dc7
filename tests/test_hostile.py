"""Hostile checkpoints and run directories: one line, or no harm; nothing outside is touched.

Every case may take 64 MiB of memory in a checkpoint, and 256 MiB in a run directory.
"""

import contextlib
import json
import os
import pathlib
import shutil

import jax
import numpy as np
import pytest
import tensorstore

from imgjax import config as config_lib
from imgjax import train
from imgjax.commands import inspect
from imgjax.errors import DataError, RunError
from imgjax.rundir import checkpoint, dataset_info, digests, files
from tests.drills.config import get_config
from tests.rundir.test_checkpoint import OPTIONS, make_state, target_of

VICTIM = 'years of work\n'
KERNEL = 'params.dense.kernel'


@contextlib.contextmanager
def memory(mebibytes: int):
    """Fails where the block takes more than that at its peak."""
    def status(name: str) -> int:
        lines = pathlib.Path('/proc/self/status').read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(name)) // 1024

    pathlib.Path('/proc/self/clear_refs').write_text('5')  # the peak is what is held now
    before = status('VmRSS')
    yield
    assert status('VmHWM') - before < mebibytes


# Checkpoints. A case is what it does to the directory of a step; `outside` lies beside the run.

def linked(name: str):
    """Moves a part out of the checkpoint, or all of it, and leaves a link to it."""
    def harm(step, outside):
        shutil.move(step / name, outside / 'moved')
        (step / name).symlink_to(outside / 'moved')
    return harm


def put(name: str, make):
    """Puts something else in the place of a file."""
    def harm(step, outside):
        (step / name).unlink(missing_ok=True)
        make(step / name)
    return harm


def sparse(size: int):
    def make(path):
        path.touch()
        os.truncate(path, size)
    return make


def meta(**changes):
    """Changes the meta data and makes its digest fit."""
    def harm(step, outside):
        path = step / 'meta' / 'metadata'
        stored = json.loads(path.read_text()) | changes
        stored.pop('meta_digest')
        path.write_text(json.dumps(stored | {'meta_digest': digests.digest_of(stored)}))
    return harm


def stored(key: str, change):
    """Changes a value in the key-value store that holds the arrays."""
    def harm(step, outside):
        store = tensorstore.KvStore.open(
            {'driver': 'ocdbt', 'base': f'file://{step}/state/'}).result()
        store.write(key, change(bytes(store.read(key).result().value))).result()
    return harm


def declared(**changes):
    return stored(f'{KERNEL}/.zarray',
                  lambda text: json.dumps(json.loads(text) | changes).encode())


def zstd(*blocks: tuple[int, int, bytes]) -> bytes:
    """Returns a frame of blocks (kind, size, content), of any size; kind 1 repeats a byte."""
    parts = [(size << 3 | kind << 1 | (at == len(blocks) - 1)).to_bytes(3, 'little') + content
             for at, (kind, size, content) in enumerate(blocks)]
    return bytes.fromhex('28b52ffd 00 58') + b''.join(parts)


BOMB = zstd(*[(1, 2**17, b'\0')] * 2**14)  # 64 KiB that become 2 GiB


def node_of(packed: bytes) -> bytes:
    return bytes.fromhex('0cdb3a2a') + (18 + len(packed)).to_bytes(8, 'little') + b'\0\1' + packed


def node(packed: bytes):
    return put('state/manifest.ocdbt', lambda path: path.write_bytes(node_of(packed) + bytes(4)))


def large_node(step, outside):
    """Lets TensorStore write a sound node of 200 MiB of zeros; it is read whole for any key."""
    store = tensorstore.KvStore.open({
        'driver': 'ocdbt', 'base': f'file://{outside}/again/', 'config': {
            'max_inline_value_bytes': 2**20, 'max_decoded_node_bytes': 2**30}}).result()
    with tensorstore.Transaction() as transaction:
        for number in range(200):
            store.with_transaction(transaction)[b'%d' % number] = bytes(2**20)
    shutil.rmtree(step / 'state' / 'd')
    shutil.rmtree(step / 'state' / 'ocdbt.process_0')
    shutil.copytree(outside / 'again', step / 'state', dirs_exist_ok=True)


def described(**changes):
    def harm(step, outside):
        path = step / 'state' / '_METADATA'
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return harm


def crc32c(data: bytes) -> bytes:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ table[(crc ^ byte) & 255]
    return (crc ^ 0xFFFFFFFF).to_bytes(4, 'little')


def data_file_outside(step, outside):
    """Writes the arrays again, uncompressed, and lets the manifest name a file above the step."""
    old = tensorstore.KvStore.open(
        {'driver': 'ocdbt', 'base': f'file://{step}/state/'}).result()
    pairs = [(key, old.read(key).result().value) for key in old.list().result()]
    again = outside / 'again'
    new = tensorstore.KvStore.open({'driver': 'ocdbt', 'base': f'file://{again}/',
                                    'config': {'compression': None}}).result()
    with tensorstore.Transaction() as transaction:
        for key, value in pairs:
            new.with_transaction(transaction)[key] = value
    file, = (again / 'd').iterdir()
    text = (again / 'manifest.ocdbt').read_bytes()
    inside = f'd/{file.name}'.encode()
    assert inside in text
    name = '../../../../outside/x'.ljust(len(inside), 'x')
    text = text.replace(inside, name.encode())[:-4]
    shutil.rmtree(step / 'state' / 'd')
    (step / 'state' / 'manifest.ocdbt').write_bytes(text + crc32c(text))
    shutil.copy(file, step / 'state' / name)
    assert (outside / pathlib.Path(name).name).exists()


CHECKPOINTS = {
    'the step is a link': (linked(''), 'is a link'),
    'a link to a file': (linked('state/manifest.ocdbt'), "'state/manifest.ocdbt' is neither"),
    'a link to a directory': (linked('state/d'), "'state/d' is neither"),
    'a dangling link': (put('state/d/x', lambda p: p.symlink_to('/nothing')), 'is neither'),
    'a link to /dev/zero': (put('meta/metadata', lambda p: p.symlink_to('/dev/zero')), 'neither'),
    'a FIFO as meta data': (put('meta/metadata', os.mkfifo), "'meta/metadata' is neither"),
    'a FIFO as data': (put('state/d/x', os.mkfifo), "'state/d/x' is neither"),
    'a data file above the directory': (data_file_outside, 'damaged'),
    'names that leave': (meta(digests={'../../victim': 'x'}), 'another kind of state'),
    'absolute names': (meta(digests={'/etc/passwd': 'x'}), 'another kind of state'),
    'digests that are no dict': (meta(digests=7), 'damaged'),
    'a step of NaN': (meta(step=float('nan')), 'its meta data is not what was saved'),
    'a negative step': (meta(step=-2), 'its meta data is not what was saved'),
    'meta data of another kind': (put('meta/metadata', lambda p: p.write_text('[]')), 'damaged'),
    'deep meta data': (put('meta/metadata', lambda p: p.write_text('[' * 500_000)), 'Recursion'),
    'giant meta data': (put('meta/metadata', sparse(2**43)), "'meta/metadata' is larger than"),
    'a giant data file': (put('state/d/x', sparse(2**43)), 'its files have 8,796,093,'),
    'a description of a giant tree': (put('state/_METADATA', sparse(2**30)), 'is larger than'),
    'a deep description': (
        put('state/_METADATA', lambda p: p.write_text('[' * 500_000)), 'nested too deeply'),
    'another format': (described(use_zarr3=True), 'another layout'),
    'another store': (described(use_ocdbt=False), 'another layout'),
    '8 TB declared': (declared(shape=[2**20, 2**21], chunks=[1, 2**21]), 'is declared as'),
    '8 TB in one chunk': (declared(chunks=[2**20, 2**21]), 'is declared as'),
    'a negative chunk': (declared(chunks=[-64, 32]), 'is declared as'),
    'a chunk of no number': (declared(chunks=[True, 32]), 'is declared as'),
    'another dtype': (declared(dtype='<f8'), 'is declared as'),
    'objects': (declared(dtype='|O'), r"is declared as .*\|O"),
    'a fill value': (declared(fill_value=1.0), 'is declared as'),
    'filters': (declared(filters=[{'id': 'pickle'}]), 'is declared as'),
    'another compressor': (declared(compressor={'id': 'blosc'}), 'is declared as'),
    'a declaration that is none': (stored(f'{KERNEL}/.zarray', lambda _: b'[]'), 'damaged'),
    'a deep declaration': (stored(f'{KERNEL}/.zarray', lambda _: b'[' * 60_000), 'Recursion'),
    'a long declaration': (stored(f'{KERNEL}/.zarray', lambda _: b' ' * 2**17), 'described by'),
    'a bomb as a chunk': (stored(f'{KERNEL}/0.0', lambda _: BOMB), 'damaged'),
    'a bomb as a node': (large_node, 'a node of it unpacks to more'),
    'a bomb as the manifest': (node(BOMB), 'a node of it unpacks to more'),
    'a bomb behind a frame': (node(zstd((1, 5, b'x')) + BOMB), 'a node of it unpacks to more'),
    'a bomb behind a skipped frame': (
        node(bytes.fromhex('502a4d18 00000000') + BOMB), 'a node of it unpacks to more'),
    'a bomb in a decoy': (  # what a reader is pointed at need not be where another begins
        node(zstd((0, 2**10, node_of(BOMB)[:2**10])) + node_of(BOMB)[2**10:]),
        'a node of it unpacks to more'),
    'a node of skipped frames': (
        node(bytes.fromhex('502a4d18 00000000') * 2**17), 'a node of it is in too many pieces'),
    'a node of empty blocks': (
        node(zstd(*[(0, 0, b'')] * 2**18)), 'a node of it is in too many pieces'),
}


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
    """A run directory with the steps 1 and 2 of a tiny state; to be copied."""
    path = tmp_path_factory.mktemp('saved')
    writer = checkpoint.Writer(str(path), OPTIONS)
    for step in (1, 2):
        writer.save(make_state(step), 'hash')
    writer.close()
    return path


@pytest.fixture
def outside(tmp_path):
    """A folder beside the run with a file that must stay as it is."""
    path = tmp_path / 'outside'
    path.mkdir()
    (path / 'victim').write_text(VICTIM)
    yield path
    assert (path / 'victim').read_text() == VICTIM


@pytest.mark.parametrize('case', CHECKPOINTS)
def test_checkpoint(case, saved, tmp_path, outside):
    harm, words = CHECKPOINTS[case]
    run = tmp_path / 'run'
    shutil.copytree(saved, run)
    harm(run / 'checkpoints' / '2', outside)
    with memory(64), pytest.raises(DataError, match=words) as error:
        checkpoint.restore(str(run), 2, target_of(make_state(0)), 'hash')
    assert '\n' not in str(error.value) and len(str(error.value)) < 600
    if 'another kind' not in words:  # the step before it is used, and this one put aside
        _, found = checkpoint.restore_newest(
            str(run), target_of(make_state(0)), 'hash', put_aside=True)
        assert found['step'] == 1 and os.path.lexists(run / 'damaged' / '2')


def test_too_many_files(saved, monkeypatch):
    monkeypatch.setattr(files, '_ENTRIES', 5)
    with pytest.raises(DataError, match='holds more than 5 files'):
        checkpoint.restore(str(saved), 2, target_of(make_state(0)), 'hash')


@pytest.mark.parametrize('make', [
    lambda rng: rng.normal(size=400_000), lambda rng: np.zeros(400_000),
    lambda rng: np.where(np.arange(400_000) // 3000 % 2, rng.normal(size=400_000), 0)],
    ids=['noise', 'zeros', 'in turns'])
def test_no_honest_array_is_taken_for_a_bomb(make, tmp_path):
    noise = jax.numpy.asarray(make(np.random.default_rng(0)), 'float32')
    state = make_state(1).replace(params={'dense': {'kernel': noise, 'half': noise.astype(
        'bfloat16'), 'whole': noise.astype('int8'), 'some': noise > 0}})
    writer = checkpoint.Writer(str(tmp_path), OPTIONS)
    writer.save(state, 'hash')
    writer.close()
    checkpoint.restore(str(tmp_path), 1, target_of(state), 'hash')


# Run directories. A case is what it does to one; `words` of its line, or None where it is harmless.

def config(change):
    """Changes config.json and makes its hash fit."""
    def harm(run, outside):
        stored = json.loads((run / 'config.json').read_text())
        change(stored['config'])
        with contextlib.suppress(Exception):
            stored['hash'] = config_lib.digest(stored['config'])
        (run / 'config.json').write_text(json.dumps(stored))
    return harm


def dataset(**changes):
    def harm(run, outside):
        stored = json.loads((run / 'dataset.json').read_text())
        stored['dataset'] |= changes
        with contextlib.suppress(Exception):
            stored['hash'] = dataset_info._hash(dataset_info.DatasetInfo(**stored['dataset']))
        (run / 'dataset.json').write_text(json.dumps(stored))
    return harm


def text(name: str, content: str | bytes):
    return put(name, lambda path: path.write_bytes(
        content if isinstance(content, bytes) else content.encode()))


def link(name: str):
    """Leaves a link to the victim, or to the folder it is in, in the place of a part of the run."""
    def harm(run, outside):
        if (run / name).is_dir():
            shutil.rmtree(run / name)
        (run / name).unlink(missing_ok=True)
        is_folder = '.' not in name and name not in ('lock', 'saved')
        (run / name).symlink_to(outside if is_folder else outside / 'victim')
    return harm


def folder(name: str):
    def make(path):
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir()
    return put(name, make)


def special(name: str):
    def harm(run, outside):
        shutil.rmtree(run / name)
        os.mkfifo(run / name)
    return harm


def deep(levels: int) -> str:
    return '{"config": ' * levels + '1' + '}' * levels


RUNS = {
    'config.json is a link': (link('config.json'), 'config.json: no plain file'),
    'config.json is a FIFO': (put('config.json', os.mkfifo), 'config.json: no plain file'),
    'config.json is a folder': (folder('config.json'), 'config.json: no plain file'),
    'config.json is giant': (put('config.json', sparse(2**43)), 'larger than'),
    'config.json is deep': (text('config.json', deep(100_000)), 'nested too deeply'),
    'config.json is rather deep': (text('config.json', deep(200)), 'nested too deeply'),
    'config.json is binary': (text('config.json', b'\xff\0\x80'), 'config.json: cannot be used'),
    'config.json is a list': (text('config.json', '[1]'), 'config.json: cannot be used'),
    'config.json has a name twice': (
        text('config.json', '{"config": {}, "config": {}}'), 'a name stands twice'),
    'config.json has NaN': (config(lambda c: c.update(epochs=float('nan'))), 'NaN is no JSON'),
    'config.json has an unknown field': (
        config(lambda c: c.update(callback='os.system')), 'no such field'),
    'config.json has another type': (config(lambda c: c.update(steps='all')), 'takes int'),
    'config.json has no groups': (config(lambda c: c.update(hparams=3)), 'config.json: cannot'),
    'config.json has a huge number': (
        config(lambda c: c['hparams'].update(weight_decay=10**400)), 'takes float'),
    'config.json names a module by a path': (
        config(lambda c: c['model'].update(name='../../outside/victim')), 'is refused: only a-z'),
    'config.json has a secret': (
        config(lambda c: c.update(name='ghp_' + 'a1B2' * 9)), 'config.name: looks like a secret'),
    'dataset.json is a link': (link('dataset.json'), 'dataset.json: no plain file'),
    'dataset.json is not as it was': (
        text('dataset.json', '{"hash": "0", "dataset": {}}'), 'dataset.json: cannot be used'),
    'dataset.json has a million classes': (
        dataset(class_names=[f'class {i}' for i in range(10**6)]), 'larger than'),
    'dataset.json has classes that are no names': (
        dataset(class_names=[1, 2]), 'class_names takes a list of names'),
    'dataset.json has no classes': (dataset(class_names=[]), 'class_names takes a list of names'),
    'dataset.json has a negative shape': (dataset(image_shape=[-8, 8, 1]), 'image_shape takes'),
    'dataset.json has a huge shape': (dataset(image_shape=[2**40, 8, 1]), 'image_shape takes'),
    'dataset.json has a shape in words': (dataset(image_shape='8x8'), 'image_shape takes'),
    'dataset.json has negative counts': (dataset(train_examples=-1), 'train_examples'),
    'checkpoints is a link': (link('checkpoints'), 'checkpoints: no directory'),
    'checkpoints is a FIFO': (special('checkpoints'), 'checkpoints: no directory'),
    'damaged is a link': (link('damaged'), 'damaged: no directory'),
    'tensorboard is a link': (link('tensorboard'), 'tensorboard: no directory'),
    'profile is a link': (link('profile'), 'profile: no directory'),
    'saved is a folder': (folder('saved'), 'saved: no plain file'),
    'saved is a link': (link('saved'), 'saved: no plain file'),
    'lock is a link': (link('lock'), 'lock: no plain file'),
    'lock is a FIFO': (put('lock', os.mkfifo), 'lock: no plain file'),
    'report.html is a link': (link('report.html'), 'report.html: no plain file'),
    'metrics.jsonl is a link': (link('metrics.jsonl'), 'metrics.jsonl: no plain file'),
    'unreadable.jsonl is a link': (link('unreadable.jsonl'), 'unreadable.jsonl: no plain file'),
    'a step in Arabic digits': (folder('checkpoints/٣'), 'is no name of a step'),
    'a step of nine nines and more': (folder('checkpoints/99999999999'), 'is no name of a step'),
    'a step below 0': (folder('checkpoints/-1'), 'is no name of a step'),
    'a step twice': (folder('checkpoints/00002'), 'is no name of a step'),
    'a step with a line in it': (folder('checkpoints/1_0'), 'is no name of a step'),
    'a step in hexadecimal': (folder('checkpoints/0x1'), None),
    'a step in powers of ten': (folder('checkpoints/1e3'), None),
}


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """The directory of a run of two steps; to be copied."""
    path = tmp_path_factory.mktemp('trained') / 'run'
    settings = get_config().to_dict()
    settings['model'] = {'name': 'tiny_mlp', 'dtype': 'float32', 'options': {}}
    settings['checkpoint']['every'] = 1
    train.run(settings | {'steps': 2, 'eval_every': 0, 'log_every': 1}, str(path))
    return path


@pytest.fixture
def run(trained, tmp_path):
    shutil.copytree(trained, tmp_path / 'run')
    return tmp_path / 'run'


@pytest.mark.parametrize('case', RUNS)
def test_run_directory(case, run, outside):
    harm, words = RUNS[case]
    harm(run, outside)
    with memory(256):
        if words is None:
            assert inspect.inspect_run(str(run))['step'] == 2
            return
        with pytest.raises(RunError, match=words) as error:
            inspect.inspect_run(str(run))
        assert error.value.exit_code in (2, 3, 5) and '\n' not in str(error.value)
        with pytest.raises(RunError, match=words):
            train.run(None, str(run))
    assert sorted(os.listdir(outside)) == ['victim']


ROW = '{"step": 1, "split": "train", "loss": 1.0}\n'
ROWS = {
    'a giant line': lambda path: (sparse(2**28)(path), path.open('a').write('\n' + ROW)),
    'bytes': lambda path: path.write_bytes(os.urandom(2**20) + b'\n' + ROW.encode()),
    'other types': lambda path: path.write_text(
        '[]\n{"step": "1", "split": "train"}\n{"step": 1, "split": "train", "loss": "low"}\n'
        '{"step": -1, "split": "train"}\n{"step": 1, "split": "train", "perf": {"mfu": []}}\n'
        '{"step": 1, "split": "train", "perf": 3}\n' + '[' * 5000 + '\n' + ROW),
}


@pytest.mark.parametrize('case', ROWS)
def test_rows_that_are_none_are_left_out(case, tmp_path):
    from imgjax.rundir import metrics_log
    ROWS[case](tmp_path / 'metrics.jsonl')
    with memory(64):
        assert metrics_log.read_rows(str(tmp_path)) == [json.loads(ROW)]


def test_links_at_temporary_names_are_not_written_through(run, outside):
    """A whole start, in which everything is written that a run writes."""
    names = ('config.json', 'dataset.json', 'environment.json', 'metrics.jsonl', 'report.html')
    for name in names:
        (run / f'{name}.tmp').symlink_to(outside / 'victim')
    (run / 'report.html').unlink()
    (run / 'checkpoints' / '3').symlink_to(outside)
    (run / 'checkpoints' / '0x1').mkdir()
    (run / 'damaged').mkdir()
    (run / 'damaged' / '3').symlink_to('/nothing')
    (run / 'unreadable.jsonl').write_text('{"index": 1e999}\n{"index": null}\n7\n')
    shutil.rmtree(run / 'checkpoints' / '2')  # so that there is a step to be done
    config_lib.write(str(run), config_lib.read(str(run)))
    dataset_info.write(str(run), dataset_info.read(str(run)))
    result = train.run(None, str(run))
    assert result['step'] == 2 and (run / 'report.html').stat().st_size > 10_000
    assert not any(os.path.islink(run / f'{name}.tmp') for name in names)
    assert os.path.islink(run / 'damaged' / '3.1') and os.listdir(outside) == ['victim']
