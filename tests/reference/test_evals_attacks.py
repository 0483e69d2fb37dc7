"""Attacks against pyautoattack 0.2.0, the authors' AutoAttack, on one network in both libraries."""

import functools
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import load_digits

from imgjax.evals import apgd, attacks, autoattack, fab, norm_balls, square

torch = pytest.importorskip('torch')
pyautoattack = pytest.importorskip('pyautoattack')
APGDAttack = pytest.importorskip('pyautoattack.autopgd_base').APGDAttack

EPSILON = {'linf': 0.1, 'l2': 0.5}
torch.set_num_threads(1)  # its threads wait for each other where the cores are busy
THEIR_NORMS = {'linf': 'Linf', 'l2': 'L2'}
IMAGES = 200


def logits(params, images_NHWC):
    """Two convolutions and a classifier, on images in 0 to 1."""
    x_NHWC = images_NHWC
    for name in ('first', 'second'):
        kernel_HWIO, bias_O = params[name]
        x_NHWC = jax.nn.relu(jax.lax.conv_general_dilated(
            x_NHWC, kernel_HWIO, (2, 2), ((1, 1), (1, 1)),
            dimension_numbers=('NHWC', 'HWIO', 'NHWC')) + bias_O[None, None, None])
    kernel_DK, bias_K = params['head']
    return x_NHWC.reshape(len(x_NHWC), -1) @ kernel_DK + bias_K[None]


@functools.cache
def trained():
    """Returns (parameters, images_NHWC, labels_N) after 300 steps of training against FGSM."""
    images_ND, labels_N = load_digits(return_X_y=True)
    images_NHWC = (images_ND / 16).reshape(-1, 8, 8, 1).astype(np.float32)
    key = jax.random.key(0)
    params = {
        name: (jax.random.normal(jax.random.fold_in(key, i), shape) / np.sqrt(np.float32(
            np.prod(shape[:-1]))), jnp.zeros(shape[-1]))
        for i, (name, shape) in enumerate({'first': (3, 3, 1, 8), 'second': (3, 3, 8, 16),
                                           'head': (64, 10)}.items())}

    def loss(params, x_NHWC, labels_N):
        return attacks.cross_entropy(logits(params, x_NHWC), labels_N).mean()

    @jax.jit
    def step(params, moments, x_NHWC, labels_N):
        x_NHWC = x_NHWC + 0.1 * jnp.sign(jax.grad(loss, 1)(params, x_NHWC, labels_N))
        moments = jax.tree.map(lambda m, g: 0.9 * m + g, moments,
                               jax.grad(loss)(params, x_NHWC, labels_N))
        return jax.tree.map(lambda p, m: p - 0.1 * m, params, moments), moments

    moments = jax.tree.map(jnp.zeros_like, params)
    rng = np.random.default_rng(0)
    for _ in range(300):
        rows = rng.integers(0, 1400, 128)
        params, moments = step(params, moments, images_NHWC[rows],
                               labels_N[rows].astype(np.int32))
    return params, images_NHWC[1400:1400 + IMAGES], labels_N[1400:1400 + IMAGES].astype(np.int32)


def in_torch(params):
    """Returns the same network in torch, whose images are NCHW."""
    def weights(kernel):
        return torch.from_numpy(np.array(kernel).transpose(3, 2, 0, 1).copy())

    first, second, head = (params[name] for name in ('first', 'second', 'head'))
    biases = [torch.from_numpy(np.array(bias)) for _, bias in (first, second, head)]
    matrix = torch.from_numpy(np.array(head[0]))

    def predict(images):
        x = images
        for kernel, bias in zip(map(weights, (first[0], second[0])), biases, strict=False):
            x = torch.relu(torch.nn.functional.conv2d(x, kernel, bias, 2, 1))
        return x.permute(0, 2, 3, 1).flatten(1) @ matrix + biases[2]

    return predict


def their_images(images_NHWC):
    return torch.from_numpy(np.array(images_NHWC).transpose(0, 3, 1, 2).copy())


def theirs(names, norm, images=IMAGES, queries=5000):
    """Returns how many images are right after their attacks, run in this order."""
    params, images_NHWC, labels_N = trained()
    attack = pyautoattack.AutoAttack(
        in_torch(params), norm=THEIR_NORMS[norm], eps=EPSILON[norm], seed=0,
        version='custom', attacks=list(names))
    attack.apgd.n_restarts = 1
    attack.square.n_queries = queries
    attack.verbose = False
    made, _ = attack.run_standard_evaluation(
        their_images(images_NHWC[:images]), torch.from_numpy(labels_N[:images]).long(),
        batch_size=images)
    return int((in_torch(params)(made).argmax(1).numpy() == labels_N[:images]).sum())


def compared(ours: int, reference: int, most: int) -> None:
    print(f'right after the attack: {ours}, theirs {reference}')
    assert abs(ours - reference) <= most


def test_the_network_is_the_same():
    params, images_NHWC, labels_N = trained()
    ours_NK = np.asarray(logits(params, images_NHWC))
    theirs_NK = in_torch(params)(their_images(images_NHWC)).numpy()
    print(f'difference of logits {np.abs(ours_NK - theirs_NK).max():.1e}, '
          f'right {(ours_NK.argmax(1) == labels_N).mean():.3f}')
    np.testing.assert_allclose(ours_NK, theirs_NK, atol=2e-5)


@pytest.mark.parametrize('norm', ['linf', 'l2'])
@pytest.mark.parametrize('loss', ['ce', 'dlr'])
def test_auto_pgd_from_the_same_start(loss, norm):
    # Where it begins decides over several images (l2: 123 to 128 of 200 with ten seeds of theirs).
    params, images_NHWC, labels_N = trained()
    ours = apgd.attack(jax.tree_util.Partial(logits, params), images_NHWC, labels_N, EPSILON[norm],
                       norm=norm, loss=loss)
    starts_NHWC = norm_balls.random_border(
        attacks._keys(np.uint32(0), np.arange(IMAGES, dtype=np.uint32), np.uint32(0)),
        jnp.asarray(images_NHWC), jnp.float32(EPSILON[norm]), norm)
    attack = APGDAttack(in_torch(params), norm=THEIR_NORMS[norm], eps=EPSILON[norm], loss=loss,
                        device='cpu', logger=logging.getLogger())
    images = their_images(images_NHWC)
    attack.init_hyperparam(images)
    with torch.no_grad():
        _, right, _, _ = attack.attack_single_run(
            images, torch.from_numpy(labels_N).long(), x_init=their_images(starts_NHWC))
    compared(int(ours.right_N.sum()), int(right.sum()), 1)
    assert (ours.right_N != right.numpy().astype(bool)).sum() <= 1


@pytest.mark.parametrize('norm', ['linf', 'l2'])
def test_the_fast_adaptive_boundary_attack(norm):
    params, images_NHWC, labels_N = trained()
    found = fab.attack(jax.tree_util.Partial(logits, params), images_NHWC[:30], labels_N[:30],
                       EPSILON[norm], norm=norm)
    compared(int(found.right_N.sum()), theirs(['fab-t'], norm, images=30), 1)


@pytest.mark.parametrize('norm', ['linf', 'l2'])
def test_square(norm, monkeypatch):
    """Their windows never lie in the last row or column, and so find less on so few pixels."""
    params, images_NHWC, labels_N = trained()
    run = functools.partial(
        square.attack, jax.tree_util.Partial(logits, params), images_NHWC, labels_N,
        EPSILON[norm], norm=norm, queries=2000)
    jax.clear_caches()
    whole = int(run().right_N.sum())
    monkeypatch.setattr(square, '_window', functools.partial(without_last, square._window))
    jax.clear_caches()
    alike, reference = int(run().right_N.sum()), theirs(['square'], norm, queries=2000)
    jax.clear_caches()
    print(f'with windows everywhere {whole}, with theirs {alike}, theirs {reference}')
    assert whole <= reference
    if norm == 'linf':
        assert abs(alike - reference) <= 2  # as much as two seeds differ
    else:  # Ours finds a little more, perhaps as their first grid leaves out the border: with 5,000
        # queries and three seeds ours leaves 139 to 142, theirs 141 to 145.
        assert alike <= reference + 2


def without_last(window, row_unit_N, column_unit_N, side, H, W):
    """Draws a window as they do, from one place fewer in each direction."""
    def less(unit_N, size):
        places = (size + 1 - side).astype(jnp.float32)
        return unit_N * jnp.maximum(places - 1, 1.0) / places

    return window(less(row_unit_N, H), less(column_unit_N, W), side, H, W)


def test_the_standard_version():
    params, images_NHWC, labels_N = trained()
    found = autoattack.attack(jax.tree_util.Partial(logits, params), images_NHWC, labels_N,
                              EPSILON['linf'])
    print(found.right_after)
    compared(int(found.right_N.sum()), theirs(autoattack.ATTACKS, 'linf'), 1)
