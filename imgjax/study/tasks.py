"""What is left of a group of cells, cut into programs and runs alone, and these run."""

import hashlib
import logging
import os
import sys
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax

from imgjax import feed, train
from imgjax.errors import DivergedError, LockedError, PreemptedError, ReplicaError, WorkerError
from imgjax.process import processes, stop
from imgjax.rundir import checkpoint, result
from imgjax.study import cells as cells_lib
from imgjax.study import population, strategy
from imgjax.study import record as record_lib
from imgjax.study.cells import Cell
from imgjax.study.plan import Study

log = logging.getLogger('imgjax.study')

_OF_THE_MACHINE = (LockedError, PreemptedError, ReplicaError, WorkerError)  # not of a cell


class Run(NamedTuple):
    """A start of a study.

    Attributes:
      study: the file, read.
      planned: all of its cells.
      mine: those that this start runs.
      workdir: of the study, or of this part of it.
      record: see record.py; written after every change.
      requested: one of strategy.NAMES.
      shared: see cache.py.
      bar: the progress, in cells.
      clock: {'noted': the time up to which the record has it}.
      failed: directories of cells that failed in this start.
    """

    study: Study
    planned: list[Cell]
    mine: list[Cell]
    workdir: str
    record: dict
    requested: str
    shared: dict
    bar: Any
    clock: dict
    failed: set


class _Task(NamedTuple):
    """Cells that are trained together on so many devices; one cell on 0 is trained as alone."""

    cells: list[Cell]
    devices: int


def note(run: Run, ran: Sequence[Cell] = (), **changed) -> None:
    """Writes down the time, cells that were run, and what else has changed."""
    now = time.monotonic()
    run.record.update(changed, seconds=run.record['seconds'] + now - run.clock['noted'])
    run.record['ran'] += sorted({_name(cell) for cell in ran} - set(run.record['ran']))
    run.clock['noted'] = now
    record_lib.write(run.workdir, run.record)


def _name(cell: Cell) -> str:
    return os.path.basename(cell.directory)


def left_of(cells: Sequence[Cell]) -> list[Cell]:
    """Returns the cells that are neither done nor diverged; the same ones in all processes."""
    states = processes.broadcast_from_first(lambda: ' '.join(
        cells_lib.state_of(cell)[0] for cell in cells)).split()
    return [cell for cell, state in zip(cells, states, strict=True)
            if state not in cells_lib.ENDED]


def run_group(group: list[Cell], pause_at: int | None, run: Run) -> None:
    """Runs the cells of one structure, as they were begun or as `wish` says."""
    tasks, told = _tasks(group, run), ''
    while tasks:
        again, locked = [], []
        for task in tasks:
            try:
                again += _run_task(task, pause_at, run)
            except LockedError as error:  # another study has it: there is more to do meanwhile
                if processes.count() > 1:
                    raise
                locked.append(task)
                reason = str(error).partition('; wait for it')[0]
        if len(locked) == len(tasks):
            if reason != told:
                log.info('waiting: %s', reason)
            told = reason
            time.sleep(2)
        tasks = again + locked


def _tasks(group: list[Cell], run: Run) -> list[_Task]:
    """Cuts what is left of a group into populations and cells that are trained alone.

    A population is what it was when it was begun, or its members would round differently; what it
    left over stays alone, and a cell that was begun alone goes on alone.
    """
    left = left_of(group)
    if not left:
        return []
    by_name = {_name(cell): cell for cell in group}
    key = hashlib.sha256(group[0].group.encode()).hexdigest()[:16]
    noted = run.record['groups'].get(key)
    populations = noted['populations'] if noted else []
    known = [] if run.requested == 'loop' else populations
    begun = [one for one in known if all(name in by_name for name in one['cells'])]
    members = {name for one in begun for name in one['cells']}
    # Of a population some of whose arms were stopped the others make a new one.
    parted = {name for one in known for name in one['cells']} - members
    fresh = [cell for cell in left if _name(cell) not in members]
    saved = processes.broadcast_from_first(lambda: ' '.join(
        'begun' if checkpoint.steps(cell.directory) else 'new' for cell in fresh)).split()
    fresh = [cell for cell, word in zip(fresh, saved, strict=True)
             if word == 'new' or _name(cell) in parted]
    if fresh:
        requested = _requested(noted, len(group), run.requested)
        choice = _choose(fresh, requested, run.shared)
        log.info('%d cells like %s · seed %d: %s, as %s', len(fresh), fresh[0].arm, fresh[0].seed,
                 choice.strategy, choice.why)
        more = [{'cells': [_name(cell) for cell in cells],
                 'devices': choice.devices if len(cells) > 1 else 0}
                for cells in _populations(fresh, choice)]
        # What is noted is of the whole group, not of one arm or of those that halving left.
        as_before = noted and run.requested == 'auto' and requested == noted['strategy']
        left_over = noted and noted['strategy'] != 'loop' and choice.strategy == 'loop'
        if not (as_before or left_over or (noted and len(group) < noted['cells'])):
            noted = {'like': group[0].arm, 'strategy': choice.strategy, 'why': choice.why,
                     'step_seconds': choice.step_seconds,
                     'compile_seconds': choice.compile_seconds, 'cells': 0}
        begun += more
        members |= {name for one in more for name in one['cells']}
        note(run, groups=run.record['groups'] | {
            key: noted | {'populations': populations + more,
                          'cells': max(len(group), noted['cells'])}})
    # Small ones first: those of `--only` are parts of the whole group's.
    tasks = [_Task([by_name[name] for name in one['cells']], one['devices'])
             for one in sorted(begun, key=lambda one: len(one['cells']))]
    return [*tasks, *(_Task([cell], 0) for cell in left if _name(cell) not in members)]


def _requested(noted: dict | None, cells: int, requested: str) -> str:
    """Returns how new cells of a group shall be run: as those before them, where `auto` leaves it.

    That fewer cells were looped says nothing of more.
    """
    if requested != 'auto' or not noted or (
            noted['strategy'] == 'loop' and noted['cells'] != cells):
        return requested
    return noted['strategy']


def _choose(cells: list[Cell], requested: str, shared: dict) -> strategy.Choice:
    try:
        return strategy.choose(cells, requested, shared)
    except Exception as error:  # each cell will say it of itself
        if processes.count() > 1:
            raise
        return strategy.Choice('loop', 1, 1, f'a step of it failed: {_first_line(error)}')


def _populations(cells: list[Cell], choice: strategy.Choice) -> list[list[Cell]]:
    """Cuts cells into populations, and one a part for those that none of them can have.

    Of a loop there are none.
    """
    if choice.strategy == 'loop':
        return []
    parts = [cells]
    if not feed.is_resident(cells[0], cells[0].sources[0]):
        seeds = list(dict.fromkeys(cell.seed for cell in cells))
        parts = [[cell for cell in cells if cell.seed == seed] for seed in seeds]
    cut = [part[start:start + choice.members] for part in parts
           for start in range(0, len(part), choice.members)]
    whole = [some for some in cut if len(some) > 1 and len(some) % choice.devices == 0]
    return whole + [[cell] for some in cut if some not in whole for cell in some]


def _run_task(task: _Task, pause_at: int | None, run: Run) -> list[_Task]:
    """Runs what of a task is left; returns what has to be run in place of it.

    A stop that is asked for while a run writes its page is heard at its end.
    """
    left = left_of(task.cells)
    if not left:
        return []
    again = []
    with stop.hear_stop():
        try:
            if task.devices:
                again = _run_population(task, left, pause_at, run)
            else:
                _run_alone(left[0], pause_at, run)
        finally:
            note(run, ran=[cell for cell in left if cells_lib.state_of(cell)[0] == 'done'])
        if stop.preempted():
            raise PreemptedError('asked to stop between two runs; the same command goes on')
    return again


def _run_population(task: _Task, left: list[Cell], pause_at: int | None, run: Run) -> list[_Task]:
    """Runs a population; returns those of its members that have to go on alone.

    These are all where it cannot be one program any more: on fewer devices one of `mesh` would not
    have the bits of runs alone, and of several processes each would run it.
    """
    alone = [_Task([cell], 0) for cell in left]
    if processes.count() > 1 or len(jax.local_devices()) < task.devices:
        return alone
    try:
        ended = population.run(
            task.cells, jax.local_devices()[:task.devices], run.shared, pause_at)
    except _OF_THE_MACHINE:
        raise
    except Exception as error:
        log.warning('%d runs as one program failed (%s); each is tried alone', len(task.cells),
                    _first_line(error), exc_info=True)
        return alone
    ended = dict(zip(map(_name, task.cells), ended, strict=True))
    for cell in left:
        if outcome := ended[_name(cell)]:
            _say(cell, 'diverged' if isinstance(outcome, DivergedError) else outcome, run.bar)
    return [one for one in alone if ended[_name(one.cells[0])] is None]


def _run_alone(cell: Cell, pause_at: int | None, run: Run) -> None:
    """Runs a cell; one that fails or diverges is noted, and the others go on."""
    try:
        outcome = train.run_one(cell.config, cell.directory, cell.sources, run.shared, pause_at)
    except _OF_THE_MACHINE:
        raise
    except DivergedError as error:
        outcome, said = 'diverged', {'state': 'diverged', 'error': str(error)}
    except Exception as error:
        if processes.count() > 1:  # the others wait for this process
            raise
        log.warning('%s · seed %d failed', cell.arm, cell.seed, exc_info=True)
        run.failed.add(cell.directory)
        outcome, said = 'failed', {
            'state': 'failed', 'error': f'{type(error).__name__}: {_first_line(error)}'}
    if isinstance(outcome, str) and processes.first():
        try:
            os.makedirs(cell.directory, 0o750, exist_ok=True)
            result.write(cell.directory, said)
        except OSError as error:  # what made it fail, perhaps
            log.warning('%s: the %s run cannot be noted: %s', cell.directory, outcome, error)
    _say(cell, outcome, run.bar)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _say(cell: Cell, outcome, bar) -> None:
    if isinstance(outcome, dict):
        outcome = f'at step {outcome["step"]}' if 'accuracy' not in outcome else (
            f'{outcome["accuracy"]:.2%} of {outcome["examples"]:,} at step {outcome["step"]}')
    bar.update()
    text = f'{cell.arm} · seed {cell.seed}: {outcome}'
    if bar.disable:
        log.info(text)
    else:
        bar.write(text, file=sys.stderr)


