"""Losses against the formulas of their papers, in float64 NumPy."""

import doctest

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imgjax import losses

per_example = jax.jit(losses.per_example, static_argnums=0)
every_loss = pytest.mark.parametrize('name', losses.NAMES)


@pytest.fixture(scope='module')
def batch():
    rng = np.random.default_rng(0)
    logits_NK = rng.normal(0, 3, (6, 5)).astype(np.float32)
    targets_NK = rng.dirichlet(np.ones(5), 6).astype(np.float32)
    targets_NK[:3] = np.eye(5, dtype=np.float32)[[0, 4, 2]]
    return jnp.asarray(logits_NK), jnp.asarray(targets_NK)


def reference(name, logits_NK, targets_NK, label_smoothing, gamma):
    logits_NK, targets_NK = (np.asarray(x, np.float64) for x in (logits_NK, targets_NK))
    targets_NK = (1 - label_smoothing) * targets_NK + label_smoothing / logits_NK.shape[1]
    if name == 'softmax':
        p_NK = np.exp(logits_NK) / np.exp(logits_NK).sum(1, keepdims=True)
        return -(targets_NK * np.log(p_NK)).sum(1)
    p_NK = 1 / (1 + np.exp(-logits_NK))
    loss_NK = -targets_NK * np.log(p_NK) - (1 - targets_NK) * np.log(1 - p_NK)
    if name == 'focal':
        right_NK = targets_NK * p_NK + (1 - targets_NK) * (1 - p_NK)
        loss_NK *= (1 - right_NK) ** gamma
    return loss_NK.sum(1)


def test_doctest():
    assert doctest.testmod(losses).failed == 0


@every_loss
@pytest.mark.parametrize(('label_smoothing', 'gamma'), [(0.0, 2.0), (0.1, 0.5), (1.0, 0.0)])
def test_against_the_formula(name, label_smoothing, gamma, batch):
    loss_N = per_example(name, *batch, label_smoothing=label_smoothing, gamma=gamma)
    assert loss_N.shape == (6,) and loss_N.dtype == jnp.float32
    np.testing.assert_allclose(
        loss_N, reference(name, *batch, label_smoothing, gamma), rtol=2e-5)


def test_focal_with_gamma_zero_is_sigmoid(batch):
    np.testing.assert_allclose(
        per_example('focal', *batch, label_smoothing=0.0, gamma=0.0),
        per_example('sigmoid', *batch, label_smoothing=0.0, gamma=0.0),
        rtol=1e-6)


@every_loss
def test_hparams_are_traced_and_vmapped(name, batch):
    traces = []

    def run(label_smoothing, gamma):
        traces.append(name)
        return losses.per_example(name, *batch, label_smoothing=label_smoothing, gamma=gamma)

    smoothings, gammas = jnp.asarray([0.0, 0.1, 0.3]), jnp.asarray([0.0, 1.0, 2.5])
    jit = jax.jit(run)
    solo = [jit(*pair) for pair in zip(smoothings, gammas, strict=True)]
    assert len(traces) == 1
    arms = jax.jit(jax.vmap(run))(smoothings, gammas)
    np.testing.assert_allclose(arms, solo, rtol=1e-6)


@every_loss
@pytest.mark.parametrize('dtype', (jnp.bfloat16, jnp.float16))
def test_half_precision_logits_are_upcast(name, dtype, batch):
    logits_NK = batch[0].astype(dtype)
    hparams = {'label_smoothing': 0.1, 'gamma': 2.0}
    loss_N = per_example(name, logits_NK, batch[1], **hparams)
    exact_N = per_example(name, logits_NK.astype(jnp.float32), batch[1], **hparams)
    assert loss_N.dtype == jnp.float32
    np.testing.assert_allclose(loss_N, exact_N, rtol=1e-6)


@every_loss
def test_huge_logits_have_finite_gradients(name):
    logits_NK = jnp.asarray([[1e4, -1e4, 0.0], [-1e4, 1e4, 50.0]])
    targets_NK = jnp.asarray([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]])

    @jax.jit
    @jax.value_and_grad
    def run(logits_NK, gamma):
        return losses.per_example(name, logits_NK, targets_NK, gamma=gamma).sum()

    for gamma in (0.0, 0.5, 2.0):
        loss, gradient = run(logits_NK, gamma)
        assert np.isfinite(loss) and np.isfinite(gradient).all()
        assert gradient[1, 0] < 0 < gradient[1, 1]


@every_loss
def test_right_and_sure_costs_nothing(name):
    loss_N = per_example(name, jnp.asarray([[50.0, -50.0]]), jnp.asarray([[1.0, 0.0]]))
    assert float(loss_N[0]) < 1e-6


def test_unknown_name_is_named():
    with pytest.raises(ValueError, match=r"'sofmax'; did you mean 'softmax'\?.*sigmoid") as error:
        losses.per_example('sofmax', jnp.zeros((1, 2)), jnp.zeros((1, 2)))
    assert '\n' not in str(error.value)
