"""A study: its cells are what runs alone are, whatever their company.

Through real processes, but for what no process and no device makes a difference to.
"""

import json
import logging
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest

from imgjax.errors import ConfigError
from imgjax.process import lock
from imgjax.rundir import checkpoint, metrics_log, result
from imgjax.study import engine
from tests.conftest import FAST

ROOT = pathlib.Path(__file__).parent.parent.parent
FILE = 'tests/study/small.py'
ARMS, SEEDS = 4, 2


@pytest.fixture(scope='module')
def place(tmp_path_factory):
    return tmp_path_factory.mktemp('studies')


@pytest.fixture(scope='module')
def study(launch, place):
    """Returns study(name, *flags, devices) -> (its last line, what it said); cells lie in NAME."""
    def run(name: str, *flags: str, devices: int = 1, file: str = FILE):
        process = launch('study', f'--study={file}', f'--workdir={place}/{name}.study',
                         f'--cells={place}/{name}', *flags, devices=devices)
        out, said = process.communicate(timeout=300)
        assert process.returncode == 0, said[-3000:]
        return json.loads(out.splitlines()[-1]), said

    return run


@pytest.fixture
def here(place, caplog, capsys, monkeypatch):
    """Returns here(name, **options) -> what study() returns, in this process."""
    monkeypatch.chdir(ROOT)
    caplog.set_level(logging.INFO, 'imgjax')

    def run(name: str, *, file: str = FILE, what=engine.run, **options):
        caplog.clear()
        line = what(file, f'{place}/{name}.study', f'{place}/{name}', **options)
        line = json.loads(json.dumps(line), parse_constant=lambda _: None)  # as it is printed
        return line, caplog.text + capsys.readouterr().err

    return run


@pytest.fixture(scope='module')
def alone(place, compiled, data_dir):
    """The cells as runs alone left them: {the name of a run directory: its path}."""
    env = os.environ | compiled | {'TFDS_DATA_DIR': data_dir, 'XLA_FLAGS': FAST}
    subprocess.run([sys.executable, '-m', 'tests.study.alone', FILE, str(place / 'alone')],
                   cwd=ROOT, env=env, check=True, capture_output=True)
    return {path.name: path for path in (place / 'alone').iterdir()}


@pytest.fixture(scope='module')
def looped(study):
    return study('loop', '--strategy=loop')


def digests(path: pathlib.Path) -> dict:
    """Returns the digest of each checkpoint of a run directory."""
    return {step: json.loads((path / 'checkpoints' / str(step) / 'meta' / 'metadata').read_text())[
        'state_digest'] for step in checkpoint.steps(str(path))}


def rows(path: pathlib.Path) -> list[dict]:
    return [{k: v for k, v in row.items() if k != 'perf'}
            for row in metrics_log.read_rows(str(path))]


def test_a_loop_is_runs_alone(alone, looped, place):
    line, _ = looped
    assert (line['cells'], line['cells_done'], line['cells_diverged']) == (8, 6, 2)
    assert len(alone) == ARMS * SEEDS
    for name, path in alone.items():
        mine = place / 'loop' / name
        assert rows(mine) == rows(path) and digests(mine) == digests(path), mine
        assert {p.name for p in path.iterdir()} <= {p.name for p in mine.iterdir()} | {'damaged'}
        if (path / 'predictions.safetensors').exists():
            theirs = result.read_answers(str(path))
            for key, values in result.read_answers(str(mine)).items():
                np.testing.assert_array_equal(values, theirs[key])


def test_a_mesh_of_devices_is_runs_alone(alone, study, launch, place, tmp_path):
    """Six cells on four devices, two of them left over; killed when the first four are done."""
    file = tmp_path / 'three_arms.py'
    fast = "            'far too fast': {'hparams.learning_rate': 1e30},\n"
    text = (ROOT / FILE).read_text().replace(fast, '').replace(
        "            'no decay': {'hparams.weight_decay': 0.0},\n", '')
    file.write_text(text.replace("            'base': {},\n", f"{fast}            'base': {{}},\n")
                    .replace(", ('base', 'no decay')", ''))
    process = launch('study', f'--study={file}', f'--workdir={place}/mesh.study',
                     f'--cells={place}/mesh', '--strategy=mesh', devices=4)
    for words in process.stderr:
        if 'at step 60' in words:
            process.kill()
    process.communicate()
    line, _ = study('mesh', '--strategy=mesh', devices=4, file=str(file))
    assert (line['cells_done'], line['cells_diverged']) == (4, 2)
    [group] = json.loads((place / 'mesh.study' / 'plan.json').read_text())['groups'].values()
    assert [one['devices'] for one in group['populations']] == [4, 0, 0]
    [together, *left_over] = [one['cells'] for one in group['populations']]
    for name in together:
        mine, path = place / 'mesh' / name, alone[name]
        if (path / 'predictions.safetensors').exists():  # one that diverges is not tried again
            assert rows(mine) == rows(path) and digests(mine) == digests(path), mine
    for [name] in left_over:  # as a run alone that has four devices
        for ours, other in zip(rows(place / 'mesh' / name), rows(alone[name]), strict=True):
            np.testing.assert_allclose(ours['loss'], other['loss'], rtol=1e-4)


def check_rounding(folder, alone):
    """Checks cells of one program against runs alone, from which they differ by rounding."""
    for cell, path in alone.items():
        mine, theirs = rows(folder / cell), rows(path)
        if not (path / 'predictions.safetensors').exists():
            assert not (folder / cell / 'predictions.safetensors').exists()
            continue
        assert [(row['step'], row['split']) for row in mine] == [
            (row['step'], row['split']) for row in theirs]
        for ours, other in zip(mine, theirs, strict=True):
            if ours['step'] <= 50:
                np.testing.assert_allclose(ours['loss'], other['loss'], rtol=1e-4)


def test_one_program_rounds_differently_and_nothing_else(alone, study, place):
    """On two devices, each with its part of the population; one device is in the test below."""
    line, _ = study('vmap', '--strategy=vmap', devices=2)
    assert line['cells_done'] == 6 and line['cells_diverged'] == 2
    check_rounding(place / 'vmap', alone)


def test_an_arm_that_diverges_is_said_and_touches_nobody(looped, place):
    line, said = looped
    assert 'far too fast · seed 0: diverged' in said
    assert line['missing'] == ['far too fast: 2 of 2 cells diverged, the updates no longer finite']
    assert [one['winner'] for one in line['comparisons']] == ['', '']
    assert all(one['difference'] is not None for one in line['comparisons'])


def test_what_is_done_is_not_done_again(here, looped, place):
    written = {path: path.stat().st_mtime_ns for path in (place / 'loop').rglob('*.json')}
    again, said = here('loop')
    assert again['comparisons'] == looped[0]['comparisons'] and again['cells_done'] == 6
    assert written == {path: path.stat().st_mtime_ns for path in (place / 'loop').rglob('*.json')}
    assert 'at step' not in said


def test_studies_share_cells(here, looped, place, tmp_path):
    """Another question about some of the same arms."""
    text = (ROOT / FILE).read_text()
    other = tmp_path / 'other.py'
    other.write_text(text.replace("'far too fast': {'hparams.learning_rate': 1e30}",
                                  "'double': {'hparams.learning_rate': 0.1}"))
    line, said = here('loop', file=str(other), what=lambda file, _, cells: engine.run(
        file, f'{tmp_path}/other', cells, 'loop'))
    assert line['cells_done'] == 8 and line['missing'] == []
    assert said.count('at step 60') == SEEDS and 'double · seed 1: ' in said
    assert '; 2 run here' in pathlib.Path(line['page']).read_text(), 'what cost it is the cost of'


def test_a_study_that_grows_goes_on(study, alone, place, tmp_path):
    """What a population leaves over, or a third seed, is one cell: it is run alone."""
    text = (ROOT / FILE).read_text()
    file = tmp_path / 'grows.py'
    for seeds in (2, 3):
        file.write_text(text.replace('seeds=2', f'seeds={seeds}'))
        line, _ = study('grows', '--strategy=vmap', '--only=base', file=str(file))
        assert line['cells_done'] == seeds
    # That one was looped says nothing of the others, and one arm nothing of all.
    line, said = study('grows', '--strategy=vmap', file=str(file))
    assert '9 cells like no decay · seed 0: vmap' in said and line['cells_done'] == 9
    check_rounding(place / 'grows', alone)
    file.write_text(text.replace('seeds=2', 'seeds=4'))
    study('grows', '--only=base', '--strategy=loop', file=str(file))
    [group] = json.loads((place / 'grows.study' / 'plan.json').read_text())['groups'].values()
    assert (group['strategy'], group['cells']) == ('vmap', 12)


def test_one_device_has_no_mesh(here, monkeypatch):
    monkeypatch.setattr('jax.local_device_count', lambda: 1)
    with pytest.raises(ConfigError) as error:
        here('no mesh', requested='mesh')
    assert "--strategy=mesh: not for the 8 cells like 'base'" in str(error.value)
    assert 'there is one device' in str(error.value)


def test_a_cell_that_another_study_runs_is_waited_for(study, here, launch, place):
    """The others are run meanwhile, and the page can be written; later the cells are listed."""
    listed = here('held', what=engine.listing)[1]
    first = pathlib.Path(listed.split('base · seed 0')[1].split()[0])
    first.mkdir(parents=True)
    with lock.run_lock(str(first)):
        process = launch('study', f'--study={FILE}', f'--workdir={place}/held.study',
                         f'--cells={place}/held', '--only=base')
        said = ''
        for words in process.stderr:
            said += words
            if 'waiting: ' in words:
                break
        assert 'base · seed 1: ' in said, said[-2000:]
        assert f'locked by process {os.getpid()}' in said, said[-2000:]
        line, _ = study('held', '--report')
        assert line['cells_done'] == 1
    out, _ = process.communicate(timeout=120)
    line = json.loads(out.splitlines()[-1])
    assert process.returncode == 0 and (line['cells'], line['cells_done']) == (8, 2)
    assert 'half: 2 of 2 cells not run to the end' in line['missing']

    line, said = here('held', what=engine.listing)
    assert (line['done'], line['missing']) == (2, 6)
    assert 'done' in said and 'base · seed 1' in said
    pathlib.Path(place / 'held.study' / 'study.html').unlink()
    line, _ = here('held', report=True)
    assert pathlib.Path(line['page']).exists() and line['cells_done'] == 2
    with pytest.raises(ConfigError, match="--only: no arm 'haff'; did you mean 'half'?"):
        here('held', only='haff')


def test_halving_stops_the_worse_arms_also_when_it_is_killed(
        study, here, launch, looped, place, tmp_path):
    text = (ROOT / FILE).read_text()
    file = tmp_path / 'halving.py'
    file.write_text(text.replace('seeds=2,', "seeds=2, halving={'steps': [20, 40], 'keep': 0.5},"))
    line, said = study('halved', '--strategy=loop', file=str(file))
    stops = [words.split('stopped at ')[1] for words in said.splitlines() if 'stopped at ' in words]
    assert [words.split(':')[0] for words in stops] == ['step 20', 'step 40']
    assert 'far too fast' in stops[0] and len(set(', '.join(
        words.split(': ')[1] for words in stops).split(', '))) == 3, 'four arms, two, one'
    assert line['cells_done'] == 2 and 'stopped early' in pathlib.Path(line['page']).read_text()
    again, said = here('halved', file=str(file))
    assert again['comparisons'] == line['comparisons'] and 'at step' not in said
    with pytest.raises(ConfigError, match='--only: a study with halving compares its arms while'):
        here('halved', file=str(file), only='base')

    # Asked for without halving, it goes on with all arms; what stood at step 20 or 40 with them.
    shutil.copytree(place / 'halved', place / 'whole')
    whole, _ = study('whole', '--strategy=loop')
    assert whole['cells_done'] == 6 and whole['cells_diverged'] == 2
    for path in (place / 'whole').iterdir():
        assert rows(path) == rows(place / 'loop' / path.name)

    for moment in ('base · seed 1: ', 'stopped at step 40'):
        process = launch('study', f'--study={file}', f'--workdir={place}/cut.study',
                         f'--cells={place}/cut', '--strategy=loop')
        for words in process.stderr:
            if moment in words:
                process.kill()
        process.communicate()
    after, said = study('cut', file=str(file))
    assert 'stopped at' not in said and after['comparisons'] == line['comparisons']
    for path in (place / 'halved').iterdir():
        assert rows(place / 'cut' / path.name) == rows(path)


def test_a_cell_of_other_code_does_not_count(here, looped, place):
    """It is told of, and run again where the study is."""
    shutil.copytree(place / 'loop', place / 'old')
    for path in (place / 'old').iterdir():
        path.rename(path.with_name(f'{path.name.split("-")[0]}-01234567'))
    line, _ = here('old', report=True)
    assert line['cells_done'] == 0
    assert 'base: 2 of 2 cells run by another version of the code' in line['missing']


def test_what_cannot_be_run_leaves_the_others(here, tmp_path):
    """An arm that cannot be built, and a cell whose directory is in the way: a line of the page."""
    file = tmp_path / 'bad_arm.py'
    text = (ROOT / FILE).read_text().replace(
        "{'hparams.learning_rate': 0.025}",
        "{'model.name': 'tiny_vit', 'model.options': {'patch_size': 3}}")
    for rest in ("            'no decay': {'hparams.weight_decay': 0.0},\n",
                 "            'far too fast': {'hparams.learning_rate': 1e30},\n",
                 ", ('base', 'no decay')"):
        assert rest in text
        text = text.replace(rest, '')
    file.write_text(text)
    _, said = here('bad', file=str(file), what=engine.listing)
    [words] = [words for words in said.splitlines() if 'base · seed 0' in words]
    directory = pathlib.Path(words.split()[-1])
    directory.mkdir(parents=True)
    (directory / 'something').touch()
    line, _ = here('bad', file=str(file), requested='loop')
    assert (line['cells_done'], line['cells_failed']) == (1, 3)
    assert 'half: 2 of 2 cells ended by an error' in line['missing']
    assert "holds 'something' but no run" in json.loads(
        (directory / 'result.json').read_text())['result']['error']
