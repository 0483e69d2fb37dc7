"""Slices of splits, written as TFDS writes them: train[:90%], train[10%:]+test."""

import bisect
import itertools
import logging
import types
from collections.abc import Callable, Sequence

import numpy as np

from imgjax.data import Source, classes, image_files, labels_are_cheap, left_out, read
from imgjax.data.fingerprint import fingerprint
from imgjax.data.labels import present
from imgjax.errors import ConfigError, first_few, one_line

log = logging.getLogger('imgjax')


class Selection:
    """Chosen examples of one source or of several, one source after another."""

    def __init__(self, parts: list[tuple[Source, np.ndarray]]):
        """Takes (source, the indices of its chosen examples, int (N,)) for each source."""
        self._parts = parts
        self._ends = list(itertools.accumulate(len(rows) for _, rows in parts))
        self.labels_are_cheap = all(labels_are_cheap(source) for source, _ in parts)

    def __len__(self) -> int:
        return self._ends[-1]

    def _find(self, index: int) -> tuple[int, int]:
        """Returns (which part, which example of its source)."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        part = bisect.bisect_right(self._ends, index)
        rows = self._parts[part][1]
        return part, int(rows[index - self._ends[part] + len(rows)])

    def __getitem__(self, index: int) -> dict:
        part, inner = self._find(index)
        return self._parts[part][0].examples[inner]

    def __getitems__(self, indices: Sequence[int]) -> list[dict]:
        found = [self._find(index) for index in indices]
        examples: list[dict] = [{}] * len(found)
        for number in {part for part, _ in found}:
            rows = [row for row, (part, _) in enumerate(found) if part == number]
            inner = read(self._parts[number][0], [found[row][1] for row in rows])
            for row, example in zip(rows, inner, strict=True):
                examples[row] = example
        return examples

    def labels(self) -> np.ndarray:
        return np.concatenate([part.labels()[rows] for part, rows in self._parts])


def open_slices(spec: str, open_one: Callable[[str], Source]) -> Source:
    """Opens slices of the splits of any source.

    >>> import numpy as np
    >>> from imgjax.data import slices
    >>> from imgjax.data.sources import arrays
    >>> train = arrays.source(np.zeros((4, 8, 8), np.uint8), np.array([0, 1, 2, 0]))
    >>> slices.open_slices('train[:75%]', {'train': train}.get).labels().tolist()
    [0, 1, 2]

    Args:
      spec: such as 'train[:90%]+test'.
      open_one: opens a whole split by its name.

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
        raise ConfigError(f'config.data: split {spec!r}: {one_line(error).rstrip(".")}; a slice is '
                          'written train[:90%], train[100:200] or train[10%:]+test, within the '
                          'number of examples') from None
    parts = []
    for one in ranges:
        source = sources[one.splitname]
        start, stop, _ = slice(one.from_, one.to).indices(len(source.examples))
        parts.append((source, _rows(source, start, stop)))
    selection = Selection(parts)
    marks = [source.fingerprint for source in sources.values()]
    files = None if any(source.files is None for source in sources.values()) else np.concatenate(
        [source.files[rows] for source, rows in parts])
    unused = left_out.added_up(source.left_out for source in sources.values())
    unused.pop(left_out.ABSENT, None)  # another of the splits may have images of the class
    _count_absent(spec, selection, list(sources.values()), unused)
    return Source(selection, first.class_names, fingerprint([' '.join([spec, *marks])]),
                  selection.labels, first.multi_label, unused, files)


def _rows(source: Source, start: int, stop: int) -> np.ndarray:
    """Returns the examples of a slice; all rows of one file lie in the slice of its first row."""
    rows = np.arange(start, max(start, stop))
    if source.files is None:
        return rows
    first = image_files.file_numbers(source.files)
    if (first == np.arange(len(first))).all():
        return rows
    return np.flatnonzero((first >= start) & (first < stop))


def _count_absent(spec: str, selection: Selection, sources: Sequence[Source],
                  unused: dict) -> None:
    """Counts in `unused` the classes without images in any source.

    It warns of those that the sources have and the slices lack.
    """
    if not len(selection) or not all(map(labels_are_cheap, sources)):
        return
    names = sources[0].class_names
    in_sources = np.any([present(source.labels(), len(names)) for source in sources], axis=0)
    absent = np.flatnonzero(in_sources & ~present(selection.labels(), len(names)))
    if len(absent):
        log.warning('%s: has no images of %d of the %d classes, such as %s; is its split in the '
                    'order of its classes? config.data.eval_split=held_out takes a share of each',
                    spec, len(absent), len(names), first_few((names[i] for i in absent), 3))
    if not in_sources.all():
        left_out.count(unused, left_out.ABSENT, names[in_sources.argmin()],
                       int((~in_sources).sum()))
