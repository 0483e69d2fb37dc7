"""How the cells of one structure are run: one after the other, or as one program; and why.

  loop   one after the other in this process: compiled once, decoded once, each exactly a run alone
  vmap   one program for all of them (population.py), over all devices, each with its part
  mesh   one program for as many of them as there are devices, each exactly a run alone
"""

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
from imgjax.study.cells import Cell

log = logging.getLogger('imgjax.study')

NAMES = ('auto', 'loop', 'vmap', 'mesh')
_TIMED_SECONDS = 0.3  # that long a program is timed, or three dispatches


class Choice(NamedTuple):
    """How the cells of a group are run.

    Attributes:
      strategy: loop, vmap or mesh.
      members: cells of a population, 1 for a loop.
      devices: that a population is spread over.
      why: a line for people.
      step_seconds: of a step of a run alone; None where it was not timed.
      compile_seconds: of a run alone; None where it was not timed.
    """

    strategy: str
    members: int
    devices: int
    why: str
    step_seconds: float | None = None
    compile_seconds: float | None = None


def check(groups: Sequence[Sequence[Cell]], requested: str, shared: dict) -> None:
    """Checks, before anything is run, that each whole group can be run as it is wished.

    Raises:
      ConfigError: the requested strategy is not possible; the line says why.
    """
    for cells in groups if requested in ('vmap', 'mesh') else ():
        why_not = _why_not(cells, _population(cells, requested), requested, shared)
        if why_not:
            raise ConfigError(f'--strategy={requested}: not for the {len(cells)} cells of '
                              f'{cells[0].arm!r} and its like: {why_not}')


def choose(cells: Sequence[Cell], requested: str, shared: dict) -> Choice:
    """Chooses for cells of one group that are not done yet.

    `auto` times a few steps of a loop and of a population, and takes what is sooner done. Cells
    that no population can have (the last one of a group) are looped, whatever is requested.

    Args:
      cells: of one group.
      requested: one of NAMES.
      shared: see cache.py; what is compiled for timing is there for the run.
    """
    many = _population(cells, requested)
    why_not = _why_not(cells, many, requested, shared)
    if requested == 'loop' or why_not:
        return Choice('loop', 1, 1, why_not or 'asked for')
    backend.keep_memory()
    steps, alone = cells[0].config['steps'], None
    if requested == 'auto':
        step, compiling = _time_loop(cells[0], shared)
        alone, whole = Choice('loop', 1, 1, '', step, compiling), step * steps * len(cells)
        if whole < 2 * compiling:
            return alone._replace(why=f'all steps take {whole:.1f} s, less than to compile '
                                  'another program and to gain by it')
    many, together, compiling_many = _fitting(cells, many, shared)
    if many is None:
        return (alone or Choice('loop', 1, 1, ''))._replace(
            why='two at once do not fit into the memory')
    if alone is None:
        return many._replace(why='asked for')
    whole_many = together * steps * math.ceil(len(cells) / many.members) + compiling_many
    compared = (f'{1e3 * together:.2f} ms a step, one alone {1e3 * step:.2f} ms: '
                f'{step * many.members / together:.1f} times as fast')
    if whole_many < whole:
        return many._replace(step_seconds=step, compile_seconds=compiling,
                             why=f'{many.members} members take {compared}')
    return alone._replace(why=f'{many.members} members as one program would take {compared}, and '
                          f'{compiling_many:.1f} s to compile')


def _fitting(cells: Sequence[Cell], many: Choice, shared: dict):
    """Returns the largest population that fits, half as large each time, and what was timed.

    (None, 0, 0) where not even two members fit.
    """
    while many.members > 1:
        try:
            return many, *_time_population(cells[:many.members], many.devices, shared)
        except (MemoryError, jax.errors.JaxRuntimeError) as error:
            if not backend.is_out_of_memory(error):
                raise
        shared.pop('population', None)
        members = many.members // 2 // many.devices * many.devices
        log.info('%d members do not fit into the memory', many.members)
        many = many._replace(members=members, strategy='mesh' if members == many.devices
                             else many.strategy)
    return None, 0.0, 0.0


def _population(cells: Sequence[Cell], requested: str) -> Choice:
    """Returns the largest population of these cells."""
    seeds = {cell.seed for cell in cells}
    streamed = not feed.is_resident(cells[0], cells[0].sources[0])
    most = min(sum(cell.seed == seed for cell in cells) for seed in seeds) if streamed else len(
        cells)
    devices = min(jax.local_device_count(), most)
    if requested == 'mesh' or devices == most:
        return Choice('mesh', devices, devices, '')
    return Choice('vmap', most // devices * devices, devices, '')  # those left over go by a loop


def _why_not(cells: Sequence[Cell], many: Choice, requested: str, shared: dict) -> str:
    """Returns why these cells cannot be one program, or ''."""
    config = cells[0].config
    if many.members < 2:
        return 'there is one cell of this structure' if len(cells) == 1 else (
            'there is one device' if requested == 'mesh' else 'no two cells have one seed, and the '
            'images are streamed')
    if processes.count() > 1:
        return 'the study has several processes'
    if config['init']['weights']:
        return 'they begin with weights from a file'
    if config['mesh']['fsdp'] > 1 or config['mesh']['tensor'] > 1 or config['mesh']['data'] > 1:
        return 'config.mesh cuts a run over several devices'
    if many.members > many.devices:
        setup = build.setup(config, cells[0].dataset, jax.local_devices()[:1], shared)
        text = feed.step_as_text(setup, jax.eval_shape(lambda: state_lib.hparams_of(config)))
        if feed.loops_slowly(text):
            return ("on a CPU XLA runs a convolution that is mapped by vmap 8 to 18 times slower "
                    '(jax-ml/jax#12868)')
    return ''


def _time_loop(cell: Cell, shared: dict) -> tuple[float, float]:
    """Returns the seconds of a step of a run alone, and those of compiling it."""
    setup = build.setup(cell.config, cell.dataset, shared=shared)
    hparams = sharding.place(
        state_lib.hparams_of(setup.config), sharding.replicated(setup.mesh))
    state = train.initial_state(setup, hparams)
    opened = feed.open_feed(setup, cell.sources[0], state, 0, hparams)
    return _seconds_a_step(opened, state), opened.compile_seconds


def _time_population(cells: Sequence[Cell], count: int, shared: dict) -> tuple[float, float]:
    """Returns the seconds of a step of all cells together, and those of compiling it."""
    devices = jax.local_devices()[:count]
    setups = [build.setup(cell.config, cell.dataset, devices[:1], shared) for cell in cells]
    mesh = Mesh(np.asarray(devices), (population.AXIS,))
    states = [sharding.to_host(train.initial_state(setup, sharding.place(
        state_lib.hparams_of(setup.config), sharding.replicated(setup.mesh)))) for setup in setups]
    state = sharding.place(population.stack(states),
                           NamedSharding(mesh, PartitionSpec(population.AXIS)), own=True)
    opened = population.open_feed(setups, cells[0].sources[0], mesh, state, 0)
    return _seconds_a_step(opened, state), opened.compile_seconds


def _seconds_a_step(opened: feed.Feed, state) -> float:
    """Returns the least of a few dispatches, the first of which is not timed."""
    item, least, done, began = next(opened.items), math.inf, 0, time.monotonic()
    while done < 2 or (done < 4 and time.monotonic() - began < _TIMED_SECONDS):
        since = time.monotonic()
        state, measured = opened.dispatch(state, item)
        jax.block_until_ready(measured)
        if done:
            least = min(least, time.monotonic() - since)
        done += 1
    return least / opened.steps


def process_seconds() -> float:
    """Returns how long this process has been running; 0 where the system is not Linux."""
    try:
        with open('/proc/self/stat', encoding='ascii') as file:
            ticks = int(file.read().rsplit(')', 1)[1].split()[19])
        return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf('SC_CLK_TCK')
    except (OSError, AttributeError, ValueError, IndexError):
        return 0.0
