"""The processes of one run: how they find each other, agree on when to stop, and end.

JAX's multi-controller runtime connects them, and its coordination service carries the few words
that they exchange. A single process needs none of this, and every function here then returns at
once. (It is not connected to itself, as the heartbeat would kill it after a laptop's sleep.)
"""

import logging
import os
import re
import sys
import threading
import time
from collections.abc import Callable

import jax

from imgjax.errors import ConfigError
from imgjax.process.coordinator import count, count_of_environment, index, store

log = logging.getLogger('imgjax')

HEARTBEAT_SECONDS = 30  # a peer that is silent for this long is taken for dead
_FOREVER_MS = 2**31 - 1
_END_SECONDS = 600  # the first process still writes the page when the others have ended

_changed = threading.Condition()
# Of stop_agreed: how many calls there were, the call that this process offers, the call agreed on.
_calls: dict[str, int | None] = {'done': 0, 'offered': None, 'agreed': None}
_messages = {'count': 0}


def first() -> bool:
    """Returns whether this process writes the logs, checkpoints, page and result of the run."""
    return index() == 0


def start(address: str | None, num: int | None, process_id: int | None, heartbeat: int,
          leave: Callable[[int], None]) -> None:
    """Connects the processes of a job; does nothing where there is only one.

    Slurm, Open MPI, Kubernetes and TPU VMs say in the environment which processes there are; in
    other places the first three arguments do.

    Args:
      address: host:port of the first process.
      num: how many processes there are.
      process_id: the index of this one.
      heartbeat: seconds of silence after which a peer is taken for dead.
      leave: ends this process with an exit code; called when another one has failed.

    Raises:
      ConfigError: some of the first three are missing or do not fit.
    """
    given = {'coordinator_address': address, 'num_processes': num, 'process_id': process_id}
    missing = [name for name, value in given.items() if value is None]
    if num == 1 and address is None and process_id is None:
        return  # alone, whatever the environment says
    if len(missing) == 3:
        if count_of_environment() == 1:
            return
    elif missing:
        raise ConfigError(f'--{missing[0]}: missing; give --coordinator_address, --num_processes '
                          'and --process_id, or none of them')
    else:
        _check(address, num, process_id)
    jax.config.update('jax_enable_preemption_service', False)  # process/stop.py handles SIGTERM
    jax.distributed.initialize(address, num, process_id, heartbeat_timeout_seconds=heartbeat)
    if _one_on_a_node():
        # JAX gives each process of Slurm or Open MPI one GPU; the only process of a node takes all.
        jax.config.update('jax_cuda_visible_devices', 'all')
        jax.config.update('jax_rocm_visible_devices', 'all')
    threading.Thread(target=_agree_on_stop, daemon=True, name='stop of the run').start()
    threading.Thread(target=_follow_end, args=(leave,), daemon=True, name='end of a peer').start()
    if not first():
        log.setLevel(logging.ERROR)  # the first process logs for all


def _check(address: str, num: int, process_id: int) -> None:
    if not re.fullmatch(r'\S+:\d{1,5}', address):
        raise ConfigError(f'--coordinator_address: takes host:port of process 0, got {address!r}')
    if num < 1 or not 0 <= process_id < num:
        raise ConfigError(f'--process_id: takes 0 to num_processes - 1, got {process_id} of {num}')


def _one_on_a_node() -> bool:
    slurm = os.environ.get('SLURM_STEP_TASKS_PER_NODE', '')
    return bool(re.fullmatch(r'1(\(x\d+\))?', slurm)) or (
        os.environ.get('OMPI_COMM_WORLD_LOCAL_SIZE') == '1')


def stop_agreed(asked: bool) -> bool:
    """Returns whether any process was asked to stop; all return True at the same call.

    All processes make the same calls, as their loops are the same, but not at the same time: one
    may be a dispatch ahead. So each offers the next call at which it could stop, and they agree on
    the latest of these. A thread makes the offer, as the main one may be waiting for its peers.

    Args:
      asked: whether this process was asked to stop.
    """
    if count() == 1:
        return asked
    if asked and _calls['agreed'] is None:
        store().key_value_set('imgjax/stop', '1', allow_overwrite=True)
    with _changed:
        _calls['done'] += 1
        while (_calls['offered'] is not None and _calls['done'] >= _calls['offered']
               and _calls['agreed'] is None):
            _changed.wait()
        return _calls['agreed'] is not None and _calls['done'] >= _calls['agreed']


def _agree_on_stop() -> None:
    """Waits until a process is asked to stop, and then agrees with the others on the call."""
    client = store()
    client.blocking_key_value_get('imgjax/stop', _FOREVER_MS)
    with _changed:
        _calls['offered'] = _calls['done'] + 1
    client.key_value_set(f'imgjax/stop_at/{index()}', str(_calls['offered']))
    latest = max(int(client.blocking_key_value_get(f'imgjax/stop_at/{place}', _FOREVER_MS))
                 for place in range(count()))
    with _changed:
        _calls['agreed'] = latest
        _changed.notify_all()


def _follow_end(leave: Callable[[int], None]) -> None:
    """Waits until another process says that it ends, and ends this one too."""
    place, code = store().blocking_key_value_get('imgjax/end', _FOREVER_MS).split()
    if int(place) != index():
        print(f'imgjax: process {place} of this run ended with exit code {code}, and this one '
              'with it; the reason is in its log', file=sys.stderr)
        leave(int(code))


def broadcast_from_first(make: Callable[[], str]) -> str:
    """Returns in every process the string that `make()` returns in the first one.

    Where `make` raises, the first process ends, and the others with it.
    """
    if count() == 1:
        return make()
    _messages['count'] += 1
    key = f'imgjax/message/{_messages["count"]}'
    if first():
        message = make()
        store().key_value_set(key, message)
        return message
    return store().blocking_key_value_get(key, _FOREVER_MS)


def gather_to_first(message: str) -> list[str]:
    """Returns the messages of all processes, by their index, in the first one; [] in the others."""
    if count() == 1:
        return [message]
    _messages['count'] += 1
    key = f'imgjax/message/{_messages["count"]}'
    client = store()
    if not first():
        client.key_value_set(f'{key}/{index()}', message)
        return []
    messages = [message, *(client.blocking_key_value_get(f'{key}/{place}', _FOREVER_MS)
                           for place in range(1, count()))]
    client.key_value_delete(f'{key}/')
    return messages


def end(code: int, together: bool) -> None:
    """Prepares the end of this process, which the caller has to end right after.

    Args:
      code: the exit code.
      together: whether every process comes to this point (done, or stopped at the same step).
        Otherwise it makes the others end with the same code, as they would wait for this one.
    """
    if count() == 1:
        return
    client = store()
    try:
        if not together:
            client.key_value_set('imgjax/end', f'{index()} {code}', allow_overwrite=True)
        else:
            client.wait_at_barrier('imgjax/together', _END_SECONDS * 1000)
        # The first process runs the coordination service: the others abort if it ends before them.
        client.key_value_set(f'imgjax/gone/{index()}', '1', allow_overwrite=True)
        if first():
            for place in range(1, count()):
                client.blocking_key_value_get(f'imgjax/gone/{place}', 10_000)
            time.sleep(1.0)  # the others have set their key, and are about to end
    except Exception as error:  # a peer is gone: nothing is left to wait for
        log.debug('leaving alone: %s', error)
