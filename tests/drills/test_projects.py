"""The examples in projects/ as a user runs them: trained, killed, gone on with, shown.

Each is in one of these runs; what they compute is tested in tests/test_projects_examples.py.
"""

import json
import pathlib
import re
import signal

import pytest

from tests.drills.test_drills import assert_same, finish, rows_without_perf, steps_logged, wait_for

SHORT = ['--config.batch_size=32', '--config.log_every=20', '--config.eval_every=200',
         '--config.checkpoint.every=40', '--config.schedule.warmup_steps=20']
MLP = ['--config=configs/digits.py', '--config.model.name=tiny_mlp', '--config.steps=1200']
# Flags, and what is measured: in training, in an evaluation.
RUNS = {
    'poly': ([*MLP, '--config.objective.name=projects.poly', '--config.hparams.poly_epsilon=1'],
             ['loss', 'accuracy'], ['loss']),
    'auxiliary_head': (
        ['--config=configs/digits.py:vit', '--config.steps=400',
         '--config.model.options={"patch_size": 4, "width": 16, "depth": 1, "heads": 2, '
         '"distilled": True}', '--config.objective.name=projects.auxiliary_head'],
        ['accuracy', 'auxiliary_loss'], ['accuracy']),
    'byol': (
        ['--config=configs/digits.py', '--config.steps=1200', '--config.model.name=projects.byol',
         '--config.model.options={"encoder": "tiny_mlp", "hidden": 32}',
         '--config.objective.name=projects.byol'],
        ['accuracy', 'byol_loss'], ['accuracy']),
    # In batches that a process of its own decodes.
    'sam, ademamix_warm, margin, hard_first': (
        [*MLP, '--config.steps=300', '--config.objective.name=projects.sam',
         '--config.optimizer.name=projects.ademamix_warm',
         "--config.metrics=(('projects.margin', {}),)", '--config.best_metric=margin',
         '--config.sampler.name=projects.hard_first', '--config.sampler.options.epochs=2',
         '--config.data.resident=no', '--config.data.workers=1'],
        ['accuracy'], ['margin', 'feature_norm']),
}


@pytest.mark.parametrize('name', RUNS)
def test_an_example_trains_goes_on_and_is_shown(name, launch, tmp_path):
    flags, measured, evaluated = RUNS[name]
    flags = [*flags, *SHORT]
    whole = launch('train', *flags, f'--workdir={tmp_path}/whole')
    killed = launch('train', *flags, f'--workdir={tmp_path}/killed')
    wait_for(lambda: steps_logged(tmp_path / 'killed') >= 60, killed, seconds=300)
    killed.kill()
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL, 'the run ended before: make it longer'
    expected = finish(whole)
    found = finish(launch('train', *flags, f'--workdir={tmp_path}/killed'))
    assert_same(found, tmp_path / 'killed',
                (expected, rows_without_perf(str(tmp_path / 'whole'))))
    assert expected['accuracy'] > 0.5
    page = (tmp_path / 'whole' / 'report.html').read_text()
    [events] = (tmp_path / 'whole' / 'tensorboard').iterdir()
    for split, names in (('train', measured), ('test', evaluated)):
        row = [row for row in rows_without_perf(str(tmp_path / 'whole'))
               if row['split'] == split][-1]
        for one in names:
            curve = f'{one.replace("_", " ").capitalize()} against training step'
            assert row[one] is not None and curve in page
            assert f'{split}/{one}'.encode() in events.read_bytes()
    if 'margin' in evaluated:
        assert expected['margin'] == row['margin']
    fingerprints = json.loads(pathlib.Path(tmp_path, 'whole', 'config.json').read_text())[
        'config']['fingerprints']
    assert set(fingerprints) == set(re.findall(r'projects\.\w+', ' '.join(flags)))


def test_what_an_example_lacks_is_one_line(launch, tmp_path):
    process = launch('train', *MLP, '--config.objective.name=projects.auxiliary_head',
                     f'--workdir={tmp_path}/run')
    _, said = process.communicate(timeout=300)
    assert process.returncode == 2, said[-3000:]
    assert 'projects/auxiliary_head.py, line' in said.splitlines()[-1]
    assert 'Traceback' not in said and not (tmp_path / 'run' / 'checkpoints').exists()
