"""Two models of images of 8 x 8 pixels: a linear one, and a small network that reads digits."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest


class Example(NamedTuple):
    """A model, and images with the classes that are explained."""

    apply_fn: object
    variables: dict
    images_NHWC: np.ndarray
    targets_N: np.ndarray


def linear(variables, images_NHWC):
    images_NP = images_NHWC.reshape(len(images_NHWC), -1)
    return images_NP @ variables['params']['kernel'], {}


def network(variables, images_NHWC):
    """Two convolutions and a classifier, which reads each position."""
    params, x = variables['params'], images_NHWC
    for name in ('conv1', 'conv2'):
        x = jax.lax.conv_general_dilated(x, params[name]['kernel'], (1, 1), 'SAME',
                                         dimension_numbers=('NHWC', 'HWIO', 'NHWC'))
        x = jax.nn.relu(x + params[name]['bias'][None, None, None])
    x = x.reshape(len(x), -1)
    return x @ params['head']['kernel'] + params['head']['bias'][None], {}


@jax.jit
def training_step(variables, images_NHWC, labels_N):
    def loss(variables):
        logits_NK = network(variables, images_NHWC)[0]
        return optax.softmax_cross_entropy_with_integer_labels(logits_NK, labels_N).mean()

    return jax.tree.map(lambda value, slope: value - jnp.float32(0.1) * slope, variables,
                        jax.grad(loss)(variables))


@pytest.fixture(scope='session')
def trained():
    """A network that reads digits, and 30 images that it has not seen, with its answers."""
    from sklearn.datasets import load_digits

    images_NP, labels_N = load_digits(return_X_y=True)
    images_NHWC = ((images_NP - images_NP.mean()) / images_NP.std()).astype(np.float32)
    images_NHWC, labels_N = images_NHWC.reshape(-1, 8, 8, 1), labels_N.astype(np.int32)
    rng = np.random.default_rng(0)

    def layer(*shape):
        kernel = rng.normal(size=shape) / np.sqrt(np.prod(shape[:-1]))
        return {'kernel': jnp.asarray(kernel, jnp.float32), 'bias': jnp.zeros(shape[-1])}

    variables = {'params': {'conv1': layer(3, 3, 1, 8), 'conv2': layer(3, 3, 8, 8),
                            'head': layer(512, 10)}}
    for step in range(80):
        rows = np.arange(64 * step, 64 * (step + 1)) % 1600
        variables = training_step(variables, images_NHWC[rows], labels_N[rows])
    images_NHWC = images_NHWC[1600:1630]
    answers_N = np.asarray(network(variables, images_NHWC)[0].argmax(axis=1), np.int32)
    assert (answers_N == labels_N[1600:1630]).mean() > 0.8
    return Example(network, variables, images_NHWC, answers_N)


@pytest.fixture(scope='session')
def exact():
    """A linear model of five classes, and six images of three channels."""
    rng = np.random.default_rng(1)
    kernel_PK = rng.normal(size=(192, 5)).astype(np.float32)
    images_NHWC = rng.normal(size=(6, 8, 8, 3)).astype(np.float32)
    return Example(linear, {'params': {'kernel': jnp.asarray(kernel_PK)}}, images_NHWC,
                   np.arange(6, dtype=np.int32) % 5)


@jax.jit
def _gradient(variables, images_NHWC, targets_N):
    def total(images_NHWC):
        logits_NK = network(variables, images_NHWC)[0]
        return jnp.take_along_axis(logits_NK, targets_N[:, None], axis=1).sum()

    return jax.grad(total)(images_NHWC)


@pytest.fixture(scope='session')
def contributions():
    """Input times gradient of the network, as a method of `explain`."""
    def explain(apply_fn, variables, images_NHWC, targets_N):
        return np.asarray((_gradient(variables, images_NHWC, targets_N) * images_NHWC).sum(axis=3))

    return explain


@pytest.fixture(scope='session')
def exact_maps(exact):
    """The exact contributions of each value of the images to the logit, (N, H, W, C)."""
    kernel_PK = np.asarray(exact.variables['params']['kernel'])
    return exact.images_NHWC * kernel_PK.T[exact.targets_N].reshape(-1, 8, 8, 3)
