"""Attention maps: rollout, and the maps times their gradients."""

import jax
import numpy as np
import pytest

from imgjax.errors import DataError
from imgjax.evals import chunks
from imgjax.explain import attention_gradient, attention_rollout, layers
from tests.explain.test_layers import filled

TARGETS_N = np.array([0, 3])
MAPS = ('block00_attn', 'block01_attn')


@pytest.fixture(scope='module', params=['token', 'avg'])
def vit(request):
    """A model, its maps and their gradients, and the rows of the tokens that its head reads."""
    model = filled('tiny_vit', attention='maps', pool=request.param)
    maps, gradients = layers.values_and_gradients(*model, TARGETS_N.astype(np.int32), MAPS)
    first = int(request.param == 'token')
    rows = slice(0, 1) if first else slice(None)
    return model, *([np.asarray(one[name], float) for name in MAPS] for one in (maps, gradients)), (
        rows, slice(first, None))


def test_rollout(vit):
    model, (first, second), _, at = vit
    identity = np.eye(first.shape[-1])
    joined = (second.mean(1) / 2 + identity / 2) @ (first.mean(1) / 2 + identity / 2)
    expected = joined[:, at[0], at[1]].mean(1).reshape(2, 4, 8)
    found = attention_rollout.raw(*model, TARGETS_N)
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    maps_NHW = attention_rollout.explain(*model, TARGETS_N)
    assert maps_NHW.shape == (2, 16, 32)
    np.testing.assert_array_equal(maps_NHW[:, 0, 0], np.asarray(found)[:, 0, 0])


def test_attention_gradient(vit):
    model, maps, gradients, at = vit
    first, second = (np.maximum(m * g, 0).mean(1) for m, g in zip(maps, gradients, strict=True))
    expected = (first + second + second @ first)[:, at[0], at[1]].mean(1).reshape(2, 4, 8)
    found = attention_gradient.raw(*model, TARGETS_N)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-6 * expected.max())
    assert expected.max() > 0
    other = attention_gradient.raw(*model, TARGETS_N[::-1])
    assert np.abs(other - found).max() > 1e-2 * expected.max()  # it depends on the class


def test_gradients_are_those_of_the_maps_that_are_used(vit):
    """They say how the logits change when the returned maps do."""
    (apply_fn, variables, images_NHWC), maps, gradients, _ = vit
    place = (slice(None), *np.unravel_index(np.abs(gradients[1][0]).argmax(), maps[1].shape[1:]))
    step = np.zeros(maps[1].shape, np.float32)
    step[place] = 0.05
    run = jax.jit(lambda d: layers.with_deltas(
        apply_fn, variables, images_NHWC, {MAPS[1]: d})[0][np.arange(2), TARGETS_N])
    change_N = (run(step) - run(-step)) / 2
    np.testing.assert_allclose(change_N, 0.05 * gradients[1][place], rtol=2e-2, atol=1e-5)
    assert np.abs(change_N).max() > 1e-4


def test_class_attention_follows_the_blocks():
    """CaiT: the class token gathers the patches, after these have gathered each other."""
    model = filled('tiny_cait', attention='maps')
    names = ('block00_attn', 'block01_attn', 'token00_attn')
    maps, gradients = layers.values_and_gradients(*model, TARGETS_N.astype(np.int32), names)
    first, second, token = (
        np.maximum(np.asarray(maps[name], float) * np.asarray(gradients[name], float), 0).mean(1)
        for name in names)
    patches = np.eye(32) + first + second + second @ first
    expected = (token[:, :, 1:] @ patches).reshape(2, 4, 8)
    np.testing.assert_allclose(attention_gradient.raw(*model, TARGETS_N), expected, rtol=1e-3,
                               atol=1e-6 * expected.max())
    with pytest.raises(DataError, match='rows are not shares .* attention_gradient'):
        attention_rollout.explain(*model, TARGETS_N)


def test_rollout_of_class_attention_alone():
    maps_Nhw = np.asarray(
        attention_rollout.raw(*filled('tiny_xcit', attention='maps'), TARGETS_N))
    assert maps_Nhw.shape == (2, 4, 8) and (maps_Nhw > 0).all() and (maps_Nhw.sum((1, 2)) < 1).all()


@pytest.mark.parametrize('method', [attention_rollout, attention_gradient])
def test_errors(method):
    with pytest.raises(DataError, match="model.options.attention='maps'"):
        method.explain(*filled('tiny_vit'), TARGETS_N)
    with pytest.raises(DataError, match='or is of windows'):
        method.explain(*filled('tiny_swin', attention='maps'), TARGETS_N)
    with pytest.raises(DataError, match='32 tokens are not the patches|is not over the same'):
        method.explain(*filled('tiny_coatnet', 32, 64, attention='maps'), TARGETS_N)
    with pytest.raises(DataError, match='targets'):
        method.explain(*filled('tiny_vit', attention='maps'), np.array([0, -1]))


def test_zero_gradients_are_refused():
    apply_fn, variables, images_NHWC = filled('tiny_vit', attention='maps')
    variables = {**variables, 'params': {**variables['params'], 'head': jax.tree.map(
        np.zeros_like, variables['params']['head'])}}
    with pytest.raises(DataError, match='zero for all images'):
        attention_gradient.explain(apply_fn, variables, images_NHWC, TARGETS_N)


def test_chunks_change_nothing(monkeypatch):
    apply_fn, variables, images_NHWC = filled('tiny_vit', attention='maps')
    three = apply_fn, variables, np.concatenate([images_NHWC, images_NHWC[:1]]), np.arange(3)
    whole = [method.raw(*three) for method in (attention_rollout, attention_gradient)]
    monkeypatch.setattr(chunks, 'images_at_once', lambda *args, most=256: 2)
    parts = [method.raw(*three) for method in (attention_rollout, attention_gradient)]
    for one, other in zip(whole, parts, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4)
