"""Training: build -> resume -> loop -> finish."""

import contextlib
import logging
import os
import sys
import time

import jax
import jax.numpy as jnp

from imgjax import (
    backend,
    build,
    checkpoint,
    digests,
    evaluate,
    loop,
    metrics,
    processes,
    runtime,
    sharding,
    trust,
)
from imgjax import config as config_lib
from imgjax import state as state_lib
from imgjax.build import Job
from imgjax.data import Source, faults, pipeline
from imgjax.errors import ConfigError, DataError, DivergedError
from imgjax.feed import decoding, fits, open_feed
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
    trust.check_run(workdir)
    config = _config_of(config, workdir)
    config, weights = _with_weights(config, workdir)
    build.check(config)  # before a large dataset is listed
    with _held(workdir):
        train_source, eval_source = sources or build.open_dataset(config)
        job = build.job(*build.describe(config, train_source, eval_source))
        with (runtime.hear_stop(), runtime.watchdog(config['watchdog_seconds']) as beat,
              jax.transfer_guard('disallow')):
            processes.from_first(lambda: _check_owner(workdir, job))
            hparams = sharding.place(
                state_lib.hparams_of(job.config), sharding.replicated(job.mesh))
            state, results, rows = _train_or_go_back(
                job, workdir, (train_source, eval_source), hparams, weights, beat)
            beat()
            return _finish(job, workdir, state, results, rows, eval_source,
                           time.monotonic() - started)


@contextlib.contextmanager
def _held(workdir: str):
    """Holds the run directory for the first process of the run; the others wait until it does."""
    with contextlib.ExitStack() as held:
        def hold() -> str:
            _claim_directory(workdir)
            held.enter_context(runtime.run_lock(workdir))
            return ''

        processes.from_first(hold)
        yield


def _train_or_go_back(job: Job, workdir: str, sources, hparams: dict, weights, beat):
    """Trains to the end; a run that diverges goes back to its newest checkpoint, once.

    Everything is computed again from there: a fault of the hardware does not come again, one of
    the config does.
    """
    try:
        return _train(job, workdir, sources, hparams, weights, beat)
    except DivergedError as error:
        if not processes.from_first(lambda: 'yes' if checkpoint.steps(workdir) else ''):
            raise
        log.warning('%s. Once more from the newest checkpoint', error)
    return _train(job, workdir, sources, hparams, weights, beat)


def _train(job: Job, workdir: str, sources, hparams: dict, weights, beat):
    """Runs the steps that are left; returns the last state, its evaluation and the rows."""
    config, (train_source, eval_source) = job.config, sources
    state = _resume(job, workdir, hparams, weights)
    rows = metrics.Log(workdir, state_lib.step_of(state), write=processes.first())
    writer = checkpoint.Writer(
        workdir, config['checkpoint'], lambda step: rows.score(step, config['data']['eval_split']))
    try:
        evaluator = _evaluator(job, eval_source, beat)
        feed = open_feed(
            job, train_source, state, state_lib.step_of(state), hparams, beat,
            faults.watch(workdir, train_source, config['data']['max_unreadable_share'],
                         processes.index()))
        beat()
        log.info('%d steps of %d images on %d x %s%s, %d a dispatch, compiled in %.1f s',
                 config['steps'], config['batch_size'], job.mesh.size,
                 jax.devices()[0].device_kind,
                 f' of {processes.count()} processes' if processes.count() > 1 else '',
                 feed.steps, feed.compile_seconds)
        state, results = loop.run(job, state, feed, evaluator, rows, writer, train_source, beat)
    finally:
        rows.close()
        writer.close()
    return state, results, rows


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
    """Makes the run directory; one of something else is left as it is."""
    try:
        os.makedirs(workdir, 0o750, exist_ok=True)
    except OSError as error:
        raise ConfigError(f'--workdir={workdir}: cannot be made ({error.strerror})') from None
    # A start that ended before it began may have left these.
    mine = {'lock', 'dataset.json', 'dataset.json.tmp', 'config.json.tmp'}
    strange = sorted(set(os.listdir(workdir)) - mine)
    if strange and config_lib.read(workdir) is None:
        raise ConfigError(f'{workdir}: holds {strange[0]!r} but no run; take an empty --workdir')


def _check_owner(workdir: str, job: Job) -> str:
    """Makes the run directory this config's, or checks that it is; returns ''."""
    stored = config_lib.read(workdir)
    if stored is None:
        build.write_facts(workdir, job.facts)
        config_lib.write(workdir, job.config)
        return ''
    different = config_lib.differences(job.config, stored)
    if different:
        raise ConfigError(
            f'{workdir}: belongs to another config ({"; ".join(different[:3])}'
            f'{", ..." if len(different) > 3 else ""}); take a new --workdir, or that config')
    build.check_same_data(workdir, build.read_facts(workdir), job.facts)
    if stored != job.config:  # moved data, other devices: what is read from here must work too
        config_lib.write(workdir, job.config)
    return ''


def _resume(job: Job, workdir: str, hparams: dict, weights) -> state_lib.TrainState:
    """Returns the newest state on disk that verifies, or the initial one of a new run.

    The first process finds which step that is, the others read that one.
    """
    config_hash, found = config_lib.digest(job.config), []

    def newest() -> str:
        restored = checkpoint.restore_newest(workdir, job.target, config_hash, put_aside=True)
        found.append(restored and restored[0])
        return str(restored[1]['step']) if restored else ''

    step = processes.from_first(newest)
    if not step:
        return initial_state(job, hparams, weights)
    log.info('going on from step %s of %d', step, job.config['steps'])
    if processes.first():
        return found[0]
    return checkpoint.restore(workdir, int(step), job.target, config_hash)[0]


def initial_state(job: Job, hparams: dict, weights=None) -> state_lib.TrainState:
    """Returns the state before the first step, on the mesh; `weights` are of load.find."""
    shape = tuple(job.facts.image_shape)
    init = jax.jit(lambda hparams: state_lib.init(job.model, job.config, shape, hparams),
                   out_shardings=job.shardings)
    # It runs once: compiling it with fewer passes takes a fifth of the time on a CPU.
    state = init.lower(hparams).compile({'xla_backend_optimization_level': 1})(hparams)
    if weights is None:
        return state
    begun = sharding.to_host({'params': state.params, 'batch_stats': state.batch_stats})
    loaded = sharding.place(load.load(job.config, weights, begun), {
        'params': job.shardings.params, 'batch_stats': job.shardings.batch_stats}, own=True)
    ema = jax.tree.map(jnp.copy, loaded['params']) if job.config['ema'] else {}
    return state.replace(**loaded, ema=ema)


def _evaluator(job: Job, source: Source, beat):
    """Returns evaluate(state, step) -> Results, or None when asked to stop."""
    options, size = job.config['data'], job.facts.image_shape[0]
    batches = pipeline.eval_batches(
        source, options, size,
        batch_size=evaluate.global_batch_size(job.config['eval_batch_size'], job.mesh),
        process=sharding.rows_here(job.mesh))
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


def _train_seconds(rows: list[dict]) -> float:
    """Returns the seconds that all steps of a run took, over every start of it."""
    timed, total = 0, 0.0
    for row in rows:
        if row['split'] == 'train' and row.get('perf', {}).get('step_time'):
            total += (row['step'] - timed) * row['perf']['step_time']
            timed = row['step']
    return total


def _finish(job: Job, workdir: str, state, results, rows, source: Source, seconds: float) -> dict:
    """Checks that the last state is on disk, writes the page, returns the result."""
    config, step = job.config, state_lib.step_of(state)
    if processes.first() and step not in checkpoint.steps(workdir):
        raise DataError(
            f'{checkpoint.directory(workdir)}: the last state could not be saved (is the disk '
            'full?); make space, and the same command goes on from the checkpoint before')
    result = {
        'split': config['data']['eval_split'], **results.summary(), 'step': step,
        'workdir': os.path.abspath(workdir), 'state_digest': digests.state_digest(state),
        'parameters': state_lib.parameter_count(job.target),
        'unreadable_images': len(faults.read(workdir)),
        'train_seconds': round(_train_seconds(rows.rows), 2), 'seconds': round(seconds, 2)}
    if processes.first():
        run_page.write(workdir, job, rows.rows, results, source, result)
        print(run_page.table(result, rows.rows), file=sys.stderr)
    return result
