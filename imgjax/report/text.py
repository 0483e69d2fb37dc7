"""How figures are written on pages and in tables."""

import math

MISSING = '–'


def percent(value, digits=2):
    """'98.31%' of 0.98309."""
    return f'{100 * value:.{digits}f}%' if math.isfinite(value) else MISSING


def number(value):
    """'12,345' of whole numbers, four significant digits of others."""
    if value is None or not math.isfinite(value):
        return MISSING
    if value == int(value) and abs(value) < 1e15:
        return f'{int(value):,}'
    return f'{value:,.0f}' if abs(value) >= 1e4 else f'{value:.4g}'


def short(value):
    """'25.6 M' of 25,557,032."""
    if value is None or not math.isfinite(value):
        return MISSING
    for size, unit in ((1e9, 'G'), (1e6, 'M'), (1e3, 'k')):
        if abs(value) >= size:
            return f'{value / size:.3g} {unit}'
    return f'{value:.3g}'


def duration(seconds):
    """'3.2 s', '4 min 05 s' or '2 h 07 min'."""
    if seconds is None or not math.isfinite(seconds):
        return MISSING
    if seconds < 60:
        return f'{seconds:.3g} s'
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f'{hours} h {minutes:02d} min' if hours else f'{minutes} min {seconds:02d} s'
