"""A population: runs of one structure, trained as one program.

The states and the hparams of the members are stacked along a first axis, and the step of a single
run is mapped over this axis: by vmap on one device, by shard_map over several, without collectives.
The members share the decoded images. Members with the same seed and the same sampler see the same
batches in the same order. Each member writes the run directory that a single run would write.
"""

import collections
import contextlib
import itertools
import logging
import time
from collections.abc import Iterator, Sequence

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from imgjax import build, evaluate, loop, sharding, train
from imgjax import config as config_lib
from imgjax import feed as feed_lib
from imgjax import state as state_lib
from imgjax.build import Setup
from imgjax.data import Source, pipeline
from imgjax.errors import DivergedError, PreemptedError
from imgjax.members import Members
from imgjax.process import backend, cache, stop, watchdog
from imgjax.rundir import checkpoint, claim, files, result
from imgjax.study.cells import ENDED, Cell, data_order, state_of

log = logging.getLogger('imgjax')

AXIS = 'study'


def run(cells: Sequence[Cell], devices: Sequence, shared: dict,
        pause_at: int | None = None) -> list[dict | DivergedError | None]:
    """Trains the cells of one group to their end, from their newest common checkpoint.

    A cell that is done or has diverged, or whose checkpoint is of another step than that of most
    cells, is an inactive member: it occupies a slot of the program, but its files are neither read
    nor written.

    Args:
      cells: the cells, all of one group, see cells.py. If the images are streamed, all cells must
        have the same `cells.data_order`.
      devices: the devices; their number divides the number of cells, which are spread evenly.
      shared: the cache of data and programs that all runs of this process share, see
        process/cache.py.
      pause_at: the step to pause at, see train.run_one; None for the end.

    Returns:
      For each cell the result of train.run_one, the error if it diverged, or None if it was
      inactive.

    Raises:
      PreemptedError: the process was asked to stop; all active members are saved.
    """
    started = time.monotonic()
    backend.keep_memory()
    with contextlib.ExitStack() as locks:
        for cell in cells:
            if _is_open(cell):
                files.check_run(cell.directory)
                locks.enter_context(claim.claimed(cell.directory))
        going = _active(cells)  # under the locks: until then others could finish a cell
        if not any(going):
            return [None] * len(cells)
        setups = [build.setup(cell.config, cell.dataset, devices[:1], shared) for cell in cells]
        with (stop.hear_stop(), jax.transfer_guard('disallow'),
              watchdog.watchdog(setups[0].config.watchdog_seconds) as beat):
            for cell, setup in itertools.compress(zip(cells, setups, strict=True), going):
                claim.check(cell.directory, setup)
            return _train(cells, setups, going, devices, pause_at, started, beat)


def _is_open(cell: Cell) -> bool:
    return state_of(cell)[0] not in ENDED


def _active(cells: Sequence[Cell]) -> list[bool]:
    """Returns for each cell whether it is active: the most cells that have a checkpoint in common.

    If no cell has a checkpoint, all open cells are active. This is also so if there are checkpoints
    of one step only and not in all cells: their first save was interrupted, and they begin again.
    """
    saved = [set(checkpoint.steps(cell.directory)) if _is_open(cell) else None for cell in cells]
    known = [steps for steps in saved if steps is not None]
    if not known or len(set.union(*known)) < 2 or set.intersection(*known):
        return [steps is not None for steps in saved]
    counts = collections.Counter(step for steps in known for step in steps or {0})
    common = max(counts, key=lambda step: (counts[step], step))
    return [steps is not None and common in (steps or {0}) for steps in saved]


def _train(cells, setups: list[Setup], going: list[bool], devices, pause_at, started: float,
           beat) -> list:
    train_source, eval_source = cells[0].sources
    mesh = Mesh(np.asarray(devices), (AXIS,))
    state, first = _begin(cells, setups, going, mesh)
    for cell, setup in itertools.compress(zip(cells, setups, strict=True), going):
        claim.take(cell.directory, setup, first)
    if pause_at is not None and first > pause_at:
        return [{'step': first} if goes else None for goes in going]
    with contextlib.ExitStack() as opened:
        runs = [
            opened.enter_context(train.member(_keep_two_checkpoints(setup), cell.directory, first))
            if goes else None for cell, setup, goes in zip(cells, setups, going, strict=True)]
        noted = cells[going.index(True)].directory
        feed = open_feed(setups, train_source, mesh, state, first, beat, noted)
        beat()
        log.info('%d runs of %d steps of %d images as one program on %d x %s, %d steps per '
                 'dispatch, compiled in %.1f s', len(cells), setups[0].config.steps,
                 setups[0].config.batch_size, len(devices), devices[0].device_kind, feed.steps,
                 feed.compile_seconds)
        evaluate_one = evaluate.evaluator(setups[0], eval_source, beat)
        members = Members(
            runs, feed,
            lambda one, step, own: evaluate_one(
                sharding.place(one, setups[0].shardings), step, own),
            train_source, _unstacker(len(cells)))
        state = loop.run(members, state, first, feed, beat, pause_at)
    states, seconds = _unstacker(len(cells))(state), (time.monotonic() - started) / len(cells)
    ended = []
    for cell, member, one, outcome in zip(cells, runs, states, members.outcomes,
                                          strict=True):
        beat()
        if stop.preempted():  # each writes a page
            raise PreemptedError('asked to stop at the end; the same command goes on')
        if member is None or isinstance(outcome, DivergedError):
            ended.append(outcome)
        elif (step := state_lib.step_of(one)) < member.setup.config.steps:
            ended.append({'step': step, **evaluate.summary(member.setup.config, outcome)})
        else:
            ended.append(result.finish(member.setup, cell.directory, one, outcome, member.rows.rows,
                                       eval_source, seconds))
    return ended


def _keep_two_checkpoints(setup: Setup) -> Setup:
    """Returns a setup that keeps two checkpoints, so that all members always have a step in common.

    A process that is killed while it saves the members leaves the step before in each of them.
    """
    options = setup.config.checkpoint
    kept_newest = {'keep_newest': max(2, options['keep_newest'])}
    return setup._replace(config=setup.config | {'checkpoint': options | kept_newest})


def _begin(cells, setups: list[Setup], going: list[bool], mesh: Mesh):
    """Returns the stacked state on the mesh, and its step.

    The slot of an inactive member is filled with the state of an active member.
    """
    runs = {cell.directory: config_lib.digest(setup.config)
            for cell, setup in itertools.compress(zip(cells, setups, strict=True), going)}
    restored = checkpoint.restore_common(runs, setups[0].target, put_aside=True)
    if restored:
        states = [state for state, _ in restored]
    else:
        states = [train.initial_state(setup, sharding.place(
            state_lib.hparams_of(setup.config), sharding.replicated(setup.mesh)))
            for setup in itertools.compress(setups, going)]
    places = np.cumsum(going) - 1  # the position of each member among the active ones
    states = [sharding.to_host(states[max(place, 0)]) for place in places]
    first = state_lib.step_of(states[0])
    if first:
        log.info('going on from step %d of %d', first, setups[0].config.steps)
    for directory in runs:
        checkpoint.drop_after(directory, first)
    placement = NamedSharding(mesh, PartitionSpec(AXIS))
    return sharding.place(stack(states), placement, own=True), first


def stack(trees: list):
    """Returns a tree whose NumPy leaves are those of all trees, stacked along a new first axis."""
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


def _unstacker(count: int):
    """Returns a function that splits a stacked tree into one tree of NumPy arrays per member."""
    def unstack(tree) -> list:
        host = sharding.to_host(tree)
        return [jax.tree.map(lambda leaf, place=place: leaf[place, ...], host)
                for place in range(count)]

    return unstack


def open_feed(setups: list[Setup], source: Source, mesh: Mesh, state, first: int, beat=lambda: None,
              workdir: str = '') -> feed_lib.Feed:
    """Places the data, compiles the program and returns the feed from step `first` on.

    Args:
      setups: the setups of the members.
      source: the training split.
      mesh: a mesh with the axis `study`.
      state: the stacked state on the mesh.
      first: the step to continue from.
      beat: a function that is called while the data is decoded, for the watchdog.
      workdir: the run directory in which unreadable images are listed; '' for none.
    """
    setup = setups[0]
    hparams = sharding.place(stack([state_lib.hparams_of(one.config) for one in setups]),
                             NamedSharding(mesh, PartitionSpec(AXIS)))
    record_faults = train.fault_recorder(setup, workdir, source) if workdir else (
        lambda indices, faults: None)
    if feed_lib.is_resident(setup, source):
        hparams_of_one = jax.tree.map(
            lambda array: jax.ShapeDtypeStruct(array.shape[1:], array.dtype), hparams)
        stride = feed_lib.steps_per_dispatch(setup, hparams_of_one, first)
        examples = feed_lib.resident_set(setup, source, record_faults, beat, mesh)
        items = _index_items(setups, source, mesh, first, stride)
    else:
        stride, examples = 1, {}
        items = _pixel_items(setup, source, mesh, record_faults, first)
    item = next(items, None)
    if item is None:
        return feed_lib.Feed(iter(()), lambda state, item: None, stride, 0.0, None)
    resident = {'examples': examples, 'constants': feed_lib.constants(setup, mesh)}
    dispatch, seconds = cache.once(
        setup.cache, 'population', (setup.key, stride, len(setups), mesh),
        lambda: _compiled(setup, len(setups), stride, mesh, (state, resident, item, hparams)))
    return feed_lib.Feed(itertools.chain([item], items),
                         lambda state, item: dispatch(state, resident, item, hparams), stride,
                         seconds, None)


def _compiled(setup: Setup, count: int, stride: int, mesh: Mesh, arguments: tuple):
    """Returns the compiled program, and the seconds to compile it."""
    began, own, same = time.monotonic(), PartitionSpec(AXIS), PartitionSpec()
    dispatch_one, resident = feed_lib.dispatcher(setup, stride), bool(arguments[1]['examples'])
    inner = (0, None, 0 if resident else None, 0)
    if count == mesh.size:  # one member per device: exactly the program of a single run
        def local(*parts):
            one = [jax.tree.map(lambda x: x[0], part) if axis == 0 else part
                   for part, axis in zip(parts, inner, strict=True)]
            return jax.tree.map(lambda x: x[None], dispatch_one(*one))
    else:
        local = jax.vmap(dispatch_one, in_axes=inner)
    specs = (own, same, own if resident else same, own)
    if mesh.size > 1:
        local = jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=own, check_vma=False)
    placed = tuple(NamedSharding(mesh, spec) for spec in specs)
    program = jax.jit(
        local, in_shardings=placed, out_shardings=NamedSharding(mesh, own), donate_argnums=0,
        compiler_options=backend.compiler_options())
    compiled = program.lower(*arguments).compile()
    _check_memory(compiled, mesh)
    return compiled, time.monotonic() - began


def _check_memory(compiled, mesh: Mesh) -> None:
    """Raises MemoryError if a CPU has too little memory for a program.

    Without this check the system would kill the process without an error.
    """
    need, free = feed_lib.memory_of(compiled, mesh), backend.free_memory(mesh.local_devices)
    if backend.platform() == 'cpu' and None not in (need, free) and need > free:
        raise MemoryError(f'a program of {need:,} bytes, {free:,} are free')


def _index_items(setups: list[Setup], source: Source, mesh: Mesh, first: int,
                 stride: int) -> Iterator[dict]:
    """Yields {'index': int32 (members, steps, images)}, indices into the resident set."""
    config, placement = setups[0].config, NamedSharding(mesh, PartitionSpec(AXIS))
    batch_size, orders = config.batch_size, [data_order(setup.config) for setup in setups]
    draws = {order: build.draw(setup.config, source)
             for order, setup in zip(orders, setups, strict=True)}
    for step in range(first, config.steps, stride):
        positions = step * batch_size + np.arange(stride * batch_size, dtype=np.int64)
        drawn = {order: draw(positions).astype(np.int32).reshape(stride, batch_size)
                 for order, draw in draws.items()}
        yield {'index': sharding.place(np.stack([drawn[order] for order in orders]), placement)}


def _pixel_items(setup: Setup, source: Source, mesh: Mesh, record_faults,
                 first: int) -> Iterator[dict]:
    """Yields the batches that all members share, as pixels."""
    config = setup.config
    batches = pipeline.train_batches(
        source, build.draw(config, source), config.data, setup.dataset.image_shape[0],
        batch_size=config.batch_size, seed=config.hparams.seed)
    stream = pipeline.iterate(batches, config.data.workers, first)
    for batch in itertools.islice(stream, config.steps - first):
        record_faults(batch['index'], batch['fault'])
        yield sharding.place({name: batch[name] for name in ('image', 'label', 'weight')},
                             NamedSharding(mesh, PartitionSpec()))
