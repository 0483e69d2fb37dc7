"""Builds what a config describes: dataset, model, mesh, shapes of the state, train and eval step.

Nothing here writes a file or runs a step: a wrong config is found before that.
"""

import contextlib
import logging
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from imgjax import augment, cache, data, models, parts, samplers, sharding, state, step
from imgjax.config import Config
from imgjax.data import Source, classes, image_files, pipeline, split_names
from imgjax.errors import ConfigError, DataError, nearest
from imgjax.metrics import Metric
from imgjax.optimizers.parts import finetune, schedule
from imgjax.process import projects
from imgjax.rundir import digests
from imgjax.rundir.dataset_info import DatasetInfo

log = logging.getLogger('imgjax')


class Setup(NamedTuple):
    """A config and all that is built from it.

    Attributes:
      config: the frozen Config of the run, as `describe` returns it.
      dataset: the DatasetInfo of its dataset.
      model: the Flax module.
      mesh: the mesh of the devices.
      target: a TrainState of ShapeDtypeStructs with their shardings.
      train_step: (state, batch, hparams, constants) -> (state, metrics), a pure function.
      eval_step: (state, batch, hparams) -> columns, a pure function.
      constants: the constants of the objective, a pytree of NumPy arrays; {} if it has none.
      metrics: {name: metrics.Metric} for each number that an evaluation computes.
      cache: decoded data and compiled programs of earlier runs of this process, see cache.py.
      key: equal for two runs if they have the same programs.
    """

    config: Config
    dataset: DatasetInfo
    model: Any
    mesh: jax.sharding.Mesh
    target: state.TrainState
    train_step: Callable
    eval_step: Callable
    constants: Any
    metrics: dict[str, Metric]
    cache: dict
    key: tuple

    @property
    def shardings(self):
        """The sharding of each leaf of the state."""
        return jax.tree.map(lambda leaf: leaf.sharding, self.target)

    @property
    def best(self) -> tuple[str, bool]:
        """The metric that chooses the best checkpoint, and whether a higher value is better."""
        several = self.dataset.multi_label
        name = self.config.best_metric or (
            'mean_average_precision' if several else 'accuracy')
        return name, self.metrics[name].higher_is_better


def open_dataset(config: Config) -> tuple[Source, Source]:
    """Opens the training and the evaluation split; both get the classes of the training split.

    Raises:
      ConfigError: as data.open_split raises it.
      DataError: as data.open_split raises it; or the evaluation split has images of a class that
        the training split lacks, or a file that is in the training split, too.
    """
    options = config.data
    train = data.open_split(options.train_split, options)
    held_out = data.open_split(options.eval_split, options)
    if train.multi_label != held_out.multi_label:
        several = options['train_split' if train.multi_label else 'eval_split']
        raise DataError(f'{options.name}: images of the split {several!r} have several labels, '
                        'images of the other split have one; label both splits in the same way')
    _check_apart(train, held_out, options)
    return train, classes.renumbered(held_out, train.class_names, options.eval_split)


def _check_apart(train: Source, held_out: Source, options: Config) -> None:
    """Raises DataError if a file is in both splits, unless both are parts of the same split."""
    train_split, eval_split = options.train_split, options.eval_split
    same = set(split_names.bare(train_split)) & set(split_names.bare(eval_split))
    if same or train.files is None or held_out.files is None:
        return
    rows = image_files.shared(train.files, held_out.files)
    if len(rows):
        raise DataError(
            f'{options.path}: {len(rows):,} files are in both {train_split!r} and '
            f'{eval_split!r}, first {held_out.examples[int(rows[0])]["name"]}; remove them from '
            'one split, as an evaluation needs images that the model was not trained on')


def describe(config: Config, train: Source, held_out: Source,
             begun: bool = False) -> tuple[Config, DatasetInfo]:
    """Returns (config, DatasetInfo); fields of the config that depend on the dataset are filled in.

    These are an image_size of 0 where the images differ in size, ('balanced',) class weights, the
    number of steps where the config has epochs, and the digest of the objective's constants.
    `begun` is as `check` takes it.

    Raises:
      ConfigError: the schedule does not fit the number of steps, or an augmentation does not fit
        the image size.
    """
    options = config.data
    native = 0 if options.image_size else pipeline.native_size(train, options)
    if not native and not options.image_size:
        options = options | {'image_size': options.usual_size}
    size = native or options.image_size
    dataset = DatasetInfo(
        list(train.class_names), [size, size, options.channels], len(train.examples),
        len(held_out.examples), train.fingerprint, held_out.fingerprint, train.multi_label)
    config = config | {'data': options}
    if not begun:
        _check_pixels(config, size)
    if config.hparams.get('class_weights') == ('balanced',):
        weights = {'class_weights': _balanced(train)}
        config = config | {'hparams': config.hparams | weights}
    if config.epochs:
        steps = max(1, round(config.epochs * dataset.train_examples / config.batch_size))
        config = config | {'steps': steps, 'epochs': 0.0}
    schedule.check(config)
    if constants := objective_constants(config, dataset):
        marks = config.fingerprints | {'constants': digests.state_digest(constants)}
        config = config | {'fingerprints': marks}
    return config, dataset


def _balanced(train: Source) -> list[float]:
    """Returns a weight per class, inverse to its frequency, with mean 1 over the labels.

    A class with n of the N labels of K classes has the weight N / (K n), as in scikit-learn's
    'balanced'. A class without examples has the weight 0 and is not counted in K.
    """
    labels = train.labels()
    count_K = (labels > 0).sum(0) if labels.ndim == 2 else np.bincount(
        labels, minlength=len(train.class_names))
    present = (count_K > 0).sum()
    return [round(float(count_K.sum() / (present * n)), 6) if n else 0.0 for n in count_K]


def label_struct(dataset: DatasetInfo, batch_size: int) -> jax.ShapeDtypeStruct:
    """Returns the shape and dtype of a batch's labels."""
    if dataset.multi_label:
        return jax.ShapeDtypeStruct((batch_size, len(dataset.class_names)), np.float32)
    return jax.ShapeDtypeStruct((batch_size,), np.int32)


def check(config: Config, begun: bool = False) -> None:
    """Checks a config as far as that is possible without the dataset.

    Args:
      config: the frozen Config of the run.
      begun: whether the run began before. Then strengths, and numbers of pixels, of its operations
        are not checked: the run may be older than the checks of their ranges.

    Raises:
      ConfigError: names the field.
    """
    _check_augment(config)
    if not begun:
        check_strengths(config)
        _check_pixels(config, config.data.image_size)
    _model(config, num_classes=2)
    mesh = sharding.make_mesh(config.mesh)
    sharding.check_batch_size(config.batch_size, config.accumulation_steps, mesh)


def setup(config: Config, dataset: DatasetInfo, devices=None, shared: dict | None = None) -> Setup:
    """Builds a config on all devices, or on some of them.

    Args:
      config: the frozen Config, as `describe` returns it.
      dataset: the DatasetInfo, as `describe` returns it.
      devices: the devices to use, out of jax.devices(); None takes all.
      shared: the `Setup.cache` of an earlier run of this process; None begins an empty one.

    Raises:
      ConfigError: names the field.
    """
    _check_augment(config)
    _check_labels(config, dataset)
    shared = {} if shared is None else shared
    mesh = sharding.make_mesh(config.mesh, devices)
    key = (cache.structure(config), cache.data(config, dataset, mesh))
    built = cache.once(shared, 'job', key, lambda: _build(config, dataset, mesh))
    return built._replace(config=config, dataset=dataset, cache=shared, key=key)


def _build(config: Config, dataset: DatasetInfo, mesh) -> Setup:
    model = _model(config, len(dataset.class_names))
    try:
        with _blame_projects():
            abstract = state.abstract(model, config, tuple(dataset.image_shape))
    except (ValueError, TypeError, ZeroDivisionError) as error:
        raise ConfigError(
            f'config.model: {config.model.name} does not take images of '
            f'{"x".join(map(str, dataset.image_shape))} ({str(error).splitlines()[0][:200]})'
        ) from None
    metrics = parts.measured(config, dataset.multi_label)
    rules = models.tensor_rules(config.model.name)
    target = jax.tree.map(
        lambda leaf, placed: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=placed),
        abstract, sharding.state_shardings(abstract, mesh, rules))
    if rules:
        _check_heads(model, mesh.shape['tensor'])
    layout = sharding.layout(abstract.params, mesh, rules)
    try:
        finetune.check(config, abstract.params)
    except ValueError as error:
        raise ConfigError(f'config.optimizer.freeze: {error}') from None
    depths = None
    if config.optimizer.layerwise:
        depths = finetune.depths(model, tuple(dataset.image_shape))
    setup = Setup(config, dataset, model, mesh, target,
                  step.make_train_step(model, config, depths, layout),
                  step.make_eval_step(model, config, layout),
                  objective_constants(config, dataset), metrics, {}, ())
    _check_own_parts(setup, abstract)
    return setup


def _check_own_parts(setup: Setup, abstract: state.TrainState) -> None:
    """Traces both steps if a part or the model is a file of the user's, to find its errors early.

    Raises:
      ConfigError: names the file and the line of the error, or else all files of the user's.
    """
    config, batch_size = setup.config, setup.config.batch_size
    named = [one.name for one in parts.chosen(config)] + [config.model.name]
    own = sorted({name for name in named if '.' in name})
    if not own:
        return
    hparams = state.hparams_of(config)
    shapes = {'image': ((batch_size, *setup.dataset.image_shape), np.uint8),
              'weight': ((batch_size,), np.float32), 'mask': ((batch_size,), np.bool_)}
    batch = {name: jax.ShapeDtypeStruct(*shape) for name, shape in shapes.items()}
    batch |= {'label': label_struct(setup.dataset, batch_size)}
    try:
        with _blame_projects():
            jax.eval_shape(setup.train_step, abstract, batch, hparams, setup.constants)
            jax.eval_shape(setup.eval_step, abstract, batch, hparams)
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(
            f'{", ".join(map(parts.file_of, own))}: the step cannot be computed with it: '
            f'{type(error).__name__}: {projects.first_line(error)}') from error


@contextlib.contextmanager
def _blame_projects():
    """Turns an error that is raised by code in projects/ into a ConfigError of one line."""
    try:
        yield
    except Exception as error:
        said = '' if isinstance(error, ConfigError) else projects.blame(error)
        if not said:
            raise
        raise ConfigError(said) from error


def objective_constants(config: Config, dataset: DatasetInfo):
    """Returns the constants of the objective, a pytree of NumPy arrays; {} if it has none."""
    objective = parts.find('objective', config.objective.name)
    if not hasattr(objective, 'constants'):
        return {}
    with _blame_projects():
        return jax.tree.map(np.asarray, objective.constants(
            config.objective.options, len(dataset.class_names), tuple(dataset.image_shape)))


def draw(config: Config, source: Source) -> Callable[[np.ndarray], np.ndarray]:
    """Returns positions -> example indices, int64 of the same shape (imgjax/samplers)."""
    sampler = parts.find('sampler', config.sampler.name)
    with _blame_projects():
        order = sampler.order(source, config.sampler.options, config.hparams.seed)
        _check_order(config, order, len(source.examples))
    return samplers.repeated(order, config.batch_size, config.data.aug_repeats)


def _check_order(config: Config, order, count: int) -> None:
    numbers = np.arange(config.batch_size, dtype=np.int64)
    found = order(numbers)
    if not (isinstance(found, np.ndarray) and found.shape == numbers.shape
            and found.dtype == np.int64 and ((0 <= found) & (found < count)).all()):
        raise ConfigError(f'{parts.file_of(config.sampler.name)}: `order` has to return '
                          f'numbers -> int64 of the same shape, from 0 to {count - 1}')


def _check_heads(model, parts: int) -> None:
    heads = model.heads if isinstance(model.heads, tuple) else (model.heads,)
    odd = [number for number in heads if number % parts]
    if odd:
        raise ConfigError(f'config.mesh.tensor: {parts} does not divide the {odd[0]} attention '
                          'heads of the model')


def _check_labels(config: Config, dataset: DatasetInfo) -> None:
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


def _model(config: Config, num_classes: int):
    options = dict(config.model.options)
    if 'dtype' in options or 'num_classes' in options:
        raise ConfigError('config.model.options: dtype is set by config.model.dtype, num_classes '
                          'by the dataset; leave them out')
    try:
        return models.create(
            config.model.name, num_classes=num_classes,
            dtype=jax.numpy.dtype(config.model.dtype), **options)
    except ValueError as error:
        raise ConfigError(f'config.model: {error}') from None


def _check_augment(config: Config) -> None:
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


def _check_pixels(config: Config, side: int) -> None:
    """Raises ConfigError if an operation of config.augment covers or moves more than a whole side.

    `side` is the image size in pixels; 0 if it is not known yet.
    """
    try:
        augment.check(config.augment, side)
    except ValueError as error:
        raise ConfigError(f'config.augment: {error}') from None
