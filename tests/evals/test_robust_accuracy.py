"""The accuracy under attacks, and whether a model that hides its gradient is found out."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imgjax.errors import ConfigError
from imgjax.evals import attacks, pgd, robust_accuracy


def logits(params, images_NHWC):
    return jnp.tanh(images_NHWC.reshape(len(images_NHWC), -1) @ params['in']) @ params['out']


def saturated(params, images_NHWC):
    """All probabilities are 0 and 1 in float32, so that the cross-entropy has no gradient."""
    return 1e4 * logits(params, images_NHWC)


def quantised(params, images_NHWC):
    """The rounding of the pixels to 16 levels has the gradient 0."""
    return logits(params, jnp.round(15 * images_NHWC) / 15)


@pytest.fixture(scope='module')
def trained(digits):
    """A net that was trained for 200 steps, and 60 images that it has not seen."""
    train_ND, labels_N, eval_ND, eval_labels_N = digits
    rng = np.random.default_rng(0)
    params = {'in': jnp.asarray(rng.normal(0, 0.1, (64, 32)), jnp.float32),
              'out': jnp.asarray(rng.normal(0, 0.1, (32, 10)), jnp.float32)}

    @jax.jit
    def step(params):
        grads = jax.grad(lambda params: attacks.cross_entropy(
            logits(params, jnp.asarray(train_ND / 16)), jnp.asarray(labels_N)).mean())(params)
        return jax.tree.map(lambda w, g: w - 0.5 * g, params, grads)

    labels_N = labels_N.astype(np.int32)
    for _ in range(200):
        params = step(params)
    return params, (eval_ND[:60] / 16).reshape(-1, 8, 8, 1), eval_labels_N[:60].astype(np.int32)


@pytest.fixture(scope='module')
def measured(trained):
    params, *images_and_labels = trained
    return {function.__name__: robust_accuracy.measure(
        jax.tree_util.Partial(function, params), *images_and_labels, 0.1, l2_epsilon=0.5)
        for function in (logits, saturated, quantised)}


def test_a_usual_net_has_no_sign_and_falls_more_and_more(measured):
    found = measured['logits']
    assert found['signs'] == [] and found['notes'] == []
    json.dumps(found)
    for rows in (found['linf']['pgd'], found['linf']['apgd'], found['l2']['pgd']):
        shares = [found['clean']['robust'], *(row['robust'] for row in rows)]
        assert shares == sorted(shares, reverse=True) and shares[0] > 0.8
        assert all(row['low'] <= row['robust'] <= row['high'] for row in rows)
    assert found['linf']['pgd'][-1]['robust'] == found['large']['robust'] == 0
    same = next(row for row in found['linf']['apgd'] if row['epsilon'] == 0.1)
    assert found['autoattack']['robust'] <= same['robust']
    assert found['autoattack']['after']['apgd-ce'] == same['right']


def test_saturated_answers_are_found_out(measured):
    signs = ' '.join(measured['saturated']['signs'])
    assert 'gradient is 0 everywhere' in signs and 'every image can be made grey' in signs
    # The DLR loss does not change with the scale of the logits, so that AutoAttack is not fooled.
    robust = {name: found['autoattack']['robust'] for name, found in measured.items()}
    assert robust['saturated'] == pytest.approx(robust['logits'], abs=0.02)


def test_quantised_pixels_are_found_out(measured):
    signs = ' '.join(measured['quantised']['signs'])
    assert 'gradient is 0 everywhere' in signs and 'needs no gradient' in signs


def test_each_sign_has_its_sentence(measured):
    def told(found, **changes):
        return robust_accuracy.signs(found | changes)

    found = measured['logits']
    rows = found['linf']
    up = [rows['pgd'][0], *({**row, 'right': row['right'] + 9} for row in rows['pgd'][1:])]
    assert any('One step' in sign for sign in told(found, linf=rows | {'pgd': up}))
    rising = [{**row, 'right': 10 * i} for i, row in enumerate(rows['apgd'])]
    [sign] = told(found, linf=rows | {'apgd': rising})
    assert 'Auto-PGD leaves more answers right at epsilon 0.05 than at 0.025' in sign
    [sign] = told(found, steps=[{'steps': 5, 'right': 3}, {'steps': 10, 'right': 7}])
    assert 'with 10 steps than with 5' in sign
    assert told(found, steps=[{'steps': 5, 'right': 3}, {'steps': 10, 'right': 4}]) == []


def test_a_curve_has_one_row_per_epsilon(trained):
    params, images_NHWC, labels_N = trained
    predict = jax.tree_util.Partial(logits, params)
    rows = robust_accuracy.curve(pgd.attack, predict, images_NHWC, labels_N, [0.0, 0.05], steps=3)
    right_N = np.asarray(predict(images_NHWC)).argmax(1) == labels_N
    assert [row['epsilon'] for row in rows] == [0.0, 0.05]
    assert rows[0]['right'] == right_N.sum() > rows[1]['right']
    with pytest.raises(ConfigError, match='l2_epsilon'):
        robust_accuracy.measure(predict, images_NHWC, labels_N, 0.1, l2_epsilon=0.0)
