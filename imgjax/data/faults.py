"""The unreadable images of a run: a list in its directory, and a limit on their share."""

import collections
import contextlib
import glob
import json
import logging
import os
from collections.abc import Callable

import numpy as np

from imgjax.data import Source
from imgjax.data.decode import KINDS_OF_FIELDS
from imgjax.data.pipeline import FAULTS
from imgjax.errors import DataError, first_few
from imgjax.rundir import files

log = logging.getLogger('imgjax')

FILE = 'unreadable.jsonl'
_SHOWN = 10  # how many the log and an error name


def watch(workdir: str, source: Source, share: float,
          process: int = 0) -> Callable[[np.ndarray, np.ndarray], None]:
    """Returns record(indices, faults), to be called with every batch that is trained on.

    Each unreadable example gets one line in the run directory over all starts of the run:
    {'index', 'file', 'kind'}.

    Args:
      workdir: the run directory.
      source: the training split.
      share: of its examples; if more are unreadable, `record` raises DataError.
      process: the index of this process, which has a file of its own.
    """
    path = os.path.join(workdir, _file_of(process))
    found = {row['index']: row for row in read(workdir)}
    total = len(source.examples)

    def record(indices: np.ndarray, faults: np.ndarray) -> None:
        rows = []
        for place in np.flatnonzero(faults):
            index = int(indices[place])
            if index not in found:
                rows.append({'index': index, 'file': source.examples[index]['name'],
                             'kind': FAULTS[faults[place] - 1]})
                found[index] = rows[-1]
                if len(found) <= _SHOWN:
                    log.warning('%s: unreadable (%s), trained on with weight 0',
                                rows[-1]['file'], rows[-1]['kind'])
        if rows:
            found.update((row['index'], row) for row in read(workdir))  # of other processes too
            with open(path, 'a', encoding='utf-8', opener=files.opener) as file:
                file.writelines(json.dumps(row) + '\n' for row in rows)
        if len(found) > share * total:
            raise DataError(_complaint(list(found.values()), total, share, path))

    return record


def _complaint(rows: list[dict], total: int, share: float, path: str) -> str:
    kinds = collections.Counter(row['kind'] for row in rows)
    field = next((kind.removeprefix('without ') for kind in kinds if kind in KINDS_OF_FIELDS), '')
    return (f'{len(rows)} of {total} training images are unreadable '
            f'({", ".join(f"{kind}: {count}" for kind, count in kinds.most_common())}), more than '
            f'config.data.max_unreadable_share={share} allows: '
            f'{first_few((row["file"] for row in rows), _SHOWN)}; all are in {path}; '
            f'{f"set {field}, " if field else ""}repair them, or remove them')


def _file_of(process: int) -> str:
    return FILE if process == 0 else f'unreadable.{process}.jsonl'


def read(workdir: str) -> list[dict]:
    """Returns the lines of all processes, one per example, without lines that a kill cut off."""
    rows = {}
    for path in sorted(glob.glob(os.path.join(glob.escape(workdir), 'unreadable*.jsonl'))):
        for row in files.read_rows(path):
            with contextlib.suppress(ValueError, KeyError, TypeError, OverflowError):
                rows.setdefault(int(row['index']), {
                    'index': int(row['index']), 'file': str(row['file']),
                    'kind': str(row['kind'])})
    return list(rows.values())
