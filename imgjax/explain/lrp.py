"""Layer-wise relevance propagation, the epsilon rule.

The relevance of a logit, at first the logit itself, is handed from the output of each layer to its
inputs in proportion to what they add to it (Bach et al. 2015,
https://doi.org/10.1371/journal.pone.0130140, equation 58; Montavon et al. 2019,
https://doi.org/10.1007/978-3-030-28954-6_10). For a layer z_j = sum_i x_i w_ij + b_j this is

    R_i = sum_j x_i w_ij / (z_j + epsilon sign(z_j)) R_j

with sign(0) = 1, and an activation a = f(z) passes its relevance on to z. So with R = x m the rule
is a backward pass for m, in which layers have their usual derivative and an activation has
f(z) / (z + epsilon sign(z)) in its place (Ancona et al. 2018, https://arxiv.org/abs/1711.06104,
proposition 1). `apply_fn` is run one equation after another with these derivatives (the JAX
documentation, "Writing custom Jaxpr interpreters in JAX",
https://docs.jax.dev/en/latest/notebooks/Writing_custom_interpreters_in_Jax.html), so that no
model has to be changed.

All that lies between two activations is one layer here: a convolution with its bias and batch norm,
also with a sum of branches. It gets one epsilon.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from imgjax.errors import ConfigError, DataError
from imgjax.explain import layers

SIGNED = True

# Linear in all their inputs together, but for indices, which may not depend on the image.
# Of maxima, the largest input gets all the relevance.
LINEAR = (
    'add', 'add_any', 'sub', 'neg', 'reduce_sum', 'cumsum', 'reduce_window_sum', 'reshape',
    'transpose', 'broadcast_in_dim', 'squeeze', 'expand_dims', 'slice', 'pad', 'concatenate',
    'split', 'stack', 'unstack', 'rev', 'copy', 'copy_p', 'optimization_barrier',
    'convert_element_type', 'reduce_precision', 'gather', 'dynamic_slice', 'scatter-add',
    'dynamic_update_slice', 'select_n', 'reduce_window_max', 'reduce_max')
LINEAR_IN_ONE = ('mul', 'dot_general', 'conv_general_dilated')  # the others are constants
# Elementwise, monotone, and 0 at 0: names of functions of jax.nn, and of equations.
ACTIVATIONS = ('relu', 'relu6', 'leaky_relu', 'elu', 'celu', 'selu', 'hard_tanh', 'tanh', 'max')
# Calls, and the parameters that hold what they do.
CALLS = {'jit': 'jaxpr', 'pjit': 'jaxpr', 'closed_call': 'call_jaxpr', 'checkpoint': 'jaxpr',
         'remat': 'jaxpr', 'remat2': 'jaxpr', 'custom_jvp_call': 'call_jaxpr',
         'custom_vjp_call': 'call_jaxpr', 'custom_vjp_call_jaxpr': 'fun_jaxpr'}

OCCURS_IN = {
    'mul': 'a gate, a norm of each image, GELU or SiLU', 'dot_general': 'attention',
    'conv_general_dilated': 'a kernel made from the image',
    'div': 'softmax or a norm of each image',
    'square': 'a norm of each image, such as layer norm', 'erf': 'GELU', 'exp': 'softmax',
    'integer_pow': 'GELU or a norm of each image', 'logistic': 'SiLU or a gate',
    'rsqrt': 'a norm of each image, such as layer norm', 'scan': 'a recurrence',
    'while': 'a loop', 'stop_gradient': 'softmax'}


def explain(apply_fn: Callable, variables: Any, images_NHWC: Any, targets_N: Any, *,
            epsilon: float = 0.1) -> jax.Array:
    """Returns the relevance of the pixels for a class, float32 (N, H, W), summed over channels.

    Args:
      apply_fn, variables, images_NHWC, targets_N, epsilon: see `attributions`.

    Raises:
      ConfigError, DataError: see `attributions`.
    """
    return attributions(apply_fn, variables, images_NHWC, targets_N, epsilon=epsilon).sum(-1)


def attributions(apply_fn: Callable, variables: Any, images_NHWC: Any, targets_N: Any, *,
                 epsilon: float = 0.1) -> jax.Array:
    """Returns the relevance of the inputs for a class, signed, float32 (N, H, W, C).

    Its sum over an image is the logit, less what the biases and epsilon absorb.

    Args:
      apply_fn: (variables, images_NHWC) -> (logits_NK, out). What is compiled for it is kept.
      variables: what it takes.
      images_NHWC: float32, normalised.
      targets_N: int32, the class of each image whose logit is explained.
      epsilon: above 0, in the units of the values before an activation, which batch norms bring to
        about 1. It dampens the relevance of units that are nearly 0, where large terms cancel each
        other. Towards 0 the map of a network of ReLUs becomes that of input_x_gradient.

    Raises:
      ConfigError: epsilon is not above 0.
      DataError: the rule is not defined for an operation of the model; or images or targets do not
        fit; or the relevance is 0 for all images or not finite.
    """
    if not epsilon > 0:
        raise ConfigError(f'epsilon: {epsilon} is not above 0; take 0.1, or 1e-6 for nearly none')
    layers.check(apply_fn, variables, images_NHWC, targets_N)
    relevance_NHWC = _relevance(
        apply_fn, variables, jnp.asarray(images_NHWC), jnp.asarray(targets_N, jnp.int32),
        jnp.float32(epsilon))
    largest = float(jnp.abs(relevance_NHWC).max())
    if not np.isfinite(largest):
        raise DataError('lrp: the relevance is not finite; the model diverged: use an earlier '
                        'checkpoint')
    if largest == 0:
        raise DataError('lrp: the relevance is zero for all images, as with a head that is all '
                        'zero; train the model')
    return relevance_NHWC


@functools.partial(jax.jit, static_argnames='apply_fn')
def _relevance(apply_fn: Callable, variables: Any, images_NHWC: jax.Array, targets_N: jax.Array,
               epsilon: jax.Array) -> jax.Array:
    program = jax.make_jaxpr(lambda images, variables: apply_fn(variables, images)[0])(
        images_NHWC, variables)

    def target_logits(images_NHWC: jax.Array) -> jax.Array:
        inputs = [_Value(images_NHWC, True), *(_Value(leaf, False)
                                              for leaf in jax.tree.leaves(variables))]
        logits = _run(program.jaxpr, program.consts, inputs, epsilon, '')[0]
        # The logits are outputs of a layer, which hand on what they are.
        logits_NK = _passed_on(logits.array, logits.array, epsilon)
        return jnp.take_along_axis(logits_NK, targets_N[:, None], axis=1).sum()

    return images_NHWC * jax.grad(target_logits)(images_NHWC)


def _passed_on(z: jax.Array, a: jax.Array, epsilon: jax.Array) -> jax.Array:
    """Returns a, which has the derivative a / (z + epsilon sign(z)) with respect to z."""
    z32 = z.astype(jnp.float32)
    share = a.astype(jnp.float32) / jnp.where(z32 >= 0, z32 + epsilon, z32 - epsilon)
    still = jax.lax.stop_gradient
    return still(a) + (z - still(z)) * still(share).astype(z.dtype)


class _Value(NamedTuple):
    array: Any
    depends: bool  # on the image


def _run(jaxpr: Any, constants: Any, inputs: list[_Value], epsilon: jax.Array,
         scope: str) -> list[_Value]:
    """Runs a program; what it computes from the image has the derivatives of the rule.

    Raises:
      DataError: the rule is not defined for an equation.
    """
    values = {variable: _Value(array, False)
              for variable, array in zip(jaxpr.constvars, constants, strict=True)}
    values |= dict(zip(jaxpr.invars, inputs, strict=True))

    def value(atom: Any) -> _Value:
        return _Value(atom.val, False) if hasattr(atom, 'val') else values[atom]

    for equation in _needed(jaxpr):
        given = [value(atom) for atom in equation.invars]
        results = _step(equation, given, epsilon, scope)
        values |= dict(zip(equation.outvars, results, strict=True))
    return [value(atom) for atom in jaxpr.outvars]


def _step(equation: Any, given: list[_Value], epsilon: jax.Array, scope: str) -> list[_Value]:
    """Runs one equation."""
    depends = [one.depends for one in given]
    kind = equation.primitive.name
    scope = f'{scope}/{equation.source_info.name_stack}'.strip('/')
    if _is_activation(equation, given):
        z = given[depends.index(True)].array
        return [_Value(_passed_on(z, a, epsilon), True) for a in _bound(equation, given)]
    if kind in CALLS and CALLS[kind] in equation.params:
        body = equation.params[CALLS[kind]]
        return _run(getattr(body, 'jaxpr', body), getattr(body, 'consts', ()), given, epsilon,
                    scope)
    if any(depends) and not _is_linear(kind, given):
        occurs = OCCURS_IN.get(kind, '')
        raise DataError(
            f'lrp: relevance is not defined for {kind!r}{occurs and f" ({occurs})"} of values that '
            f'depend on the image, in {scope or "the model"}; take integrated_gradients, grad_cam '
            'or occlusion')
    return [_Value(array, any(depends)) for array in _bound(equation, given)]


def _is_activation(equation: Any, given: list[_Value]) -> bool:
    kind = equation.primitive.name
    name = equation.params.get('name') if kind in ('jit', 'pjit') else kind
    if name not in ACTIVATIONS or sum(one.depends for one in given) != 1:
        return False
    if kind != 'max':
        return True
    [bound] = [one.array for one in given if not one.depends]
    return not isinstance(bound, jax.core.Tracer) and not np.any(bound)  # a ReLU


def _is_linear(kind: str, given: list[_Value]) -> bool:
    depends = [one.depends for one in given]
    if not all(jnp.issubdtype(one.array.dtype, jnp.floating) for one in given if one.depends):
        return False  # comparisons and indices have no derivative
    if kind in LINEAR_IN_ONE:
        return sum(depends) == 1
    return kind in LINEAR or (kind == 'div' and not depends[1])


def _bound(equation: Any, given: list[_Value]) -> list:
    """Returns what an equation computes."""
    results = equation.primitive.bind(*(one.array for one in given), **equation.params)
    return results if equation.primitive.multiple_results else [results]


def _needed(jaxpr: Any) -> list:
    """Returns the equations on which the results depend, in their order."""
    needed = {atom for atom in jaxpr.outvars if not hasattr(atom, 'val')}
    equations = []
    for equation in reversed(jaxpr.eqns):
        if needed & set(equation.outvars):
            equations.append(equation)
            needed |= {atom for atom in equation.invars if not hasattr(atom, 'val')}
    return equations[::-1]
