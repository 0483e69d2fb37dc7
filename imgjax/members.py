"""The runs that the loop trains together: their evaluations, checkpoints and rows.

A run that is trained alone is the only member. The members of a population are trained as one
program: their states are stacked, and if a member diverges, it becomes inactive and the others go
on.
"""

import logging
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np
from tqdm import tqdm

from imgjax import build, evaluate
from imgjax import config as config_lib
from imgjax.build import Setup
from imgjax.data import Source
from imgjax.errors import DataError, DivergedError, first_few
from imgjax.feed import Feed
from imgjax.perf import throughput
from imgjax.process import processes
from imgjax.rundir import checkpoint, metrics_log, result
from imgjax.state import SKIP_CAUSES

log = logging.getLogger('imgjax')

_MOST_NAMED = 8  # images of a batch that are named in the log if its update was skipped
_MOST_BATCHES = 20  # batches whose indices are in diverged.json


class Member(NamedTuple):
    """One run.

    Attributes:
      setup: the build.Setup of the run, with its own config.
      rows: the rows of its metrics.jsonl.
      writer: saves its checkpoints.
    """

    setup: Setup
    rows: metrics_log.Log
    writer: checkpoint.Writer


def alone(tree) -> list:
    """Returns [tree]: the `unstack` of a run that is trained alone."""
    return [tree]


class Members:
    """All runs of one program.

    Attributes:
      active: {slot: Member} of the members that have not diverged; a slot is an index in the
        stack.
      outcomes: for each slot the columns of the last evaluation, or the DivergedError of a member
        that diverged, or None.
    """

    def __init__(self, members: Sequence[Member | None], feed: Feed, evaluator: Callable,
                 source: Source, unstack: Callable = alone):
        """Takes runs of one structure and one number of steps.

        Args:
          members: None marks an inactive slot; at least one is active.
          feed: the Feed of the program, for the FLOPs and the compile time in the rows.
          evaluator: (state of a member, step, its Setup) -> evaluate.Columns, or None if the run
            was asked to stop.
          source: the training split, for the names of images.
          unstack: (state or metrics of all members) -> a list with one tree per slot.
        """
        self.active = {slot: one for slot, one in enumerate(members) if one}
        self.outcomes: list = [None] * len(members)
        self.unstack = unstack
        self._feed, self._evaluator, self._source = feed, evaluator, source
        self._since, self._from, self._stalled = time.monotonic(), 0, 0.0
        self._skipped = [0] * len(members)
        self._unwritten: tuple | None = None

    @property
    def first(self) -> Member:
        """The first active member; steps and intervals are the same in the configs of all members.
        """
        return next(iter(self.active.values()))

    # The time of the steps between two rows.

    def start_clock(self, state, step: int) -> None:
        """Starts to measure the time, at the state that the loop goes on from."""
        self._skipped = [sum(jax.device_get(one).values()).item()
                         for one in self.unstack(state.skipped)]
        self.restart_clock(step)

    def restart_clock(self, step: int) -> None:
        """Measures from now on, so that a save or an evaluation is not counted as time of steps."""
        self._since, self._from, self._stalled = time.monotonic(), step, 0.0

    def waited(self, seconds: float) -> None:
        """Counts the time that the loop has waited for a batch."""
        self._stalled += seconds

    # The rows of metrics.jsonl.

    def measure(self, step: int, metrics) -> None:
        """Stores the metrics of a step, still on the device, until its rows are written."""
        self._unwritten = step, metrics

    def has_unwritten_rows(self) -> bool:
        """Returns whether the metrics of a step are stored that has no rows yet."""
        return self._unwritten is not None

    def metrics_are_ready(self) -> bool:
        """Returns whether the metrics of that step can be fetched without waiting."""
        return self._unwritten is not None and all(
            array.is_ready() for array in jax.tree.leaves(self._unwritten[1]))

    def write_rows(self, bar: tqdm) -> None:
        """Writes one row per member for the step whose metrics are stored, if there is one."""
        if self._unwritten is None:
            return
        (step, metrics), self._unwritten = self._unwritten, None
        values = [jax.tree.map(lambda value: value.item(), jax.device_get(one))
                  for one in self.unstack(metrics)]
        now = time.monotonic()
        # The members share the time of the program, so that each row has 1 / members of it.
        perf = throughput.performance(
            steps=max(step - self._from, 1), seconds=(now - self._since) / len(values),
            stalled=self._stalled / len(values),
            batch_size=self.first.setup.config.batch_size, flops=self._feed.flops,
            compile_seconds=self._feed.compile_seconds)
        fresh = [own['skipped_updates'] - before
                 for own, before in zip(values, self._skipped, strict=True)]
        self._since, self._from, self._stalled = now, step, 0.0
        self._skipped = [own['skipped_updates'] for own in values]
        self._for_each(lambda slot, member: _write_row(
            member, step, values[slot], fresh[slot], perf, self._source, bar))

    # Evaluations and checkpoints.

    def evaluate(self, states: list, step: int, last: int, bar: tqdm) -> bool:
        """Evaluates each member that has no row for this step; returns False if asked to stop."""
        for slot, member in self.active.items():
            config = member.setup.config
            split = config.data.eval_split
            known = member.rows.has(step, split)
            if known and step != last:
                continue
            columns = self.outcomes[slot] = self._evaluator(states[slot], step, member.setup)
            if columns is None:
                return False
            if not known:
                member.rows.write(
                    {'step': step, 'split': split} | evaluate.summary(config, columns))
                _show(member.rows.rows[-1], config.steps, bar)
        return True

    def improved(self, step: int) -> bool:
        """Returns whether a member that keeps its best checkpoint has its best evaluation here.

        If so, all members are saved, because a population goes on from a step that all have saved.
        """
        return any([member.setup.config.checkpoint.keep_best and member.writer.improves(step)
                    for member in self.active.values()])

    def save(self, states: list, metrics, even_after_skipped: bool) -> None:
        """Saves the state of each member whose newest update was not skipped.

        The cause of a skipped update may be in the state.

        Args:
          states: the state of each slot.
          metrics: the metrics of the newest step, as dispatch returned them; None before the first.
          even_after_skipped: also saves the members whose newest update was skipped, because the
            run ends here.
        """
        skipped = [False] * len(states)
        if metrics is not None and not even_after_skipped:
            skipped = [jax.device_get(one['skipped_in_a_row']).item() > 0
                       for one in self.unstack(metrics)]

        def save(slot: int, member: Member) -> None:
            if skipped[slot]:
                return
            member.rows.sync()
            member.writer.save(states[slot], config_lib.digest(member.setup.config))
            if len(states) > 1:  # one save at a time: each background save takes a thread
                member.writer.wait()

        self._for_each(save)

    def are_saved(self, step: int) -> bool:
        """Waits until all checkpoints are written; returns whether every member has this step."""
        return all([member.writer.wait() and step in checkpoint.steps(member.rows.workdir)
                    for member in self.active.values()])

    def _for_each(self, act: Callable) -> None:
        """Calls act(slot, member) for each active member; DivergedError makes it inactive."""
        for slot, member in list(self.active.items()):
            try:
                act(slot, member)
            except DivergedError as error:
                self.outcomes[slot] = error
                del self.active[slot]
                if len(self.outcomes) > 1:  # a run alone first tries again from its checkpoint
                    result.write(member.rows.workdir, {'state': 'diverged', 'error': str(error)})


def _write_row(member: Member, step: int, values: dict, fresh: int, perf: dict, source: Source,
               bar: tqdm) -> None:
    """Writes a member's row; raises DivergedError where too many updates were skipped.

    `fresh` is the number of updates that were skipped since the row before this one.
    """
    causes = {cause: values['skipped'][cause] for cause in SKIP_CAUSES if values['skipped'][cause]}
    in_a_row, newest = values.pop('skipped_in_a_row'), values.pop('skipped_at')
    del values['skipped']
    if causes:
        values |= {f'skipped_{cause}': number for cause, number in causes.items()}
        values['skipped_at'] = newest
    setup, rows = member.setup, member.rows
    rows.write({'step': step, 'split': 'train'} | values | {'perf': perf})
    _show(rows.rows[-1], setup.config.steps, bar)
    if fresh and processes.first():
        images = _first_names(source, _indices_of_batch(setup, source)(newest))
        log.warning('%d updates were skipped since the last row (in total, by what was not '
                    'finite: %s), the newest at step %d with the images %s', fresh,
                    ', '.join(f'{cause} {number}' for cause, number in causes.items()),
                    newest, images)
    if in_a_row >= setup.config.max_skipped_updates:
        _raise_diverged(setup, step, newest - in_a_row + 1, newest, causes, rows.workdir, source)


def _indices_of_batch(setup: Setup, source: Source) -> Callable[[int], np.ndarray]:
    """Returns a function: step -> the example indices of its batch, int64 (N,)."""
    size, draw = setup.config.batch_size, build.draw(setup.config, source)
    return lambda step: draw(step * size + np.arange(size, dtype=np.int64))


def _image_name(source: Source, index: int) -> str:
    """Returns the name of an image; its number where the image cannot be read."""
    try:
        return str(source.examples[int(index)]['name'])
    except (DataError, OSError):
        return f'image {index}'


def _first_names(source: Source, indices: np.ndarray) -> str:
    """Returns the first names of a batch in one text; only these images are read."""
    names = [_image_name(source, index) for index in indices[:_MOST_NAMED]]
    return first_few(names, _MOST_NAMED, len(indices))


def _raise_diverged(setup: Setup, step: int, first: int, newest: int, causes: dict, workdir: str,
                    source: Source):
    """Writes diverged.json and raises the error that ends the run.

    The updates of the steps from `first` to `newest` were skipped.
    """
    batch_of, saved = _indices_of_batch(setup, source), checkpoint.steps(workdir)
    images = batch_of(first)
    message = (
        f'{newest - first + 1} updates in a row were not finite by step {step} '
        f'(config.max_skipped_updates), from step {first} on, with the images '
        f'{_first_names(source, images)} (all {len(images)} are in {workdir}/diverged.json); lower '
        'config.hparams.learning_rate or set clip_norm, in '
        + (f'a new --workdir: the checkpoints of this one, up to step {saved[-1]}, stay'
           if saved else 'this --workdir or another: no checkpoint was saved here'))
    if processes.first():
        config_lib.write_json(os.path.join(workdir, 'diverged.json'), {
            'message': message, 'step': step, 'first_skipped': first, 'last_skipped': newest,
            'skipped': causes,
            'images_of_first_skipped': [_image_name(source, index) for index in images],
            'batches': [{'step': at, 'index': batch_of(at).tolist()}
                        for at in range(first, min(first + _MOST_BATCHES, newest + 1))],
            'batches_left_out': max(0, newest + 1 - first - _MOST_BATCHES)})
    raise DivergedError(message)


def _show(row: dict, total: int, bar: tqdm) -> None:
    """Shows a row on the progress bar in a terminal, else as a line of the log."""
    if bar.disable:
        log.info(metrics_log.line(row, total))
    elif row['split'] == 'train':
        bar.set_postfix_str(', '.join(
            f'{name} {row[name]:.3f}' for name in metrics_log.measured(row)[:2]
            if row[name] is not None), refresh=False)
    else:
        bar.write(metrics_log.line(row, total), file=sys.stderr)
