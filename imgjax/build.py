"""From a config to what it describes: dataset, model, mesh, state shapes, steps.

Nothing here writes, and nothing is computed: a wrong config ends here.
"""

import logging
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from imgjax import (
    augment,
    cache,
    data,
    effect,
    finetune,
    losses,
    models,
    optim,
    sharding,
    state,
    step,
)
from imgjax.data import Source, classes, image_files, pipeline, split_names
from imgjax.errors import ConfigError, DataError, nearest
from imgjax.rundir.dataset_info import DatasetInfo

log = logging.getLogger('imgjax')


class Setup(NamedTuple):
    """A config, built.

    Attributes:
      config: plain, with `steps` filled in.
      dataset: what is known of its dataset.
      model: Flax module.
      mesh: the devices.
      target: TrainState of ShapeDtypeStructs with their shardings.
      train_step: (state, batch, hparams) -> (state, metrics), pure.
      eval_step: (state, batch) -> per-example results, pure.
      cache: decoded data and compiled programs of earlier runs of this process, see cache.py.
      key: equal for runs that have the same programs.
    """

    config: dict
    dataset: DatasetInfo
    model: Any
    mesh: jax.sharding.Mesh
    target: state.TrainState
    train_step: Callable
    eval_step: Callable
    cache: dict
    key: tuple

    @property
    def shardings(self):
        """The sharding of each leaf of the state."""
        return jax.tree.map(lambda leaf: leaf.sharding, self.target)


def open_dataset(config: dict) -> tuple[Source, Source]:
    """Opens the training and the evaluation split; the classes of both are those of the first.

    Raises:
      ConfigError: as of data.open_split.
      DataError: as of data.open_split; the evaluation split has images of a class that is not
        trained, or files of the training split.
    """
    options = config['data']
    train = data.open_split(options['train_split'], options)
    held_out = data.open_split(options['eval_split'], options)
    if train.multi_label != held_out.multi_label:
        several = options['train_split' if train.multi_label else 'eval_split']
        raise DataError(f'{options["name"]}: images of the split {several!r} have several labels, '
                        'those of the other split have one; label both alike')
    _check_apart(train, held_out, options)
    return train, classes.renumbered(held_out, train.class_names, options['eval_split'])


def _check_apart(train: Source, held_out: Source, options: dict) -> None:
    """Checks that no file is in both splits, unless both are taken from the same one."""
    train_split, eval_split = options['train_split'], options['eval_split']
    same = set(split_names.bare(train_split)) & set(split_names.bare(eval_split))
    if same or train.files is None or held_out.files is None:
        return
    rows = image_files.shared(train.files, held_out.files)
    if len(rows):
        raise DataError(
            f'{options["path"]}: {len(rows):,} files are in both {train_split!r} and '
            f'{eval_split!r}, first {held_out.examples[int(rows[0])]["name"]}; take them out of '
            'one, as the evaluation is to be of images that are not trained on')


def describe(config: dict, train: Source, held_out: Source,
             begun: bool = False) -> tuple[dict, DatasetInfo]:
    """Returns the config with what it leaves to the dataset filled in, and what is known of that.

    What is filled in: an image_size of 0 where the images have no one size, ('balanced',) class
    weights, and steps from epochs. `begun` is as of `check`.

    Raises:
      ConfigError: a schedule that does not go with that many steps, or an augmentation that does
        not go with that size.
    """
    options = config['data']
    native = 0 if options['image_size'] else pipeline.native_size(train, options)
    if not native and not options['image_size']:
        options = options | {'image_size': options['usual_size']}
    size = native or options['image_size']
    dataset = DatasetInfo(
        list(train.class_names), [size, size, options['channels']], len(train.examples),
        len(held_out.examples), train.fingerprint, held_out.fingerprint, train.multi_label)
    config = config | {'data': options}
    if not begun:
        _check_pixels(config, size)
    if config['hparams']['class_weights'] == ['balanced']:
        weights = {'class_weights': _balanced(train)}
        config = config | {'hparams': config['hparams'] | weights}
    if config['epochs']:
        steps = max(1, round(config['epochs'] * dataset.train_examples / config['batch_size']))
        config = config | {'steps': steps, 'epochs': 0.0}
    effect.check_length(config)
    return config, dataset


def _balanced(train: Source) -> list[float]:
    """Returns a weight a class, inversely as frequent and 1 in the mean over the labels.

    N / (K n) for a class of n among N labels of K classes, which is scikit-learn's 'balanced'; a
    class without examples weighs 0 and is not counted.
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


def check(config: dict, begun: bool = False) -> None:
    """Checks all that can be without the dataset.

    Args:
      config: plain.
      begun: whether it is of a run that is there: its strengths, and what its operations count in
        pixels, stay, as their ranges came later.

    Raises:
      ConfigError: names the field.
    """
    _check_names(config)
    if not begun:
        check_strengths(config)
        _check_pixels(config, config['data']['image_size'])
    _model(config, num_classes=2)
    mesh = sharding.make_mesh(config['mesh'])
    sharding.check_batch_size(config['batch_size'], config['accumulation_steps'], mesh)


def setup(config: dict, dataset: DatasetInfo, devices=None, shared: dict | None = None) -> Setup:
    """Builds a config, as `describe` returns it, on all devices or those given.

    Args:
      config: plain.
      dataset: what is known of its dataset.
      devices: of jax.devices(); None takes all.
      shared: `Setup.cache` of an earlier run of this process.

    Raises:
      ConfigError: names the field.
    """
    _check_names(config)
    _check_labels(config, dataset)
    shared = {} if shared is None else shared
    mesh = sharding.make_mesh(config['mesh'], devices)
    key = (cache.structure(config), cache.data(config, dataset, mesh))
    built = cache.once(shared, 'job', key, lambda: _build(config, dataset, mesh))
    return built._replace(config=config, dataset=dataset, cache=shared, key=key)


def _build(config: dict, dataset: DatasetInfo, mesh) -> Setup:
    model = _model(config, len(dataset.class_names))
    try:
        abstract = state.abstract(model, config, tuple(dataset.image_shape))
    except (ValueError, TypeError, ZeroDivisionError) as error:
        raise ConfigError(
            f'config.model: {config["model"]["name"]} does not take images of '
            f'{"x".join(map(str, dataset.image_shape))} ({str(error).splitlines()[0][:200]})'
        ) from None
    rules = models.tensor_rules(config['model']['name'])
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
    if config['optimizer']['layerwise']:
        depths = finetune.depths(model, tuple(dataset.image_shape))
    return Setup(config, dataset, model, mesh, target,
               step.make_train_step(model, config, depths, layout),
               step.make_eval_step(model, config, layout), {}, ())


def _check_heads(model, parts: int) -> None:
    heads = model.heads if isinstance(model.heads, tuple) else (model.heads,)
    odd = [number for number in heads if number % parts]
    if odd:
        raise ConfigError(f'config.mesh.tensor: {parts} does not divide the {odd[0]} attention '
                          'heads of the model')


def _check_labels(config: dict, dataset: DatasetInfo) -> None:
    """Checks what the dataset's classes say about the config."""
    if dataset.multi_label and config['loss'] == 'softmax':
        raise ConfigError('config.loss: softmax takes one label an image, and this dataset has '
                          'images with several; set it to sigmoid or focal')
    weights, classes = config['hparams']['class_weights'], len(dataset.class_names)
    if weights and len(weights) != classes:
        raise ConfigError(f'config.hparams.class_weights: takes a number for each of {classes} '
                          f'classes, got {len(weights)}')


def _model(config: dict, num_classes: int):
    options = {name: tuple(value) if isinstance(value, list) else value
               for name, value in config['model']['options'].items()}
    if 'dtype' in options or 'num_classes' in options:
        raise ConfigError('config.model.options: dtype is set by config.model.dtype, num_classes '
                          'by the dataset; leave them out')
    try:
        return models.create(
            config['model']['name'], num_classes=num_classes,
            dtype=jax.numpy.dtype(config['model']['dtype']), **options)
    except ValueError as error:
        raise ConfigError(f'config.model: {error}') from None


def _check_names(config: dict) -> None:
    """Checks the words that losses, optim and augment know; fails before any work."""
    for field, name, valid in (
            ('loss', config['loss'], losses.NAMES),
            ('optimizer.name', config['optimizer']['name'], optim.OPTIMIZERS),
            ('schedule.name', config['schedule']['name'], optim.SCHEDULES)):
        if name not in valid:
            raise ConfigError(f'config.{field}: takes one of {", ".join(valid)}, got '
                              f'{name!r}{nearest(name, valid)}')
    if config['consistency'] == 'jsd' and (
            config['loss'] != 'softmax' or 'augmix' not in [op for op, _ in config['augment']]):
        raise ConfigError('config.consistency: jsd takes the softmax loss and an augmix operation '
                          'in config.augment')
    try:
        augment.check(config['augment'])
    except ValueError as error:
        raise ConfigError(f'config.augment: {error}') from None


def check_strengths(config: dict) -> None:
    """Checks config.hparams.augment against the operations of config.augment and their ranges.

    Where config.augment is empty augmentation was turned off, and a recipe's strengths may stay.

    Raises:
      ConfigError: names the field.
    """
    strengths = config['hparams']['augment']
    if strengths and not config['augment'] and set(strengths) <= set(augment.names()):
        log.warning('config.hparams.augment: %s has no effect, as config.augment is empty',
                    ', '.join(strengths))
        return
    try:
        augment.check_strengths(config['augment'], strengths)
    except ValueError as error:
        raise ConfigError(f'config.hparams.augment.{error}') from None


def _check_pixels(config: dict, side: int) -> None:
    """Checks that no operation of config.augment paints or moves more than an image's side.

    A side of 0 is not known yet.
    """
    try:
        augment.check(config['augment'], side)
    except ValueError as error:
        raise ConfigError(f'config.augment: {error}') from None
