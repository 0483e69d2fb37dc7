"""What a run is refused for before any work: its parts, fields and dataset do not fit together.

Types and ranges of single fields are checked in config/values.py. build.py calls these functions in
the order in which it builds a run.
"""

import logging

import jax
import numpy as np

from imgjax import augment, parts, state
from imgjax.config import Config
from imgjax.data import Source, image_files, split_names
from imgjax.errors import ConfigError, DataError, first_line, nearest
from imgjax.process import projects
from imgjax.rundir.dataset_info import DatasetInfo

log = logging.getLogger('imgjax')


def check_augment(config: Config) -> None:
    """Checks that the operations of config.augment exist and make the objective's views differ."""
    objective = parts.find('objective', config.objective.name)
    differ, operations = getattr(objective, 'VIEWS_DIFFER_IN', ()), [
        name for name, _ in config.augment]
    if differ and not set(differ) & set(operations):
        raise ConfigError(f'config.augment: objective {config.objective.name} takes views '
                          f'that differ in {" or ".join(differ)}; add it to config.augment')
    try:
        augment.check(config.augment)
    except ValueError as error:
        raise ConfigError(f'config.augment: {error}') from None


def check_strengths(config: Config) -> None:
    """Checks config.hparams.augment against the operations of config.augment and their ranges.

    If config.augment is empty, augmentation was turned off, and strengths of a recipe only cause a
    warning.

    Raises:
      ConfigError: names the field.
    """
    strengths = config.hparams.augment
    if strengths and not config.augment and set(strengths) <= set(augment.names()):
        log.warning('config.hparams.augment: %s has no effect, as config.augment is empty',
                    ', '.join(strengths))
        return
    try:
        augment.check_strengths(config.augment, strengths)
    except ValueError as error:
        raise ConfigError(f'config.hparams.augment.{error}') from None


def check_pixels(config: Config, side: int) -> None:
    """Raises ConfigError if an operation of config.augment covers or moves more than a whole side.

    `side` is the image size in pixels; 0 if it is not known yet.
    """
    try:
        augment.check(config.augment, side)
    except ValueError as error:
        raise ConfigError(f'config.augment: {error}') from None


def check_intervals(config: Config) -> None:
    """Logs which intervals, and which profiler trace, lie beyond the last step of the run."""
    steps, profile = config.steps, config.profile
    every = {'log_every': config.log_every, 'eval_every': config.eval_every,
             'checkpoint.every': config.checkpoint.every}
    late = [f'config.{name} {number}' for name, number in every.items() if number > steps]
    if late:
        log.info('%s: more than the %d steps, so that happens at the end only', ', '.join(late),
                 steps)
    if profile.steps and profile.start >= steps:
        log.warning('config.profile.start: %d is past the last of %d steps, nothing is traced',
                    profile.start, steps)


def check_no_shared_files(train_source: Source, eval_source: Source, options: Config) -> None:
    """Raises DataError if a file is in both splits, unless both are parts of the same split."""
    train_split, eval_split = options.train_split, options.eval_split
    same = set(split_names.bare(train_split)) & set(split_names.bare(eval_split))
    if same or train_source.files is None or eval_source.files is None:
        return
    rows = image_files.shared(train_source.files, eval_source.files)
    if len(rows):
        raise DataError(
            f'{options.path}: {len(rows):,} files are in both {train_split!r} and '
            f'{eval_split!r}, first {eval_source.examples[int(rows[0])]["name"]}; remove them from '
            'one split, as an evaluation needs images that the model was not trained on')


def check_labels(config: Config, dataset: DatasetInfo) -> None:
    """Raises ConfigError if a field does not fit the classes or the labels of the dataset."""
    name = config.objective.name
    if dataset.multi_label and not getattr(parts.find('objective', name), 'MULTI_LABEL', False):
        raise ConfigError(f'config.objective.name: {name} takes one label for each image, and this '
                          'dataset has images with several labels; set it to sigmoid or focal')
    for metric in parts.metrics(config, dataset.multi_label):
        if getattr(metric.part, 'MULTI_LABEL', False) and not dataset.multi_label:
            raise ConfigError(f'config.metrics: {metric.name} needs images with several labels, '
                              'and images of this dataset have one; leave it out')
    known = parts.measured(config, dataset.multi_label)
    if config.best_metric and config.best_metric not in known:
        raise ConfigError(f'config.best_metric: takes one of {", ".join(known)}, got '
                          f'{config.best_metric!r}{nearest(config.best_metric, known)}')
    weights, classes = config.hparams.get('class_weights'), len(dataset.class_names)
    if weights and len(weights) != classes:
        raise ConfigError(f'config.hparams.class_weights: takes a number for each of {classes} '
                          f'classes, got {len(weights)}')


def check_heads(model, tensor: int) -> None:
    """Raises ConfigError if the axis `tensor` of the mesh does not divide the attention heads."""
    heads = model.heads if isinstance(model.heads, tuple) else (model.heads,)
    odd = [number for number in heads if number % tensor]
    if odd:
        raise ConfigError(f'config.mesh.tensor: {tensor} does not divide the {odd[0]} attention '
                          'heads of the model')


def check_order(config: Config, order, count: int) -> None:
    """Raises ConfigError if a sampler gives no valid example indices for the first batch."""
    positions = np.arange(config.batch_size, dtype=np.int64)
    found = order(positions)
    if not (isinstance(found, np.ndarray) and found.shape == positions.shape
            and found.dtype == np.int64 and ((0 <= found) & (found < count)).all()):
        raise ConfigError(f'{parts.file_of(config.sampler.name)}: `order` has to return a '
                          'function of positions that returns an array of the same shape: an '
                          f'example index, int64 from 0 to {count - 1}, for each position')


def check_own_parts(setup, abstract: state.TrainState, batch: dict) -> None:
    """Traces both steps if a part or the model is a file of the user's, to find its errors early.

    Args:
      setup: the build.Setup of the run.
      abstract: the state as ShapeDtypeStructs.
      batch: a batch of the train step as ShapeDtypeStructs.

    Raises:
      ConfigError: names the file and the line of the error, or else all files of the user's.
    """
    config = setup.config
    named = [one.name for one in parts.chosen(config)] + [
        config.model.name, *(str(name) for name, _ in config.augment)]
    own = sorted({name for name in named if '.' in name})
    if not own:
        return
    hparams = state.hparams_of(config)
    mask = jax.ShapeDtypeStruct(batch['weight'].shape, np.bool_)
    try:
        with projects.blame_errors():
            jax.eval_shape(setup.train_step, abstract, batch, hparams, setup.constants)
            jax.eval_shape(setup.eval_step, abstract, batch | {'mask': mask}, hparams)
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(
            f'{", ".join(map(parts.file_of, own))}: the step cannot be computed: '
            f'{type(error).__name__}: {first_line(error)}') from error
