"""A line at least every minute: who reads a log without a progress bar sees that work goes on."""

import logging
import os
import sys
import threading
import time

import tqdm

from imgjax.report.text import duration

FIRST, LATER = 25.0, 55.0  # seconds of silence before the first of these lines, and the others

_bars = []  # those that are open, the newest last


class Bar(tqdm.tqdm):
    """A progress bar that also counts where it is not shown."""

    def __init__(self, *, total: int, initial: int, unit: str, **more):
        super().__init__(total=total, initial=initial, unit=unit, **more)
        self.n, self.total, self.unit = initial, total, unit  # which a hidden one does not keep
        self.desc = ''
        _bars.append(self)

    def update(self, n=1) -> bool | None:
        if not self.disable:
            return super().update(n)
        self.n += n
        return None

    def close(self) -> None:
        _bars[:] = [bar for bar in _bars if bar is not self]  # tqdm calls different bars equal
        super().close()


class _Heard(logging.Handler):
    """Knows when a log spoke last."""

    def __init__(self):
        super().__init__()
        self.at = time.monotonic()

    def emit(self, record) -> None:
        self.at = time.monotonic()


def speak(log: logging.Logger) -> None:
    """Lets `log` say what is done whenever it was silent for long and no bar is shown."""
    heard, begun = _Heard(), time.monotonic()
    log.addHandler(heard)

    def watch() -> None:
        patience = FIRST
        while True:
            time.sleep(max(0.1, heard.at + patience - time.monotonic()))
            if _bars and not _bars[-1].disable:
                heard.at = time.monotonic()  # the bar speaks
            elif time.monotonic() >= heard.at + patience:
                patience = LATER
                log.info('%s', sentence(time.monotonic() - begun))
                heard.at = time.monotonic()  # also where the log is told to be silent

    threading.Thread(target=watch, daemon=True, name='alive').start()


def sentence(seconds: float) -> str:
    """Returns what is done now: 'at work for 1 min 20 s: decoding: 640 of 1,400 (image)'."""
    said = f'at work for {duration(seconds)}'
    if not _bars:
        return said
    bar = _bars[-1]
    return f'{said}: {bar.desc}{bar.n:,} of {bar.total:,} ({bar.unit})'


def progress(total: int, initial: int, unit: str, scale: int = 1) -> Bar:
    """Returns a progress bar on stderr; where that is no terminal, `speak` says the same.

    Args:
      total: steps in all.
      initial: steps done before.
      unit: what is counted.
      scale: units a step (images of a batch).
    """
    # Some terminals without a window say they are 0 wide; a bar would show nothing there.
    shown = sys.stderr.isatty() and os.get_terminal_size(sys.stderr.fileno()).columns > 0
    return Bar(
        total=total * scale, initial=initial * scale, unit=unit, unit_scale=True, file=sys.stderr,
        disable=not shown, dynamic_ncols=True, leave=False)

