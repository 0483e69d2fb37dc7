"""Optimizers and schedules: a file of imgjax/optimizers buys every test of the contract."""

import doctest
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from imgjax import optimizers, parts
from imgjax.config import Config
from imgjax.errors import ConfigError
from imgjax.optimizers.parts import from_optax
from imgjax.optimizers.parts import schedule as schedules

HPARAMS = {'learning_rate': 0.1, 'weight_decay': 1e-3, 'momentum': 0.9, 'b1': 0.9, 'b2': 0.99,
           'eps': 1e-8, 'clip_norm': 1.0, 'label_smoothing': 0.1, 'seed': 0}
# Three settings of every hparam that an optimizer reads; no clipping, no decay among them.
ARMS = {'learning_rate': [0.05, 0.02, 0.01], 'weight_decay': [0.0, 1e-3, 1e-1],
        'momentum': [0.0, 0.5, 0.9], 'b1': [0.8, 0.9, 0.95], 'b2': [0.9, 0.99, 0.999],
        'eps': [1e-8, 1e-6, 1e-3], 'clip_norm': [0.0, 1.0, 5.0]}

OPTIMIZERS = parts.names('optimizer')
every_optimizer = pytest.mark.parametrize('name', OPTIMIZERS)


def optimizer(config, hparams, learning_rate):
    """As optimizers.optimizer, with defaults for what `config` leaves out."""
    part = parts.find('optimizer', config['name'])
    options = {name: field.default for name, field in parts.options_of(part).items()}
    numbers = {name: field.default for name, field in parts.hparams_of(part).items()}
    whole = {'decay_mask': 'kernels'} | config | {'options': options | config.get('options', {})}
    return optimizers.optimizer(Config(whole), numbers | hparams, learning_rate)


def example_params():
    rng = np.random.default_rng(0)

    def array(*shape):
        return jnp.asarray(rng.normal(0, 1, shape), jnp.float32)

    return {
        'conv': {'kernel': array(3, 3, 2, 4), 'bias': array(4)},
        'depthwise': {'kernel': array(3, 3, 1, 4)},
        'head': {'kernel': array(6, 3), 'bias': array(3)},
        'norm': {'scale': array(4)},
        'pos_embedding': array(1, 5, 4),
    }


def loss_of(params):
    """A quadratic with another curvature in every leaf; its minimum is at 0.5."""
    return sum((i + 1) * jnp.sum((leaf - 0.5) ** 2) / 4
               for i, leaf in enumerate(jax.tree.leaves(params)))


def train(config, hparams, params, steps):
    hparams = jax.tree.map(jnp.float32, hparams)

    def build():
        return optimizer(config, hparams, hparams['learning_rate'])

    def one(carry, _):
        params, state = carry
        loss, grads = jax.value_and_grad(loss_of)(params)
        updates, state = build().update(grads, state, params)
        return (optax.apply_updates(params, updates), state), loss

    (params, _), losses = jax.lax.scan(one, (params, build().init(params)), length=steps)
    return params, losses


def train_example(name, hparams):
    TRACES.append(name)
    return train({'name': name}, hparams, example_params(), 30)


TRACES = []
jitted_train = jax.jit(train_example, static_argnums=0)


@functools.partial(jax.jit, static_argnums=0)
def jitted_update(config, hparams, grads, params, learning_rate):
    config = {key: dict(value) if key == 'options' else value for key, value in config}
    tx = optimizer(config, hparams, learning_rate)
    return tx.update(grads, tx.init(params), params)[0]


def update(config, hparams, grads, params, learning_rate=1.0):
    frozen = tuple((key, tuple(value.items()) if isinstance(value, dict) else value)
                   for key, value in config.items())
    return jitted_update(frozen, hparams, grads, params, learning_rate)


def test_doctest():
    assert doctest.testmod(schedules).failed == 0


# Every optimizer.


@every_optimizer
def test_decreases_a_quadratic(name):
    params, losses = jitted_train(name, {key: HPARAMS[key] for key in ARMS})
    assert losses[-1] < 0.5 * losses[0]
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(params))


@every_optimizer
def test_one_trace_and_vmapped_arms_equal_solo_runs(name):
    TRACES.clear()
    solo = [jitted_train(name, {key: values[i] for key, values in ARMS.items()}) for i in range(3)]
    assert len(TRACES) <= 1  # 0 where the test above has compiled it already
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *solo)
    arms = {key: jnp.asarray(values) for key, values in ARMS.items()}
    together = jax.jit(jax.vmap(functools.partial(train_example, name)))(arms)
    # Relative to the largest number of each leaf: an entry may pass through 0.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(
        a, b, rtol=1e-6, atol=1e-6 * np.abs(b).max()), together, stacked)
    # No two arms do the same.
    assert len({float(losses[-1]) for _, losses in solo}) == 3


@every_optimizer
def test_state_does_not_depend_on_hparams(name):
    params = example_params()

    def state(hparams):
        return optimizer({'name': name}, hparams, hparams['learning_rate']).init(params)

    zeros = {key: 0.0 for key in ARMS}
    concrete = state(HPARAMS)
    structure = jax.tree.structure(concrete)
    assert jax.tree.structure(state(zeros)) == structure
    traced = jax.jit(state)(HPARAMS)
    assert jax.tree.structure(traced) == structure
    for a, b in zip(jax.tree.leaves(concrete), jax.tree.leaves(traced), strict=True):
        assert a.dtype == b.dtype and np.array_equal(a, b)


@every_optimizer
@pytest.mark.parametrize('mask', ('kernels', 'all'))
def test_decay_mask(name, mask):
    params = example_params()
    zero = jax.tree.map(jnp.zeros_like, params)
    config = {'name': name, 'decay_mask': mask}
    hparams = HPARAMS | {'weight_decay': 0.1, 'clip_norm': 0.0}
    updates = update(config, hparams, zero, params)
    moved = {jax.tree_util.keystr(path, simple=True, separator='/')
             for path, leaf in jax.tree_util.tree_leaves_with_path(updates) if leaf.any()}
    kernels = {'conv/kernel', 'depthwise/kernel', 'head/kernel'}
    others = {'conv/bias', 'head/bias', 'norm/scale', 'pos_embedding'}
    assert moved == (kernels if mask == 'kernels' else kernels | others)
    # No decay moves nothing.
    still = update(config, hparams | {'weight_decay': 0.0}, zero, params)
    assert not any(leaf.any() for leaf in jax.tree.leaves(still))


@pytest.mark.parametrize('name', ('adamw', 'lion', 'muon'))
def test_decoupled_decay_shrinks_by_rate_times_decay(name):
    params = example_params()
    zero = jax.tree.map(jnp.zeros_like, params)
    updates = update({'name': name}, HPARAMS | {'weight_decay': 0.1}, zero, params, 0.5)
    np.testing.assert_allclose(
        updates['head']['kernel'], -0.05 * params['head']['kernel'], rtol=1e-6)


def references():
    """optax's own aliases, of Python numbers and unmasked."""
    decay, b1, b2, eps, momentum, rate = (
        HPARAMS[key] for key in ('weight_decay', 'b1', 'b2', 'eps', 'momentum', 'learning_rate'))
    l2 = optax.add_decayed_weights(decay)
    return {
        'sgd': optax.chain(l2, optax.sgd(rate, momentum, nesterov=True)),
        'adam': optax.chain(l2, optax.adam(rate, b1, b2, eps)),
        'adamw': optax.adamw(rate, b1, b2, eps, weight_decay=decay),
        'lamb': optax.lamb(rate, b1, b2, eps, weight_decay=decay),
        'lion': optax.lion(rate, b1, b2, weight_decay=decay),
        'muon': optax.contrib.muon(
            rate, beta=momentum, eps=eps, weight_decay=decay, nesterov=True, consistent_rms=0.2),
    }


@every_optimizer
def test_against_optax(name):
    # optax's muon takes no masks for its other half: it gets one matrix.
    params = {'head': {'kernel': example_params()['head']['kernel']}}
    reference = optax.chain(optax.clip_by_global_norm(1.0), references()[name])
    ours = optimizer(
        {'name': name, 'decay_mask': 'all'}, HPARAMS, HPARAMS['learning_rate'])

    def end(tx):
        def one(carry, _):
            params, state = carry
            updates, state = tx.update(jax.grad(loss_of)(params), state, params)
            return (optax.apply_updates(params, updates), state), None
        return jax.lax.scan(one, (params, tx.init(params)), length=10)[0][0]['head']['kernel']

    with jax.numpy_dtype_promotion('standard'):  # optax itself does not run in the strict mode
        expected = jax.jit(lambda: end(reference))()
    np.testing.assert_allclose(jax.jit(lambda: end(ours))(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('name', ('sgd', 'muon'))
def test_nesterov_is_read(name):
    params = {'head': example_params()['head']}

    @jax.jit
    def ends():
        return [train({'name': name, 'options': {'nesterov': nesterov}}, HPARAMS, params,
                      5)[0]['head']
                for nesterov in (False, True)]

    plain, nesterov = ends()
    assert not np.allclose(plain['kernel'], nesterov['kernel'], rtol=1e-3)


def test_muon_orthogonalises_matrices_only():
    rng = np.random.default_rng(1)
    params = example_params()
    grads = jax.tree.map(
        lambda x: jnp.asarray(rng.normal(0, 1, x.shape), jnp.float32), params)
    hparams = HPARAMS | {'weight_decay': 0.0, 'clip_norm': 0.0}
    updates = update({'name': 'muon'}, hparams, grads, params)
    for name in ('conv', 'head'):
        kernel = np.asarray(updates[name]['kernel'])
        matrix = kernel.reshape(-1, kernel.shape[-1]) / (0.2 * np.sqrt(max(matrix_shape(kernel))))
        values = np.linalg.svd(matrix, compute_uv=False)
        assert 0.6 < values.min() and values.max() < 1.3
        assert np.sum(matrix * np.asarray(grads[name]['kernel']).reshape(matrix.shape)) < 0
    # Adam's first step is the sign.
    for module, leaf in (('depthwise', 'kernel'), ('head', 'bias'), ('norm', 'scale')):
        np.testing.assert_allclose(
            updates[module][leaf], -np.sign(grads[module][leaf]), rtol=1e-3)


@pytest.mark.parametrize('name', OPTIMIZERS)
def test_stacked_layers_are_updated_like_single_ones(name):
    rng = np.random.default_rng(2)

    def layer(scale):
        return {'mlp': {'kernel': jnp.asarray(rng.normal(0, scale, (6, 4)), jnp.float32),
                        'bias': jnp.asarray(rng.normal(0, scale, 4), jnp.float32)}}

    def tree(layers, stacked):
        if stacked:
            return {'blocks': jax.tree.map(lambda *x: jnp.stack(x), *layers)}
        return {f'block{i:02}': values for i, values in enumerate(layers)}

    layers, grads = [layer(0.1), layer(2.0)], [layer(1.0), layer(0.01)]
    single, stack = (update({'name': name}, HPARAMS, tree(grads, stacked), tree(layers, stacked))
                     for stacked in (False, True))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
                 tree([single['block00'], single['block01']], True), stack)


def matrix_shape(kernel):
    return kernel.size // kernel.shape[-1], kernel.shape[-1]


# Clipping.


@pytest.mark.parametrize(('clip_norm', 'norm'), [(0.0, 10.0), (2.5, 2.5), (20.0, 10.0)])
def test_clip(clip_norm, norm):
    params = {'kernel': jnp.zeros(2), 'bias': jnp.zeros(2)}
    grads = {'kernel': jnp.asarray([6.0, 0.0]), 'bias': jnp.asarray([0.0, 8.0])}

    config = {'name': 'sgd', 'options': {'nesterov': False}}
    hparams = HPARAMS | {'clip_norm': clip_norm}
    updates = update(config, hparams, grads, params)
    np.testing.assert_allclose(updates['kernel'], [-0.6 * norm, 0], rtol=1e-6)
    np.testing.assert_allclose(updates['bias'], [0, -0.8 * norm], rtol=1e-6)
    # Zero gradients have no direction, and must not get one.
    zero = update(config, hparams, jax.tree.map(jnp.zeros_like, grads), params)
    assert not any(leaf.any() for leaf in jax.tree.leaves(zero))


@pytest.mark.parametrize(('clip_norm', 'bad'), [
    (0.0, np.inf), (0.0, np.nan), (1.0, np.inf), (1.0, np.nan),
    (0.0, 1e30)])  # finite, but its norm is not
def test_clipping_hides_no_divergence(clip_norm, bad):
    params = {'kernel': jnp.zeros(2)}
    updates = update({'name': 'sgd'}, HPARAMS | {'clip_norm': clip_norm},
                     {'kernel': jnp.asarray([bad, 1.0])}, params)
    assert not np.isfinite(updates['kernel']).all()


# Schedules, at their borders: warm-up of 4 steps, then 8 more.


@pytest.mark.parametrize(('schedule', 'rates'), [
    ({'name': 'constant'}, {0: 1.0, 11: 1.0, 12: 1.0}),
    ({'name': 'constant', 'warmup_steps': 4}, {0: 0.25, 1: 0.5, 3: 1.0, 4: 1.0, 12: 1.0}),
    ({'name': 'constant', 'warmup_steps': 1}, {0: 1.0}),
    ({'name': 'constant', 'warmup_steps': 1 / 3}, {0: 0.25, 3: 1.0, 4: 1.0}),
    ({'name': 'constant', 'warmup_steps': 0.01}, {0: 1.0}),
    ({'name': 'linear', 'warmup_steps': 4},
     {0: 0.25, 3: 1.0, 4: 1.0, 5: 0.8875, 8: 0.55, 12: 0.1, 20: 0.1}),
    ({'name': 'cosine', 'warmup_steps': 4},
     {0: 0.25, 3: 1.0, 4: 1.0, 6: 0.1 + 0.9 * (1 + np.sqrt(0.5)) / 2, 8: 0.55, 12: 0.1, 20: 0.1}),
    ({'name': 'cosine'}, {0: 1.0, 6: 0.55, 12: 0.1}),
    ({'name': 'cosine', 'warmup_steps': 12}, {0: 1 / 12, 11: 1.0}),
    ({'name': 'step', 'milestones': [0.5, 0.75], 'factor': 0.5},
     {0: 1.0, 5: 1.0, 6: 0.5, 8: 0.5, 9: 0.25, 12: 0.25}),
    ({'name': 'step', 'milestones': (0.5,), 'warmup_steps': 4}, {0: 0.25, 5: 1.0, 6: 0.1}),
    ({'name': 'step', 'milestones': ()}, {0: 1.0, 12: 1.0}),
])
def test_schedule(schedule, rates):
    hparams = {'learning_rate': jnp.float32(3.0), 'end_learning_rate': jnp.float32(0.3)}
    config = Config(schedule)
    jit = jax.jit(lambda step, hparams: schedules.learning_rate(config, step, 12, hparams))
    for step, rate in rates.items():
        value = jit(jnp.int32(step), hparams)
        assert value.dtype == jnp.float32 and value.shape == ()
        np.testing.assert_allclose(value, 3 * rate, rtol=1e-5, err_msg=f'step {step}')


@pytest.mark.parametrize('name', schedules.SCHEDULES)
def test_schedule_is_traced_and_vmapped(name):
    traces = []
    schedule = Config({'name': name, 'warmup_steps': 3, 'milestones': [0.5]})

    def run(step, hparams):
        traces.append(name)
        return schedules.learning_rate(schedule, step, 10, hparams)

    jit = jax.jit(run)
    arms = {'learning_rate': jnp.asarray([1.0, 2.0]), 'end_learning_rate': jnp.asarray([0.0, 0.1])}
    steps = jnp.arange(12)
    solo = [[jit(step, {key: values[i] for key, values in arms.items()}) for step in steps]
            for i in range(2)]
    assert len(traces) == 1
    over_steps = jax.vmap(run, in_axes=(0, None))
    np.testing.assert_allclose(
        jax.vmap(over_steps, in_axes=(None, 0))(steps, arms), solo, rtol=1e-6, atol=1e-7)


# Names.


@pytest.mark.parametrize(('call', 'words'), [
    (lambda: parts.find('optimizer', 'adamW'),
     ["'adamW'", "'adamw'", 'lion', 'the optimizers of optax']),
    (lambda: parts.find('optimizer', 'prodigi'), ["'prodigi'", "'prodigy'"]),
    (lambda: parts.find('optimizer', 'dpsgd'), ['dpsgd of optax does not fit in a step']),
    (lambda: schedules.learning_rate(Config({'name': 'cosin'}), 0, 1, HPARAMS),
     ["'cosin'", "'cosine'"]),
    (lambda: schedules.learning_rate(Config({'name': 'cosine', 'warmup': 3}), 0, 1, HPARAMS),
     ["'warmup'", "'warmup_steps'"]),
])
def test_unknown_names_are_named(call, words):
    with pytest.raises((ConfigError, ValueError)) as error:
        call()
    message = str(error.value)
    assert all(word in message for word in words), message
    assert '\n' not in message


# Those of optax.


OPTAX = [name for name in from_optax.candidates() if name not in OPTIMIZERS]
# What a step does not give: a gradient of each image, a random key that is no plain array.
UNFIT = {'dpsgd', 'noisy_sgd'}


def test_all_of_optax_but_two_fit():
    unfit = set()
    for name in OPTAX:
        try:
            from_optax.find(name)
        except ValueError as error:
            assert 'does not fit in a step' in str(error)
            unfit.add(name)
    assert unfit == UNFIT
    assert {'adabelief', 'adafactor', 'lbfgs', 'nadamw', 'rmsprop', 'yogi', 'prodigy', 'dog',
            'schedule_free_adamw', 'ademamix', 'momo', 'sophia', 'polyak_sgd'} <= set(OPTAX)


@pytest.mark.parametrize('name', ['rmsprop', 'prodigy', 'schedule_free_sgd', 'lbfgs', 'momo',
                                  'sophia', 'adafactor'])
def test_an_optimizer_of_optax_takes_steps_with_all_that_it_asks_for(name):
    """Traced numbers, and optax's extra arguments: the loss, its function and its gradient."""
    part = parts.find('optimizer', name)
    params = example_params()
    defaults = {key: jnp.asarray(field.default, jnp.float32)
                for key, field in part.HPARAMS.items()} | {'clip_norm': jnp.float32(0)}

    @jax.jit
    def end(hparams):
        def build():
            return optimizer({'name': name}, hparams, 0.01)

        def one(carry, _):
            params, state = carry
            loss, grads = jax.value_and_grad(loss_of)(params)
            updates, state = build().update(
                grads, state, params, value=loss, grad=grads, grad_fn=jax.grad(loss_of),
                obj_fn=loss_of,
                value_fn=lambda params, obj_fn=None, grad_fn=None: loss_of(params))
            return (optax.apply_updates(params, updates), state), loss

        return jax.lax.scan(one, (params, build().init(params)), length=20)

    (params, state), losses = end(defaults)
    assert np.isfinite(losses).all() and losses[-1] < losses[0]
    evaluated = optimizers.eval_params(Config({'name': name}), state, params)
    same = np.array_equal(evaluated['head']['kernel'], params['head']['kernel'])
    assert same == (name != 'schedule_free_sgd')


def test_numbers_that_optax_cannot_trace_are_options():
    part = from_optax.find('adafactor')
    assert 'min_dim_size_to_factor' in part.OPTIONS and 'decay_rate' in part.HPARAMS
    assert from_optax.find('galore').OPTIONS['rank'].default == 128
