"""Splits the unfinished cells of a group into populations and single runs, and runs these."""

import hashlib
import logging
import os
import sys
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax

from imgjax import feed, train
from imgjax.errors import (
    DivergedError,
    LockedError,
    PreemptedError,
    ReplicaError,
    WorkerError,
    first_line,
)
from imgjax.process import processes, stop
from imgjax.rundir import checkpoint, result
from imgjax.study import cells as cells_lib
from imgjax.study import population, strategy
from imgjax.study import record as record_lib
from imgjax.study.cells import Cell
from imgjax.study.plan import Study

log = logging.getLogger('imgjax.study')

# Errors that end the whole start: their cause is the machine or another process, not a cell.
_ENDING_ERRORS = (LockedError, PreemptedError, ReplicaError, WorkerError)


class Run(NamedTuple):
    """One start of a study: the state that its functions share.

    Attributes:
      study: the study, as plan.load returns it.
      planned: all cells of the study.
      selected: the cells that this start runs.
      workdir: the directory of the record: that of the study, or of this part of it.
      record: the content of plan.json, see record.py; it is written after every change.
      requested: the requested strategy, one of strategy.NAMES.
      shared: the cache of data and programs that all runs of this process share, see
        process/cache.py.
      bar: the progress bar, in cells.
      clock: {'recorded': the time, by time.monotonic, up to which the record counts this start}.
      failed: the directories of the cells that failed in this start.
    """

    study: Study
    planned: list[Cell]
    selected: list[Cell]
    workdir: str
    record: dict
    requested: str
    shared: dict
    bar: Any
    clock: dict
    failed: set


class _Task(NamedTuple):
    """Cells that are one population on `devices` devices; with 0 devices one cell, a single run."""

    cells: list[Cell]
    devices: int


def update_record(run: Run, ran: Sequence[Cell] = (), **changed) -> None:
    """Adds to the record the time since the last update, and writes it to plan.json.

    Args:
      run: the start of the study.
      ran: cells that this start has run to the end.
      **changed: fields of the record with their new values.
    """
    now = time.monotonic()
    run.record.update(changed, seconds=run.record['seconds'] + now - run.clock['recorded'])
    run.record['ran'] += sorted({_name(cell) for cell in ran} - set(run.record['ran']))
    run.clock['recorded'] = now
    record_lib.write(run.workdir, run.record)


def _name(cell: Cell) -> str:
    return os.path.basename(cell.directory)


def unfinished(cells: Sequence[Cell]) -> list[Cell]:
    """Returns the cells that are neither done nor diverged; all processes return the same cells."""
    states = processes.broadcast_from_first(lambda: ' '.join(
        cells_lib.state_of(cell)[0] for cell in cells)).split()
    return [cell for cell, state in zip(cells, states, strict=True)
            if state not in cells_lib.ENDED]


def run_group(group: list[Cell], pause_at: int | None, run: Run) -> None:
    """Runs the unfinished cells of one structure.

    Cells that were begun continue with their strategy; for the others `run.requested` decides.

    Args:
      group: the cells of one structure.
      pause_at: the step at which the cells pause, so that arms can be compared; None for the end.
      run: the start of the study.
    """
    tasks, logged = _tasks(group, run), ''
    while tasks:
        remaining, locked = [], []
        for task in tasks:
            try:
                remaining += _run_task(task, pause_at, run)
            except LockedError as error:  # another study has a cell: do the other tasks first
                if processes.count() > 1:
                    raise
                locked.append(task)
                reason = str(error).partition('; wait for it')[0]
        if len(locked) == len(tasks):
            if reason != logged:
                log.info('waiting: %s', reason)
            logged = reason
            time.sleep(2)
        tasks = remaining + locked


def _tasks(group: list[Cell], run: Run) -> list[_Task]:
    """Splits the unfinished cells of a group into populations and single runs.

    A population keeps its members once it was begun, as other sizes would round differently. Cells
    that fit into no population, and cells that were begun as single runs, are single runs.
    """
    left = unfinished(group)
    if not left:
        return []
    by_name = {_name(cell): cell for cell in group}
    key = hashlib.sha256(group[0].group.encode()).hexdigest()[:16]
    entry = run.record['groups'].get(key)
    recorded = entry['populations'] if entry else []
    usable = [] if run.requested == 'loop' else recorded
    populations = [population for population in usable
                   if all(name in by_name for name in population['cells'])]
    members = _members(populations)
    # If some arms of a population were stopped, its other cells form a new population.
    separated = _members(usable) - members
    fresh = [cell for cell in left if _name(cell) not in members]
    saved = processes.broadcast_from_first(lambda: ' '.join(
        'begun' if checkpoint.steps(cell.directory) else 'new' for cell in fresh)).split()
    fresh = [cell for cell, word in zip(fresh, saved, strict=True)
             if word == 'new' or _name(cell) in separated]
    if fresh:
        requested = _requested(entry, len(group), run.requested)
        choice = _choose(fresh, requested, run.shared)
        log.info('%d cells like %s · seed %d: %s, as %s', len(fresh), fresh[0].arm, fresh[0].seed,
                 choice.strategy, choice.why)
        added = [{'cells': [_name(cell) for cell in cells],
                  'devices': choice.devices if len(cells) > 1 else 0}
                 for cells in _populations(fresh, choice)]
        # The entry describes the whole group, so that a choice for a few of its cells (one arm, the
        # arms that halving has not stopped, the rest after the populations) does not replace it.
        same_choice = entry and run.requested == 'auto' and requested == entry['strategy']
        only_rest = entry and entry['strategy'] != 'loop' and choice.strategy == 'loop'
        if not (same_choice or only_rest or (entry and len(group) < entry['cells'])):
            entry = {'like': group[0].arm, 'strategy': choice.strategy, 'why': choice.why,
                     'step_seconds': choice.step_seconds,
                     'compile_seconds': choice.compile_seconds, 'cells': 0}
        populations += added
        members |= _members(added)
        update_record(run, groups=run.record['groups'] | {
            key: entry | {'populations': recorded + added,
                          'cells': max(len(group), entry['cells'])}})
    # Small populations first: a population that `--only` made is a part of the group's larger one.
    tasks = [_Task([by_name[name] for name in population['cells']], population['devices'])
             for population in sorted(populations, key=lambda one: len(one['cells']))]
    return [*tasks, *(_Task([cell], 0) for cell in left if _name(cell) not in members)]


def _members(populations: list[dict]) -> set[str]:
    return {name for population in populations for name in population['cells']}


def _requested(entry: dict | None, cells: int, requested: str) -> str:
    """Returns the strategy to request for new cells of a group.

    For `auto` it is the strategy in the group's entry of the record. A loop that was chosen for
    another number of cells is not repeated, as more cells may be faster as one program.
    """
    if requested != 'auto' or not entry or (
            entry['strategy'] == 'loop' and entry['cells'] != cells):
        return requested
    return entry['strategy']


def _choose(cells: list[Cell], requested: str, shared: dict) -> strategy.Choice:
    try:
        return strategy.choose(cells, requested, shared)
    except Exception as error:  # the single run of each cell will report the error
        if processes.count() > 1:
            raise
        return strategy.Choice('loop', 1, 1, f'a step of the program failed: {first_line(error)}')


def _populations(cells: list[Cell], choice: strategy.Choice) -> list[list[Cell]]:
    """Splits cells into populations; a cell that fits into none is in a list of its own.

    For the strategy `loop` the result is [].
    """
    if choice.strategy == 'loop':
        return []
    parts = [cells]
    if not feed.is_resident(cells[0], cells[0].sources[0]):
        orders = dict.fromkeys(cells_lib.data_order(cell.config) for cell in cells)
        parts = [[cell for cell in cells if cells_lib.data_order(cell.config) == order]
                 for order in orders]
    slices = [part[start:start + choice.members] for part in parts
              for start in range(0, len(part), choice.members)]
    whole = [cells for cells in slices if len(cells) > 1 and len(cells) % choice.devices == 0]
    return whole + [[cell] for cells in slices if cells not in whole for cell in cells]


def _run_task(task: _Task, pause_at: int | None, run: Run) -> list[_Task]:
    """Runs the unfinished cells of a task; returns the tasks that have to replace it.

    A stop signal that comes while a run writes its page takes effect when the page is written.
    """
    left = unfinished(task.cells)
    if not left:
        return []
    replacing = []
    with stop.hear_stop():
        try:
            if task.devices:
                replacing = _run_population(task, left, pause_at, run)
            else:
                _run_single(left[0], pause_at, run)
        finally:
            update_record(run, ran=[cell for cell in left if cells_lib.state_of(cell)[0] == 'done'])
        if stop.preempted():
            raise PreemptedError('asked to stop between two runs; the same command goes on')
    return replacing


def _run_population(task: _Task, left: list[Cell], pause_at: int | None, run: Run) -> list[_Task]:
    """Runs a population; returns the members that have to continue as single runs, one task each.

    All members do so if one program is no longer possible: with fewer devices the members of a
    `mesh` population would not have the bits of single runs, and with several processes each
    process would run the whole population.
    """
    single_runs = [_Task([cell], 0) for cell in left]
    if processes.count() > 1 or len(jax.local_devices()) < task.devices:
        return single_runs
    try:
        ended = population.run(
            task.cells, jax.local_devices()[:task.devices], run.shared, pause_at)
    except _ENDING_ERRORS:
        raise
    except Exception as error:
        log.warning('%d runs as one program failed (%s); each is tried as a single run',
                    len(task.cells), first_line(error), exc_info=True)
        return single_runs
    ended = dict(zip(map(_name, task.cells), ended, strict=True))
    for cell in left:
        if outcome := ended[_name(cell)]:
            _report(cell, 'diverged' if isinstance(outcome, DivergedError) else outcome, run.bar)
    return [single for single in single_runs if ended[_name(single.cells[0])] is None]


def _run_single(cell: Cell, pause_at: int | None, run: Run) -> None:
    """Trains a cell by itself; if it fails or diverges, its result.json says so, with no error."""
    try:
        outcome = train.run_one(cell.config, cell.directory, cell.sources, run.shared, pause_at)
    except _ENDING_ERRORS:
        raise
    except DivergedError as error:
        outcome, written = 'diverged', {'state': 'diverged', 'error': str(error)}
    except Exception as error:
        if processes.count() > 1:  # the others wait for this process
            raise
        log.warning('%s · seed %d failed', cell.arm, cell.seed, exc_info=True)
        run.failed.add(cell.directory)
        outcome, written = 'failed', {
            'state': 'failed', 'error': f'{type(error).__name__}: {first_line(error)}'}
    if isinstance(outcome, str) and processes.first():
        try:
            os.makedirs(cell.directory, 0o750, exist_ok=True)
            result.write(cell.directory, written)
        except OSError as error:  # perhaps the reason why the run failed
            log.warning('%s: cannot write that the run %s: %s', cell.directory, outcome, error)
    _report(cell, outcome, run.bar)


def _report(cell: Cell, outcome, bar) -> None:
    """Logs the outcome of a cell, a result or a word, and advances the progress bar."""
    if isinstance(outcome, dict):
        outcome = f'at step {outcome["step"]}' if 'accuracy' not in outcome else (
            f'{outcome["accuracy"]:.2%} of {outcome["examples"]:,} at step {outcome["step"]}')
    bar.update()
    text = f'{cell.arm} · seed {cell.seed}: {outcome}'
    if bar.disable:
        log.info(text)
    else:
        bar.write(text, file=sys.stderr)
