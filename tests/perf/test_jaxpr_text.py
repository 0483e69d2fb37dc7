"""What is read from the text of a jaxpr is written there by this version of JAX."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imgjax.models.parts import forms
from imgjax.perf import jaxpr_text

X, KERNEL = (np.ones(shape, np.float32) for shape in ((2, 8, 8, 4), (3, 3, 4, 4)))


def convolution(x, kernel):
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC'))


def shifted(x, kernel):
    return forms._shifted(x, kernel[:, :, 0], (1, 1), ((1, 1), (1, 1)), (1, 1))


def depthwise(x, kernel):
    return forms.convolve(x, kernel[:, :, :1], strides=(1, 1), padding='SAME', dilation=(1, 1),
                          groups=4)


def product(x, kernel):
    return x @ kernel[0, 0]


def scanned(function):
    return lambda x, kernel: jax.lax.scan(
        lambda carry, _: (function(carry, kernel), None), x, None, length=3)[0]


def text_of_gradient(function) -> str:
    return str(jax.make_jaxpr(jax.grad(lambda kernel: jnp.sum(function(X, kernel))))(KERNEL))


@pytest.mark.parametrize('function, convolves', [
    (convolution, True), (shifted, True), (depthwise, True), (product, False)])
def test_convolutions(function, convolves):
    assert jaxpr_text.convolves(text_of_gradient(function)) == convolves
    if function not in (shifted, depthwise):  # JAX 0.10 drops its name from the gradient of a scan
        assert jaxpr_text.convolves(text_of_gradient(scanned(function))) == convolves


def test_loops():
    assert jaxpr_text.loops(text_of_gradient(product)) == 0
    assert jaxpr_text.loops(text_of_gradient(scanned(product))) == 2, 'forward and backward'
    counted = jax.make_jaxpr(lambda x: jax.lax.while_loop(lambda x: x < 9, lambda x: x + 1, x))(1)
    assert jaxpr_text.loops(str(counted)) == 1
