"""Which arms stop at a step, and what of an earlier judgement still holds."""

import os

import pytest

from configs import digits
from imgjax.rundir import metrics_log
from imgjax.study import cells, halving, plan, record, tasks

BASE = digits.get_config('mlp')
BASE.update(steps=60, log_every=10, eval_every=20)
SCORES = {'good': (0.9, 0.8), 'fair': (0.8, 0.7), 'bad': (0.5, 0.6), 'gone': (0.95, None)}


def study(metric='accuracy', keep=0.5) -> plan.Study:
    arms = {arm: {'hparams.learning_rate': 0.1 * (place + 1)} for place, arm in enumerate(SCORES)}
    return plan.read(dict(base=BASE, arms=arms, seeds=2, metric=metric,
                          halving={'steps': [20], 'keep': keep}), 'name')


@pytest.fixture
def run(tmp_path):
    """Returns run(study) -> a start of it, whose cells have the scores above at step 20."""
    def start(of: plan.Study) -> tasks.Run:
        planned = cells.cells_of(of, str(tmp_path / 'cells'))
        for cell in planned:
            score = SCORES[cell.arm][cell.seed]
            os.makedirs(cell.directory, exist_ok=True)
            log = metrics_log.Log(cell.directory, 0)
            if score is not None:
                log.write({'step': 20, 'split': 'test', 'accuracy': score, 'loss': score})
            log.close()
        return tasks.Run(of, planned, planned, str(tmp_path), record.read(str(tmp_path)), 'auto',
                         {}, None, {'recorded': 0.0}, set())

    return start


@pytest.mark.parametrize('metric, keep, stopped', [
    ('accuracy', 0.5, {'bad', 'gone'}), ('accuracy', 0.9, set()), ('accuracy', 0.2, {
        'fair', 'bad', 'gone'}), ('loss', 0.5, {'good', 'gone'})])
def test_the_worse_arms_stop_and_it_is_noted(run, tmp_path, metric, keep, stopped):
    one = run(study(metric, keep))
    halved = halving.decisions(one.record, one.study, one.planned)
    assert halving.judge(one.planned, 20, halved, one)
    noted = halving.decisions(record.read(str(tmp_path)), one.study, one.planned)
    assert noted['judged'] == [20] and noted['stopped'] == dict.fromkeys(stopped, 20)


def test_nothing_is_judged_while_a_cell_failed(run, tmp_path):
    one = run(study())
    one.failed.add(one.planned[0].directory)
    halved = halving.decisions(one.record, one.study, one.planned)
    assert not halving.judge(one.planned, 20, halved, one)
    assert halved['judged'] == [] and halved['stopped'] == {}


def test_another_rule_other_cells_or_none_forget_what_was_judged(run, tmp_path):
    one = run(study())
    halving.judge(one.planned, 20, halving.decisions(one.record, one.study, one.planned), one)
    noted = record.read(str(tmp_path))
    for other, planned in ((study('loss'), one.planned), (study(keep=0.25), one.planned),
                           (one.study, one.planned[:-1]),
                           (one.study._replace(halving=None), one.planned)):
        assert halving.decisions(noted, other, planned)['stopped'] == {}
