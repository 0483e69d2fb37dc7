"""Numbers as text, for pages and tables."""

import math

MISSING = '–'


def percent(value: float, digits: int = 2) -> str:
    """Returns '98.31%' for 0.98309, and '–' for NaN and infinity."""
    return f'{100 * value:.{digits}f}%' if math.isfinite(value) else MISSING


def number(value: float | None) -> str:
    """Returns '12,345' for a whole number and four significant digits of another; '–' for none."""
    if value is None or not math.isfinite(value):
        return MISSING
    if value == int(value) and abs(value) < 1e15:
        return f'{int(value):,}'
    return f'{value:,.0f}' if abs(value) >= 1e4 else f'{value:.4g}'


def short(value: float | None) -> str:
    """Returns '25.6 M' for 25,557,032, and '–' where there is no finite value."""
    if value is None or not math.isfinite(value):
        return MISSING
    for size, unit in ((1e9, 'G'), (1e6, 'M'), (1e3, 'k')):
        if abs(value) >= size:
            return f'{value / size:.3g} {unit}'
    return f'{value:.3g}'
