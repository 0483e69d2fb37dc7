"""Runs the cells of a study that are not done, and writes its page."""

import collections
import contextlib
import logging
import os
import re
import sys
import time

from imgjax.errors import ConfigError, DataError, LockedError, nearest
from imgjax.process import lock, processes, terminal
from imgjax.report import study_page, study_tables
from imgjax.rundir import outputs
from imgjax.study import cells as cells_lib
from imgjax.study import gather, halving, plan, strategy, tasks
from imgjax.study import record as record_lib
from imgjax.study.cells import Cell
from imgjax.study.plan import Study

log = logging.getLogger('imgjax.study')


def run(study_file: str, workdir: str, cells: str = '', requested: str = 'auto', only: str = '',
        part: str = '', report: bool = False) -> dict:
    """Runs the cells of a study that are not done; after a stop the same call continues.

    Args:
      study_file: the study file, as plan.load takes it.
      workdir: the directory of the study, for its page, its tables and plan.json.
      cells: the folder of the cells' run directories, which studies may share; '' is `cells`
        beside the workdir.
      requested: the strategy, one of strategy.NAMES.
      only: the name of the only arm to run; '' runs all arms.
      part: 'I/N' for job I (from 0) of N jobs that share the study. It runs every N-th group of
        cells or, if there are fewer groups than jobs, every N-th cell. '' runs all.
      report: whether to write the page without running anything; this is possible while another
        process runs the study.

    Returns:
      The result that the command prints as its last line: study, workdir, cells (planned),
      cells_done, cells_failed, cells_diverged, page, missing (why no winner may be named),
      comparisons and seconds.

    Raises:
      RunError: the study cannot be run, or was asked to stop. A cell that fails or diverges is not
        an error: the other cells are run, and the page names it.
    """
    began, start_seconds = time.monotonic(), strategy.process_seconds()
    study = plan.load(os.path.expanduser(study_file))
    workdir, folder = _folders(workdir, cells)
    processes.broadcast_from_first(lambda: _check_folders(workdir, folder))
    planned = cells_lib.cells_of(study, folder)
    selected = _selected(study, planned, only, part)
    record_dir = os.path.join(
        workdir, f'part-{part.replace("/", "-of-")}') if part else workdir
    for directory in (workdir, folder, record_dir):
        os.makedirs(directory, 0o750, exist_ok=True)
    open(os.path.join(workdir, 'lock'), 'a').close()  # by it _check_folders recognises a study
    if not report:
        _train_cells(study, planned, selected, record_dir, requested, began)
    with contextlib.ExitStack() as locks:
        if part:  # several jobs may end at the same time; one at a time writes the page
            processes.broadcast_from_first(
                lambda: locks.enter_context(_waited_lock(workdir)) or '')
        record = record_lib.read_all(workdir)
        findings = gather.collect(study, planned, record | {
            'stopped': halving.decisions(record, study, planned)['stopped'],
            'start_seconds': start_seconds})
        if processes.first():
            study_page.write_page(os.path.join(workdir, 'study.html'), findings)
            study_tables.write_tables(workdir, findings)
            print(gather.table(findings), file=sys.stderr)
    return gather.result_of(findings, workdir)


def train_cells(study: Study, planned: list[Cell], workdir: str) -> None:
    """Trains cells that get no page of a study; after a stop the same call continues.

    Args:
      study: the study, as plan.read returns it.
      planned: its cells, as cells.cells_of returns them.
      workdir: the directory of its plan.json and its lock.

    Raises:
      RunError: the study cannot be run, or was asked to stop; or a cell has failed or diverged.
    """
    for cell in planned:
        os.makedirs(os.path.dirname(cell.directory), 0o750, exist_ok=True)
    _train_cells(study, planned, planned, workdir, 'auto', time.monotonic())
    for cell in planned:
        state, _, remark = cells_lib.state_of(cell)
        if state != 'done':
            raise DataError(f'{cell.directory}: {cell.arm}: {state}; {remark}')


def listing(study_file: str, workdir: str, cells: str = '') -> dict:
    """Prints each cell with its state, its time in steps and its directory.

    The arguments are those of `run`. Returns {study, cells: how many, each state: how many}.
    """
    study = plan.load(os.path.expanduser(study_file))
    workdir, folder = _folders(workdir, cells)
    counts = collections.Counter()
    for cell in cells_lib.cells_of(study, folder):
        state, result, remark = cells_lib.state_of(cell)
        counts[state] += 1
        took = f'{result["train_seconds"]:8.1f} s' if 'train_seconds' in result else f'{"":10}'
        print(f'{state:9} {took}  {cell.arm} · seed {cell.seed}  {cell.directory}  {remark}',
              file=sys.stderr)
    return {'study': study.name, 'cells': sum(counts.values()), **counts}


def _train_cells(study: Study, planned: list[Cell], selected: list[Cell], record_dir: str,
                 requested: str, began: float) -> None:
    """Runs the selected cells under the lock of `record_dir`; `began` is when this start began."""
    with contextlib.ExitStack() as locks, terminal.progress(len(selected), 0, 'cell') as bar:
        processes.broadcast_from_first(
            lambda: locks.enter_context(lock.run_lock(record_dir)) or '')
        bar.set_description(study.name)
        with _warnings_only():
            _run_cells(tasks.Run(
                study, planned, selected, record_dir, record_lib.read(record_dir), requested,
                {}, bar, {'recorded': began}, set()))


def _folders(workdir: str, cells: str) -> tuple[str, str]:
    """Returns the directory of the study and the folder of its cells."""
    workdir = outputs.path('workdir', workdir)
    beside = os.path.join(os.path.dirname(os.path.abspath(workdir)), 'cells')
    return workdir, outputs.path('cells', cells) if cells else beside


def _check_folders(workdir: str, cells: str) -> str:
    """Checks that both folders are new, empty or those of a study; returns ''.

    Raises:
      ConfigError: a folder has something else in it.
    """
    names = os.listdir(workdir) if os.path.isdir(workdir) else []
    parts = [name for name in names if re.fullmatch(r'part-\d+-of-\d+', name)]
    another = {'config.json', 'prepared.json'} & set(names)  # a run, or a copied dataset
    known = outputs.is_lock(workdir) or (parts and len(parts) == len(names))
    if another or not known:
        outputs.check_folder('workdir', workdir, 'launch.study')
    names = os.listdir(cells) if os.path.isdir(cells) else []
    if not any(re.fullmatch(r'[0-9a-f]{16}-[0-9a-f]{8}', name) for name in names):
        outputs.check_folder('cells', cells, 'launch.study')
    return ''


def _selected(study: Study, planned: list[Cell], only: str, part: str) -> list[Cell]:
    """Returns the cells of an arm or a part.

    A part has whole groups, or single cells if there are fewer groups than parts.

    Raises:
      ConfigError: there is no such arm or part, or the study stops arms early.
    """
    arms = [arm.name for arm in study.arms]
    if only and only not in arms:
        raise ConfigError(f'--only: no arm {only!r}{nearest(only, arms) or "."} There are '
                          f'{", ".join(arms[:20])}')
    if study.halving and (only or part):
        raise ConfigError(f'--{"only" if only else "part"}: a study with halving compares its arms '
                          'while they run, so that one job has to run all of them')
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
def _waited_lock(workdir: str):
    """Takes the run lock of a study; waits for it while another part writes the page."""
    with contextlib.ExitStack() as locks:
        while True:
            try:
                locks.enter_context(lock.run_lock(workdir))
                break
            except LockedError:
                time.sleep(0.5)
        yield


@contextlib.contextmanager
def _warnings_only():
    """Lets runs log warnings and errors only, as the study logs one line per cell."""
    runs = logging.getLogger('imgjax')
    before = runs.level
    log.setLevel(before)
    runs.setLevel(max(before, logging.WARNING))
    try:
        yield
    finally:
        runs.setLevel(before)


def _run_cells(run: tasks.Run) -> None:
    """Runs the cells that are not done; if the study stops arms early, in one round per step."""
    strategy.check([group for group in _groups(run.selected) if tasks.unfinished(group)],
                   run.requested, run.shared)
    halved = halving.decisions(run.record, run.study, run.planned)
    steps = run.study.halving['steps'] if run.study.halving else []
    try:
        for pause_at in (*(step for step in steps if step not in halved['judged']), None):
            active = [cell for cell in run.selected if cell.arm not in halved['stopped']]
            run.bar.update(len(run.selected) - len(tasks.unfinished(active)) - run.bar.n)
            for group in _groups(active):
                tasks.run_group(group, pause_at, run)
            if pause_at is not None and not halving.judge(active, pause_at, halved, run):
                break
    finally:
        tasks.update_record(run)  # adds the time of this start, also if it was stopped


def _groups(cells: list[Cell]) -> list[list[Cell]]:
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(cell.group, []).append(cell)
    return list(groups.values())
