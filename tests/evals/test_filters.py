import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
from flax import linen as nn

from imgjax import models
from imgjax.errors import ConfigError, DataError
from imgjax.evals import filters


def parameters(name, shape):
    """Returns the parameters of a model, drawn without its initialisers, which take long."""
    model = models.create(name, num_classes=3)
    shapes = jax.eval_shape(
        lambda: model.init(jax.random.key(0), jnp.zeros((1, *shape)), train=False))['params']
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes)


WITHOUT_CONVOLUTIONS = ('tiny_mlp', 'tiny_rnn', 'gru')


@pytest.mark.parametrize('variant, shape, name, size', [
    ('tiny_cnn', (32, 32, 3), 'conv1/kernel', (4, 3, 3, 3)),
    ('tiny_vit', (32, 32, 3), 'patch_embed.proj/kernel', (16, 4, 4, 3)),
    ('tiny_convnext', (32, 32, 1), 'stem.0/kernel', (8, 2, 2, 1)),  # and depthwise windows
    ('tiny_shufflenet_v2', (32, 32, 1), 'conv1.0/kernel', (8, 3, 3, 1)),
    ('tiny_repvgg', (32, 32, 3), 'stem/conv_kxk/conv/kernel', (8, 3, 3, 3)),
    ('tiny_mlp', (8, 8, 3), 'hidden1/kernel', (16, 8, 8, 3)),
    ('tiny_rnn', (10, 8, 3), 'forward1/ig/kernel', (12, 1, 8, 3)),
    ('gru', (10, 8, 1), 'forward1/in/kernel', (128, 1, 8, 1)),
])
def test_the_first_layer_of_the_models_is_found(variant, shape, name, size):
    params = parameters(variant, shape)
    found = filters.first_layer(params, shape)
    assert (found.name, found.filters_FHWC.shape, found.reason) == (name, size, '')
    without_shape = filters.first_layer(params)
    assert without_shape.name == ('' if variant in WITHOUT_CONVOLUTIONS else name)


def test_filters_are_scaled_and_sorted():
    kernel = np.zeros((1, 2, 1, 3), np.float32)  # HWIO: filters (1, -2), (0, 0) and (4, 1)
    kernel[0, :, 0, 0], kernel[0, :, 0, 2] = (1, -2), (4, 1)
    found = filters.first_layer({'Conv_0': {'kernel': kernel, 'bias': np.ones(3)}})
    assert found.channels_F.tolist() == [2, 0, 1]
    np.testing.assert_allclose(found.norms_F, [17**0.5, 5**0.5, 0])
    assert found.scales_F.tolist() == [4, 2, 0]
    np.testing.assert_allclose(
        found.filters_FHWC[..., 0], [[[1, 0.625]], [[0.75, 0]], [[0.5, 0.5]]])
    assert found.filters_FHWC.dtype == np.float32


def test_a_matrix_gives_the_pixels_that_it_multiplies():
    image_HWC = np.random.default_rng(0).normal(size=(4, 5, 2)).astype(np.float32)
    model = nn.Sequential([nn.Dense(3)])
    params = model.init(jax.random.key(0), image_HWC.reshape(1, -1))['params']
    found = filters.first_layer(params, image_HWC.shape)
    weights_FHWC = (found.filters_FHWC - 0.5) * 2 * found.scales_F[:, None, None, None]
    ours = (weights_FHWC * image_HWC).sum(axis=(1, 2, 3))
    theirs = model.apply({'params': params}, image_HWC.reshape(1, -1))[0]
    np.testing.assert_allclose(ours, theirs[found.channels_F], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('params, shape, reason', [
    ({}, (8, 8, 3), 'no matrix its pixels'),
    ({'head': {'kernel': np.ones((5, 3))}}, (8, 8, 3), 'no matrix its pixels'),
    ({'head': {'kernel': np.ones((192, 3))}}, None, 'give image_shape'),
])
def test_without_a_first_layer_there_is_a_reason(params, shape, reason):
    found = filters.first_layer(params, shape)
    assert (found.name, found.filters_FHWC) == ('', None) and reason in found.reason


def test_the_head_is_the_first_layer_only_where_it_is_alone():
    head, hidden = {'kernel': np.ones((12, 3))}, {'kernel': np.ones((12, 12))}
    assert filters.first_layer({'head': head}, (2, 2, 3)).name == 'head/kernel'
    both = filters.first_layer({'head': head, 'hidden1': hidden}, (2, 2, 3))
    assert both.name == 'hidden1/kernel'


def test_broken_weights_give_one_line():
    with pytest.raises(DataError, match='conv1/kernel: has weights that are not finite'):
        filters.first_layer({'conv1': {'kernel': np.full((3, 3, 3, 2), np.nan)}})


# Channel 0 likes bright left halves, channel 1 red, channel 2 stripes of one pixel.
LIKES_3HWC = np.zeros((3, 8, 8, 3), np.float32)
LIKES_3HWC[0], LIKES_3HWC[0, :, 4:] = 1, -1
LIKES_3HWC[1] = np.array([1, -1, -1])
LIKES_3HWC[2] = np.where(np.arange(8) % 2, 1, -1)[:, None, None]


def activate(images_NHWC):
    """Returns activations (N, H, W, 3)."""
    return jnp.einsum('nhwc,khwc->nhwk', images_NHWC, LIKES_3HWC)


GREY = {'mean': (0.5, 0.5, 0.5), 'std': (0.5, 0.5, 0.5)}
SHAPE = (8, 8, 3)


def maximize(channels=(2, 0, 1), **options):
    return filters.maximize(activate, SHAPE, channels, **{'steps': 60, **GREY} | options)


def test_pixels_ascend_to_what_a_channel_likes():
    found = maximize(natural=False, steps=100, data_maxima_N=[1.5, 0, 3])
    assert found.images_NHWC.shape == (3, *SHAPE) and found.images_NHWC.dtype == np.float32
    assert 0 <= found.images_NHWC.min() and found.images_NHWC.max() <= 1
    liked_NHWC = LIKES_3HWC[[2, 0, 1]]
    assert ((found.images_NHWC > 0.5) == (liked_NHWC > 0)).mean() > 0.99
    assert (found.reached_N > 0.9 * 3).all()  # of 3, the sum of three colours at most
    assert found.shares_N == [pytest.approx(found.reached_N[0] / 1.5), None,
                              pytest.approx(found.reached_N[2] / 3)]


def test_what_is_reached_is_the_activation_of_the_images():
    for natural in (True, False):
        found = maximize(natural=natural, steps=3)
        means_NK = activate((found.images_NHWC - 0.5) / 0.5).mean(axis=(1, 2))
        np.testing.assert_allclose(found.reached_N, means_NK[np.arange(3), [2, 0, 1]], atol=1e-5)


def neighbours_correlate(images_NHWC):
    return np.corrcoef(images_NHWC[:, 1:].ravel(), images_NHWC[:, :-1].ravel())[0, 1]


def test_natural_images_rise_and_begin_as_photographs_do():
    first, last = (maximize(natural=True, steps=steps) for steps in (1, 60))
    assert (last.reached_N[1:] > first.reached_N[1:] + 0.2).all()
    noise = maximize(natural=False, steps=1)
    assert neighbours_correlate(first.images_NHWC) > 0.2 > neighbours_correlate(noise.images_NHWC)
    # Brightness varies more than colour.
    brightness_NHW = first.images_NHWC.mean(axis=-1)
    assert brightness_NHW.std() > 2 * (first.images_NHWC - brightness_NHW[..., None]).std()


def test_only_natural_images_are_moved_in_each_step(monkeypatch):
    moved = []
    monkeypatch.setattr(filters, '_moved', lambda images_NHWC, moved_4: moved.append(
        moved_4.shape) or images_NHWC)
    for natural, expected in ((False, []), (True, [(4,)])):
        filters.maximize(lambda x_NHWC: 2 * x_NHWC, SHAPE, [0], steps=2, natural=natural, **GREY)
        assert moved == expected  # one call: it is traced once


@pytest.mark.parametrize('moved_4', [(0, 0, 0, 0), (0, 0, 1, -1), (1, 0, 0, 0), (-0.5, 1, 0.3, 0)])
def test_a_movement_is_that_of_scipy(moved_4):
    images_NHWC = np.random.default_rng(0).random((2, 32, 16, 3)).astype(np.float32)
    ours = filters._moved(images_NHWC, jnp.asarray(moved_4, jnp.float32))
    angle, zoom = np.radians(5) * moved_4[0], 1 + 0.05 * moved_4[1]
    matrix_22 = zoom * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    middle_2 = np.array([15.5, 7.5])
    offset_2 = middle_2 - matrix_22 @ middle_2 + np.array([32, 16]) / 16 * moved_4[2:]
    theirs = scipy.ndimage.affine_transform(
        images_NHWC[1, :, :, 2], matrix_22, offset_2, order=1, mode='nearest')
    np.testing.assert_allclose(ours[1, :, :, 2], theirs, atol=1e-4)


def test_a_seed_gives_the_same_images():
    one, again, other = (maximize(steps=3, seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one.images_NHWC, again.images_NHWC)
    assert np.abs(one.images_NHWC - other.images_NHWC).max() > 1e-3


def test_a_model_of_the_package_is_maximised():
    model = models.create('tiny_cnn', num_classes=3)
    variables = model.init(jax.random.key(0), jnp.zeros((1, 16, 16, 1)), train=False)
    stage2 = jax.tree_util.Partial(
        lambda variables, x_NHWC: model.apply(variables, x_NHWC, train=False)[1]['stage2'],
        variables)
    reached = [
        filters.maximize(stage2, (16, 16, 1), range(8), mean=(0.5,), std=(0.25,), steps=steps,
                         natural=False).reached_N
        for steps in (1, 20)]
    assert (reached[1] > 1.5 * reached[0]).sum() >= 6


@pytest.mark.parametrize('changed, text', [
    ({'channels': [0, 3]}, 'channels: 3; give channels from 0 to 2'),
    ({'channels': []}, 'channels: none'),
    ({'channels': [0.5]}, 'channels: 0.5'),
    ({'steps': 0}, 'steps: 0'),
    ({'mean': (0.5,)}, 'one number for each of 3 colours'),
    ({'std': (0.5, 0.5, 0)}, 'std above 0'),
    ({'data_maxima_N': [1]}, 'for each of 3 channels'),
])
def test_bad_arguments_give_one_line(changed, text):
    with pytest.raises(ConfigError, match=text) as caught:
        maximize(**changed)
    assert '\n' not in str(caught.value)


def test_bad_activations_give_one_line():
    with pytest.raises(ConfigError, match=r'gives shape \(1,\) for one image'):
        filters.maximize(lambda x: x.sum(axis=(1, 2, 3)), SHAPE, [0], **GREY)
    with pytest.raises(DataError, match='not finite; the model diverged'):
        filters.maximize(lambda x: x * jnp.nan, SHAPE, [0], steps=1, **GREY)
    with pytest.raises(ConfigError, match='shape: '):
        filters.maximize(activate, (8, 8), [0], **GREY)


def test_the_most_exciting_images():
    activations_NC = np.array([[1, 5], [3, 5], [2, 7], [3, 0]])
    assert filters.most_exciting(activations_NC, 3).tolist() == [[1, 3, 2], [2, 0, 1]]


@pytest.mark.parametrize('activations_NC, count, error', [
    (np.ones((2, 3)), 3, DataError), (np.ones(3), 1, DataError), (np.ones((2, 3)), 0, ConfigError),
    (np.full((2, 3), np.nan), 1, DataError)])
def test_bad_activations_of_a_set_give_one_line(activations_NC, count, error):
    with pytest.raises(error) as caught:
        filters.most_exciting(activations_NC, count)
    assert '\n' not in str(caught.value)
