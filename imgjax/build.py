"""From a config to what it describes: dataset, model, mesh, state shapes, steps.

Nothing here writes, and nothing is computed: a wrong config ends here.
"""

import hashlib
import json
import logging
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from imgjax import (
    augment,
    data,
    effect,
    finetune,
    kept,
    losses,
    models,
    optim,
    sharding,
    state,
    step,
    trust,
)
from imgjax.config import write_json
from imgjax.data import Source, classes, image_files, pipeline, split_names
from imgjax.errors import ConfigError, DataError, nearest

log = logging.getLogger('imgjax')


class Facts(NamedTuple):
    """What a run knows of its dataset, also where the dataset is not at hand."""

    class_names: list[str]
    image_shape: list[int]  # H, W, C of the pixels that the model sees
    train_examples: int
    eval_examples: int
    train_fingerprint: str
    eval_fingerprint: str
    multi_label: bool = False  # an image may have several labels, or none


class Job(NamedTuple):
    """A config, built.

    Attributes:
      config: plain, with `steps` filled in.
      facts: of its dataset.
      model: Flax module.
      mesh: the devices.
      target: TrainState of ShapeDtypeStructs with their shardings.
      train_step: (state, batch, hparams) -> (state, metrics), pure.
      eval_step: (state, batch) -> per-example results, pure.
      kept: what this run may take from runs before it in this process, see kept.py.
      key: equal for runs that have the same programs.
    """

    config: dict
    facts: Facts
    model: Any
    mesh: jax.sharding.Mesh
    target: state.TrainState
    train_step: Callable
    eval_step: Callable
    kept: dict
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
             begun: bool = False) -> tuple[dict, Facts]:
    """Returns the config with what it leaves to the dataset filled in, and the facts of that.

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
    facts = Facts(list(train.class_names), [size, size, options['channels']], len(train.examples),
                  len(held_out.examples), train.fingerprint, held_out.fingerprint,
                  train.multi_label)
    config = config | {'data': options}
    if not begun:
        _check_pixels(config, size)
    if config['hparams']['class_weights'] == ['balanced']:
        weights = {'class_weights': _balanced(train)}
        config = config | {'hparams': config['hparams'] | weights}
    if config['epochs']:
        steps = max(1, round(config['epochs'] * facts.train_examples / config['batch_size']))
        config = config | {'steps': steps, 'epochs': 0.0}
    effect.check_length(config)
    return config, facts


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


def label_struct(facts: Facts, batch_size: int) -> jax.ShapeDtypeStruct:
    """Returns the shape and dtype of a batch's labels."""
    if facts.multi_label:
        return jax.ShapeDtypeStruct((batch_size, len(facts.class_names)), np.float32)
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


def job(config: dict, facts: Facts, devices=None, shared: dict | None = None) -> Job:
    """Builds a config, as `describe` returns it, on all devices or those given.

    Args:
      config: plain.
      facts: of its dataset.
      devices: of jax.devices(); None takes all.
      shared: `Job.kept` of runs before it in this process.

    Raises:
      ConfigError: names the field.
    """
    _check_names(config)
    _check_labels(config, facts)
    shared = {} if shared is None else shared
    mesh = sharding.make_mesh(config['mesh'], devices)
    key = (kept.structure(config), kept.data(config, facts, mesh))
    built = kept.once(shared, 'job', key, lambda: _build(config, facts, mesh))
    return built._replace(config=config, facts=facts, kept=shared, key=key)


def _build(config: dict, facts: Facts, mesh) -> Job:
    model = _model(config, len(facts.class_names))
    try:
        abstract = state.abstract(model, config, tuple(facts.image_shape))
    except (ValueError, TypeError, ZeroDivisionError) as error:
        raise ConfigError(
            f'config.model: {config["model"]["name"]} does not take images of '
            f'{"x".join(map(str, facts.image_shape))} ({str(error).splitlines()[0][:200]})'
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
        depths = finetune.depths(model, tuple(facts.image_shape))
    return Job(config, facts, model, mesh, target,
               step.make_train_step(model, config, depths, layout),
               step.make_eval_step(model, config, layout), {}, ())


def _check_heads(model, parts: int) -> None:
    heads = model.heads if isinstance(model.heads, tuple) else (model.heads,)
    odd = [number for number in heads if number % parts]
    if odd:
        raise ConfigError(f'config.mesh.tensor: {parts} does not divide the {odd[0]} attention '
                          'heads of the model')


def _check_labels(config: dict, facts: Facts) -> None:
    """Checks what the dataset's classes say about the config."""
    if facts.multi_label and config['loss'] == 'softmax':
        raise ConfigError('config.loss: softmax takes one label an image, and this dataset has '
                          'images with several; set it to sigmoid or focal')
    weights, classes = config['hparams']['class_weights'], len(facts.class_names)
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


def write_facts(workdir: str, facts: Facts) -> None:
    """Writes dataset.json, from which a run directory can be used without its dataset."""
    write_json(os.path.join(workdir, 'dataset.json'),
               {'hash': _facts_hash(facts), 'dataset': facts._asdict()})


def _facts_hash(facts: Facts) -> str:
    # Facts that came later are left out where they say what went without saying before.
    said = [value for name, value in facts._asdict().items()
            if value != Facts._field_defaults.get(name)]
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:16]


def read_facts(workdir: str) -> Facts:
    """Reads dataset.json of a run directory.

    Raises:
      DataError: it is missing or not as it was written.
    """
    path = os.path.join(workdir, 'dataset.json')
    try:
        stored = trust.read_json(path)
        facts = Facts(**stored['dataset'])
        _check_facts(facts)
        if _facts_hash(facts) != stored['hash']:
            raise ValueError('it is not as it was written')
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise DataError(f'{path}: cannot be used ({error}); restore it, or take a new '
                        '--workdir') from None
    return facts


def _check_facts(facts: Facts) -> None:
    """Checks that facts that were read are of the kinds that everything else relies on."""
    names, shape = facts.class_names, facts.image_shape
    if not (isinstance(names, list) and names and all(type(name) is str for name in names)):
        raise ValueError('class_names takes a list of names')
    if not (isinstance(shape, list) and len(shape) == 3 and all(type(n) is int for n in shape)
            and all(0 < n < 2**16 for n in shape[:2]) and shape[2] in (1, 3)):
        raise ValueError('image_shape takes [height, width, channels] of at most 65,535 pixels')
    if not all(type(n) is int and n >= 0 for n in (facts.train_examples, facts.eval_examples)):
        raise ValueError('train_examples and eval_examples take a number of at least 0')


def check_same_data(workdir: str, stored: Facts, found: Facts) -> None:
    """Checks that a dataset is still the one a run began with.

    Raises:
      ConfigError: it has other classes than the checkpoint's model.
      DataError: other examples.
    """
    if stored.class_names != found.class_names:
        odd = sorted(set(stored.class_names) ^ set(found.class_names))
        raise ConfigError(
            f'{workdir}: its model has {len(stored.class_names)} classes, the dataset has '
            f'{len(found.class_names)}{f" (first {odd[0]!r})" if odd else " in another order"}; '
            'use the dataset it was trained on, or a new --workdir')
    if stored != found:
        raise DataError(f'{workdir}: the dataset is not the one this run began with '
                        f'({found.train_examples} + {found.eval_examples} examples, was '
                        f'{stored.train_examples} + {stored.eval_examples}); bring that one back, '
                        'or take a new --workdir')
