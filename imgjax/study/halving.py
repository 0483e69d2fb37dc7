"""Successive halving: at the steps that a study names its worse arms stop."""

import hashlib
import json
import logging
import math
import os
from collections.abc import Sequence

import numpy as np

from imgjax import parts
from imgjax.rundir import metrics_log
from imgjax.study import tasks
from imgjax.study.cells import Cell
from imgjax.study.plan import Study
from imgjax.study.tasks import Run

log = logging.getLogger('imgjax.study')


def of(record: dict, study: Study, planned: Sequence[Cell]) -> dict:
    """Returns {rule, judged, stopped} of the halving that the study asks for now.

    What was judged by another rule, of other cells or by other code, is forgotten.
    """
    names = sorted(os.path.basename(cell.directory) for cell in planned)
    rule = hashlib.sha256(
        json.dumps([study.halving, study.metric, names]).encode()).hexdigest()[:16]
    found = record['halving']
    if study.halving and found['rule'] == rule:
        return found
    return {'rule': rule, 'judged': [], 'stopped': {}}


def judge(cells: list[Cell], step: int, halving: dict, run: Run) -> bool:
    """Stops the arms that are the worst at a step, all of them at once; False if it cannot judge.

    An arm of which a cell diverged is the worst; one of which a cell failed is tried again first.
    """
    study = run.study
    failed = [cell for cell in cells if cell.directory in run.failed]
    if failed:
        log.warning('arms are not judged at step %d, as %s · seed %d failed; the same command '
                    'tries it again', step, failed[0].arm, failed[0].seed)
        return False
    scores = {arm: _score(study, [cell for cell in cells if cell.arm == arm], step)
              for arm in dict.fromkeys(cell.arm for cell in cells)}
    config = cells[0].config
    metric = parts.measured(config, cells[0].dataset.multi_label)[study.metric]
    sign = -1 if metric.higher_is_better else 1
    ranked = sorted(scores, key=lambda arm: (math.isnan(scores[arm]), sign * scores[arm]))
    out = ranked[math.ceil(study.halving['keep'] * len(ranked)):]
    halving['stopped'] |= {arm: step for arm in out}
    halving['judged'] += [step]  # a start again goes on behind it
    tasks.note(run, halving=halving)
    if out:
        log.info('stopped at step %d: %s', step, ', '.join(out))
    return True


def _score(study: Study, cells: list[Cell], step: int) -> float:
    """Returns the mean over the seeds at a step; NaN where one diverged."""
    values = []
    for cell in cells:
        values += [row.get(study.metric) for row in metrics_log.read_rows(cell.directory)
                   if row['step'] == step and row['split'] == cell.config['data']['eval_split']][:1]
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if len(known) == len(cells) else math.nan
