"""Progress bars, and where none is shown a line in the log at least every minute."""

import logging
import os
import sys
import threading
import time

import tqdm

from imgjax.process.duration import duration_text

FIRST, LATER = 25.0, 55.0  # seconds of silence before the first such line, and before later ones

_bars = []  # the open bars, the newest last


class Bar(tqdm.tqdm):
    """A progress bar that counts even where it is not shown."""

    def __init__(self, *, total: int, initial: int, unit: str, **more):
        super().__init__(total=total, initial=initial, unit=unit, **more)
        self.n, self.total, self.unit = initial, total, unit  # tqdm drops them where it is hidden
        self.desc = ''
        _bars.append(self)

    def update(self, n=1) -> bool | None:
        if not self.disable:
            return super().update(n)
        self.n += n
        return None

    def close(self) -> None:
        _bars[:] = [bar for bar in _bars if bar is not self]  # == of tqdm compares positions
        super().close()


class _LastLine(logging.Handler):
    """Remembers when the log had its last line."""

    def __init__(self):
        super().__init__()
        self.at = time.monotonic()

    def emit(self, record) -> None:
        self.at = time.monotonic()


def report_regularly(log: logging.Logger) -> None:
    """Starts a thread that logs what the process is doing where the log is silent for long."""
    last, started = _LastLine(), time.monotonic()
    log.addHandler(last)

    def watch() -> None:
        patience = FIRST
        while True:
            time.sleep(max(0.1, last.at + patience - time.monotonic()))
            if _bars and not _bars[-1].disable:
                last.at = time.monotonic()  # the bar shows it
            elif time.monotonic() >= last.at + patience:
                patience = LATER
                log.info('%s', sentence(time.monotonic() - started))
                last.at = time.monotonic()  # also where the level of the log hides the line

    threading.Thread(target=watch, daemon=True, name='alive').start()


def sentence(seconds: float) -> str:
    """Returns what the process is doing, 'at work for 80 s: decoding: 640 of 1,400 (image)'."""
    words = f'at work for {duration_text(seconds)}'
    if not _bars:
        return words
    bar = _bars[-1]
    return f'{words}: {bar.desc}{bar.n:,} of {bar.total:,} ({bar.unit})'


def progress(total: int, initial: int, unit: str, scale: int = 1) -> Bar:
    """Returns a progress bar on stderr; where that is no terminal, the log reports progress.

    Args:
      total: items in all.
      initial: items done before.
      unit: what is counted.
      scale: units per item (the images of a batch).
    """
    # Some terminals without a window report a width of 0, where a bar would show nothing.
    shown = sys.stderr.isatty() and os.get_terminal_size(sys.stderr.fileno()).columns > 0
    return Bar(
        total=total * scale, initial=initial * scale, unit=unit, unit_scale=True, file=sys.stderr,
        disable=not shown, dynamic_ncols=True, leave=False)

