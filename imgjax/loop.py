"""The loop: steps, evaluations, checkpoints and rows, until all are done or a stop is asked for."""

import contextlib
import logging
import os
import sys
import time
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from imgjax import build, evaluate
from imgjax import config as config_lib
from imgjax.build import Setup
from imgjax.data import Source
from imgjax.errors import DivergedError, PreemptedError, WorkerError
from imgjax.feed import Feed
from imgjax.perf import throughput
from imgjax.process import processes, terminal
from imgjax.process import stop as stop_lib
from imgjax.rundir import checkpoint, metrics_log, result
from imgjax.state import SKIP_CAUSES

log = logging.getLogger('imgjax')

_NAMED = 8  # that many images of a batch are named where an update was skipped


class Member(NamedTuple):
    """A run as the loop sees it; those of a population are trained as one program.

    Attributes:
      setup: the run, with its own config.
      rows: its log.
      writer: of its checkpoints.
    """

    setup: Setup
    rows: metrics_log.Log
    writer: checkpoint.Writer


def alone(tree) -> list:
    """The `unstack` of a run that is trained alone."""
    return [tree]


def run(members: Sequence[Member | None], state, first: int, feed: Feed, evaluator, source: Source,
        beat, unstack=alone, pause_at: int | None = None):
    """Runs the steps that are left; returns the last state and the outcome of each member.

    An outcome is the columns of the last evaluation, or the DivergedError of a member that goes no
    further: config.max_skipped_updates in a row were not finite, or the state is not. The others
    go on. Where all have diverged the loop ends.

    Args:
      members: of one structure, one program and one number of steps. None marks an inactive slot of
        the stacked state; at least one member is active.
      state: TrainState on the mesh after `first` steps, of all members; donated.
      first: the step to go on from.
      feed: from that step on.
      evaluator: (state of a member, step, its Setup) -> evaluate.Columns, or None when asked to
        stop.
      source: the training split, for the names of images.
      beat: called once a dispatch.
      unstack: (state or metrics of all members) -> list of those of each.
      pause_at: the step to pause at, after an evaluation and a save; None goes to the last one.

    Raises:
      PreemptedError: asked to stop; the state is saved.
    """
    lead = next(member for member in members if member)
    config, step = lead.setup.config, first
    total, split = config['steps'], config['data']['eval_split']
    last = total if pause_at is None else min(pause_at, total)
    going = _Going({place: one for place, one in enumerate(members) if one}, [None] * len(members))
    clock = {'since': time.monotonic(), 'step': step, 'stalled': 0.0,
             'skipped': [sum(jax.device_get(of).values()).item() for of in unstack(state.skipped)]}
    ahead, measured = None, None  # (step, metrics) of the newest dispatch; of one to be logged
    profile = _profiler(config['profile'], feed.steps,
                        os.path.join(lead.rows.workdir, 'profile'))
    with (terminal.progress(total, step, 'image', config['batch_size'] * len(members)) as bar,
          contextlib.closing(profile)):
        while going.members:
            stop = stop_lib.preempted()
            evaluates = step == last or _due(step, config['eval_every'])
            saves = stop or step == last or _due(step, config['checkpoint']['every'])
            # On a CPU the dispatch itself takes the time: what it measured is there by now.
            if measured and (saves or evaluates or _is_there(measured[1])):
                _log_step(going, *measured, unstack, clock, feed, source, bar)
                measured = None
            states = unstack(state) if evaluates or (saves and step) else []
            if evaluates and not stop:
                evaluated = _evaluate(going, states, step, last, evaluator, split, bar)
                stop = not evaluated
                saves = saves or stop or _is_best(going, step)
            if saves and step:
                _save(going, states, step, stop or step == total, ahead, unstack)
            if stop and going.members:
                _stopped(going, step, total)
            if step == last or not going.members:
                break
            if saves or evaluates:  # their time is not the steps'
                clock.update(since=time.monotonic(), step=step, stalled=0.0)
            profile.send((step, ahead))
            waiting = time.monotonic()
            try:
                item = next(feed.items)
            except WorkerError:  # Ctrl-C and Slurm ask all processes of a group, also these
                if not stop_lib.asked_alone():
                    raise
                continue
            clock['stalled'] += time.monotonic() - waiting
            state, newest = feed.dispatch(state, item)
            if measured:
                _log_step(going, *measured, unstack, clock, feed, source, bar)
            elif ahead:
                jax.block_until_ready(ahead)  # the host is at most two dispatches ahead
            step += feed.steps
            ahead = newest
            measured = (step, newest) if _due(step, config['log_every']) or step == total else None
            bar.update(feed.steps * config['batch_size'] * len(members))
            beat()
    return state, going.outcomes


class _Going(NamedTuple):
    """The members that have not diverged, by their place, and the outcome at each place."""

    members: dict[int, Member]
    outcomes: list

    def each(self, act) -> None:
        """Calls act(place, member) for each; one that raises DivergedError goes no further."""
        for place, member in list(self.members.items()):
            try:
                act(place, member)
            except DivergedError as error:
                self.outcomes[place] = error
                del self.members[place]
                if len(self.outcomes) > 1:  # a run alone goes back to its checkpoint first
                    result.write(member.rows.workdir, {'state': 'diverged', 'error': str(error)})


def _evaluate(going: _Going, states: list, step: int, last: int, evaluator, split: str,
              bar) -> bool:
    """Evaluates each member that was not yet at this step; returns False when asked to stop."""
    for place, member in going.members.items():
        known = member.rows.has(step, split)
        if known and step != last:
            continue
        results = going.outcomes[place] = evaluator(states[place], step, member.setup)
        if results is None:
            return False
        if not known:
            member.rows.write({'step': step, 'split': split} 
                              | evaluate.summary(member.setup.config, results))
            _say(member.rows.rows[-1], member.setup.config['steps'], bar)
    return True


def _is_best(going: _Going, step: int) -> bool:
    """Is this evaluation the best so far of a member that keeps its best checkpoint?

    All members are saved then, as they go on from a step that all of them have.
    """
    return any([member.setup.config['checkpoint']['keep_best'] and member.writer.improves(step)
                for member in going.members.values()])


def _save(going: _Going, states: list, step: int, surely: bool, newest, unstack) -> None:
    """Saves the state of each member, but `surely` only where its newest update was sound.

    What led to an update that was skipped may be in the state.
    """
    sound = [surely or newest is None or not jax.device_get(of['skipped_in_a_row']).item()
                for of in (unstack(newest) if newest is not None else [None] * len(states))]

    def save(place: int, member: Member) -> None:
        if not sound[place]:
            return
        member.rows.sync()
        member.writer.save(states[place], config_lib.digest(member.setup.config))
        if len(states) > 1:  # one after the other: each in the background takes a thread
            member.writer.wait()

    going.each(save)


def _stopped(going: _Going, step: int, total: int) -> None:
    kept = all([member.writer.wait() and step in checkpoint.steps(member.rows.workdir)
                for member in going.members.values()])
    raise PreemptedError(
        f'asked to stop at step {step} of {total}; the same command goes on from '
        f'{"there" if kept else "the newest checkpoint, if there is one"}')


def _is_there(arrays) -> bool:
    """Can all of them be fetched without waiting?"""
    return all(array.is_ready() for array in jax.tree.leaves(arrays))


def _due(step: int, every: int) -> bool:
    return step > 0 and every > 0 and step % every == 0


def _log_step(going: _Going, step: int, measured: dict, unstack, clock: dict, feed: Feed,
              source: Source, bar) -> None:
    """Fetches a step's metrics and writes their rows; a run that has diverged goes no further."""
    values = [jax.tree.map(lambda value: value.item(), jax.device_get(of))
              for of in unstack(measured)]
    now = time.monotonic()
    config = next(iter(going.members.values())).setup.config
    # The members of a population share its time: a member's is that of as many alone.
    perf = throughput.performance(
        steps=max(step - clock['step'], 1), seconds=(now - clock['since']) / len(values),
        stalled=clock['stalled'] / len(values), batch_size=config['batch_size'], flops=feed.flops,
        compile_seconds=feed.compile_seconds)
    fresh = [of['skipped_updates'] - before
             for of, before in zip(values, clock['skipped'], strict=True)]
    clock.update(since=now, step=step, stalled=0.0, skipped=[v['skipped_updates'] for v in values])
    going.each(lambda place, member: _log_member(
        member, step, values[place], fresh[place], perf, source, bar))


def _log_member(member: Member, step: int, values: dict, fresh: int, perf: dict, source: Source,
                bar) -> None:
    """Writes the row of a member; raises DivergedError where too many updates were skipped."""
    causes = {cause: values['skipped'][cause] for cause in SKIP_CAUSES if values['skipped'][cause]}
    streak = {'in_a_row': values.pop('skipped_in_a_row'), 'last': values.pop('skipped_at')}
    del values['skipped']
    if causes:
        values |= {f'skipped_{cause}': number for cause, number in causes.items()}
        values['skipped_at'] = streak['last']
    setup, rows = member.setup, member.rows
    rows.write({'step': step, 'split': 'train'} | values | {'perf': perf})
    _say(rows.rows[-1], setup.config['steps'], bar)
    if fresh and processes.first():
        log.warning('%d of the last updates skipped (in all by what was not finite: %s), the '
                    'newest at step %d with the images %s', fresh,
                    ', '.join(f'{cause} {number}' for cause, number in causes.items()),
                    streak['last'], ', '.join(_names(setup, source, streak['last'])))
    if streak['in_a_row'] >= setup.config['max_skipped_updates']:
        _diverged(setup, step, streak, causes, rows.workdir, source)


def _indices(setup: Setup, source: Source, step: int) -> np.ndarray:
    config = setup.config
    size = config['batch_size']
    draw = build.draw(config, source)
    return draw(step * size + np.arange(size, dtype=np.int64))


def _names(setup: Setup, source: Source, step: int) -> list[str]:
    """Returns the names of the first images of a step's batch."""
    indices = _indices(setup, source, step)
    names = [str(source.examples[int(index)]['name']) for index in indices[:_NAMED]]
    return names + ['...'] * (len(indices) > _NAMED)


def _diverged(setup: Setup, step: int, streak: dict, causes: dict, workdir: str, source: Source):
    """Writes diverged.json and raises the error that ends the run."""
    first, saved = streak['last'] - streak['in_a_row'] + 1, checkpoint.steps(workdir)
    message = (
        f'{streak["in_a_row"]} updates in a row were not finite by step {step} '
        f'(config.max_skipped_updates), from step {first} on, with the images '
        f'{", ".join(_names(setup, source, first))} (all are in {workdir}/diverged.json); lower '
        'config.hparams.learning_rate or set clip_norm, in '
        + (f'a new --workdir: the checkpoints of this one, up to step {saved[-1]}, stay'
           if saved else 'this --workdir or another: no checkpoint was saved here'))
    if processes.first():
        config_lib.write_json(os.path.join(workdir, 'diverged.json'), {
            'message': message, 'step': step, 'first_skipped': first,
            'last_skipped': streak['last'], 'skipped': causes,
            'files': _names(setup, source, first),
            'batches': [{'step': at, 'index': _indices(setup, source, at).tolist()}
                        for at in range(first, min(first + 20, streak['last'] + 1))]})
    raise DivergedError(message)


def _say(row: dict, total: int, bar) -> None:
    if bar.disable:
        log.info(metrics_log.line(row, total))
    elif row['split'] == 'train':
        bar.set_postfix_str(', '.join(
            f'{name} {row[name]:.3f}' for name in metrics_log.measured(row)[:2]
            if row[name] is not None), refresh=False)
    else:
        bar.write(metrics_log.line(row, total), file=sys.stderr)


def _profiler(options: dict, stride: int, directory: str):
    """Returns a primed generator that is sent (step, metrics ahead) and traces the chosen steps."""
    def watch():
        running = False
        try:
            while True:
                step, ahead = yield
                # A dispatch that holds any of the chosen steps is traced whole.
                wanted = step < options['start'] + options['steps'] and (
                    step + stride > options['start'])
                if wanted and not running:
                    jax.profiler.start_trace(directory)
                elif running and not wanted:
                    jax.block_until_ready(ahead)
                    jax.profiler.stop_trace()
                running = wanted
        finally:
            if running:
                jax.profiler.stop_trace()

    watcher = watch()
    next(watcher)
    return watcher


