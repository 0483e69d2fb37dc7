"""Training: build -> resume -> loop -> finish."""

import contextlib
import logging
import os
import sys
import time

import jax
import jax.numpy as jnp

from imgjax import build, cache, evaluate, loop, parts, sharding
from imgjax import config as config_lib
from imgjax import state as state_lib
from imgjax.build import Setup
from imgjax.config import Config
from imgjax.data import Source, faults, pipeline
from imgjax.errors import ConfigError, DivergedError
from imgjax.feed import decoding, fits, less_memory, open_feed
from imgjax.interop import load, preprocessing
from imgjax.process import backend, processes, stop, watchdog
from imgjax.report import run as run_page
from imgjax.rundir import checkpoint, claim, dataset_info, files, metrics_log, outputs, result
from imgjax.rundir.members import Member, Members

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
    workdir = outputs.path('workdir', workdir)
    if config is not None:
        _say_unread(config_lib.checked(config))
    found = run_one(config, workdir, sources)
    if processes.first():
        own = run_page.own_metrics(config_lib.read(workdir))
        print(run_page.table(found, metrics_log.read_rows(workdir), own), file=sys.stderr)
    return found


def run_one(config, workdir: str, sources: tuple[Source, Source] | None = None,
            shared: dict | None = None, pause_at: int | None = None) -> dict:
    """Trains as `run` does, without a word about the result.

    Args:
      config: as of `run`.
      workdir: as of `run`.
      sources: as of `run`.
      shared: what runs before it in this process left for it, see cache.py.
      pause_at: the step to pause at, None for the last one. A run that pauses is evaluated and
        saved there; it has no page yet, and its result says no more than the evaluation. One that
        is further already stays there.
    """
    started = time.monotonic()
    backend.keep_memory()
    workdir = outputs.path('workdir', workdir)
    files.check_run(workdir)
    config = _config_of(config, workdir)
    if changed := parts.changed_sources(config):
        raise ConfigError(f'{workdir}: {", ".join(changed)}: other code than when the run began; '
                          'bring that back, or take a new --workdir')
    config, weights = _with_weights(config, workdir)
    begun = claim.has_begun(workdir)
    build.check(config, begun)  # before a large dataset is listed
    with claim.claimed(workdir):
        train_source, eval_source = sources or build.open_dataset(config)
        described, dataset = build.describe(config, train_source, eval_source, begun)
        dataset_info.check_processes(config, dataset)
        setup = build.setup(described, dataset, shared=shared)
        fitted = [] if weights is None else [_fitted(setup, weights)]
        with (stop.hear_stop(), watchdog.watchdog(config.watchdog_seconds) as beat,
              jax.transfer_guard('disallow'), backend.memory_for('training', less_memory(setup))):
            processes.broadcast_from_first(lambda: claim.check(workdir, setup))
            hparams = evaluate.hparams_on(setup)
            state, results, rows = _train_or_go_back(
                setup, workdir, (train_source, eval_source), hparams, fitted, pause_at, beat)
            beat()
            step = state_lib.step_of(state)
            if step < setup.config.steps:
                return {'step': step} | (
                    evaluate.summary(setup.config, results) if results else {})
            return result.finish(setup, workdir, state, results, rows.rows, eval_source,
                                 time.monotonic() - started)


def _say_unread(config: Config) -> None:
    """Warns, in one line, of what a config sets and nothing reads."""
    found = config_lib.unread(config)
    if found:
        first, *others = found
        more = f'; nor are these read: config.{", config.".join(others)}' if others else ''
        log.warning('%s%s', found[first], more)


def _train_or_go_back(setup: Setup, workdir: str, sources, hparams: dict, fitted: list, pause_at,
                      beat):
    """Trains to the end; a run that diverges goes back to its newest checkpoint, once.

    Everything is read, compiled and computed again from there: a fault of the hardware does not
    come again, one of the config does.
    """
    try:
        return _train(setup, workdir, sources, hparams, fitted, pause_at, beat)
    except DivergedError as error:
        if not processes.broadcast_from_first(lambda: 'yes' if checkpoint.steps(workdir) else ''):
            raise
        log.warning('%s. Once more from the newest checkpoint', error)
    setup.cache.clear()  # the memory that held them may be at fault
    return _train(setup, workdir, sources, hparams, fitted, pause_at, beat)


def _train(setup: Setup, workdir: str, sources, hparams: dict, fitted: list, pause_at, beat):
    """Runs the steps that are left; returns the last state, its evaluation and the rows.

    Of a run that is past `pause_at` it returns (its state, None, None).
    """
    train_source, eval_source = sources
    state = _resume(setup, workdir, hparams, fitted)
    first = state_lib.step_of(state)
    processes.broadcast_from_first(lambda: claim.take(workdir, setup, first))
    if pause_at is not None and first > pause_at:
        return state, None, None
    with member(setup, workdir, first) as mine:
        feed = open_feed(setup, train_source, state, first, hparams, beat,
                         fault_recorder(setup, workdir, train_source))
        beat()
        log.info('%d steps of %d images on %d x %s%s, %d a dispatch, compiled in %.1f s',
                 setup.config.steps, setup.config.batch_size, setup.mesh.size,
                 jax.devices()[0].device_kind,
                 f' of {processes.count()} processes' if processes.count() > 1 else '',
                 feed.steps, feed.compile_seconds)
        members = Members([mine], feed, evaluator(setup, eval_source, beat), train_source)
        state = loop.run(members, state, first, feed, beat, pause_at)
    [outcome] = members.outcomes
    if isinstance(outcome, DivergedError):
        raise outcome
    return state, outcome, mine.rows


@contextlib.contextmanager
def member(setup: Setup, workdir: str, first: int):
    """Opens the rows and the checkpoints of a run from step `first` on; yields a Member."""
    rows = metrics_log.Log(workdir, first, write=processes.first())
    writer = checkpoint.Writer(
        workdir, setup.config.checkpoint,
        lambda step: metrics_log.scores(
            rows.rows, setup.config.data.eval_split, *setup.best).get(step))
    try:
        yield Member(setup, rows, writer)
    finally:
        rows.close()
        writer.close()


def fault_recorder(setup: Setup, workdir: str, source: Source):
    """Returns what writes down the unreadable images of each batch, see data/faults.py."""
    return faults.watch(workdir, source, setup.config.data.max_unreadable_share,
                        processes.index())


def _config_of(config, workdir: str) -> dict:
    if config is not None:
        return config_lib.checked(config)
    stored = config_lib.read(workdir)
    if stored is None:
        raise ConfigError(f'{workdir}: no run was started here yet; give --config')
    return stored


def _with_weights(config: Config, workdir: str) -> tuple[Config, load.Weights | None]:
    """Returns the config with the preprocessing of the weights it begins with, and these.

    A run that began takes what it began with from its directory: the weights may be gone.
    """
    stored = config_lib.read(workdir) if os.path.isdir(workdir) else None
    if stored is not None and checkpoint.steps(workdir):
        init = config.init
        if init.preprocessing == 'auto':
            init = init | {'preprocessing': stored.init.preprocessing}
        if stored.init == init:
            if init.weights and init.preprocessing == 'checkpoint':
                same = {name: stored.data[name] for name in preprocessing.FIELDS}
                config = config | {'data': config.data | same}
            return config | {'init': init}, None
    weights = load.find(config)
    return load.with_preprocessing(config, weights), weights


def _fitted(setup: Setup, weights: load.Weights):
    """Returns what a run begins with; weights that do not fit end it before anything is compiled.

    Raises:
      DataError: as load.load.
    """
    return load.load(setup.config, weights, {
        'params': setup.target.params, 'batch_stats': setup.target.batch_stats},
        tuple(setup.dataset.class_names))


def _resume(setup: Setup, workdir: str, hparams: dict, fitted: list) -> state_lib.TrainState:
    """Returns the newest state on disk that verifies, or the initial one of a new run.

    The first process finds which step that is, the others read that one. `fitted` is emptied: its
    arrays are needed no longer.
    """
    # What is there is of the config that is there, which may have fewer steps (rundir/history.py).
    config_hash, found = config_lib.digest(config_lib.read(workdir) or setup.config), []

    def newest() -> str:
        restored = checkpoint.restore_newest(workdir, setup.target, config_hash, put_aside=True)
        found.append(restored and restored[0])
        return str(restored[1]['step']) if restored else ''

    step = processes.broadcast_from_first(newest)
    if not step:
        return initial_state(setup, hparams, fitted.pop() if fitted else None)
    log.info('going on from step %s of %d', step, setup.config.steps)
    if processes.first():
        return found[0]
    return checkpoint.restore(workdir, int(step), setup.target, config_hash)[0]


def initial_state(setup: Setup, hparams: dict, fitted=None) -> state_lib.TrainState:
    """Returns the state before the first step, on the mesh; `fitted` is of load.load."""
    shape = tuple(setup.dataset.image_shape)
    init = jax.jit(lambda hparams: state_lib.init(setup.model, setup.config, shape, hparams),
                   out_shardings=setup.shardings)
    # It runs once a run: compiling it with fewer passes takes a fifth of the time on a CPU.
    state = cache.once(setup.cache, 'init', setup.key, lambda: init.lower(hparams).compile(
        {'xla_backend_optimization_level': 1}))(hparams)
    if fitted is None:
        return state
    own = sharding.to_host({'params': state.params, 'batch_stats': state.batch_stats})
    fitted = jax.tree.map(
        lambda found, mine: mine if isinstance(found, jax.ShapeDtypeStruct) else found, fitted, own)
    loaded = sharding.place(fitted, {
        'params': setup.shardings.params, 'batch_stats': setup.shardings.batch_stats}, own=True)
    ema = jax.tree.map(jnp.copy, loaded['params']) if setup.config.ema else {}
    extra = state.extra
    if jax.tree.leaves(extra):
        extra = jax.jit(lambda loaded, hparams: state_lib.extra_of(
            setup.config, loaded['params'], loaded['batch_stats'], hparams),
            out_shardings=setup.shardings.extra)(loaded, hparams)
    return state.replace(**loaded, ema=ema, extra=extra)


def evaluator(setup: Setup, source: Source, beat):
    """Returns evaluate(state, step, own) -> Columns, or None when asked to stop.

    `own` is the Setup whose state it is: runs of a population share all but their numbers.
    """
    options, size = setup.config.data, setup.dataset.image_shape[0]
    batches = pipeline.eval_batches(
        source, options, size,
        batch_size=evaluate.global_batch_size(setup.config.eval_batch_size, setup.mesh),
        process=sharding.rows_here(setup.mesh))
    count = len(batches)
    if fits(setup, source):
        stream = batches
        batches = cache.once(
            setup.cache, 'eval set', cache.data(setup.config, setup.dataset, setup.mesh),
            lambda: list(decoding(pipeline.iterate(stream, 0), count, 'batch', beat)))
    eval_step = cache.once(setup.cache, 'eval step', setup.key, lambda: evaluate.jit_eval_step(
        setup.eval_step, setup.shardings, setup.mesh))

    def run_evaluation(state, step: int, own: Setup):
        items = batches if isinstance(batches, list) else pipeline.iterate(
            batches, options.workers)
        with backend.memory_for(*evaluate.less_memory(setup.config)):
            return evaluate.run(eval_step, state, evaluate.hparams_on(own), items, count,
                                setup.mesh, title=f'{options.eval_split} at step {step}',
                                beat=beat)

    return run_evaluation
