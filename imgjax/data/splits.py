"""The splits of a dataset: which one a name means, and the share held out of a lone `train`."""

import logging
import os
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import xxhash

from imgjax.data import Source, labels_are_cheap, left_out, split_names
from imgjax.data.fingerprint import fingerprint
from imgjax.data.slices import Selection
from imgjax.data.split_names import HELD_OUT as HELD_OUT
from imgjax.data.split_names import resolve as resolve
from imgjax.data.split_names import resolve_share as resolve_share
from imgjax.errors import ConfigError, DataError

log = logging.getLogger('imgjax')

_ARCHIVES = ('.zip', '.tar.gz', '.tgz', '.tar.bz2', '.tar.xz', '.7z', '.rar')


def data_path(options: dict, kind: str, what: str) -> str:
    """Returns config.data.path with ~ expanded.

    Args:
      options: config.data.
      kind: 'folder' or 'file'.
      what: what the path has to name, such as 'the folder that holds the class folders'.

    Raises:
      ConfigError: it is empty, there is nothing of that name, or a file for a folder.
    """
    path = os.path.expanduser(options['path'])
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
    """Checks that a path names no archive.

    Raises:
      ConfigError: it names one; the line begins with `field` and tells to name `what`.
    """
    if path.lower().endswith(_ARCHIVES) and os.path.isfile(path):
        raise ConfigError(f'{field}{path}: is an archive; unpack it, and name {what}')


def held_out_share(names: Sequence[str], labels: np.ndarray, share: float,
                   files: np.ndarray | None = None) -> np.ndarray:
    """Returns which examples are held out, bool (N,): a share of each class, by hash of the name.

    The choice depends on neither the order nor a seed. A class of two or more examples gives at
    least one and keeps at least one; a share of 0 holds out nothing. Of several labels of an
    example the first counts.

    >>> import numpy as np
    >>> from imgjax.data import splits
    >>> names = ['cat/1.png', 'cat/2.png', 'dog/1.png', 'dog/2.png']
    >>> splits.held_out_share(names, np.array([0, 0, 1, 1]), 0.5).tolist()
    [False, True, True, False]

    Args:
      names: of the examples, relative to the dataset, with '/'.
      labels: int (N,), or bool (N, K).
      share: 0 to below 1.
      files: int (N,), equal where two examples are the same file, which is then held out as a whole
        or not at all.

    Raises:
      ConfigError: the share is out of its range.
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


def log_share(part: str, chosen: np.ndarray, options: dict) -> None:
    """Logs that the examples `chosen`, bool (N,), of the split `part` are held out."""
    log.info('%s: there is no labelled split for evaluation; a share of each class of %s is held '
             'out, %s of %s images (config.data.held_out)',
             options['path'] or options['name'], part, f'{chosen.sum():,}', f'{len(chosen):,}')


def count_unused_share(names: Sequence[str], chosen: np.ndarray, options: dict,
                       unused: dict[str, tuple[int, str]]) -> None:
    """Counts in `unused` the held-out share `chosen`, bool (N,), where no split evaluates on it."""
    if not chosen.any():
        return
    first = names[int(chosen.argmax())]
    if 'eval_split' not in options:
        left_out.count(unused, 'images of the held-out share', first, int(chosen.sum()))
    elif not _holds_out(options):
        left_out.count(unused, 'images held out by config.data.held_out, although no split '
                       'evaluates on them', first, int(chosen.sum()))


def open_part(split: str, available: Iterable[str], refusal: str, options: dict,
              open_one: Callable[[str], Source], has_labels: Callable[[str], bool]) -> Source:
    """Opens a split of a dataset, or where `train` is its only split the part of it that is meant.

    `train` is divided where config.data.eval_split asks for a held-out split; otherwise, and for
    slices of it, it stays whole. A split for evaluation without labels counts as missing here.

    Args:
      split: the split that is asked for.
      available: the splits that the dataset has.
      refusal: the beginning of the error where it has no such split.
      options: config.data.
      open_one: opens one of the available splits. Its examples may have a method `names()`, the
        names relative to the dataset that decide what is held out; without it the indices do.
      has_labels: whether the images of an available split have labels; called only for splits that
        are for evaluation.

    Raises:
      ConfigError: there is no such split, or reading the labels of `train` would take hours.
      DataError: the split is for evaluation and has no labels.
    """
    every = sorted(available)
    labelled = _with_labels(split, every, options, open_one, has_labels)
    trained = split_names.bare(options.get('train_split', 'train'))
    stored_as = {name: name for name in labelled}
    wanted = split
    if labelled == trained:  # the only split is the one to train on, whatever its name
        stored_as = {'train': trained[0]}
        wanted = 'train' if split == trained[0] else split
    if _holds_out(options):
        part, held_out = resolve_share(wanted, stored_as, refusal)
    else:
        part, held_out = resolve(wanted, stored_as, refusal), None
    source = open_one(stored_as[part])
    unused = dict(source.left_out)
    for name in unread_splits(split, every, labelled, options):
        left_out.count(unused, 'splits that this run does not read', name)
    if held_out is None or (not held_out and not options['held_out']):
        if _labels_are_quick(source):
            left_out.count_absent(unused, source.class_names, source.labels())
        return source._replace(left_out=unused)
    return _open_share(source, split, part, held_out, options, unused)


def _open_share(source: Source, split: str, part: str, held_out: bool, options: dict,
                unused: dict[str, tuple[int, str]]) -> Source:
    """Returns the held-out share of the only split, or what it leaves.

    Args:
      source: the whole split.
      split: the name that was asked for.
      part: the name of the whole split.
      held_out: whether the held-out share is wanted.
      options: config.data.
      unused: what is left out, counted further here.
    """
    if not labels_are_cheap(source):
        raise ConfigError(
            f'config.data.eval_split: {split}: a share of each class takes the labels of all of '
            f'{options["name"]!r}, which lie among its images; set train_split=train[:90%] and '
            'eval_split=train[90%:] instead, as TFDS shuffles what it prepares')
    labels = source.labels()
    names = getattr(source.examples, 'names', lambda: map(str, range(len(source.examples))))
    names = list(names())
    chosen = held_out_share(names, labels, options['held_out'])
    if held_out:
        log_share(part, chosen, options)
    else:
        count_unused_share(names, chosen, options, unused)
    left_out.count_absent(unused, source.class_names, labels[chosen == held_out])
    selection = Selection([(source, np.flatnonzero(chosen == held_out))])
    mark = fingerprint([f'{source.fingerprint} {held_out} {options["held_out"]}'])
    return source._replace(examples=selection, labels=selection.labels, left_out=unused,
                           fingerprint=mark)


def _with_labels(split: str, available: list[str], options: dict,
                 open_one: Callable[[str], Source],
                 has_labels: Callable[[str], bool]) -> list[str]:
    """Returns the splits but those without labels that would otherwise be taken for `held_out`.

    Raises:
      ConfigError, DataError: `split` names a split for evaluation that has no labels.
    """
    for name in (split, *split_names.bare(options.get('eval_split', 'held_out'))):
        found = split_names.find(name, available)
        if not split_names.is_held_out(name):
            continue
        if found and split_names.kind(name) != 'held_out':
            if name == split and not has_labels(found):
                raise _unlabelled(found, options, open_one)
            continue
        while (first := split_names.find('held_out', available)) and not has_labels(first):
            available = [other for other in available if other != first]
    return available


def _unlabelled(split: str, options: dict, open_one: Callable[[str], Source]) -> Exception:
    """Returns the error for a split without labels: what opening it raises, with the fix."""
    fix = 'evaluate on a share of train with config.data.eval_split=held_out'
    try:
        open_one(split)
    except (ConfigError, DataError) as error:
        return type(error)(f'{error}; or, as {split} has no labels, {fix}')
    return DataError(f'{options["path"] or options["name"]}: the images of the split {split!r} '
                     f'have no labels; {fix}')


def unread_splits(split: str, available: Iterable[str], labelled: Iterable[str],
                  options: dict) -> list[str]:
    """Returns the splits that a run does not read; none unless `split` is to report them.

    Args:
      split: the split that is opened.
      available: all splits of the dataset.
      labelled: the splits among them that can be read.
      options: config.data.
    """
    if not reports_unread(split, options):
        return []
    named = [name for spec in (options.get('train_split', 'train'), options['eval_split'])
             for name in split_names.bare(spec)]
    read = {split_names.find(name, labelled) for name in named}
    return sorted(set(available) - read)


def reports_unread(split: str, options: dict) -> bool:
    """Returns whether opening this split also reports what the run does not read.

    The first split that is trained on does, so that it is reported once. Options without an
    `eval_split` belong to no run, and nothing is reported.
    """
    first = split_names.bare(options.get('train_split', 'train'))[0]
    return split_names.find(first, [split]) == split and 'eval_split' in options


def _holds_out(options: dict) -> bool:
    """Returns whether a run evaluates on a held-out split, as it does by default."""
    names = split_names.bare(options.get('eval_split', 'held_out'))
    return any(map(split_names.is_held_out, names))


def _labels_are_quick(source: Source) -> bool:
    """Returns whether all labels can be read at each start: a second, and a GiB, at most."""
    count = len(source.examples) * (len(source.class_names) if source.multi_label else 1)
    return getattr(source.examples, 'labels_are_quick', True) and count < 2**28
