"""Lists and verifies the checkpoints in a run directory."""

import logging
import os

from imgjax import config as config_lib
from imgjax import state as state_lib
from imgjax.commands import run_directory
from imgjax.errors import DataError
from imgjax.rundir import checkpoint, outputs

log = logging.getLogger('imgjax')


def inspect_run(workdir: str) -> dict:
    """Restores and verifies every step on disk, and logs one line per step.

    Returns workdir, the newest step that verifies and its state_digest, all steps with `verified`,
    the step of the best evaluation if it verifies, the parameter count and the config hash.
    """
    workdir = outputs.path('workdir', workdir)
    setup = run_directory.open_run(workdir)
    config_hash = config_lib.digest(setup.config)
    found, best = [], run_directory.best_evaluated(setup, workdir)
    for at in checkpoint.steps(workdir):
        try:
            _, meta = checkpoint.restore(workdir, at, setup.target, config_hash)
            found.append({'step': at, 'verified': True, 'state_digest': meta['state_digest']})
            log.info('step %d: verified, %s%s', at, meta['state_digest'],
                     ', this is the step of the best evaluation' if at == best else '')
        except DataError as error:
            found.append({'step': at, 'verified': False, 'error': str(error)})
            log.info('step %d: %s', at, error)
    sound = [entry for entry in found if entry['verified']]
    newest = sound[-1] if sound else {'step': None, 'state_digest': None}
    best = best if best in [entry['step'] for entry in sound] else None
    parameters = state_lib.parameter_count(setup.target)
    log.info('%s parameters, config %s', f'{parameters:,}', config_hash)
    return {'step': newest['step'], 'state_digest': newest['state_digest'], 'steps': found,
            'best_step': best, 'parameters': parameters, 'config_hash': config_hash,
            'workdir': os.path.abspath(workdir)}
