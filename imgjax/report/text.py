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
