"""The result of a study in words: the headline, a verdict per comparison, and its numbers."""

import math

from imgjax.report.findings import Findings
from imgjax.report.statistics import Comparison
from imgjax.report.text import MISSING, number, percent

_NAMED = 3  # how many winners, or reasons, the headline names


def headline(findings: Findings) -> str:
    """Returns one or two sentences that answer the question as far as the finished cells allow."""
    if findings.missing:
        return (f'Incomplete, so that no winner is named. {_first_few(findings.missing)}.')
    won = [comparison for comparison in findings.comparisons if comparison.winner]
    if won:
        tested = [comparison for comparison in findings.comparisons
                  if comparison.difference is not None]
        rest = len(tested) - len(won)
        return _first_few([_won(comparison, findings) for comparison in won]) + '.' + (
            f' {_count(rest)} of {len(findings.comparisons)} planned comparisons showed no '
            'difference.' if rest else '') + _untested(findings)
    if any(comparison.difference is not None for comparison in findings.comparisons):
        return _nothing_shown(findings) + _untested(findings)
    return _best(findings) + _untested(findings)


def _untested(findings: Findings) -> str:
    count = sum(comparison.difference is None for comparison in findings.comparisons)
    if not count:
        return ''
    return (f' {_count(count)} of {len(findings.comparisons)} {"was" if count == 1 else "were"} '
            'not tested, as arms were stopped.')


def _won(comparison: Comparison, findings: Findings) -> str:
    loser = comparison.second if comparison.winner == comparison.first else comparison.first
    low, high = sorted((abs(comparison.difference.low), abs(comparison.difference.high)))
    return (f'{comparison.winner} is better than {loser} by '
            f'{difference_text(abs(comparison.difference.mean), findings.percent, signed=False)} '
            f'({difference_text(low, findings.percent, signed=False, unit=False)} to '
            f'{difference_text(high, findings.percent, signed=False, unit=False)}; Holm '
            f'{p_text(comparison.p_holm)})')


def _nothing_shown(findings: Findings) -> str:
    tested = [comparison for comparison in findings.comparisons
              if comparison.difference is not None]
    seeds = max(comparison.difference.n for comparison in tested)
    if seeds == 1:
        return ('No difference was shown with 1 seed: a single one tells nothing about others.')
    text = (f'No difference was shown with {seeds} seeds, in {len(tested)} planned '
            f'comparison{"s" * (len(tested) > 1)}.')
    needed = [(comparison.seeds_needed, comparison.difference.n) for comparison in tested
              if comparison.seeds_needed]
    if needed and min(needed)[0] > min(needed)[1]:
        text += (f' If the largest observed effect is the true one, {number(min(needed)[0])} '
                 'seeds would show it in four of five studies.')
    return text


def _best(findings: Findings) -> str:
    known = [arm for arm in findings.arms if arm.score is not None]
    if not known:
        return 'Nothing was run yet.'
    best = (max if findings.higher_is_better else min)(known, key=lambda arm: arm.score.mean)
    text = (f'{best.name} has the best {metric_name(findings.metric)}: '
            f'{interval_text(best.score, findings.percent)}.')
    if len(known) > 1:
        text += (f' It was picked among {len(known)} arms by this same figure, so it is too '
                 'optimistic' + ('.' if findings.comparisons else '; no comparison was planned.'))
    return text


def verdict(comparison: Comparison, findings: Findings) -> str:
    """Returns the result of a comparison in a few words."""
    if comparison.missing:
        return f'incomplete: {"; ".join(comparison.missing)}'
    if comparison.winner:
        return f'{comparison.winner} is better'
    if findings.missing and comparison.p_holm < 0.05:
        return 'no winner is named: the study is incomplete'
    if comparison.difference.n == 1:
        return 'one seed tells nothing about others'
    if math.isnan(comparison.p):
        return 'the same difference for every seed: the test set is too small to tell'
    if comparison.seeds_needed:
        return (f'no difference shown; {number(comparison.seeds_needed)} seeds would show this '
                'effect')
    return 'no difference shown'


def metric_name(metric: str) -> str:
    """Returns a metric's name for people, such as 'top-5 accuracy' or 'mean average precision'."""
    return {'top5_accuracy': 'top-5 accuracy'}.get(metric, metric.replace('_', ' '))


def score_text(value: float, in_percent: bool) -> str:
    """Returns '98.31%' for a share such as an accuracy, '0.0912' for another number."""
    if not math.isfinite(value):
        return MISSING
    return percent(value) if in_percent else f'{value:.4f}'


def interval_text(interval, in_percent: bool) -> str:
    """Returns '98.31% (98.02% to 98.60%)'; only the mean if there is one seed."""
    mean = score_text(interval.mean, in_percent)
    if interval.n < 2:
        return mean
    return (f'{mean} ({score_text(interval.low, in_percent)} to '
            f'{score_text(interval.high, in_percent)})')


def difference_text(value: float, in_percent: bool, *, signed: bool = True,
                    unit: bool = True) -> str:
    """Returns '+0.95 points' for a difference of shares, '-0.0120' for one of losses."""
    if not math.isfinite(value):
        return MISSING
    sign = '+' if signed else ''
    if not in_percent:
        return f'{value:{sign}.4f}'
    return f'{100 * value:{sign}.2f}' + (' points' if unit else '')


def p_text(p: float) -> str:
    """Returns 'p = 0.012' or 'p < 0.001'; '–' for NaN."""
    if math.isnan(p):
        return MISSING
    return 'p < 0.001' if p < 0.001 else f'p = {p:.3f}' if p < 0.1 else f'p = {p:.2f}'


def _first_few(texts: list[str]) -> str:
    more = len(texts) - _NAMED
    return '; '.join(texts[:_NAMED]) + (f'; and {more} more' if more > 0 else '')


def _count(count: int) -> str:
    return 'One' if count == 1 else str(count)
