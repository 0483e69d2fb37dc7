"""NaN in the batch, the gradient or a parameter of a step: once, or for good."""

import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import digits
from imgjax import build, step, train
from imgjax import config as config_lib
from imgjax.errors import DivergedError
from imgjax.rundir import checkpoint, dataset_info, metrics_log

STEPS, EVERY = 60, 10
CAUSES = {'batch': 'loss', 'gradient': 'gradient', 'parameter': 'loss'}


def config_of() -> dict:
    config = digits.get_config('mlp')
    config.model.name, config.model.options = 'tiny_mlp', {}
    config.update(steps=STEPS, log_every=5, eval_every=0, batch_size=32, ema=True,
                  steps_per_dispatch=1, max_skipped_updates=8,
                  checkpoint=dict(every=EVERY, keep_newest=20))
    return config_lib.checked(config)


@pytest.fixture(scope='module')
def clean(tmp_path_factory):
    return train.run(config_of(), str(tmp_path_factory.mktemp('clean') / 'run'))


def spoil(monkeypatch, what: str, first: int, last: int, tries: int = 99) -> None:
    """Has the steps first .. last go wrong, in the first `tries` times that the run is begun."""
    begun = {'count': 0}
    make, gradient, begin = step.make_train_step, step._gradient, train._train

    def nan_at(state):
        bad = (state.step >= first) & (state.step <= last) & (begun['count'] <= tries)
        return jnp.where(bad, jnp.nan, 0.0)

    def counted(*args):
        begun['count'] += 1
        return begin(*args)

    def spoilt(*args, **options):
        sound = make(*args, **options)

        def train_step(state, batch, hparams, constants):
            if what == 'batch':
                batch = batch | {'weight': batch['weight'] + nan_at(state)}
            if what == 'parameter':
                leaves, tree = jax.tree.flatten(state.params)
                leaves[0] = leaves[0] + nan_at(state)
                state = state.replace(params=jax.tree.unflatten(tree, leaves))
            return sound(state, batch, hparams, constants)

        return train_step

    def spoilt_gradient(model, config, objective, params, state, *args):
        measured, grads = gradient(model, config, objective, params, state, *args)
        if what == 'gradient':
            grads = jax.tree.map(lambda leaf: leaf + nan_at(state), grads)
        return measured, grads

    monkeypatch.setattr(step, 'make_train_step', spoilt)
    monkeypatch.setattr(step, '_gradient', spoilt_gradient)
    monkeypatch.setattr(train, '_train', counted)


def newest(workdir):
    config = config_of()
    setup = build.setup(config, dataset_info.read(workdir))
    return checkpoint.restore_newest(
        workdir, setup.target, config_lib.digest(config), put_aside=False)[0]


@pytest.mark.parametrize('what', ['batch', 'gradient'])
@pytest.mark.parametrize('turn', range(2))
def test_one_bad_update_is_skipped_counted_and_named(
        what, turn, monkeypatch, tmp_path, caplog, clean, seed):
    at = random.Random(f'{what} {turn} {seed}').randrange(1, STEPS)
    spoil(monkeypatch, what, at, at)
    result = train.run(config_of(), str(tmp_path / 'run'))
    assert result['step'] == STEPS and result['state_digest'] != clean['state_digest']
    rows = metrics_log.read_rows(str(tmp_path / 'run'))
    last = [row for row in rows if row['split'] == 'train'][-1]
    assert (last['skipped_updates'], last[f'skipped_{CAUSES[what]}'], last['skipped_at']) == (
        1, 1, at)
    [line] = [line for line in caplog.messages if 'skipped' in line]
    assert f'the newest at step {at} with the images imgjax_digits/train/' in line
    state = jax.device_get(newest(str(tmp_path / 'run')))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))


@pytest.mark.parametrize('turn', range(3))
def test_a_parameter_that_turns_bad_once_costs_no_bit(
        turn, monkeypatch, tmp_path, caplog, clean, seed):
    """A fault of the hardware: back to the checkpoint, and the end is the undisturbed one."""
    at = random.Random(f'{turn} {seed}').randrange(EVERY, STEPS - 10)
    spoil(monkeypatch, 'parameter', at, at, tries=1)
    result = train.run(config_of(), str(tmp_path / 'run'))
    assert sum('Starting once more from the newest' in line for line in caplog.messages) == 1
    assert result['state_digest'] == clean['state_digest']


@pytest.mark.parametrize('what', ['batch', 'gradient', 'parameter'])
def test_bad_for_good_ends_with_the_images_and_the_last_good_state(
        what, monkeypatch, tmp_path, caplog, seed):
    at = random.Random(f'{what} {seed}').randrange(EVERY + 1, STEPS - 10)
    spoil(monkeypatch, what, at, STEPS)
    workdir = str(tmp_path / 'run')
    with pytest.raises(DivergedError, match=f'from step {at} on, with the images imgjax_digits'):
        train.run(config_of(), workdir)
    assert sum('Starting once more from the newest' in line for line in caplog.messages) == 1
    assert checkpoint.steps(workdir)[-1] == at // EVERY * EVERY, 'one was lost, or a bad one kept'
    state = jax.device_get(newest(workdir))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))
    assert not state.skipped_in_a_row
