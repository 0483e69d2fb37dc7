"""Splits: which there are, the share that is held out where there is only one, slices of them."""

import bisect
import itertools
import logging
import os
import types
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import xxhash

from imgjax.data import Source, classes, image_files, left_out, read, split_names
from imgjax.data.fingerprint import fingerprint
from imgjax.data.split_names import HELD_OUT as HELD_OUT
from imgjax.data.split_names import resolve as resolve
from imgjax.data.split_names import resolve_share as resolve_share
from imgjax.errors import ConfigError, DataError, one_line

log = logging.getLogger('imgjax')

_ABSENT = 'classes without images'
_ARCHIVES = ('.zip', '.tar.gz', '.tgz', '.tar.bz2', '.tar.xz', '.7z', '.rar')


def data_path(options: dict, what: str) -> str:
    """Returns config.data.path with ~ expanded; `what` says what it shall name.

    Args:
      options: plain config['data'].
      what: such as 'the folder that holds the class folders'; its second word is folder or file.

    Raises:
      ConfigError: it is empty, there is nothing of that name, or a file for a folder.
    """
    path, kind = os.path.expanduser(options['path']), what.split()[1]
    if not path:
        raise ConfigError(f'config.data.path: empty; name {what}')
    if not os.path.exists(path):
        raise ConfigError(f'config.data.path: {path}: no such {kind}; name {what}')
    check_unpacked(path, 'config.data.path: ', what)
    if os.path.isdir(path) != (kind == 'folder'):
        there = 'folder' if os.path.isdir(path) else 'file'
        near = f': {os.path.dirname(path) or "."}' if there == 'file' else ''
        raise ConfigError(f'config.data.path: {path}: is a {there}; name {what}{near}')
    return path


def check_unpacked(path: str, field: str, what: str) -> None:
    """Checks that a path is no archive.

    Raises:
      ConfigError: it is one; the line begins with `field` and says to name `what`.
    """
    if path.lower().endswith(_ARCHIVES) and os.path.isfile(path):
        raise ConfigError(f'{field}{path}: is an archive; unpack it, and name {what}')


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
            chosen = held_out_share([names[row] for row in order.tolist()], labels[order], share)
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
    log.info('%s: no split with labels is for evaluation; of %s, %s of its %s images, a share of '
             'each class, are held out (config.data.held_out)',
             options['path'] or options['name'], part, f'{chosen.sum():,}', f'{len(chosen):,}')


def count_unused_share(names: Sequence[str], chosen: np.ndarray, options: dict,
                       unused: dict[str, tuple[int, str]]) -> None:
    """Counts in `unused` the share `chosen`, bool (N,), where no split evaluates on it."""
    if not chosen.any():
        return
    first = names[int(chosen.argmax())]
    if 'eval_split' not in options:
        left_out.count(unused, 'images that the split held_out has', first, int(chosen.sum()))
    elif not _holds_out(options):
        left_out.count(unused, 'held out though nothing is evaluated on them, as '
                       'config.data.held_out says', first, int(chosen.sum()))


class _View:
    """Rows of other examples, one part after another."""

    def __init__(self, parts: list[tuple[Source, np.ndarray]]):
        self._parts = parts
        self._ends = list(itertools.accumulate(len(rows) for _, rows in parts))

    def __len__(self) -> int:
        return self._ends[-1]

    def _find(self, index: int) -> tuple[int, int]:
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


def open_part(split: str, there: Iterable[str], refusal: str, options: dict,
              open_one: Callable[[str], Source], has_labels: Callable[[str], bool]) -> Source:
    """Opens a split of a set; where `train` is alone, the part of it that is meant.

    `train` is divided where config.data.eval_split asks for a split that is held out; else, as for
    slices of it, it is whole. A split for evaluation that has no labels is not there for this.

    Args:
      split: which.
      there: the splits that the set has.
      refusal: begins the error.
      options: plain config['data'].
      open_one: opens one of `there`. Its examples may have `names()`, relative to the set, which
        say what is held out; else it is their numbers.
      has_labels: says of one of `there` whether its images have labels; asked where one is for
        evaluation.

    Raises:
      ConfigError: no such split, or reading the labels of `train` is a matter of hours.
      DataError: the split is for evaluation and has no labels.
    """
    every, asked = sorted(there), split
    labelled = _with_labels(split, every, options, open_one, has_labels)
    trained = split_names.bare(options.get('train_split', 'train'))
    there = {name: name for name in labelled}
    if labelled == trained:  # the only one, whatever its name
        there = {'train': trained[0]}
        split = 'train' if split == trained[0] else split
    part, held_out = resolve_share(split, there, refusal) if _holds_out(options) else (
        resolve(split, there, refusal), None)
    source = open_one(there[part])
    unused = dict(source.left_out)
    for name in unread(asked, every, labelled, options):
        left_out.count(unused, 'splits that this run does not read', name)
    if held_out is None or (not held_out and not options['held_out']):
        if _labels_are_quick(source):
            count_absent(unused, source.class_names, source.labels())
        return source._replace(left_out=unused)
    if not _labels_are_cheap(source):
        raise ConfigError(
            f'config.data.eval_split: {split}: a share of each class takes the labels of all of '
            f'{options["name"]!r}, which lie among its images; set train_split=train[:90%] and '
            'eval_split=train[90%:] instead, as TFDS shuffles what it prepares')
    labels = source.labels()
    names = getattr(source.examples, 'names', lambda: map(str, range(len(source.examples))))
    names = list(names())
    chosen = held_out_share(names, labels, options['held_out'])
    if held_out:
        say_share(part, chosen, options)
    else:
        count_unused_share(names, chosen, options, unused)
    count_absent(unused, source.class_names, labels[chosen == held_out])
    view = _View([(source, np.flatnonzero(chosen == held_out))])
    mark = fingerprint([f'{source.fingerprint} {held_out} {options["held_out"]}'])
    return source._replace(examples=view, labels=view.labels, left_out=unused, fingerprint=mark)


def _with_labels(split: str, there: list[str], options: dict, open_one: Callable[[str], Source],
                 has_labels: Callable[[str], bool]) -> list[str]:
    """Returns the splits without those that have no labels and would be taken for `held_out`.

    Raises:
      ConfigError, DataError: `split` names one that is for evaluation and has no labels.
    """
    for name in (split, *split_names.bare(options.get('eval_split', 'held_out'))):
        found = split_names.find(name, there)
        if not split_names.is_held_out(name):
            continue
        if found and split_names.kind(name) != 'held_out':
            if name == split and not has_labels(found):
                raise _unlabelled(found, options, open_one)
            continue
        while (first := split_names.find('held_out', there)) and not has_labels(first):
            there = [other for other in there if other != first]
    return there


def _unlabelled(split: str, options: dict, open_one: Callable[[str], Source]) -> Exception:
    """Returns the error of a split without labels: that of its source, where it has one."""
    fix = 'evaluate on a share of train with config.data.eval_split=held_out'
    try:
        open_one(split)
    except (ConfigError, DataError) as error:
        return type(error)(f'{error}; or, as {split} has no labels, {fix}')
    return DataError(f'{options["path"] or options["name"]}: the images of the split {split!r} '
                     f'have no labels; {fix}')


def unread(split: str, there: Iterable[str], labelled: Iterable[str], options: dict) -> list[str]:
    """Returns the splits that a run does not read, for the split that `says_unread`; else none.

    Args:
      split: which one is opened.
      there: all splits of the set.
      labelled: those of them that can be read.
      options: plain config['data'].
    """
    if not says_unread(split, options):
        return []
    named = [name for spec in (options.get('train_split', 'train'), options['eval_split'])
             for name in split_names.bare(spec)]
    read = {split_names.find(name, labelled) for name in named}
    return sorted(set(there) - read)


def says_unread(split: str, options: dict) -> bool:
    """Returns whether it is this split that says what a run does not read, so that it is said once.

    It is the first one that is trained on; without an `eval_split` there is no run.
    """
    first = split_names.bare(options.get('train_split', 'train'))[0]
    return split_names.find(first, [split]) == split and 'eval_split' in options


def count_absent(unused: dict[str, tuple[int, str]], class_names: Sequence[str],
                 labels: np.ndarray) -> None:
    """Counts in `unused` the classes that no example of a split has; of an empty split none."""
    absent = np.flatnonzero(~present(labels, len(class_names)))
    if len(absent) and len(labels):
        left_out.count(unused, _ABSENT, class_names[absent[0]], len(absent))


def _holds_out(options: dict) -> bool:
    """Returns whether a run evaluates on a held-out split; without `eval_split`, a copy does."""
    names = split_names.bare(options.get('eval_split', 'held_out'))
    return any(map(split_names.is_held_out, names))


def _labels_are_cheap(source: Source) -> bool:
    return getattr(source.examples, 'labels_are_cheap', True) and len(source.examples) < 10**8


def _labels_are_quick(source: Source) -> bool:
    """Returns whether all labels can be read at each start: a second, and a GiB, at most."""
    count = len(source.examples) * (len(source.class_names) if source.multi_label else 1)
    return getattr(source.examples, 'labels_are_quick', True) and count < 2**28


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
        raise ConfigError(f'config.data: split {spec!r}: {one_line(error)}; write it such as '
                          'train[:90%], train[100:200] or train[10%:]+test') from None
    parts = []
    for one in ranges:
        source = sources[one.splitname]
        start, stop, _ = slice(one.from_, one.to).indices(len(source.examples))
        parts.append((source, _rows(source, start, stop)))
    view = _View(parts)
    marks = [source.fingerprint for source in sources.values()]
    files = None if any(source.files is None for source in sources.values()) else np.concatenate(
        [source.files[rows] for source, rows in parts])
    unused = left_out.added_up(source.left_out for source in sources.values())
    unused.pop(_ABSENT, None)  # a class that one lacks may be in another
    _say_absent(spec, view, list(sources.values()), unused)
    return Source(view, first.class_names, fingerprint([' '.join([spec, *marks])]), view.labels,
                  first.multi_label, unused, files)


def _rows(source: Source, start: int, stop: int) -> np.ndarray:
    """Returns the rows of a slice: a row that repeats a file lies where that file came first."""
    rows = np.arange(start, max(start, stop))
    if source.files is None:
        return rows
    first = image_files.file_numbers(source.files)
    if (first == np.arange(len(first))).all():
        return rows
    return np.flatnonzero((first >= start) & (first < stop))


def _say_absent(spec: str, view: _View, sources: Sequence[Source], unused: dict) -> None:
    """Says which classes the sources have and slices of them lack; counts those of neither."""
    if not len(view) or not all(map(_labels_are_cheap, sources)):
        return
    names = sources[0].class_names
    there = np.any([present(source.labels(), len(names)) for source in sources], axis=0)
    absent = np.flatnonzero(there & ~present(view.labels(), len(names)))
    if len(absent):
        first = ', '.join(names[i] for i in absent[:3])
        log.warning('%s: has no images of %d of the %d classes, such as %s%s; is its split in the '
                    'order of its classes? config.data.eval_split=held_out takes a share of each',
                    spec, len(absent), len(names), first, ' ...' if len(absent) > 3 else '')
    if not there.all():
        left_out.count(unused, _ABSENT, names[there.argmin()], int((~there).sum()))


def present(labels: np.ndarray, classes: int) -> np.ndarray:
    """Returns bool (K,): which classes there are examples of; others, as -1, are none."""
    if labels.ndim == 2:
        return np.asarray(labels.any(axis=0))
    counts: np.ndarray = np.bincount(labels[labels >= 0], minlength=classes)[:classes]
    return counts.astype(bool)
