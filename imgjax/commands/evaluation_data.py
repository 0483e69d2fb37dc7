"""The data that a trained model is evaluated on: its own, or others with the same classes."""

import logging

from imgjax import config as config_lib
from imgjax import data
from imgjax.config import Config
from imgjax.data import Source, classes
from imgjax.errors import ConfigError, DataError
from imgjax.rundir import dataset_info
from imgjax.rundir.dataset_info import DatasetInfo

log = logging.getLogger('imgjax')
# Fields of config.data that say how images are read; the others name a dataset or a part of it.
_READING = ('image_size', 'eval_crop_fraction', 'eval_resize', 'eval_transform', 'max_', 'mean',
            'std', 'exif_orientation', 'background', 'workers', 'eval_split')
# Those that an evaluation does not read, or that belong to the model.
_OF_TRAINING = ('train_', 'crop_min_area', 'sampler', 'aug_repeats', 'resident',
                'max_unreadable_share', 'channels')


def with_changes(config: Config, changes: dict) -> Config:
    """Returns the config of a run with the fields that its evaluation is asked to take otherwise.

    Args:
      config: of the run.
      changes: {'data.path': ..., 'eval_batch_size': ...}.

    Raises:
      ConfigError: names the field, which is none of an evaluation or has a wrong value.
    """
    changed = config_lib.plain(config)
    if changes.get('data.name', config.data.name) != config.data.name:
        changed['data'] |= {'options': {}, 'path': ''}  # they are of the other source
    for name, value in changes.items():
        group, _, field = name.partition('.')
        if name != 'eval_batch_size' and (group != 'data' or field.startswith(_OF_TRAINING)):
            raise ConfigError(f'config.{name}: a run is evaluated as it was trained; '
                              '--config.data... of other data and --config.eval_batch_size may be '
                              'given')
        *groups, last = name.split('.')
        inner = changed
        for group in groups:
            inner = inner.setdefault(group, {})
        inner[last] = value.to_dict() if hasattr(value, 'to_dict') else value
    return config_lib.checked(changed)


def names_data(changes: dict) -> bool:
    """Do these fields name data, other than by a split of those that a run has?"""
    fields = [name.removeprefix('data.') for name in changes if name.startswith('data.')]
    return any(not field.startswith(_READING) for field in fields)


def other_split(options: dict, own: str, split: str) -> tuple[Source, str]:
    """Opens what a model is evaluated on in a dataset that is not its own; returns (it, its name).

    That is `split` if the dataset has it. Where that would be a share held out of the only split
    there is, the model has seen none of the images, so that all of them are taken; but if they are
    its own, in another place, that share.

    Args:
      options: config.data.
      own: fingerprint of the split that the model was evaluated on, '' for none.
      split: its name.

    Raises:
      ConfigError: no such split.
      DataError: it cannot be read.
    """
    if _opened_quietly(split, options).fingerprint != own and not _has_images(split, options):
        log.info('the model has seen no image of it, so none is held out: all are taken')
        split = f'train+{split}'
    return data.open_split(split, options), split


def _has_images(split: str, options: dict) -> bool:
    """Returns whether a split has images of its own, where nothing is held out for it."""
    try:
        _opened_quietly(split, options | {'held_out': 0.0})
    except ConfigError:
        return False
    return True


def _opened_quietly(split: str, options: dict) -> Source:
    """Opens a split that may not be the one that is taken: nothing is said about it."""
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        return data.open_split(split, options)
    finally:
        log.setLevel(level)


def own_split(workdir: str, options: Config, dataset: DatasetInfo, split: str) -> Source:
    """Opens a split of the dataset that a run was trained on, as its config names it.

    A set is that one where a split that the run was trained or evaluated on has the fingerprint of
    then: the one that is asked for, or of others than these two any of them.

    Args:
      workdir: what an error calls the run.
      options: config.data of the run.
      dataset: what is known of the run.
      split: any that the dataset has.

    Raises:
      ConfigError: no such split.
      DataError: the set that is there is another one.
    """
    known = {options.train_split: (dataset.train_fingerprint, dataset.train_examples),
             options.eval_split: (dataset.eval_fingerprint, dataset.eval_examples)}
    changed = []
    for name in [split] if split in known else reversed(known):
        source, (fingerprint, count) = data.open_split(name, options), known[name]
        if source.fingerprint == fingerprint:
            return source if name == split else data.open_split(split, options)
        changed.append(f'{name!r} has {len(source.examples):,} images, had {count:,}'
                       if len(source.examples) != count else
                       f'{name!r} has as many images, with other names, sizes, labels or pixels')
    raise DataError(
        f'{workdir}: the data that its config names ({options.path or options.name}) are not '
        f'those it was trained with ({changed[0]}); name those to evaluate on '
        '(--config.data.path=..., --config.data.name=...); a run of arrays of a script is '
        'evaluated by commands.evaluate.evaluate_split(workdir, source=...)')


def compare_classes(source: Source, dataset: DatasetInfo, split: str,
                    by: str) -> tuple[Source, dict]:
    """Returns a split with the classes of a model, and what is told of that.

    Args:
      source: the split.
      dataset: what is known of the model.
      split: what errors call the split.
      by: 'name' or 'number'.

    Raises:
      DataError: no class is of both, or images of one have several labels and of the other one.
    """
    if source.multi_label != dataset.multi_label:
        here, there = ('several labels', 'one')[::1 if source.multi_label else -1]
        raise DataError(f'{split}: an image has {here}, of those of the model {there}; label them '
                        'alike')
    names, count = dataset.class_names, len(source.class_names)
    if by == 'number' and count != len(names):
        raise DataError(f'{split}: has {count} classes, the model {len(names)}; without '
                        '--classes=number they are matched by name')
    if by == 'number':
        log.info('classes compared by number: 0 is %r in the data and %r of the model',
                 source.class_names[0], names[0])
        source = source._replace(class_names=tuple(names))
    source, found = classes.compared(source, names, split)
    log.info(found.line())
    dataset_info.check_processes(Config(), dataset._replace(
        eval_examples=len(source.examples), eval_fingerprint=source.fingerprint))
    return source, {'classes': len(names), 'classes_compared': found.both,
                    'images_left_out': found.left_out}
