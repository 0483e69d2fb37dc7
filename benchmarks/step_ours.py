"""A training step of ours as a process that benchmarks/train_step.py drives.

Its one argument is JSON: name, size, batch, dtype, and whether to do without process/backend.py
(plain). It prints a line when it is ready, and for every number of steps read from standard input a
line with the seconds they took.
"""

import json
import resource
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

from configs import base
from imgjax import build, feed, sharding, state, train
from imgjax.process import backend
from imgjax.rundir import dataset_info

# Side of the square matrices whose product is the ceiling of the utilisation.
CEILING_SIDE = {'cpu': 2048, 'gpu': 8192, 'tpu': 8192}


def memory_mb() -> float:
    """Returns the most that was held: on the device where it says so, else by the process."""
    stats = jax.devices()[0].memory_stats() or {}
    peak = stats.get('peak_bytes_in_use')
    return (peak or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024) / 2**20


def matmul_flops(dtype) -> float:
    """Returns FLOP/s of a large matrix product, the best of ten."""
    side = CEILING_SIDE[jax.default_backend()]
    a = jnp.ones((side, side), dtype)
    product = jax.jit(lambda a: a @ a)
    product(a).block_until_ready()
    seconds = []
    for _ in range(10):
        began = time.perf_counter()
        product(a).block_until_ready()
        seconds.append(time.perf_counter() - began)
    return 2 * side**3 / min(seconds)


def prepare(name: str, size: int, batch: int, dtype: str):
    """Returns (steps -> seconds, seconds of compiling, FLOPs of a step)."""
    config = base.get_config().to_dict()
    config['model'] |= {'name': name, 'dtype': dtype}
    config['optimizer'] |= {'name': 'sgd'}
    config |= {'batch_size': batch, 'steps': 1000}
    classes = [str(i) for i in range(1000)]
    dataset = dataset_info.DatasetInfo(classes, [size, size, 3], batch, batch, '', '')
    setup = build.setup(config, dataset, jax.devices()[:1])
    hparams = jax.device_put(state.hparams_of(config), sharding.replicated(setup.mesh))
    current = train.initial_state(setup, hparams)
    rng = np.random.default_rng(0)
    item = jax.device_put({
        'image': rng.integers(0, 256, (batch, size, size, 3), np.uint8),
        'label': rng.integers(0, 1000, batch).astype(np.int32),
        'weight': np.ones(batch, np.float32)}, sharding.batch_sharding(setup.mesh))
    began = time.perf_counter()
    dispatch, flops = feed.compile_step(setup, 1, current, {}, item, hparams)
    compiling = time.perf_counter() - began

    def run(steps: int) -> float:
        nonlocal current
        began = time.perf_counter()
        for _ in range(steps):
            current, measured = dispatch(current, {}, item, hparams)
        jax.block_until_ready(measured)
        return time.perf_counter() - began

    return run, compiling, flops


def main() -> None:
    wanted = json.loads(sys.argv[1])
    if wanted.pop('plain'):
        backend.compiler_options = dict
    else:
        backend.keep_memory()
    ceiling = matmul_flops(wanted['dtype'])
    run, compiling, flops = prepare(**wanted)
    run(1)
    print(json.dumps({'compile': compiling, 'flops': flops, 'ceiling': ceiling,
                      'device': jax.devices()[0].device_kind}), flush=True)
    for line in sys.stdin:
        print(json.dumps({'seconds': run(int(line)), 'memory': memory_mb()}), flush=True)


if __name__ == '__main__':
    main()
