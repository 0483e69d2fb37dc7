"""Going on from every step, and what the first step after a restore takes."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from configs import digits
from imgjax import build, feed, sharding, state, train
from imgjax import config as config_lib
from imgjax.errors import DataError
from imgjax.rundir import checkpoint, digests

ROOT = pathlib.Path(__file__).parents[2]
STEPS = 60  # of 32 of 1,442 images: an epoch ends inside of step 45


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
    """(run directory with every step, its setup, both splits)"""
    config = digits.get_config('cnn')
    config.model.name, config.model.options = 'tiny_cnn', dict(norm='batch', dropout=0.1)
    config.update(steps=STEPS, log_every=7, eval_every=0, batch_size=32, ema=True,
                  steps_per_dispatch=1, checkpoint=dict(every=1, keep_newest=100))
    config = config_lib.checked(config)
    workdir = str(tmp_path_factory.mktemp('saved') / 'run')
    train.run(config, workdir)
    splits = build.open_dataset(config)
    return workdir, build.setup(*build.describe(config, *splits)), splits


def test_every_step_leads_to_the_next_bit_for_bit(saved):
    workdir, setup, (source, _) = saved
    config_hash = config_lib.digest(setup.config)
    hparams = sharding.place(state.hparams_of(setup.config), sharding.replicated(setup.mesh))
    assert checkpoint.steps(workdir) == list(range(1, STEPS + 1))
    begin, _ = checkpoint.restore(workdir, 1, setup.target, config_hash)
    opened = feed.open_feed(setup, source, begin, 1, hparams)
    items = list(opened.items)
    for at in range(1, STEPS):
        now, _ = checkpoint.restore(workdir, at, setup.target, config_hash)
        now, _ = opened.dispatch(now, items[at - 1])
        expected = checkpoint.restore(workdir, at + 1, setup.target, config_hash)[1]
        assert digests.state_digest(now) == expected['state_digest'], at


def spoil(workdir: str, step: int) -> None:
    for path in pathlib.Path(workdir, 'checkpoints', str(step)).rglob('*'):
        if path.is_file():
            path.write_bytes(b'')


def test_the_newest_that_verifies_is_used_and_never_step_zero(saved):
    workdir, setup, _ = saved
    config_hash = config_lib.digest(setup.config)
    for bad in (STEPS, STEPS - 1):
        spoil(workdir, bad)
        _, meta = checkpoint.restore_newest(workdir, setup.target, config_hash, put_aside=True)
        assert meta['step'] == bad - 1
    for step in checkpoint.steps(workdir):
        spoil(workdir, step)
    with pytest.raises(DataError, match='none is usable'):
        train.run(setup.config, workdir)
    assert not checkpoint.steps(workdir), 'it started over'


MEMORY = '''
import json, sys
import jax
from configs import digits
from imgjax import build, feed, sharding, state, train
from imgjax.process import backend
from imgjax.rundir import checkpoint
from imgjax import config as config_lib

backend.keep_memory()
config = digits.get_config('mlp')
config.model.options = dict(hidden=(2048, 2048, 2048))
config.update(steps=20, batch_size=32, steps_per_dispatch=1, log_every=1, eval_every=1)
config = config_lib.checked(config)
splits = build.open_dataset(config)
setup = build.setup(*build.describe(config, *splits))
hparams = sharding.place(state.hparams_of(setup.config), sharding.replicated(setup.mesh))
if sys.argv[2] == 'save':
    now = train.initial_state(setup, hparams)
    writer = checkpoint.Writer(sys.argv[1], config['checkpoint'])
    writer.save(now, 'hash')
    writer.close()
else:
    now, _ = checkpoint.restore(sys.argv[1], 0, setup.target, 'hash')
opened = feed.open_feed(setup, splits[0], now, 0, hparams)

def held():
    return sum(array.nbytes for array in jax.live_arrays())

found, donated = [], []
for item, _ in zip(opened.items, range(8)):
    leaves = jax.tree.leaves(now)
    places = {leaf.unsafe_buffer_pointer() for leaf in leaves}
    with open('/proc/self/clear_refs', 'w') as file:
        file.write('5')  # the peak begins anew
    now, _ = opened.dispatch(now, item)
    jax.block_until_ready(now)
    leaves = jax.tree.leaves(now)
    reused = [leaf.nbytes for leaf in leaves if leaf.unsafe_buffer_pointer() in places]
    donated.append(sum(reused) / sum(leaf.nbytes for leaf in leaves))
    del leaves
    found.append({'held': held()})
    with open('/proc/self/status') as file:
        found[-1]['peak'] = next(int(line.split()[1]) for line in file if 'VmHWM' in line)
print(json.dumps({'memory': found, 'donated': donated}))
'''


def test_the_first_step_after_a_restore_takes_no_more_memory(tmp_path):
    """What was restored can be donated: the step writes where it lies."""
    def run(mode: str) -> dict:
        done = subprocess.run([sys.executable, '-c', MEMORY, str(tmp_path), mode], cwd=ROOT,
                              capture_output=True, text=True,
                              env=dict(os.environ, XLA_FLAGS=''))
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads(done.stdout.splitlines()[-1])

    run('save')
    found = run('restore')
    steady = found['memory'][-1]
    first = found['memory'][0]
    assert first['held'] <= 1.05 * steady['held']
    assert first['peak'] <= 1.05 * steady['peak']
    assert found['donated'][0] > 0.99
