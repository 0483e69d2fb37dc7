"""Every internal name of JAX that the processes of a run need is there and does what it is for."""

import json
import socket
import subprocess
import sys

import pytest

from imgjax.process import coordinator
from tests.conftest import ROOT

SLURM = {'SLURM_JOB_ID': '7', 'SLURM_STEP_NODELIST': 'node[1-3]', 'SLURM_NTASKS': '3',
         'SLURM_PROCID': '1', 'SLURM_LOCALID': '0'}

# One of two processes, by its place; prints what it found.
PROCESS = '''
import json, sys
import jax
from imgjax.process import coordinator
address, place = sys.argv[1], int(sys.argv[2])
jax.distributed.initialize(address, 2, place, heartbeat_timeout_seconds=30)
store = coordinator.store()
store.key_value_set(f'test/{place}', f'first of {place}')
store.key_value_set(f'test/{place}', f'word of {place}', allow_overwrite=True)
store.wait_at_barrier('test/both', 60_000)
said = store.blocking_key_value_get(f'test/{1 - place}', 60_000)
store.wait_at_barrier('test/read', 60_000)
if place == 0:
    store.key_value_delete('test/')
    store.key_value_set('test/1', 'again')
store.wait_at_barrier('test/deleted', 60_000)
print(json.dumps([coordinator.count(), coordinator.index(), said,
                  store.blocking_key_value_get('test/1', 60_000)]))
'''


def test_alone():
    assert (coordinator.count(), coordinator.index(), coordinator.store()) == (1, 0, None)


@pytest.mark.parametrize('environment, processes', [
    ({}, 1), (SLURM, 3),
    ({'OMPI_MCA_orte_hnp_uri': '1.0;tcp://127.0.0.1:9', 'OMPI_COMM_WORLD_SIZE': '2',
      'OMPI_COMM_WORLD_RANK': '0', 'OMPI_COMM_WORLD_LOCAL_RANK': '0'}, 2)])
def test_processes_of_the_environment(environment, processes, monkeypatch):
    for name in SLURM:
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert coordinator.count_of_environment() == processes


def test_the_store_of_two_processes():
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        address = f'127.0.0.1:{free.getsockname()[1]}'
    started = [subprocess.Popen(
        [sys.executable, '-c', PROCESS, address, str(place)], cwd=ROOT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE) for place in range(2)]
    said = [process.communicate(timeout=120) for process in started]
    assert [process.returncode for process in started] == [0, 0], said
    assert [json.loads(out) for out, _ in said] == [
        [2, 0, 'word of 1', 'again'], [2, 1, 'word of 0', 'again']]
