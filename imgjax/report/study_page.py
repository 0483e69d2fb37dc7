"""The HTML page of a study: a single file that opens anywhere and asks the network for nothing.

The page is a pure function of the findings: the same findings give the same bytes.
"""

import json
import math
import os
import pathlib

import numpy as np

from imgjax.process.duration import duration_text
from imgjax.report import page, plots
from imgjax.report.findings import STATES, Arm, Findings
from imgjax.report.statistics import Comparison
from imgjax.report.study_text import (
    difference_text,
    headline,
    interval_text,
    metric_name,
    p_text,
    score_text,
    verdict,
)
from imgjax.report.text import MISSING, number
from imgjax.rundir import files

CURVES = 6  # how many arms the curves show
CLASSES = 12  # how many classes a comparison shows
DETAILED = 6  # how many comparisons are shown with their classes and pictures


def write_page(path, findings: Findings) -> None:
    """Writes the page of a study to `path`, which at no time is an incomplete file."""
    text = render_page(findings, str(pathlib.Path(path).parent))
    with files.replacing(path) as file:
        file.write(text)


def render_page(findings: Findings, directory: str) -> str:
    """Returns the page of a study as HTML.

    Args:
      findings: the study and its result.
      directory: the folder of the page; links to run directories are relative to it.
    """
    metric = findings.metric
    templates = page.templates()
    templates.filters.update(
        score=lambda value: score_text(value, findings.percent), duration=duration_text,
        p=lambda value: p_text(value).removeprefix('p ').removeprefix('= '),
        points=lambda value, signed=True: difference_text(
            value, findings.percent, signed=signed, unit=False),
        interval=lambda interval: interval_text(interval, findings.percent))
    pictures, left_out = _pictures(findings)
    return templates.get_template('study.html').render(
        findings=findings, title=findings.question or findings.name, headline=headline(findings),
        metric=metric_name(metric), points='percentage points' if findings.percent else '',
        forest=_forest(findings), arms=_arms(findings), curves=_curves(findings),
        grid=_grid(findings), slice=_slice(findings), classes=_classes(findings),
        pictures=pictures, left_out=left_out, cost=_cost(findings),
        cells=_cells(findings, directory), states=STATES,
        environment=page.flatten(findings.environment))


def _position(value: float, low: float, high: float) -> str:
    """Returns the position of a value between `low` and `high`, in percent for a style sheet."""
    return f'{100 * (value - low) / (high - low):.2f}' if high > low else '50.00'


def _forest(findings: Findings) -> dict | None:
    """Returns the comparisons with the positions of their intervals on a common axis around 0."""
    known = [comparison for comparison in findings.comparisons if comparison.difference is not None]
    if not findings.comparisons:
        return None
    ends = [abs(end) for comparison in known
            for end in (comparison.difference.mean, comparison.difference.low,
                        comparison.difference.high) if math.isfinite(end)]
    reach = 1.06 * max(ends, default=0.0) or 1.0
    rows = []
    for comparison in findings.comparisons:
        difference = comparison.difference
        has_interval = difference is not None and math.isfinite(difference.low)
        rows.append({
            'comparison': comparison, 'verdict': verdict(comparison, findings),
            'colour': _colour(comparison),
            'at': difference and _position(difference.mean, -reach, reach),
            'low': has_interval and _position(difference.low, -reach, reach),
            'width': has_interval and (
                f'{100 * (difference.high - difference.low) / (2 * reach):.2f}')})
    return {'rows': rows, 'reach': reach,
            'sides': ('second is better', 'first is better') if findings.higher_is_better else (
                'first is better', 'second is better')}


def _colour(comparison: Comparison) -> str:
    return '--series-3' if comparison.winner == comparison.first else (
        '--series-2' if comparison.winner else '--series-1')


def _arms(findings: Findings) -> list[dict]:
    """Returns the arms with the positions of their seeds and intervals on a common axis."""
    scores = [cell.score for arm in findings.arms for cell in arm.cells
              if math.isfinite(cell.score)]
    scores += [end for arm in findings.arms if arm.score for end in (arm.score.low, arm.score.high)
               if math.isfinite(end)]
    low, high = (min(scores), max(scores)) if scores else (0.0, 1.0)
    margin = 0.04 * (high - low) or 0.01
    low, high = low - margin, high + margin
    rows = []
    for arm in findings.arms:
        has_interval = arm.score is not None and math.isfinite(arm.score.low)
        rows.append({
            'arm': arm, 'done': sum(cell.state == 'done' for cell in arm.cells),
            'fields': ', '.join(f'{field} = {json.dumps(value)}'
                                for field, value in arm.fields.items()),
            'dots': [(_position(cell.score, low, high), cell.seed, cell.score)
                     for cell in arm.cells if math.isfinite(cell.score)],
            'at': arm.score and _position(arm.score.mean, low, high),
            'low': has_interval and _position(arm.score.low, low, high),
            'width': has_interval and (
                f'{100 * (arm.score.high - arm.score.low) / (high - low):.2f}')})
    return rows


def _shown(findings: Findings) -> list[Arm]:
    """Returns the arms whose curves are drawn: all, or the best, the worst and some in between."""
    known = [arm for arm in findings.arms if arm.score is not None]
    if len(known) <= CURVES:
        return known
    ranked = sorted(known, key=lambda arm: arm.score.mean, reverse=findings.higher_is_better)
    places = np.unique(np.linspace(0, len(ranked) - 1, CURVES).round().astype(int))
    return [ranked[place] for place in places]


def _curves(findings: Findings) -> dict | None:
    shown = _shown(findings)
    keys = list(dict.fromkeys(key for arm in shown for key in arm.curves))
    panels = []
    for split, measure in keys:
        series = {}
        for arm in shown:
            if (split, measure) not in arm.curves:
                continue
            steps, values_TS = arm.curves[split, measure]
            known = np.isfinite(values_TS).all(axis=1)
            if known.sum() > 1:
                values_TS = values_TS[known]
                series[arm.name] = (steps[known], values_TS.mean(axis=1), values_TS.min(axis=1),
                                    values_TS.max(axis=1))
        if series:
            share = findings.percent if measure == findings.metric else measure == 'accuracy'
            scale = 'fraction' if share else 'loss'
            svg, logarithmic = plots.bands(series, f'{split} {measure}', scale)
            panels.append({
                'title': f'{split} {metric_name(measure)}', 'svg': svg, 'logarithmic': logarithmic,
                'legend': [(name, i + 1) for i, name in enumerate(series)],
                'label': f'{split} {metric_name(measure)} against the step, of '
                         f'{", ".join(series)}'})
    if not panels:
        return None
    with_score = len([arm for arm in findings.arms if arm.score is not None])
    return {'panels': panels, 'shown': len(shown), 'with_score': with_score}


def _grid(findings: Findings) -> dict | None:
    """Returns the rows of a heat map for a grid with two axes, else None."""
    if len(findings.grid) != 2:
        return None
    down, across = findings.grid
    means = [arm.score.mean if arm.score else math.nan for arm in findings.arms]
    known = [mean for mean in means if math.isfinite(mean)]
    complete = [arm.score.mean for arm in findings.arms
                if arm.score and arm.score.n == findings.seeds]
    # The worst arms of a grid fail completely; without them the shades show the other arms better.
    low, high = (float(np.quantile(known, 0.1)), max(known)) if known else (0.0, 1.0)
    if not findings.higher_is_better:
        low, high = (float(np.quantile(known, 0.9)), min(known)) if known else (1.0, 0.0)
    best = (max if findings.higher_is_better else min)(complete, default=math.nan)
    rows, arms = [], iter(zip(findings.arms, means, strict=True))
    for value in down.values:
        cells = []
        for _ in across.values:
            arm, mean = next(arms)
            shade = (mean - low) / (high - low) if high != low else 1.0
            states = sorted({cell.state for cell in arm.cells} - {'done'})
            cells.append({'mean': mean, 'shade': f'{min(1.0, max(0.0, shade)):.2f}'
                          if math.isfinite(mean) else '0', 'best': mean == best and not states,
                          'arm': arm, 'states': ', '.join(states)})
        rows.append((_value(value), cells))
    return {'down': down.field, 'across': across.field, 'rows': rows,
            'heads': [_value(value) for value in across.values]}


def _value(value) -> str:
    return f'{value:g}' if isinstance(value, float) else value if isinstance(
        value, str) else json.dumps(value)


def _slice(findings: Findings):
    """Returns the plot of a grid with one axis, else None."""
    if len(findings.grid) != 1 or not any(arm.score for arm in findings.arms):
        return None
    axis = findings.grid[0]
    points = [(arm.score.mean, *(end if math.isfinite(end) else arm.score.mean for end in (
        arm.score.low, arm.score.high))) if arm.score else (math.nan,) * 3 for arm in findings.arms]
    values = [value if isinstance(value, int | float) else _value(value) for value in axis.values]
    return {'field': axis.field, 'svg': plots.slices(
        values, points, f'slice {axis.field}',
        'fraction' if findings.percent else 'loss')}


def _detailed(findings: Findings) -> list[Comparison]:
    """Returns the comparisons that are shown with their classes and images."""
    known = [comparison for comparison in findings.comparisons if comparison.difference is not None]
    return sorted(known, key=lambda comparison: (
        not comparison.winner, math.isnan(comparison.p), comparison.p))[:DETAILED]


def _classes(findings: Findings) -> list[dict]:
    """Returns for each detailed comparison the classes on which its arms differ most."""
    arms, panels = {arm.name: arm for arm in findings.arms}, []
    for comparison in _detailed(findings):
        first_K, second_K = (arms[name].class_scores_K
                             for name in (comparison.first, comparison.second))
        if first_K is None or second_K is None:
            continue
        gap_K = np.nan_to_num(first_K - second_K)
        order = [k for k in np.argsort(-np.abs(gap_K), kind='stable')[:CLASSES] if gap_K[k]]
        reach = max((abs(gap_K[k]) for k in order), default=1.0)
        panels.append({'comparison': comparison, 'rows': [
            (findings.class_names[k], first_K[k], second_K[k], gap_K[k],
             f'{50 * abs(gap_K[k]) / reach:.1f}') for k in order]})
    return panels


def _pictures(findings: Findings) -> tuple[list[dict], int]:
    """Returns the pictures of each detailed comparison, and how many exceed IMAGE_BUDGET."""
    panels, spent, left_out = [], 0, 0
    for comparison in _detailed(findings):
        fitting = []
        for shown in findings.pictures.get((comparison.first, comparison.second), []):
            ready = page.picture(shown.png, shown.name)
            if spent + len(ready['uri']) > page.IMAGE_BUDGET:
                left_out += 1
                continue
            spent += len(ready['uri'])
            fitting.append(ready | {'shown': shown})
        if fitting:
            panels.append({'comparison': comparison, 'pictures': fitting})
    return panels, left_out


def _cost(findings: Findings) -> list[tuple[str, str, str]]:
    cost, seconds = findings.cost, findings.cost.get
    tiles = [('in steps', duration_text(seconds('device_seconds')), 'on the devices'),
             ('compiling', duration_text(seconds('compile_seconds')), ''),
             ('in all', duration_text(seconds('wall_seconds')), 'over all starts'),
             ('one by one', duration_text(seconds('solo_seconds')),
              'as many single runs, estimated from timed steps')]
    if cost.get('solo_seconds') and cost.get('wall_seconds'):
        tiles.append(('saved', f'{cost["solo_seconds"] / cost["wall_seconds"]:.1f} ×',
                      'one by one / in all'))
    cells, here = sum(len(arm.cells) for arm in findings.arms), cost['cells_run']
    done = sum(cell.state == 'done' for arm in findings.arms for cell in arm.cells)
    remark = f'{len(findings.arms)} arms' + (f'; {number(here)} run here' if here < done else '')
    return [('cells', number(cells), remark)] + [
        tile for tile in tiles if tile[1] != MISSING]


def _cells(findings: Findings, directory: str) -> list[dict]:
    return [{'cell': cell, 'place': cell.directory and os.path.relpath(cell.directory, directory),
             'page': cell.state == 'done' and _link(cell.directory, directory)}
            for arm in findings.arms for cell in arm.cells]


def _link(target: str, directory: str) -> str:
    """Returns a relative link in which no name can become another kind of address."""
    path = os.path.relpath(os.path.join(target, 'report.html'), directory)
    return './' + ''.join(sign if sign.isalnum() or sign in '/._-' else ''.join(
        f'%{byte:02X}' for byte in sign.encode()) for sign in path)
