"""Successive halving: at the steps that a study names, its worse arms are stopped."""

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


def decisions(record: dict, study: Study, planned: Sequence[Cell]) -> dict:
    """Returns the decisions so far: {rule, judged: [steps], stopped: {arm: step}}.

    Decisions that were made by another rule, for other cells or with other code are dropped.
    """
    names = sorted(os.path.basename(cell.directory) for cell in planned)
    rule = hashlib.sha256(
        json.dumps([study.halving, study.metric, names]).encode()).hexdigest()[:16]
    recorded = record['halving']
    if study.halving and recorded['rule'] == rule:
        return recorded
    return {'rule': rule, 'judged': [], 'stopped': {}}


def judge(cells: list[Cell], step: int, halving: dict, run: Run) -> bool:
    """Decides which arms stop at a step, and writes that to the record; False if it cannot decide.

    An arm with a diverged cell counts as the worst. While a cell has failed nothing is decided, as
    the next start tries that cell again.

    Args:
      cells: the cells of the arms that are not stopped.
      step: the step that was reached.
      halving: what `decisions` returns; it is updated.
      run: the start of the study.
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
    stopped = ranked[math.ceil(study.halving['keep'] * len(ranked)):]
    halving['stopped'] |= {arm: step for arm in stopped}
    halving['judged'] += [step]  # the next start continues after this step
    tasks.update_record(run, halving=halving)
    if stopped:
        log.info('stopped at step %d: %s', step, ', '.join(stopped))
    return True


def _score(study: Study, cells: list[Cell], step: int) -> float:
    """Returns the mean of the metric over the seeds at a step; NaN if a seed diverged."""
    values = []
    for cell in cells:
        values += [row.get(study.metric) for row in metrics_log.read_rows(cell.directory)
                   if row['step'] == step and row['split'] == cell.config.data.eval_split][:1]
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if len(known) == len(cells) else math.nan
