"""Durations as people read them: in a line of the log, on a page and in a table."""

import math


def duration_text(seconds: float | None) -> str:
    """Returns '3.2 s', '4 min 05 s' or '2 h 07 min'; '–' for None, NaN and infinity."""
    if seconds is None or not math.isfinite(seconds):
        return '–'
    if seconds < 60:
        return f'{seconds:.3g} s'
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f'{hours} h {minutes:02d} min' if hours else f'{minutes} min {seconds:02d} s'
