"""A dry run: the real train step, compiled ahead of time for devices that need not exist here.

The path is: config, dataset, setup on the described devices, compiled step, costs, whether it fits
and what bounds it, changes that make it fit. Nothing runs on a device, and no file is written.
"""

import logging
import re
import time
from typing import Any, NamedTuple

import jax
import numpy as np

from imgjax import build, checks, feed, models, sharding
from imgjax import config as config_lib
from imgjax import state as state_lib
from imgjax.config import Config
from imgjax.data import Source
from imgjax.errors import DoesNotFitError
from imgjax.perf import collectives, flops, hlo, roofline
from imgjax.perf import topology as topology_lib
from imgjax.perf.chips import CHIPS
from imgjax.process import backend
from imgjax.rundir import dataset_info

log = logging.getLogger('imgjax')

# (classes, side of the images or 0 for many sizes, training images) of well-known datasets.
KNOWN = {
    'imagenet2012': (1000, 0, 1_281_167),
    'cifar10': (10, 32, 50_000),
    'cifar100': (100, 32, 50_000),
    'mnist': (10, 28, 60_000),
}
_UNITS = {'': 1, 'K': 2**10, 'M': 2**20, 'G': 2**30, 'T': 2**40}


class Compiled(NamedTuple):
    """A step that was compiled for its devices.

    Attributes:
      setup: the setup that was compiled.
      traced: the traced dispatch of a streamed feed.
      step: the compiled program; None if XLA reported too little memory.
      peak_bytes: the peak memory on a device in bytes; None if XLA does not report it.
      seconds: the time to compile.
    """

    setup: build.Setup
    traced: Any
    step: Any
    peak_bytes: int | None
    seconds: float


def run(config, topology: str, classes: int = 0, image_size: int = 0,
        train_examples: int = 0) -> dict:
    """Returns the costs of a config's step on a topology, and logs them as a table.

    Args:
      config: the value of a recipe's get_config, or its plain data.
      topology: a name such as 'v5e:16x16' or 'cpu:8'; topology.prepare has to be called before.
      classes: the number of classes, for a dataset that need not be here; 0 takes the number in
        KNOWN, or opens the dataset.
      image_size: the side of the images in pixels, if the config does not give it.
      train_examples: the number of training images, for a config that counts epochs; 0 takes 1,000
        per class.

    Raises:
      ConfigError: a field or flag is wrong; the message names it.
      DoesNotFitError: the step needs too much memory; the error carries the result.
    """
    devices = topology_lib.devices(topology)
    kind = topology_lib.parse(topology)[0]
    config = config_lib.checked(config)
    checks.check_strengths(config)
    config, dataset = _described(config, classes, image_size, train_examples)
    with backend.made_for('cpu' if kind == 'cpu' else 'tpu'):
        result = figures(compile_step(config, dataset, devices), kind)
        result = {'topology': topology, **result}
        log.info('%s on %s\n%s', config.name or config.model.name, topology,
                 table(result))
        if not result['fits']:
            result['tries'] = _tried(config, dataset, devices, kind)
            raise DoesNotFitError(_advice(result, topology), result)
    return result


def _described(config: Config, classes: int, side: int,
               examples: int) -> tuple[dict, dataset_info.DatasetInfo]:
    """Returns the completed config and the description of a dataset that need not be here."""
    options = config.data
    known = KNOWN.get(options.name, (0, 0, 0))
    classes, examples = classes or known[0], examples or known[2] or 1000 * classes
    side = options.image_size or side or known[1]
    if not classes:
        return build.describe(config, *build.open_dataset(config))
    config = config | {'data': options | {'image_size': side or options.usual_size}}
    source = Source(range(examples), tuple(map(str, range(classes))), '',  # type: ignore[arg-type]
                    lambda: np.arange(examples, dtype=np.int32) % np.int32(classes))
    return build.describe(config, source, source)


def compile_step(config: Config, dataset: dataset_info.DatasetInfo, devices: list) -> Compiled:
    """Compiles the step of a streamed feed for the devices.

    The caller has to enter backend.made_for first.

    Raises:
      ConfigError: a field is wrong; the message names it.
    """
    setup = build.setup(config, dataset, devices)
    sharding.check_batch_size(config.batch_size, config.accumulation_steps, setup.mesh)
    traced = trace(setup)
    began = time.monotonic()
    lowered = traced.lower()
    try:
        step = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if not backend.is_out_of_memory(error):
            raise
        arguments = sum(_bytes_on_device(leaf) for leaf in jax.tree.leaves(lowered.in_avals[0]))
        return Compiled(setup, traced, None, needed_bytes(str(error), arguments),
                        time.monotonic() - began)
    memory = step.memory_analysis()
    peak = (memory.argument_size_in_bytes + memory.temp_size_in_bytes
            + memory.output_size_in_bytes - memory.alias_size_in_bytes)
    return Compiled(setup, traced, step, peak, time.monotonic() - began)


def trace(setup: build.Setup) -> Any:
    """Traces the dispatch of a streamed feed: a step on a batch of pixels; the state is donated."""
    batch = build.batch_struct(setup.dataset, setup.config.batch_size,
                               sharding.batch_sharding(setup.mesh))
    hparams = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding.replicated(setup.mesh)),
        state_lib.hparams_of(setup.config))
    constants = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding.replicated(setup.mesh)),
        setup.constants)
    return feed.trace(setup, 1, setup.target, {'examples': {}, 'constants': constants}, batch,
                      hparams)


def needed_bytes(message: str, arguments: int) -> int | None:
    """Returns the memory that a program needs, from XLA's error; None if the error has no number.

    Args:
      message: the message of the error, in one of the two forms of the TPU's compiler.
      arguments: the bytes of the state and the batch, which the second form does not include.
    """
    used = re.search(r'Used ([\d.]+)([KMGT]?) of [\d.]+[KMGT]? hbm', message)
    if used:
        return round(float(used[1]) * _UNITS[used[2]])
    temporaries = re.search(r'required for HLO temporaries \(([\d.]+)([KMGT]?)\)', message)
    if temporaries:
        return round(float(temporaries[1]) * _UNITS[temporaries[2]]) + arguments
    return None


def figures(compiled: Compiled, kind: str) -> dict:
    """Returns the costs per device as plain data; those that need a compiled step may be None."""
    setup, chip = compiled.setup, CHIPS.get(kind)
    devices, step, batch_size = setup.mesh.size, compiled.step, setup.config.batch_size
    all_flops, model_flops = _flops(compiled)
    hbm = chip.hbm if chip else topology_lib.host_memory() // devices
    result = {
        'devices': devices,
        'fits': step is not None and compiled.peak_bytes <= hbm,
        'batch_size': batch_size,
        'parameters': state_lib.parameter_count(setup.target),
        'parameter_bytes': _bytes(setup.target.params),
        'optimizer_bytes': _bytes(setup.target.opt_state),
        'other_state_bytes': _bytes((setup.target.ema, setup.target.batch_stats)),
        'activation_bytes': step.memory_analysis().temp_size_in_bytes if step else None,
        'peak_bytes': compiled.peak_bytes,
        'hbm_bytes': hbm,
        'flops': all_flops // devices,
        'model_flops': model_flops // devices,
        'hbm_traffic_bytes': None,
        'collectives': None,
        'step_seconds_bound': None,
        'compile_seconds': round(compiled.seconds, 1),
    }
    found = []
    if step is not None:
        program = hlo.parse(step.as_text())
        found = collectives.find(program, devices)
        result |= {'hbm_traffic_bytes': hlo.traffic(program),
                   'collectives': collectives.totals(found)}
    if chip and step is not None:
        limits = roofline.seconds(chip, result['flops'], result['hbm_traffic_bytes'], found)
        bound = max(limits.values())
        result |= {
            'step_seconds_bound': bound, 'bounds': limits,
            'binds': max(limits, key=limits.get),
            'mfu_bound': result['model_flops'] / chip.flops / bound,
            'images_per_second_bound': batch_size / bound}
    return result


def _flops(compiled: Compiled) -> tuple[int, int]:
    """Returns the FLOPs of a step over all devices, with and without the recomputation of remat.

    On a CPU convolutions are written as sums, so the step is counted in other platforms' form.
    """
    def count_for_tpu(config: Config) -> int:
        with backend.made_for('tpu'):
            devices = list(compiled.setup.mesh.devices.flat)
            return flops.count(trace(build.setup(config, compiled.setup.dataset, devices)).jaxpr)

    config = compiled.setup.config
    model = config.model
    all_flops = count_for_tpu(config) if backend.platform() == 'cpu' else (
        flops.count(compiled.traced.jaxpr))
    if not model.options.get('remat'):
        return all_flops, all_flops
    without_remat = model | {'options': model.options | {'remat': False}}
    return all_flops, count_for_tpu(config | {'model': without_remat})


def _bytes(tree) -> int:
    return sum(_bytes_on_device(leaf) for leaf in jax.tree.leaves(tree))


def _bytes_on_device(leaf) -> int:
    shape = leaf.sharding.shard_shape(leaf.shape) if leaf.sharding else leaf.shape
    return int(np.prod(shape)) * leaf.dtype.itemsize


def _changes(config: Config, devices: int):
    """Yields (description, changed config) for changes that may make a step fit, cheapest first."""
    remat = 'remat' in models.options(config.model.name) and (
        not config.model.options.get('remat'))
    most = devices // config.mesh.tensor
    fsdp = config.mesh.fsdp < most
    parts = config.accumulation_steps * most
    halves = []
    while config.batch_size % (2 ** (len(halves) + 1) * parts) == 0:
        halves.append(config.batch_size // 2 ** (len(halves) + 1))
    whole = config.batch_size
    for batch_size, use_remat, use_fsdp in [
            (whole, True, False), (whole, False, True), (whole, True, True),
            *[(half, remat, fsdp) for half in halves]]:
        if (use_remat and not remat) or (use_fsdp and not fsdp):
            continue
        changed, words = config_lib.plain(config), []
        if use_remat:
            changed['model']['options']['remat'] = True
            words.append('model.options.remat=True')
        if use_fsdp:
            changed['mesh'] |= {'data': -1, 'fsdp': most}
            words.append(f'mesh.fsdp={most}')
        if batch_size != whole:
            changed['batch_size'] = batch_size
            words.append(f'batch_size={batch_size}')
        yield ' '.join(words), config_lib.Config(changed)


def _tried(config: Config, dataset: dataset_info.DatasetInfo, devices: list,
           kind: str) -> list[dict]:
    """Compiles one change after the other until one fits; returns the costs with each change."""
    tries = []
    for change, changed in _changes(config, len(devices)):
        log.info('it does not fit; trying %s', change)
        found = {'change': change, **figures(compile_step(changed, dataset, devices), kind)}
        log.info('%s: %s, peak %s', change, 'fits' if found['fits'] else 'does not fit',
                 _size(found['peak_bytes']))
        tries.append(found)
        if found['fits']:
            break
    return tries


def _advice(result: dict, topology: str) -> str:
    fitting = [found for found in result['tries'] if found['fits']]
    text = (f'--topology={topology}: the step does not fit, it takes '
            f'{_size(result["peak_bytes"])} of {_size(result["hbm_bytes"])}')
    if not fitting:
        return f'{text}; none of {len(result["tries"])} changes made it fit: take more devices'
    bound = fitting[0]['step_seconds_bound']
    return (f'{text}; with config.{fitting[0]["change"].replace(" ", " config.")} it takes '
            f'{_size(fitting[0]["peak_bytes"])}'
            + (f' and at least {1e3 * bound:.2f} ms per step' if bound else ''))


def _size(count: int | None) -> str:
    if count is None:
        return 'unknown'
    return f'{count / 2**30:.2f} GiB' if count >= 2**26 else f'{count / 2**20:.2f} MiB'


def table(result: dict) -> str:
    """Returns a result as lines for people: the memory, FLOPs and collectives of each device."""
    lines = {
        'devices': f'{result["devices"]}, for a batch of {result["batch_size"]:,} images',
        'parameters': f'{_size(result["parameter_bytes"])}, {result["parameters"]:,} in all',
        'optimizer': f'{_size(result["optimizer_bytes"])}',
        'EMA, statistics': f'{_size(result["other_state_bytes"])}',
        'activations': f'{_size(result["activation_bytes"])} (all temporaries)',
        'peak': f'{_size(result["peak_bytes"])} of {_size(result["hbm_bytes"])}',
        'FLOPs': f'{result["flops"]:.4g}, {result["model_flops"]:.4g} of them for the model itself',
    }
    for name, total in (result['collectives'] or {}).items():
        lines[name] = f'{total["count"]} of {total["bytes"]:,} bytes together'
    for name, seconds in result.get('bounds', {}).items():
        binds = ', which binds' if name == result['binds'] else ''
        lines[f'{name} bound'] = f'{1e3 * seconds:.3f} ms{binds}'
    if 'bounds' in result:
        lines['if perfect'] = (f'{100 * result["mfu_bound"]:.1f} % MFU, '
                               f'{result["images_per_second_bound"]:,.0f} images/s')
    lines['compiled in'] = f'{result["compile_seconds"]} s'
    lines['verdict'] = 'fits' if result['fits'] else 'does not fit'
    return '\n'.join(f'  {name:<18} {text}' for name, text in lines.items())
