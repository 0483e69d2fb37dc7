"""Whose a run directory is: of one process at a time, and of one config from its first state on."""

import contextlib
import glob
import os

from imgjax import build, checkpoint, history, metrics, outputs, processes, result, runtime
from imgjax import config as config_lib
from imgjax.build import Job
from imgjax.errors import ConfigError


@contextlib.contextmanager
def held(workdir: str):
    """Holds the run directory for the first process of the run; the others wait until it does.

    Nothing is left of one that no config was written to.
    """
    made = []
    with contextlib.ExitStack() as held:
        def hold() -> str:
            made.extend(_make_directory(workdir))
            held.enter_context(runtime.run_lock(workdir))
            return ''

        processes.from_first(hold)
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


def check(workdir: str, job: Job) -> str:
    """Checks that a run that has begun there may go on with this config; returns ''."""
    stored = config_lib.read(workdir)
    if stored is None or not _has_begun(workdir):
        return ''
    history.check(workdir, stored, job.config, max(checkpoint.steps(workdir), default=0))
    build.check_same_data(workdir, build.read_facts(workdir), job.facts)
    return ''


def take(workdir: str, job: Job, step: int) -> str:
    """Makes the run directory this config's, once the state to go on from is there; returns ''.

    One in which no step was done is still free: nothing of it is lost.

    Args:
      workdir: the run directory.
      job: what is run there.
      step: that of the state.
    """
    if not _has_begun(workdir):
        for path in glob.glob(os.path.join(glob.escape(workdir), 'unreadable*.jsonl')):
            os.unlink(path)  # of the dataset of another start
        build.write_facts(workdir, job.facts)
        config_lib.write(workdir, job.config)
    else:
        history.go_on(workdir, job.config, step)
    return ''


def _has_begun(workdir: str) -> bool:
    """Was there a step whose state or whose figures are in the directory?"""
    return bool(checkpoint.steps(workdir) or metrics.read_rows(workdir) or any(
        os.path.lexists(os.path.join(workdir, name)) for name in ('saved', 'damaged')))
