"""From a config to what it describes: dataset, model, mesh, state shapes, steps.

Nothing here writes, and nothing is computed: a wrong config ends here.
"""

import hashlib
import json
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from imgjax import augment, data, losses, models, optim, sharding, state, step
from imgjax.config import write_json
from imgjax.data import Source, pipeline
from imgjax.errors import ConfigError, DataError, nearest


class Facts(NamedTuple):
    """What a run knows of its dataset, also where the dataset is not at hand."""

    class_names: list[str]
    image_shape: list[int]  # H, W, C of the pixels that the model sees
    train_examples: int
    eval_examples: int
    train_fingerprint: str
    eval_fingerprint: str


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
    """

    config: dict
    facts: Facts
    model: Any
    mesh: jax.sharding.Mesh
    target: state.TrainState
    train_step: Callable
    eval_step: Callable

    @property
    def shardings(self):
        """The sharding of each leaf of the state."""
        return jax.tree.map(lambda leaf: leaf.sharding, self.target)


def open_dataset(config: dict) -> tuple[Source, Source, Facts]:
    """Opens the training and the evaluation split, which must have the same classes."""
    options = config['data']
    train = data.open_split(options['train_split'], options)
    held_out = data.open_split(options['eval_split'], options)
    if train.class_names != held_out.class_names:
        odd = sorted(set(train.class_names) ^ set(held_out.class_names))
        raise DataError(f'{options["name"]}: the splits {options["train_split"]!r} and '
                        f'{options["eval_split"]!r} have other classes, first {odd[0]!r}')
    facts = Facts(list(train.class_names), list(pipeline.image_shape(train, options)),
                  len(train.examples), len(held_out.examples), train.fingerprint,
                  held_out.fingerprint)
    return train, held_out, facts


def check(config: dict) -> None:
    """Checks all that can be without the dataset.

    Raises:
      ConfigError: names the field.
    """
    _check_names(config)
    _model(config, num_classes=2)
    mesh = sharding.make_mesh(config['mesh'])
    sharding.check_batch_size(config['batch_size'], config['accumulation_steps'], mesh.size)


def job(config: dict, facts: Facts, devices=None) -> Job:
    """Builds a plain config for a dataset with these facts, on all devices or those given.

    Raises:
      ConfigError: names the field.
    """
    _check_names(config)
    if config['epochs']:
        steps = max(1, round(config['epochs'] * facts.train_examples / config['batch_size']))
        config = config | {'steps': steps, 'epochs': 0.0}
    mesh = sharding.make_mesh(config['mesh'], devices)
    model = _model(config, len(facts.class_names))
    try:
        abstract = state.abstract(model, config, tuple(facts.image_shape))
    except (ValueError, TypeError, ZeroDivisionError) as error:
        raise ConfigError(
            f'config.model: {config["model"]["name"]} does not take images of '
            f'{"x".join(map(str, facts.image_shape))} ({str(error).splitlines()[0][:200]})'
        ) from None
    target = jax.tree.map(
        lambda leaf, placed: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=placed),
        abstract, sharding.state_shardings(abstract, mesh))
    return Job(config, facts, model, mesh, target, step.make_train_step(model, config),
               step.make_eval_step(model, config))


def _model(config: dict, num_classes: int):
    options = {name: tuple(value) if isinstance(value, list) else value
               for name, value in config['model']['options'].items()}
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
    try:
        augment.check(config['augment'])
    except ValueError as error:
        raise ConfigError(f'config.augment: {error}') from None


def write_facts(workdir: str, facts: Facts) -> None:
    """Writes dataset.json, from which a run directory can be used without its dataset."""
    write_json(os.path.join(workdir, 'dataset.json'),
               {'hash': _facts_hash(facts), 'dataset': facts._asdict()})


def _facts_hash(facts: Facts) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def read_facts(workdir: str) -> Facts:
    """Reads dataset.json of a run directory.

    Raises:
      DataError: it is missing or not as it was written.
    """
    path = os.path.join(workdir, 'dataset.json')
    try:
        with open(path, encoding='utf-8') as file:
            stored = json.load(file)
        facts = Facts(**stored['dataset'])
        if _facts_hash(facts) != stored['hash']:
            raise ValueError('it is not as it was written')
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise DataError(f'{path}: cannot be used ({error}); restore it, or take a new '
                        '--workdir') from None
    return facts


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
