"""The channels that decide: sums that can be checked by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imgjax import models
from imgjax.errors import ConfigError, DataError
from imgjax.explain import concepts

KERNEL_DK = np.array([[2.0, 0, 0], [0, 3, 0], [0, 0, 1], [5, 5, 5]])
FEATURES_ND = np.array([[1.0, 0, 0, 9], [3, 1, 0, 9], [0, 2, 1, 9], [0, 0, 4, 9]])
LABELS_N = np.array([0, 0, 1, 2])
BIAS_K = np.array([0.0, 1, 2])


def head():
    params = {'head': {'kernel': KERNEL_DK, 'bias': BIAS_K}}
    return concepts.head_of(params, FEATURES_ND, FEATURES_ND @ KERNEL_DK + BIAS_K)


def test_terms_add_up_to_the_logit_above_the_mean_of_all():
    logits_NK = FEATURES_ND @ KERNEL_DK + BIAS_K
    found = concepts.of_images(head(), FEATURES_ND, LABELS_N, 4)
    above_N = (logits_NK - logits_NK.mean(1, keepdims=True))[np.arange(4), LABELS_N]
    np.testing.assert_allclose(found.terms_NM.sum(1) + head().bias_K[LABELS_N], above_N)
    assert (np.diff(found.terms_NM) <= 0).all()
    # Channel 3 is the largest, and the same for all classes: it decides nothing.
    assert found.channels_NM[:, 0].tolist() == [0, 0, 1, 2]
    terms_KD = concepts.of_classes(head(), FEATURES_ND, LABELS_N)
    np.testing.assert_allclose(terms_KD[0], [2 * 2 * 2 / 3, -0.5, 0, 0], atol=1e-12)
    np.testing.assert_allclose(terms_KD[:, 3], 0, atol=1e-12)


def test_terms_of_an_error_tell_the_two_classes_apart():
    found = concepts.of_images(head(), FEATURES_ND[1:2], np.array([0]), 3, np.array([1]))
    assert found.channels_NM.tolist() == [[0, 2, 3]]
    np.testing.assert_allclose(found.terms_NM, [[6, 0, 0]], atol=1e-12)


@pytest.mark.parametrize('share, expected', [(0.5, [1, 1, 0]), (0.9, [2, 3, 0]), (1, [2, 3, 0])])
def test_the_fewest_channels_that_give_a_share(share, expected):
    terms_KD = np.array([[6.0, -9, 4, 0], [5, 2, 1, 0], [-1, -1, 0, 0]])
    assert concepts.needed(terms_KD, share).tolist() == expected


def test_a_head_of_a_few_channels_is_measured():
    terms_KD = concepts.of_classes(head(), FEATURES_ND, LABELS_N)
    logits_NK = FEATURES_ND @ KERNEL_DK + BIAS_K
    full = (logits_NK.argmax(1) == LABELS_N).mean()
    found = concepts.accuracies(head(), terms_KD, FEATURES_ND, LABELS_N, [0, 1, 4])
    assert found[-1] == full and found[0] == 0.25  # of no channel, the largest bias
    assert found[1] == ((FEATURES_ND @ np.diag([4 / 3, 2, 2 / 3, 0])[:, :3]
                         + BIAS_K).argmax(1) == LABELS_N).mean()


def real(name):
    """Returns params, features and logits of a tiny model with random weights."""
    model = models.create(name, 3)
    images = jnp.asarray(np.random.default_rng(0).normal(size=(4, 32, 32, 3)), jnp.float32)
    shapes = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), images)
    rng = np.random.default_rng(1)
    variables = jax.tree_util.tree_map_with_path(
        lambda path, leaf: (1 if path[-1].key == 'var' else 0) + 0.3 * rng.normal(
            size=leaf.shape).astype(np.float32) ** (2 if path[-1].key == 'var' else 1), shapes)
    logits_NK, out = jax.jit(lambda variables: model.apply(variables, images, train=False))(
        variables)
    return variables['params'], out['pre_logits'], logits_NK


@pytest.mark.parametrize('name', ['tiny_cnn', 'tiny_resnetv2'])
def test_heads_of_models_are_found(name):
    params, features_ND, logits_NK = real(name)
    found = concepts.head_of(params, features_ND, logits_NK)
    assert found.kernel_DK.shape == (features_ND.shape[1], 3)
    np.testing.assert_allclose(found.kernel_DK.sum(1), 0, atol=1e-6)


def test_a_head_with_an_activation_is_refused():
    with pytest.raises(DataError, match='not a linear map'):
        concepts.head_of(*real('tiny_squeezenet'))


def test_what_does_not_fit_is_refused():
    params = {'head': {'kernel': KERNEL_DK}}
    for several in ({'head': {'fc1': params['head'], 'fc2': params['head']}}, {}):
        with pytest.raises(DataError, match='no parameters head/kernel'):
            concepts.head_of(several, FEATURES_ND, FEATURES_ND @ KERNEL_DK)
    for features_ND, logits_NK, word in (
            (FEATURES_ND[:, :3], np.zeros((4, 3)), 'for 3 features'),
            (FEATURES_ND, FEATURES_ND @ KERNEL_DK * np.nan, 'finite'),
            (FEATURES_ND[:0], np.zeros((0, 3)), 'of 0 images')):
        with pytest.raises(DataError, match=word):
            concepts.head_of(params, features_ND, logits_NK)
    with pytest.raises(ConfigError, match='share: 0 is not'):
        concepts.needed(np.ones((2, 3)), 0)
    with pytest.raises(ConfigError, match='count: 5; give 1 to 4'):
        concepts.of_images(head(), FEATURES_ND, LABELS_N, 5)
