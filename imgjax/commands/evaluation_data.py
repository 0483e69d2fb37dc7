"""The data that a model is evaluated on: its own dataset, or another one with the same classes."""

import contextlib
import logging
from collections.abc import Iterator

from imgjax import config as config_lib
from imgjax import data
from imgjax.config import Config
from imgjax.data import Source, classes
from imgjax.errors import ConfigError, DataError
from imgjax.rundir import dataset_info
from imgjax.rundir.dataset_info import DatasetInfo

log = logging.getLogger('imgjax')
# Fields of config.data that say how images are read, and the split; the others name the dataset.
_READING = ('image_size', 'usual_size', 'eval_crop_fraction', 'eval_resize', 'eval_transform',
            'max_', 'mean', 'std', 'exif_orientation', 'pixel_range', 'background', 'workers',
            'eval_split')
# Fields of config.data that an evaluation does not read, or that the model was built with.
_OF_TRAINING = ('train_', 'crop_min_area', 'sampler', 'aug_repeats', 'resident',
                'max_unreadable_share', 'channels')


def with_changes(config: Config, changes: dict) -> Config:
    """Returns the config of a run with the changes of one evaluation.

    Args:
      config: the frozen Config of the run.
      changes: {field: value}, such as {'data.path': ..., 'eval_batch_size': ...}.

    Raises:
      ConfigError: an evaluation may not change a field, or its value is wrong; it names the field.
    """
    changed = config_lib.plain(config)
    if changes.get('data.name', config.data.name) != config.data.name:
        changed['data'] |= {'options': {}, 'path': ''}  # these belong to the source of the run
    if names_data(changes):
        changed['data'] |= {'relabel': ''}  # its rows are of the dataset of the run
    for name, value in changes.items():
        group, _, field = name.partition('.')
        if name != 'eval_batch_size' and (group != 'data' or field.startswith(_OF_TRAINING)):
            raise ConfigError(f'config.{name}: a run is evaluated as it was trained; only '
                              'fields of other data (--config.data...) and '
                              '--config.eval_batch_size may be given')
        *groups, last = name.split('.')
        inner = changed
        for group in groups:
            inner = inner.setdefault(group, {})
        inner[last] = value.to_dict() if hasattr(value, 'to_dict') else value
    return config_lib.checked(changed)


def names_data(changes: dict) -> bool:
    """Returns whether one of these fields names a dataset, not only a split or how to read it."""
    fields = [name.removeprefix('data.') for name in changes if name.startswith('data.')]
    return any(not field.startswith(_READING) for field in fields)


def other_split(options: dict, own: str, split: str) -> tuple[Source, str]:
    """Opens the split of another dataset that a model is evaluated on; returns (Source, its name).

    If the dataset has `split`, that is it. If the dataset has only one split, of which a share
    would be held out as `split`, all images are evaluated, because the model has seen none of them.
    If the fingerprint shows that the images are the model's own in another place, only the held-out
    share is evaluated.

    Args:
      options: config.data.
      own: fingerprint of the split that the model was evaluated on while it was trained; '' if
        there is none.
      split: the name of the split to open.

    Raises:
      ConfigError: the dataset has no such split.
      DataError: the split cannot be read.
    """
    if _opened_quietly(split, options).fingerprint != own and not _has_images(split, options):
        log.info('the model has seen no image of this dataset, so that none is held out: all '
                 'are evaluated')
        split = f'train+{split}'
    return data.open_split(split, options), split


def _has_images(split: str, options: dict) -> bool:
    """Returns whether a split has images of its own, not only a share that is held out for it."""
    try:
        _opened_quietly(split, options | {'held_out': 0.0})
    except ConfigError:
        return False
    return True


def _opened_quietly(split: str, options: dict) -> Source:
    """Opens a split without log lines, because it may not be the one that is evaluated."""
    with quietly():
        return data.open_split(split, options)


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Drops what is logged below the level of an error."""
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)


def own_split(workdir: str, own: Config, options: Config, dataset: DatasetInfo,
              split: str) -> Source:
    """Opens a split of the dataset that a run was trained on, after a check that it is the same.

    It is the same dataset if the fingerprint of a split has not changed since the training. If
    `split` is the training or the evaluation split of the run, its own fingerprint is compared; for
    any other split it is enough that one of these two is unchanged.

    Args:
      workdir: the run directory, for errors.
      own: config.data of the run, with which the fingerprint was made.
      options: the same with the changes of this evaluation, which only read the images differently.
      dataset: the DatasetInfo of the run.
      split: the name of a split of the dataset.

    Raises:
      ConfigError: the dataset has no such split.
      DataError: the fingerprints differ, so that the dataset is another one.
    """
    known = {options.train_split: (dataset.train_fingerprint, dataset.train_examples),
             options.eval_split: (dataset.eval_fingerprint, dataset.eval_examples)}
    changed = []
    for name in [split] if split in known else reversed(known):
        source, (fingerprint, count) = data.open_split(name, own), known[name]
        if source.fingerprint == fingerprint:
            return source if name == split and options == own else data.open_split(split, options)
        changed.append(f'{name!r} has {len(source.examples):,} images, had {count:,}'
                       if len(source.examples) != count else
                       f'{name!r} has as many images, with other names, sizes, labels or pixels')
    raise DataError(
        f'{workdir}: the data that its config names ({options.path or options.name}) are not '
        f'those it was trained with ({changed[0]}); name the data to evaluate on '
        '(--config.data.path=..., --config.data.name=...); a run that was trained on arrays of a '
        'script is evaluated by commands.evaluate.evaluate_split(workdir, source=...)')


def compare_classes(source: Source, dataset: DatasetInfo, split: str,
                    by: str) -> tuple[Source, dict]:
    """Returns (the split with the classes of a model, numbers about the comparison).

    The numbers are `classes`, `classes_compared` and `images_left_out`.

    Args:
      source: the split.
      dataset: the DatasetInfo of the model.
      split: the name of the split, for errors.
      by: 'name' or 'number': how classes are matched.

    Raises:
      DataError: no class is in both, or only one of the two has images with several labels.
    """
    if source.multi_label != dataset.multi_label:
        here, there = ('several labels', 'one')[::1 if source.multi_label else -1]
        raise DataError(f'{split}: an image has {here}, and an image of the model has {there}; '
                        'label both in the same way')
    names, count = dataset.class_names, len(source.class_names)
    if by == 'number' and count != len(names):
        raise DataError(f'{split}: has {count} classes, the model {len(names)}; without '
                        '--classes=number they are matched by name')
    if by == 'number':
        log.info('classes compared by number: class 0 is %r in the data and %r in the model',
                 source.class_names[0], names[0])
        source = source._replace(class_names=tuple(names))
    source, found = classes.compared(source, names, split)
    log.info(found.line())
    dataset_info.check_processes(Config(), dataset._replace(
        eval_examples=len(source.examples), eval_fingerprint=source.fingerprint))
    return source, {'classes': len(names), 'classes_compared': found.both,
                    'images_left_out': found.left_out}
