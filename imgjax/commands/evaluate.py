"""Evaluates a run on a split of its own dataset or of another one."""

import os
from typing import Any, NamedTuple

from imgjax import build, data, evaluate
from imgjax.commands import evaluation_data, run_directory
from imgjax.data import Source
from imgjax.rundir import outputs


def evaluate_split(workdir: str, at: int | str | None = None, split: str | None = None,
                   changes: dict | None = None, by: str = 'name',
                   source: Source | None = None) -> dict:
    """Evaluates a checkpoint, on the dataset of its run or on another one.

    Classes are matched by name. One log line says which classes are compared and which images are
    left out.

    Args:
      workdir: the run directory.
      at: the step, as `which_step` takes it; None takes the newest step that verifies.
      split: a split of the run's dataset, or of the dataset that `changes` name; None takes
        config.data.eval_split.
      changes: fields of the config that name another dataset or how images are read, such as
        {'data.path': ...}. If none of them names a dataset, the data have to be those that the run
        was trained on. Of another dataset with only one split all images are evaluated, unless a
        split is named.
      by: 'name', or 'number' for a dataset with the classes of the run, in the same order, under
        other names.
      source: the examples to evaluate, as imgjax.data.sources.arrays.source
        returns them, in place of a split.

    Returns split, data, accuracy, loss, step, examples, workdir, state_digest, top5_accuracy,
    classes, classes_compared and images_left_out.

    Raises:
      ConfigError: a field, a step or a split is wrong.
      DataError: the data or the checkpoint cannot be used, or no class is in both.
    """
    workdir = outputs.path('workdir', workdir)
    opened = open_split_of(workdir, at, split, changes or {}, by, source)
    setup = opened.setup
    return {'split': opened.split, 'data': opened.place,
            **evaluate.summary(
                setup.config, evaluate.split(setup, opened.state, opened.source, opened.split)),
            **opened.compared, 'step': opened.meta['step'],
            'workdir': os.path.abspath(workdir), 'state_digest': opened.meta['state_digest']}


class Opened(NamedTuple):
    """A checkpoint, and the split that it is evaluated on.

    Attributes:
      setup: the run, with the changes of this evaluation.
      state: TrainState on the mesh.
      meta: what was saved with the state: step and state_digest among others.
      source: the split, with the classes of the run.
      split: its name.
      place: where the data lie, for people.
      compared: what evaluation_data.compare_classes counted.
    """

    setup: build.Setup
    state: Any
    meta: dict
    source: Source
    split: str
    place: str
    compared: dict


def open_split_of(workdir: str, at: int | str | None, split: str | None, changes: dict,
                  by: str = 'name', source: Source | None = None) -> Opened:
    """Opens a checkpoint and the split to evaluate it on.

    The arguments and the errors are those of `evaluate_split`.
    """
    setup = run_directory.open_run(workdir)
    at = run_directory.which_step(setup, workdir, at)
    config = evaluation_data.with_changes(setup.config, changes)
    options = config.data
    asked, split = split, split or options.eval_split
    place = options.path or options.name
    if source is not None:
        place = 'arrays of a script'
    elif evaluation_data.names_data(changes) and (asked or 'data.eval_split' in changes):
        source = data.open_split(split, options)
    elif evaluation_data.names_data(changes):
        source, split = evaluation_data.other_split(options, setup.dataset.eval_fingerprint, split)
    else:
        source = evaluation_data.own_split(
            workdir, setup.config.data, options, setup.dataset, split)
    source, found = evaluation_data.compare_classes(source, setup.dataset, split, by)
    state, meta = run_directory.restore(setup, workdir, at)
    if config != setup.config:
        side = options.image_size or setup.dataset.image_shape[0]
        setup = build.setup(config, setup.dataset._replace(
            image_shape=[side, side, setup.dataset.image_shape[2]]))
    return Opened(setup, state, meta, source, split, place, found)
