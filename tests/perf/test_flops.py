"""FLOPs by walking the jaxpr, against counts by hand and XLA's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imgjax import models
from imgjax.perf import flops
from imgjax.process import backend


def traced(function, *shapes, dtype=np.float32):
    return jax.make_jaxpr(function)(*[jax.ShapeDtypeStruct(shape, dtype) for shape in shapes])


def convolution(strides, padding, groups=1):
    return lambda x, kernel: jax.lax.conv_general_dilated(
        x, kernel, strides, padding, feature_group_count=groups,
        dimension_numbers=('NHWC', 'HWIO', 'NHWC'))


def test_products_and_loops():
    def looped(x, y):
        return jax.lax.scan(lambda carry, _: (carry @ y, None), x, None, length=7)[0]

    def branched(x, y):
        return jax.lax.cond(x[0, 0] > 0, lambda: x @ y, lambda: (x @ y) @ y)

    assert flops.count(traced(lambda x, y: x @ y, (3, 4), (4, 5))) == 2 * 3 * 4 * 5
    assert flops.count(traced(lambda x, y: jnp.einsum('nij,nkj->nik', x, y),
                              (2, 3, 4), (2, 5, 4))) == 2 * 2 * 3 * 5 * 4
    assert flops.count(traced(looped, (3, 4), (4, 4))) == 7 * 2 * 3 * 4 * 4
    assert flops.count(traced(branched, (3, 4), (4, 4))) == 2 * 2 * 3 * 4 * 4
    assert flops.count(traced(jax.jit(jax.checkpoint(lambda x, y: x @ y)), (3, 4), (4, 5))) == 120


@pytest.mark.parametrize('strides, padding, groups, pairs', [
    ((1, 1), 'VALID', 1, 6 * 6 * 9),
    ((1, 1), 'SAME', 1, (3 * 8 - 2) ** 2),  # a tap of the first and of the last meets padding
    ((2, 2), 'VALID', 1, 3 * 3 * 9),
    ((1, 1), 'VALID', 4, 6 * 6 * 9),
])
def test_convolution_counts_what_meets_pixels(strides, padding, groups, pairs):
    shapes = (2, 8, 8, 8), (3, 3, 8 // groups, 12)
    wanted = 2 * 2 * pairs * (8 // groups) * 12
    run = convolution(strides, padding, groups)
    assert flops.count(traced(run, *shapes)) == wanted
    # Each of the two gradients pairs the same pixels with the same taps.
    gradients = jax.grad(lambda x, kernel: (run(x, kernel) ** 2).sum(), argnums=(0, 1))
    assert flops.count(traced(gradients, *shapes)) == 3 * wanted


def test_agrees_with_xla():
    def network(x, kernel, weights):
        y = convolution((2, 2), 'SAME')(x, kernel)
        return y.reshape(y.shape[0], -1) @ weights

    shapes = (4, 16, 16, 8), (3, 3, 8, 16), (8 * 8 * 16, 10)
    lowered = jax.jit(network).lower(*[jax.ShapeDtypeStruct(s, np.float32) for s in shapes])
    assert flops.count(traced(network, *shapes)) == pytest.approx(
        lowered.cost_analysis()['flops'], rel=1e-3)


def test_remat_computes_the_forward_pass_again():
    def loss(x, y):
        return jnp.sin(jnp.sin(x @ y) @ y).sum()

    plain = flops.count(traced(jax.grad(loss), (4, 4), (4, 4)))
    again = flops.count(traced(jax.grad(jax.checkpoint(loss)), (4, 4), (4, 4)))
    assert again - plain == 2 * 2 * 4**3  # both products of the forward pass


def test_every_platform_counts_alike_in_the_plain_forms():
    """A CPU runs depthwise convolutions as shifted sums, in which there is no product to count."""
    model = models.create('convnext_atto', num_classes=10)

    def forward(x):
        variables = model.init(jax.random.key(0), x, train=False)
        return model.apply(variables, x, train=False)[0]

    def count(name):
        with backend.made_for(name):
            return flops.count(traced(lambda x: forward(x), (1, 32, 32, 3)))

    assert count('tpu') > 1.005 * count('cpu') and count('tpu') == count('gpu')
    assert backend.platform() == jax.default_backend(), 'the context ended'
