"""Reads the results of a study's cells, and computes the findings that its page shows."""

import collections
import io
import math
import os

import numpy as np
from PIL import Image

from imgjax import parts
from imgjax.data import decode
from imgjax.errors import DataError
from imgjax.metrics import Metric
from imgjax.process.duration import duration_text
from imgjax.report import findings as findings_lib
from imgjax.report import run as run_page
from imgjax.report import statistics
from imgjax.report.findings import STATES, Axis, Curve, Findings, Picture
from imgjax.report.study_text import interval_text
from imgjax.report.text import MISSING, percent
from imgjax.rundir import files, metrics_log, result
from imgjax.study import cells as cells_lib
from imgjax.study.cells import Cell
from imgjax.study.plan import Study

PICTURES = 12  # how many images a comparison shows


def collect(study: Study, planned: list[Cell], record: dict) -> Findings:
    """Returns the findings of a study from the cells that are done.

    Args:
      study: the study, as plan.load returns it.
      planned: all cells of the study.
      record: the record, see record.py, with two more fields: {'stopped': {arm: step}, the arms
        that halving stopped, 'start_seconds': the time that a process takes to start}.
    """
    by_directory = {cell.directory: _read(cell, study, record) for cell in planned}
    metric = parts.measured(planned[0].config, planned[0].dataset.multi_label)[study.metric]
    arms = [_arm(arm, [cell for cell in planned if cell.arm == arm.name], study, metric,
                 by_directory)
            for arm in study.arms]
    missing = _missing(arms)
    samples = {arm.name: _sample(arm, study, [
        by_directory[cell.directory]['answers'] for cell in planned if cell.arm == arm.name])
        for arm in arms}
    comparisons = statistics.compare(
        [(samples[first], samples[second]) for first, second in study.comparisons],
        higher_is_better=metric.higher_is_better, complete=not missing)
    dataset = planned[0].dataset
    return Findings(
        name=study.name, question=study.question, text=study.text, metric=study.metric,
        split=planned[0].config.data.eval_split, higher_is_better=metric.higher_is_better,
        percent=metric.percent,
        examples=dataset.eval_examples, seeds=max(len(arm.seeds) for arm in study.arms), arms=arms,
        comparisons=comparisons, missing=missing,
        grid=[Axis(field, values) for field, values in study.grid.items()]
        if len(study.grid) < 3 else [],
        class_names=dataset.class_names,
        pictures={(first, second): _pictures(first, second, planned, by_directory)
                  for first, second in study.comparisons},
        cost=_cost(planned, by_directory, record), strategies=_strategies(record),
        environment=run_page.environment(),
        code=', '.join(sorted({cell.code for cell in planned})),
        notes=_notes(study, planned, by_directory, record))


def _read(cell: Cell, study: Study, record: dict) -> dict:
    """Returns {'cell': a findings.Cell, 'answers': {name: array}, 'result', 'rows'} of a cell."""
    state, cell_result, remark = cells_lib.state_of(cell)
    if state in ('missing', 'failed', 'older') and cell.arm in record['stopped']:
        state, remark = 'stopped', f'at step {record["stopped"][cell.arm]}'
    answers = {}
    if state == 'done':
        try:
            answers = result.read_answers(cell.directory)
        except DataError as error:
            state, remark = 'missing', str(error)
    score = cell_result.get(study.metric) if state == 'done' else None
    if state == 'done' and (score is None or not math.isfinite(score)):
        state, score, remark = 'failed', None, f'its {study.metric} is not finite'
    shown = findings_lib.Cell(
        cell.arm, cell.seed, state, cell.directory if os.path.isdir(cell.directory) else '',
        float('nan') if score is None else float(score),
        float(cell_result.get('train_seconds', 'nan')) if state == 'done' else float('nan'), remark)
    rows = metrics_log.read_rows(cell.directory) if state == 'done' else []
    return {'cell': shown, 'answers': answers, 'result': cell_result, 'rows': rows}


def _arm(arm, cells: list[Cell], study: Study, metric: Metric,
         by_directory: dict) -> findings_lib.Arm:
    outcomes = [by_directory[cell.directory] for cell in cells]
    done = [outcome for outcome in outcomes if outcome['cell'].state == 'done']
    scores = np.array([outcome['cell'].score for outcome in done])
    return findings_lib.Arm(
        arm.name, arm.fields, [outcome['cell'] for outcome in outcomes],
        _interval(scores, metric) if len(done) and np.isfinite(scores).all() else None,
        _curves(done, study, cells[0].config.data.eval_split),
        _class_scores(done, len(cells[0].dataset.class_names)),
        sum(outcome['cell'].seconds for outcome in done))


def _interval(scores, metric: Metric) -> statistics.Interval:
    """Returns statistics.interval, cut to 0 to 1 for a share: few seeds give wide intervals."""
    interval = statistics.interval(scores)
    if metric.percent and interval.n > 1:
        return interval._replace(low=max(interval.low, 0.0), high=min(interval.high, 1.0))
    return interval


def _curves(done: list[dict], study: Study, split: str) -> dict[tuple[str, str], Curve]:
    curves = {}
    for row_split, key in dict.fromkeys((
            ('train', 'loss'), (split, 'loss'), ('train', 'accuracy'), (split, study.metric))):
        columns = [{row['step']: row[key] for row in outcome['rows']
                    if row['split'] == row_split and row.get(key) is not None} for outcome in done]
        steps = sorted(set().union(*columns))
        if steps:
            curves[row_split, key] = Curve(np.array(steps), np.array(
                [[column.get(step, np.nan) for column in columns] for step in steps], np.float64))
    return curves


def _class_scores(done: list[dict], classes: int) -> np.ndarray | None:
    """Returns float64 (K,): the share of each class that is classified correctly, over the seeds.

    None if no seed is done or images have several labels.
    """
    if not done or any('labels' not in outcome['answers'] for outcome in done):
        return None
    scores = []
    for outcome in done:
        labels, hits = outcome['answers']['labels'], outcome['answers']['accuracy']
        count_K = np.bincount(labels, minlength=classes)
        right_K = np.bincount(labels[hits], minlength=classes)
        scores.append(np.where(count_K > 0, right_K / np.maximum(count_K, 1), np.nan))
    return np.mean(scores, axis=0)


def _sample(arm: findings_lib.Arm, study: Study, answers: list[dict]) -> statistics.Sample:
    missing = _unfinished(arm, ('done',))
    # Images can be compared one by one only if the metric is the mean of a value per image.
    known = not missing and all(
        study.metric in columns and columns[study.metric].ndim == 1
        and math.isclose(columns[study.metric].mean(dtype=np.float64), cell.score, rel_tol=1e-9)
        for columns, cell in zip(answers, arm.cells, strict=True))
    values = [columns[study.metric] for columns in answers] if known else []
    return statistics.Sample(
        arm.name, missing, np.array([cell.score for cell in arm.cells]),
        np.stack(values).astype(np.float64) if known else None)


def _cells(count: int) -> str:
    return 'cell' if count == 1 else 'cells'


def _unfinished(arm: findings_lib.Arm, finished: tuple[str, ...]) -> list[str]:
    """Returns a line for each state of the arm's cells that is not one of `finished`."""
    count, states = len(arm.cells), collections.Counter(cell.state for cell in arm.cells)
    return [f'{arm.name}: {number} of {count} {_cells(count)} {STATES[state]}'
            for state, number in states.items() if state not in finished]


def _missing(arms: list[findings_lib.Arm]) -> list[str]:
    """Returns why no winner may be named; arms that were stopped as planned are no reason."""
    return [line for arm in arms for line in _unfinished(arm, ('done', 'stopped'))]


def _pictures(first: str, second: str, planned: list[Cell],
              by_directory: dict) -> list[Picture]:
    """Returns the images on which two arms disagree most, over all of their seeds."""
    cells = {arm: [cell for cell in planned if cell.arm == arm] for arm in (first, second)}
    answers = {arm: [by_directory[cell.directory]['answers'] for cell in arm_cells]
               for arm, arm_cells in cells.items()}
    if not all('labels' in columns for seeds in answers.values() for columns in seeds):
        return []
    right = {arm: np.sum([columns['accuracy'] for columns in seeds], axis=0)
             for arm, seeds in answers.items()}
    gap_N = right[first] - right[second]
    order = np.argsort(-np.abs(gap_N), kind='stable')
    cell = cells[first][0]
    names, labels = cell.dataset.class_names, answers[first][0]['labels']

    def most_frequent(arm: str, index: int) -> str:
        votes = [int(columns['predictions'][index]) for columns in answers[arm]]
        return names[collections.Counter(votes).most_common(1)[0][0]]

    return [Picture(_png(cell, index), str(cell.sources[1].examples[index]['name']),
                    names[labels[index]], int(right[first][index]), int(right[second][index]),
                    most_frequent(first, index), most_frequent(second, index))
            for index in map(int, order[:PICTURES]) if gap_N[index]]


def _png(cell: Cell, index: int) -> bytes:
    pixels = decode.pixels(
        cell.sources[1].examples[index], cell.config.data, cell.dataset.image_shape[0])
    data = io.BytesIO()
    Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels).save(data, 'PNG')
    return data.getvalue()


def _cost(planned: list[Cell], by_directory: dict, record: dict) -> dict[str, float | None]:
    """Returns the `cost` of Findings, for the cells that this study has run itself.

    `solo_seconds` estimates single runs as the start of a process, the compiling and the steps. For
    a cell that was looped, the last two are what they were here; for a member of a population they
    are those of the single run that strategy.py timed.
    """
    device_seconds, compile_seconds, solo_seconds = 0.0, 0.0, 0.0
    starting = record['start_seconds']
    programs = {name: (choice, index) for choice in record['groups'].values()
                for index, population in enumerate(choice['populations'])
                if population['devices'] for name in population['cells']}
    ran_here = [cell for cell in planned if os.path.basename(cell.directory) in record['ran']
                and by_directory[cell.directory]['cell'].state == 'done']
    counted = set()
    for cell in ran_here:
        outcome = by_directory[cell.directory]
        in_steps = outcome['cell'].seconds
        compiling = max((row['perf']['compile_time'] for row in outcome['rows'] if 'perf' in row),
                        default=0.0)
        device_seconds += in_steps
        choice, program = programs.get(os.path.basename(cell.directory), (None, None))
        compile_seconds += 0.0 if (cell.group, program) in counted else compiling
        counted.add((cell.group, program))
        if choice and solo_seconds is not None:
            was_timed = choice['step_seconds'] is not None
            solo_seconds = solo_seconds + starting + choice['compile_seconds'] + (
                choice['step_seconds'] * cell.config.steps) if was_timed else None
        elif solo_seconds is not None:
            solo_seconds += starting + compiling + in_steps
    return {'device_seconds': device_seconds, 'compile_seconds': compile_seconds,
            'wall_seconds': record['seconds'], 'solo_seconds': solo_seconds or None,
            'cells_run': len(ran_here)}


def _strategies(record: dict) -> list[str]:
    return [f'{choice["cells"]} {_cells(choice["cells"])} like {choice["like"]}: '
            f'{choice["strategy"]}, as {choice["why"]}' for choice in record['groups'].values()]


def _notes(study: Study, planned: list[Cell], by_directory: dict, record: dict) -> list[str]:
    notes = []
    seeds = {arm.name: set(arm.seeds) for arm in study.arms}
    if any(not seeds[first] & seeds[second] for first, second in study.comparisons):
        notes.append('Some planned comparisons are between arms without a common seed. They are '
                     'paired in the order of their seeds, which is valid but makes the test no '
                     'sharper.')
    if record['stopped']:
        steps = ', '.join(f'{step:,}' for step in study.halving['steps'])
        notes.append(
            f'Arms were stopped early (successive halving): at step {steps} the best '
            f'{percent(study.halving["keep"], 0)} of the arms went on, by the mean {study.metric} '
            'over their seeds on the same images that the study reports. The remaining arms were '
            'therefore selected by these figures, which are too optimistic.')
    kinds = collections.Counter()
    for cell in planned:
        if by_directory[cell.directory]['cell'].state == 'done':
            try:
                environment = files.read_json(os.path.join(cell.directory, 'environment.json'))
                kinds[str(environment['devices'])] += 1
            except (OSError, ValueError, KeyError, TypeError):
                kinds['unknown'] += 1
    if len(kinds) > 1:
        notes.append('The cells ran on different devices, which round differently: ' + ', '.join(
            f'{count} on {kind}' for kind, count in kinds.most_common()))
    return notes


def result_of(findings: Findings, workdir: str) -> dict:
    """Returns the result that launch.study prints as its last line, see engine.run."""
    counts = collections.Counter(cell.state for arm in findings.arms for cell in arm.cells)
    return {
        'study': findings.name, 'workdir': os.path.abspath(workdir), 'cells': sum(counts.values()),
        'cells_done': counts['done'], 'cells_failed': counts['failed'],
        'cells_diverged': counts['diverged'],
        'page': os.path.join(os.path.abspath(workdir), 'study.html'), 'missing': findings.missing,
        'comparisons': [{
            'first': comparison.first, 'second': comparison.second, 'winner': comparison.winner,
            'difference': comparison.difference and comparison.difference.mean,
            'low': comparison.difference and comparison.difference.low,
            'high': comparison.difference and comparison.difference.high, 'p': comparison.p,
            'p_holm': comparison.p_holm,
        } for comparison in findings.comparisons],
        'seconds': round(findings.cost['wall_seconds'], 2)}


def table(findings: Findings) -> str:
    """Returns one line per arm, and one per reason why no winner is named, for people."""
    width = max(len(arm.name) for arm in findings.arms)
    lines = []
    for arm in findings.arms:
        done = sum(cell.state == 'done' for cell in arm.cells)
        score = MISSING if arm.score is None else interval_text(arm.score, findings.percent)
        lines.append(
            f'  {arm.name:<{width}}  {findings.metric} {score}, {done} of {len(arm.cells)} '
            f'{_cells(len(arm.cells))}, {duration_text(arm.seconds)}')
    return '\n'.join([*lines, *(f'  missing: {line}' for line in findings.missing)])
