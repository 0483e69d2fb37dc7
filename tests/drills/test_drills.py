"""Faults through real processes: what is killed, stopped or starved ends with the same bits."""

import contextlib
import json
import os
import pathlib
import random
import signal
import subprocess
import time

import pytest

from imgjax.rundir import metrics_log
from tests.conftest import starter

CONFIG = '--config=tests/drills/config.py'
WORKERS = ['--config.data.resident=no', '--config.data.workers=1', '--config.steps=200']


def finish(process) -> dict:
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err[-3000:]
    return json.loads(out.strip().splitlines()[-1])


def rows_without_perf(workdir) -> list[dict]:
    return [{k: v for k, v in row.items() if k != 'perf'} for row in metrics_log.read_rows(workdir)]


def steps_logged(workdir) -> int:
    rows = metrics_log.read_rows(str(workdir))
    return rows[-1]['step'] if rows else 0


def wait_for(condition, process, seconds=120):
    """Waits until `condition()`, or the process has ended."""
    deadline = time.monotonic() + seconds
    while not condition() and process.poll() is None:
        assert time.monotonic() < deadline, 'the run made no progress'
        time.sleep(0.01)


@pytest.fixture(scope='module')
def launch(compiled, data_dir):
    """As in all tests, but these runs are compiled as a user's are."""
    return starter(compiled, '')


@pytest.fixture(scope='module')
def undisturbed(launch, tmp_path_factory):
    """(result, rows) of the drill's run without any fault."""
    workdir = str(tmp_path_factory.mktemp('undisturbed'))
    result = finish(launch('train', CONFIG, f'--workdir={workdir}'))
    return result, rows_without_perf(workdir)


@pytest.fixture(scope='module')
def with_workers(launch, tmp_path_factory):
    """(result, rows) of a run that decodes in a process of its own."""
    workdir = str(tmp_path_factory.mktemp('workers'))
    result = finish(launch('train', CONFIG, *WORKERS, f'--workdir={workdir}'))
    return result, rows_without_perf(workdir)


def assert_same(result, workdir, undisturbed):
    expected, rows = undisturbed
    same = ('accuracy', 'loss', 'step', 'examples', 'state_digest')
    assert {k: result[k] for k in same} == {k: expected[k] for k in same}
    assert rows_without_perf(str(workdir)) == rows, 'metrics rows doubled, lost or changed'


def test_ten_kills_change_nothing(launch, tmp_path, undisturbed, seed):
    rng = random.Random(seed)
    kills = 0
    for attempt in range(40):
        before = steps_logged(tmp_path)
        process = launch('train', CONFIG, f'--workdir={tmp_path}')
        if kills == 10:
            break
        if attempt % 4 == 3:  # somewhere in import, compile, restore; on a fast machine in training
            deadline = time.monotonic() + rng.uniform(0.5, 6)
            wait_for(lambda: time.monotonic() > deadline  # noqa: B023
                     or steps_logged(tmp_path) >= before + 40, process)  # noqa: B023
        else:  # somewhere in training, evaluating, saving
            first = before + rng.randrange(1, 40)
            wait_for(lambda: steps_logged(tmp_path) >= first, process)  # noqa: B023
            time.sleep(rng.uniform(0, 0.1))
        process.kill()
        process.communicate()
        kills += process.returncode == -signal.SIGKILL
    assert kills == 10, 'the run ended before it was killed ten times: make it longer'
    assert_same(finish(process), tmp_path, undisturbed)


def started(workdir, process) -> bool:
    return f'process {process.pid} ' in (workdir / 'lock').read_text()


def saving(workdir) -> bool:
    return bool(list(workdir.glob('checkpoints/*tmp*')))


def evaluating(workdir) -> bool:
    rows = metrics_log.read_rows(str(workdir))
    return bool(rows) and rows[-1]['step'] % 200 == 0 and rows[-1]['split'] == 'train'


@pytest.mark.parametrize('phase, signum', [
    *((phase, signal.SIGTERM) for phase in (
        'import', 'compile', 'train', 'eval', 'save', 'restore', 'data start')),
    *((phase, signal.SIGINT) for phase in ('compile', 'train', 'data start'))])
def test_a_stop_saves_and_the_same_command_goes_on(
        phase, signum, launch, tmp_path, undisturbed, with_workers, seed):
    rng = random.Random(seed)
    expected = with_workers if phase == 'data start' else undisturbed
    flags = ['train', CONFIG, *(WORKERS if phase == 'data start' else []),
             f'--workdir={tmp_path}']
    if phase == 'restore':
        process = launch(*flags)
        wait_for(lambda: steps_logged(tmp_path) >= 100, process)
        process.kill()
        process.communicate()
    process = launch(*flags)
    wait_for({
        'import': lambda: time.sleep(rng.uniform(0.3, 2)) or True,
        'compile': (tmp_path / 'metrics.jsonl').exists,
        'train': lambda: steps_logged(tmp_path) >= rng.randrange(20, 500),
        'eval': lambda: evaluating(tmp_path),
        'save': lambda: saving(tmp_path),
        'restore': lambda: started(tmp_path, process) and (
            time.sleep(rng.uniform(0, 2)) or True),
        'data start': lambda: children_of(process.pid)}[phase], process)
    asked = time.monotonic()
    if signum == signal.SIGINT:  # a terminal sends it to all processes of the group
        for pid in children_of(process.pid):
            os.kill(pid, signum)
    process.send_signal(signum)
    out, err = process.communicate(timeout=60)  # returns when no worker holds stdout any more
    assert time.monotonic() - asked < 30
    if phase == 'eval' and process.returncode == 0:  # a short evaluation, missed to the end
        assert_same(json.loads(out.splitlines()[-1]), tmp_path, expected)
        return
    if phase == 'import' and process.returncode == -signum:
        assert not (tmp_path / 'config.json').exists()  # before Python could take the signal
    else:
        assert process.returncode == 75, err[-2000:]
        assert 'asked to stop' in err.splitlines()[-1]
    if phase == 'train':
        at = int(err.split('asked to stop at step ')[1].split()[0])
        saved = max(int(path.name) for path in (tmp_path / 'checkpoints').iterdir())
        assert saved == at, 'the step it was stopped at is what is saved'
    assert_same(finish(launch(*flags)), tmp_path, expected)


def children_of(pid: int) -> list[int]:
    """Returns the processes that a process started, and those they started."""
    listed = subprocess.run(['ps', '-eo', 'pid=,ppid='], capture_output=True, text=True).stdout
    parents = dict(map(int, line.split()) for line in listed.splitlines())
    found = [child for child, parent in parents.items() if parent == pid]
    return found + [grandchild for child in found for grandchild in children_of(child)]


def test_decoding_processes_end_with_a_run_that_is_killed(launch, tmp_path):
    process = launch('train', CONFIG, *WORKERS, f'--workdir={tmp_path}')
    wait_for(lambda: steps_logged(tmp_path) >= 20, process)
    workers = children_of(process.pid)
    assert workers
    process.kill()
    process.wait()
    deadline = time.monotonic() + 15
    while any(os.path.exists(f'/proc/{pid}') for pid in workers):
        assert time.monotonic() < deadline, 'a decoding process outlived its run'
        time.sleep(0.1)


@pytest.mark.parametrize('fault', ['killed', 'frozen', 'slow'])
def test_a_data_worker_that_fails(fault, launch, tmp_path, with_workers, seed):
    """Killed or frozen it ends the run with 76, to be started again; slow it changes nothing."""
    patience = ['--config.watchdog_seconds=30'] if fault == 'frozen' else []
    process = launch('train', CONFIG, *WORKERS, *patience, f'--workdir={tmp_path}')
    first = random.Random(seed).randrange(20, 120)
    wait_for(lambda: steps_logged(tmp_path) >= first, process)
    workers = [pid for pid in children_of(process.pid)
               if 'spawn_main' in pathlib.Path(f'/proc/{pid}/cmdline').read_text()]
    assert workers
    if fault == 'slow':
        while process.poll() is None:
            for pid in workers:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGSTOP)
                    time.sleep(0.09)
                    os.kill(pid, signal.SIGCONT)
            time.sleep(0.01)
        assert_same(finish(process), tmp_path, with_workers)
        return
    for pid in workers:
        os.kill(pid, signal.SIGKILL if fault == 'killed' else signal.SIGSTOP)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 76, err[-3000:]
    if fault == 'frozen':
        assert 'no progress for 30 s' in err and 'Thread 0x' in err
    deadline = time.monotonic() + 15
    for pid in workers:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
    while any(os.path.exists(f'/proc/{pid}') for pid in workers):
        assert time.monotonic() < deadline, 'a decoding process outlived its run'
        time.sleep(0.1)
    assert_same(finish(launch('train', CONFIG, *WORKERS, f'--workdir={tmp_path}')), tmp_path,
                with_workers)


def test_two_starts_on_one_directory(launch, tmp_path, undisturbed, seed):
    """However close: exactly one goes on, the other one names it; a dead holder holds nothing."""
    rng = random.Random(seed)
    for attempt in range(5):
        started = [launch('train', CONFIG, f'--workdir={tmp_path}')]
        time.sleep(rng.uniform(0, 2))
        started.append(launch('train', CONFIG, f'--workdir={tmp_path}'))
        began = time.monotonic()
        while all(process.poll() is None for process in started):
            assert time.monotonic() - began < 30
            time.sleep(0.05)
        [loser] = [process for process in started if process.poll() is not None]
        [winner] = [process for process in started if process is not loser]
        _, err = loser.communicate()
        assert loser.returncode == 5, err[-2000:]
        assert f'locked by process {winner.pid}' in err.splitlines()[-1]
        if attempt < 4:
            winner.kill()
            winner.communicate()
    assert_same(finish(winner), tmp_path, undisturbed)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 2 MiB, as a directory."""
    path = tmp_path / 'disk'
    path.mkdir()
    mounted = subprocess.run(
        ['mount', '-t', 'tmpfs', '-o', 'size=2m', 'tmpfs', str(path)], capture_output=True)
    if mounted.returncode:
        pytest.skip('mounting a small disk needs root')
    yield path
    subprocess.run(['umount', '-l', str(path)], check=True)


def fill(disk, room: int = 0):
    """Takes all space but `room` bytes; returns the file that holds it."""
    path = disk / 'filler'
    with open(path, 'wb', buffering=0) as file, pytest.raises(OSError, match='No space'):
        while True:
            file.write(bytes(4096))
    os.truncate(path, max(0, path.stat().st_size - room))
    return path


@pytest.mark.parametrize('room', [0, 0.5, 1.5, 2.5])
def test_full_disk(room, launch, small_disk, undisturbed, seed):
    """With room for so many steps training goes on, and saves again when there is space."""
    workdir = small_disk / 'run'
    process = launch('train', CONFIG, f'--workdir={workdir}')
    first = random.Random(f'{room} {seed}').randrange(60, 300)
    wait_for(lambda: steps_logged(workdir) >= first, process)
    newest = max((workdir / 'checkpoints').glob('[0-9]*0'), key=lambda path: int(path.name))
    size = sum(path.stat().st_blocks * 512 for path in newest.rglob('*'))
    filler = fill(small_disk, int(room * size))
    seen = len(metrics_log.read_rows(str(workdir)))
    time.sleep(1.0)
    os.remove(filler)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err[-3000:]
    if not room:
        assert 'was not saved' in err and 'training goes on' in err
    assert seen < len(metrics_log.read_rows(str(workdir)))
    assert not list(workdir.glob('checkpoints/*tmp*'))
    assert_same(json.loads(out.splitlines()[-1]), workdir, undisturbed)


def test_disk_full_to_the_end_is_one_clear_line(launch, small_disk, undisturbed):
    workdir = small_disk / 'run'
    process = launch('train', CONFIG, f'--workdir={workdir}')
    wait_for(lambda: steps_logged(workdir) >= 60, process)
    filler = fill(small_disk)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 3
    assert 'could not be saved' in err.splitlines()[-1], err[-6000:]
    os.remove(filler)
    assert_same(finish(launch('train', CONFIG, f'--workdir={workdir}')), workdir, undisturbed)
