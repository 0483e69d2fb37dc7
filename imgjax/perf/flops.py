"""Counts the floating-point operations of a traced function: its matrix products and convolutions.

They are counted in the jaxpr, because XLA's cost analysis counts the body of a loop only once and
leaves out fused forms. Multiplications by padding, and by the zeros between the elements of the
gradient of a strided convolution, are not counted; so a convolution and each of its two gradients
have the same count.
"""

import math

import numpy as np
from jax.extend import core


def count(jaxpr) -> int:
    """Returns the FLOPs of a jaxpr (or closed jaxpr); a multiply-add counts as two.

    The body of a scan is counted once per iteration and a cond by its largest branch. The body of a
    while loop is counted once, because its number of iterations is unknown.

    >>> import jax
    >>> count(jax.make_jaxpr(lambda x: x @ x)(np.zeros((8, 8), np.float32)))
    1024
    """
    total = 0
    for equation in getattr(jaxpr, 'jaxpr', jaxpr).eqns:
        name, params = equation.primitive.name, equation.params
        if name == 'dot_general':
            total += _dot(equation)
        elif name == 'conv_general_dilated':
            total += _convolution(equation)
        elif name == 'cond':
            total += max(map(count, params['branches']))
        else:
            times = params['length'] if name == 'scan' else 1
            total += times * sum(map(count, inner_jaxprs(params)))
    return total


def inner_jaxprs(params: dict) -> list:
    """Returns the jaxprs that an equation runs."""
    leaves = [leaf for value in params.values()
              for leaf in (value if isinstance(value, tuple | list) else [value])]
    return [leaf for leaf in leaves if isinstance(leaf, core.Jaxpr | core.ClosedJaxpr)]


def _dot(equation) -> int:
    left, _ = (variable.aval.shape for variable in equation.invars)
    (contracted, _), _ = equation.params['dimension_numbers']
    return 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(left[i] for i in contracted)


def _convolution(equation) -> int:
    image, kernel = (variable.aval.shape for variable in equation.invars)
    out, params = equation.outvars[0].aval.shape, equation.params
    numbers = params['dimension_numbers']
    # N and F of the result times C of one group; these shapes include batch and feature groups.
    pairs = out[numbers.out_spec[0]] * out[numbers.out_spec[1]] * kernel[numbers.rhs_spec[1]]
    for axis, (low, _) in enumerate(params['padding']):
        pairs *= _products(
            image[numbers.lhs_spec[2 + axis]], kernel[numbers.rhs_spec[2 + axis]],
            out[numbers.out_spec[2 + axis]], params['window_strides'][axis], low,
            params['lhs_dilation'][axis], params['rhs_dilation'][axis])
    return 2 * pairs


def _products(size: int, taps: int, out: int, stride: int, low: int, spread: int,
              dilation: int) -> int:
    """Returns how many pairs (position in the result, tap) along an axis read an element."""
    position = (np.arange(out)[:, None] * stride + np.arange(taps)[None, :] * dilation - low)
    inside = (position >= 0) & (position <= (size - 1) * spread)
    return int((inside & (position % spread == 0)).sum())
