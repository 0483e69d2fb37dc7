"""Runs what of a study is not done yet, and has its page written."""

import collections
import contextlib
import logging
import os
import re
import sys
import time

from imgjax.errors import ConfigError, LockedError, nearest
from imgjax.process import lock, processes, terminal
from imgjax.report import study_page, study_tables
from imgjax.rundir import outputs
from imgjax.study import cells as cells_lib
from imgjax.study import gather, halving, plan, strategy, tasks
from imgjax.study import record as record_lib
from imgjax.study.cells import Cell
from imgjax.study.plan import Study

log = logging.getLogger('imgjax.study')

def run(place: str, workdir: str, cells: str = '', requested: str = 'auto', only: str = '',
        part: str = '', report: bool = False) -> dict:
    """Runs a study from where it stands; the same command goes on.

    Args:
      place: the study file, as of plan.load.
      workdir: of the study: its page, its tables, and how its cells are run.
      cells: the folder of the cells' run directories, which studies may share; '' is `cells`
        beside the workdir.
      requested: one of strategy.NAMES.
      only: the name of an arm; the others are not run. '' runs all.
      part: 'I/N', as of task I (from 0) of N jobs that share the study: every N-th group of cells,
        or of the cells where there are fewer groups. '' runs all.
      report: run nothing, write the page, also while the study is being run.

    Returns the line that the study ends with: study, workdir, cells (planned), cells_done,
    cells_failed, cells_diverged, page, missing (why no winner may be named) and comparisons.

    Raises:
      RunError: a study that cannot be run, or was asked to stop. A cell that fails or diverges is
        no error: the others go on, and the page says so.
    """
    began, start_seconds = time.monotonic(), strategy.process_seconds()
    study = plan.load(os.path.expanduser(place))
    workdir, folder = _folders(workdir, cells)
    processes.broadcast_from_first(lambda: _check_folders(workdir, folder))
    planned = cells_lib.cells_of(study, folder)
    mine = _mine(study, planned, only, part)
    own = os.path.join(workdir, f'part-{part.replace("/", "-of-")}') if part else workdir
    for directory in (workdir, folder, own):
        os.makedirs(directory, 0o750, exist_ok=True)
    open(os.path.join(workdir, 'lock'), 'a').close()  # by which _check_folders knows it again
    if not report:
        with contextlib.ExitStack() as locks, terminal.progress(len(mine), 0, 'cell') as bar:
            processes.broadcast_from_first(lambda: locks.enter_context(lock.run_lock(own)) or '')
            bar.set_description(study.name)
            with _quiet():
                _run_cells(tasks.Run(study, planned, mine, own, record_lib.read(own), requested, {},
                                     bar, {'noted': began}, set()))
    with contextlib.ExitStack() as locks:
        if part:  # the jobs of a study end when they do; the page is written by one at a time
            processes.broadcast_from_first(lambda: locks.enter_context(_turn(workdir)) or '')
        record = record_lib.read_all(workdir)
        found = gather.findings(study, planned, record | {
            'stopped': halving.of(record, study, planned)['stopped'],
            'start_seconds': start_seconds})
        if processes.first():
            study_page.write_page(os.path.join(workdir, 'study.html'), found)
            study_tables.write_tables(workdir, found)
            print(gather.table(found), file=sys.stderr)
    return gather.result_of(found, workdir)


def listing(place: str, workdir: str, cells: str = '') -> dict:
    """Prints the cells with their states, and what they took; returns their counts."""
    study = plan.load(os.path.expanduser(place))
    workdir, folder = _folders(workdir, cells)
    counts = collections.Counter()
    for cell in cells_lib.cells_of(study, folder):
        state, found, remark = cells_lib.state_of(cell)
        counts[state] += 1
        took = f'{found["train_seconds"]:8.1f} s' if 'train_seconds' in found else f'{"":10}'
        print(f'{state:9} {took}  {cell.arm} · seed {cell.seed}  {cell.directory}  {remark}',
              file=sys.stderr)
    return {'study': study.name, 'cells': sum(counts.values()), **counts}


def _folders(workdir: str, cells: str) -> tuple[str, str]:
    """Returns the folder of the study and that of its cells."""
    workdir = outputs.path('workdir', workdir)
    beside = os.path.join(os.path.dirname(os.path.abspath(workdir)), 'cells')
    return workdir, outputs.path('cells', cells) if cells else beside


def _check_folders(workdir: str, cells: str) -> str:
    """Checks that both folders are new, empty, or a study's; returns ''."""
    names = os.listdir(workdir) if os.path.isdir(workdir) else []
    parts = [name for name in names if re.fullmatch(r'part-\d+-of-\d+', name)]
    another = {'config.json', 'prepared.json'} & set(names)  # of a run, or of a copy
    known = outputs.is_lock(workdir) or (parts and len(parts) == len(names))
    if another or not known:
        outputs.check_folder('workdir', workdir, 'launch.study')
    names = os.listdir(cells) if os.path.isdir(cells) else []
    if not any(re.fullmatch(r'[0-9a-f]{16}-[0-9a-f]{8}', name) for name in names):
        outputs.check_folder('cells', cells, 'launch.study')
    return ''


def _mine(study: Study, planned: list[Cell], only: str, part: str) -> list[Cell]:
    """Returns the cells of an arm or a part: whole groups, but where there are fewer than parts."""
    arms = [arm.name for arm in study.arms]
    if only and only not in arms:
        raise ConfigError(f'--only: no arm {only!r}{nearest(only, arms)}; there are '
                          f'{", ".join(arms[:20])}')
    if study.halving and (only or part):
        raise ConfigError(f'--{"only" if only else "part"}: a study with halving compares its arms '
                          'as they go, in one job')
    if part:
        index, _, count = part.partition('/')
        if not (index.isdecimal() and count.isdecimal() and int(index) < int(count)):
            raise ConfigError(f'--part: takes I/N with I from 0 to N - 1, got {part!r}')
        groups = list(dict.fromkeys(cell.group for cell in planned))
        if len(groups) < int(count):
            planned = planned[int(index)::int(count)]
        else:
            planned = [cell for cell in planned
                       if groups.index(cell.group) % int(count) == int(index)]
    return [cell for cell in planned if only in ('', cell.arm)]


@contextlib.contextmanager
def _turn(workdir: str):
    """Waits for the run lock of a study whose other parts are writing its page."""
    with contextlib.ExitStack() as locks:
        while True:
            try:
                locks.enter_context(lock.run_lock(workdir))
                break
            except LockedError:
                time.sleep(0.5)
        yield


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


def _run_cells(run: tasks.Run) -> None:
    """Runs the cells that are not done, in rounds where the study stops arms early."""
    strategy.check([group for group in _groups(run.mine) if tasks.left_of(group)], run.requested,
                   run.shared)
    halved = halving.of(run.record, run.study, run.planned)
    steps = run.study.halving['steps'] if run.study.halving else []
    try:
        for pause_at in (*(step for step in steps if step not in halved['judged']), None):
            going = [cell for cell in run.mine if cell.arm not in halved['stopped']]
            run.bar.update(len(run.mine) - len(tasks.left_of(going)) - run.bar.n)
            for group in _groups(going):
                tasks.run_group(group, pause_at, run)
            if pause_at is not None and not halving.judge(going, pause_at, halved, run):
                break
    finally:
        tasks.note(run)  # the time that a start took which was stopped


def _groups(cells: list[Cell]) -> list[list[Cell]]:
    found: dict[str, list[Cell]] = {}
    for cell in cells:
        found.setdefault(cell.group, []).append(cell)
    return list(found.values())
