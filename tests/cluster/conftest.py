"""A Slurm cluster on this machine: munged, slurmctld and four slurmd, as root.

Two of the nodes fail in a drill, so that other jobs can run meanwhile."""

import os
import pathlib
import shutil
import socket
import subprocess
import time

import pytest

ROOT = pathlib.Path(__file__).parent.parent.parent
DAEMONS = ('munged', 'slurmctld', 'slurmd', 'sbatch', 'srun')
HOSTS = pathlib.Path('/etc/hosts')
NODES = ('n1', 'n2', 'n3', 'n4')
NAMES = f'127.0.0.1 {" ".join(NODES)}  # the Slurm of the tests\n'

CONF = """\
ClusterName=imgjax
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={control}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
# A job that is requeued waits for as long as a credential may be valid: by default two minutes.
AuthInfo=socket={place}/munge.socket,cred_expire=5
CredType=cred/munge
StateSaveLocation={place}/state
SlurmdSpoolDir={place}/spool-%n
SlurmctldPidFile={place}/slurmctld.pid
SlurmdPidFile={place}/slurmd-%n.pid
SlurmctldLogFile={place}/slurmctld.log
SlurmdLogFile={place}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=0,bf_interval=1
ReturnToService=2
KillWait=30
SlurmdTimeout=10
MinJobAge=3600
NodeName=n[1-4] NodeHostname={host} NodeAddr=127.0.0.1 Port=[{first}-{last}] CPUs=8
PartitionName=main Nodes=n[1-2] Default=YES MaxTime=INFINITE State=UP
PartitionName=failing Nodes=n[3-4] MaxTime=INFINITE State=UP
"""


class Cluster:
    """The daemons of one cluster, and its commands.

    Attributes:
      environment: what makes Slurm's commands speak to this cluster.
    """

    def __init__(self, place: pathlib.Path):
        self.place, self.processes = place, {}
        self.environment = dict(os.environ, SLURM_CONF=str(place / 'slurm.conf'))
        (place / 'state').mkdir()
        (place / 'munge.key').write_bytes(os.urandom(128))
        (place / 'munge.key').chmod(0o400)
        place.chmod(0o755)
        (place / 'slurm.conf').write_text(CONF.format(
            place=place, host=socket.gethostname().split('.')[0], **free_ports()))

    def start(self) -> None:
        at = self.place
        self.spawn('munged', 'munged', '--foreground', '--force', f'--socket={at}/munge.socket',
                   f'--key-file={at}/munge.key', f'--pid-file={at}/munged.pid',
                   f'--log-file={at}/munged.log', f'--seed-file={at}/munged.seed')
        wait_for((at / 'munge.socket').exists, 10, 'munged')
        self.spawn('slurmctld', 'slurmctld', '-D', '-i')
        for node in NODES:
            self.start_node(node)
        wait_for(lambda: set(self.call('sinfo', '-hN', '-o', '%T').split()) == {'idle'}, 30,
                 'idle nodes')

    def spawn(self, name: str, *words: str) -> None:
        with open(self.place / f'{name}.out', 'ab') as out:
            self.processes[name] = subprocess.Popen(
                words, env=self.environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                start_new_session=True)

    def start_node(self, node: str) -> None:
        self.spawn(node, 'slurmd', '-D', '-N', node)

    def kill_node(self, node: str) -> None:
        """As when its power fails: the daemon and the processes of its jobs are gone at once."""
        steps = [pid for pid, words in commands()
                 if 'slurmstepd' in words[0] and self.is_on(pid, node)]
        for pid in [self.processes[node].pid, *steps, *(
                below for step in steps for below in children(step))]:
            kill(pid)
        self.processes.pop(node).wait()

    def is_on(self, step: int, node: str) -> bool:
        """Does a slurmstepd run processes of a job of this cluster on that node?"""
        wanted = {f'SLURM_CONF={self.place}/slurm.conf', f'SLURMD_NODENAME={node}'}
        return any(wanted <= set(environment(pid)) for pid in children(step))

    def call(self, *words: str) -> str:
        done = subprocess.run(words, env=self.environment, capture_output=True, text=True)
        return done.stdout

    def stop(self) -> None:
        """Ends jobs first, then the daemons, each by its process id."""
        jobs = self.call('squeue', '-h', '-o', '%A').split()
        if jobs:
            self.call('scancel', '--full', '--signal=KILL', *jobs)
            self.call('scancel', *jobs)
            deadline = time.monotonic() + 10
            while self.call('squeue', '-h').strip() and time.monotonic() < deadline:
                time.sleep(0.2)
        for name in (*NODES, 'slurmctld', 'munged'):
            process = self.processes.pop(name, None)
            if process is None:
                continue
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def free_ports() -> dict[str, int]:
    """Returns the ports of slurmctld and, in a row, of the nodes."""
    for first in range(17001, 17900, len(NODES) + 1):
        sockets = [socket.socket() for _ in range(len(NODES) + 1)]
        try:
            for i, one in enumerate(sockets):
                one.bind(('127.0.0.1', first + i))
            return {'first': first, 'last': first + len(NODES) - 1, 'control': first + len(NODES)}
        except OSError:
            continue
        finally:
            for one in sockets:
                one.close()
    raise AssertionError('no free ports')


def wait_for(condition, seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f'{what}: not within {seconds} s'
        time.sleep(0.05)


def commands() -> list[tuple[int, list[str]]]:
    """Returns the process id and command line of all processes."""
    found = []
    for path in pathlib.Path('/proc').glob('[0-9]*/cmdline'):
        try:
            words = path.read_bytes().decode(errors='replace').split('\0')
        except OSError:  # it has ended
            continue
        found.append((int(path.parent.name), words))
    return found


def environment(pid: int) -> list[str]:
    try:
        return pathlib.Path(f'/proc/{pid}/environ').read_bytes().decode(
            errors='replace').split('\0')
    except OSError:
        return []


def children(pid: int) -> list[int]:
    listed = subprocess.run(['ps', '-eo', 'pid=,ppid='], capture_output=True, text=True).stdout
    parents = dict(map(int, line.split()) for line in listed.splitlines())

    def below(parent: int) -> list[int]:
        found = [child for child, its in parents.items() if its == parent]
        return found + [one for child in found for one in below(child)]

    return below(pid)


def kill(pid: int) -> None:
    try:
        os.kill(pid, 9)
    except ProcessLookupError:
        pass


@pytest.fixture(scope='session')
def cluster(tmp_path_factory):
    """The Cluster, up; skipped where Debian's slurm-wlm and munge are not installed."""
    missing = [name for name in DAEMONS if not shutil.which(name)]
    if missing or os.geteuid():
        pytest.skip('needs root' if not missing else
                    f'{missing[0]} is missing: apt-get install slurm-wlm munge')
    known = HOSTS.read_text()
    added = not any(set(NODES) <= set(line.partition('#')[0].split())
                    for line in known.splitlines())
    if added:  # processes find the first one by the name of its node
        HOSTS.write_text(known + NAMES)
    found = Cluster(tmp_path_factory.mktemp('slurm'))
    try:
        found.start()
        yield found
    finally:
        found.stop()
        if added:
            HOSTS.write_text(HOSTS.read_text().replace(NAMES, ''))
