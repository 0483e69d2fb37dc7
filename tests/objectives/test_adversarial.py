"""Adversarial training: what the attack may change, and what nets that it trains resist."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import load_digits

from configs import base
from imgjax import build, parts, state
from imgjax import config as config_lib
from imgjax.evals import norm_balls, pgd
from imgjax.objectives import Inputs, trades
from imgjax.objectives.parts import adversarial, classification
from imgjax.rundir import dataset_info

MEAN, STD = jnp.float32([76.5]), jnp.float32([94.0])
rng = np.random.default_rng(0)
PIXELS = rng.integers(0, 256, (6, 4, 4, 1)).astype(np.float32)
TARGETS = jnp.asarray(np.eye(3, dtype=np.float32)[[0, 1, 2, 0, 1, 2]])
WEIGHTS = {'kernel': jnp.asarray(rng.normal(size=(16, 3)), jnp.float32)}
both = pytest.mark.parametrize('norm', norm_balls.NORMS)


def inputs_of(norm='linf', epsilon=8.0, step_size=2.0, steps=10, beta=6.0) -> Inputs:
    def apply(params, images_NHWC, batch_stats=None, train=True, key=None):
        return (images_NHWC.reshape(len(images_NHWC), -1) @ params['kernel'], {}), {}

    hparams = {'label_smoothing': jnp.float32(0), 'class_weights': jnp.zeros(0),
               'epsilon': jnp.float32(epsilon), 'step_size': jnp.float32(step_size),
               'beta': jnp.float32(beta)}
    images_NHWC = (PIXELS - np.asarray(MEAN)) / np.asarray(STD)
    batch = {'image': jnp.asarray(images_NHWC)[:, None], 'target': TARGETS,
             'weight': jnp.ones(6)}
    return Inputs(apply, batch, {}, {}, {}, hparams, {'steps': steps, 'norm': norm},
                  jax.random.key(0), MEAN, STD)


def attack(inputs: Inputs):
    return adversarial.attacked(
        WEIGHTS, inputs, lambda keys_N, pixels_NHWC: pixels_NHWC,
        lambda logits_NK: classification.softmax(logits_NK, inputs.batch['target']))


@both
def test_the_ball_is_in_pixels_and_so_is_the_range(norm):
    inputs = inputs_of(norm, epsilon=20.0, step_size=7.0)
    made_NHWC = adversarial.to_pixels(inputs, attack(inputs))
    assert made_NHWC.min() >= -1e-3 and made_NHWC.max() <= 255.001
    far_N = norm_balls.lengths(made_NHWC - PIXELS, norm)
    assert far_N.max() <= 20.001 and far_N.min() > 5


def test_a_linear_model_is_attacked_along_the_sign_of_its_gradient():
    inputs = inputs_of(epsilon=8.0, step_size=8.0, steps=1)
    p_NK = jax.nn.softmax(adversarial.logits_of(WEIGHTS, inputs, jnp.asarray(PIXELS)))
    sign_ND = np.sign((p_NK - TARGETS) @ WEIGHTS['kernel'].T)
    wanted_NHWC = np.clip(PIXELS + 8 * sign_ND.reshape(PIXELS.shape), 0, 255)
    np.testing.assert_allclose(
        adversarial.to_pixels(inputs, attack(inputs)), wanted_NHWC, atol=1e-3)


@both
@pytest.mark.parametrize('name', ['pgd', 'trades'])
def test_without_a_ball_the_loss_is_the_cross_entropy(name, norm):
    inputs = inputs_of(norm, epsilon=0.0)
    found = parts.find('objective', name).loss(WEIGHTS, inputs)
    plain = classification.loss(WEIGHTS, inputs, classification.softmax)
    np.testing.assert_allclose(found.losses_N, plain.losses_N, rtol=1e-4)
    assert set(found.measures) == {'accuracy', 'adversarial_accuracy'}
    for hits_N in found.measures.values():
        np.testing.assert_array_equal(hits_N, plain.measures['accuracy'])


def test_trades_is_its_formula():
    inputs = inputs_of()
    found = trades.loss(WEIGHTS, inputs)
    less = trades.loss(WEIGHTS, inputs._replace(hparams=inputs.hparams | {'beta': jnp.float32(0)}))
    plain = classification.loss(WEIGHTS, inputs, classification.softmax)
    np.testing.assert_allclose(less.losses_N, plain.losses_N, rtol=1e-5)
    assert (found.losses_N > less.losses_N).all()
    logits_NK, others_NK = rng.normal(0, 2, (2, 5, 4)).astype(np.float32)
    p_NK, q_NK = (np.exp(np.float64(x)) / np.exp(np.float64(x)).sum(1, keepdims=True)
                  for x in (logits_NK, others_NK))
    np.testing.assert_allclose(trades.divergence(jnp.asarray(logits_NK), jnp.asarray(others_NK)),
                               (p_NK * np.log(p_NK / q_NK)).sum(1), rtol=1e-4)


@pytest.mark.parametrize('name', ['pgd', 'trades'])
def test_numbers_are_traced_and_vmapped(name):
    traces = []

    def run(epsilon, step_size):
        traces.append(name)
        inputs = inputs_of(steps=2)
        return parts.find('objective', name).loss(WEIGHTS, inputs._replace(
            hparams=inputs.hparams | {'epsilon': epsilon, 'step_size': step_size})).losses_N

    pairs = jnp.float32([[0.0, 1.0], [8.0, 2.0], [30.0, 9.0]])
    jit = jax.jit(run)
    solo = [jit(*pair) for pair in pairs]
    assert len(traces) == 1
    np.testing.assert_allclose(jax.vmap(run)(pairs[:, 0], pairs[:, 1]), solo, rtol=1e-5)


@pytest.fixture(scope='module')
def digits():
    images_ND, labels_N = load_digits(return_X_y=True)
    images_NHWC = np.round(images_ND * 255 / 16).astype(np.uint8).reshape(-1, 8, 8, 1)
    return images_NHWC, labels_N.astype(np.int32)


def trained(objective: dict, digits, **changes) -> types.SimpleNamespace:
    """Trains a small net for 300 steps; returns how many of 200 new images it answers rightly."""
    images_NHWC, labels_N = digits
    config = base.get_config()
    config.update(model=dict(name='tiny_mlp'), batch_size=128, steps=300, objective=objective,
                  data=dict(channels=1, mean=(0.3,), std=(0.37,)), optimizer=dict(name='adamw'))
    config.hparams.learning_rate = 5e-3
    plain = config.to_dict()
    plain['hparams'] |= changes.pop('hparams', {})
    config = config_lib.checked(plain | changes)
    setup = build.setup(config, dataset_info.DatasetInfo(
        [str(k) for k in range(10)], [8, 8, 1], 1500, 297, 'a', 'b', False), jax.devices()[:1])
    hparams = state.hparams_of(config)
    now = jax.jit(lambda hparams: state.init(setup.model, config, (8, 8, 1), hparams))(hparams)
    step = jax.jit(setup.train_step)
    draw = np.random.default_rng(0)
    for _ in range(config.steps):
        rows = draw.integers(0, 1500, 128)
        now, measured = step(now, {'image': images_NHWC[rows], 'label': labels_N[rows],
                                   'weight': np.ones(128, np.float32)}, hparams)
    predict = jax.tree_util.Partial(
        lambda params, x_NHWC: setup.model.apply(
            {'params': params, 'batch_stats': {}}, (x_NHWC - 0.3) / 0.37, train=False)[0],
        now.params)
    x_NHWC, right_N = images_NHWC[1500:1700].astype(np.float32) / 255, labels_N[1500:1700]
    return types.SimpleNamespace(
        measured=measured, clean=int((predict(x_NHWC).argmax(1) == right_N).sum()),
        robust=int(pgd.attack(predict, x_NHWC, right_N, 0.1).right_N.sum()))


@pytest.mark.parametrize('name, changes', [
    ('pgd', {}), ('trades', {'accumulation_steps': 2})])
def test_a_net_that_is_trained_against_attacks_resists_them(name, changes, digits):
    plain = trained({'name': 'softmax'}, digits)
    robust = trained({'name': name, 'options': {'steps': 3}}, digits,
                     hparams={'epsilon': 25.5, 'step_size': 12.0}, **changes)
    print(f'right without an attack and under PGD-20, of 200: softmax {plain.clean}, '
          f'{plain.robust}; {name} {robust.clean}, {robust.robust}')
    assert robust.robust > plain.robust + 20
    assert robust.clean > 150
    measured = {key: float(value) for key, value in robust.measured.items() if 'accuracy' in key}
    assert 0.3 < measured['adversarial_accuracy'] < measured['accuracy'] <= 1
