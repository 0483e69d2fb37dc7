"""What lies in a run directory is not trusted: it is looked at before anything reads or follows it.

Files are read up to a size, never through a link; what is written goes to a new file that takes
the old one's place. `check_files` and `check_arrays` say whether a checkpoint declares what the
model expects before Orbax and TensorStore read it: these would allocate what it declares.
docs/security.md tells what is checked and what is not.
"""

import contextlib
import glob
import json
import logging
import math
import os
import re
import stat

import ml_dtypes  # noqa: F401  (numpy then knows bfloat16 and its kin by name)
import numpy as np

from imgjax.errors import ConfigError

log = logging.getLogger('imgjax')

# Of a run directory, all that is read or written at its top.
_FILES = ('config.json', 'dataset.json', 'environment.json', 'report.html', 'metrics.jsonl',
          'diverged.json', 'lock', 'saved')
_DIRECTORIES = ('checkpoints', 'damaged', 'tensorboard', 'profile')

JSON_BYTES = 8 * 2**20  # of dataset.json: some 200,000 class names
_DEPTH = 64  # of JSON: names of nested fields are joined
_ROWS_BYTES = 2**30  # of metrics.jsonl
_LINE_BYTES = 64 * 2**10  # of one row of it
_ENTRIES = 100_000  # files and directories of one checkpoint
_LAST_STEP = 2**31 - 1  # the step is an int32

# Before what Zstandard packed in OCDBT: one of three magic numbers, a length, a version, the number
# of the compression. A node is written with up to 8 MiB, and blocks are counted as if full.
_NODE = re.compile(rb'\x0c\xdb(?:\x20\xde|\x12\x34|\x3a\x2a).{8}[\x80-\xff]{0,4}[\x00-\x7f]'
                   rb'(?:\x01|\x81\x80{0,3}\x00)', re.DOTALL)
_NODE_HEAD, _NODE_BYTES = 32, 24 * 2**20
_ZSTD, _ZSTD_SKIPPED = 0xFD2FB528, range(0x184D2A50, 0x184D2A60)
_ZSTD_BLOCK = 128 * 2**10  # the most that a block unpacks to


def opener(path: str, flags: int) -> int:
    """Is given to open(): the last part of the path may be no link, and no FIFO blocks."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)


def read(path: str, limit: int) -> bytes:
    """Returns a plain file's bytes.

    Raises:
      ValueError: it is a link, no file, or larger than `limit` bytes.
      OSError: as of open().
    """
    if os.path.islink(path):
        raise ValueError('it is a link')
    with open(path, 'rb', opener=opener) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ValueError('it is no plain file')
        data = file.read(limit + 1)
    if len(data) > limit:
        raise ValueError(f'it is larger than {limit:,} bytes')
    return data


def read_json(path: str, limit: int = JSON_BYTES):
    """Returns the plain data of a JSON file; a name that stands twice, NaN and infinity are errors.

    Raises:
      ValueError: as of `read`; or it is no JSON, or nested deeper than anything that is written.
      OSError: as of open().
    """
    data = read(path, limit)
    try:
        value = json.loads(data, object_pairs_hook=_once, parse_constant=_no_constant)
    except RecursionError:
        value, inner = None, True
    else:
        inner = [value]
        for _ in range(_DEPTH):
            inner = [part for one in inner if isinstance(one, dict | list)
                     for part in (one.values() if isinstance(one, dict) else one)]
    if inner:
        raise ValueError('it is nested too deeply')
    return value


def _once(pairs: list[tuple]) -> dict:
    if len(dict(pairs)) < len(pairs):
        raise ValueError('a name stands twice in it')
    return dict(pairs)


def _no_constant(word: str):
    raise ValueError(f'{word} is no JSON')


def read_rows(path: str) -> list:
    """Returns the JSON value of each line; what is none is left out, and its number said.

    A line that a crash cut short is such; the last line of a missing file is its first.

    Raises:
      ConfigError: it is no plain file, or larger than a run's rows ever are.
    """
    if not os.path.lexists(path):
        return []
    if not stat.S_ISREG(os.lstat(path).st_mode) or os.lstat(path).st_size > _ROWS_BYTES:
        raise ConfigError(f'{path}: no plain file of at most {_ROWS_BYTES:,} bytes; move it away')
    rows, bad, first = [], 0, b''
    with open(path, 'rb', opener=opener) as file:
        whole = True  # whether the line before was read to its end
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
def replacing(path: str, mode: str = 'w', **options):
    """Opens a new file that takes the place of `path` when the block ends without an error.

    So no reader sees a part of it, and a link at `path` or at the temporary name is replaced, not
    followed. It is on the disk before its name is.
    """
    temporary = f'{path}.tmp'
    with contextlib.suppress(FileNotFoundError):
        os.unlink(temporary)
    if 'b' not in mode:
        options.setdefault('encoding', 'utf-8')
    with open(temporary, mode.replace('w', 'x'), opener=opener, **options) as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def check_run(workdir: str) -> None:
    """Checks that a run directory holds plain files and directories where a run reads or writes.

    Raises:
      ConfigError: a link, a special file, or the name of a step that could be read in two ways.
    """
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
        with contextlib.suppress(ValueError):
            if not is_step(name) and int(name) is not None:
                raise ConfigError(f'{place}: {name[:40]!r} is no name of a step, which is a number '
                                  'such as 1200; move it away')


def is_step(name: str) -> bool:
    """Is it a name that the directory of a step has? '007', '1_0' and '٣' are numbers to int()."""
    return (name.isascii() and name.isdecimal() and len(name) <= len(str(_LAST_STEP))
            and str(int(name)) == name and int(name) <= _LAST_STEP)


def check_files(path: str, leaves: int) -> None:
    """Checks what a checkpoint consists of before any of it is read.

    Args:
      path: the directory of a step.
      leaves: how many arrays it shall hold; the JSON files grow with them.

    Raises:
      ValueError: a link, a special file, too many files, or a description larger than any is.
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
        arrays = '/d/' in f'/{name}'  # OCDBT's; the limit of these is in check_arrays
        if stat.S_ISREG(kind.st_mode) and not arrays and kind.st_size > limit:
            raise ValueError(f'{name!r} is larger than the {limit:,} bytes that describe the state')


def _walk(path: str):
    with os.scandir(path) as entries:
        for entry in entries:
            yield entry
            if entry.is_dir(follow_symlinks=False):
                yield from _walk(entry.path)


def check_arrays(path: str, arrays: dict) -> None:
    """Checks that a checkpoint's arrays are declared as the model's are.

    TensorStore unpacks no more of a chunk than it is declared to hold, but all of an OCDBT node:
    of 50 KB it made 3 GB. So the nodes are looked at too.

    Args:
      path: the directory of the item that Orbax wrote: OCDBT with Zarr 2 in it.
      arrays: {name with dots: what has a shape and a dtype}.

    Raises:
      ValueError: the files are larger than the arrays, a node unpacks to more than any that is
        written, or an array has another shape, dtype or coding than is written here.
    """
    sizes = [math.prod(one.shape) * np.dtype(one.dtype).itemsize for one in arrays.values()]
    files = [(entry.path, entry.stat(follow_symlinks=False).st_size) for entry in _walk(path)
             if entry.is_file(follow_symlinks=False)]
    held, most = sum(size for _, size in files), sum(sizes) * 1.1 + 2**24 + 8192 * len(sizes)
    if held > most:
        raise ValueError(f'its files are of {held:,} bytes, the state is of {sum(sizes):,}')
    budget = {'blocks': 100_000 + held // 4096}
    for file, _ in files:
        _check_nodes(file, budget)
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
        said = json.loads(text)
        dtype = np.dtype(array.dtype)
        # Zarr 2 has no name for the dtypes that NumPy does not know: TensorStore writes their own.
        names = (dtype.str, dtype.name) if dtype.kind in 'biuf' else (dtype.name,)
        fits = (
            said['shape'] == list(array.shape) and said['dtype'] in names
            and len(said['chunks']) == len(array.shape)
            and all(type(chunk) is int and 0 < chunk <= max(size, 1)
                    for chunk, size in zip(said['chunks'], array.shape, strict=True))
            and said['zarr_format'] == 2 and said['order'] == 'C' and not said['filters']
            and said['fill_value'] in (None, 0)
            and (said['compressor'] is None or said['compressor']['id'] == 'zstd'))
        if not fits:
            raise ValueError(f'{name!r} is declared as {text[:200].decode(errors="replace")}, and '
                             f'the model has {dtype.name}{list(array.shape)} there')


def _check_nodes(path: str, budget: dict) -> None:
    """Bounds what each packed node in a file unpacks to, from its blocks' headers alone.

    Where the nodes begin is not asked of the file: all places are taken that look like one.
    """
    with open(path, 'rb', buffering=0, opener=opener) as file:
        base, kept = 0, b''
        while data := file.read(2**22):
            data = kept + data
            found = _NODE.search(data)
            while found:
                _walk_frames(file.fileno(), base + found.end(), budget)
                found = _NODE.search(data, found.start() + 1)
            kept = data[-_NODE_HEAD:]
            base += len(data) - len(kept)


def _walk_frames(file: int, at: int, budget: dict) -> None:
    """Adds up what the blocks of a frame, and of those right behind it, unpack to (RFC 8878)."""
    total = 0
    while True:
        head = os.pread(file, 18, at)
        magic = int.from_bytes(head[:4], 'little')
        budget['blocks'] -= 1
        if magic in _ZSTD_SKIPPED:
            at += 8 + int.from_bytes(head[4:8], 'little')
            continue
        if magic != _ZSTD or len(head) < 6:
            return
        flags = head[4]
        single = flags >> 5 & 1
        at += 5 + (not single) + (0, 1, 2, 4)[flags & 3] + (single, 2, 4, 8)[flags >> 6]
        last = False
        while not last:
            block = os.pread(file, 3, at)
            word = int.from_bytes(block, 'little')
            last, kind, size = word & 1, word >> 1 & 3, word >> 3
            if len(block) < 3 or kind == 3 or size > _ZSTD_BLOCK:
                return  # a decoder stops here too
            total += _ZSTD_BLOCK if kind == 2 else size
            at += 3 + (1 if kind == 1 else size)
            budget['blocks'] -= 1
            if total > _NODE_BYTES or budget['blocks'] < 0:
                raise ValueError(f'a node of it unpacks to more than {_NODE_BYTES:,} bytes, or is '
                                 'in too many pieces')
        at += 4 * (flags >> 2 & 1)
