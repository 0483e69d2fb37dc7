"""Evaluates published weights on a dataset, without a run."""

import logging
from typing import Any, NamedTuple

import jax
import numpy as np

from imgjax import build, data, evaluate, sharding, state
from imgjax import config as config_lib
from imgjax.commands import evaluation_data
from imgjax.config import Config
from imgjax.data import Source, classes
from imgjax.errors import ConfigError, DataError
from imgjax.interop import load
from imgjax.process import backend
from imgjax.rundir import digests

log = logging.getLogger('imgjax')


def run(config, split: str | None = None, by: str = 'name') -> dict:
    """Evaluates the weights that config.init.weights names on the data that config.data names.

    Classes are matched by the names that are stored with the weights (see interop/labels.py). If
    there are no names, output k of the model is taken for class k of the dataset.

    Args:
      config: what a get_config returned, or plain data.
      split: the split to evaluate; None takes config.data.eval_split, or all images of a dataset
        that has only one split.
      by: 'name', or 'number' to match classes by their numbers and ignore their names.

    Returns split, data, weights, parameters, accuracy, loss, examples, state_digest, top5_accuracy,
    classes, classes_compared and images_left_out.

    Raises:
      ConfigError: no weights are named, or a field is wrong.
      DataError: the weights do not fit the model, or no class is in both.
    """
    opened = open_weights(config, split, by)
    setup, options = opened.setup, opened.setup.config.data
    return {'split': opened.split, 'data': options.path or options.name,
            'weights': setup.config.init.weights,
            **evaluate.summary(
                setup.config, evaluate.split(setup, opened.state, opened.source, opened.split)),
            **opened.compared,
            'parameters': state.parameter_count(opened.state),
            'state_digest': digests.state_digest(opened.state)}


class Opened(NamedTuple):
    """Published weights, and the split that they are evaluated on.

    Attributes:
      setup: the run that they would begin, with an empty optimizer state.
      state: TrainState on the mesh.
      source: the split, with the classes of the model.
      split: its name.
      compared: what evaluation_data.compare_classes counted.
    """

    setup: build.Setup
    state: Any
    source: Source
    split: str
    compared: dict


def open_weights(config, split: str | None = None, by: str = 'name') -> Opened:
    """Opens published weights and the split to evaluate them on.

    The arguments and the errors are those of `run`.
    """
    backend.keep_memory()
    config = evaluation_config(config)
    weights = load.find(config)
    if weights is None:
        raise ConfigError('--workdir: give a run directory, or weights by --config=FILE and '
                          '--config.init.weights=LAYOUT:WHERE')
    config = load.with_preprocessing(config, weights)
    build.check(config)
    options = config.data
    if split:
        source = data.open_split(split, options)
    else:
        source, split = evaluation_data.other_split(options, '', options.eval_split)
    config, dataset = build.describe(config, source, source)
    names = _output_names(weights, source)
    if not names:
        log.warning('the weights name no classes: their outputs are taken for the classes of the '
                    'dataset in its order, 0 for %r', source.class_names[0])
    dataset = dataset._replace(class_names=list(names or source.class_names))
    source, found = evaluation_data.compare_classes(source, dataset, split, by)
    setup, begun = _with_weights(build.setup(config, dataset), weights, bool(names))
    return Opened(setup, begun, source, split, found)


def evaluation_config(config) -> Config:
    """Returns the frozen Config without the fields that only training reads."""
    plain = config.to_dict() if hasattr(config, 'to_dict') else dict(config)
    if not plain.get('steps') and not plain.get('epochs'):
        plain['steps'] = 1  # a valid number; there is no training
    config = config_lib.checked(plain)
    return config | {
        'init': config.init | {'head': 'keep'},  # a new head is random
        'ema': False,
        'hparams': config.hparams | (
            {'class_weights': ()} if 'class_weights' in config.hparams else {})}


def _output_names(weights: load.Weights, source: Source) -> tuple[str, ...]:
    """Returns the class names of the outputs: of several lists, the one that fits `source` best."""
    return max(weights.label_names, default=(),
               key=lambda names: (classes.places(source, names) >= 0).sum())


def _with_weights(setup: build.Setup, weights: load.Weights, named: bool):
    """Returns (the setup with an empty optimizer state, the TrainState with the weights)."""
    target = setup.target.replace(opt_state=())
    host = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), target)
    try:
        loaded = load.load(setup.config, weights, {
            'params': host.params, 'batch_stats': host.batch_stats},
            () if named else tuple(setup.dataset.class_names))
    except DataError as error:
        cause, fix, _ = str(error).partition("; set config.init.head='new'")
        hint = ('; without class names (label_names in a config.json beside the weights) they need '
                'a dataset with as many classes')
        raise DataError(cause + (hint if fix else '')) from None
    setup = setup._replace(target=target)
    return setup, sharding.place(host.replace(**loaded), setup.shardings)
