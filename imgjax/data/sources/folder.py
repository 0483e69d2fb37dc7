"""A folder of class folders: `PATH/cat/1.jpg`, or `PATH/train/cat/1.jpg` and `PATH/test/...`.

Splits are folders of PATH with usual names (split_names) or with those that the config gives. Where
no second one has class folders, or PATH holds the class folders itself, a share of each class is
held out by the hash of the file names. A class folder may have folders with more images.
"""

import concurrent.futures
import itertools
import logging
import os

import numpy as np

from imgjax.data import Source, image_files, records, source_options, split_names, splits
from imgjax.data import left_out as left_out_lib
from imgjax.data.fingerprint import fingerprint
from imgjax.errors import ConfigError, DataError

log = logging.getLogger('imgjax')


def open_split(split: str, options: dict) -> Source:
    """Opens a split of config.data.path; its folders are the classes, in sorted order.

    Where there is no second split, `held_out` (or `test`, `val`) is a share of the first,
    config.data.held_out.

    Raises:
      ConfigError: there is no path, no such folder or split, or a folder of images that no split
        reads while a share of `train` is held out.
      DataError: it has no images, or none with labels, or a file is in two classes.
    """
    source_options(options)
    path = splits.data_path(options, 'folder', 'the folder that holds the class folders')
    trained = split_names.bare(options.get('train_split', 'train'))
    evaluated = split_names.bare(options.get('eval_split', 'held_out'))
    there = _split_folders(path, {split, *trained, *evaluated}, say=split in trained)
    labelled = _with_labels(path, there, split)
    if there and not labelled:
        raise DataError(f'{path}: no split has class folders (there are {", ".join(there)}); '
                        f'expected {path}/train/<class>/<name>.jpg')
    part, held_out = split_names.resolve_share(split, labelled or ['train'], (
        f'config.data: {path} has no folder {split!r} for that split'
        if there else f'config.data: {path} holds class folders and no split {split!r}'))
    left_out, shares = {}, any(map(split_names.is_held_out, evaluated))
    if there and split in trained:
        _count_unread(path, there, labelled, split, options, shares and held_out is False,
                      left_out)
    root = os.path.join(path, part) if there else path
    is_train = not there or part in [split_names.find(name, there) for name in trained]
    class_names, found, labels = _list(root, is_train, split in trained, left_out)
    numbers = image_files.file_numbers(found.files)
    image_files.check_one_label(numbers, labels, found.names, class_names, root)
    rows = np.arange(len(labels))
    if held_out is not None:
        chosen = splits.held_out_share(found.names, labels, options['held_out'], numbers)
        if held_out:
            splits.log_share(part if there else 'train', chosen, options)
            left_out_lib.count_absent(left_out, class_names, labels[chosen])
        else:
            splits.count_unused_share(found.names, chosen, options, left_out)
        rows = rows[chosen == held_out]
    names, labels = [found.names[row] for row in rows], labels[rows]
    mark = fingerprint(os.fsencode(f'{name} {found.sizes[row]}\n')
                       for name, row in zip(names, rows, strict=True))
    examples = records.Files(root, names, labels, options)
    return Source(examples, class_names, mark, examples.labels, left_out=left_out,
                  files=found.files[rows])


def _folders(path: str) -> list[str]:
    return sorted(entry.name for entry in os.scandir(path)
                  if not image_files.is_hidden(entry.name) and image_files.is_folder(entry))


def _split_folders(path: str, named: set[str], say: bool) -> list[str]:
    """Returns the folders of `path` if they are splits, and [] if they are classes.

    Args:
      path: the folder of the dataset.
      named: the splits that the config names.
      say: whether to log what is doubtful.

    Raises:
      DataError: they are splits whose images lie in no class folders.
    """
    folders = _folders(path)
    known = [folder for folder in folders if split_names.kind(folder)
             or any(split_names.find(name, [folder]) for name in named)]
    flat = [folder for folder in known if _is_class(os.path.join(path, folder))]
    if flat != known:
        return folders
    if len(flat) > 1 and flat == folders:
        raise DataError(f'{path}: images of {", ".join(flat)} lie in no class folders; expected '
                        f'{os.path.join(path, flat[0])}/<class>/<name>.jpg, or a listing')
    for folder in flat:
        if say and split_names.is_held_out(folder):
            log.warning('%s: is taken for a class, as it holds images and no folders; if it is a '
                        'split without labels, move it elsewhere', os.path.join(path, folder))
    return []


def _is_class(path: str) -> bool:
    """Returns whether a folder holds images and no folders; a class may be called `train` too."""
    entries = list(os.scandir(path))
    return (any(image_files.is_image(entry.name) for entry in entries)
            and not any(image_files.is_folder(entry) and not image_files.is_hidden(entry.name)
                        for entry in entries))


def _with_labels(path: str, there: list[str], split: str) -> list[str]:
    """Returns the splits without those for evaluation whose images are in no class folder.

    In competitions test/ holds only images, or a single folder that is no class.

    Raises:
      DataError: `split` names one of these.
    """
    train = split_names.find('train', there)
    classes = set(_folders(os.path.join(path, train))) if train else set()
    labelled = []
    for folder in there:
        inner = _folders(os.path.join(path, folder)) if split_names.is_held_out(folder) else None
        if inner is None or len(inner) > 1 or (inner and (inner[0] in classes or not classes)):
            labelled.append(folder)
    wanted = split_names.find(split, there)
    if wanted is None or wanted in labelled or split_names.kind(split) == 'held_out':
        return labelled
    place = os.path.join(path, wanted)
    if not image_files.below(place).names:
        raise DataError(f'{place}: no images; expected {place}/<class>/<name>.jpg')
    raise DataError(
        f'{place}: its images lie in no class folder, so they have no labels; evaluate on a share '
        f'of {train or "train"} with config.data.eval_split=held_out, and classify these with '
        f'launch.predict --images={place}')


def _count_unread(path: str, there: list[str], labelled: list[str], split: str, options: dict,
                  share: bool, left_out: dict) -> None:
    """Counts the folders that the run does not read.

    Raises:
      ConfigError: one has class folders of `train`, and a `share` would be held out instead.
    """
    unread = splits.unread_splits(split, there, labelled, options)
    classes = _folders(os.path.join(path, split_names.find('train', labelled))) if share else ()
    for folder in unread if share else ():
        if folder in labelled and set(_folders(os.path.join(path, folder))) & set(classes):
            raise ConfigError(
                f'config.data.eval_split: no split reads {os.path.join(path, folder)}, and a share '
                f'of train would be held out; set eval_split={folder}, or move it elsewhere')
    if unread:
        left_out_lib.count(left_out, 'folders that no split of this run reads', unread[0],
                           len(unread))


def _list(root: str, is_train: bool, say: bool,
          left_out: dict) -> tuple[tuple[str, ...], image_files.Found, np.ndarray]:
    """Returns (class names, the images of all class folders, labels int32 (N,)).

    A class folder without images is an error in a training split, and ignored in others.
    """
    classes = _folders(root)
    with concurrent.futures.ThreadPoolExecutor(4) as threads:  # for file systems behind a network
        found = list(threads.map(
            lambda name: image_files.below(os.path.join(root, name), name), classes))
    beside = [entry.name for entry in os.scandir(root)
              if entry.name in image_files.OF_SYSTEMS
              or not (entry.name.startswith('.') or image_files.is_folder(entry))]
    for name in sorted(beside):
        if name in image_files.OF_SYSTEMS:
            left_out_lib.count(left_out, 'folders of operating systems', name)
        elif not os.path.exists(os.path.join(root, name)):
            left_out_lib.count(left_out, 'dead links in place of class folders', name)
        elif image_files.is_image(name):
            left_out_lib.count(left_out, 'beside the class folders', name)
    left_out |= left_out_lib.added_up([left_out, *(one.left_out for one in found)])
    if not any(one.names for one in found):
        raise DataError(f'{root}: no images; expected {root}/<class>/<name>.jpg{_but(left_out)}')
    for name, one in zip(classes, found, strict=True):
        if is_train and not one.names:
            raise DataError(f'{root}/{name}: no images in this class folder; remove it or fill it'
                            f'{_but(one.left_out)}')
    shared = _check_layout(root, dict(zip(classes, found, strict=True)), is_train)
    if say and len(shared) > 1:
        log.warning('%s: %s are taken for classes, and each holds folders such as %s; if they are '
                    'splits, name them in config.data.train_split and eval_split', root,
                    ', '.join(classes[:3]), ', '.join(shared[:3]))
    classes, found = zip(*((name, one) for name, one in zip(classes, found, strict=True)
                           if one.names), strict=True)
    labels = np.repeat(np.arange(len(classes), dtype=np.int32), [len(one.names) for one in found])
    names, sizes = (list(itertools.chain.from_iterable(one[field] for one in found))
                    for field in range(2))
    files = np.concatenate([one.files for one in found])
    return _shown(classes, root), image_files.Found(names, sizes, files, left_out), labels


def _but(left_out: left_out_lib.LeftOut) -> str:
    return f'; {left_out_lib.sentence(left_out)}' if left_out else ''


def _check_layout(root: str, found: dict[str, image_files.Found], is_train: bool) -> list[str]:
    """Checks that class folders which hold only folders do not look like splits.

    Returns the names of folders that all class folders hold.
    """
    inner = {name: {image.split('/')[1] for image in one.names} for name, one in found.items()
             if one.names and all(image.count('/') > 1 for image in one.names)}
    for name, folders in inner.items():
        place = os.path.join(root, name)
        if any(split_names.kind(folder) == 'train' for folder in folders):
            raise ConfigError(f'config.data.path: {root}: the folders of the splits lie in '
                              f'{place}; name that one')
        if split_names.contains_split_name(name):
            raise ConfigError(f'config.data: {place} holds folders and looks like a split, not '
                              f'like a class; set config.data.train_split or eval_split to {name}, '
                              'or name the folder above the class folders in config.data.path')
        if is_train and len(found) == 1 and len(folders) > 1:
            raise ConfigError(f'config.data.path: {root}: has one class folder, {name}, which '
                              f'holds {", ".join(sorted(folders)[:3])}; if these are the classes, '
                              f'name {place}')
    return sorted(set.intersection(*inner.values())) if len(inner) == len(found) > 1 else []


def _shown(classes: tuple[str, ...], root: str) -> tuple[str, ...]:
    """Returns class names in which bytes that are no UTF-8 are '?'."""
    names = tuple(map(records.shown, classes))
    for name in {name for name in names if names.count(name) > 1}:
        raise DataError(f'{root}: {names.count(name)} class folders would be called {name!r}, as '
                        'their names are not UTF-8; rename them')
    return names
