"""One run in 1, 2 and 4 processes, which share four devices: the same bits, and one fate."""

import itertools
import json
import os
import signal
import socket
import time

import pytest
from PIL import Image

from imgjax.rundir import metrics_log

DEVICES = 4
CONFIG = ['--config=tests/drills/config.py', '--config.data.resident=no', '--config.steps=60',
          '--config.eval_every=20', '--config.log_every=10', '--config.checkpoint.every=20']


def free_port() -> int:
    with socket.socket() as found:
        found.bind(('127.0.0.1', 0))
        return found.getsockname()[1]


@pytest.fixture(scope='module')
def together(launch):
    """Returns start(workdir, count, *flags, **launch's) -> the Popen of each process.

    `each` has the flags of each process alone.
    """
    started = []

    def start(workdir, count: int, *flags: str, module='train', each=(), **options):
        address = f'127.0.0.1:{free_port()}'
        several = [[f'--coordinator_address={address}', f'--num_processes={count}',
                    f'--process_id={place}'] if count > 1 else [] for place in range(count)]
        several = [[*place, *own] for place, own in itertools.zip_longest(
            several, each, fillvalue=())]
        started.extend(launch(module, f'--workdir={workdir}', *flags, *place,
                              devices=DEVICES // count, **options) for place in several)
        return started[-count:]

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
            process.communicate()


def ends(processes, *codes: int, seconds=300) -> list[tuple[str, str]]:
    """Waits for all; returns stdout and stderr of each."""
    said = [process.communicate(timeout=seconds) for process in processes]
    assert [process.returncode for process in processes] == list(codes), [
        err[-2000:] for _, err in said]
    return said


def rows(workdir) -> list[dict]:
    return [{k: v for k, v in row.items() if k != 'perf'} for row in metrics_log.read_rows(workdir)]


def result(said) -> dict:
    return json.loads(said[0][0].splitlines()[-1])


def assert_close(workdir, expected) -> None:
    """The same rows and examples; numbers differ by the order of sums over the devices only."""
    found, wanted = rows(str(workdir)), rows(str(expected))
    assert [row.pop('split') for row in found] == [row.pop('split') for row in wanted]
    assert [row['step'] for row in found] == [row['step'] for row in wanted]
    for ours, theirs in zip(found, wanted, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5), ours['step']


@pytest.fixture(scope='module')
def alone(together, tmp_path_factory):
    """The run directory of one process, and its result."""
    workdir = tmp_path_factory.mktemp('alone') / 'run'
    return workdir, result(ends(together(workdir, 1, *CONFIG), 0))


@pytest.fixture(scope='module')
def pair(together, tmp_path_factory):
    """The run directory of two processes, and what they said."""
    workdir = tmp_path_factory.mktemp('pair') / 'run'
    return workdir, ends(together(workdir, 2, *CONFIG), 0, 0)


def names_of(workdir) -> set[str]:
    return {str(path.relative_to(workdir)) for path in (workdir / 'checkpoints').rglob('*')
            if path.parent.name != 'd'}  # where data lies is named by its time


def test_two_processes_are_as_one(alone, pair):
    workdir, said = pair
    assert_close(workdir, alone[0])
    assert result(said)['examples'] == alone[1]['examples']
    assert not said[1][0], 'the first process alone prints a result'
    assert len(said[0][0].splitlines()) == 1, 'stdout is for the result'
    assert names_of(workdir) == names_of(alone[0])


def test_four_processes_are_as_one(together, alone, tmp_path):
    ends(together(tmp_path / 'run', 4, *CONFIG), 0, 0, 0, 0)
    assert_close(tmp_path / 'run', alone[0])


@pytest.mark.parametrize('second, code, words', [
    (['ant', 'cat'], 3, "process 1 has other classes than process 0: 'ant' only there, 'dog'"),
    (['cat', 'dog'], 3, 'process 1 has 7 training images, process 0 has 6'),
    (None, 2, 'process 1 has config.batch_size=16, process 0 has 8')])
def test_processes_that_see_other_data_end_before_the_first_step(
        together, tmp_path, second, code, words):
    """Each says the same line, the one with the other data and the one that waits for it."""
    for place, names in enumerate((['cat', 'dog'], second or ['cat', 'dog'])):
        for name in names:
            (tmp_path / f'{place}' / name).mkdir(parents=True)
            for i in range(4 + (place and name == 'dog' and second is not None)):
                Image.new('RGB', (8, 8)).save(tmp_path / f'{place}' / name / f'{i}.png')
    started = together(
        tmp_path / 'run', 2, '--config=configs/folder.py:small', '--config.batch_size=8',
        each=[[f'--config.data.path={tmp_path / place}',
               *['--config.batch_size=16'] * (second is None and place == '1')]
              for place in ('0', '1')])
    for _, err in ends(started, code, code, seconds=100):
        assert words in err.splitlines()[-1] and 'Traceback' not in err, err
    assert not (tmp_path / 'run' / 'config.json').exists()


VIT = ['--config.model.name=tiny_vit', '--config.steps=20',
       '--config.model.options={"patch_size": 2, "heads": 4}']


@pytest.fixture(scope='module')
def whole(together, tmp_path_factory):
    """The run directory of a transformer on one process, and its result."""
    workdir = tmp_path_factory.mktemp('whole') / 'run'
    return workdir, result(ends(together(workdir, 1, *CONFIG, *VIT), 0))


@pytest.mark.parametrize('axis', ['fsdp', 'tensor'])
def test_a_state_that_is_cut_over_processes(together, whole, tmp_path, axis):
    """The state is gathered to be saved, and is the uncut run's but for rounding."""
    several = ends(together(
        tmp_path / 'cut', 2, *CONFIG, *VIT, f'--config.mesh.{axis}={DEVICES}'), 0, 0)
    assert result(several)['loss'] == pytest.approx(whole[1]['loss'], rel=1e-5)
    assert names_of(tmp_path / 'cut') == names_of(whole[0])


def test_a_stop_for_one_process_stops_all_at_one_step_and_fewer_go_on(together, alone, tmp_path):
    workdir = tmp_path / 'run'
    processes = together(workdir, 2, *CONFIG)
    deadline = time.monotonic() + 200
    while not rows(str(workdir)) and time.monotonic() < deadline:
        time.sleep(0.05)
    processes[1].send_signal(signal.SIGTERM)
    said = ends(processes, 75, 75, seconds=60)
    steps = [err.split('asked to stop at step ')[1].split()[0] for _, err in said]
    assert steps[0] == steps[1]
    assert int(steps[0]) < 60, 'the run ended before it was stopped: make it longer'
    ends(together(workdir, 1, *CONFIG), 0)
    assert_close(workdir, alone[0])


def test_a_killed_process_takes_the_others_with_it_in_time(together, pair, tmp_path):
    workdir = tmp_path / 'run'
    processes = together(workdir, 2, *CONFIG, '--heartbeat_seconds=5')
    deadline = time.monotonic() + 200
    while not rows(str(workdir)) and time.monotonic() < deadline:
        time.sleep(0.05)
    processes[1].kill()
    began = time.monotonic()
    processes[0].communicate(timeout=60)
    # JAX aborts where a collective fails or the heartbeat is missed; the first gives its own code.
    assert processes[0].returncode in (-signal.SIGABRT, 1), processes[0].returncode
    assert time.monotonic() - began < 5 + 5
    found, expected = result(ends(together(workdir, 2, *CONFIG), 0, 0)), result(pair[1])
    assert found['state_digest'] == expected['state_digest']
    assert rows(str(workdir)) == rows(str(pair[0]))


def test_the_error_of_one_process_ends_all_with_its_code(together, tmp_path):
    (tmp_path / 'run').mkdir()
    (tmp_path / 'run' / 'strange').touch()
    said = ends(together(tmp_path / 'run', 2, *CONFIG), 2, 2, seconds=60)
    assert "holds 'strange' but no run" in said[0][1]
    assert 'process 0 of this run ended with exit code 2' in said[1][1]


def test_open_mpi_tells_the_processes_by_its_environment(launch, alone, tmp_path):
    hostname = '127.0.0.1'
    started = [launch(
        'evaluate', f'--workdir={alone[0]}', devices=2, environment={
            'OMPI_MCA_orte_hnp_uri': f'1531576320.0;tcp://{hostname}:{free_port()}',
            'OMPI_COMM_WORLD_SIZE': '2', 'OMPI_COMM_WORLD_RANK': str(place),
            'OMPI_COMM_WORLD_LOCAL_RANK': str(place), 'JAX_COORDINATOR_PORT': str(port)})
        for port in [free_port()] for place in range(2)]
    said = ends(started, 0, 0)
    assert result(said)['loss'] == pytest.approx(alone[1]['loss'], rel=1e-6)
    assert not said[1][0]


@pytest.mark.parametrize('flags, complaint', [
    (['--num_processes=2'], '--coordinator_address: missing'),
    (['--num_processes=2', '--process_id=2', '--coordinator_address=a:1'], '--process_id: takes'),
    (['--num_processes=2', '--process_id=0', '--coordinator_address=a'],
     '--coordinator_address: takes host:port')])
def test_wrong_flags(launch, tmp_path, flags, complaint):
    process = launch('train', f'--workdir={tmp_path}', *CONFIG, *flags)
    assert complaint in ends([process], 2)[0][1].splitlines()[-1]
    assert not os.listdir(tmp_path)
