"""The model that a card describes, with the two splits that it is examined on."""

import logging
from typing import Any, NamedTuple

from imgjax import config as config_lib
from imgjax import data
from imgjax.build import Setup
from imgjax.commands import evaluate, evaluate_weights, evaluation_data
from imgjax.data import Source, classes
from imgjax.errors import ConfigError, DataError
from imgjax.rundir import digests, outputs

log = logging.getLogger('imgjax')


class Model(NamedTuple):
    """A model, its weights, and the splits that it is examined on.

    Attributes:
      name: the title of its card.
      setup: the run that it belongs to; imported weights have one, too.
      state: TrainState on the mesh; None in an audit that trains nothing.
      state_digest: the digest of the state, by which results are found again.
      step: the step of the checkpoint; None for imported weights.
      eval_source: the evaluation split, with the classes of the model.
      split: its name.
      train_source: the training split, with the classes of the model; None where it is not at hand.
      train_split: its name.
      saw_training: whether the model was trained on this training split; it is not known of
        published weights and of another dataset than that of the run.
      compared: what evaluation_data.compare_classes counted.
    """

    name: str
    setup: Setup
    state: Any
    state_digest: str
    step: int | None
    eval_source: Source
    split: str
    train_source: Source | None
    train_split: str
    compared: dict
    saw_training: bool = False


def of_run(workdir: str, at: int | str | None = None, split: str = '',
           changes: dict | None = None) -> Model:
    """Opens the model of a run directory.

    Args:
      workdir: the run directory.
      at: the step, as `which_step` takes it; None takes the newest step that verifies.
      split: the evaluation split; '' takes config.data.eval_split.
      changes: fields of the config that name another dataset, as evaluate_split takes them.

    Raises:
      ConfigError: a field, a step or a split is wrong.
      DataError: the data or the checkpoint cannot be used.
    """
    workdir, changes = outputs.path('workdir', workdir), changes or {}
    if evaluation_data.names_data(changes):
        # A dataset with one split is divided: one share is examined, the rest trains the probes.
        split = split or changes.get('data.eval_split') or _own_eval_split(workdir)
    opened = evaluate.open_split_of(workdir, at, split, changes)
    setup, own = opened.setup, config_lib.read(workdir).data
    options = setup.config.data
    if evaluation_data.names_data(changes):
        trained = _other_training(options, setup.dataset.class_names)
    else:
        trained = classes.renumbered(
            evaluation_data.own_split(workdir, own, options, setup.dataset, options.train_split),
            setup.dataset.class_names, options.train_split)
    return Model(setup.config.name or workdir, setup, opened.state, opened.meta['state_digest'],
                 opened.meta['step'], opened.source, opened.split, trained, options.train_split,
                 opened.compared, not evaluation_data.names_data(changes))


def _own_eval_split(workdir: str) -> str:
    config = config_lib.read(workdir)
    return config.data.eval_split if config else ''


def of_weights(config, split: str = '') -> Model:
    """Opens published weights, config.init.weights, on the dataset that config.data names.

    Raises:
      ConfigError: no weights are named, or a field is wrong.
      DataError: the weights do not fit the model, or no class is in both.
    """
    split = split or evaluate_weights.evaluation_config(config).data.eval_split
    opened = evaluate_weights.open_weights(config, split)
    trained = _other_training(opened.setup.config.data, opened.setup.dataset.class_names)
    return Model(opened.setup.config.init.weights, opened.setup, opened.state,
                 digests.state_digest(opened.state), None, opened.source, opened.split, trained,
                 opened.setup.config.data.train_split, opened.compared)


def _other_training(options: dict, class_names) -> Source | None:
    """Returns the training split of a dataset with the classes of a model, or None and says why."""
    try:
        source = data.open_split(options['train_split'], options)
        if set(source.class_names) <= set(class_names):  # without reading the labels
            return classes.renumbered(source, class_names, options['train_split'])
        return classes.compared(source, class_names, options['train_split'])[0]
    except (ConfigError, DataError) as error:
        log.warning('what takes training images is left out: %s', error)
        return None
