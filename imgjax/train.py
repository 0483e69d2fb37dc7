"""Training: builds the run, restores its newest checkpoint, runs the loop, writes the result."""

import contextlib
import logging
import os
import sys
import time

import jax
import jax.numpy as jnp

from imgjax import build, checks, evaluate, loop, parts, sharding
from imgjax import config as config_lib
from imgjax import state as state_lib
from imgjax.build import Setup
from imgjax.config import Config, unread
from imgjax.data import Source, faults
from imgjax.errors import ConfigError, DivergedError
from imgjax.feed import memory_advice, open_feed
from imgjax.interop import load, preprocessing
from imgjax.members import Member, Members
from imgjax.process import backend, cache, processes, stop, watchdog
from imgjax.report import run as run_page
from imgjax.rundir import checkpoint, claim, dataset_info, files, metrics_log, outputs, result

log = logging.getLogger('imgjax')


def run(config, workdir: str, sources: tuple[Source, Source] | None = None) -> dict:
    """Trains a config in a run directory; a run that stopped there goes on from its checkpoint.

    Args:
      config: what a get_config returned, or plain data; None takes the config of the run directory.
      workdir: the run directory; it is created if it is missing.
      sources: the training and the evaluation split, as
        imgjax.data.sources.arrays.source returns them; None opens those that config.data names.

    Returns the result: split, accuracy, loss, step, examples, workdir, state_digest and more.

    Raises:
      RunError: a subclass for each way a run can end, see imgjax/errors.py.
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
    """Trains as `run` does, but prints no table of the result.

    Args:
      config: as `run` takes it.
      workdir: as `run` takes it.
      sources: as `run` takes them.
      shared: the `Setup.cache` of earlier runs in this process, see
        process/cache.py; None: there are none.
      pause_at: the step to pause at; None trains to the last step. A run that pauses is evaluated
        and saved at that step; its page is not written yet, and only `step` and the numbers of the
        evaluation are returned. A run that is past this step trains no further.

    Returns the result, as `run` does.

    Raises:
      RunError: as `run` raises it.
    """
    started = time.monotonic()
    backend.keep_memory()
    workdir = outputs.path('workdir', workdir)
    files.check_run(workdir)
    config = _config_of(config, workdir)
    if changed := parts.changed_sources(config):
        raise ConfigError(f'{workdir}: {", ".join(changed)}: the code has changed since the run '
                          'began; restore it, or take a new --workdir')
    config, weights = _with_weights(config, workdir)
    begun = claim.has_begun(workdir)
    build.check(config, begun)  # before a large dataset is listed
    with claim.claimed(workdir):
        train_source, eval_source = sources or build.open_dataset(config)
        described, dataset = build.describe(config, train_source, eval_source, begun)
        if shared is None:  # not once per run of a study
            checks.check_intervals(described)
        dataset_info.check_processes(config, dataset)
        setup = build.setup(described, dataset, shared=shared)
        loaded = [] if weights is None else [load_weights(setup, weights)]
        with (stop.hear_stop(), watchdog.watchdog(config.watchdog_seconds) as beat,
              jax.transfer_guard('disallow'), backend.memory_for('training', memory_advice(setup))):
            processes.broadcast_from_first(lambda: claim.check(workdir, setup))
            hparams = evaluate.hparams_on(setup)
            state, results, rows = _train_or_go_back(
                setup, workdir, (train_source, eval_source), hparams, loaded, pause_at, beat)
            beat()
            step = state_lib.step_of(state)
            if step < setup.config.steps:
                return {'step': step} | (
                    evaluate.summary(setup.config, results) if results else {})
            return result.finish(setup, workdir, state, results, rows.rows, eval_source,
                                 time.monotonic() - started)


def _say_unread(config: Config) -> None:
    """Logs one line about the fields that a config sets and nothing reads."""
    found = unread.warnings(config)
    found.pop('data.usual_size', None)  # a recipe names it for images whose size is not given
    if found:
        first, *others = found
        more = f'; nor are these read: config.{", config.".join(others)}' if others else ''
        log.warning('%s%s', found[first], more)


def _train_or_go_back(setup: Setup, workdir: str, sources, hparams: dict, loaded: list, pause_at,
                      beat):
    """Trains to the end; a run that diverges starts once more from its newest checkpoint.

    Everything is read, compiled and computed again from there, so that an error of the hardware
    does not come back. If the config is the cause, the run diverges again.
    """
    try:
        return _train(setup, workdir, sources, hparams, loaded, pause_at, beat)
    except DivergedError as error:
        if not processes.broadcast_from_first(lambda: 'yes' if checkpoint.steps(workdir) else ''):
            raise
        log.warning('%s. Starting once more from the newest checkpoint', error)
    setup.cache.clear()  # its programs and data may be damaged by an error of the memory
    return _train(setup, workdir, sources, hparams, loaded, pause_at, beat)


def _train(setup: Setup, workdir: str, sources, hparams: dict, loaded: list, pause_at, beat):
    """Runs the steps that are left; returns (last state, its evaluation, the rows of the run).

    If the run is past `pause_at`, it returns (restored state, None, None).
    """
    train_source, eval_source = sources
    state = _resume(setup, workdir, hparams, loaded)
    first = state_lib.step_of(state)
    processes.broadcast_from_first(lambda: claim.take(workdir, setup, first))
    if pause_at is not None and first > pause_at:
        return state, None, None
    with member(setup, workdir, first) as mine:
        feed = open_feed(setup, train_source, state, first, hparams, beat,
                         fault_recorder(setup, workdir, train_source))
        beat()
        log.info('%d steps of %d images on %d x %s%s, %d steps per dispatch, compiled in %.1f s',
                 setup.config.steps, setup.config.batch_size, setup.mesh.size,
                 jax.devices()[0].device_kind,
                 f' of {processes.count()} processes' if processes.count() > 1 else '',
                 feed.steps, feed.compile_seconds)
        members = Members([mine], feed, evaluate.evaluator(setup, eval_source, beat), train_source)
        state = loop.run(members, state, first, feed, beat, pause_at)
    [outcome] = members.outcomes
    if isinstance(outcome, DivergedError):
        raise outcome
    return state, outcome, mine.rows


@contextlib.contextmanager
def member(setup: Setup, workdir: str, first: int):
    """Yields a Member that writes rows and checkpoints from step `first` on; closes them after."""
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
    """Returns a function that records the unreadable images of each batch, see data/faults.py."""
    return faults.watch(workdir, source, setup.config.data.max_unreadable_share,
                        processes.index())


def _config_of(config, workdir: str) -> Config:
    if config is not None:
        return config_lib.checked(config)
    stored = config_lib.read(workdir)
    if stored is None:
        raise ConfigError(f'{workdir}: no run was started here yet; give --config')
    return stored


def _with_weights(config: Config, workdir: str) -> tuple[Config, load.Weights | None]:
    """Returns (the config with the preprocessing of its initial weights, those weights or None).

    A run that began before takes the preprocessing from its run directory, and no weights: their
    file may be gone.
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


def load_weights(setup: Setup, weights: load.Weights):
    """Returns the initial params and batch_stats of a run, from weights.

    It is called before anything is compiled, so that weights that do not fit are found early.

    Raises:
      DataError: as load.load raises it.
    """
    return load.load(setup.config, weights, {
        'params': setup.target.params, 'batch_stats': setup.target.batch_stats},
        tuple(setup.dataset.class_names))


def _resume(setup: Setup, workdir: str, hparams: dict, loaded: list) -> state_lib.TrainState:
    """Returns the newest state on disk that verifies, or the initial state of a new run.

    The first process finds the step of that state, and the others restore the same step. `loaded`
    is [] or [what `load_weights` returned]; it is emptied, as its arrays take memory.
    """
    # Checkpoints on disk belong to the config on disk, which may have fewer steps than the new one
    # (rundir/history.py).
    config_hash, found = config_lib.digest(config_lib.read(workdir) or setup.config), []

    def newest() -> str:
        restored = checkpoint.restore_newest(workdir, setup.target, config_hash, put_aside=True)
        found.append(restored and restored[0])
        return str(restored[1]['step']) if restored else ''

    step = processes.broadcast_from_first(newest)
    if not step:
        return initial_state(setup, hparams, loaded.pop() if loaded else None)
    log.info('going on from step %s of %d', step, setup.config.steps)
    if processes.first():
        return found[0]
    return checkpoint.restore(workdir, int(step), setup.target, config_hash)[0]


def initial_state(setup: Setup, hparams: dict, loaded=None) -> state_lib.TrainState:
    """Returns the state before the first step, on the mesh.

    Args:
      setup: the run.
      hparams: arrays on the mesh.
      loaded: {'params', 'batch_stats'} as load.load returns them; None begins with random ones.
    """
    shape = tuple(setup.dataset.image_shape)
    init = jax.jit(lambda hparams: state_lib.init(setup.model, setup.config, shape, hparams),
                   out_shardings=setup.shardings)
    # It runs once per run: on a CPU, compiling it with fewer passes takes a fifth of the time.
    state = cache.once(setup.cache, 'init', setup.key, lambda: init.lower(hparams).compile(
        {'xla_backend_optimization_level': 1}))(hparams)
    if loaded is None:
        return state
    own = sharding.to_host({'params': state.params, 'batch_stats': state.batch_stats})
    loaded = jax.tree.map(
        lambda found, mine: mine if isinstance(found, jax.ShapeDtypeStruct) else found, loaded, own)
    placed = sharding.place(loaded, {
        'params': setup.shardings.params, 'batch_stats': setup.shardings.batch_stats}, own=True)
    ema = jax.tree.map(jnp.copy, placed['params']) if setup.config.ema else {}
    extra = state.extra
    if jax.tree.leaves(extra):
        extra = jax.jit(lambda placed, hparams: state_lib.extra_of(
            setup.config, placed['params'], placed['batch_stats'], hparams),
            out_shardings=setup.shardings.extra)(placed, hparams)
    return state.replace(**placed, ema=ema, extra=extra)
