"""Attacks: what they may change, what they find, and what their results may not depend on."""

import doctest

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imgjax.errors import ConfigError, DataError
from imgjax.evals import apgd, attacks, autoattack, fab, fgsm, norm_balls, pgd, square

CLASSES = 5
ATTACKS = {
    'fgsm': (fgsm.attack, {}),
    'pgd': (pgd.attack, {'steps': 5, 'restarts': 2}),
    'apgd-ce': (apgd.attack, {'steps': 10}),
    'apgd-dlr': (apgd.attack, {'steps': 10, 'loss': 'dlr'}),
    'apgd-t': (apgd.attack, {'steps': 10, 'loss': 'dlr', 'targets': 2}),
    'fab': (fab.attack, {'steps': 10, 'targets': 2}),
    'square': (square.attack, {'queries': 120}),
}
EPSILON = {'linf': 0.1, 'l2': 0.5}
every_attack = pytest.mark.parametrize('name', ATTACKS)
both = pytest.mark.parametrize('norm', norm_balls.NORMS)


def logits(params, images_NHWC):
    x_ND = images_NHWC.reshape(len(images_NHWC), -1)
    return jnp.tanh(x_ND @ params['in']) @ params['out']


@pytest.fixture(scope='module')
def model():
    """Returns (predict, images_NHWC, labels_N), where 3 of 40 labels are wrong."""
    rng = np.random.default_rng(0)
    params = {'in': jnp.asarray(rng.normal(0, 0.3, (108, 16)), jnp.float32),
              'out': jnp.asarray(rng.normal(0, 1, (16, CLASSES)), jnp.float32)}
    predict = jax.tree_util.Partial(logits, params)
    images_NHWC = rng.uniform(size=(40, 6, 6, 3)).astype(np.float32)
    images_NHWC[:, 0] = 0  # the border of the range is met
    labels_N = np.asarray(predict(images_NHWC)).argmax(1).astype(np.int32)
    labels_N[:3] = (labels_N[:3] + 1) % CLASSES
    return predict, images_NHWC, labels_N


def run(name, model, norm, epsilon=None, **more):
    function, options = ATTACKS[name]
    return function(*model, EPSILON[norm] if epsilon is None else epsilon, norm=norm,
                    **options | more)


@pytest.mark.parametrize('module', [apgd, attacks])
def test_doctest(module):
    assert doctest.testmod(module).failed == 0


@both
@every_attack
def test_images_stay_in_the_ball_and_the_range_and_are_answered_wrongly(name, norm, model):
    predict, images_NHWC, labels_N = model
    found = run(name, model, norm)
    assert found.images_NHWC.dtype == np.float32 and found.right_N.dtype == bool
    assert found.images_NHWC.min() >= 0 and found.images_NHWC.max() <= 1
    far_N = np.asarray(norm_balls.lengths(found.images_NHWC - images_NHWC, norm))
    assert far_N.max() <= EPSILON[norm] * (1 + 1e-5)
    right_N = np.asarray(predict(found.images_NHWC)).argmax(1) == labels_N
    np.testing.assert_array_equal(found.right_N, right_N)
    assert not found.right_N[:3].any() and not far_N[:3].any()  # wrong before: not changed
    fell_N = ~found.right_N[3:]
    assert fell_N.any() and (far_N[3:][fell_N] > 0).all() and not far_N[3:][~fell_N].any()


@both
@every_attack
def test_a_result_depends_neither_on_the_batch_nor_on_the_other_images(name, norm, model):
    predict, images_NHWC, labels_N = model
    whole = run(name, model, norm)
    chunked = run(name, model, norm, at_once=7)
    rows = np.arange(5, 40, 2)
    indices = {'indices_N': rows} if name not in ('fgsm', 'fab') else {}
    part = run(name, (predict, images_NHWC[rows], labels_N[rows]), norm, **indices)
    for found, of in ((chunked, slice(None)), (part, rows)):
        np.testing.assert_array_equal(found.right_N, whole.right_N[of])
        np.testing.assert_allclose(found.images_NHWC, whole.images_NHWC[of], atol=1e-4)


@every_attack
def test_another_epsilon_compiles_nothing(name, model):
    run(name, model, 'linf', 0.001, at_once=40)
    before = attacks._steps._cache_size()
    run(name, model, 'linf', 0.002, at_once=40)
    assert attacks._steps._cache_size() == before


@both
@every_attack
def test_no_ball_no_change(name, norm, model):
    found = run(name, model, norm, 0.0)
    assert found.right_N.sum() == 37
    np.testing.assert_array_equal(found.images_NHWC, model[1])


@both
def test_a_plane_is_reached_by_the_shortest_way_in_the_range(norm):
    rng = np.random.default_rng(1)
    x_ND = rng.uniform(size=(50, 12)).astype(np.float32)
    normal_ND = rng.normal(size=(50, 12)).astype(np.float32)
    normal_ND[:, 3] = 0
    height_N = rng.normal(0, 2, 50).astype(np.float32)
    way_ND = np.asarray(fab.to_plane(x_ND, normal_ND, height_N, norm))
    assert (x_ND + way_ND).min() >= -1e-6 and (x_ND + way_ND).max() <= 1 + 1e-6
    left_N = height_N + (normal_ND * way_ND).sum(1)
    room_ND = np.where(-np.sign(height_N)[:, None] * normal_ND > 0, 1 - x_ND, x_ND)
    can_N = (np.abs(normal_ND) * room_ND).sum(1) > np.abs(height_N)
    assert 10 < can_N.sum() < 50
    np.testing.assert_allclose(left_N[can_N], 0, atol=1e-5)
    np.testing.assert_allclose(np.abs(way_ND)[~can_N], (room_ND * (normal_ND != 0))[~can_N],
                               atol=1e-6)
    # No shorter way: by bisection over the length of a linf way, or the multiplier of an l2 one.
    for i in np.flatnonzero(can_N):
        low, high = 0.0, 1e3
        for _ in range(60):
            middle = (low + high) / 2
            pace_D = np.ones(12) if norm == 'linf' else np.abs(normal_ND[i])
            reached = (np.abs(normal_ND[i]) * np.minimum(middle * pace_D, room_ND[i])).sum()
            low, high = (low, middle) if reached > abs(height_N[i]) else (middle, high)
        best_D = np.minimum(high * pace_D, room_ND[i]) * (normal_ND[i] != 0)
        np.testing.assert_allclose(np.abs(way_ND[i]), best_D, atol=1e-4)


def test_the_losses_are_those_of_the_paper():
    logits_NK = jnp.float32([[3.0, 1.0, 0.0, -1.0], [0.0, 4.0, 1.0, 2.0]])
    labels_N = jnp.int32([0, 0])
    np.testing.assert_allclose(apgd.ratio(logits_NK, labels_N), [-2 / 3, 4 / 3], rtol=1e-6)
    np.testing.assert_allclose(apgd.targeted_ratio(logits_NK, labels_N, jnp.int32([1, 2])),
                               [-2 / 3.5, 1 / 3.5], rtol=1e-6)
    np.testing.assert_allclose(apgd.ratio(9 * logits_NK, labels_N),
                               apgd.ratio(logits_NK, labels_N), rtol=1e-6)


def test_the_other_classes_come_by_their_logits():
    predict = jax.tree_util.Partial(lambda logits_K, x_NHWC: jnp.broadcast_to(
        logits_K[None], (len(x_NHWC), 4)), jnp.float32([1.0, 4.0, 2.0, 3.0]))
    x_NHWC = jnp.zeros((2, 1, 1, 1))
    found = [attacks.targets_of(predict, x_NHWC, jnp.int32([1, 3]), np.int32(rank)).tolist()
             for rank in range(3)]
    assert found == [[3, 1], [2, 2], [0, 0]]


def test_autoattack_goes_on_with_those_that_stand(model):
    found = autoattack.attack(*model, 0.01)
    assert list(found.right_after) == list(autoattack.ATTACKS) and found.notes == []
    counts = [int(found.clean_N.sum()), *found.right_after.values()]
    assert counts == sorted(counts, reverse=True) and counts[0] == 37 > counts[-1]
    assert counts[-1] == found.right_N.sum()


def test_with_three_classes_autoattack_says_what_it_leaves_out(model):
    predict, images_NHWC, labels_N = model
    params = dict(predict.args[0], out=predict.args[0]['out'][:, :3])
    few = jax.tree_util.Partial(logits, params)
    labels_N = np.asarray(few(images_NHWC)).argmax(1)
    found = autoattack.attack(few, images_NHWC, labels_N, 0.05)
    assert list(found.right_after) == ['apgd-ce', 'fab-t', 'square']
    [note] = found.notes
    assert 'apgd-t' in note and '\n' not in note
    with pytest.raises(ConfigError, match='four classes'):
        apgd.attack(few, images_NHWC, labels_N, 0.05, loss='dlr', targets=2)


@pytest.mark.parametrize('change, words', [
    ({'norm': 'l1'}, 'norm'), ({'epsilon': -1.0}, 'epsilon'), ({'epsilon': np.nan}, 'epsilon'),
    ({'steps': 0}, 'steps'), ({'restarts': 0}, 'restarts')])
def test_wrong_arguments_are_named(change, words, model):
    with pytest.raises(ConfigError, match=words) as error:
        pgd.attack(*model, **{'epsilon': 0.1} | change)
    assert '\n' not in str(error.value)


def test_images_of_bytes_and_strange_labels_are_refused(model):
    predict, images_NHWC, labels_N = model
    with pytest.raises(DataError, match='divide'):
        fgsm.attack(predict, 255 * images_NHWC, labels_N, 0.1)
    with pytest.raises(DataError, match='labels'):
        fgsm.attack(predict, images_NHWC, labels_N + CLASSES, 0.1)
    with pytest.raises(DataError, match='finite'):
        nan = jax.tree.map(lambda x: jnp.nan * x, predict)
        fgsm.attack(nan, images_NHWC, labels_N, 0.1)


def test_loops_of_an_accelerator_find_the_same(model, monkeypatch):
    there = run('apgd-ce', model, 'linf')
    monkeypatch.setattr(attacks.backend, 'platform', lambda: 'gpu')
    found = run('apgd-ce', model, 'linf')
    np.testing.assert_array_equal(found.right_N, there.right_N)
