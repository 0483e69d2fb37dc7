"""The optimizers of optax and optax.contrib as parts, with optax's names and names of numbers.

The fields of an optimizer are read from its signature. A number is traced (config.hparams) if optax
can compute with a traced one, which is tried on a small tree; otherwise it is an option. The mask
of weight decay is config.optimizer.decay_mask; arguments that are functions or dtypes have optax's
defaults.
"""

import contextlib
import functools
import inspect
import types
import warnings

import jax
import jax.numpy as jnp
import optax
import optax.contrib

from imgjax.config import Field
from imgjax.errors import first_line

_RATES = ('learning_rate', 'max_learning_rate')  # optax's names of that argument
_MASKS = ('mask', 'weight_decay_mask')
# Arguments whose default None means 0.
_NONE_IS_ZERO = ('momentum', 'weight_decay', 'weight_decay_rate', 'seed')
_SHARES = ('b1', 'b2', 'b3', 'beta', 'momentum', 'decay')  # in [0, 1]


def find(name: str) -> types.SimpleNamespace | None:
    """Returns an optimizer as a part, with HPARAMS, OPTIONS, transform and, if any, eval_params.

    Returns None where optax has no optimizer of that name.

    Raises:
      ValueError: the optimizer needs what a step does not give it, such as a gradient per image.
    """
    return _part(name) if name in candidates() else None


def relaxed():
    """Returns a context manager that allows type and rank promotion, which optax relies on.

    For example, optax raises b1, a float32 array, to the power of an int32 count.
    """
    stack = contextlib.ExitStack()
    stack.enter_context(jax.numpy_dtype_promotion('standard'))
    stack.enter_context(jax.numpy_rank_promotion('allow'))
    return stack


@functools.cache
def candidates() -> dict:
    """Returns {name: function} of all functions in optax and optax.contrib with a learning rate."""
    found = {}
    for module in (optax.contrib, optax):
        for name, function in vars(module).items():
            if name.startswith(('_', 'scale_by_')) or not isinstance(
                    function, types.FunctionType | functools.partial):
                continue
            parameters = inspect.signature(function).parameters
            wraps = [one for one in parameters.values()  # a wrapper, not an optimizer by itself
                     if one.name == 'base_optimizer' and one.default is one.empty]
            if any(rate in parameters for rate in _RATES) and not wraps:
                found[name] = function
    return found


@functools.cache
def _part(name: str) -> types.SimpleNamespace:
    function = candidates()[name]
    parameters = inspect.signature(function).parameters
    fields = {key: field for key, parameter in parameters.items()
              if (field := _field(key, parameter.default)) is not None}
    numbers = {key: field for key, field in fields.items() if field.type in (float, tuple)}
    traced = set(numbers)
    if _failure(function, fields, traced):
        traced = {key for key in numbers if not _failure(function, fields, {key})}
        if failure := _failure(function, fields, traced):
            raise ValueError(f'{name} of optax does not fit in a step ({failure})')

    def transform(options, hparams, learning_rate, decay_mask):
        return _built(function, {**options, **hparams}, learning_rate, decay_mask)

    part = types.SimpleNamespace(
        __name__=f'optax.{name}', __doc__=inspect.getdoc(function),
        HPARAMS={key: field for key, field in fields.items() if key in traced},
        OPTIONS={key: field for key, field in fields.items() if key not in traced},
        transform=transform)
    if name.startswith('schedule_free'):
        part.eval_params = optax.contrib.schedule_free_eval_params
    return part


def _field(name: str, default) -> Field | None:
    """Returns the config field of an argument; None if the argument keeps optax's default."""
    if default is None and name in _NONE_IS_ZERO:
        default = 0 if name == 'seed' else 0.0
    if name in _RATES + _MASKS or not isinstance(default, bool | int | float | str | tuple) or (
            isinstance(default, tuple) and not all(isinstance(one, float) for one in default)):
        return None
    low, high = (0, 1) if name in _SHARES else (-float('inf'), float('inf'))
    return Field(type(default), low, high, default=default, help="see optax's documentation")


def _built(function, values: dict, learning_rate, decay_mask):
    """Returns optax's transformation; `values` are {name: value} of its own arguments."""
    parameters = inspect.signature(function).parameters
    rate = next(name for name in _RATES if name in parameters)
    masks = {name: decay_mask for name in _MASKS if name in parameters and decay_mask is not None}
    return function(**{rate: learning_rate}, **masks, **values)


def _failure(function, fields: dict, traced: set) -> str:
    """Returns why a step fails while the numbers named in `traced` are traced; '' if it works."""
    params = {'kernel': jnp.ones((4, 3)), 'bias': jnp.ones(3)}

    def step(rate, numbers):
        values = {key: field.default for key, field in fields.items()} | numbers
        tx = optax.with_extra_args_support(_built(function, values, rate, None))
        state = tx.init(params)
        if any(jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.extended)
               for leaf in jax.tree.leaves(state)):
            raise TypeError('a random key is no array that a checkpoint could hold')

        def value_fn(params, obj_fn=None, grad_fn=None):
            return sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(params))

        grads = jax.grad(value_fn)(params)
        _, after = tx.update(
            grads, state, params, value=value_fn(params), grad=grads, value_fn=value_fn,
            obj_fn=value_fn, grad_fn=lambda params, *_: jax.grad(value_fn)(params))
        if not jax.tree.structure(state) == jax.tree.structure(after):
            raise TypeError('a state that changes its form')
        return after

    numbers = {key: jnp.asarray(fields[key].default, jnp.float32) for key in traced}
    try:
        with relaxed(), warnings.catch_warnings():
            warnings.simplefilter('ignore')  # optax warns of its deprecated functions
            jax.eval_shape(step, jnp.float32(0.1), numbers)
    except Exception as error:  # whatever optax, or JAX for a traced number, raises
        return f'{type(error).__name__}: {first_line(error, 150)}'
    return ''
