"""A loop of one's own computes what `launch.train` computes."""

import jax
import numpy as np
import pytest

from configs import digits
from imgjax import own_loop, train
from imgjax.errors import ConfigError, DataError
from imgjax.rundir import metrics_log

STEPS = 6


def recipe(**changes):
    config = digits.get_config('mlp')
    config.update(steps=STEPS, log_every=1, eval_every=0, steps_per_dispatch=1)
    config.checkpoint.every = 0
    config.data.resident = 'no'
    config.update(changes)
    return config


@pytest.fixture(scope='module')
def rows(tmp_path_factory):
    workdir = str(tmp_path_factory.mktemp('run'))
    train.run(recipe(), workdir)
    return metrics_log.read_rows(workdir)


@pytest.mark.parametrize('resident', ['no', 'auto'])
def test_it_has_the_losses_and_the_accuracy_of_a_run(rows, resident):
    config = recipe()
    config.data.resident = resident
    run = own_loop.begin(config)
    state, losses = run.state, []
    for k in range(STEPS):
        state, measured = run.step(state, run.batch(k), run.hparams)
        losses.append(float(measured['loss']))
    wanted = [row['loss'] for row in rows if row['split'] == 'train']
    np.testing.assert_allclose(losses, wanted, rtol=1e-6)
    found = run.evaluate(state)
    assert found['accuracy'] == rows[-1]['accuracy'] and found['examples'] == 355
    batch = run.batch(0)
    logits_NK, out = run.predict(state, batch['image'][:5])
    assert logits_NK.shape == (5, 10) and out['hidden1'].shape[0] == 5
    whole_NK, _ = run.predict(state, batch['image'])
    np.testing.assert_allclose(whole_NK[:5], logits_NK, atol=1e-5)


def test_batches_and_numbers_are_arguments():
    run = own_loop.begin(recipe())
    np.testing.assert_array_equal(run.batch(3)['image'], run.batch(3)['image'])
    before = jax.device_get(run.state.params)
    state, _ = run.step(run.state, run.batch(0), run.hparams | {'learning_rate': np.float32(0)})
    jax.tree.map(np.testing.assert_array_equal, before, jax.device_get(state.params))
    state, _ = run.step(state, run.batch(0), run.hparams)
    assert (jax.tree.leaves(before)[0] != jax.tree.leaves(state.params)[0]).any()


def test_weights_that_are_not_there_are_refused():
    config = recipe()
    config.init.weights = 'timm:/no/such/model.safetensors'
    with pytest.raises(DataError, match='no such file'):
        own_loop.begin(config)


def test_a_wrong_config_is_refused_as_by_a_run():
    with pytest.raises(ConfigError, match='batch_size'):
        own_loop.begin(recipe(batch_size=0))
