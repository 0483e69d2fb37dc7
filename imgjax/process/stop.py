"""How a process is asked to stop, and how it ends."""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

from imgjax.errors import PreemptedError
from imgjax.process import processes

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_ONE_PRESS = 0.3  # seconds: one Ctrl-C may come twice, also from `timeout` or `make` above

_stop: dict[str, Any] = {'asked': False, 'heard': 0, 'at': 0.0}


def leave(code: int, together: bool = False) -> None:
    """Ends the process without waiting for what may never end (a worker, a dead peer).

    Args:
      code: the exit code.
      together: the other processes of the run come to this point too.
    """
    processes.end(code, together)
    for worker in multiprocessing.active_children():
        worker.kill()
    with contextlib.suppress(OSError, RuntimeError):  # a signal may have come within a write
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def end_at_signals() -> None:
    """Has SIGTERM and Ctrl-C end the process at once, but within `hear_stop`."""
    for signum in _SIGNALS:
        signal.signal(signum, _stop_at_once)
    _end_at_second_interrupt()


def _stop_at_once(signum, frame) -> None:
    if _stop['asked']:  # hear_stop() holds, and _end_at_second_interrupt does the rest
        return
    # Outside hear_stop() nothing is under way that would have to be saved.
    _say('asked to stop; nothing had to be saved')
    leave(PreemptedError.exit_code)


def _say(text: str) -> None:
    """Writes a line to stderr within a handler of signals, where print() may be under way."""
    os.write(2, f'{chr(10) if os.isatty(2) else ""}imgjax: {text}\n'.encode())


def _end_at_second_interrupt() -> None:
    """Has a thread end the process at the second Ctrl-C, also while the main one is in C++."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)

    def watch() -> None:
        first = None
        while True:
            if os.read(reader, 1)[0] != signal.SIGINT:
                continue
            if first is None:
                first = time.monotonic()
            elif time.monotonic() - first > _ONE_PRESS:
                _say('interrupted twice, ended at once; the same command goes on from the newest '
                     'checkpoint, if there is one')
                leave(128 + signal.SIGINT)

    threading.Thread(target=watch, daemon=True, name='second interrupt').start()


@contextlib.contextmanager
def hear_stop() -> Iterator[None]:
    """While it holds, SIGTERM and Ctrl-C only set what preempted() tells; then the old handlers
    are back.

    Within another one it changes nothing: what was asked for is told until that one ends. A second
    Ctrl-C goes to the old handler, which in a script or notebook raises KeyboardInterrupt.

    JAX's own preemption notifier is not used for one process: it answers a second later, and it
    misses the signal when it is polled faster than its protocol runs (measured with jax 0.10.2:
    4 of 9 signals at a poll every 4 ms), as it compares a counter for equality.
    """
    before = {}

    def note(signum, frame) -> None:
        now = time.monotonic()
        if signum == signal.SIGINT and _stop['asked']:
            if now - _stop['at'] > _ONE_PRESS and callable(before[signum]):
                before[signum](signum, frame)
            return
        if signum == signal.SIGINT:
            _say('asked to stop: it ends this step and saves; Ctrl-C again ends it at once')
        _stop.update(asked=True, at=now)

    # Other threads may not set handlers.
    if threading.current_thread() is threading.main_thread():
        before = {signum: signal.signal(signum, note) for signum in _SIGNALS}
    _stop['heard'] += 1
    try:
        yield
    finally:
        _stop['heard'] -= 1
        if not _stop['heard']:
            _stop['asked'] = False  # whoever comes next in this process was not asked
        for signum, handler in before.items():
            signal.signal(signum, signal.SIG_DFL if handler is None else handler)


def asked_alone() -> bool:
    """Was this process asked to stop, and is there no other one that has to agree?"""
    return _stop['asked'] and processes.count() == 1


def preempted() -> bool:
    """Polled in every loop: has this job been asked to stop?

    A signal to one process of a run stops all of them, at the same call of this function.
    """
    return processes.stop_agreed(_stop['asked'])
