"""Writes a named intermediate of a model for every image of a split."""

import contextlib
import itertools
import logging
import os
import shutil
import zipfile
from collections.abc import Callable, Iterator

import numpy as np

from imgjax import data, evaluate
from imgjax.card import forward, store
from imgjax.card.inputs import chosen
from imgjax.commands import evaluate as evaluate_command
from imgjax.data import records
from imgjax.errors import ConfigError
from imgjax.process import terminal
from imgjax.rundir import outputs
from imgjax.study import code

log = logging.getLogger('imgjax')

_MARK = b'imgjax launch.features'  # at the end of a file that this command writes
_BATCHES = 8  # of a chunk, which is stored as soon as it is computed
FORMATS = ('.npz', '.parquet')


def write(workdir: str, layer: str, output: str, split: str = '', at: int | str | None = None,
          changes: dict | None = None, pool: str = 'mean') -> dict:
    """Writes an intermediate of each image of a split; the same call goes on where it stopped.

    A .npz has the arrays `features` float32 (N, ...), `logits` float32 (N, K), `labels` int32 (N,)
    or float32 (N, K), `names` (N,) and `class_names` (K,); a .parquet has one row per image with
    name, label, label_name, features and logits. Rows are in the order of the split.

    Args:
      workdir: the run directory.
      layer: the name of the intermediate, a key of the model's `out`.
      output: the file to write.
      split: the split; '' takes config.data.eval_split.
      at: the step, as `which_step` takes it; None takes the newest step that verifies.
      changes: fields of the config that name another dataset, as evaluate_split takes them.
      pool: 'mean' averages over the positions of maps and tokens; 'none' writes them as they are.

    Returns layer, shape, split, output, step, workdir and state_digest.

    Raises:
      ConfigError: the model has no such intermediate, or a flag is wrong.
      DataError: the data or the checkpoint cannot be used.
    """
    ending = os.path.splitext(output)[1]
    if ending not in FORMATS:
        raise ConfigError(f'--output={output}: takes a name ending in {" or ".join(FORMATS)}')
    if ending == '.parquet':
        _check_pyarrow()
    workdir, output = outputs.path('workdir', workdir), outputs.path('output', output)
    outputs.check_file('output', output, 'launch.features', (_MARK,))
    opened = evaluate_command.open_split_of(workdir, at, split or None, changes or {})
    setup, source = opened.setup, opened.source
    forward.check_layer(setup, layer)
    shape = forward.layers(setup)[layer]
    if pool == 'none' and ending == '.parquet' and len(shape) > 1:
        raise ConfigError(f'--pool=none: {layer} has {len(shape)} axes; write it as .npz, or take '
                          '--pool=mean')
    collect = forward.collector(setup, [layer], pool == 'mean')
    size = _BATCHES * evaluate.global_batch_size(setup.config.eval_batch_size, setup.mesh)
    starts = range(0, len(source.examples), size)
    key = store.key_of(code.version(setup.config), opened.meta['state_digest'],
                       source.fingerprint, setup.config.data, layer, pool, size)
    unfinished = f'{output}.unfinished'
    outputs.check_folder('output', unfinished, 'launch.features')

    def chunk(start: int) -> dict[str, np.ndarray]:
        def make() -> dict[str, np.ndarray]:
            rows = np.arange(start, min(start + size, len(source.examples)))
            part = chosen(source, rows)
            found = collect(opened.state, part, opened.split)
            names = [str(example['name']) for example in data.read(part, range(len(rows)))]
            return {'features': found.features[layer], 'logits': found.logits_NK,
                    'labels': found.labels, 'names': records.pack_names(names)}

        return store.arrays(unfinished, f'{start:012}', key, make)

    os.makedirs(unfinished, exist_ok=True)
    outputs.mark(unfinished, 'launch.features', [store.FOLDER])
    longest = 1
    with terminal.progress(len(starts), 0, 'chunk') as bar:
        for start in starts:
            longest = max(longest, *map(len, records.unpacked(chunk(start)['names'])))
            bar.update()
    names = list(setup.dataset.class_names)
    if ending == '.npz':
        _write_npz(output, lambda: map(chunk, starts), names, len(source.examples), longest)
    else:
        _write_parquet(output, lambda: map(chunk, starts), names)
    shutil.rmtree(os.path.join(unfinished, store.FOLDER))
    os.unlink(os.path.join(unfinished, outputs.MARKER))
    with contextlib.suppress(OSError):  # what a person put there stays
        os.rmdir(unfinished)
    whole = [len(source.examples), *(shape if pool == 'none' else shape[-1:])]
    return {'layer': layer, 'shape': whole, 'split': opened.split,
            'output': os.path.abspath(output), 'step': opened.meta['step'],
            'workdir': os.path.abspath(workdir), 'state_digest': opened.meta['state_digest']}


def _write_npz(output: str, chunks: Callable[[], Iterator[dict]], class_names: list[str],
               count: int, longest: int) -> None:
    """Writes the arrays of all chunks, one after the other, without holding them in memory.

    `count` is the number of images and `longest` the length of the longest name.
    """
    with outputs.replacing(output, binary=True) as file, zipfile.ZipFile(file, 'w') as archive:
        archive.comment = _MARK
        for name in ('features', 'logits', 'labels', 'names'):
            arrays = (np.array(records.unpacked(one[name]), f'<U{longest}') if name == 'names'
                      else one[name] for one in chunks())
            _write_array(archive, name, arrays, count)
        _write_array(archive, 'class_names', iter([np.array(class_names)]), len(class_names))


def _write_array(archive: zipfile.ZipFile, name: str, arrays: Iterator[np.ndarray],
                 count: int) -> None:
    """Writes arrays as one entry of a .npz, stacked along their first axis of `count` rows."""
    first = next(arrays)
    with archive.open(f'{name}.npy', 'w', force_zip64=True) as entry:
        np.lib.format.write_array_header_2_0(entry, {
            'descr': np.lib.format.dtype_to_descr(first.dtype), 'fortran_order': False,
            'shape': (count, *first.shape[1:])})
        for array in itertools.chain([first], arrays):
            entry.write(np.ascontiguousarray(array).tobytes())


def _write_parquet(output: str, chunks: Callable[[], Iterator[dict]],
                   class_names: list[str]) -> None:
    """Writes a row per image, a row group per chunk."""
    import pyarrow as pa
    from pyarrow import parquet

    def rows(one: dict) -> dict:
        labels, single = one['labels'], one['labels'].ndim == 1
        numbers = [[label] for label in labels.tolist()] if single else [
            np.flatnonzero(label).tolist() for label in labels]
        return {'name': records.unpacked(one['names']),
                'label': labels if single else numbers,
                'label_name': ['|'.join(class_names[k] for k in one) for one in numbers],
                'features': list(one['features']), 'logits': list(one['logits'])}

    with outputs.replacing(output, binary=True) as file, contextlib.ExitStack() as opened:
        writer = None
        for one in chunks():
            table = pa.table(rows(one)).replace_schema_metadata({b'written by': _MARK})
            writer = writer or opened.enter_context(parquet.ParquetWriter(file, table.schema))
            writer.write_table(table)


def _check_pyarrow() -> None:
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        raise ConfigError('--output: .parquet needs pyarrow; install imgjax[parquet], or take '
                          '.npz') from None
