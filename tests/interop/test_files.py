"""Files of weights: those of torch.save are read without torch; hostile ones are one clear line."""

import collections
import io
import json
import pathlib
import pickle
import re
import struct
import subprocess
import sys
import types
import zipfile

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from imgjax.errors import DataError
from imgjax.interop import files, pickles, state_dict, torch_file

RNG = np.random.default_rng(0)
TENSORS = {'conv.weight': RNG.normal(size=(4, 3, 3, 3)).astype(np.float32),
           'conv.bias': RNG.normal(size=4).astype(np.float16),
           'bn.num_batches_tracked': np.array(7), 'empty': np.zeros((0, 3), np.float32)}


def fake_torch(monkeypatch) -> types.ModuleType:
    """Names for pickle to write, as torch's; reading never looks them up."""
    torch, utils = types.ModuleType('torch'), types.ModuleType('torch._utils')

    torch._utils = utils
    for version in ('_rebuild_tensor', '_rebuild_tensor_v2', '_rebuild_qtensor'):
        def rebuild(*args):
            raise AssertionError('called')

        rebuild.__module__, rebuild.__qualname__ = 'torch._utils', version
        setattr(utils, version, rebuild)
    for name in ('FloatStorage', 'HalfStorage', 'LongStorage', 'BFloat16Storage'):
        setattr(torch, name, type(name, (), {'__module__': 'torch', '__qualname__': name}))
    monkeypatch.setitem(sys.modules, 'torch', torch)
    monkeypatch.setitem(sys.modules, 'torch._utils', utils)
    return torch


class Saved:
    """A tensor to be, as torch pickles it."""

    def __init__(self, torch, key, array, offset=0, size=None, stride=None,
                 by='_rebuild_tensor_v2'):
        kinds = {'float32': 'FloatStorage', 'float16': 'HalfStorage', 'int64': 'LongStorage',
                 'bfloat16': 'BFloat16Storage'}
        self.storage = Storage(('storage', getattr(torch, kinds[array.dtype.name]), key, 'cpu',
                                array.size))
        size = array.shape if size is None else size
        steps = [s // array.itemsize for s in array.strides] if stride is None else stride
        self.call = getattr(torch._utils, by)
        self.rest = (offset, tuple(size), tuple(steps))
        if by != '_rebuild_tensor':
            self.rest += (False, collections.OrderedDict())

    def __reduce__(self):
        return self.call, (self.storage, *self.rest)


class Storage:
    def __init__(self, identity):
        self.identity = identity


class Pickler(pickle.Pickler):
    def persistent_id(self, value):
        return value.identity if isinstance(value, Storage) else None


def pickled(value, protocol=2) -> bytes:
    file = io.BytesIO()
    Pickler(file, protocol).dump(value)
    return file.getvalue()


def zipped(tree, storages: dict, **options) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, 'w', **options) as archive:
        archive.writestr('archive/data.pkl', tree if isinstance(tree, bytes) else pickled(tree))
        archive.writestr('archive/byteorder', 'little')
        for key, content in storages.items():
            archive.writestr(f'archive/data/{key}', content)
    return file.getvalue()


def saved(torch, tensors=TENSORS, **more):
    """(what torch.save is given, storages) of {name: array}."""
    tree = collections.OrderedDict(
        (name, Saved(torch, str(i), array)) for i, (name, array) in enumerate(tensors.items()))
    return {'state_dict': tree, **more}, {
        str(i): array.tobytes() for i, array in enumerate(tensors.values())}


def same(found):
    assert list(found) == list(TENSORS)
    for name, array in TENSORS.items():
        assert found[name].dtype == (np.float32 if array.dtype.kind == 'f' else array.dtype)
        np.testing.assert_array_equal(found[name], array)


@pytest.mark.parametrize('name', ['w.pth', 'w.pt', 'w.bin', 'w.th', 'w.ckpt', 'w.pth.tar'])
def test_a_training_checkpoint_of_torch_is_read(name, tmp_path, monkeypatch):
    """With whatever else is in it, of which nothing is called."""
    torch = fake_torch(monkeypatch)
    other = {'epoch': 3, 'args': types.SimpleNamespace(lr=0.1), 'best': np.float64(0.5),
             'losses': collections.deque([1.0]), 'seen': {1, 2}, 'frozen': frozenset('a'),
             'hist': collections.defaultdict(list, a=[1]), 'c': collections.Counter('ab'),
             'rng': np.random.RandomState(0).get_state(), 'path': pathlib.PurePosixPath('x')}
    (tmp_path / name).write_bytes(zipped(*saved(torch, **other)))
    same(files.read(str(tmp_path / name)))
    whole = torch_file.read(str(tmp_path / name))
    assert whole['epoch'] == 3 and isinstance(whole['args'], pickles.Opaque)


def test_the_old_format_and_a_parallel_model(tmp_path, monkeypatch):
    torch = fake_torch(monkeypatch)
    array = RNG.normal(size=(2, 3)).astype(ml_dtypes.bfloat16)
    tree = {'module.a': Saved(torch, '11', array), 'module.b': Saved(torch, '12', TENSORS['empty'])}
    parts = [0x1950A86A20F9469CFC6C, 1001, {'little_endian': True}, tree, ['11', '12']]
    content = b''.join(map(pickled, parts)) + struct.pack('<q', 6) + array.tobytes()
    (tmp_path / 'w.pth').write_bytes(content + struct.pack('<q', 0))
    found = files.read(str(tmp_path / 'w.pth'))
    assert list(found) == ['module.a', 'module.b'] and found['module.b'].shape == (0, 3)
    np.testing.assert_array_equal(found['module.a'], array.astype(np.float32))


def test_tensors_as_torch_wrote_them_before_0_4(tmp_path, monkeypatch):
    torch = fake_torch(monkeypatch)
    base = np.arange(6, dtype=np.float32)
    tree = {'a': Saved(torch, '0', base, offset=2, size=(3,), stride=(1,), by='_rebuild_tensor')}
    (tmp_path / 'w.pth').write_bytes(zipped(tree, {'0': base.tobytes()}))
    np.testing.assert_array_equal(files.read(str(tmp_path / 'w.pth'))['a'], [2, 3, 4])


TENSOR = pickles.Tensor(np.dtype('float32'), '0', 0, (1,), (1,))


def of(*names) -> dict:
    return dict.fromkeys(names, TENSOR)


@pytest.mark.parametrize('saved, names, said', [
    (of('a', 'b'), 'ab', ''),
    ({'state_dict': of('a'), 'optimizer': {'state': {0: of('exp_avg')}}, 'rng': TENSOR}, 'a',
     "its 'state_dict'"),
    ({'model_state_dict': of('a'), 'epoch': 3}, 'a', "its 'model_state_dict'"),
    ({'model': of('a'), 'model_ema': of('b')}, 'b', "'model_ema', the moving average; it also "
     "holds 'model'"),
    ({'state_dict': of('a'), 'state_dict_ema': of('b')}, 'b', 'the moving average'),
    ({'state_dict': of('a'), 'state_dict_ema': None}, 'a', "its 'state_dict'"),
    ({'model': of('a', 'mean'), 'ema': of('a')}, ['a', 'mean'],
     "average 'ema' has 1 tensors of 2 in 'model', and is left out"),
    ({'checkpoint': {'model': of('a')}}, 'a', "its 'checkpoint'"),
    ({'weights_of_mine': of('a', 'b'), 'mean': of('c'), 'step': TENSOR}, 'ab', 'weights_of_mine'),
    (of('a') | {'_extra_state': None}, 'a', "left out 1 entries .*'_extra_state'"),
])
def test_which_part_of_a_checkpoint_is_the_model(saved, names, said, caplog):
    with caplog.at_level('INFO'):
        assert list(state_dict.choose(saved, 'w.pth').tensors) == list(names)
    assert re.search(said, caplog.text)


@pytest.mark.parametrize('beside, names', [
    ({'class_to_idx': {'cat': 1, 'ant': 0}}, ('ant', 'cat')),
    ({'classes': ['b', 'a']}, ('b', 'a')),
    ({'meta': {'CLASSES': ('b', 'a')}}, ('b', 'a')),
    ({'idx_to_class': {'1': 'a', '0': 'b'}}, ('b', 'a')),
    ({'idx_to_class': {'0': 1, '1': 2, '2': 0}}, ('1', '2', '0')),
    ({'class_to_idx': {'0': 1, '1': 2, '2': 0}}, ('2', '0', '1')),
    ({'id2label': {'cat': 1, 'ant': 0}}, ('ant', 'cat')), ({'classes': [7, 3]}, ('7', '3')),
    ({'classes': 10}, ()), ({'class_to_idx': {'cat': 1, 'ant': 5}}, ()), ({'classes': [1.5]}, ()),
])
def test_names_of_classes_in_a_checkpoint(beside, names):
    assert state_dict.choose({'state_dict': of('a')} | beside, 'w').label_names == names


def test_views_into_a_storage(tmp_path, monkeypatch):
    torch = fake_torch(monkeypatch)
    base = np.arange(12, dtype=np.float32)
    tree = {'turned': Saved(torch, '0', base, offset=1, size=(3, 2), stride=(1, 4))}
    (tmp_path / 'w.pth').write_bytes(zipped(tree, {'0': base.tobytes()}))
    found = files.read(str(tmp_path / 'w.pth'))['turned']
    np.testing.assert_array_equal(found, base.reshape(3, 4).T[1:4, :2])


def test_safetensors_and_npz(tmp_path):
    safetensors.numpy.save_file(TENSORS, tmp_path / 'w.safetensors')
    found = files.read(str(tmp_path / 'w.safetensors'))
    same({name: found[name] for name in TENSORS})
    (tmp_path / 'w.safetensors').rename(tmp_path / 'w.bin')
    assert set(files.read(str(tmp_path / 'w.bin'))) == set(TENSORS)
    np.savez(tmp_path / 'w.npz', **{'a/b/kernel': TENSORS['conv.weight']})
    np.testing.assert_array_equal(
        files.read(str(tmp_path / 'w.npz'))['a/b/kernel'], TENSORS['conv.weight'])


def test_what_people_give_for_weights_is_called_by_its_name(tmp_path, monkeypatch):
    torch = fake_torch(monkeypatch)
    quantized = {'a.weight': Saved(torch, '0', np.zeros(2, np.float32), by='_rebuild_qtensor')}
    for name, content, words in (
            ('whole.pth', zipped(types.SimpleNamespace(a=1), {}),
             r"whole pickled module \(types.SimpleNamespace\).*save its model.state_dict\(\)"),
            ('dict.pt', zipped({'epoch': 3, 'model': types.SimpleNamespace(a=1)}, {}),
             'whole pickled module'),
            ('script.pt', script(), r'program of TorchScript; save its model.state_dict\(\)'),
            ('empty.pth', zipped({'epoch': 3}, {}), 'no tensors by name, but a dict; save'),
            ('quantized.pth', zipped(quantized, {'0': bytes(8)}),
             "1 of its tensors are of a kind that is not read, such as 'a.weight'"),
            ('pointer.bin', b'version https://git-lfs.github.com/spec/v1\noid 1', 'git lfs pull'),
            ('page.pth', b'\n<!DOCTYPE html><html>', 'is a web page'),
            ('keras.h5.pt', b'\x89HDF\r\n', 'HDF5'), ('w.pth.tar', b'\x1f\x8b' + bytes(9), 'gzip'),
            ('archive.tar', bytes(257) + b'ustar', 'an archive of tar; unpack it')):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=f'{name}: .*{words}') as caught:
            files.read(str(tmp_path / name))
        assert '\n' not in str(caught.value)


def script() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, 'w') as archive:
        archive.writestr('net/data.pkl', b'')
        archive.writestr('net/code/__torch__.py', 'pass', zipfile.ZIP_DEFLATED)
    return file.getvalue()


class Bomb:
    """What unpickling would run."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), 'w')


def header(entries, length=None, tail=b'') -> bytes:
    text = json.dumps(entries).encode() if not isinstance(entries, bytes) else entries
    return struct.pack('<Q', len(text) if length is None else length) + text + tail


def entry(shape=(2,), begin=0, end=8, dtype='F32'):
    return {'dtype': dtype, 'shape': list(shape), 'data_offsets': [begin, end]}


def hostile(torch, tmp_path) -> dict[str, bytes]:
    """{file name: content}; the number in front tells them apart."""
    good = zipped(*saved(torch))
    base = np.arange(4, dtype=np.float32)

    def tensor(**view):
        return zipped({'a': Saved(torch, '0', base, **view)}, {'0': base.tobytes()})

    nested = ()
    for _ in range(60):
        nested = (nested, nested)
    large = np.zeros(100_000, np.float32)
    many = collections.OrderedDict((str(i), Saved(torch, '0', large)) for i in range(5000))
    return {
        '01.safetensors': b'', '02.safetensors': b'\xff' * 64,
        '03.safetensors': header({'a': entry()}, length=2**60),
        '04.safetensors': header({'a': entry()}, tail=b'1234'),
        '05.safetensors': header({'a': entry(shape=(2**40, 2**40))}, tail=bytes(8)),
        '06.safetensors': header({'a': entry(end=2**50)}, tail=bytes(8)),
        '07.safetensors': header({'a': entry(begin=8, end=0)}, tail=bytes(8)),
        '08.safetensors': header({'a': entry(), 'b': entry(begin=4, end=12)}, tail=bytes(12)),
        '09.safetensors': header({'../../etc/passwd': entry()}, tail=bytes(8)),
        '10.safetensors': header({'/root/a': entry()}, tail=bytes(8)),
        '11.safetensors': header({'a\nb': entry()}, tail=bytes(8)),
        '12.safetensors': header({'a' * 5000: entry()}, tail=bytes(8)),
        '13.safetensors': header({'a': entry(dtype='PICKLE')}, tail=bytes(8)),
        '14.safetensors': header(b'[' * 100_000), '15.safetensors': good,
        '16.safetensors': pickled(Bomb(tmp_path / 'ran')),
        '17.pth': b'', '18.pth': good[:len(good) // 2], '19.pth': pickled(Bomb(tmp_path / 'ran')),
        '20.pth': zipped({'state_dict': Bomb(tmp_path / 'ran')}, {}),
        '21.pth': zipped(b'cos\nsystem\n(S"touch ran"\ntR.', {}),
        '22.pth': zipped(*saved(torch), compression=zipfile.ZIP_DEFLATED),
        '23.pth': tensor(size=(2**30, 2**30), stride=(0, 0)),
        '24.pth': tensor(size=(4,), stride=(-1,)), '25.pth': tensor(offset=3),
        '26.pth': tensor(offset=-2), '27.pth': zipped({'a': nested, 'b': 1}, {}),
        '28.pth': zipped(many, {'0': bytes(400_000)}),
        '29.pth': zipped({'../a': Saved(torch, '0', base)}, {'0': base.tobytes()}),
        '30.pth': zipped({'a': Saved(torch, '../0', base)}, {'0': base.tobytes()}),
        '31.pth': zipped([1, 2], {}), '32.pth': zipped(b'\x80\x02N' * 1000 + b'.', {}),
        '33.npz': b'PK\x03\x04' + bytes(100), '34.npz': pickled(Bomb(tmp_path / 'ran')),
        '35.npz': npz(np.array([Bomb(tmp_path / 'ran')], object)),
        '36.npz': npz(np.zeros(40_000_000, np.uint8), compressed=True),
        '37.json': b'{}', '38.pkl': pickled(TENSORS),
    }


def npz(array, compressed=False) -> bytes:
    file = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(file, a=array)
    return file.getvalue()


def test_hostile_files_are_one_line_and_nothing_runs(tmp_path, monkeypatch):
    files_there = hostile(fake_torch(monkeypatch), tmp_path)
    assert len(files_there) >= 30
    for name, content in files_there.items():
        (tmp_path / name).write_bytes(content)
        try:
            pytest.fail(f'{name} gave {list(files.read(str(tmp_path / name)))[:5]}')
        except DataError as error:
            caught = error
        assert str(tmp_path / name) in str(caught) and '\n' not in str(caught), name
        assert len(str(caught)) < 500, name
    assert not (tmp_path / 'ran').exists()


def test_reading_imports_neither_pickle_nor_torch(tmp_path, monkeypatch):
    (tmp_path / 'w.pth').write_bytes(zipped(*saved(fake_torch(monkeypatch))))
    code = ('import sys; from imgjax.interop import files; '
            f'files.read({str(tmp_path / "w.pth")!r}); '
            'assert "torch" not in sys.modules')
    subprocess.run([sys.executable, '-c', code], check=True)


def test_no_such_file(tmp_path):
    with pytest.raises(DataError, match='no such file'):
        files.read(str(tmp_path / 'w.pth'))
