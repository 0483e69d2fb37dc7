"""The processes of one run: how they find each other, agree on when to stop, and end.

JAX's own multi-controller runtime connects them, and its coordination service carries the few
words that they have to tell each other. A single process needs none of it, and every function here
then answers at once. (It is not connected to itself: its heartbeat would kill it after a laptop's
sleep, and the signal is heard without.)
"""

import logging
import os
import re
import sys
import threading
import time

import jax

from imgjax.errors import ConfigError
from imgjax.process.coordinator import count, count_of_environment, index, store

log = logging.getLogger('imgjax')

HEARTBEAT_SECONDS = 30  # a peer that is silent for so long is gone
_FOREVER_MS = 2**31 - 1
_END_SECONDS = 600  # the first process still writes the page when the others are through

_changed = threading.Condition()
_polls = {'done': 0, 'told': None, 'stop': None}
_words = {'count': 0}


def first() -> bool:
    """Is this the process that writes: logs, checkpoints, the page, the result?"""
    return index() == 0


def start(address: str | None, num: int | None, place: int | None, heartbeat: int, leave) -> None:
    """Connects the processes of a job; does nothing where there is only one.

    Slurm, Open MPI, Kubernetes and TPU VMs tell by their environment which processes there are;
    elsewhere the three arguments do.

    Args:
      address: host:port of the first process.
      num: how many processes.
      place: which of them this is.
      heartbeat: seconds of silence after which a peer is taken for dead.
      leave: ends this process with an exit code, called when another one has failed.

    Raises:
      ConfigError: some of the three are missing or do not fit.
    """
    given = {'coordinator_address': address, 'num_processes': num, 'process_id': place}
    missing = [name for name, value in given.items() if value is None]
    if num == 1 and address is None and place is None:
        return  # alone, whatever the environment says
    if len(missing) == 3:
        if count_of_environment() == 1:
            return
    elif missing:
        raise ConfigError(f'--{missing[0]}: missing; give --coordinator_address, --num_processes '
                          'and --process_id, or none of them')
    else:
        _check(address, num, place)
    jax.config.update('jax_enable_preemption_service', False)  # SIGTERM has one owner: runtime
    jax.distributed.initialize(address, num, place, heartbeat_timeout_seconds=heartbeat)
    if _one_on_a_node():
        # JAX gives a process of Slurm or Open MPI one GPU; one that is alone has all of its node.
        jax.config.update('jax_cuda_visible_devices', 'all')
        jax.config.update('jax_rocm_visible_devices', 'all')
    threading.Thread(target=_hear_stop, daemon=True, name='stop of the run').start()
    threading.Thread(target=_hear_end, args=(leave,), daemon=True, name='end of a peer').start()
    if not first():
        log.setLevel(logging.ERROR)  # the first process says it for all


def _check(address: str, num: int, place: int) -> None:
    if not re.fullmatch(r'\S+:\d{1,5}', address):
        raise ConfigError(f'--coordinator_address: takes host:port of process 0, got {address!r}')
    if num < 1 or not 0 <= place < num:
        raise ConfigError(f'--process_id: takes 0 to num_processes - 1, got {place} of {num}')


def _one_on_a_node() -> bool:
    slurm = os.environ.get('SLURM_STEP_TASKS_PER_NODE', '')
    return bool(re.fullmatch(r'1(\(x\d+\))?', slurm)) or (
        os.environ.get('OMPI_COMM_WORLD_LOCAL_SIZE') == '1')


def stop_agreed(asked: bool) -> bool:
    """Has any process been asked to stop? All of them say yes at the same call, counted from 0.

    All processes call this in the same order (their loops are the same), but not at the same time:
    one may be a dispatch ahead. So each tells the call before which it can still stop, and the
    latest of these is it. A thread tells it, as the main one may be waiting for its peers.

    Args:
      asked: whether this process was.
    """
    if count() == 1:
        return asked
    if asked and _polls['stop'] is None:
        store().key_value_set('imgjax/stop', '1', allow_overwrite=True)
    with _changed:
        _polls['done'] += 1
        while (_polls['told'] is not None and _polls['done'] >= _polls['told']
               and _polls['stop'] is None):
            _changed.wait()
        return _polls['stop'] is not None and _polls['done'] >= _polls['stop']


def _hear_stop() -> None:
    client = store()
    client.blocking_key_value_get('imgjax/stop', _FOREVER_MS)
    with _changed:
        _polls['told'] = _polls['done'] + 1
    client.key_value_set(f'imgjax/stop_at/{index()}', str(_polls['told']))
    latest = max(int(client.blocking_key_value_get(f'imgjax/stop_at/{place}', _FOREVER_MS))
                 for place in range(count()))
    with _changed:
        _polls['stop'] = latest
        _changed.notify_all()


def _hear_end(leave) -> None:
    place, code = store().blocking_key_value_get('imgjax/end', _FOREVER_MS).split()
    if int(place) != index():
        print(f'imgjax: process {place} of this run ended with exit code {code}, and this one '
              'with it; the reason is in its log', file=sys.stderr)
        leave(int(code))


def broadcast_from_first(make) -> str:
    """Returns the string that `make()` gives in the first process, in all of them.

    Where `make` raises, the first process ends, and the others with it.
    """
    if count() == 1:
        return make()
    _words['count'] += 1
    key = f'imgjax/word/{_words["count"]}'
    if first():
        word = make()
        store().key_value_set(key, word)
        return word
    return store().blocking_key_value_get(key, _FOREVER_MS)


def gather_to_first(word: str) -> list[str]:
    """Returns what each process says, in their order, in the first one; [] in the others."""
    if count() == 1:
        return [word]
    _words['count'] += 1
    key = f'imgjax/word/{_words["count"]}'
    client = store()
    if not first():
        client.key_value_set(f'{key}/{index()}', word)
        return []
    said = [word, *(client.blocking_key_value_get(f'{key}/{place}', _FOREVER_MS)
                    for place in range(1, count()))]
    client.key_value_delete(f'{key}/')
    return said


def end(code: int, together: bool) -> None:
    """Lets the others end in order; the caller ends this process right after.

    Args:
      code: the exit code.
      together: every process comes to this point (done, or stopped at the same step). Otherwise
        the others are told to leave with the same code, as they would wait for this one.
    """
    if count() == 1:
        return
    client = store()
    try:
        if not together:
            client.key_value_set('imgjax/end', f'{index()} {code}', allow_overwrite=True)
        else:
            client.wait_at_barrier('imgjax/together', _END_SECONDS * 1000)
        # The first process is the service: were it gone before the others, they would abort.
        client.key_value_set(f'imgjax/gone/{index()}', '1', allow_overwrite=True)
        if first():
            for place in range(1, count()):
                client.blocking_key_value_get(f'imgjax/gone/{place}', 10_000)
            time.sleep(1.0)  # between saying so and being gone
    except Exception as error:  # a peer is gone: nothing is left to wait for
        log.debug('leaving alone: %s', error)
