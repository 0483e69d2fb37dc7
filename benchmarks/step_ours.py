"""A training step of ours as a process that benchmarks/train_step.py and gpu.py drive.

It needs JAX, Flax and Optax alone: the step is built without the data pipeline, as the program that
a run of one device dispatches.
"""

import resource
import time

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import turns
from imgjax import config as config_lib
from imgjax import models, parts, state, step
from imgjax.config import Config
from imgjax.perf import chips, flops
from imgjax.process import backend

# Side of the square matrices whose product is the ceiling of the utilisation.
CEILING_SIDE = {'cpu': 2048, 'gpu': 8192, 'tpu': 8192}


def base_config(optimizer: str = 'adamw') -> dict:
    """Returns a config of defaults with the numbers of its parts, as a dict to change."""
    config = config_lib.defaults()
    config_lib.put(config, 'optimizer.name', optimizer)
    return parts.complete(config)


def build(config: dict, size: int, channels: int = 3, classes: int = 1000):
    """Returns (the pure train step, hparams, init: hparams -> TrainState) of a config.

    Args:
      config: as of base_config.
      size: side of the images in pixels.
      channels: of the images.
      classes: of the labels.
    """
    config = Config(config)
    model = models.create(config.model.name, num_classes=classes,
                          dtype=jnp.dtype(config.model.dtype), **config.model.options)
    shape = (size, size, channels)
    return (step.make_train_step(model, config), jax.device_put(state.hparams_of(config)),
            lambda hparams: state.init(model, config, shape, hparams))


def examples(count: int, size: int, channels: int = 3, classes: int = 1000, seed: int = 0) -> dict:
    """Returns random images uint8 (count, size, size, channels) with labels, on the device."""
    rng = np.random.default_rng(seed)
    return jax.device_put({
        'image': rng.integers(0, 256, (count, size, size, channels), np.uint8),
        'label': rng.integers(0, classes, count).astype(np.int32),
        'weight': np.ones(count, np.float32)})


def initial(init, hparams):
    """Returns the state before the first step; it runs once, so it is compiled with few passes."""
    return jax.jit(init).lower(hparams).compile(
        {'xla_backend_optimization_level': 1})(hparams)


def memory_mb() -> dict:
    """Returns the most that was held: on the device where it says so, else by the process."""
    stats = jax.devices()[0].memory_stats() or {}
    peak = stats.get('peak_bytes_in_use')
    return {'peak': (peak or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024) / 2**20}


def matmul_flops(dtype, side: int = 0, rounds: int = 5) -> list[float]:
    """Returns FLOP/s of a product of random matrices, a number for each round.

    Args:
      dtype: of the matrices.
      side: of them; 0 takes what is large for the backend.
      rounds: how often it is measured.
    """
    side = side or CEILING_SIDE[jax.default_backend()]
    key = jax.random.key(0)  # zeros and ones are multiplied faster
    a, b = (jax.random.normal(jax.random.fold_in(key, i), (side, side), dtype) for i in (0, 1))
    product = jax.jit(lambda a, b: a @ b)
    jax.block_until_ready(product(a, b))
    run = turns.timed(lambda: product(a, b), jax.block_until_ready)
    return [2 * side**3 / seconds
            for seconds in turns.in_turns({'product': run}, rounds, 0.1)['product']]


def start(name: str, size: int, batch: int, dtype: str, plain: bool = False,
          options: dict | None = None, side: int = 0):
    """Returns what turns.serve takes.

    Args:
      name: of imgjax.models.
      size: side of the images in pixels.
      batch: images of a step.
      dtype: of the computation.
      plain: without what imgjax/process/backend.py says to XLA and the allocator.
      options: of the model.
      side: of the matrices whose product is the ceiling, as in matmul_flops.
    """
    if plain:
        backend.compiler_options = dict
    else:
        backend.keep_memory()
    config = base_config('sgd')
    config['model'] |= {'name': name, 'dtype': dtype, 'options': options or {}}
    config |= {'batch_size': batch, 'steps': 1000}
    train_step, hparams, init = build(config, size)
    current, batch_of_images = initial(init, hparams), examples(batch, size)
    began = time.perf_counter()
    traced = jax.jit(train_step, donate_argnums=0,
                     compiler_options=backend.compiler_options()).trace(
                         current, batch_of_images, hparams)
    dispatch = traced.lower().compile()
    compiling = time.perf_counter() - began

    def run(steps: int) -> float:
        nonlocal current
        began = time.perf_counter()
        for _ in range(steps):
            current, measured = dispatch(current, batch_of_images, hparams)
        jax.block_until_ready(measured)
        return time.perf_counter() - began

    run(1)
    device, need = jax.devices()[0], dispatch.memory_analysis()
    ready = {
        'compile': compiling, 'flops': flops.count(traced.jaxpr), 'device': device.device_kind,
        'parameters': state.parameter_count(current), 'peak': chips.peak_flops(
            device.device_kind), 'ceiling': max(matmul_flops(dtype, side)),
        'program': need and (need.argument_size_in_bytes + need.temp_size_in_bytes
                             + need.output_size_in_bytes - need.alias_size_in_bytes) / 2**20}
    return run, ready, memory_mb


if __name__ == '__main__':
    turns.serve(start)
