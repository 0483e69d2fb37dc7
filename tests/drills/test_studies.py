"""A study that is killed again and again ends with the table of one that was not."""

import csv
import json
import pathlib
import random
import signal

import pytest

from tests.drills.test_drills import finish, rows_without_perf, steps_logged, wait_for

FILE = '--study=tests/drills/study.py'
KILLS = 10
BASE, HALF = 2e-3, 1e-3  # learning rates of two arms


def start(launch, place: pathlib.Path, strategy: str, *flags: str):
    return launch('study', FILE, f'--workdir={place}/study', f'--cells={place}/cells',
                  f'--strategy={strategy}', *flags)


def cells_of(learning_rate: float, place: pathlib.Path) -> list[pathlib.Path]:
    """Returns the run directories of an arm."""
    return [path for path in (place / 'cells').iterdir()
            if (path / 'config.json').exists() and json.loads((path / 'config.json').read_text())[
                'config']['hparams']['learning_rate'] == learning_rate]


def outcome(place: pathlib.Path, line: dict) -> dict:
    """Returns all numbers of a study but how long it took."""
    cells = {path.name: (rows_without_perf(str(path)),
                         json.loads((path / 'result.json').read_text())['result'].get('loss'))
             for path in (place / 'cells').iterdir()}
    tables = {}
    for name in ('cells', 'arms', 'comparisons'):
        with open(place / 'study' / f'{name}.csv', encoding='utf-8', newline='') as file:
            tables[name] = [
                {key: value.replace(str(place), '') for key, value in row.items()
                 if key != 'seconds'} for row in csv.DictReader(file)]
    return {'cells': cells, 'tables': tables, 'comparisons': line['comparisons'],
            'done': line['cells_done'], 'diverged': line['cells_diverged']}


@pytest.fixture(scope='module', params=['loop', 'vmap'])
def whole(request, launch, tmp_path_factory):
    place = tmp_path_factory.mktemp('whole')
    return request.param, outcome(place, finish(start(launch, place, request.param)))


def test_a_killed_study_ends_with_the_same_table(whole, launch, tmp_path, seed):
    strategy, expected = whole
    rng, kills = random.Random(seed), 0

    def steps() -> int:
        return sum(map(steps_logged, (tmp_path / 'cells').glob('*')))

    for _ in range(4 * KILLS):
        before, process = steps(), start(launch, tmp_path, strategy)
        if kills == KILLS:
            break
        wait_for(lambda: steps() >= before + rng.randrange(50, 450), process)  # noqa: B023
        process.kill()
        process.communicate()
        kills += process.returncode == -signal.SIGKILL
    assert kills == KILLS, 'the study ended before it was killed so often: make it longer'
    assert outcome(tmp_path, finish(process)) == expected
    assert expected['done'] == 4 and expected['diverged'] == 2


@pytest.mark.parametrize('whole', ['vmap'], indirect=True)
@pytest.mark.parametrize('ends', ['done', 'killed'])
def test_what_was_run_alone_stays_so(ends, launch, tmp_path, whole):
    """A population that was killed loses members to a start of one arm, and keeps its program."""
    strategy, expected = whole
    process = start(launch, tmp_path, strategy)
    wait_for(lambda: any(steps_logged(path) >= 150 for path in (tmp_path / 'cells').glob('*')),
             process)
    process.kill()
    process.communicate()
    alone = start(launch, tmp_path, 'loop', '--only=half')
    if ends == 'killed':
        wait_for(lambda: any(steps_logged(path) >= 650 for path in cells_of(HALF, tmp_path)), alone)
        alone.kill()
        alone.communicate()
        done = {}
    else:
        finish(alone)
        done = {path: path.stat().st_mtime_ns for cell in cells_of(HALF, tmp_path)
                for path in cell.rglob('*')}
    found = outcome(tmp_path, finish(start(launch, tmp_path, strategy)))
    assert done == {path: path.stat().st_mtime_ns for path in done}
    assert found['done'] == 4 and found['diverged'] == 2
    for path in cells_of(BASE, tmp_path):
        assert found['cells'][path.name] == expected['cells'][path.name]


def test_sigterm_stops_a_study_and_the_same_command_goes_on(whole, launch, tmp_path):
    strategy, expected = whole
    process = start(launch, tmp_path, strategy)
    wait_for(lambda: any(map(steps_logged, (tmp_path / 'cells').glob('*'))), process)
    process.terminate()
    _, said = process.communicate(timeout=60)
    assert process.returncode == 75, said[-2000:]
    assert 'the same command goes on' in said.splitlines()[-1]
    assert outcome(tmp_path, finish(start(launch, tmp_path, strategy))) == expected
