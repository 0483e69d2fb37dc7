"""What a run leaves when it is over: its result, its answers image by image, its page."""

import hashlib
import json
import logging
import os

import numpy as np
import safetensors
import safetensors.numpy

from imgjax import config as config_lib
from imgjax import evaluate
from imgjax import state as state_lib
from imgjax.build import Setup
from imgjax.data import Source, faults
from imgjax.errors import DataError
from imgjax.process import processes
from imgjax.report import run as run_page
from imgjax.rundir import checkpoint, digests, files, metrics_log

log = logging.getLogger('imgjax')

# What `finish` writes, in its order.
_LEFT = ('environment.json', 'report.html', 'predictions.safetensors', 'result.json')
_ANSWERS = {'predictions': np.int32, 'confidences': np.float32, 'loss': np.float32,
            'accuracy': np.bool_, 'top5_accuracy': np.bool_}
_ANSWERS_BYTES = 2**32


def finish(setup: Setup, workdir: str, state, results: evaluate.Columns, rows: list[dict],
           source: Source, seconds: float) -> dict:
    """Checks that the last state is on disk, writes all that a run leaves, returns the result.

    Args:
      setup: the run.
      workdir: the run directory.
      state: after the last step.
      results: of its evaluation.
      rows: of metrics.jsonl.
      source: the split that was evaluated.
      seconds: that this start of the run took.

    Raises:
      DataError: the last state is not on disk.
    """
    step = state_lib.step_of(state)
    if processes.first() and step not in checkpoint.steps(workdir):
        raise DataError(_not_saved(workdir, step))
    found = {
        'split': setup.config.data.eval_split, **evaluate.summary(setup.config, results),
        'step': step,
        'workdir': os.path.abspath(workdir), 'state_digest': digests.state_digest(state),
        'parameters': state_lib.parameter_count(setup.target),
        'unreadable_images': len(faults.read(workdir)),
        'train_seconds': round(_train_seconds(rows), 2), 'seconds': round(seconds, 2)}
    if processes.first():
        run_page.write(workdir, setup, rows, results, source, found)
        write_answers(workdir, results)
        write(workdir, {'state': 'done'} | found)  # last: it says that all else is there
    return found


def put_aside(workdir: str, steps: int) -> None:
    """Moves what a run left when it was over to earlier/<steps>, as it goes on: it is no more so.

    The result.json of a cell that failed or diverged stays until there is another one.

    Args:
      workdir: the run directory.
      steps: of the run that was over.
    """
    there = [name for name in _LEFT if os.path.lexists(os.path.join(workdir, name))]
    if (read(workdir) or {}).get('state') in ('failed', 'diverged'):
        there.remove('result.json')
    if not there:
        return
    os.makedirs(os.path.join(workdir, 'earlier'), exist_ok=True)
    place = files.free_path(os.path.join(workdir, 'earlier'), str(steps))
    os.mkdir(place)
    for name in there:
        os.replace(os.path.join(workdir, name), os.path.join(place, name))
    log.info('the run goes on; what it left after %d steps is put aside in %s: %s', steps, place,
             ', '.join(there))


def _not_saved(workdir: str, step: int) -> str:
    # What a failed save left looks like a save that still runs: both are possible here.
    return (f'{checkpoint.directory(workdir)}: the last state, of step {step}, could not be saved; '
            'a save that failed is a warning above, with its reason, and the same command goes on '
            'from the checkpoint before (a script first has to close its checkpoint.Writer)')


def _train_seconds(rows: list[dict]) -> float:
    """Returns the seconds that all steps of a run took, over every start of it."""
    timed, total = 0, 0.0
    for row in rows:
        if row['split'] == 'train' and row.get('perf', {}).get('step_time'):
            total += (row['step'] - timed) * row['perf']['step_time']
            timed = row['step']
    return total


def write(workdir: str, found: dict) -> None:
    """Writes result.json; `found['state']` is 'done', 'diverged' or 'failed'."""
    found = metrics_log.jsonable(found)
    config_lib.write_json(os.path.join(workdir, 'result.json'),
                          {'hash': _hash(found), 'result': found})


def read(workdir: str) -> dict | None:
    """Returns what `write` wrote; None where it is missing or not as it was written."""
    try:
        stored = files.read_json(os.path.join(workdir, 'result.json'))
        return stored['result'] if _hash(stored['result']) == stored['hash'] else None
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _hash(found: dict) -> str:
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()[:16]


def write_answers(workdir: str, results: evaluate.Columns) -> None:
    """Writes predictions.safetensors: what was answered, image by image in the split's order.

    Arrays of N rows: predictions int32; confidences and loss float32; accuracy and top5_accuracy
    bool, whether the prediction, or one of the five likeliest, is a label; the columns of other
    metrics; and labels int32, where each image has one.
    """
    several = ('labels', 'probabilities') if results['labels'].ndim == 2 else ()
    arrays = {name: np.ascontiguousarray(column) for name, column in results.items()
              if name not in several}
    path = os.path.join(workdir, 'predictions.safetensors')
    with files.replacing(path, binary=True) as file:
        file.write(safetensors.numpy.save(arrays))


def read_answers(workdir: str) -> dict[str, np.ndarray]:
    """Returns the arrays of predictions.safetensors by their names.

    Raises:
      DataError: it is missing, or not what `write_answers` writes.
    """
    path = os.path.join(workdir, 'predictions.safetensors')
    try:
        arrays = safetensors.numpy.load(files.read(path, _ANSWERS_BYTES))
        count = arrays['accuracy'].shape[:1]
        kinds = _ANSWERS | ({'labels': np.int32} if 'labels' in arrays else {})
        for name, array in arrays.items():
            fits = array.dtype.kind in 'biuf' and array.shape[:1] == count and count
            if not fits or (name in kinds and (array.dtype, array.ndim) != (kinds[name], 1)):
                raise ValueError(f'{name!r} is {array.dtype}{array.shape}')
        if missing := kinds.keys() - arrays.keys():
            raise ValueError(f'{min(missing)!r} is missing')
    except (OSError, ValueError, KeyError, safetensors.SafetensorError) as error:
        raise DataError(f'{path}: cannot be used ({error}); delete the run directory, and run it '
                        'again') from None
    return arrays
