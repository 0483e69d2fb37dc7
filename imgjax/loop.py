"""The loop: steps, evaluations, checkpoints and rows, until all are done or a stop is asked for."""

import contextlib
import logging
import math
import os
import sys
import time

import jax
import numpy as np

from imgjax import checkpoint, metrics, processes, runtime
from imgjax import config as config_lib
from imgjax.build import Job
from imgjax.data import Source
from imgjax.data.sampler import sampler
from imgjax.errors import DivergedError, PreemptedError
from imgjax.feed import Feed
from imgjax.state import SKIP_CAUSES, step_of

log = logging.getLogger('imgjax')

_NAMED = 8  # that many images of a batch are named where an update was skipped


def run(job: Job, state, feed: Feed, evaluator, rows, writer, source: Source, beat):
    """Runs the steps that are left; returns the last state and its evaluation Results.

    Args:
      job: the run.
      state: TrainState on the mesh; donated.
      feed: from the step of `state` on.
      evaluator: (state, step) -> Results, or None when asked to stop.
      rows: metrics.Log.
      writer: checkpoint.Writer.
      source: the training split, for the names of images.
      beat: called once a dispatch.

    Raises:
      PreemptedError: asked to stop; the state is saved.
      DivergedError: config.max_skipped_updates in a row were not finite, or the state is not.
    """
    config, step, results = job.config, step_of(state), None
    total, split = config['steps'], config['data']['eval_split']
    clock = {'since': time.monotonic(), 'step': step, 'stalled': 0.0,
             'skipped': sum(jax.device_get(state.skipped).values()).item()}
    ahead, measured = None, None  # (step, metrics) of the newest dispatch; of one to be logged
    profile = _profiler(config['profile'], feed.steps, os.path.join(rows.workdir, 'profile'))
    with (metrics.progress(total, step, 'image', config['batch_size']) as bar,
          contextlib.closing(profile)):
        while True:
            stop = runtime.preempted()
            evaluates = step == total or _due(step, config['eval_every'])
            saves = stop or step == total or _due(step, config['checkpoint']['every'])
            if (saves or evaluates) and measured:
                _log_step(job, *measured, clock, feed, rows, source, bar)
                measured = None
            if evaluates and not stop and (
                    step == total or rows.score(step, split) is None):
                results = evaluator(state, step)
                if results is None:
                    stop = saves = True
                elif rows.score(step, split) is None:
                    rows.write({'step': step, 'split': split} | results.summary())
                    _say(rows.rows[-1], total, bar)
            if saves and step and (stop or step == total or not _skipping(ahead)):
                rows.sync()
                writer.save(state, config_lib.digest(config))
            if stop:
                kept = writer.wait() and step in checkpoint.steps(rows.workdir)
                raise PreemptedError(
                    f'asked to stop at step {step} of {total}; the same command goes on from '
                    f'{"there" if kept else "the newest checkpoint, if there is one"}')
            if step == total:
                return state, results
            if saves or evaluates:  # their time is not the steps'
                clock.update(since=time.monotonic(), step=step, stalled=0.0)
            profile.send((step, ahead))
            waiting = time.monotonic()
            item = next(feed.items)
            clock['stalled'] += time.monotonic() - waiting
            state, newest = feed.dispatch(state, item)
            if measured:
                _log_step(job, *measured, clock, feed, rows, source, bar)
            elif ahead:
                jax.block_until_ready(ahead)  # the host is at most two dispatches ahead
            step += feed.steps
            ahead = newest
            measured = (step, newest) if _due(step, config['log_every']) or step == total else None
            bar.update(feed.steps * config['batch_size'])
            beat()


def _due(step: int, every: int) -> bool:
    return step > 0 and every > 0 and step % every == 0


def _skipping(newest: dict | None) -> bool:
    """Was the newest update skipped? What led to it may be in the state: it is not saved then."""
    return newest is not None and jax.device_get(newest['skipped_in_a_row']).item() > 0


def _log_step(job: Job, step: int, measured: dict, clock: dict, feed: Feed, rows, source: Source,
              bar) -> None:
    """Fetches a step's metrics and writes their row; ends a run that has diverged."""
    values = jax.tree.map(lambda value: value.item(), jax.device_get(measured))
    causes = {cause: values['skipped'][cause] for cause in SKIP_CAUSES if values['skipped'][cause]}
    streak = {'in_a_row': values.pop('skipped_in_a_row'), 'last': values.pop('skipped_at')}
    del values['skipped']
    if causes:
        values |= {f'skipped_{cause}': number for cause, number in causes.items()}
        values['skipped_at'] = streak['last']
    now = time.monotonic()
    perf = metrics.performance(
        steps=max(step - clock['step'], 1), seconds=now - clock['since'], stalled=clock['stalled'],
        batch_size=job.config['batch_size'], flops=feed.flops,
        compile_seconds=feed.compile_seconds)
    fresh = values['skipped_updates'] - clock['skipped']
    clock.update(since=now, step=step, stalled=0.0, skipped=values['skipped_updates'])
    rows.write({'step': step, 'split': 'train'} | values | {'perf': perf})
    _say(rows.rows[-1], job.config['steps'], bar)
    if fresh and processes.first():
        log.warning('%d of the last updates skipped (in all by what was not finite: %s), the '
                    'newest at step %d with the images %s', fresh,
                    ', '.join(f'{cause} {number}' for cause, number in causes.items()),
                    streak['last'], ', '.join(_names(job, source, streak['last'])))
    if streak['in_a_row'] >= job.config['max_skipped_updates']:
        _diverged(job, step, streak, causes, rows.workdir, source)


def _indices(job: Job, source: Source, step: int) -> np.ndarray:
    size = job.config['batch_size']
    draw = sampler(source, job.config['data'], batch_size=size, seed=job.config['hparams']['seed'])
    return draw(step * size + np.arange(size, dtype=np.int64))


def _names(job: Job, source: Source, step: int) -> list[str]:
    """Returns the names of the first images of a step's batch."""
    indices = _indices(job, source, step)
    names = [str(source.examples[int(index)]['name']) for index in indices[:_NAMED]]
    return names + ['...'] * (len(indices) > _NAMED)


def _diverged(job: Job, step: int, streak: dict, causes: dict, workdir: str, source: Source):
    """Writes diverged.json and raises the error that ends the run."""
    first = streak['last'] - streak['in_a_row'] + 1
    if processes.first():
        config_lib.write_json(os.path.join(workdir, 'diverged.json'), {
            'step': step, 'first_skipped': first, 'last_skipped': streak['last'],
            'skipped': causes, 'files': _names(job, source, first),
            'batches': [{'step': at, 'index': _indices(job, source, at).tolist()}
                        for at in range(first, min(first + 20, streak['last'] + 1))]})
    raise DivergedError(
        f'{streak["in_a_row"]} updates in a row were not finite by step {step} '
        f'(config.max_skipped_updates), from step {first} on, with the images '
        f'{", ".join(_names(job, source, first))} (all are in {workdir}/diverged.json); lower '
        'config.hparams.learning_rate or set clip_norm. The parameters on disk are those of the '
        'last finite update')


def _say(row: dict, total: int, bar) -> None:
    if bar.disable:
        log.info(metrics.line(row, total))
    elif row['split'] == 'train':
        bar.set_postfix_str(f'loss {row["loss"] or math.nan:.3f}, '
                            f'accuracy {row["accuracy"] or 0:.3f}', refresh=False)
    else:
        bar.write(metrics.line(row, total), file=sys.stderr)


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


