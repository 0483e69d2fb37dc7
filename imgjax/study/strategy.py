"""Chooses how the cells of one structure are run, one after the other or as one program.

- `loop`: one after the other in this process, compiled and decoded once; each has the bits of a
  single run.
- `vmap`: one program for all cells (population.py), spread evenly over all devices.
- `mesh`: one program for as many cells as there are devices, one cell per device; each has the bits
  of a single run.
"""

import collections
import logging
import math
import os
import time
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from imgjax import build, feed, sharding, train
from imgjax import state as state_lib
from imgjax.errors import ConfigError
from imgjax.process import backend, processes
from imgjax.study import population
from imgjax.study.cells import Cell, data_order

log = logging.getLogger('imgjax.study')

NAMES = ('auto', 'loop', 'vmap', 'mesh')
_TIMED_SECONDS = 0.3  # no further dispatch is timed after this time, nor after three of them


class Choice(NamedTuple):
    """How the cells of a group are run.

    Attributes:
      strategy: loop, vmap or mesh.
      members: the number of cells in a population; 1 for a loop.
      devices: the number of devices that a population is spread over.
      why: the reason, a line for people.
      step_seconds: the time of one step of a single run; None where it was not timed.
      compile_seconds: the time to compile a single run; None where it was not timed.
    """

    strategy: str
    members: int
    devices: int
    why: str
    step_seconds: float | None = None
    compile_seconds: float | None = None


def check(groups: Sequence[Sequence[Cell]], requested: str, shared: dict) -> None:
    """Checks, before anything is run, that the requested strategy is possible for each group.

    Raises:
      ConfigError: it is not; the message says why.
    """
    for cells in groups if requested in ('vmap', 'mesh') else ():
        why_not = _why_not(cells, _largest(cells, requested), requested, shared)
        if why_not:
            raise ConfigError(f'--strategy={requested}: not for the {len(cells)} cells like '
                              f'{cells[0].arm!r}: {why_not}')


def choose(cells: Sequence[Cell], requested: str, shared: dict) -> Choice:
    """Chooses the strategy for cells of one group that are not done yet.

    `auto` times a few steps of a single run and of a population, and takes the one that ends first.
    Cells that no population can take (such as the last one of a group) are looped whatever strategy
    is requested.

    Args:
      cells: the cells, all of one group.
      requested: the requested strategy, one of NAMES.
      shared: see process/cache.py; the programs that are compiled for timing stay in it for the
        run.
    """
    population_choice = _largest(cells, requested)
    why_not = _why_not(cells, population_choice, requested, shared)
    if requested == 'loop' or why_not:
        return Choice('loop', 1, 1, why_not or 'requested')
    backend.keep_memory()
    steps, loop_choice = cells[0].config.steps, None
    if requested == 'auto':
        step_seconds, compile_seconds = _time_loop(cells[0], shared)
        loop_choice = Choice('loop', 1, 1, '', step_seconds, compile_seconds)
        loop_seconds = step_seconds * steps * len(cells)
        if loop_seconds < 2 * compile_seconds:
            return loop_choice._replace(
                why=f'all steps take {loop_seconds:.1f} s, too little to gain by compiling another '
                    'program')
    population_choice, together_seconds, more_compiling = _fitting(
        cells, population_choice, shared)
    if population_choice is None:
        return (loop_choice or Choice('loop', 1, 1, ''))._replace(
            why='two at once do not fit into the memory')
    if loop_choice is None:
        return population_choice._replace(why='requested')
    members = population_choice.members
    population_seconds = (
        together_seconds * steps * math.ceil(len(cells) / members) + more_compiling)
    compared = (f'{1e3 * together_seconds:.2f} ms per step, a single run '
                f'{1e3 * step_seconds:.2f} ms: '
                f'{step_seconds * members / together_seconds:.1f} times as fast')
    if population_seconds < loop_seconds:
        return population_choice._replace(
            step_seconds=step_seconds, compile_seconds=compile_seconds,
            why=f'{members} members take {compared}')
    return loop_choice._replace(
        why=f'{members} members as one program would take {compared}, and {more_compiling:.1f} s '
            'to compile')


def _fitting(cells: Sequence[Cell], choice: Choice, shared: dict):
    """Returns the largest population that fits into the memory, and what `_time_population` does.

    It halves the population of `choice` until it fits; (None, 0, 0) if not even two members fit.
    """
    while choice.members > 1:
        try:
            return choice, *_time_population(cells[:choice.members], choice.devices, shared)
        except (MemoryError, jax.errors.JaxRuntimeError) as error:
            if not backend.is_out_of_memory(error):
                raise
        shared.pop('population', None)
        members = choice.members // 2 // choice.devices * choice.devices
        log.info('%d members do not fit into the memory', choice.members)
        choice = choice._replace(members=members, strategy='mesh' if members == choice.devices
                                 else choice.strategy)
    return None, 0.0, 0.0


def _largest(cells: Sequence[Cell], requested: str) -> Choice:
    """Returns the largest population of these cells, whether or not it fits into the memory.

    If the images are streamed, its members must see the same batches, which they share.
    """
    streamed = not feed.is_resident(cells[0], cells[0].sources[0])
    most = min(collections.Counter(data_order(cell.config) for cell in cells).values()
               ) if streamed else len(cells)
    devices = min(jax.local_device_count(), most)
    if requested == 'mesh' or devices == most:
        return Choice('mesh', devices, devices, '')
    return Choice('vmap', most // devices * devices, devices, '')  # the rest of the cells is looped


def _why_not(cells: Sequence[Cell], population_choice: Choice, requested: str,
             shared: dict) -> str:
    """Returns why these cells cannot be run as one program, or '' if they can."""
    config = cells[0].config
    if population_choice.members < 2:
        return 'there is one cell of this structure' if len(cells) == 1 else (
            'there is one device' if requested == 'mesh' else 'no two cells have the same seed '
            'and sampler, and the images are streamed')
    if processes.count() > 1:
        return 'the study has several processes'
    if config.init.weights:
        return 'they begin with weights from a file'
    if config.mesh.fsdp > 1 or config.mesh.tensor > 1 or config.mesh.data > 1:
        return 'config.mesh cuts a run over several devices'
    if population_choice.members > population_choice.devices:
        setup = build.setup(config, cells[0].dataset, jax.local_devices()[:1], shared)
        if feed.loops_slowly(setup, jax.eval_shape(lambda: state_lib.hparams_of(config))):
            return ("on a CPU XLA runs a convolution that is mapped by vmap 8 to 18 times slower "
                    '(jax-ml/jax#12868)')
    return ''


def _time_loop(cell: Cell, shared: dict) -> tuple[float, float]:
    """Returns the seconds of one step of a single run, and the seconds to compile it."""
    setup = build.setup(cell.config, cell.dataset, shared=shared)
    hparams = sharding.place(
        state_lib.hparams_of(setup.config), sharding.replicated(setup.mesh))
    state = train.initial_state(setup, hparams)
    timed_feed = feed.open_feed(setup, cell.sources[0], state, 0, hparams)
    return _step_seconds(timed_feed, state), timed_feed.compile_seconds


def _time_population(cells: Sequence[Cell], count: int, shared: dict) -> tuple[float, float]:
    """Returns the seconds of one step of all cells as one program, and those to compile it."""
    devices = jax.local_devices()[:count]
    setups = [build.setup(cell.config, cell.dataset, devices[:1], shared) for cell in cells]
    mesh = Mesh(np.asarray(devices), (population.AXIS,))
    states = [sharding.to_host(train.initial_state(setup, sharding.place(
        state_lib.hparams_of(setup.config), sharding.replicated(setup.mesh)))) for setup in setups]
    state = sharding.place(population.stack(states),
                           NamedSharding(mesh, PartitionSpec(population.AXIS)), own=True)
    timed_feed = population.open_feed(setups, cells[0].sources[0], mesh, state, 0)
    return _step_seconds(timed_feed, state), timed_feed.compile_seconds


def _step_seconds(timed_feed: feed.Feed, state) -> float:
    """Returns the seconds of a step in the fastest of a few dispatches, without the first one."""
    item, least, done, began = next(timed_feed.items), math.inf, 0, time.monotonic()
    while done < 2 or (done < 4 and time.monotonic() - began < _TIMED_SECONDS):
        since = time.monotonic()
        state, measured = timed_feed.dispatch(state, item)
        jax.block_until_ready(measured)
        if done:
            least = min(least, time.monotonic() - since)
        done += 1
    return least / timed_feed.steps


def process_seconds() -> float:
    """Returns the seconds since this process started; 0 where the system is not Linux."""
    try:
        with open('/proc/self/stat', encoding='ascii') as file:
            ticks = int(file.read().rsplit(')', 1)[1].split()[19])
        return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf('SC_CLK_TCK')
    except (OSError, AttributeError, ValueError, IndexError):
        return 0.0
