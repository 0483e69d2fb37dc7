"""What is left of a group of cells, cut into programs and runs alone, and these run."""

import hashlib
import logging
import os
import sys
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax

from imgjax import checkpoint, feed, processes, result, runtime, train
from imgjax.errors import (
    DivergedError,
    LockedError,
    PreemptedError,
    ReplicaError,
    WorkerError,
)
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
      wish: one of strategy.NAMES.
      shared: see kept.py.
      bar: the progress, in cells.
      clock: {'noted': the time up to which the record has it}.
      failed: directories of cells that failed in this start.
    """

    study: Study
    planned: list[Cell]
    mine: list[Cell]
    workdir: str
    record: dict
    wish: str
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
    states = processes.from_first(lambda: ' '.join(
        cells_lib.state_of(cell)[0] for cell in cells)).split()
    return [cell for cell, state in zip(cells, states, strict=True)
            if state not in ('done', 'diverged')]


def run_group(group: list[Cell], until: int | None, run: Run) -> None:
    """Runs the cells of one structure, as they were begun or as `wish` says."""
    tasks = _tasks(group, run)
    while tasks:
        again, held = [], []
        for task in tasks:
            try:
                again += _run_task(task, until, run)
            except LockedError as error:  # another study has it: there is more to do meanwhile
                if processes.count() > 1:
                    raise
                held.append(task)
                reason = str(error)
        if len(held) == len(tasks):
            log.info('waiting: %s', reason.partition('; wait for it')[0])
            time.sleep(2)
        tasks = again + held


def _tasks(group: list[Cell], run: Run) -> list[_Task]:
    """Cuts what is left of a group into populations and cells that are trained alone.

    A population is what it was when it was begun, or its members would round differently. A cell
    that was begun alone goes on alone.
    """
    left = left_of(group)
    if not left:
        return []
    by_name = {_name(cell): cell for cell in group}
    key = hashlib.sha256(group[0].group.encode()).hexdigest()[:16]
    noted = run.record['groups'].get(key)
    if noted and run.wish not in ('auto', noted['asked'], noted['strategy']):
        noted = None  # asked for now, otherwise than before
    populations = noted['populations'] if noted else []
    begun = [one for one in populations if all(name in by_name for name in one['cells'])]
    members = {name for one in begun for name in one['cells']}
    # Of a population some of whose arms were stopped the others make a new one.
    parted = {name for one in populations for name in one['cells']} - members
    fresh = [cell for cell in left if _name(cell) not in members]
    saved = processes.from_first(lambda: ' '.join(
        'begun' if checkpoint.steps(cell.directory) else 'new' for cell in fresh)).split()
    fresh = [cell for cell, word in zip(fresh, saved, strict=True)
             if word == 'new' or _name(cell) in parted]
    if fresh:
        choice = _choose(fresh, noted['strategy'] if noted else run.wish, run.shared)
        log.info('%d cells like %s · seed %d: %s, as %s', len(fresh), fresh[0].arm, fresh[0].seed,
                 choice.strategy, choice.why)
        more = [{'cells': [_name(cell) for cell in cells], 'devices': choice.devices}
                for cells in _populations(fresh, choice)]
        noted = noted or {
            'like': group[0].arm, 'asked': run.wish, 'strategy': choice.strategy,
            'why': choice.why, 'step_seconds': choice.step_seconds,
            'compile_seconds': choice.compile_seconds}
        begun += more
        members |= {name for one in more for name in one['cells']}
        note(run, groups=run.record['groups'] | {
            key: noted | {'populations': populations + more, 'cells': len(group)}})
    tasks = [_Task([by_name[name] for name in one['cells']], one['devices']) for one in begun]
    return [*tasks, *(_Task([cell], 0) for cell in left if _name(cell) not in members)]


def _choose(cells: list[Cell], wish: str, shared: dict) -> strategy.Choice:
    try:
        return strategy.choose(cells, wish, shared)
    except Exception as error:  # each cell will say it of itself
        if processes.count() > 1:
            raise
        return strategy.Choice('loop', 1, 1, f'a step of it failed: {_first_line(error)}')


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


def _run_task(task: _Task, until: int | None, run: Run) -> list[_Task]:
    """Runs what of a task is left; returns what has to be run in place of it.

    A stop that is asked for while a run writes its page is heard at its end.
    """
    left = left_of(task.cells)
    if not left:
        return []
    alone = [_Task([cell], 0) for cell in left]
    if task.devices and not _is_program(task, left):
        return alone
    with runtime.hear_stop():
        if not task.devices:
            _run_alone(task.cells[0], until, run)
        elif not _run_population(task, left, until, run):
            return alone
        note(run, ran=left)
        if runtime.preempted():
            raise PreemptedError('asked to stop between two runs; the same command goes on')
    return []


def _is_program(task: _Task, left: list[Cell]) -> bool:
    """Can a population go on as one? If not, its members go on alone.

    On fewer devices one of `mesh` would no longer have the bits of runs alone, and where its
    members stand at different steps (some were run by themselves) they have nothing in common. If
    only some stand at the one step that there is, their first save was cut: they begin anew.
    """
    if len(jax.local_devices()) < task.devices:
        return False
    stand = [set(checkpoint.steps(cell.directory)) for cell in left]
    return len(set.union(*stand)) < 2 or bool(set.intersection(*stand))


def _run_population(task: _Task, left: list[Cell], until: int | None, run: Run) -> bool:
    """Runs a population; False where it cannot be run as one program."""
    try:
        ended = population.run(
            task.cells, jax.local_devices()[:task.devices], run.shared, until)
    except _OF_THE_MACHINE:
        raise
    except Exception as error:
        log.warning('%d runs as one program failed (%s); each is tried alone', len(task.cells),
                    _first_line(error), exc_info=True)
        return False
    for cell, outcome in zip(task.cells, ended, strict=True):
        if cell in left:
            _say(cell, 'diverged' if isinstance(outcome, DivergedError) else outcome, run.bar)
    return True


def _run_alone(cell: Cell, until: int | None, run: Run) -> None:
    """Runs a cell; one that fails or diverges is noted, and the others go on."""
    try:
        outcome = train.run_one(cell.config, cell.directory, cell.sources, run.shared, until)
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
        os.makedirs(cell.directory, 0o750, exist_ok=True)
        result.write(cell.directory, said)
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


