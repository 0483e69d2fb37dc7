"""Gradients at the layers of a model, and which of its layers have positions.

`apply_fn` returns named intermediates in `out`. Its program, as `jax.make_jaxpr` gives it, is run
one equation after another (the JAX documentation, "Writing custom Jaxpr interpreters in JAX",
https://docs.jax.dev/en/latest/notebooks/Writing_custom_interpreters_in_Jax.html), and where the
program has computed an intermediate, a `delta` is added to it. The gradient with respect to
the delta, at zero, is the gradient at that layer. So no model has to be changed, and one backward
pass gives the gradients at many layers.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from imgjax.errors import ConfigError, DataError, unknown
from imgjax.explain import copies
from imgjax.explain.checks import check_images, check_targets

# Where a layer has positions: height and width of its grid, and how many other tokens come first.
Grid = tuple[int, int, int]

MOST_OTHER_TOKENS = 8  # class tokens and registers; the models of this package have at most 5
# Calls whose equations are run one by one, as intermediates may be computed inside of them.
_CALLS = ('jit', 'pjit', 'closed_call', 'checkpoint', 'remat', 'remat2')
# What only moves numbers: the gradient moves back in the same way.
_MOVES = ('reshape', 'transpose', 'squeeze', 'expand_dims', 'broadcast_in_dim')


def spatial_layers(apply_fn: Callable, variables: Any, images_NHWC: Any) -> dict[str, Grid]:
    """Returns the layers whose positions have an effect on the logits, the first computed first.

    They are found in the shapes and the equations of the program; nothing is computed.
      - A map (N, H, W, C) has the grid (H, W), and no other tokens.
      - Tokens (N, L, D) have the grid of the patches: with square patches of P pixels, where P
        divides both sides of the image, it is (H / P, W / P). The other tokens come first, as in
        all families of this package; of several P that leave 0 to 8 of them the one that leaves
        the fewest is taken. A recurrence's steps, which a `lax.scan` stacks, are not tokens.
      - A grid of one cell has no positions. Attention maps, named `.._attn..`, are not layers.
      - A layer counts only if the logits need its patches. Where the head reads the class token
        alone, they need no patch of the last block's output nor of the norm after it; then the
        last layer is the input of the last block. It is the one that users of pytorch-grad-cam
        take (`blocks[-1].norm1`), but before that norm.

    Args:
      apply_fn: (variables, images_NHWC) -> (logits_NK, out).
      variables: what it takes; arrays or jax.ShapeDtypeStruct.
      images_NHWC: float32; only the shape is read.
    """
    program = _program(apply_fn, variables, images_NHWC)
    _, height, width, _ = images_NHWC.shape
    found = {}
    for name in program.names:
        grid = _grid(program, name, height, width)
        source = _source(program, program.out[name])
        if grid is None or source is None:
            continue
        # A copy that is used nowhere has no range of its own; then all of its source counts.
        first, last = program.needed.get(program.out[name], (0, math.inf))
        if first < last and (len(program.shapes[program.out[name]]) == 4 or last > grid[2]):
            found[name] = grid
    return found


def last_spatial(apply_fn: Callable, variables: Any, images_NHWC: Any,
                 layer: str = '') -> tuple[str, Grid]:
    """Returns (name, grid) of the last one of `spatial_layers`, or of `layer` where it is named.

    Args:
      apply_fn: (variables, images_NHWC) -> (logits_NK, out).
      variables: what it takes; arrays or jax.ShapeDtypeStruct.
      images_NHWC: float32; only the shape is read.
      layer: the name of an intermediate; '' takes the last one.

    Raises:
      ConfigError: the model has no layer of that name.
      DataError: the model has no layer with positions, or the layer has none, or the logits do not
        depend on it.
    """
    program = _program(apply_fn, variables, images_NHWC)
    found = spatial_layers(apply_fn, variables, images_NHWC)
    if layer:
        if layer not in program.out:
            raise ConfigError(f'layer: {unknown("layer", layer, list(found) or program.names)}')
        if layer not in found:
            raise DataError(f'layer: {layer!r} has no positions of which the logits depend; take '
                            f'{" or ".join(found) or "a method that needs no layer: gradient"}')
        return layer, found[layer]
    if not found:
        raise DataError('layer: the model has no layer with positions; take a method that needs '
                        'none: gradient, input_x_gradient, integrated_gradients, occlusion or rise')
    # One array may have several names, as the last block and its stage have: the first of them.
    name = next(one for one in found if program.out[one] == program.out[list(found)[-1]])
    _, height, width, _ = images_NHWC.shape
    after = program.names[program.names.index(name) + 1:]
    cut_off = [one for one in after if _grid(program, one, height, width)
               and _source(program, program.out[one]) is None]
    if cut_off:
        raise DataError(f'layer: the logits are not computed from out[{cut_off[-1]!r}], a copy; '
                        f'give the model scan_layers=False, or take layer={name!r}')
    return name, found[name]


def on_grid(x: jax.Array, grid: Grid) -> jax.Array:
    """Returns maps (N, h, w, C) as they are, and tokens (N, L, D) as (N, h, w, D), patches only."""
    h, w, other = grid
    return x if x.ndim == 4 else x[:, other:].reshape(x.shape[0], h, w, x.shape[-1])


def grid_of_tokens(length: int, height: int, width: int) -> Grid | None:
    """Returns the grid of `length` tokens of an image of that size, see `spatial_layers`, or None.

    >>> grid_of_tokens(197, 224, 224)
    (14, 14, 1)
    """
    fits = []
    for side in range(1, min(height, width) + 1):
        h, w = height // side, width // side
        other = length - h * w
        if not (height % side or width % side) and 0 <= other <= MOST_OTHER_TOKENS and h * w > 1:
            fits.append((other, h, w))
    return (*min(fits)[1:], min(fits)[0]) if fits else None


def tokens_read(apply_fn: Callable, variables: Any, images_NHWC: Any,
                length: int) -> tuple[int, int] | None:
    """Returns the range (first, last + 1) of the last tokens that the head reads.

    It is (0, 1) for a class token and (1, length) for the mean of the patches after one. None means
    that no intermediate has that many tokens.

    Args:
      apply_fn, variables, images_NHWC: see `spatial_layers`.
      length: L, the number of tokens.
    """
    program = _program(apply_fn, variables, images_NHWC)
    for name in reversed(program.names):
        number = program.out[name]
        shape = program.shapes[number]
        if len(shape) == 3 and shape[1] == length and number in program.needed:
            first, last = program.needed[number]
            return first, int(min(last, length))
    return None


def with_deltas(apply_fn: Callable, variables: Any, images_NHWC: jax.Array,
                deltas: dict[str, jax.Array]) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Returns what `apply_fn` does where `deltas` are added to its intermediates.

    It can be differentiated, compiled and mapped as `apply_fn` can be.

    Args:
      apply_fn: (variables, images_NHWC) -> (logits_NK, out).
      variables: what it takes.
      images_NHWC: float32.
      deltas: name in `out` -> an array of its shape, added before any later equation uses it.

    Raises:
      ConfigError: `out` has no such name.
      DataError: the logits are not computed from that intermediate.
    """
    program = _program(apply_fn, variables, images_NHWC)
    added: dict[int, list] = {}
    for name, delta in deltas.items():
        if name not in program.out:
            raise ConfigError(f'layer: {unknown("layer", name, program.names)}')
        source = _source(program, program.out[name])
        if source is None:
            raise DataError(f'layer: the logits are not computed from out[{name!r}], which is a '
                            'copy or comes after them; take another layer, or give the model '
                            'scan_layers=False')
        added.setdefault(source, []).append(_moved_back(program, program.out[name], delta))
    return _run(program, (variables, images_NHWC), added)


@functools.partial(jax.jit, static_argnames=('apply_fn', 'names'))
def values(apply_fn: Callable, variables: Any, images_NHWC: jax.Array,
           names: tuple[str, ...]) -> dict[str, jax.Array]:
    """Returns {name: out[name] in float32}; the rest of the program is not computed.

    Args:
      apply_fn: (variables, images_NHWC) -> (logits_NK, out). What is compiled for it is kept.
      variables: what it takes.
      images_NHWC: float32.
      names: names in `out`.
    """
    _, out = apply_fn(variables, images_NHWC)
    return {name: out[name].astype(jnp.float32) for name in names}


@functools.partial(jax.jit, static_argnames=('apply_fn', 'names'))
def values_and_gradients(apply_fn: Callable, variables: Any, images_NHWC: jax.Array,
                         targets_N: jax.Array, names: tuple[str, ...]) -> tuple[dict, dict]:
    """Returns intermediates and the gradients of each image's target logit with respect to them.

    Args:
      apply_fn: (variables, images_NHWC) -> (logits_NK, out). What is compiled for it is kept.
      variables: what it takes.
      images_NHWC: float32.
      targets_N: int32, the class of each image.
      names: names in `out`.

    Returns:
      {name: value} and {name: gradient}, float32, of the shapes in `out`.

    Raises:
      ConfigError: `out` has no such name.
      DataError: the logits are not computed from that intermediate.
    """
    program = _program(apply_fn, variables, images_NHWC)
    for name in names:
        if name not in program.out:
            raise ConfigError(f'layer: {unknown("layer", name, program.names)}')

    def target_logits(deltas: dict) -> tuple[jax.Array, dict]:
        logits_NK, out = with_deltas(apply_fn, variables, images_NHWC, deltas)
        chosen_N1 = jnp.take_along_axis(logits_NK, targets_N[:, None].astype(jnp.int32), axis=1)
        # The images do not see each other: the gradient of the sum is that of each.
        return chosen_N1.astype(jnp.float32).sum(), {
            name: out[name].astype(jnp.float32) for name in names}

    zeros = {name: jnp.zeros(program.shapes[program.out[name]], jnp.float32) for name in names}
    gradients, found = jax.grad(target_logits, has_aux=True)(zeros)
    return found, gradients


def on_layer(apply_fn: Callable, variables: Any, images_NHWC: jax.Array, targets_N: jax.Array,
             layer: str = '') -> tuple[jax.Array, jax.Array]:
    """Returns activations and gradients of the target logits on the grid of a layer, checked.

    Args:
      apply_fn, variables, images_NHWC, targets_N: see `values_and_gradients`; as many images are
        worked on at one time as the free memory allows.
      layer: see `last_spatial`.

    Returns:
      a_NhwC and gradient_NhwC, float32.

    Raises:
      ConfigError: the model has no layer of that name.
      DataError: images or targets do not fit, there is no layer with positions, or the gradient is
        zero for all images or not finite.
    """
    check(apply_fn, variables, images_NHWC, targets_N)
    name, grid = last_spatial(apply_fn, variables, images_NHWC, layer)

    def both(variables, images_NHWC, targets_N):
        return values_and_gradients(apply_fn, variables, images_NHWC, targets_N, (name,))

    a, gradients = in_chunks(apply_fn, both, variables, images_NHWC, targets_N)
    gradient_NhwC = on_grid(gradients[name], grid)
    check_gradient(name, gradient_NhwC)
    return on_grid(a[name], grid), gradient_NhwC


def activations(apply_fn: Callable, variables: Any, images_NHWC: jax.Array, targets_N: jax.Array,
                layer: str = '') -> jax.Array:
    """Returns what `on_layer` returns first, without a backward pass.

    Raises:
      ConfigError: the model has no layer of that name.
      DataError: images or targets do not fit, there is no layer with positions, or the activations
        are not finite.
    """
    check(apply_fn, variables, images_NHWC, targets_N)
    name, grid = last_spatial(apply_fn, variables, images_NHWC, layer)

    def forward(variables, images_NHWC, targets_N):
        return values(apply_fn, variables, images_NHWC, (name,))[name]

    a_NhwC = on_grid(in_chunks(apply_fn, forward, variables, images_NHWC, targets_N), grid)
    if not bool(jnp.isfinite(a_NhwC).all()):
        raise DataError(f'the activations of {name!r} are not finite; the model diverged: use an '
                        'earlier checkpoint')
    return a_NhwC


def in_chunks(apply_fn: Callable, function: Callable, variables: Any, images_NHWC: jax.Array,
              targets_N: jax.Array) -> Any:
    """Returns function(variables, images_NHWC, targets_N), so many images at once as fit.

    Args:
      apply_fn: the model, of whose gradients so many must fit.
      function: returns arrays whose first axis is that of the images.
      variables, images_NHWC, targets_N: its arguments.
    """
    count = len(images_NHWC)
    classes_N = np.asarray(targets_N, np.int32)
    size = min(count, copies.at_once(copies.gradient, apply_fn, variables, images_NHWC.shape))
    parts = []
    for first in range(0, count, size):
        # The last image fills the last chunk, which so has the shape of the others.
        rows = np.minimum(np.arange(first, first + size), count - 1)
        part = function(variables, jnp.asarray(images_NHWC[rows]), jnp.asarray(classes_N[rows]))
        parts.append(jax.tree.map(lambda x, first=first: x[:count - first], part))
    return parts[0] if len(parts) == 1 else jax.tree.map(
        lambda *arrays: jnp.concatenate(arrays), *parts)


def attention_names(apply_fn: Callable, variables: Any, images_NHWC: Any) -> dict[str, tuple]:
    """Returns the attention maps in `out`, {name: shape}, the first computed first."""
    program = _program(apply_fn, variables, images_NHWC)
    return {name: program.shapes[program.out[name]] for name in program.names if '_attn' in name}


def check(apply_fn: Callable, variables: Any, images_NHWC: Any, targets_N: Any) -> None:
    """Checks images and targets by the number of classes that `apply_fn` has."""
    check_images(images_NHWC)
    program = _program(apply_fn, variables, images_NHWC)
    check_targets(np.asarray(targets_N), len(images_NHWC), program.shapes[program.logits][-1])


def check_gradient(name: str, gradient: jax.Array | np.ndarray) -> None:
    """Raises DataError in one line where the gradient at a layer says nothing."""
    largest = float(jnp.abs(gradient).max())
    if not math.isfinite(largest):
        raise DataError(f'the gradient at {name!r} is not finite; the model diverged: use an '
                        'earlier checkpoint')
    if largest == 0:
        raise DataError(f'the gradient at {name!r} is zero for all images: a part after it has no '
                        'gradient, or the head is all zero; train the model, or take another layer')


class _Equation(NamedTuple):
    """An equation of a program whose variables are numbers; constants stand for themselves."""

    equation: Any
    inputs: tuple  # of int, or a literal
    outputs: tuple[int, ...]


class _Program(NamedTuple):
    """A traced `apply_fn`, all of whose calls are replaced by what they do.

    Attributes:
      equations: in the order in which they are computed.
      arguments: the variables of all arrays of (variables, images_NHWC).
      constants: variable -> array.
      shapes: variable -> its shape.
      makers: variable -> the equation that computes it.
      logits: the variable of the logits.
      out: name -> its variable.
      names: the names in `out`, the first computed first.
      needed: the variables on which the logits depend -> the range (first, last + 1) of the
        positions along their second axis that have an effect.
    """

    equations: list[_Equation]
    arguments: list[int]
    constants: dict[int, Any]
    shapes: dict[int, tuple[int, ...]]
    makers: dict[int, _Equation]
    logits: int
    out: dict[str, int]
    names: list[str]
    needed: dict[int, tuple[int, float]]


def _program(apply_fn: Callable, variables: Any, images_NHWC: Any) -> _Program:
    leaves, tree = jax.tree.flatten((variables, images_NHWC))
    return _trace(apply_fn, tree, tuple((leaf.shape, np.dtype(leaf.dtype)) for leaf in leaves))


@functools.lru_cache(maxsize=8)
def _trace(apply_fn: Callable, tree: Any, shapes: tuple) -> _Program:
    arguments = jax.tree.unflatten(tree, [jax.ShapeDtypeStruct(*shape) for shape in shapes])
    closed, (_, out) = jax.make_jaxpr(apply_fn, return_shape=True)(*arguments)
    equations: list[_Equation] = []
    constants: dict[int, Any] = {}
    sizes: dict[int, tuple[int, ...]] = {}

    def new(variable: Any) -> int:
        sizes[len(sizes)] = tuple(variable.aval.shape)
        return len(sizes) - 1

    def unroll(jaxpr: Any, inputs: Sequence) -> list:
        """Adds the equations of a jaxpr whose arguments are `inputs`; returns its results."""
        inner, known = getattr(jaxpr, 'jaxpr', jaxpr), {}
        for variable, value in zip(inner.constvars, getattr(jaxpr, 'consts', ()), strict=True):
            known[variable] = new(variable)
            constants[known[variable]] = value
        known |= dict(zip(inner.invars, inputs, strict=True))

        def number(atom: Any) -> Any:
            return atom if hasattr(atom, 'val') else known[atom]  # a literal has a value

        for equation in inner.eqns:
            values = tuple(map(number, equation.invars))
            body = equation.params.get('jaxpr', equation.params.get('call_jaxpr'))
            if equation.primitive.name in _CALLS:
                known |= dict(zip(equation.outvars, unroll(body, values), strict=True))
            else:
                outputs = tuple(map(new, equation.outvars))
                known |= dict(zip(equation.outvars, outputs, strict=True))
                equations.append(_Equation(equation, values, outputs))
        return [number(atom) for atom in inner.outvars]

    arguments = [new(variable) for variable in closed.jaxpr.invars]
    logits, *rest = unroll(closed, arguments)
    by_name = jax.tree.unflatten(jax.tree.structure(out), rest)
    # An intermediate that is a constant has no gradient and no image.
    by_name = {name: number for name, number in by_name.items() if isinstance(number, int)}
    makers = {output: one for one in equations for output in one.outputs}
    # Numbers rise as they are computed.
    names = sorted(by_name, key=lambda name: (by_name[name], name))
    return _Program(equations, arguments, constants, sizes, makers, logits, by_name, names,
                    _needed(equations, sizes, logits))


def _run(program: _Program, arguments: Any, added: dict[int, list]) -> tuple[jax.Array, dict]:
    values: dict[int, Any] = {}

    def write(number: int, value: Any) -> None:
        for delta in added.get(number, ()):
            value = value + delta.astype(value.dtype)
        values[number] = value

    for number, value in program.constants.items():
        write(number, value)
    for number, value in zip(program.arguments, jax.tree.leaves(arguments), strict=True):
        write(number, value)
    for equation, inputs, outputs in program.equations:
        primitive = equation.primitive
        # Older versions of JAX keep the functions of custom derivatives apart.
        bound = primitive.get_bind_params(equation.params)
        functions, params = bound if isinstance(bound, tuple) else ((), bound)
        results = primitive.bind(
            *functions, *(values[one] if isinstance(one, int) else one.val for one in inputs),
            **params)
        for number, value in zip(outputs, results if primitive.multiple_results else [results],
                                 strict=True):
            write(number, value)
    return values[program.logits], {name: values[number] for name, number in program.out.items()}


def _source(program: _Program, number: int) -> int | None:
    """Returns the variable on which the logits depend and of which this one is a rearrangement."""
    while number not in program.needed:
        maker = program.makers.get(number)
        if maker is None or not _moves(program, maker):
            return None
        number = maker.inputs[0]
    return number


def _moved_back(program: _Program, number: int, x: jax.Array) -> jax.Array:
    """Returns x, an array like the variable, arranged as the variable's `_source` is."""
    while number not in program.needed:
        maker = program.makers[number]
        number = maker.inputs[0]
        if maker.equation.primitive.name == 'transpose':
            x = x.transpose(np.argsort(maker.equation.params['permutation']))
        x = x.reshape(program.shapes[number])
    return x


def _moves(program: _Program, maker: _Equation) -> bool:
    return (maker.equation.primitive.name in _MOVES and isinstance(maker.inputs[0], int)
            and math.prod(program.shapes[maker.inputs[0]])
            == math.prod(program.shapes[maker.outputs[0]]))


def _grid(program: _Program, name: str, height: int, width: int) -> Grid | None:
    """Returns the grid that the shape of an intermediate has, or None."""
    shape = program.shapes[program.out[name]]
    if '_attn' in name or len(shape) not in (3, 4) or _is_stack_of_steps(program, name):
        return None
    if len(shape) == 4:
        return (*shape[1:3], 0) if shape[1] * shape[2] > 1 else None
    return grid_of_tokens(shape[1], height, width)


def _is_stack_of_steps(program: _Program, name: str) -> bool:
    """Whether a scan computes the rows of an intermediate, one after another."""
    number = program.out[name]
    while isinstance(number, int) and number in program.makers:
        maker = program.makers[number]
        kind = maker.equation.primitive.name
        if kind == 'scan':
            body = maker.equation.params['jaxpr']
            steps = getattr(body, 'jaxpr', body).outvars[maker.outputs.index(number)]
            return steps.aval.shape != program.shapes[number]  # what a scan carries keeps its shape
        if kind not in (*_MOVES, 'concatenate', 'convert_element_type', 'rev'):
            return False
        number = maker.inputs[0]
    return False


def _needed(equations: list[_Equation], shapes: dict[int, tuple[int, ...]],
            logits: int) -> dict[int, tuple[int, float]]:
    """Returns the variables that the logits depend on, see `_Program.needed`.

    A range is kept by slices and by what works on each position alone, as a norm does; all other
    equations need all of their inputs. So a range may be too large, and never too small.
    """
    needed: dict[int, tuple[int, float]] = {logits: (0, math.inf)}
    for one in reversed(equations):
        ranges = [(needed[output], shapes[output]) for output in one.outputs if output in needed]
        if not ranges:
            continue
        for number in one.inputs:
            if isinstance(number, int):
                start, stop = _range(one.equation, shapes[number], *ranges[0])
                before = needed.get(number, (start, stop))
                needed[number] = min(start, before[0]), max(stop, before[1])
    return needed


def _range(equation: Any, shape: tuple[int, ...], needed: tuple[int, float],
           shape_out: tuple[int, ...]) -> tuple[int, float]:
    """Returns the positions of an input of the shape that those of the output depend on."""
    kind, params = equation.primitive.name, equation.params
    everything = (0, math.inf)
    if len(shape) < 2:
        return everything
    if kind == 'slice':
        start, stop = params['start_indices'][1], params['limit_indices'][1]
        step = (params['strides'] or (1, 1))[1]
        first, last = max(0, needed[0]), min(needed[1], shape_out[1])
        return start + first * step, min(stop, start + last * step)
    if kind == 'concatenate' or len(equation.outvars) > 1 or len(shape_out) < 2:
        return everything
    same = shape[:2] == shape_out[:2]
    if kind in ('reduce_sum', 'reduce_max') and same and min(params['axes']) > 1:
        return needed
    if kind == 'broadcast_in_dim' and same and params['broadcast_dimensions'][:2] == (0, 1):
        return needed
    alone = kind in _ELEMENTWISE and len(shape) == len(shape_out) and shape[1] == shape_out[1]
    return needed if alone else everything


_ELEMENTWISE = ('add', 'sub', 'mul', 'div', 'neg', 'rsqrt', 'sqrt', 'square', 'integer_pow', 'max',
                'min', 'convert_element_type', 'copy', 'add_any', 'optimization_barrier', 'abs')
