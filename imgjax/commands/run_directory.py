"""Opens a run directory for the commands that use it: builds the run and restores a step."""

import logging
import os

from imgjax import build, parts
from imgjax import config as config_lib
from imgjax.errors import ConfigError, DataError
from imgjax.process import backend
from imgjax.rundir import checkpoint, dataset_info, files, metrics_log

log = logging.getLogger('imgjax')


def open_run(workdir: str) -> build.Setup:
    """Builds a run from its run directory alone, on all devices of this machine.

    Raises:
      ConfigError: `workdir` is no run directory, or its config cannot be used.
      DataError: its dataset.json cannot be used.
    """
    backend.keep_memory()
    files.check_run(workdir)
    config = config_lib.read(workdir) if os.path.isdir(workdir) else None
    if config is None:
        raise ConfigError(f'--workdir={workdir}: no run directory')
    if changed := parts.changed_sources(config):
        log.warning('%s: the code has changed since the run began', ', '.join(changed))
    # The mesh of this machine, not the one that the run was trained on.
    config = config | {'mesh': {'data': -1, 'fsdp': 1, 'tensor': 1}}
    return build.setup(config, dataset_info.read(workdir))


def restore(setup: build.Setup, workdir: str, at: int | None):
    """Returns (TrainState, meta) of the step `at`; None takes the newest step that verifies.

    Raises:
      DataError: the checkpoint is missing or damaged.
    """
    if at is not None:
        return checkpoint.restore(workdir, at, setup.target, config_lib.digest(setup.config))
    restored = checkpoint.restore_newest(
        workdir, setup.target, config_lib.digest(setup.config), put_aside=False)
    if restored is None:
        raise DataError(f'{workdir}: no checkpoint was saved yet')
    return restored


def which_step(setup: build.Setup, workdir: str, at: int | str | None) -> int | None:
    """Returns the step that `at` names, or None for the newest step.

    Args:
      setup: the run.
      workdir: the run directory.
      at: the number of a step; 'best' for the step of the best evaluation, of several equal ones
        the earliest; None or '' for the newest step.

    Raises:
      ConfigError: `at` is none of these.
      DataError: the best evaluation has no checkpoint, or there is no evaluation.
    """
    if at is None or at == '':
        return None
    if at != 'best':
        if not files.is_step(str(at)):
            raise ConfigError(f'--step: takes the number of a step, or best, got {at!r}')
        return int(at)
    best, there = best_evaluated(setup, workdir), checkpoint.steps(workdir)
    if best in there:
        return best
    split = setup.config.data.eval_split
    missing = f'{split!r} was not evaluated yet (config.eval_every)' if best is None else (
        f'the best evaluation is that of step {best}, which was not saved '
        '(config.checkpoint.keep_best)')
    raise DataError(f'{workdir}: --step=best: {missing}; give one of the steps on disk: '
                    f'{", ".join(map(str, there)) or "none"}')


def best_evaluated(setup: build.Setup, workdir: str) -> int | None:
    """Returns the step of a run's best evaluation, the earliest of equal ones; None if none is."""
    scores = metrics_log.scores(
        metrics_log.read_rows(workdir), setup.config.data.eval_split, *setup.best)
    return max(sorted(scores), key=scores.get) if scores else None
