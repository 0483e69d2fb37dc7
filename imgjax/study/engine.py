"""Runs what of a study is not done yet, and has its page written."""

import collections
import contextlib
import glob
import hashlib
import json
import logging
import math
import os
import sys
import time

import jax
import numpy as np

from imgjax import config as config_lib
from imgjax import feed, metrics, processes, result, runtime, train, trust
from imgjax.errors import (
    ConfigError,
    DivergedError,
    LockedError,
    PreemptedError,
    ReplicaError,
    WorkerError,
    nearest,
)
from imgjax.report import study_page, study_tables
from imgjax.study import cells as cells_lib
from imgjax.study import gather, plan, population, strategy
from imgjax.study.cells import Cell

log = logging.getLogger('imgjax.study')


def run(place: str, workdir: str, cells: str = '', wish: str = 'auto', only: str = '',
        part: str = '', report: bool = False) -> dict:
    """Runs a study from where it stands; the same command goes on.

    Args:
      place: the study file, as of plan.load.
      workdir: of the study: its page, its tables, and how its cells are run.
      cells: the folder of the cells' run directories, which studies may share; '' is `cells`
        beside the workdir.
      wish: one of strategy.NAMES.
      only: the name of an arm; the others are not run. '' runs all.
      part: 'I/N', as of task I (from 0) of N jobs that share the study: every N-th group of cells,
        or of the cells where there are fewer groups. '' runs all.
      report: run nothing, write the page.

    Returns the line that the study ends with: study, workdir, cells (planned), cells_done,
    cells_failed, cells_diverged, page, missing (why no winner may be named) and comparisons.

    Raises:
      RunError: a study that cannot be run, or was asked to stop. A cell that fails or diverges is
        no error: the others go on, and the page says so.
    """
    started, start_seconds = time.monotonic(), strategy.process_seconds()
    study = plan.load(place)
    folder = cells or os.path.join(os.path.dirname(os.path.abspath(workdir)), 'cells')
    planned = cells_lib.cells_of(study, folder)
    arms = [arm.name for arm in study.arms]
    if only and only not in arms:
        raise ConfigError(f'--only: no arm {only!r}{nearest(only, arms)}; there are '
                          f'{", ".join(arms[:20])}')
    if part and study.halving:
        raise ConfigError('--part: a study with halving compares its arms as they go, in one job')
    mine = _part(planned, part)
    own = os.path.join(workdir, f'part-{part.replace("/", "-of-")}') if part else workdir
    for directory in (workdir, folder, own):
        os.makedirs(directory, 0o750, exist_ok=True)
    with contextlib.ExitStack() as held:
        processes.from_first(lambda: held.enter_context(runtime.run_lock(own)) or '')
        record = _Record(own)
        if not report:
            with _quiet():
                _run_cells(study, [cell for cell in mine if only in ('', cell.arm)], record, wish,
                           bool(only))
        record.add_seconds(time.monotonic() - started)
    with contextlib.ExitStack() as held:
        if part:  # the jobs of a study end when they do; the page is written by one at a time
            processes.from_first(lambda: held.enter_context(_turn(workdir)) or '')
        found = gather.findings(
            study, planned, _records(workdir) | {'start_seconds': start_seconds})
        if processes.first():
            study_page.write_page(os.path.join(workdir, 'study.html'), found)
            study_tables.write_tables(workdir, found)
            print(gather.table(found), file=sys.stderr)
    return gather.result_of(found, workdir)


def listing(place: str, workdir: str, cells: str = '') -> dict:
    """Prints the cells with their states, and what they took; returns their counts."""
    study = plan.load(place)
    folder = cells or os.path.join(os.path.dirname(os.path.abspath(workdir)), 'cells')
    counts = collections.Counter()
    for cell in cells_lib.cells_of(study, folder):
        state, found, remark = cells_lib.state_of(cell)
        counts[state] += 1
        took = f'{found["train_seconds"]:8.1f} s' if 'train_seconds' in found else f'{"":10}'
        print(f'{state:9} {took}  {cell.arm} · seed {cell.seed}  {cell.directory}  {remark}',
              file=sys.stderr)
    return {'study': study.name, 'cells': sum(counts.values()), **counts}


def _part(planned: list[Cell], part: str) -> list[Cell]:
    """Returns the cells of a part: whole groups, but where there are fewer of them than parts."""
    if not part:
        return planned
    index, _, count = part.partition('/')
    if not (index.isdecimal() and count.isdecimal() and int(index) < int(count)):
        raise ConfigError(f'--part: takes I/N with I from 0 to N - 1, got {part!r}')
    groups = list(dict.fromkeys(cell.group for cell in planned))
    if len(groups) < int(count):
        return planned[int(index)::int(count)]
    return [cell for cell in planned if groups.index(cell.group) % int(count) == int(index)]


@contextlib.contextmanager
def _turn(workdir: str):
    """Waits for the run lock of a study whose other parts are writing its page."""
    with contextlib.ExitStack() as held:
        while True:
            try:
                held.enter_context(runtime.run_lock(workdir))
                break
            except LockedError:
                time.sleep(0.5)
        yield


def _records(workdir: str) -> dict:
    """Returns what is noted in a study's directory, and in those of its parts."""
    parts = sorted(glob.glob(os.path.join(glob.escape(workdir), 'part-*')))
    merged = _Record(workdir).read()
    for found in (_Record(path).read() for path in parts):
        merged = {'groups': merged['groups'] | {f'{key} {len(merged["groups"])}': value
                                                for key, value in found['groups'].items()},
                  'stopped': merged['stopped'] | found['stopped'], 'judged': [],
                  'seconds': merged['seconds'] + found['seconds']}
    return merged


@contextlib.contextmanager
def _quiet():
    """Has runs speak of trouble only: a study says a line a cell."""
    runs = logging.getLogger('imgjax')
    before = runs.level
    log.setLevel(before)
    runs.setLevel(max(before, logging.WARNING))
    try:
        yield
    finally:
        runs.setLevel(before)


class _Record:
    """plan.json of a study: how its groups are run, which arms were stopped and when arms were
    judged (halving), how long it took.

    What was chosen by timing is kept: another choice would round differently.
    """

    def __init__(self, workdir: str):
        self._path = os.path.join(workdir, 'plan.json')
        self._text = processes.from_first(lambda: json.dumps(self._load()))

    def _load(self) -> dict:
        with contextlib.suppress(OSError, ValueError):
            found = trust.read_json(self._path)
            if _is_record(found):
                return found
            log.warning('%s: not as it was written; how cells are run is chosen anew', self._path)
        return {'groups': {}, 'stopped': {}, 'judged': [], 'seconds': 0.0}

    def read(self) -> dict:
        return json.loads(self._text)

    def write(self, found: dict) -> None:
        self._text = json.dumps(found)
        if processes.first():
            config_lib.write_json(self._path, found)

    def add_seconds(self, seconds: float) -> None:
        found = self.read()
        self.write(found | {'seconds': found['seconds'] + seconds})


def _is_record(found) -> bool:
    """Is it what a record writes? A start again relies on it."""
    if not (isinstance(found, dict) and all(type(found.get(key)) is kind for key, kind in (
            ('groups', dict), ('stopped', dict), ('judged', list), ('seconds', float)))):
        return False
    return all(
        isinstance(group, dict) and group.get('strategy') in strategy.NAMES
        and all(type(group.get(key)) is int and group[key] > 0
                for key in ('members', 'devices', 'cells'))
        and all(type(group.get(key)) is str for key in ('why', 'like'))
        and all(key in group and isinstance(group[key], float | None)
                for key in ('step_seconds', 'compile_seconds'))
        and isinstance(group.get('populations'), list)
        and all(isinstance(names, list) and all(type(name) is str for name in names)
                for names in group['populations'])
        for group in found['groups'].values())


def _run_cells(study, cells: list[Cell], record: _Record, wish: str, some: bool) -> None:
    """Runs the cells that are not done, in rounds where the study stops arms early."""
    shared: dict = {}
    steps = (study.halving or {'steps': []})['steps']
    rounds = [*(step for step in steps if step not in record.read()['judged']), None]
    with metrics.progress(len(cells), 0, 'cell') as bar:
        bar.set_description(study.name)
        for until in rounds:
            stopped = record.read()['stopped']
            going = [cell for cell in cells if cell.arm not in stopped]
            left = _left(going)
            bar.update(max(0, len(cells) - len(left) - bar.n))
            groups: dict[str, list[Cell]] = {}
            for cell in going:
                groups.setdefault(cell.group, []).append(cell)
            for group in groups.values():
                if any(cell in left for cell in group):
                    _run_group(group, left, until, record, wish, some, shared, bar)
            if until is not None:
                _halve(study, going, until, record)


def _left(cells: list[Cell]) -> list[Cell]:
    """Returns the cells that are neither done nor diverged; the same ones in all processes."""
    names = json.loads(processes.from_first(lambda: json.dumps([
        cell.directory for cell in cells
        if cells_lib.state_of(cell)[0] not in ('done', 'diverged')])))
    return [cell for cell in cells if cell.directory in names]


def _run_group(group, left, until, record: _Record, wish: str, some: bool, shared: dict, bar):
    """Runs the cells of one structure, as it was begun or as `wish` says."""
    key = hashlib.sha256(group[0].group.encode()).hexdigest()[:16]
    by_name = {os.path.basename(cell.directory): cell for cell in group}
    kept = {} if some else record.read()['groups'].get(key, {})
    if kept and wish not in ('auto', kept['strategy']):
        kept = {}  # asked for now, otherwise than before
    # A population is what it was when it was begun, or its members would round differently.
    begun = [names for names in kept.get('populations', []) if all(n in by_name for n in names)]
    fresh = [cell for cell in group if cell in left and not any(
        os.path.basename(cell.directory) in names for names in begun)]
    if fresh:
        wished = kept.get('strategy', wish) if wish == 'auto' else wish
        choice = strategy.choose(fresh, wished, shared)
        log.info('%d cells like %s · seed %d: %s, as %s', len(fresh), fresh[0].arm, fresh[0].seed,
                 choice.strategy, choice.why)
        more = _populations(fresh, choice)
        if not kept or kept['strategy'] != choice.strategy:
            kept = choice._asdict()
        begun += [[os.path.basename(cell.directory) for cell in cells] for cells in more]
        if not some:
            found = record.read()
            found['groups'][key] = kept | {'populations': begun, 'cells': len(group),
                                           'like': group[0].arm}
            record.write(found)
    for names in begun:
        members = [by_name[name] for name in names]
        if any(cell in left for cell in members):
            _run_population(members, kept['devices'], until, shared, bar)
    for cell in fresh:
        if not any(os.path.basename(cell.directory) in names for names in begun):
            _run_alone(cell, until, shared, bar)


def _populations(cells: list[Cell], choice: strategy.Choice) -> list[list[Cell]]:
    """Cuts cells into populations; those that no population of them can have are left out."""
    if choice.strategy == 'loop':
        return []
    parts = [cells]
    if not feed.is_resident(cells[0], cells[0].sources[0]):
        seeds = list(dict.fromkeys(cell.seed for cell in cells))
        parts = [[cell for cell in cells if cell.seed == seed] for seed in seeds]
    cut = [part[start:start + choice.members] for part in parts
           for start in range(0, len(part), choice.members)]
    return [some for some in cut if len(some) > 1 and len(some) % choice.devices == 0]


def _run_population(members: list[Cell], devices: int, until, shared: dict, bar) -> None:
    ended = population.run(members, jax.local_devices()[:devices], shared, until)
    for cell, outcome in zip(members, ended, strict=True):
        if isinstance(outcome, DivergedError):
            result.write(cell.directory, {'state': 'diverged', 'error': str(outcome)})
            _say(cell, 'diverged', bar)
        else:
            _say(cell, outcome, bar)


def _run_alone(cell: Cell, until, shared: dict, bar) -> None:
    """Runs a cell; one that fails or diverges is noted, and the others go on."""
    try:
        outcome = train.run_one(cell.config, cell.directory, cell.sources, shared, until)
    except (LockedError, PreemptedError, ReplicaError, WorkerError):
        raise  # of the machine, not of the cell
    except DivergedError as error:
        outcome, said = 'diverged', {'state': 'diverged', 'error': str(error)}
    except Exception as error:
        log.warning('%s · seed %d failed', cell.arm, cell.seed, exc_info=True)
        outcome, said = 'failed', {
            'state': 'failed', 'error': f'{type(error).__name__}: {str(error).splitlines()[0]}'}
    if isinstance(outcome, str) and processes.first():
        os.makedirs(cell.directory, 0o750, exist_ok=True)
        result.write(cell.directory, said)
    _say(cell, outcome, bar)


def _say(cell: Cell, outcome, bar) -> None:
    if isinstance(outcome, dict):
        outcome = f'{outcome["accuracy"]:.2%} of {outcome["examples"]:,} at step {outcome["step"]}'
    bar.update()
    text = f'{cell.arm} · seed {cell.seed}: {outcome}'
    if bar.disable:
        log.info(text)
    else:
        bar.write(text, file=sys.stderr)


def _halve(study, cells: list[Cell], step: int, record: _Record) -> None:
    """Stops the arms that are the worst at a step, all of them at once."""
    scores = {arm: _score(study, [cell for cell in cells if cell.arm == arm], step)
              for arm in dict.fromkeys(cell.arm for cell in cells)}
    sign = 1 if study.metric == 'loss' else -1
    ranked = sorted(scores, key=lambda arm: (math.isnan(scores[arm]), sign * scores[arm]))
    out = ranked[math.ceil(study.halving['keep'] * len(ranked)):]
    found = record.read()
    found['stopped'] |= {arm: step for arm in out}
    found['judged'] += [step]  # a start again goes on behind it
    record.write(found)
    if out:
        log.info('stopped at step %d: %s', step, ', '.join(out))


def _score(study, cells: list[Cell], step: int) -> float:
    """Returns the mean over the seeds at a step; NaN where one diverged or failed."""
    values = []
    for cell in cells:
        rows = metrics.read_rows(cell.directory)
        values += [row.get(study.metric) for row in rows
                   if row['step'] == step and row['split'] == cell.config['data']['eval_split']][:1]
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if len(known) == len(cells) else math.nan
