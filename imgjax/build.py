"""Builds what a config describes: dataset, model, mesh, shapes of the state, train and eval step.

Nothing here writes a file or runs a step: a wrong config is found before that.
"""

import logging
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from imgjax import data, models, parts, samplers, sharding, state, step
from imgjax.checks import (
    check_augment,
    check_heads,
    check_labels,
    check_no_shared_files,
    check_order,
    check_own_parts,
    check_pixels,
    check_strengths,
)
from imgjax.config import Config
from imgjax.data import Source, classes, pipeline
from imgjax.errors import ConfigError, DataError, first_line
from imgjax.metrics import Metric
from imgjax.optimizers.parts import finetune, schedule
from imgjax.process import cache, projects
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
      metrics: {name: metrics.Metric} for each value that an evaluation computes.
      cache: decoded data and compiled programs of earlier runs of this process, see
        process/cache.py.
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
    train_source = data.open_split(options.train_split, options)
    eval_source = data.open_split(options.eval_split, options)
    if train_source.multi_label != eval_source.multi_label:
        several = options['train_split' if train_source.multi_label else 'eval_split']
        raise DataError(f'{options.name}: images of the split {several!r} have several labels, '
                        'images of the other split have one; label both splits in the same way')
    check_no_shared_files(train_source, eval_source, options)
    return train_source, classes.renumbered(
        eval_source, train_source.class_names, options.eval_split)


def describe(config: Config, train_source: Source, eval_source: Source,
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
    native = 0 if options.image_size else pipeline.native_size(train_source, options)
    if not native and not options.image_size:
        options = options | {'image_size': options.usual_size}
    size = native or options.image_size
    dataset = DatasetInfo(
        list(train_source.class_names), [size, size, options.channels], len(train_source.examples),
        len(eval_source.examples), train_source.fingerprint, eval_source.fingerprint,
        train_source.multi_label)
    config = config | {'data': options}
    if not begun:
        check_pixels(config, size)
    if config.hparams.get('class_weights') == ('balanced',):
        weights = {'class_weights': _balanced(train_source)}
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
    data.check_labels_are_cheap(train, "hparams.class_weights=('balanced',)")
    labels = train.labels()
    count_K = (labels > 0).sum(0) if labels.ndim == 2 else np.bincount(
        labels, minlength=len(train.class_names))
    present = (count_K > 0).sum()
    return [round(float(count_K.sum() / (present * n)), 6) if n else 0.0 for n in count_K]


def check(config: Config, begun: bool = False) -> None:
    """Checks a config as far as that is possible without the dataset.

    Args:
      config: the frozen Config of the run.
      begun: whether the run began before. Then strengths, and numbers of pixels, of its operations
        are not checked: the run may be older than the checks of their ranges.

    Raises:
      ConfigError: names the field.
    """
    check_augment(config)
    if not begun:
        check_strengths(config)
        check_pixels(config, config.data.image_size)
    _model(config, num_classes=2)
    mesh = sharding.make_mesh(config.mesh)
    sharding.check_batch_size(config.batch_size, config.accumulation_steps, mesh)


def batch_struct(dataset: DatasetInfo, batch_size: int, sharding=None) -> dict:
    """Returns the batch of a train step as ShapeDtypeStructs: image, label and weight."""
    label = ((batch_size, len(dataset.class_names)), np.float32) if dataset.multi_label else (
        (batch_size,), np.int32)
    shapes = {'image': ((batch_size, *dataset.image_shape), np.uint8), 'label': label,
              'weight': ((batch_size,), np.float32)}
    return {name: jax.ShapeDtypeStruct(*shape, sharding=sharding)
            for name, shape in shapes.items()}


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
    check_augment(config)
    check_labels(config, dataset)
    shared = {} if shared is None else shared
    mesh = sharding.make_mesh(config.mesh, devices)
    key = (cache.structure(config), cache.data(config, dataset, mesh))
    built = cache.once(shared, 'job', key, lambda: _build(config, dataset, mesh))
    return built._replace(config=config, dataset=dataset, cache=shared, key=key)


def _build(config: Config, dataset: DatasetInfo, mesh) -> Setup:
    model = _model(config, len(dataset.class_names))
    try:
        with projects.blame_errors():
            abstract = state.abstract(model, config, tuple(dataset.image_shape))
    except (ValueError, TypeError, ZeroDivisionError) as error:
        raise ConfigError(
            f'config.model: {config.model.name} does not take images of '
            f'{"x".join(map(str, dataset.image_shape))} ({first_line(error, 200)})'
        ) from None
    metrics = parts.measured(config, dataset.multi_label)
    rules = models.tensor_rules(config.model.name)
    target = jax.tree.map(
        lambda leaf, placed: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=placed),
        abstract, sharding.state_shardings(abstract, mesh, rules))
    if rules:
        check_heads(model, mesh.shape['tensor'])
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
    check_own_parts(setup, abstract, batch_struct(dataset, config.batch_size))
    return setup


def objective_constants(config: Config, dataset: DatasetInfo):
    """Returns the constants of the objective, a pytree of NumPy arrays; {} if it has none."""
    objective = parts.find('objective', config.objective.name)
    if not hasattr(objective, 'constants'):
        return {}
    with projects.blame_errors():
        return jax.tree.map(np.asarray, objective.constants(
            config.objective.options, len(dataset.class_names), tuple(dataset.image_shape)))


def draw(config: Config, source: Source) -> Callable[[np.ndarray], np.ndarray]:
    """Returns positions -> example indices, int64 of the same shape (imgjax/samplers)."""
    sampler = parts.find('sampler', config.sampler.name)
    with projects.blame_errors():
        order = sampler.order(source, config.sampler.options, config.hparams.seed)
        check_order(config, order, len(source.examples))
    return samplers.repeated(order, config.batch_size, config.data.aug_repeats)


def _model(config: Config, num_classes: int):
    options = dict(config.model.options)
    if 'dtype' in options or 'num_classes' in options:
        raise ConfigError('config.model.options: dtype is set by config.model.dtype, num_classes '
                          'by the dataset; leave them out')
    dtype = jax.numpy.dtype(config.model.dtype)
    try:
        if 'dtype' in models.options(config.model.name):
            options['dtype'] = dtype
        elif dtype != 'float32':
            raise ValueError(f'dtype is {dtype}, and {config.model.name} computes in float32 '
                             'only: its Model has no field dtype')
        return models.create(config.model.name, num_classes=num_classes, **options)
    except ValueError as error:
        raise ConfigError(f'config.model: {error}') from None
