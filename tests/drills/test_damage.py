"""Bits and files of a checkpoint, and copies of a state on devices, that are not what they were."""

import os
import pathlib
import random
import shutil

import jax
import numpy as np
import pytest

from configs import digits
from imgjax import build, sharding, state, train
from imgjax import config as config_lib
from imgjax.errors import ReplicaError
from imgjax.rundir import checkpoint, digests


@pytest.fixture(scope='module')
def setup():
    config = digits.get_config('mlp')
    config.model.name, config.model.options = 'tiny_mlp', dict(hidden=(64, 64))
    config.update(steps=2, log_every=1, eval_every=0, batch_size=32, ema=True,
                  steps_per_dispatch=1, checkpoint=dict(every=1))
    config = config_lib.checked(config)
    return build.setup(*build.describe(config, *build.open_dataset(config)))


@pytest.fixture(scope='module')
def saved(setup, tmp_path_factory):
    """(run directory with the steps 1 and 2, which is to be copied; their digests)"""
    path = tmp_path_factory.mktemp('saved') / 'run'
    train.run(setup.config, str(path))
    hashed = config_lib.digest(setup.config)
    return path, {step: checkpoint.restore(str(path), step, setup.target, hashed)[1]['state_digest']
                  for step in (1, 2)}


def files_of(workdir, step: int) -> list[pathlib.Path]:
    return sorted(p for p in (workdir / 'checkpoints' / str(step)).rglob('*') if p.is_file())


def restored(workdir, setup, expected: dict) -> int:
    """Returns the step that is restored; its bits are those that were saved, or nothing is."""
    now, meta = checkpoint.restore_newest(
        str(workdir), setup.target, config_lib.digest(setup.config), put_aside=True)
    assert digests.state_digest(now) == expected[meta['step']]
    assert (workdir / 'damaged' / '2').exists() == (meta['step'] == 1)
    return meta['step']


def test_fifty_flipped_bits_none_silent(setup, saved, tmp_path, seed):
    original, expected = saved
    rng = random.Random(seed)
    found = 0
    for flip in range(50):
        workdir = tmp_path / str(flip)
        shutil.copytree(original, workdir)
        files = [f for f in files_of(workdir, 2) if f.stat().st_size]
        path = rng.choices(files, weights=[f.stat().st_size for f in files])[0]
        data = bytearray(path.read_bytes())
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        path.write_bytes(data)
        # Either harmless (a bit that nothing reads), or found, and the step before it is used.
        found += restored(workdir, setup, expected) == 1
        shutil.rmtree(workdir)
    assert found >= 25, 'hardly a flip reached the payload: the drill does not test anything'


@pytest.mark.parametrize('harm', ['truncate', 'zero', 'delete', 'swap'])
def test_every_file_harmed(harm, setup, saved, tmp_path):
    original, expected = saved
    for number, file in enumerate(files_of(original, 2)):
        workdir = tmp_path / str(number)
        shutil.copytree(original, workdir)
        path = workdir / file.relative_to(original)
        if harm == 'truncate':
            os.truncate(path, path.stat().st_size // 2)
        elif harm == 'zero':
            path.write_bytes(bytes(path.stat().st_size))
        elif harm == 'delete':
            path.unlink()
        else:
            twins = [f for f in files_of(workdir, 1)
                     if f.relative_to(workdir / 'checkpoints/1')
                     == path.relative_to(workdir / 'checkpoints/2')]
            if not twins:
                continue
            shutil.copy(twins[0], path)
        restored(workdir, setup, expected)
        shutil.rmtree(workdir)


def flipped(leaf, rng):
    """A leaf with one bit of one device's copy flipped."""
    copies = [np.array(shard.data) for shard in leaf.addressable_shards]
    data = rng.choice(copies).reshape(-1).view(np.uint8)
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return jax.make_array_from_single_device_arrays(leaf.shape, leaf.sharding, [
        jax.device_put(copy, shard.device)
        for copy, shard in zip(copies, leaf.addressable_shards, strict=True)])


@pytest.mark.parametrize('fsdp', [1, 2])
def test_flipped_copies_on_four_devices_are_found_and_not_saved(fsdp, setup, tmp_path, seed):
    rng = random.Random(seed)
    config = setup.config | {'mesh': {'data': -1, 'fsdp': fsdp, 'tensor': 1}}
    own = build.setup(config, setup.dataset, jax.devices()[:4])
    hparams = sharding.place(state.hparams_of(config), sharding.replicated(own.mesh))
    good = train.initial_state(own, hparams)
    digests.check_replicas(good)
    leaves, tree = jax.tree.flatten(good)
    writer = checkpoint.Writer(str(tmp_path), config['checkpoint'])
    for _ in range(10):
        place = rng.randrange(1, len(leaves))  # all but the step, which names what is saved
        bad = jax.tree.unflatten(
            tree, [*leaves[:place], flipped(leaves[place], rng), *leaves[place + 1:]])
        with pytest.raises(ReplicaError, match='is not the same on devices'):
            writer.save(bad, 'hash')
    writer.close()
    assert not checkpoint.steps(str(tmp_path))
