"""Whose a run directory is: of one process at a time, from a checkpoint on of one config."""

import contextlib
import glob
import logging
import os

from imgjax import config as config_lib
from imgjax.build import Setup
from imgjax.config import Config
from imgjax.errors import ConfigError
from imgjax.process import lock, processes
from imgjax.rundir import checkpoint, dataset_info, history, metrics_log, outputs, result

log = logging.getLogger('imgjax')

# What only a run that saved a checkpoint leaves.
_OF_A_SAVED_RUN = ('saved', 'damaged', 'history.json', 'report.html', 'predictions.safetensors')


@contextlib.contextmanager
def claimed(workdir: str):
    """Holds the run directory for the first process of the run; the others wait until it does.

    Nothing is left of one that no config was written to.
    """
    made = []
    with contextlib.ExitStack() as claimed:
        def hold() -> str:
            made.extend(_make_directory(workdir))
            claimed.enter_context(lock.run_lock(workdir))
            return ''

        processes.broadcast_from_first(hold)
        try:
            yield
        finally:
            if processes.first():
                outputs.remove_unused(workdir, made)


def _make_directory(workdir: str) -> list[str]:
    """Makes the run directory; returns the folders it made. One of something else is left alone."""
    outputs.check_not_of_run(f'--workdir={workdir}', workdir)
    try:
        made = outputs.make_folder(workdir, 0o750)
    except OSError as error:
        raise ConfigError(f'--workdir={workdir}: cannot be made ({error.strerror})') from None
    if config_lib.read(workdir) is None:
        strange = sorted(set(os.listdir(workdir)) - _left_over(workdir))
        if strange:
            raise ConfigError(f'{workdir}: holds {strange[0]!r} but no run; take an empty '
                              '--workdir')
    return made


def _left_over(workdir: str) -> set[str]:
    """Returns what a start may have left that ended before the directory was its own."""
    names = {'result.json'} if result.read(workdir) else set()
    if outputs.is_lock(workdir):
        names |= {'lock', 'dataset.json', 'dataset.json.tmp', 'config.json.tmp'}
    return names


def check(workdir: str, setup: Setup) -> str:
    """Checks that a run that has begun there may go on with this config; returns ''."""
    stored = config_lib.read(workdir)
    begun = has_begun(workdir)
    if stored is not None and (begun or history.is_cell(workdir)):
        history.check(workdir, stored, setup.config, max(checkpoint.steps(workdir), default=0))
    if stored is not None and begun:
        dataset_info.check_same_data(workdir, dataset_info.read(workdir), setup.dataset)
    return ''


def take(workdir: str, setup: Setup, step: int) -> str:
    """Makes the run directory this config's, once the state to go on from is there; returns ''.

    One in which no checkpoint was saved is still free: its steps are lost in any case.

    Args:
      workdir: the run directory.
      setup: what is run there.
      step: that of the state.
    """
    if not has_begun(workdir):
        _clear(workdir, setup.config)
        dataset_info.write(workdir, setup.dataset)
        config_lib.write(workdir, setup.config)
    else:
        if step < setup.config.steps:
            result.put_aside(workdir, config_lib.read(workdir).steps)
        history.go_on(workdir, setup.config, step)
    return ''


def has_begun(workdir: str) -> bool:
    """Returns whether a checkpoint was ever saved in the directory."""
    return bool(checkpoint.steps(workdir) or any(
        os.path.lexists(os.path.join(workdir, name)) for name in _OF_A_SAVED_RUN))


def _clear(workdir: str, config: Config) -> None:
    """Takes away what a run left that ended before its first checkpoint, and says what that was."""
    left = [path for names in ('diverged.json', 'unreadable*.jsonl')
            for path in sorted(glob.glob(os.path.join(glob.escape(workdir), names)))]
    rows, stored = metrics_log.read_rows(workdir), config_lib.read(workdir)
    if rows:  # metrics.Log takes these away
        changes = config_lib.differences(config, stored) if stored else {}
        names = [f'metrics.jsonl ({len(rows)} rows)', 'tensorboard',
                 *map(os.path.basename, left)]
        log.warning(
            '%s: a run ended here at step %d or later and had saved no checkpoint; step 0 comes '
            'next%s, and this is replaced: %s', workdir, rows[-1]['step'],
            f', with another config ({"; ".join(changes.values())})' if changes else '',
            ', '.join(names))
    for path in left:
        os.unlink(path)
