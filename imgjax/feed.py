"""The feed of a run: the inputs of each dispatch, and the compiled program that takes them.

A training split that fits in memory is put on the device whole (the resident set), and the host
sends only indices; otherwise the host sends pixels. The batches are the same, bit for bit.
"""

import itertools
import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import jax
import numpy as np

from imgjax import sharding
from imgjax.build import Setup, batch_struct, draw
from imgjax.data import Source, pipeline
from imgjax.errors import ConfigError, OutOfMemoryError, PreemptedError
from imgjax.perf import jaxpr_text
from imgjax.process import backend, cache, stop, terminal

log = logging.getLogger('imgjax')

# A split of at most so many bytes of uint8 pixels is put on every device as the resident set.
RESIDENT_BYTES = 2**30
# More steps per dispatch are not faster, and a stop signal takes effect between two dispatches.
MOST_STEPS_PER_DISPATCH = 50


class Feed(NamedTuple):
    """The inputs of the steps, and the compiled program that computes them.

    Attributes:
      items: yields the input of each dispatch, on the device, up to the last step of the config.
      dispatch: (state, item) -> (state, metrics of its last step); the state is donated.
      steps: the number of steps per dispatch.
      compile_seconds: the time that tracing and compiling took.
      flops: FLOPs of one step over all devices; None if XLA does not know them.
    """

    items: Iterator[dict]
    dispatch: Callable
    steps: int
    compile_seconds: float
    flops: float | None


def fits(setup: Setup, source: Source) -> bool:
    """Decides whether a decoded split has at most RESIDENT_BYTES."""
    return len(source.examples) * math.prod(setup.dataset.image_shape) <= RESIDENT_BYTES


def is_resident(setup: Setup, source: Source) -> bool:
    """Decides whether the training split is a resident set; reads setup.config and setup.dataset.

    Raises:
      ConfigError: config.data.resident is 'yes' and the images are cropped at random on the host.
    """
    options = setup.config.data
    requested, cropped = options.resident, options.train_crop != 'center'
    if requested == 'yes' and cropped:
        raise ConfigError('config.data.resident: a set that is cropped at random on the host '
                          '(data.train_crop) cannot stay on the device; set it to auto or no')
    return requested == 'yes' or (requested == 'auto' and not cropped and fits(setup, source))


def memory_advice(setup: Setup) -> str:
    """Returns the end of a message: which fields to change so that a run needs less memory."""
    config = setup.config
    ways = [f'lower config.batch_size ({config.batch_size})',
            f'raise config.accumulation_steps ({config.accumulation_steps}), the parts that a '
            'batch is computed in']
    if not getattr(setup.model, 'remat', True):
        ways.append('set config.model.options.remat=True, which computes activations twice')
    if max(setup.dataset.image_shape[:2]) > 64:
        ways.insert(0, f'lower config.data.image_size ({setup.dataset.image_shape[0]})')
    return f'{", ".join(ways[:-1])} or {ways[-1]}'


def loops_slowly(setup: Setup, hparams: dict) -> bool:
    """Returns whether a step has a convolution and runs on a CPU.

    There XLA runs convolutions 8 to 18 times slower inside a loop or a vmap (jax-ml/jax#12868).

    Args:
      setup: the run.
      hparams: arrays, or their shapes.
    """
    if backend.platform() != 'cpu':  # the step is not traced for nothing
        return False
    return cache.once(setup.cache, 'convolves', setup.key, lambda: jaxpr_text.convolves(str(
        jax.make_jaxpr(setup.train_step)(
            setup.target, batch_struct(setup.dataset, setup.config.batch_size), hparams,
            setup.constants))))


def steps_per_dispatch(setup: Setup, hparams: dict, first: int) -> int:
    """Chooses how many steps of a resident set run in one dispatch, as a lax.scan.

    On GPU and TPU a scan hides the time that a dispatch takes in small models. On a CPU an MLP is
    1.9 times faster with it, too, but a model with convolutions gets one step per dispatch
    (`loops_slowly`). The number divides every interval of the config, so that rows, evaluations and
    checkpoints come between two dispatches.

    Args:
      setup: the run.
      hparams: arrays, or their shapes.
      first: the step that the run goes on from.

    Raises:
      ConfigError: config.steps_per_dispatch does not divide every interval.
    """
    config = setup.config
    borders = math.gcd(config.steps, config.log_every, config.eval_every,
                       config.checkpoint.every)
    requested = config.steps_per_dispatch
    if requested and borders % requested:
        raise ConfigError(f'config.steps_per_dispatch: {requested} does not divide steps, '
                          f'log_every, eval_every and checkpoint.every ({borders} does)')
    if loops_slowly(setup, hparams):
        chosen = requested or 1
    else:
        chosen = requested or max(
            k for k in range(1, MOST_STEPS_PER_DISPATCH + 1) if borders % k == 0)
    return math.gcd(chosen, first)  # it may have stopped at a step that `chosen` does not divide


def open_feed(setup: Setup, source: Source, state, first: int, hparams: dict,
              beat=lambda: None, record_faults=lambda indices, faults: None) -> Feed:
    """Places the data, compiles the step and returns the feed from step `first` on.

    Args:
      setup: the run.
      source: the training split.
      state: TrainState on the mesh, after `first` steps.
      first: the step to go on from.
      hparams: arrays on the mesh.
      beat: called once per image while a resident set is decoded.
      record_faults: called with the indices of examples that were decoded, and with their column
        `fault`.

    Raises:
      ConfigError: config.steps_per_dispatch does not fit.
      OutOfMemoryError: the step needs more memory than is free.
      PreemptedError: the run was asked to stop while it decoded the resident set.
    """
    if is_resident(setup, source):
        stride = steps_per_dispatch(setup, hparams, first)
        examples = resident_set(setup, source, record_faults, beat)
        items = _index_items(setup, source, first, stride)
    else:
        if setup.config.steps_per_dispatch > 1:
            raise ConfigError('config.steps_per_dispatch: the training split is streamed, with one '
                              'step per dispatch; set it to 0, or config.data.resident to yes')
        stride, examples = 1, {}
        items = _pixel_items(setup, source, record_faults, first)
    item = next(items, None)
    if item is None:  # no steps are left
        return Feed(iter(()), lambda state, item: None, stride, 0.0, None)
    resident = {'examples': examples, 'constants': constants(setup)}
    dispatch, flops, seconds = compile_or_reuse_step(setup, stride, state, resident, item, hparams)
    return Feed(itertools.chain([item], items),
                lambda state, item: dispatch(state, resident, item, hparams), stride, seconds,
                flops)


def compile_step(setup: Setup, stride: int, state, resident: dict, item: dict, hparams: dict):
    """Returns (compiled dispatch(state, resident, item, hparams), FLOPs of a step or None).

    Args:
      setup: the run.
      stride: the number of steps per dispatch.
      state: TrainState on the mesh, for its shapes; each call of dispatch donates its state.
      resident: {'examples': the resident set, or {} where the item has the pixels; 'constants':
        what `constants` returns}.
      item: an input as `Feed.items` yields it.
      hparams: arrays on the mesh.
    """
    traced = trace(setup, stride, state, resident, item, hparams)
    lowered = traced.lower()
    return lowered.compile(), _flops_of_a_step(traced, lowered, stride)


def compile_or_reuse_step(setup: Setup, stride: int, state, resident: dict, item: dict,
                          hparams: dict):
    """Returns what `compile_step` returns, from the cache if possible, and the seconds it took.

    Raises:
      OutOfMemoryError: the step needs more memory than is free.
    """
    def timed():
        began = time.monotonic()
        log.info('compiling the training step for batches of %d images of %d x %d',
                 setup.config.batch_size, *setup.dataset.image_shape[:2])
        compiled, flops = compile_step(setup, stride, state, resident, item, hparams)
        seconds = time.monotonic() - began
        _check_memory(setup, compiled, seconds)
        return compiled, flops, seconds

    return cache.once(setup.cache, 'dispatch', (setup.key, stride), timed)


def _check_memory(setup: Setup, compiled, seconds: float) -> None:
    """Logs the memory that a step needs beside state and data; raises if less memory is free."""
    need, free = memory_of(compiled, setup.mesh), backend.free_memory(setup.mesh.local_devices)
    if need is None:
        return
    log.info('compiled in %.0f s; the step needs %s beside the state and the data%s', seconds,
             _amount(need), '' if free is None else f', {_amount(free)} are free')
    if free is not None and need > free:
        raise OutOfMemoryError(f'a training step needs {_amount(need)} of memory and '
                               f'{_amount(free)} are free; {memory_advice(setup)}')


def memory_of(compiled, mesh) -> int | None:
    """Returns the bytes that a program needs beside its arguments; None if XLA does not know them.

    They are bytes per device; on a CPU, where all devices share the memory of the host, they are
    the bytes of all its devices together.
    """
    found = compiled.memory_analysis()
    if found is None:
        return None
    need = found.temp_size_in_bytes + found.output_size_in_bytes - found.alias_size_in_bytes
    return need * len(mesh.local_devices) if backend.platform() == 'cpu' else need


def _amount(count: int) -> str:
    return f'{count / 2**30:.1f} GiB' if count >= 2**30 else f'{count / 2**20:.0f} MiB'


def _flops_of_a_step(traced, lowered, stride: int) -> float | None:
    """Returns the FLOPs of one step, before XLA optimises it; None where they cannot be counted.

    XLA counts the body of a loop once. For the loop over the steps of a dispatch that gives one
    step, which is right; for a step with a loop inside (rnn, scanned layers, accumulation) it would
    be wrong, so that None is returned.
    """
    if jaxpr_text.loops(str(traced.jaxpr)) > (stride > 1):
        return None
    return (lowered.cost_analysis() or {}).get('flops') or None


def decoding(items: Iterable, total: int, unit: str, beat=lambda: None) -> Iterator:
    """Yields the items that are decoded before the first step, and shows a progress bar.

    Args:
      items: an iterable that decodes them.
      total: the number of items.
      unit: the word for one item on the progress bar.
      beat: called once per item.

    Raises:
      PreemptedError: the run was asked to stop.
    """
    with terminal.progress(total, 0, unit) as bar:
        bar.set_description('decoding')
        for item in items:
            yield item
            bar.update()
            beat()
            if stop.preempted():
                raise PreemptedError('asked to stop while decoding; nothing had to be saved')


def resident_set(setup: Setup, source: Source, record_faults, beat, mesh=None) -> dict:
    """Returns the decoded split, {name: array}, on every device of `mesh`; None: the run's mesh."""
    arrays = cache.once(
        setup.cache, 'decoded', cache.data(setup.config, setup.dataset), lambda: pipeline.load_all(
            source, setup.config.data, setup.dataset.image_shape[0],
            lambda items: decoding(items, len(source.examples), 'image', beat)))
    record_faults(np.arange(len(source.examples)), arrays['fault'])
    mesh = mesh or setup.mesh
    return cache.once(
        setup.cache, 'train set', cache.data(setup.config, setup.dataset, mesh),
        lambda: sharding.place(
            {name: array for name, array in arrays.items() if name != 'fault'},
            sharding.replicated(mesh)))


def constants(setup: Setup, mesh=None):
    """Returns the objective's constants on every device of `mesh`; None: the run's mesh."""
    mesh = mesh or setup.mesh
    return cache.once(
        setup.cache, 'constants', (setup.key, mesh),
        lambda: sharding.place(setup.constants, sharding.replicated(mesh)))


def _index_items(setup: Setup, source: Source, first: int, stride: int) -> Iterator[dict]:
    batch_size = setup.config.batch_size
    indices_at = draw(setup.config, source)
    placement = sharding.batch_sharding(setup.mesh, leading=1)
    for step in range(first, setup.config.steps, stride):
        positions = step * batch_size + np.arange(stride * batch_size, dtype=np.int64)
        indices = indices_at(positions).astype(np.int32)
        yield {'index': sharding.place(indices.reshape(stride, batch_size), placement)}


def _pixel_items(setup: Setup, source: Source, record_faults, first: int) -> Iterator[dict]:
    config = setup.config
    batches = pipeline.train_batches(
        source, draw(config, source), config.data, setup.dataset.image_shape[0],
        batch_size=config.batch_size, seed=config.hparams.seed,
        process=sharding.rows_here(setup.mesh))
    placement = sharding.batch_sharding(setup.mesh)
    stream = pipeline.iterate(batches, config.data.workers, first)
    for batch in itertools.islice(stream, config.steps - first):
        record_faults(batch['index'], batch['fault'])
        yield sharding.to_device(
            {name: batch[name] for name in ('image', 'label', 'weight')}, placement)


def dispatcher(setup: Setup, stride: int, together=lambda batch: batch):
    """Returns dispatch(state, resident, item, hparams), a pure function that is not compiled yet.

    Its arguments are as `compile_step` takes them. `together` is applied to each batch that was
    taken from the resident set.
    """
    def one(state, resident, item, hparams):
        batch, examples = item, resident['examples']
        if examples:
            batch = together({name: values[item['index']] for name, values in examples.items()})
        return setup.train_step(state, batch, hparams, resident['constants'])

    def dispatch(state, resident, item, hparams):
        if not resident['examples']:
            return one(state, resident, item, hparams)
        if stride == 1:
            return one(state, resident, {'index': item['index'][0]}, hparams)
        state, measured = jax.lax.scan(
            lambda state, item: one(state, resident, item, hparams), state, item)
        return state, jax.tree.map(lambda values: values[-1], measured)

    return dispatch


def trace(setup: Setup, stride: int, state, resident: dict, item: dict, hparams: dict):
    """Traces dispatch(state, resident, item, hparams): `stride` steps, the state donated.

    The arguments are as `compile_step` takes them, or their shapes with their shardings.
    """
    together = sharding.batch_sharding(setup.mesh)
    dispatch = dispatcher(
        setup, stride, lambda batch: jax.lax.with_sharding_constraint(batch, together))
    placed = jax.tree.map(lambda array: array.sharding, (state, resident, item, hparams))
    return jax.jit(
        dispatch, in_shardings=placed, donate_argnums=0,
        out_shardings=(placed[0], sharding.replicated(setup.mesh)),
        compiler_options=backend.compiler_options(),
    ).trace(state, resident, item, hparams)
