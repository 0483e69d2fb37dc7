"""What checkpoints cost: saving while a run trains, and verifying what is restored.

    python -m benchmarks.checkpoint                      # a state of 100 MB, and one of 1 GB
    python -m benchmarks.checkpoint --megabytes=20 --restore_megabytes=100 --rounds=6

Blocks of 20 steps, in which a save begins and ends, take turns with blocks without one; what a save
costs is the difference of a pair, its median over the rounds, told as a share of the steps between
two saves. Restoring is timed whole, and in it what verifies the digests.
"""

import statistics
import tempfile
import time

import jax
import numpy as np
from absl import app, flags, logging

from configs import digits
from imgjax import build, feed, sharding, state, train
from imgjax import config as config_lib
from imgjax.process import backend
from imgjax.rundir import checkpoint, digests

_MEGABYTES = flags.DEFINE_integer('megabytes', 100, 'Of the state that is saved.')
_RESTORE = flags.DEFINE_integer('restore_megabytes', 1000, 'Of the state that is restored.')
_EVERY = flags.DEFINE_integer('every', 100, 'Steps between two saves.')
_BATCH_SIZE = flags.DEFINE_integer('batch_size', 512, 'Images of a step.')
_ROUNDS = flags.DEFINE_integer('rounds', 15, 'Pairs of blocks; a third as many restores.')
_BLOCK = 20  # steps: a save of 100 MB ends within 3 of them
_HASH = 'benchmark'


def job_of(megabytes: int) -> tuple[build.Setup, tuple]:
    """Returns an mlp whose parameters and two moments are of that size, and its dataset."""
    parameters = megabytes * 1e6 / 12
    config = digits.get_config('mlp')
    config.model.options = dict(hidden=(round(np.sqrt(parameters / 2)),) * 3)
    config.update(steps=10**6, batch_size=_BATCH_SIZE.value, log_every=10**6, eval_every=10**6,
                  steps_per_dispatch=1, checkpoint=dict(every=10**6, keep_newest=1))
    config = config_lib.checked(config)
    splits = build.open_dataset(config)
    return build.setup(*build.describe(config, *splits)), splits


def block(opened, now, writer=None):
    """Returns (state, seconds of the steps, seconds of them in save)."""
    began, saving = time.monotonic(), 0.0
    for at in range(_BLOCK):
        if at == 0 and writer:
            writer.save(now, _HASH)
            saving = time.monotonic() - began
        now, _ = opened.dispatch(now, next(opened.items))
    jax.block_until_ready(now)
    return now, time.monotonic() - began, saving


def save_cost() -> None:
    setup, (source, _) = job_of(_MEGABYTES.value)
    hparams = sharding.place(state.hparams_of(setup.config), sharding.replicated(setup.mesh))
    now = train.initial_state(setup, hparams)
    opened = feed.open_feed(setup, source, now, 0, hparams)
    with tempfile.TemporaryDirectory() as workdir:
        writer = checkpoint.Writer(workdir, setup.config.checkpoint)
        now, *_ = block(opened, now, writer)  # warm
        costs, steps, saves = [], [], []
        for _ in range(_ROUNDS.value):
            now, without, _ = block(opened, now)
            now, with_save, saving = block(opened, now, writer)
            assert writer.wait(), 'not saved'
            costs.append(with_save - without)
            steps.append(without / _BLOCK)
            saves.append(saving)
        writer.close()
    print('| state, MB | step, ms | a save costs, ms: median (quartiles) | the loop waits, ms '
          f'| of {_EVERY.value} steps |')
    print('|---|---|---|---|---|')
    step, (low, cost, high) = statistics.median(steps), statistics.quantiles(costs)
    print(f'| {_MEGABYTES.value} | {step * 1e3:.0f} | {cost * 1e3:.0f} ({low * 1e3:.0f} to '
          f'{high * 1e3:.0f}) | {statistics.median(saves) * 1e3:.0f} | '
          f'{cost / step / _EVERY.value:.1%} |\n')


def restore_cost() -> None:
    setup, _ = job_of(_RESTORE.value)
    hparams = sharding.place(state.hparams_of(setup.config), sharding.replicated(setup.mesh))
    now = train.initial_state(setup, hparams)
    leaf_digests = digests.leaf_digests
    whole, verify = [], []

    def timed(restored) -> dict:
        began = time.monotonic()
        found = leaf_digests(restored)
        verify.append(time.monotonic() - began)
        return found

    with tempfile.TemporaryDirectory() as workdir:
        writer = checkpoint.Writer(workdir, setup.config.checkpoint)
        writer.save(now, _HASH)
        writer.close()
        del now
        digests.leaf_digests = timed  # where restoring calls it
        for _ in range(max(1, _ROUNDS.value // 3)):
            began = time.monotonic()
            restored, _ = checkpoint.restore(workdir, 0, setup.target, _HASH)
            whole.append(time.monotonic() - began)
            del restored
        digests.leaf_digests = leaf_digests
    print('| state, MB | restoring, s | its digests, s | share |')
    print('|---|---|---|---|')
    share = statistics.median(v / w for v, w in zip(verify, whole, strict=True))
    print(f'| {_RESTORE.value} | {statistics.median(whole):.2f} | '
          f'{statistics.median(verify):.2f} | {share:.1%} |')


def main(_) -> None:
    logging.set_verbosity(logging.ERROR)
    backend.keep_memory()
    save_cost()
    restore_cost()


if __name__ == '__main__':
    app.run(main)
