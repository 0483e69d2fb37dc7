"""What can be done with a run directory besides training."""

import json
import types

import pytest

from imgjax.commands import run_directory
from imgjax.config import Config
from imgjax.errors import ConfigError, DataError

SETUP = types.SimpleNamespace(
    config=Config({'data': {'eval_split': 'test'}}), best=('accuracy', True))


def run_with(folder, evaluated: dict, saved) -> str:
    """A run directory with evaluations {step: accuracy} and checkpoints, as far as they count here.

    An evaluation without an accuracy is of images with several labels, whose scores are not finite.
    """
    rows = [{'step': step, 'split': 'test', 'accuracy': accuracy}
            for step, accuracy in evaluated.items()]
    rows.append({'step': 30, 'split': 'train', 'accuracy': 1.0})
    (folder / 'metrics.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))
    for step in saved:
        (folder / 'checkpoints' / str(step)).mkdir(parents=True)
    return str(folder)


@pytest.mark.parametrize('evaluated, saved, step', [
    ({10: 0.5, 20: 0.9, 30: 0.8}, [20, 30], 20),
    ({10: 0.5, 20: 0.9, 30: 0.9}, [10, 20, 30], 20),  # the earliest of equals
    ({10: None, 20: 0.0}, [10, 20], 20),
    ({10: 0.9, 20: 0.8}, [20], "evaluation is that of step 10, which was not saved.*keep_best.*20"),
    ({}, [20, 30], "'test' was not evaluated yet .*eval_every.*; give one of .*: 20, 30$"),
    ({}, [], 'on disk: none$')])
def test_the_step_of_the_best_evaluation(evaluated, saved, step, tmp_path):
    workdir = run_with(tmp_path, evaluated, saved)
    if isinstance(step, int):
        assert run_directory.which_step(SETUP, workdir, 'best') == step
        return
    with pytest.raises(DataError, match=f'--step=best: .*{step}') as error:
        run_directory.which_step(SETUP, workdir, 'best')
    assert '\n' not in str(error.value)


def test_other_steps(tmp_path):
    for at, step in ((None, None), ('', None), (10, 10), ('10', 10)):
        assert run_directory.which_step(SETUP, str(tmp_path), at) == step
    for at in ('newest', '-1', '1e3', '٣'):
        with pytest.raises(ConfigError, match='--step: takes the number of a step, or best'):
            run_directory.which_step(SETUP, str(tmp_path), at)
