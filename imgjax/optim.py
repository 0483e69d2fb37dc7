"""Learning-rate schedules and optimizers, built inside the train step from traced values.

Which schedule and which optimizer is structure: plain dicts. Every rate is an hparam, an array
that the compiled step receives. So one compiled step serves every value, and ``vmap`` over the
hparams trains several at once.
"""

import math

import jax
import jax.numpy as jnp
import optax

from imgjax.errors import unknown

SCHEDULES = ('constant', 'cosine', 'linear', 'step')
OPTIMIZERS = ('sgd', 'adam', 'adamw', 'lamb', 'lion', 'muon')
DECAY_MASKS = ('kernels', 'all')

_RATES = ('weight_decay', 'momentum', 'b1', 'b2', 'eps', 'clip_norm')

# The root mean square of AdamW's update: one learning rate serves the matrices, which Muon
# updates, and the rest (Liu et al., arXiv:2502.16982).
_MUON_RMS = 0.2


def learning_rate(schedule, step, total_steps, hparams):
    """Returns the learning rate of one step.

    All schedules first warm up: at step s < W the rate is ``peak * (s + 1) / W``. After that,

    ``constant``  stays at the peak;
    ``cosine``    goes down half a cosine, to reach the end value at ``total_steps``
                  (Loshchilov and Hutter, `SGDR <https://arxiv.org/abs/1608.03983>`_, 2016);
    ``linear``    goes down a line, to reach the end value at ``total_steps``;
    ``step``      stays at the peak times ``factor`` for each milestone passed.

    >>> schedule = {'name': 'cosine', 'warmup_steps': 10}
    >>> hparams = {'learning_rate': 0.1, 'end_learning_rate': 0.0}
    >>> [round(float(learning_rate(schedule, s, 110, hparams)), 4) for s in (0, 9, 60, 110)]
    [0.01, 0.1, 0.05, 0.0]

    Args:
      schedule: dict of ``name``, one of ``SCHEDULES``; ``warmup_steps`` W (default 0), or below
        1 the share of total_steps that W is; for ``step`` ``milestones``, fractions of total_steps,
        and ``factor`` (default 0.1); ``head_steps`` is finetune.py's affair.
      step: int32 scalar, traced or not, the number of updates done so far.
      total_steps: int, the number of updates of the run.
      hparams: dict with ``learning_rate`` (the peak) and, for cosine and linear,
        ``end_learning_rate`` (a rate, not a fraction of the peak), traced or not.

    Returns:
      float32 scalar.

    Raises:
      ValueError: an unknown schedule or key of it.
    """
    name = _known('schedule', schedule['name'], SCHEDULES)
    for key in schedule:
        _known('key of the schedule', key,
               ('name', 'warmup_steps', 'milestones', 'factor', 'head_steps'))
    step = jnp.asarray(step, jnp.int32)
    warmup = count(schedule.get('warmup_steps', 0), total_steps)
    peak = jnp.asarray(hparams['learning_rate'], jnp.float32)
    if name == 'constant':
        rate = peak
    elif name == 'step':
        rate = peak * _steps_down(schedule, step, total_steps)
    else:
        end = jnp.asarray(hparams['end_learning_rate'], jnp.float32)
        left = 1.0 - _progress(step, warmup, total_steps)
        if name == 'cosine':
            left = 0.5 * (1.0 - jnp.cos(math.pi * left))
        rate = end + (peak - end) * left
    ramp = peak * ((step + 1).astype(jnp.float32) / max(warmup, 1))
    return jnp.where(step < warmup, ramp, rate)


def count(steps_or_share, total_steps: int) -> int:
    """Returns the number of steps that `schedule.warmup_steps` or `head_steps` means.

    >>> count(50, 1000), count(0.05, 1000), count(0.05, 40)
    (50, 50, 2)
    """
    if steps_or_share >= 1:
        return int(steps_or_share)
    return round(steps_or_share * total_steps)


def optimizer(config, hparams, learning_rate):
    """Returns the optimizer as an optax transformation; cheap, meant to be built in the step.

    The gradients are clipped by their global norm, then go through the named optimizer. Weight
    decay is added to the gradients in sgd and adam (L2 regularisation) and decoupled, ``-rate *
    weight_decay * parameter``, in the others.

    ``sgd``    hparams weight_decay, momentum. momentum 0 is plain SGD.
    ``adam``   hparams weight_decay, b1, b2, eps. https://arxiv.org/abs/1412.6980
    ``adamw``  the same. https://arxiv.org/abs/1711.05101
    ``lamb``   the same. https://arxiv.org/abs/1904.00962
    ``lion``   hparams weight_decay, b1, b2. https://arxiv.org/abs/2302.06675
    ``muon``   hparams weight_decay, momentum, and b1, b2, eps of the AdamW that takes every
               parameter except dense kernels [in, out] and convolution kernels [height, width,
               in, out] with more than one input channel (a depthwise kernel is no matrix).
               https://kellerjordan.github.io/posts/muon, scaled as in
               https://arxiv.org/abs/2502.16982: AdamW's learning rate and weight decay fit.

    Layers that a scan stacked (a module ``blocks``, leading axis the layer) are updated as if each
    had parameters of its own.

    >>> hparams = {'weight_decay': 0.0, 'momentum': 0.0, 'clip_norm': 0.0}
    >>> tx = optimizer({'name': 'sgd'}, hparams, 0.1)
    >>> params = {'kernel': jnp.ones(2)}
    >>> tx.update({'kernel': jnp.ones(2)}, tx.init(params), params)[0]
    {'kernel': Array([-0.1, -0.1], dtype=float32)}

    Args:
      config: dict of ``name``, one of ``OPTIMIZERS``; ``freeze`` and ``layerwise``, which are
        finetune.py's affair; ``nesterov`` (bool, default True), read by
        sgd and muon only, so that adamw is never NAdamW; ``decay_mask``: ``kernels`` (default:
        only parameters whose own name is ``kernel`` decay, not biases, norm scales or
        embeddings) or ``all``.
      hparams: dict of scalars, traced or not, with the keys above and ``clip_norm``, the largest
        global norm (0: no clipping).
      learning_rate: scalar, traced or not.

    Returns:
      optax.GradientTransformation; ``update`` needs the parameters. The state is a pytree whose
      structure depends on config and parameters only, so any hparams serve for ``init``.

    Raises:
      ValueError: an unknown name, key of config or decay_mask.
    """
    name = _known('optimizer', config['name'], OPTIMIZERS)
    for key in config:
        _known('key of the optimizer', key,
               ('name', 'nesterov', 'decay_mask', 'freeze', 'layerwise'))
    # optax skips the decay where it sees a Python 0.0; arrays make all hparams the same to it.
    rates = {key: jnp.asarray(hparams[key], jnp.float32) for key in _RATES if key in hparams}
    direction = _direction(name, config.get('nesterov', True), rates)
    decay = optax.add_decayed_weights(rates['weight_decay'], _decay_mask(config))
    if name in ('sgd', 'adam'):
        steps = [decay, direction]
    elif name == 'lamb':
        steps = [direction, decay, _trust_ratio()]
    else:
        steps = [direction, decay]
    rate = jnp.asarray(learning_rate, jnp.float32)
    return _promoting(
        optax.chain(_clip(rates['clip_norm']), *steps, optax.scale_by_learning_rate(rate)))


def _direction(name, nesterov, rates):
    """Returns the transformation of gradients to an update of rate 1, before the minus sign."""
    if name == 'sgd':
        return optax.trace(rates['momentum'], nesterov=nesterov)
    if name == 'lion':
        return optax.scale_by_lion(rates['b1'], rates['b2'])
    adam = optax.scale_by_adam(rates['b1'], rates['b2'], rates['eps'])
    if name == 'muon':
        return optax.partition({'muon': _muon(nesterov, rates), 'adam': adam}, _muon_labels)
    return adam


def _muon(nesterov, rates):
    # Not optax.contrib.muon: its AdamW half would take the nesterov of Muon, and no decay mask.
    def dimensions(updates):
        return jax.tree_util.tree_map_with_path(
            lambda path, x: optax.contrib.MuonDimensionNumbers(
                tuple(range(_layer_axes(path), x.ndim - 1)), x.ndim - 1), updates)

    def scale(updates, _):
        def one(path, x):
            rows = math.prod(x.shape[_layer_axes(path):-1])
            return _MUON_RMS * math.sqrt(max(rows, x.shape[-1])) * x
        return jax.tree_util.tree_map_with_path(one, updates)

    return optax.chain(
        optax.contrib.scale_by_muon(
            beta=rates['momentum'], eps=rates['eps'], nesterov=nesterov,
            weight_dimension_numbers=dimensions),
        optax.stateless(scale))


def _muon_labels(params):
    def label(path, x):
        shape = x.shape[_layer_axes(path):]
        matrix = len(shape) == 2 or (len(shape) == 4 and shape[2] > 1)
        return 'muon' if _is_kernel(path) and matrix else 'adam'
    return jax.tree_util.tree_map_with_path(label, params)


def _trust_ratio():
    """optax's, a layer at a time also where layers are stacked."""
    layer = optax.scale_by_trust_ratio()

    def update(updates, params):
        def one(path, update, param):
            def scale(update, param):
                return layer.update(update, layer.init(param), param)[0]
            return (jax.vmap(scale) if _layer_axes(path) else scale)(update, param)
        return jax.tree_util.tree_map_with_path(one, updates, params)

    return optax.stateless(update)


def _promoting(tx):
    # optax takes b1, then a float32 array, to the power of an int32 count, which JAX refuses in
    # its strict mode. The caller's mode holds everywhere else.
    def update(grads, state, params=None):
        with jax.numpy_dtype_promotion('standard'):
            return tx.update(grads, state, params)
    return optax.GradientTransformation(tx.init, update)


def _clip(clip_norm):
    # Not a large number for "off": a gradient whose norm overflows would silently become 0.
    return optax.clip_by_global_norm(jnp.where(clip_norm > 0.0, clip_norm, jnp.inf))


def _decay_mask(config):
    mask = _known('decay_mask', config.get('decay_mask', 'kernels'), DECAY_MASKS)
    if mask == 'all':
        return None
    return lambda params: jax.tree_util.tree_map_with_path(
        lambda path, _: _is_kernel(path), params)


def _is_kernel(path):
    return bool(path) and _name(path[-1]) == 'kernel'


def _layer_axes(path):
    # Scanned layers: one module `blocks`, whose parameters have one leading axis of layers.
    return 1 if any(_name(entry) == 'blocks' for entry in path) else 0


def _name(entry):
    # A dict entry has a key, an attribute a name, a place in a list neither.
    return getattr(entry, 'key', getattr(entry, 'name', None))


def _progress(step, warmup, total_steps):
    """Returns how much of the way from the end of the warm-up to the end is done, in [0, 1]."""
    done = (step - warmup).astype(jnp.float32) / max(total_steps - warmup, 1)
    return jnp.clip(done, 0.0, 1.0)


def _steps_down(schedule, step, total_steps):
    places = [round(milestone * total_steps) for milestone in schedule['milestones']]
    passed = jnp.sum(step >= jnp.asarray(places, jnp.int32), dtype=jnp.float32)
    return jnp.float32(schedule.get('factor', 0.1)) ** passed


def _known(kind, name, known):
    if name in known:
        return name
    raise ValueError(unknown(kind, name, known))
