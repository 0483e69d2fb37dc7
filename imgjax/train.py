"""Training: build -> resume -> loop -> finish."""

import contextlib
import logging
import math
import os
import sys
import time

import jax
import jax.numpy as jnp

from imgjax import backend, build, checkpoint, evaluate, metrics, runtime, sharding
from imgjax import config as config_lib
from imgjax import state as state_lib
from imgjax.build import Job
from imgjax.data import Source, faults, pipeline
from imgjax.errors import ConfigError, DataError, DivergedError, PreemptedError
from imgjax.feed import Feed, decoding, fits, open_feed
from imgjax.interop import load
from imgjax.report import run as run_page

log = logging.getLogger('imgjax')


def run(config, workdir: str, sources: tuple[Source, Source] | None = None) -> dict:
    """Trains a config in a run directory, from where it stands; the same command goes on.

    Args:
      config: what a get_config returned, or its plain data; None takes the run directory's own.
      workdir: the run directory; made when it is missing.
      sources: the training and the evaluation split, as of data.arrays.source; None opens those
        that config.data names.

    Returns the result: split, accuracy, loss, step, examples, workdir, state_digest and more.

    Raises:
      RunError: a kind for each way a run can end, see imgjax/errors.py.
    """
    started = time.monotonic()
    backend.keep_memory()
    config = _config_of(config, workdir)
    config, weights = _with_weights(config, workdir)
    build.check(config)  # before a large dataset is listed
    train_source, eval_source = sources or build.open_dataset(config)
    job = build.job(*build.describe(config, train_source, eval_source))
    _claim_directory(workdir)
    with (runtime.run_lock(workdir), runtime.hear_stop(),
          runtime.watchdog(config['watchdog_seconds']) as beat, jax.transfer_guard('disallow')):
        _check_owner(workdir, job)
        hparams = jax.device_put(
            state_lib.hparams_of(job.config), sharding.replicated(job.mesh))
        state = _resume(job, workdir, hparams, weights)
        rows = metrics.Log(workdir, _step_of(state))
        writer = checkpoint.Writer(
            workdir, job.config['checkpoint'],
            lambda step: rows.score(step, config['data']['eval_split']))
        try:
            evaluator = _evaluator(job, eval_source, beat)
            feed = open_feed(
                job, train_source, state, _step_of(state), hparams, beat,
                faults.watch(workdir, train_source, config['data']['max_unreadable_share']))
            beat()
            log.info('%d steps of %d images on %d x %s, %d a dispatch, compiled in %.1f s',
                     job.config['steps'], config['batch_size'], job.mesh.size,
                     jax.devices()[0].device_kind, feed.steps, feed.compile_seconds)
            state, results = _loop(job, state, feed, evaluator, rows, writer, beat)
        finally:
            rows.close()
            writer.close()
        beat()
        return _finish(job, workdir, state, results, rows, eval_source,
                       time.monotonic() - started)


def _config_of(config, workdir: str) -> dict:
    if config is not None:
        return config_lib.to_plain(config)
    stored = config_lib.read(workdir)
    if stored is None:
        raise ConfigError(f'{workdir}: no run was started here yet; give --config')
    return stored


def _with_weights(config: dict, workdir: str) -> tuple[dict, load.Weights | None]:
    """Returns the config with the preprocessing of the weights it begins with, and these.

    A run that began takes what it began with from its directory: the weights may be gone.
    """
    stored = config_lib.read(workdir) if os.path.isdir(workdir) else None
    if stored is not None and stored['init'] == config['init'] and checkpoint.steps(workdir):
        if config['init']['from_'] and config['init']['preprocessing'] == 'checkpoint':
            same = {name: stored['data'][name] for name in load.PREPROCESSING}
            config = config | {'data': config['data'] | same}
        return config, None
    weights = load.find(config)
    return load.with_preprocessing(config, weights), weights


def _claim_directory(workdir: str) -> None:
    try:
        os.makedirs(workdir, exist_ok=True)
    except OSError as error:
        raise ConfigError(f'--workdir={workdir}: cannot be made ({error.strerror})') from None


def _check_owner(workdir: str, job: Job) -> None:
    """Makes the run directory this config's, or checks that it is."""
    stored = config_lib.read(workdir)
    if stored is None:
        # A start that was killed here may have left these.
        mine = {'lock', 'dataset.json', 'dataset.json.tmp', 'config.json.tmp'}
        strange = sorted(set(os.listdir(workdir)) - mine)
        if strange:
            raise ConfigError(
                f'{workdir}: holds {strange[0]!r} but no run; take an empty --workdir')
        build.write_facts(workdir, job.facts)
        config_lib.write(workdir, job.config)
        return
    different = config_lib.differences(job.config, stored)
    if different:
        raise ConfigError(
            f'{workdir}: belongs to another config ({"; ".join(different[:3])}'
            f'{", ..." if len(different) > 3 else ""}); take a new --workdir, or that config')
    build.check_same_data(workdir, build.read_facts(workdir), job.facts)
    if stored != job.config:  # moved data, other devices: what is read from here must work too
        config_lib.write(workdir, job.config)


def _resume(job: Job, workdir: str, hparams: dict, weights) -> state_lib.TrainState:
    """Returns the newest state on disk that verifies, or the initial one of a new run."""
    restored = checkpoint.restore_newest(
        workdir, job.target, config_lib.digest(job.config), put_aside=True)
    if restored is not None:
        log.info('going on from step %d of %d', restored[1]['step'], job.config['steps'])
        return restored[0]
    return initial_state(job, hparams, weights)


def initial_state(job: Job, hparams: dict, weights=None) -> state_lib.TrainState:
    """Returns the state before the first step, on the mesh; `weights` are of load.find."""
    shape = tuple(job.facts.image_shape)
    init = jax.jit(lambda hparams: state_lib.init(job.model, job.config, shape, hparams),
                   out_shardings=job.shardings)
    # It runs once: compiling it with fewer passes takes a fifth of the time on a CPU.
    state = init.lower(hparams).compile({'xla_backend_optimization_level': 1})(hparams)
    if weights is None:
        return state
    begun = jax.device_get({'params': state.params, 'batch_stats': state.batch_stats})
    loaded = jax.device_put(load.load(job.config, weights, begun), {
        'params': job.shardings.params, 'batch_stats': job.shardings.batch_stats})
    ema = jax.tree.map(jnp.copy, loaded['params']) if job.config['ema'] else {}
    return state.replace(**loaded, ema=ema)


def _step_of(state) -> int:
    return int(jax.device_get(state.step))


def _evaluator(job: Job, source: Source, beat):
    """Returns evaluate(state, step) -> Results, or None when asked to stop."""
    options, size = job.config['data'], job.facts.image_shape[0]
    batches = pipeline.eval_batches(
        source, options, size,
        batch_size=evaluate.global_batch_size(job.config['eval_batch_size'], job.mesh),
        process=(jax.process_index(), jax.process_count()))
    count = len(batches)
    if fits(job, source):
        batches = list(decoding(pipeline.iterate(batches, 0), count, 'batch', beat))
    eval_step = evaluate.jit_eval_step(job.eval_step, job.shardings, job.mesh)

    def run_evaluation(state, step: int):
        items = batches if isinstance(batches, list) else pipeline.iterate(
            batches, options['workers'])
        return evaluate.run(eval_step, state, items, count, job.mesh,
                            title=f'{options["eval_split"]} at step {step}', beat=beat)

    return run_evaluation


def _loop(job: Job, state, feed: Feed, evaluator, rows, writer, beat):
    """Runs the steps that are left; returns the last state and its evaluation Results."""
    config, step, results = job.config, _step_of(state), None
    total, split = config['steps'], config['data']['eval_split']
    clock = {'since': time.monotonic(), 'step': step, 'stalled': 0.0}
    ahead, measured = None, None  # (step, metrics) of the newest dispatch; of one to be logged
    profile = _profiler(config['profile'], feed.steps, os.path.join(rows.workdir, 'profile'))
    with (metrics.progress(total, step, 'image', config['batch_size']) as bar,
          contextlib.closing(profile)):
        while True:
            stop = runtime.preempted()
            evaluates = step == total or _due(step, config['eval_every'])
            saves = stop or step == total or _due(step, config['checkpoint']['every'])
            if (saves or evaluates) and measured:
                _log_step(job, *measured, clock, feed, rows, bar)
                measured = None
            if evaluates and not stop and (
                    step == total or rows.score(step, split) is None):
                results = evaluator(state, step)
                if results is None:
                    stop = saves = True
                elif rows.score(step, split) is None:
                    rows.write({'step': step, 'split': split} | results.summary())
                    _say(rows.rows[-1], total, bar)
            if saves and step:
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
                _log_step(job, *measured, clock, feed, rows, bar)
            elif ahead:
                jax.block_until_ready(ahead)  # the host is at most two dispatches ahead
            step += feed.steps
            ahead = newest
            measured = (step, newest) if _due(step, config['log_every']) or step == total else None
            bar.update(feed.steps * config['batch_size'])
            beat()


def _due(step: int, every: int) -> bool:
    return step > 0 and every > 0 and step % every == 0


def _log_step(job: Job, step: int, measured: dict, clock: dict, feed: Feed, rows, bar) -> None:
    """Fetches a step's metrics and writes their row; ends a run that has diverged."""
    values = {name: value.item() for name, value in jax.device_get(measured).items()}
    in_a_row = values.pop('skipped_in_a_row')
    now = time.monotonic()
    perf = metrics.performance(
        steps=max(step - clock['step'], 1), seconds=now - clock['since'], stalled=clock['stalled'],
        batch_size=job.config['batch_size'], flops=feed.flops,
        compile_seconds=feed.compile_seconds)
    clock.update(since=now, step=step, stalled=0.0)
    rows.write({'step': step, 'split': 'train'} | values | {'perf': perf})
    _say(rows.rows[-1], job.config['steps'], bar)
    if in_a_row >= job.config['max_skipped_updates']:
        raise DivergedError(
            f'{in_a_row} updates in a row were not finite by step {step} '
            '(config.max_skipped_updates); lower config.hparams.learning_rate or set clip_norm. '
            'The parameters on disk are those of the last finite update')


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


def _train_seconds(rows: list[dict]) -> float:
    """Returns the seconds that all steps of a run took, over every start of it."""
    timed, total = 0, 0.0
    for row in rows:
        if row['split'] == 'train' and 'perf' in row:
            total += (row['step'] - timed) * row['perf']['step_time']
            timed = row['step']
    return total


def _finish(job: Job, workdir: str, state, results, rows, source: Source, seconds: float) -> dict:
    """Checks that the last state is on disk, writes the page, returns the result."""
    config, step = job.config, _step_of(state)
    if step not in checkpoint.steps(workdir):
        raise DataError(
            f'{checkpoint.directory(workdir)}: the last state could not be saved (is the disk '
            'full?); make space, and the same command goes on from the checkpoint before')
    result = {
        'split': config['data']['eval_split'], **results.summary(), 'step': step,
        'workdir': os.path.abspath(workdir), 'state_digest': checkpoint.state_digest(state),
        'parameters': state_lib.parameter_count(job.target),
        'unreadable_images': len(faults.read(workdir)),
        'train_seconds': round(_train_seconds(rows.rows), 2), 'seconds': round(seconds, 2)}
    run_page.write(workdir, job, rows.rows, results, source, result)
    print(run_page.table(result, rows.rows), file=sys.stderr)
    return result
