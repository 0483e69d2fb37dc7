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
_ONE_PRESS = 0.3  # seconds; one Ctrl-C may arrive twice, also through `timeout` or `make`

# Whether this process was asked to stop, how many hear_stop are open, when Ctrl-C came last.
_stop: dict[str, Any] = {'asked': False, 'open': 0, 'at': 0.0}


def leave(code: int, together: bool = False) -> None:
    """Ends the process without waiting for what may never end (a worker, a dead peer).

    Args:
      code: the exit code.
      together: whether the other processes of the run come to this point too.
    """
    processes.end(code, together)
    for worker in multiprocessing.active_children():
        worker.kill()
    with contextlib.suppress(OSError, RuntimeError):  # a signal may have interrupted a write
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def end_at_signals() -> None:
    """Makes SIGTERM and Ctrl-C end the process at once, except within `hear_stop`."""
    for signum in _SIGNALS:
        signal.signal(signum, _stop_at_once)
    _end_at_second_interrupt()


def _stop_at_once(signum, frame) -> None:
    if _stop['asked']:  # within hear_stop, where _end_at_second_interrupt acts
        return
    # Outside of hear_stop there is nothing that has to be saved.
    _say('asked to stop; nothing had to be saved')
    leave(PreemptedError.exit_code)


def _say(text: str) -> None:
    """Writes a line to stderr from a signal handler, which may have interrupted print()."""
    os.write(2, f'{chr(10) if os.isatty(2) else ""}imgjax: {text}\n'.encode())


def _end_at_second_interrupt() -> None:
    """Starts a thread that ends the process at the second Ctrl-C, also while C++ code runs."""
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
    """Makes SIGTERM and Ctrl-C only set what preempted() returns, and restores the old handlers.

    Inside another hear_stop a request stays: once asked to stop, preempted() returns True until the
    outermost one ends. A second Ctrl-C goes to the old handler, which raises KeyboardInterrupt in a
    script or notebook.

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
            _say('asked to stop: the run ends after this step and saves; Ctrl-C again ends it '
                 'at once')
        _stop.update(asked=True, at=now)

    # Only the main thread may set handlers.
    if threading.current_thread() is threading.main_thread():
        before = {signum: signal.signal(signum, note) for signum in _SIGNALS}
    _stop['open'] += 1
    try:
        yield
    finally:
        _stop['open'] -= 1
        if not _stop['open']:
            _stop['asked'] = False  # the next run in this process was not asked to stop
        for signum, handler in before.items():
            signal.signal(signum, signal.SIG_DFL if handler is None else handler)


def asked_alone() -> bool:
    """Returns whether this process was asked to stop and no other one has to agree."""
    return _stop['asked'] and processes.count() == 1


def preempted() -> bool:
    """Returns whether the run was asked to stop; every loop calls it once per turn.

    A signal to one process of a run stops all of them, at the same call of this function.
    """
    return processes.stop_agreed(_stop['asked'])
