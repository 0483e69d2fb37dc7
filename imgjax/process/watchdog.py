"""The watchdog, which ends a process that makes no progress."""

import contextlib
import faulthandler
import sys
import threading
import time
from collections.abc import Callable, Iterator

from imgjax.errors import WATCHDOG_EXIT_CODE
from imgjax.process import stop


@contextlib.contextmanager
def watchdog(seconds: float) -> Iterator[Callable[[], None]]:
    """Yields `beat`, and ends the process with exit code 76 if it is not called for `seconds`.

    Where a data worker hangs or a peer is gone, the main thread waits in a call that never returns,
    and only another thread can end the process.
    """
    state = {'last': time.monotonic(), 'over': False}

    def beat() -> None:
        state['last'] = time.monotonic()

    def watch() -> None:
        while not state['over']:
            if time.monotonic() - state['last'] > seconds:
                print(f'imgjax: no progress for {seconds:.0f} s (config.watchdog_seconds); the '
                      'same command goes on from the newest checkpoint. Where it hung:',
                      file=sys.stderr)
                faulthandler.dump_traceback(file=sys.stderr)
                stop.leave(WATCHDOG_EXIT_CODE)
            time.sleep(min(1.0, seconds / 4))

    threading.Thread(target=watch, daemon=True, name='watchdog').start()
    try:
        yield beat
    finally:
        state['over'] = True
