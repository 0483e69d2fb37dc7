"""A study as tables: CSV for programs, Markdown for a pull request, LaTeX for a paper."""

import csv
import io
import json
import math
import os

from imgjax.process.duration import duration_text
from imgjax.report.findings import Findings
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


def write_tables(directory: str, findings: Findings) -> list[str]:
    """Writes cells.csv, arms.csv, comparisons.csv, study.md and study.tex; returns their paths.

    The same findings give the same bytes.
    """
    texts = {'cells.csv': _csv(_cells(findings)), 'arms.csv': _csv(_arms(findings)),
             'comparisons.csv': _csv(_comparisons(findings)), 'study.md': markdown(findings),
             'study.tex': latex(findings)}
    paths = []
    for name, text in texts.items():
        paths.append(os.path.join(directory, name))
        with files.replacing(paths[-1], newline='') as file:
            file.write(text)
    return paths


def _csv(rows: list[dict]) -> str:
    """Returns rows with equal keys as CSV: floats with all digits, NaN and None as empty fields."""
    if not rows:
        return ''
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0], lineterminator='\n')
    writer.writerow({key: _plain(key) for key in rows[0]})
    writer.writerows({key: _plain(value) for key, value in row.items()} for row in rows)
    return text.getvalue()


def _plain(value) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ''
    if isinstance(value, bool | int | float):
        return repr(value)
    text = value if isinstance(value, str) else json.dumps(value)
    # A spreadsheet would run a text that begins with one of these signs as a formula.
    return f"'{text}" if text[:1] in ('=', '+', '-', '@', '\t', '\r') else text


def _cells(findings: Findings) -> list[dict]:
    fields = list(dict.fromkeys(field for arm in findings.arms for field in arm.fields))
    return [{'arm': cell.arm, 'seed': cell.seed,
             **{field: arm.fields.get(field) for field in fields}, 'state': cell.state,
             findings.metric: cell.score, 'seconds': cell.seconds, 'directory': cell.directory,
             'remark': cell.remark} for arm in findings.arms for cell in arm.cells]


def _arms(findings: Findings) -> list[dict]:
    return [{'arm': arm.name, 'fields': arm.fields, 'done': _done(arm), 'planned': len(arm.cells),
             'mean': arm.score and arm.score.mean, 'sd': arm.score and arm.score.sd,
             'low': arm.score and arm.score.low, 'high': arm.score and arm.score.high,
             'seconds': arm.seconds} for arm in findings.arms]


def _done(arm) -> int:
    return sum(cell.state == 'done' for cell in arm.cells)


def _comparisons(findings: Findings) -> list[dict]:
    images = ('count', 'better', 'worse', 'low', 'high', 'p', 'p_holm', 'seed_sd', 'test_se')
    return [{
        'first': comparison.first, 'second': comparison.second,
        **{name: comparison.difference and getattr(comparison.difference, field)
           for field, name in (
            ('mean', 'difference'), *((name, name) for name in ('low', 'high', 'sd', 'n')))},
        'p': comparison.p, 'p_holm': comparison.p_holm, 'effect': comparison.effect,
        'seeds_needed': comparison.seeds_needed,
        'pairing_gain': comparison.pairing_gain, 'winner': comparison.winner,
        **{f'images_{name}': comparison.examples and getattr(comparison.examples, name)
           for name in images},
        'verdict': verdict(comparison, findings)} for comparison in findings.comparisons]


def markdown(findings: Findings) -> str:
    """Returns the study as Markdown, as GitHub renders it."""
    metric = metric_name(findings.metric)
    parts = [f'# {_md(findings.question or findings.name)}', _md(headline(findings))]
    parts += [f'> {_md(note)}' for note in [*findings.missing, *findings.notes]]
    parts.append(f'## Arms\n\n{metric.capitalize()} on {number(findings.examples)} '
                 f'{_md(findings.split)} images; mean and 95 % interval over the seeds.')
    parts.append(_md_table(['arm', 'what it changes', 'cells', metric, 'sd', 'time'], [
        [arm.name, _fields(arm), f'{_done(arm)} of {len(arm.cells)}', _score(arm, findings),
         MISSING if arm.score is None else _sd(arm.score.sd, findings.percent),
         duration_text(arm.seconds)] for arm in findings.arms]))
    if findings.comparisons:
        parts.append(
            '## Comparisons\n\nArms are paired by seed. p is that of the t test over the seeds; '
            "Holm's method corrects it for all planned comparisons. Seed noise is the standard "
            'deviation of the difference over the seeds, on these images. Test-set noise is its '
            'standard error over the images, for these networks. The pairing gain says how many '
            'times the seeds an unpaired comparison would need.')
        parts.append(_md_table(_HEADS, [
            _row(comparison, findings) for comparison in findings.comparisons]))
    parts.append('## How it was run\n\n' + '\n'.join(
        f'- {_md(line)}' for line in [*findings.strategies, *_cost(findings),
                                      f'code {findings.code}']))
    parts.append('## Cells')
    parts.append(_md_table(['arm', 'seed', 'state', metric, 'run directory'], [
        [cell.arm, cell.seed, ': '.join(filter(None, (cell.state, cell.remark))),
         score_text(cell.score, findings.percent), cell.directory or MISSING]
        for arm in findings.arms for cell in arm.cells]))
    parts.append('## Environment')
    parts.append(_md_table(['', ''], list(findings.environment.items())))
    return '\n\n'.join(parts) + '\n'


_HEADS = ['comparison', 'difference', '95 % interval', 'p', 'Holm', "Cohen's d", 'seed noise',
          'test-set noise', 'images: better, worse', 'p over images', 'pairing gain', 'verdict']


def _row(comparison, findings: Findings) -> list[str]:
    """Returns the row of a comparison, one text per entry of _HEADS."""
    in_percent, name = findings.percent, f'{comparison.first} − {comparison.second}'
    if comparison.difference is None:
        return [name, *[MISSING] * (len(_HEADS) - 2), verdict(comparison, findings)]
    difference, images = comparison.difference, comparison.examples
    over_images = [MISSING] * 4 if images is None else [
        _sd(images.seed_sd, in_percent), _sd(images.test_se, in_percent),
        f'{number(images.better)}, {number(images.worse)}', p_text(images.p)]
    return [name, difference_text(difference.mean, in_percent),
            MISSING if difference.n < 2 else (
                f'{difference_text(difference.low, in_percent, unit=False)} to '
                f'{difference_text(difference.high, in_percent, unit=False)}'),
            p_text(comparison.p), p_text(comparison.p_holm), number(comparison.effect),
            *over_images,
            MISSING if math.isnan(comparison.pairing_gain) else f'{comparison.pairing_gain:.1f} x',
            verdict(comparison, findings)]


def _sd(value: float, in_percent: bool) -> str:
    return difference_text(value, in_percent, signed=False)


def _score(arm, findings: Findings) -> str:
    return MISSING if arm.score is None else interval_text(arm.score, findings.percent)


def _fields(arm) -> str:
    return ', '.join(f'{field} = {json.dumps(value)}' for field, value in arm.fields.items()) or (
        'nothing')


def _cost(findings: Findings) -> list[str]:
    words = {'device_seconds': 'in steps', 'compile_seconds': 'compiling',
             'wall_seconds': 'in all',
             'solo_seconds': 'if run one by one, estimated from timed steps'}
    return [f'{duration_text(findings.cost[name])} {text}' for name, text in words.items()
            if findings.cost.get(name) is not None]


def _md(text) -> str:
    text = str(text).replace('\\', '\\\\').replace('\n', ' ')
    for sign in '|<>*_`[]#':
        text = text.replace(sign, f'\\{sign}')
    return text


def _md_table(heads: list[str], rows: list[list]) -> str:
    lines = [heads, ['---'] * len(heads), *([_md(value) for value in row] for row in rows)]
    return '\n'.join(f'| {" | ".join(line)} |' for line in lines)


_TEX = {'\\': r'\textbackslash{}', '{': r'\{', '}': r'\}', '$': r'\$', '&': r'\&', '%': r'\%',
        '#': r'\#', '_': r'\_', '~': r'\textasciitilde{}', '^': r'\textasciicircum{}',
        '−': '$-$', '–': '--', '<': r'\textless{}', '>': r'\textgreater{}', '|': r'\textbar{}',
        '"': r"''", '·': r'\textperiodcentered{}'}


def _tex(text) -> str:
    return ''.join(_TEX.get(sign, sign) for sign in str(text))


def latex(findings: Findings) -> str:
    r"""Returns the arms and the comparisons as two tables; they need \usepackage{booktabs}."""
    metric = metric_name(findings.metric)
    text = [f'% {" ".join(findings.name.split())}: {" ".join(headline(findings).split())}']
    text += _tex_table(['arm', 'cells', metric, 'sd'], [
        [arm.name, f'{_done(arm)} of {len(arm.cells)}', _score(arm, findings),
         MISSING if arm.score is None else _sd(arm.score.sd, findings.percent)]
        for arm in findings.arms], f'{findings.question} {metric.capitalize()} on '
        f'{number(findings.examples)} {findings.split} images, mean and 95 % interval over the '
        'seeds.')
    if findings.comparisons:
        text += _tex_table(_HEADS[:6], [
            _row(comparison, findings)[:6] for comparison in findings.comparisons],
            f"{headline(findings)} Differences are paired by seed; Holm's method corrects for "
            f'{len(findings.comparisons)} planned comparisons.')
    return '\n'.join(text) + '\n'


def _tex_table(heads: list[str], rows: list[list], caption: str) -> list[str]:
    lines = [' & '.join(map(_tex, row)) + r' \\' for row in rows]
    return [r'\begin{table}', r'\centering', rf'\caption{{{_tex(caption)}}}',
            rf'\begin{{tabular}}{{l{"r" * (len(heads) - 1)}}}', r'\toprule',
            ' & '.join(map(_tex, heads)) + r' \\', r'\midrule', *lines, r'\bottomrule',
            r'\end{tabular}', r'\end{table}']
