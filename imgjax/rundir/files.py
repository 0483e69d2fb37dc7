"""Reads and writes the files of a run directory, which are not trusted.

Files are read up to a limit of size and never through a link; a new file is written and then takes
the place of the old one. `check_files` and `check_arrays` compare what a checkpoint declares with
what the model expects before Orbax and TensorStore read it, as these allocate what it declares.
docs/guides/security.md lists what is checked and what is not.
"""

import contextlib
import glob
import json
import logging
import math
import os
import stat
from collections.abc import Iterator
from typing import IO, Any, NoReturn

import numpy as np

from imgjax.errors import ConfigError
from imgjax.rundir import ocdbt

log = logging.getLogger('imgjax')

# All that is read or written at the top of a run directory.
_FILES = ('config.json', 'dataset.json', 'environment.json', 'report.html', 'metrics.jsonl',
          'diverged.json', 'history.json', 'predictions.safetensors', 'result.json', 'lock',
          'saved')
_DIRECTORIES = ('card', 'checkpoints', 'damaged', 'earlier', 'tensorboard', 'profile')

JSON_BYTES = 8 * 2**20  # of dataset.json, about 200,000 class names
_DEPTH = 64  # the most levels of nested JSON
_ROWS_BYTES = 2**30  # of metrics.jsonl
_LINE_BYTES = 64 * 2**10  # of one row of it
_ENTRIES = 100_000  # files and directories of one checkpoint
_LAST_STEP = 2**31 - 1  # the step is an int32


def opener(path: str, flags: int) -> int:
    """Opens a file for open(opener=...): a link as the last part is refused, and no FIFO blocks."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)


def read(path: str, limit: int) -> bytes:
    """Returns a plain file's bytes.

    Raises:
      ValueError: it is no plain file, or larger than `limit` bytes.
      OSError: as open() raises it, also for a link.
    """
    with open(path, 'rb', opener=opener) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ValueError('it is no plain file')
        data = file.read(limit + 1)
    if len(data) > limit:
        raise ValueError(f'it is larger than {limit:,} bytes')
    return data


def read_json(path: str, limit: int = JSON_BYTES) -> Any:
    """Returns the plain data of a JSON file; a repeated name, NaN and infinity are errors.

    Raises:
      ValueError: as `read` raises it; or it is no JSON, or nested more deeply than a run writes.
      OSError: as open() raises it.
    """
    data = read(path, limit)
    try:
        value = json.loads(data, object_pairs_hook=_once, parse_constant=_none)
        inner = [value]
        for _ in range(_DEPTH):
            inner = [part for one in inner if isinstance(one, dict | list)
                     for part in (one.values() if isinstance(one, dict) else one)]
    except RecursionError:
        inner = [None]
    if inner:
        raise ValueError('it is nested too deeply')
    return value


def _none(word: str) -> NoReturn:
    raise ValueError(f'{word} is no JSON')


def _once(pairs: list[tuple]) -> dict:
    if len(dict(pairs)) < len(pairs):
        raise ValueError('a name stands twice in it')
    return dict(pairs)


def read_rows(path: str) -> list:
    """Returns the JSON value of each line; lines that are no JSON are left out and logged.

    Raises:
      ConfigError: it is no plain file, or larger than the rows of any run.
    """
    if not os.path.lexists(path):
        return []
    found = os.lstat(path)
    if not stat.S_ISREG(found.st_mode) or found.st_size > _ROWS_BYTES:
        raise ConfigError(f'{path}: no plain file of at most {_ROWS_BYTES:,} bytes; move it away')
    rows, bad, first = [], 0, b''
    with open(path, 'rb', opener=opener) as file:
        whole = True  # whether the line before was read up to its end
        while line := file.readline(_LINE_BYTES):
            begins, whole = whole, line.endswith(b'\n')
            try:
                if not begins:
                    raise ValueError('the rest of a long line')
                rows.append(json.loads(line.decode(errors='replace')))
            except (ValueError, RecursionError):
                bad, first = bad + begins, first or line
    if bad:
        log.warning('%s: left out %d lines that are no rows, first %.60r', path, bad, first[:80])
    return rows


@contextlib.contextmanager
def replacing(path: str, binary: bool = False, **options) -> Iterator[IO]:
    """Opens a new file that takes the place of `path` when the block ends without an error.

    It takes text, or bytes where `binary`; '?' replaces what is not UTF-8 in text. No reader sees a
    part of the file, and a link at `path` or at the temporary name is replaced, not followed. The
    content is on the disk before the name is.
    """
    temporary = f'{path}.tmp'
    with contextlib.suppress(FileNotFoundError):
        os.unlink(temporary)
    try:
        how = options if binary else {'encoding': 'utf-8', 'errors': 'replace', **options}
        with open(temporary, 'xb' if binary else 'x', opener=opener, **how) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):  # on a full disk it would use up the rest
            os.unlink(temporary)
        raise


def check_run(workdir: str) -> None:
    """Checks that a run directory holds plain files and directories where a run reads or writes.

    Raises:
      ConfigError: it holds a link, a special file, or a step whose name can be read in two ways; or
        its path is not UTF-8, which Orbax cannot write to.
    """
    absolute = os.path.abspath(workdir)
    shown = absolute.encode(errors='replace').decode()
    if shown != absolute:
        raise ConfigError(f'--workdir={shown}: the name is no UTF-8; take another')
    rows = [os.path.basename(path) for path in glob.glob(
        os.path.join(glob.escape(workdir), 'unreadable*.jsonl'))]  # of each process
    for names, is_kind, kind in (((*_FILES, *rows), stat.S_ISREG, 'plain file'),
                                 (_DIRECTORIES, stat.S_ISDIR, 'directory')):
        for name in names:
            path = os.path.join(workdir, name)
            if os.path.lexists(path) and not is_kind(os.lstat(path).st_mode):
                raise ConfigError(f'{path}: no {kind}, and nothing in a run directory is followed '
                                  'to elsewhere; put it back, or take another --workdir')
    place = os.path.join(workdir, 'checkpoints')
    for name in os.listdir(place) if os.path.isdir(place) else ():
        if not is_step(name) and _is_number(name):
            raise ConfigError(f'{place}: {name[:40]!r} is no name of a step, which is a number '
                              'such as 1200; move it away')


def free_path(folder: str, name: str) -> str:
    """Returns the first path that does not exist of folder/name, folder/name.1 and so on."""
    names = [name, *(f'{name}.{i}' for i in range(1, 1000))]
    return next(path for path in (os.path.join(folder, one) for one in names)
                if not os.path.lexists(path))


def is_of_run(name: str) -> bool:
    """Returns whether a run has a file or folder of this name at the top of its directory."""
    return name in (*_FILES, *_DIRECTORIES) or name.startswith('unreadable')


def is_step(name: str) -> bool:
    """Returns whether a step's folder can have this name; int() also reads '007', '1_0' and '٣'."""
    return (name.isascii() and name.isdecimal() and len(name) <= len(str(_LAST_STEP))
            and str(int(name)) == name and int(name) <= _LAST_STEP)


def _is_number(name: str) -> bool:
    try:
        return isinstance(int(name), int)
    except ValueError:
        return False


def check_files(path: str, leaves: int) -> None:
    """Checks the kinds and sizes of a checkpoint's files before any of them is read.

    Args:
      path: the directory of a step.
      leaves: how many arrays it should hold; the JSON files grow with their number.

    Raises:
      ValueError: it has a link, a special file, too many files, or too large a description.
    """
    if os.path.islink(path):
        raise ValueError('it is a link')
    limit = 2**20 + 4096 * leaves
    for found, entry in enumerate(_walk(path)):
        name = os.path.relpath(entry.path, path)
        kind = entry.stat(follow_symlinks=False)
        if not (stat.S_ISREG(kind.st_mode) or stat.S_ISDIR(kind.st_mode)):
            raise ValueError(f'{name!r} is neither a plain file nor a directory')
        if found > _ENTRIES:
            raise ValueError(f'it holds more than {_ENTRIES:,} files')
        arrays = '/d/' in f'/{name}'  # files of OCDBT; check_arrays limits these
        if stat.S_ISREG(kind.st_mode) and not arrays and kind.st_size > limit:
            raise ValueError(f'{name!r} is larger than the {limit:,} bytes that describe the state')


def _walk(path: str) -> Iterator[os.DirEntry]:
    with os.scandir(path) as entries:
        for entry in entries:
            yield entry
            if entry.is_dir(follow_symlinks=False):
                yield from _walk(entry.path)


def check_arrays(path: str, arrays: dict) -> None:
    """Checks that a checkpoint declares its arrays as the model has them.

    TensorStore unpacks no more of a chunk than its declared size, but it unpacks an OCDBT node as a
    whole: 50 KB became 3 GB. So the nodes are checked too.

    Args:
      path: the directory of the item that Orbax wrote: OCDBT with Zarr 2 in it.
      arrays: {name with dots: anything with a shape and a dtype}.

    Raises:
      ValueError: the files are larger than the arrays, a node unpacks to more than a written one
        can, or an array has another shape, dtype or coding than is written here.
    """
    sizes = [math.prod(one.shape) * np.dtype(one.dtype).itemsize for one in arrays.values()]
    files = [(entry.path, entry.stat(follow_symlinks=False).st_size) for entry in _walk(path)
             if entry.is_file(follow_symlinks=False)]
    stored, most = sum(size for _, size in files), sum(sizes) * 1.1 + 2**24 + 8192 * len(sizes)
    if stored > most:
        raise ValueError(f'its files have {stored:,} bytes, the state has {sum(sizes):,}')
    ocdbt.check_nodes([file for file, _ in files])
    layout = read_json(os.path.join(path, '_METADATA'), 2**20 + 4096 * len(arrays))
    if layout['use_zarr3'] or not layout['use_ocdbt']:
        raise ValueError('it has another layout than is written here')
    _check_declared(path, arrays)


def _check_declared(path: str, arrays: dict) -> None:
    import tensorstore  # only here: the data pipeline's processes import this module

    store = tensorstore.KvStore.open(
        {'driver': 'ocdbt', 'base': f'file://{os.path.abspath(path)}/'}).result()
    reads = {name: store.read(f'{name}/.zarray') for name in arrays}
    for name, array in arrays.items():
        text = bytes(reads[name].result().value)
        if len(text) > _LINE_BYTES:
            raise ValueError(f'{name!r} is described by {len(text):,} bytes')
        declared = json.loads(text)
        dtype = np.dtype(array.dtype)
        # Zarr 2 has no names for dtypes that NumPy does not know; TensorStore writes its own.
        names = (dtype.str, dtype.name) if dtype.kind in 'biuf' else (dtype.name,)
        fits = (
            declared['shape'] == list(array.shape) and declared['dtype'] in names
            and len(declared['chunks']) == len(array.shape)
            and all(type(chunk) is int and 0 < chunk <= max(size, 1)
                    for chunk, size in zip(declared['chunks'], array.shape, strict=True))
            and declared['zarr_format'] == 2 and declared['order'] == 'C'
            and not declared['filters']
            and declared['fill_value'] in (None, 0)
            and (declared['compressor'] is None or declared['compressor']['id'] == 'zstd'))
        if not fits:
            raise ValueError(f'{name!r} is declared as {text[:200].decode(errors="replace")}, and '
                             f'the model has {dtype.name}{list(array.shape)} there')
