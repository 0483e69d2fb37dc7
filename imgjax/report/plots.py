"""Curves of a run's metrics as inline SVG in CSS colours, drawn by matplotlib."""

import io
import math
import re

import markupsafe
import numpy as np

from imgjax.report.text import MISSING, number, percent
from imgjax.rundir import metrics_log

POINTS_PER_LINE = 800  # more points cannot be told apart at this width

_BLACK = '#000000'  # matplotlib's colour of text and axes; _to_css replaces it by currentColor
_SERIES = tuple(f'#a0000{i}' for i in range(1, 9))  # _to_css replaces them by var(--series-1) ...


def curves(rows: list[dict], in_percent=()) -> tuple[list[dict], int]:
    """Returns the curves that have data, and the number of values left out as not finite.

    A curve is a dict of `title`, `legend` (a tuple (split, colour number, last value) per line),
    `label` (the text for screen readers), `logarithmic` (whether the axis is) and `svg`.

    Args:
      rows: the rows of metrics.jsonl.
      in_percent: the names of measures, besides `accuracy`, that are shown in percent.
    """
    drawn, dropped = [], 0
    names = dict.fromkeys(name for row in rows for name in metrics_log.measured(row))
    other_names = [name for name in names if name not in ('loss', 'accuracy')]
    for title, key, scale in (
        ('Loss', 'loss', 'loss'),
        ('Accuracy', 'accuracy', 'fraction'),
        *((name.replace('_', ' ').capitalize(), name, 'fraction' if name in in_percent else 'loss')
          for name in other_names),
        ('Learning rate', 'learning_rate', 'zero'),
        ('Images per second', 'perf.images_per_second', 'zero'),
    ):
        series, missing = _series(rows, key)
        # A speed may be unknown, which is null; but a loss that is null or NaN must be reported.
        dropped += missing if '.' not in key else 0
        if not series:
            continue
        show = percent if scale == 'fraction' else number
        legend = [(split, i % len(_SERIES) + 1, show(values[-1]))
                  for i, (split, (_, values)) in enumerate(series.items())]
        label = f'{title} against training step; last values: ' + ', '.join(
            f'{split} {last}' for split, _, last in legend)
        logarithmic = scale == 'loss' and _spans_decades(series)
        drawn.append({
            'title': title, 'legend': legend, 'label': label, 'logarithmic': logarithmic,
            'svg': _draw(series, key, scale, logarithmic),
        })
    return drawn, dropped


def _series(rows, key):
    """Returns {split: (steps, values)} of the finite values, and how many were not finite.

    The split `train` comes first.
    """
    table, missing = {}, 0
    for row in rows:
        step = value(row, 'step')
        if not math.isfinite(step) or _get(row, key, MISSING) == MISSING:
            continue
        table.setdefault(str(row.get('split', 'train')), {})[step] = value(row, key)
    series = {}
    for split in sorted(table, key=lambda name: name != 'train'):  # stable: others keep order
        steps = np.array(sorted(table[split]))
        values = np.array([table[split][step] for step in steps])
        finite = np.isfinite(values)
        missing += int(np.sum(~finite))
        if finite.any():
            series[split] = (steps[finite], values[finite])
    return series, missing


def _thin(steps, values):
    """Reduces a line to the lowest and highest point of each range, so that no spike is lost."""
    if len(steps) <= POINTS_PER_LINE:
        return steps, values
    edges = np.linspace(0, len(steps), POINTS_PER_LINE // 2 + 1).astype(int)
    chosen = {0, len(steps) - 1}
    for low, high in zip(edges[:-1], edges[1:], strict=True):
        chosen |= {low + int(values[low:high].argmin()), low + int(values[low:high].argmax())}
    index = sorted(chosen)
    return steps[index], values[index]


def _spans_decades(series):
    values = np.concatenate([v for _, v in series.values()])
    return bool(values.min() > 0 and values.max() > 20 * values.min())


def _draw(series, key, scale, logarithmic):
    """Draws the lines of one panel as an SVG element in CSS colours."""
    def plot(axes):
        for i, (steps, values) in enumerate(series.values()):
            axes.plot(*_thin(steps, values), color=_SERIES[i % len(_SERIES)], linewidth=1.4,
                      marker='o' if len(steps) <= 30 else None, markersize=2.6)

    def whole_steps(axes):
        axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)

    return _panel(plot, key, scale, logarithmic, whole_steps)


def bands(series: dict, key: str, scale: str):
    """Draws lines, each with the range around it, as an SVG element in CSS colours.

    Args:
      series: {name: (x, middle, low, high)}, each a float array (T,); at most 8 lines.
      key: the name of the panel, unique on its page.
      scale: `loss` (logarithmic where it spans decades), `fraction` (in percent) or `zero` (the
        axis begins at 0).

    Returns (the SVG, whether the axis is logarithmic).
    """
    def plot(axes):
        for i, (x, middle, low, high) in enumerate(series.values()):
            axes.fill_between(x, low, high, color=_SERIES[i], alpha=0.16, linewidth=0)
            axes.plot(x, middle, color=_SERIES[i], linewidth=1.4,
                      marker='o' if len(x) <= 30 else None, markersize=2.6)

    spanned = {name: (x, np.concatenate([low, high])) for name, (x, _, low, high) in series.items()}
    logarithmic = scale == 'loss' and _spans_decades(spanned)
    return _panel(plot, key, scale, logarithmic), logarithmic


def slices(x: list, points: list[tuple], key: str, scale: str):
    """Draws a mean with its interval for each value of a field, as an SVG element in CSS colours.

    Args:
      x: the values. Numbers are placed on a number axis, which is logarithmic where they span
        decades; other values are placed side by side.
      points: a tuple (mean, low, high) for each value, with NaN for what is unknown.
      key: the name of the panel, see `bands`.
      scale: the scale of the axis, see `bands`.
    """
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in x)
    place = np.array(x if numbers else range(len(x)), np.float64)
    mean, low, high = np.array(points, np.float64).T

    def plot(axes):
        axes.errorbar(place, mean, [mean - low, high - mean], color=_SERIES[0], linewidth=1.4,
                      marker='o', markersize=4, elinewidth=1.1)

    def ticks(axes):
        if numbers and place.min() > 0 and place.max() >= 20 * place.min():
            axes.set_xscale('log')
            axes.minorticks_off()
        if not numbers or len(x) < 9:
            axes.set_xticks(place, [f'{value:g}' if numbers else str(value) for value in x],
                            parse_math=False)

    return _panel(plot, key, scale, False, ticks)


def _panel(plot, key, scale, logarithmic, after=lambda axes: None):
    """Returns the drawing of `plot(axes)` as an SVG element; `after(axes)` is called at the end."""
    import matplotlib  # noqa: PLC0415  (1.9 s, which a process without a plot saves)
    from matplotlib import figure, ticker  # noqa: PLC0415

    engineering = ticker.EngFormatter(sep='')

    def thousands(value, place=None):  # EngFormatter would write values below 1 with m and u
        return f'{value:g}' if abs(value) < 1000 else engineering(value, place)

    # hashsalt: the ids of clip paths must differ between the SVGs of a page, but not between runs.
    style = {'svg.fonttype': 'none', 'svg.hashsalt': key, 'font.size': 8.5, 'axes.linewidth': 0.6}
    with matplotlib.rc_context({**matplotlib.rcParamsDefault, **style}):
        fig = figure.Figure(figsize=(5.2, 2.5))
        fig.patch.set_visible(False)
        axes = fig.add_axes((0.1, 0.12, 0.88, 0.83))
        axes.patch.set_visible(False)
        plot(axes)
        if logarithmic:
            axes.set_yscale('log')
            axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_minor_locator(ticker.NullLocator())
            axes.yaxis.set_major_formatter('{x:g}')
        elif scale == 'fraction':
            axes.yaxis.set_major_formatter(ticker.PercentFormatter(xmax=1))
            axes.set_ylim(top=min(1.01, axes.get_ylim()[1]))
        elif scale == 'zero':
            axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]), top=axes.get_ylim()[1] or 1.0)
            axes.ticklabel_format(axis='y', style='plain', useOffset=False)
            axes.yaxis.set_major_formatter(thousands if '.' in key else '{x:g}')
        axes.xaxis.set_major_formatter(thousands)
        axes.margins(x=0.02)
        axes.spines[['top', 'right', 'left']].set_visible(False)
        axes.spines['bottom'].set_alpha(0.4)
        axes.tick_params(length=0, pad=4)
        axes.grid(axis='y', color=_BLACK, alpha=0.13, linewidth=0.6)
        axes.set_axisbelow(True)
        after(axes)
        text = io.StringIO()
        fig.savefig(text, format='svg', metadata={'Date': None})
    return _to_css(text.getvalue())


def _to_css(svg):
    """Removes metadata, styles and ids from matplotlib's SVG, and replaces colours by CSS ones."""
    svg = svg[svg.index('<svg'):]
    svg = re.sub(r'<metadata>.*?</metadata>|<!--.*?-->', '', svg, flags=re.DOTALL)
    # The style element has the selector `*`, which inside HTML is the whole page.
    svg = re.sub(r'<style.*?</style>', '', svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*"', '<g', svg)  # each SVG of the page would have the id figure_1
    svg = re.sub(r'<svg[^>]*?viewBox="([^"]*)"[^>]*>',
                 r'<svg viewBox="\1" aria-hidden="true" focusable="false">', svg, count=1)
    svg = re.sub(r'font(-family|-size|-weight|-style)?:[^;"]*;?', '', svg)
    for i, colour in enumerate(_SERIES, 1):
        svg = svg.replace(colour, f'var(--series-{i})')
    return markupsafe.Markup(svg.replace(_BLACK, 'currentColor'))


def _get(row, key, default=None):
    for part in key.split('.'):
        if not isinstance(row, dict) or part not in row:
            return default
        row = row[part]
    return row


def value(row, key, default=math.nan):
    """Returns the number under a dotted key; NaN if it is null, the default if it is absent."""
    try:
        return float(_get(row, key, default))
    except (TypeError, ValueError):
        return math.nan
