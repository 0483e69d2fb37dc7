"""Faults of a cluster: each run goes on by itself and ends with the bits of the undisturbed one.

The drills run beside each other, as most of their time is waiting.
"""

import concurrent.futures
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time

import pytest

from imgjax.rundir import metrics_log
from tests.cluster.conftest import ROOT, commands, environment, wait_for

HEARTBEAT = 10
CONFIG = '--config=tests/cluster/drill.py'
HERE = 3  # drills at the same time
WITHIN = 200


class Job:
    """A job of two devices, submitted as a user does."""

    def __init__(self, cluster, compiled, workdir, *flags, nodes=2, devices=2, what=CONFIG):
        self.cluster, self.workdir = cluster, workdir
        self.began = time.monotonic()
        env = cluster.environment | compiled | {
            'JAX_PLATFORMS': 'cpu',
            'XLA_FLAGS': f'--xla_force_host_platform_device_count={devices // nodes}'}
        done = subprocess.run(
            [sys.executable, '-m', 'launch.slurm', what, f'--workdir={workdir}',
             f'--nodes={nodes}', f'--heartbeat_seconds={HEARTBEAT}', f'--python={sys.executable}',
             *flags], cwd=ROOT, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        self.id = str(json.loads(done.stdout)['job'])

    def facts(self) -> dict[str, str]:
        told = self.cluster.call('scontrol', 'show', 'job', '-o', self.id)
        return dict(re.findall(r'(\w+)=(\S*)', told))

    def log(self) -> str:
        paths = list((self.workdir.parent / f'{self.workdir.name}.slurm').glob('*.log'))
        return ''.join(path.read_text() for path in paths)

    def trains(self, step: int) -> None:
        """Waits until a row of that step is written."""
        def there() -> bool:
            rows = metrics_log.read_rows(str(self.workdir))
            return bool(rows) and rows[-1]['step'] >= step
        wait_for(there, WITHIN, f'step {step} in {self.workdir}')

    def processes(self) -> dict[int, int]:
        """Returns the process ids of the training, by their places."""
        found = {}
        for pid, words in commands():
            if 'launch.train' in words:
                facts = dict(text.partition('=')[::2] for text in environment(pid))
                if facts.get('SLURM_JOB_ID') == self.id and (
                        facts.get('SLURM_CONF') == self.cluster.environment['SLURM_CONF']):
                    found[int(facts['SLURM_PROCID'])] = pid
        return found

    def ends(self, state='COMPLETED') -> dict[str, str]:
        def over() -> bool:
            return self.facts()['JobState'] in (
                'COMPLETED', 'FAILED', 'CANCELLED', 'TIMEOUT', 'NODE_FAIL')

        def stays_over() -> bool:  # a job on its way back to the queue passes through them
            return over() and not time.sleep(1) and over()

        wait_for(stays_over, WITHIN, 'the end')
        facts = self.facts()
        assert facts['JobState'] == state, (facts, self.log()[-3000:])
        return facts

    def result(self) -> dict:
        return json.loads([line for line in self.log().splitlines() if line[:1] == '{'][-1])


def rows(workdir) -> list[dict]:
    return [{k: v for k, v in row.items() if k != 'perf'} for row in metrics_log.read_rows(workdir)]


def undisturbed(job, submit):
    return {}


def requeue(job, submit):
    job.trains(40)
    job.cluster.call('scontrol', 'requeue', job.id)
    return {}


def terminate(job, submit):
    job.trains(40)
    job.cluster.call('scancel', '--signal=TERM', job.id)
    return {'log': 'exit code 75: back to the queue'}


def fault(job, signum):
    """Sends a signal to the second process; returns how long the first one lived on."""
    job.trains(40)
    pids = job.processes()
    began = time.monotonic()
    os.kill(pids[1], signum)
    wait_for(lambda: not alive(pids[0]), HEARTBEAT + 5, 'the survivor leaves')
    return {'survivor': time.monotonic() - began, 'log': 'back to the queue'}


def kill(job, submit):
    return fault(job, signal.SIGKILL)


def freeze(job, submit):
    return fault(job, signal.SIGSTOP)


def lose_node(job, submit):
    job.trains(40)
    pids = job.processes()
    job.cluster.kill_node('n4')
    wait_for(lambda: not alive(pids[0]), HEARTBEAT + 5, 'the survivor leaves')
    time.sleep(5)
    job.cluster.start_node('n4')
    return {}


def time_limit(job, submit):
    """The least limit is a minute, and Slurm looks twice a minute: the run is made slow."""
    job.trains(40)
    while 'slurm.sh: asked to stop' not in job.log():
        pids = job.processes().values()
        for signum, seconds in ((signal.SIGSTOP, 1), (signal.SIGCONT, 0.05)):
            for pid in pids:
                send(pid, signum)
            time.sleep(seconds)
    return {'log': 'exit code 75: back to the queue'}


def send(pid: int, signum: int) -> None:
    try:
        os.kill(pid, signum)
    except ProcessLookupError:
        pass


DRILLS = {
    'undisturbed': (undisturbed, ()),
    'time limit': (time_limit, ('--time=1', '--grace_seconds=1')),
    'node': (lose_node, ('--partition=failing',)), 'freeze': (freeze, ()),
    'kill -9': (kill, ()), 'requeue': (requeue, ()), 'TERM': (terminate, ())}


def alive(pid: int) -> bool:
    """A process that is not a zombie."""
    try:
        with open(f'/proc/{pid}/stat') as file:
            return file.read().rpartition(')')[2].split()[0] != 'Z'
    except OSError:
        return False


@pytest.fixture(scope='module')
def submit(cluster, compiled, tmp_path_factory):
    place = tmp_path_factory.mktemp('runs')
    return lambda name, *flags, **options: Job(cluster, compiled, place / name, *flags, **options)


@pytest.fixture(scope='module')
def drills(submit):
    """Each drill's Future of (job, what it saw, its seconds)."""
    compiled = threading.Event()

    def drill(name):
        act, flags = DRILLS[name]
        if name != 'undisturbed':
            compiled.wait(WITHIN)  # once for all
        job = submit(name, *flags)
        if name == 'undisturbed':
            job.trains(10)
            compiled.set()
        seen = act(job, submit)
        facts = job.ends()
        if name != 'undisturbed':
            assert int(facts['Restarts']) >= 1, 'the run ended before it was disturbed'
        return job, seen, time.monotonic() - job.began

    pool = concurrent.futures.ThreadPoolExecutor(HERE)
    yield {name: pool.submit(drill, name) for name in DRILLS}
    pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize('name', [name for name in DRILLS if name != 'undisturbed'])
def test_drill_ends_with_the_same_bits(drills, name, record_property):
    job, seen, seconds = drills[name].result()
    expected = drills['undisturbed'].result()[0]
    print(f'{name}: {seconds:.0f} s', {k: v for k, v in seen.items() if k != 'log'},
          'restarts', job.facts()['Restarts'])
    assert job.result()['state_digest'] == expected.result()['state_digest']
    assert rows(str(job.workdir)) == rows(str(expected.workdir)), 'rows doubled, lost or changed'
    assert seen.get('log', 'start 2') in job.log()


def test_one_process_and_then_two_again(drills, submit):
    """A cancelled job stays so; the same run directory then goes on with other processes."""
    expected = drills['undisturbed'].result()[0]
    for step, nodes in ((20, 2), (100, 1)):
        job = submit('fewer', nodes=nodes)
        job.trains(step)
        job.cluster.call('scancel', job.id)
        wait_for(lambda: not job.processes(), 30, 'the processes leave')  # noqa: B023
        assert job.ends('CANCELLED')['Restarts'] == '0'
    job = submit('fewer')
    job.ends()
    assert job.log().count('going on from step') == 2
    assert job.result()['examples'] == expected.result()['examples']
    found, wanted = (rows(str(one.workdir)) for one in (job, expected))
    assert [row['step'] for row in found] == [row['step'] for row in wanted]
    for ours, theirs in zip(found, wanted, strict=True):
        if ours['step'] <= 100:
            assert ours['loss'] == pytest.approx(theirs['loss'], rel=1e-5)


def test_an_array_is_one_run_an_index_and_a_final_error_stops(submit):
    """A seed each; one that cannot be trained stops with the reason in its log."""
    array = submit("seeds $(x) %j it's", '--array=1-2', '--config.steps=10', nodes=1, devices=1)
    broken = submit('broken', '--config.data.path=/nowhere', '--config.data.name=folder', nodes=1,
                    devices=1)
    assert broken.ends('FAILED')['ExitCode'] in ('2:0', '3:0')
    assert 'imgjax: ' in broken.log() and 'starting again would not help' in broken.log()
    wait_for(lambda: array.log().count('slurm.sh: done') == 2, WITHIN, 'the array')
    losses = [metrics_log.read_rows(str(array.workdir / index))[-1]['loss'] for index in '12']
    assert losses[0] != losses[1]


def test_a_study_is_an_array_whose_last_part_has_the_whole_page(submit):
    """Six cells are done and two diverge, in two jobs that share no group."""
    job = submit('study', '--array=0-1', what='--study=tests/study/small.py', nodes=1, devices=1)
    wait_for(lambda: job.log().count('slurm.sh: done') == 2, WITHIN, 'both parts')
    lines = [json.loads(line) for line in job.log().splitlines() if line[:1] == '{']
    last = max(lines, key=lambda line: line['cells_done'] + line['cells_diverged'])
    assert (last['cells'], last['cells_done'], last['cells_diverged']) == (8, 6, 2)
    assert (job.workdir / 'study.html').exists()
    assert {path.name for path in job.workdir.glob('part-*')} == {'part-0-of-2', 'part-1-of-2'}
