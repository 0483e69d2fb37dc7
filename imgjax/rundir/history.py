"""history.json: the earlier configs of a run that was continued with other settings.

A run may change its length, and how often it logs and evaluates, between two starts. Its state,
with the optimizer, continues unchanged. Everything that depends on `steps` (the learning rate,
shares and milestones of the schedule) is from then on what a run of the new number of steps has at
that step. So the same checkpoint and config always lead to the same next checkpoint. The steps up
to `until` belong to the earlier config, the later ones to the next.
"""

import logging
import os
import re

from imgjax import config as config_lib
from imgjax.config import Config
from imgjax.errors import ConfigError
from imgjax.rundir import files

log = logging.getLogger('imgjax')

MAY_CHANGE = ('steps', 'epochs', 'log_every', 'eval_every', 'eval_batch_size')


def read(workdir: str) -> list[dict]:
    """Returns {'until': the last step with that config, 'config': plain} of each, the oldest first.

    Raises:
      ConfigError: the file is not as a run wrote it, or belongs to another run.
    """
    path = os.path.join(workdir, 'history.json')
    if not os.path.lexists(path):
        return []
    try:
        entries = [{'until': entry['until'], 'config': config_lib.checked(entry['config'])}
                   for entry in files.read_json(path, 4 * 2**20)]
        configs = [entry['config'] for entry in entries] + [config_lib.read(workdir)]
        steps = [entry['until'] for entry in entries]
        if not all(type(step) is int and step >= 0 for step in steps) or steps != sorted(steps):
            raise ValueError('its steps are in no order')
        for before, after in zip(configs, configs[1:], strict=False):
            other = [name for name in config_lib.differences(before, after)
                     if name not in MAY_CHANGE]
            if other:
                raise ValueError(f'it is of another run, which differs in config.{other[0]}')
    except (ValueError, KeyError, TypeError, AttributeError, OSError, ConfigError) as error:
        raise ConfigError(f'{path}: cannot be used ({error}); restore it or take a new '
                          '--workdir') from None
    return entries


def hash_at(workdir: str, step: int, config_hash: str) -> str:
    """Returns the hash of the config with which a run did a step; `config_hash` is the newest."""
    for entry in read(workdir):
        if step <= entry['until']:
            return config_lib.digest(entry['config'])
    return config_hash


def check(workdir: str, stored: dict, config: Config, done: int) -> None:
    """Checks that a run may continue with `config` after `done` steps with the `stored` one.

    Raises:
      ConfigError: the two differ in more than MAY_CHANGE, or `config` has fewer steps than `done`.
    """
    changes = config_lib.differences(config, stored)
    if not changes:
        return
    other = [line for name, line in changes.items() if name not in MAY_CHANGE]
    if other:
        raise ConfigError(
            f'{workdir}: belongs to another config ({"; ".join(other[:3])}'
            f'{", ..." if len(other) > 3 else ""}); take a new --workdir, or that config')
    if is_cell(workdir):
        raise ConfigError(f'{workdir}: is a cell of a study, which stays as it is '
                          f'({"; ".join(changes.values())}); copy it under another name')
    if config.steps < done:
        raise ConfigError(f'config.steps: {config.steps}, and {workdir} has done {done} already;'
                          ' take as many or more, or a new --workdir')


def is_cell(workdir: str) -> bool:
    """Returns whether a run directory is a cell of a study, by its name (see study/cells.py)."""
    name = os.path.basename(os.path.abspath(workdir))
    return bool(re.fullmatch('[0-9a-f]{16}-[0-9a-f]{8}', name))


def go_on(workdir: str, config: Config, step: int) -> None:
    """Makes `config` the config of a run directory from `step` on, and writes history.json.

    The work after that step is lost and will be done again.
    """
    stored = config_lib.read(workdir)
    entries = read(workdir)
    cut = [entry | {'until': min(entry['until'], step)} for entry in entries]
    changes = config_lib.differences(config, stored)
    if changes and step:
        if cut and cut[-1]['config'] == stored:  # from a start that was killed here
            cut.pop()
        cut.append({'until': step, 'config': stored})
        log.info('after step %d with other settings: %s', step, '; '.join(changes.values()))
    if cut != entries:
        config_lib.write_json(os.path.join(workdir, 'history.json'), cut)
    if stored != config:  # also after the data moved: what is read here must work too
        config_lib.write(workdir, config)


def lines(workdir: str) -> list[str]:
    """Returns a sentence for each time that a run went on with other settings."""
    entries = read(workdir)
    configs = [entry['config'] for entry in entries] + [config_lib.read(workdir)]
    return [f'After step {entry["until"]} the run went on with other settings: '
            f'{"; ".join(config_lib.differences(after, entry["config"]).values())}.'
            for entry, after in zip(entries, configs[1:], strict=True)]
