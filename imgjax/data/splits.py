"""Splits: which there are, the share that is held out where there is only one, slices of them."""

import bisect
import hashlib
import itertools
import logging
import os
import types
from collections.abc import Callable, Sequence

import numpy as np
import xxhash

from imgjax.data import Source, classes, left_out, read
from imgjax.data.split_names import HELD_OUT as HELD_OUT
from imgjax.data.split_names import resolve as resolve
from imgjax.data.split_names import resolve_share as resolve_share
from imgjax.errors import ConfigError

log = logging.getLogger('imgjax')


def data_path(options: dict, what: str) -> str:
    """Returns config.data.path with ~ expanded; `what` says what it shall name.

    Raises:
      ConfigError: it is empty, or there is nothing of that name.
    """
    path = os.path.expanduser(options['path'])
    if not path:
        raise ConfigError(f'config.data.path: empty; name {what}')
    if not os.path.exists(path):
        raise ConfigError(f'config.data.path: {path}: no such {what.split()[1]}; name {what}')
    return path


def held_out_share(names: Sequence[str], labels: np.ndarray, share: float,
                   files: np.ndarray | None = None) -> np.ndarray:
    """Returns which examples are held out, bool (N,): a share of each class, by hash of the name.

    So it depends on neither order nor seed. A class of two or more gives at least one and keeps at
    least one; a share of 0 holds out nothing. Of several labels the first counts.

    Args:
      names: relative to the dataset, with '/'.
      labels: int (N,), or bool (N, K).
      share: 0 to below 1.
      files: int (N,), equal where two examples are one file: these are held out together, or not.
    """
    if files is not None and len(names):
        _, first, file = np.unique(files, return_index=True, return_inverse=True)
        if len(first) < len(names):
            order = np.sort(first)  # files in the order in which they come first
            chosen = held_out_share([names[row] for row in order], labels[order], share)
            return chosen[np.searchsorted(order, first)[file]]
    if not 0 <= share < 1:
        raise ConfigError(f'config.data.held_out: takes 0 to below 1, got {share}')
    held_out = np.zeros(len(names), bool)
    if not share:
        return held_out
    groups = labels if labels.ndim == 1 else labels.argmax(axis=1)
    hashes = np.fromiter((xxhash.xxh3_64_intdigest(os.fsencode(name)) for name in names),
                         np.uint64, len(names))
    order = np.lexsort((hashes, groups))
    for members in np.split(order, np.flatnonzero(np.diff(groups[order])) + 1):
        if len(members) > 1:
            count = min(max(1, round(share * len(members))), len(members) - 1)
            held_out[members[:count]] = True
    return held_out


def say_share(part: str, chosen: np.ndarray, options: dict) -> None:
    """Logs that a share of the split `part` is held out; `chosen`, bool (N,), says which."""
    log.info('%s is the only split with labels of %s: %s of its %s images, a share of each class, '
             'are held out (config.data.held_out)', part, options['path'] or options['name'],
             f'{chosen.sum():,}', f'{len(chosen):,}')


class _View:
    """Ranges of other examples, one after another."""

    def __init__(self, parts: list[tuple[Source, int, int]]):
        self._parts = parts
        self._ends = list(itertools.accumulate(stop - start for _, start, stop in parts))

    def __len__(self) -> int:
        return self._ends[-1]

    def _find(self, index: int) -> tuple[int, int]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        part = bisect.bisect_right(self._ends, index)
        _, _, stop = self._parts[part]
        return part, index - self._ends[part] + stop

    def __getitem__(self, index: int) -> dict:
        part, inner = self._find(index)
        return self._parts[part][0].examples[inner]

    def __getitems__(self, indices: Sequence[int]) -> list[dict]:
        found = [self._find(index) for index in indices]
        examples = [None] * len(found)
        for number in {part for part, _ in found}:
            rows = [row for row, (part, _) in enumerate(found) if part == number]
            inner = read(self._parts[number][0], [found[row][1] for row in rows])
            for row, example in zip(rows, inner, strict=True):
                examples[row] = example
        return examples

    def labels(self) -> np.ndarray:
        return np.concatenate([part.labels()[start:stop] for part, start, stop in self._parts])


def sliced(spec: str, open_one: Callable[[str], Source]) -> Source:
    """Opens a TFDS split spec such as 'train[:90%]+test' over the splits of any source.

    Raises:
      ConfigError: the spec cannot be read, or asks for more than there is.
      DataError: a split that is added has images of a class that the first one lacks.
    """
    from tensorflow_datasets.core import splits as tfds_splits  # a second, and rarely needed

    sources = {}
    for part in spec.split('+'):
        name = part.split('[')[0].strip()
        sources[name] = sources.get(name) or open_one(name)
    first = next(iter(sources.values()))
    sources = {name: classes.renumbered(source, first.class_names, name)
               for name, source in sources.items()}
    lengths = {name: types.SimpleNamespace(num_examples=len(source.examples), shard_lengths=())
               for name, source in sources.items()}
    try:
        if 'shard' in spec.partition('[')[2]:
            raise ValueError('shards are of the files; take % or numbers of examples')
        ranges = tfds_splits.ReadInstruction.from_spec(spec).to_absolute(lengths)
    except (ValueError, NotImplementedError) as error:
        text = ' '.join(str(error).split())
        raise ConfigError(f'config.data: split {spec!r}: {text}; write it such as train[:90%], '
                          'train[100:200] or train[10%:]+test') from None
    parts = []
    for one in ranges:
        source = sources[one.splitname]
        start, stop, _ = slice(one.from_, one.to).indices(len(source.examples))
        parts.append((source, start, max(start, stop)))
    view = _View(parts)
    marks = [source.fingerprint for source in sources.values()]
    fingerprint = hashlib.sha256(' '.join([spec, *marks]).encode()).hexdigest()[:16]
    return Source(view, first.class_names, fingerprint, view.labels, first.multi_label,
                  left_out.added_up(source.left_out for source in sources.values()))
