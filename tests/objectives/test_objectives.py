"""Losses against the formulas of their papers, in float64 NumPy."""


import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imgjax import parts
from imgjax.errors import ConfigError
from imgjax.objectives import Inputs, jsd

NAMES = ('softmax', 'sigmoid', 'focal')
every_loss = pytest.mark.parametrize('name', NAMES)


def losses_of(name, logits_NK, targets_NK, *, label_smoothing=0.0, gamma=2.0,
              class_weights_K=None):
    """Returns the losses of an objective whose model answers with these logits."""
    hparams = {
        'label_smoothing': jnp.float32(label_smoothing), 'focal_gamma': jnp.float32(gamma),
        'class_weights': jnp.zeros(0) if class_weights_K is None else class_weights_K}
    batch = {'image': jnp.zeros((len(logits_NK), 1, 1, 1, 1)), 'target': targets_NK,
             'weight': jnp.ones(len(logits_NK))}
    inputs = Inputs(lambda params, images_NHWC: ((logits_NK, {}), {}), batch, {}, {}, {}, hparams,
                    {}, jax.random.key(0), jnp.zeros(1), jnp.ones(1))
    return parts.find('objective', name).loss({}, inputs).losses_N


per_example = jax.jit(losses_of, static_argnums=0)


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
        return losses_of(name, *batch, label_smoothing=label_smoothing, gamma=gamma)

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
        return losses_of(name, logits_NK, targets_NK, gamma=gamma).sum()

    for gamma in (0.0, 0.5, 2.0):
        loss, gradient = run(logits_NK, gamma)
        assert np.isfinite(loss) and np.isfinite(gradient).all()
        assert gradient[1, 0] < 0 < gradient[1, 1]


@every_loss
def test_right_and_sure_costs_nothing(name):
    loss_N = per_example(name, jnp.asarray([[50.0, -50.0]]), jnp.asarray([[1.0, 0.0]]))
    assert float(loss_N[0]) < 1e-6


def test_unknown_name_is_named():
    with pytest.raises(ConfigError, match=r"'sofmax'; did you mean 'softmax'\?.*sigmoid") as error:
        parts.find('objective', 'sofmax')
    assert '\n' not in str(error.value)


@every_loss
def test_an_evaluation_has_the_loss_without_smoothing_and_weights(name, batch):
    part = parts.find('objective', name)
    found_N = part.evaluate(*batch, {'focal_gamma': jnp.float32(0.5)}, {})
    np.testing.assert_allclose(found_N, reference(name, *batch, 0.0, 0.5), rtol=2e-5)


@every_loss
def test_class_weights_are_pytorchs(name, batch):
    """A factor of each class's term; torch's cross_entropy(weight=...) without its own mean."""
    weights_K = jnp.float32([0.0, 1.0, 2.0, 0.5, 3.0])
    logits_NK, targets_NK = batch
    alike = per_example(name, *batch, class_weights_K=jnp.ones(5))
    np.testing.assert_array_equal(alike, per_example(name, *batch))
    found_N = per_example(name, *batch, label_smoothing=0.1, class_weights_K=weights_K)
    smooth_NK = 0.9 * np.asarray(targets_NK) + 0.1 / 5
    single_NK = np.stack([
        reference(name, logits_NK[:, [k]], smooth_NK[:, [k]], 0.0, 2.0) for k in range(5)], 1)
    if name == 'softmax':
        single_NK = -smooth_NK * np.asarray(jax.nn.log_softmax(logits_NK), np.float64)
    np.testing.assert_allclose(found_N, single_NK @ np.asarray(weights_K, np.float64), rtol=2e-5)


def test_the_penalty_is_the_jensen_shannon_divergence():
    logits_NVK = np.random.default_rng(1).normal(0, 2, (7, 3, 5)).astype(np.float32)
    found_N = jax.jit(jsd.jensen_shannon)(logits_NVK)
    p_NVK = np.exp(np.asarray(jax.nn.log_softmax(logits_NVK), np.float64))
    mean_NK = p_NVK.mean(1)
    entropy = lambda p: -(p * np.log(p)).sum(-1)  # noqa: E731
    np.testing.assert_allclose(found_N, entropy(mean_NK) - entropy(p_NVK).mean(1), rtol=1e-4)
    apart = 80.0 * jnp.eye(3)[None]
    np.testing.assert_allclose(jsd.jensen_shannon(apart), np.log(3), rtol=1e-5)
    assert np.isfinite(jax.grad(lambda x: jsd.jensen_shannon(x).sum())(1e4 * apart)).all()
