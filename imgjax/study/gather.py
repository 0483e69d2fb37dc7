"""Reads what the cells of a study left, and makes the findings that its page shows."""

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
from imgjax.report import findings as found_lib
from imgjax.report import run as run_page
from imgjax.report import statistics
from imgjax.report.findings import STATES, Axis, Curve, Findings, Picture
from imgjax.report.study_text import interval_text
from imgjax.report.text import MISSING, percent
from imgjax.rundir import files, metrics_log, result
from imgjax.study import cells as cells_lib
from imgjax.study.cells import Cell
from imgjax.study.plan import Study

PICTURES = 12  # of a comparison


def findings(study: Study, planned: list[Cell], record: dict) -> Findings:
    """Returns what the cells that are there say.

    Args:
      study: as plan.load returns it.
      planned: its cells.
      record: as of record.py, and {'stopped': {arm: step} by halving, 'start_seconds': what a
        process takes to start}.
    """
    read = {cell.directory: _read(cell, study, record) for cell in planned}
    metric = parts.measured(planned[0].config, planned[0].dataset.multi_label)[study.metric]
    arms = [_arm(arm, [cell for cell in planned if cell.arm == arm.name], study, metric, read)
            for arm in study.arms]
    missing = _missing(arms)
    samples = {arm.name: _sample(arm, study, [
        read[cell.directory]['answers'] for cell in planned if cell.arm == arm.name])
        for arm in arms}
    comparisons = statistics.compare(
        [(samples[first], samples[second]) for first, second in study.comparisons],
        higher_is_better=metric.higher_is_better, complete=not missing)
    dataset = planned[0].dataset
    return Findings(
        name=study.name, question=study.question, text=study.text, metric=study.metric,
        split=planned[0].config['data']['eval_split'], higher_is_better=metric.higher_is_better,
        percent=metric.percent,
        examples=dataset.eval_examples, seeds=max(len(arm.seeds) for arm in study.arms), arms=arms,
        comparisons=comparisons, missing=missing,
        grid=[Axis(field, values) for field, values in study.grid.items()]
        if len(study.grid) < 3 else [],
        class_names=dataset.class_names,
        pictures={(first, second): _pictures(first, second, planned, read)
                  for first, second in study.comparisons},
        cost=_cost(planned, read, record), strategies=_strategies(record),
        environment=run_page.environment(),
        code=', '.join(sorted({cell.code for cell in planned})),
        notes=_notes(study, planned, read, record))


def _read(cell: Cell, study: Study, record: dict) -> dict:
    """Returns {'cell': as the page shows it, 'answers': by image, 'result', 'rows'}."""
    state, said, remark = cells_lib.state_of(cell)
    if state in ('missing', 'failed', 'older') and cell.arm in record['stopped']:
        state, remark = 'stopped', f'at step {record["stopped"][cell.arm]}'
    answers = {}
    if state == 'done':
        try:
            answers = result.read_answers(cell.directory)
        except DataError as error:
            state, remark = 'missing', str(error)
    score = said.get(study.metric) if state == 'done' else None
    if state == 'done' and (score is None or not math.isfinite(score)):
        state, score, remark = 'failed', None, f'its {study.metric} is not finite'
    shown = found_lib.Cell(
        cell.arm, cell.seed, state, cell.directory if os.path.isdir(cell.directory) else '',
        float('nan') if score is None else float(score),
        float(said.get('train_seconds', 'nan')) if state == 'done' else float('nan'), remark)
    rows = metrics_log.read_rows(cell.directory) if state == 'done' else []
    return {'cell': shown, 'answers': answers, 'result': said, 'rows': rows}


def _arm(arm, cells: list[Cell], study: Study, metric: Metric, read: dict) -> found_lib.Arm:
    mine = [read[cell.directory] for cell in cells]
    done = [one for one in mine if one['cell'].state == 'done']
    scores = np.array([one['cell'].score for one in done])
    return found_lib.Arm(
        arm.name, arm.fields, [one['cell'] for one in mine],
        _interval(scores, metric) if len(done) and np.isfinite(scores).all() else None,
        _curves(done, study, cells[0].config['data']['eval_split']),
        _class_scores(done, len(cells[0].dataset.class_names)),
        sum(one['cell'].seconds for one in done))


def _interval(scores, metric: Metric) -> statistics.Interval:
    """As statistics.interval, within what a share can be: few seeds give wide intervals."""
    found = statistics.interval(scores)
    if metric.percent and found.n > 1:
        return found._replace(low=max(found.low, 0.0), high=min(found.high, 1.0))
    return found


def _curves(done: list[dict], study: Study, split: str) -> dict[tuple[str, str], Curve]:
    curves = {}
    for of, key in dict.fromkeys((('train', 'loss'), (split, 'loss'), ('train', 'accuracy'),
                                  (split, study.metric))):
        columns = [{row['step']: row[key] for row in one['rows']
                    if row['split'] == of and row.get(key) is not None} for one in done]
        steps = sorted(set().union(*columns))
        if steps:
            curves[of, key] = Curve(np.array(steps), np.array(
                [[column.get(step, np.nan) for column in columns] for step in steps], np.float64))
    return curves


def _class_scores(done: list[dict], classes: int) -> np.ndarray | None:
    """Returns float64 (K,): the share of each class that is answered rightly."""
    if not done or any('labels' not in one['answers'] for one in done):
        return None
    scores = []
    for one in done:
        labels, hits = one['answers']['labels'], one['answers']['accuracy']
        count_K = np.bincount(labels, minlength=classes)
        right_K = np.bincount(labels[hits], minlength=classes)
        scores.append(np.where(count_K > 0, right_K / np.maximum(count_K, 1), np.nan))
    return np.mean(scores, axis=0)


def _sample(arm: found_lib.Arm, study: Study, answers: list[dict]) -> statistics.Sample:
    states = collections.Counter(cell.state for cell in arm.cells if cell.state != 'done')
    missing = [f'{arm.name}: {count} of {len(arm.cells)} {_cells(len(arm.cells))} {STATES[state]}'
               for state, count in states.items()]
    # Images can be compared one by one where the metric is the mean of a column.
    known = not missing and all(
        study.metric in one and one[study.metric].ndim == 1
        and math.isclose(one[study.metric].mean(dtype=np.float64), cell.score, rel_tol=1e-9)
        for one, cell in zip(answers, arm.cells, strict=True))
    values = [one[study.metric] for one in answers] if known else []
    return statistics.Sample(
        arm.name, missing, np.array([cell.score for cell in arm.cells]),
        np.stack(values).astype(np.float64) if known else None)


def _cells(count: int) -> str:
    return 'cell' if count == 1 else 'cells'


def _missing(arms: list[found_lib.Arm]) -> list[str]:
    """Returns why no winner may be named; an arm that was stopped as planned is no reason."""
    lines = []
    for arm in arms:
        counts = collections.Counter(cell.state for cell in arm.cells)
        lines += [f'{arm.name}: {count} of {len(arm.cells)} {_cells(len(arm.cells))} '
                  f'{STATES[state]}'
                  for state, count in counts.items() if state not in ('done', 'stopped')]
    return lines


def _pictures(first: str, second: str, planned: list[Cell], read: dict) -> list[Picture]:
    """Returns the images on which two arms disagree most, over all of their seeds."""
    cells = {arm: [cell for cell in planned if cell.arm == arm] for arm in (first, second)}
    answers = {arm: [read[cell.directory]['answers'] for cell in mine]
               for arm, mine in cells.items()}
    if not all('labels' in one for mine in answers.values() for one in mine):
        return []
    right = {arm: np.sum([one['accuracy'] for one in mine], axis=0)
             for arm, mine in answers.items()}
    gap_N = right[first] - right[second]
    order = np.argsort(-np.abs(gap_N), kind='stable')
    cell = cells[first][0]
    names, labels = cell.dataset.class_names, answers[first][0]['labels']

    def commonest(arm: str, index: int) -> str:
        votes = [int(one['predictions'][index]) for one in answers[arm]]
        return names[collections.Counter(votes).most_common(1)[0][0]]

    return [Picture(_png(cell, index), str(cell.sources[1].examples[index]['name']),
                    names[labels[index]], int(right[first][index]), int(right[second][index]),
                    commonest(first, index), commonest(second, index))
            for index in map(int, order[:PICTURES]) if gap_N[index]]


def _png(cell: Cell, index: int) -> bytes:
    pixels = decode.pixels(
        cell.sources[1].examples[index], cell.config['data'], cell.dataset.image_shape[0])
    data = io.BytesIO()
    Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels).save(data, 'PNG')
    return data.getvalue()


def _cost(planned: list[Cell], read: dict, record: dict) -> dict[str, float | None]:
    """Returns seconds: on the devices, compiling, of all starts, and of as many runs alone.

    Of the cells that this study has run itself. A run alone takes what it took here in a loop, its
    start, its compiling and, for a member of a population, the steps as they were timed alone.
    """
    devices, compiled, alone, starts = 0.0, 0.0, 0.0, record['start_seconds']
    programs = {name: (choice, place) for choice in record['groups'].values()
                for place, one in enumerate(choice['populations'])
                if one['devices'] for name in one['cells']}
    mine = [cell for cell in planned if os.path.basename(cell.directory) in record['ran']
            and read[cell.directory]['cell'].state == 'done']
    seen = set()
    for cell in mine:
        one = read[cell.directory]
        steps = one['cell'].seconds
        compiling = max((row['perf']['compile_time'] for row in one['rows'] if 'perf' in row),
                        default=0.0)
        devices += steps
        choice, program = programs.get(os.path.basename(cell.directory), (None, None))
        compiled += 0.0 if (cell.group, program) in seen else compiling
        seen.add((cell.group, program))
        if choice and alone is not None:
            known = choice['step_seconds'] is not None
            alone = alone + starts + choice['compile_seconds'] + (
                choice['step_seconds'] * cell.config['steps']) if known else None
        elif alone is not None:
            alone += starts + compiling + steps
    return {'device_seconds': devices, 'compile_seconds': compiled,
            'wall_seconds': record['seconds'], 'solo_seconds': alone or None,
            'cells_run': len(mine)}


def _strategies(record: dict) -> list[str]:
    return [f'{choice["cells"]} {_cells(choice["cells"])} like {choice["like"]}: '
            f'{choice["strategy"]}, as {choice["why"]}' for choice in record['groups'].values()]


def _notes(study: Study, planned: list[Cell], read: dict, record: dict) -> list[str]:
    notes = []
    seeds = {arm.name: set(arm.seeds) for arm in study.arms}
    if any(not seeds[first] & seeds[second] for first, second in study.comparisons):
        notes.append('Some of the planned comparisons are of arms without a common seed: these are '
                     'paired in the order of their seeds, which is as valid and gains nothing.')
    if record['stopped']:
        steps = ', '.join(f'{step:,}' for step in study.halving['steps'])
        notes.append(
            f'Arms were stopped early (successive halving): at step {steps} the best '
            f'{percent(study.halving["keep"], 0)} of the arms went on, by the mean {study.metric} '
            'over their seeds on the same images that the study reports. What is left is therefore '
            'the best of many, which its own figures flatter.')
    kinds = collections.Counter()
    for cell in planned:
        if read[cell.directory]['cell'].state == 'done':
            try:
                said = files.read_json(os.path.join(cell.directory, 'environment.json'))
                kinds[str(said['devices'])] += 1
            except (OSError, ValueError, KeyError, TypeError):
                kinds['unknown'] += 1
    if len(kinds) > 1:
        notes.append('The cells ran on different devices, which round differently: ' + ', '.join(
            f'{count} on {kind}' for kind, count in kinds.most_common()))
    return notes


def result_of(found: Findings, workdir: str) -> dict:
    """Returns the line that a study ends with."""
    counts = collections.Counter(cell.state for arm in found.arms for cell in arm.cells)
    return {
        'study': found.name, 'workdir': os.path.abspath(workdir), 'cells': sum(counts.values()),
        'cells_done': counts['done'], 'cells_failed': counts['failed'],
        'cells_diverged': counts['diverged'],
        'page': os.path.join(os.path.abspath(workdir), 'study.html'), 'missing': found.missing,
        'comparisons': [{
            'first': one.first, 'second': one.second, 'winner': one.winner,
            'difference': one.difference and one.difference.mean,
            'low': one.difference and one.difference.low,
            'high': one.difference and one.difference.high, 'p': one.p, 'p_holm': one.p_holm,
        } for one in found.comparisons],
        'seconds': round(found.cost['wall_seconds'], 2)}


def table(found: Findings) -> str:
    """Returns the arms and the comparisons as a few lines for people."""
    width = max(len(arm.name) for arm in found.arms)
    lines = []
    for arm in found.arms:
        done = sum(cell.state == 'done' for cell in arm.cells)
        score = MISSING if arm.score is None else interval_text(arm.score, found.percent)
        lines.append(f'  {arm.name:<{width}}  {found.metric} {score}, {done} of {len(arm.cells)} '
                     f'{_cells(len(arm.cells))}, {duration_text(arm.seconds)}')
    return '\n'.join([*lines, *(f'  missing: {line}' for line in found.missing)])
