"""The train step and the eval step: pure functions of (state, batch, hparams)."""

import functools

import jax
import jax.numpy as jnp
import optax

from imgjax import augment, optimizers, parts, sharding
from imgjax.config import Config
from imgjax.models.parts import frozen
from imgjax.objectives import Inputs
from imgjax.objectives.parts import classification
from imgjax.optimizers.parts import finetune, schedule
from imgjax.process import backend
from imgjax.state import SKIP_CAUSES, TrainState


def make_train_step(model, config: Config, depths=None, layout=sharding.WHOLE):
    """Returns train_step(state, batch, hparams, constants) -> (state, metrics).

    `batch` is {'image': uint8 (N, H, W, C), 'label': int32 (N,) or, if images have several labels,
    float32 (N, K) of 0 and 1, 'weight': float32 (N,), 0 for an image that could not be read};
    `hparams` is what state.hparams_of returns; `constants` is what the objective's `constants`
    returned, {} if it has none. All random numbers are functions of (hparams['seed'], state.step,
    position in the global batch), so that they depend neither on the device count nor on how the
    batch reached the devices.

    `depths` is what finetune.depths returns, and is read only with config.optimizer.layerwise;
    `layout` is what sharding.layout returns.

    `metrics` are scalars: the means of loss, of the objective's measures and of grad_norm over the
    finite updates since the last multiple of config.log_every; the learning rate; the number of
    skipped updates in total, by cause and in a row; and the step of the newest skipped update.
    An update whose loss, gradient or new state is not finite is skipped: only counters change.
    """
    objective = parts.find('objective', config.objective.name)

    def train_step(state: TrainState, batch: dict, hparams: dict, constants=None):
        augment_key, dropout_key = keys(hparams, state.step)
        augmented = augmented_batch(config, model.num_classes, augment_key, batch, hparams)

        def value_and_grad(params):
            with layout.traced():
                found, grads = _gradient(model, config, objective, layout.gather(params), state,
                                         dropout_key, augmented, hparams, constants or {})
            return found, layout.scatter(grads)

        gradient = getattr(objective, 'gradient', lambda function, params, _: function(params))
        (loss, (measures, batch_stats, extra)), grads = gradient(
            value_and_grad, state.params, hparams)
        grad_norm = optax.tree.norm(grads)
        learning_rate = schedule.learning_rate(
            config.schedule, state.step, config.steps, hparams)
        updated = _update(config, state.replace(batch_stats=batch_stats, extra=extra), loss, grads,
                          value_and_grad, learning_rate, hparams, depths)
        if hasattr(objective, 'after'):
            after = objective.after(updated.extra, updated.params, updated.batch_stats, hparams)
            parts.check_extra(config, state.extra, after, 'after')
            updated = updated.replace(extra=after)
        # An update can overflow although its gradient is finite, so the new state is checked, too.
        after_norm = optax.tree.norm([
            leaf for leaf in jax.tree.leaves((updated.params, updated.batch_stats, updated.extra))
            if jnp.issubdtype(leaf.dtype, jnp.floating)])
        sound = dict(zip(SKIP_CAUSES, map(jnp.isfinite, (loss, grad_norm, after_norm)),
                         strict=True))
        finite = sound['loss'] & sound['gradient'] & sound['update']
        state = jax.tree.map(lambda new, old: jnp.where(finite, new, old), updated, state)
        return _record(config, state, sound, {'loss': loss, **measures, 'grad_norm': grad_norm},
                       learning_rate)

    return train_step


def keys(hparams: dict, step):
    """Returns the two random keys of one step: for augmentation, and for dropout."""
    return jax.random.split(jax.random.fold_in(jax.random.key(hparams['seed']), step))


def augmented_batch(config: Config, num_classes: int, key, batch: dict, hparams: dict) -> dict:
    """Returns the augmented batch that the model is trained on: {'image', 'target', 'weight'}.

    Args:
      config: the frozen Config of the run.
      num_classes: K.
      key: the random key for the augmentation of this step.
      batch: as `train_step` takes it.
      hparams: as `train_step` takes them.

    Returns:
      image, float32 (N, V, H, W, C), normalised, with the V views per image that the objective
      takes; target, float32 (N, K); weight, float32 (N,) with mean 1.
    """
    weight_N1 = batch['weight'][:, None]
    targets_NK = batch['label']
    if targets_NK.ndim == 1:
        targets_NK = jax.nn.one_hot(targets_NK, num_classes, dtype=jnp.float32)
    # The weight is mixed like the targets, as one more class: if an image is mixed with an
    # unreadable one, its weight is the share of the readable image.
    carried = jnp.concatenate([targets_NK * weight_N1, weight_N1], axis=1)
    objective = parts.find('objective', config.objective.name)
    differ = getattr(objective, 'VIEWS_DIFFER_IN', None)
    views = []
    for view in range(getattr(objective, 'VIEWS', 1)):
        own_key = key if view == 0 or differ is not None else jax.random.fold_in(key, view)
        images_NHWC, mixed = augment.apply(
            config.augment, own_key, batch['image'], carried, hparams['augment'], view=view,
            differ=differ or ())
        views.append(augment.color.normalize(
            images_NHWC, config.data.mean, config.data.std))
    weight_N1 = mixed[:, -1:]
    targets_NK = mixed[:, :-1] / jnp.where(weight_N1 > 0, weight_N1, 1.0)
    weight_N = weight_N1[:, 0]
    # Scaled once for the whole batch, so that the parts of an accumulated batch add up to the same.
    scale = weight_N.shape[0] / jnp.maximum(weight_N.sum(), 1e-6)
    return {'image': jnp.stack(views, axis=1), 'target': targets_NK, 'weight': weight_N * scale}


def _gradient(model, config, objective, params, state, key, augmented, hparams, constants):
    """Returns ((loss, (measures, batch_stats, extra)), grads), means over the parts of a batch."""
    count = config.accumulation_steps

    def part_loss(params, batch_stats, extra, key, part):
        levels = (255 * jnp.asarray(x, jnp.float32) for x in (config.data.mean, config.data.std))
        inputs = Inputs(_applier(model, config, batch_stats, key), part, batch_stats, extra,
                        constants, hparams, config.objective.options, key, *levels)
        found = objective.loss(params, inputs)
        parts.check_loss(config, found, len(part['weight']), extra)
        measures = {name: (value_N * part['weight']).mean()
                    for name, value_N in found.measures.items()}
        loss = (found.losses_N * part['weight']).mean()
        return loss, (measures, found.batch_stats, found.extra)

    def part_gradient(carry, index, part):
        (loss, (measures, *carry)), grads = jax.value_and_grad(part_loss, has_aux=True)(
            params, *carry, jax.random.fold_in(key, index), part)
        return tuple(carry), (loss, measures, grads)

    def accumulate(carry, indexed):
        carry, total = carry
        carry, measured = part_gradient(carry, *indexed)
        return (carry, jax.tree.map(jnp.add, total, measured)), None

    # Part p has the examples p, p + count, ..., so each device has its share of each part already.
    def split(x):
        return jnp.swapaxes(x.reshape(x.shape[0] // count, count, *x.shape[1:]), 0, 1)

    carry = (state.batch_stats, state.extra)
    if count == 1:
        (batch_stats, extra), (loss, measures, grads) = part_gradient(carry, 0, augmented)
        return (loss, (measures, batch_stats, extra)), grads
    names = getattr(objective, 'MEASURES', ())
    zero = jax.tree.map(jnp.zeros_like, (
        jnp.float32(0), {name: jnp.float32(0) for name in names}, params))
    ((batch_stats, extra), total), _ = jax.lax.scan(
        accumulate, (carry, zero), (jnp.arange(count), jax.tree.map(split, augmented)),
        # XLA's CPU backend runs a convolution inside a loop 8 to 18 times slower.
        unroll=backend.platform() == 'cpu')
    loss, measures, grads = jax.tree.map(lambda x: x / count, total)
    return (loss, (measures, batch_stats, extra)), grads


def _applier(model, config, own_stats, own_key):
    """Returns the function `Inputs.apply` that the objective calls."""
    def apply(params, images_NHWC, batch_stats=None, train=True, key=None):
        batch_stats = own_stats if batch_stats is None else batch_stats
        variables = {'params': finetune.stop_gradients(config, params), 'batch_stats': batch_stats}
        with frozen.norms(functools.partial(finetune.is_frozen_norm, config)):
            if not train:
                return model.apply(variables, images_NHWC, train=False), batch_stats
            answer, updates = model.apply(
                variables, images_NHWC, train=True, mutable=['batch_stats'],
                rngs={'dropout': own_key if key is None else key})
        return answer, updates.get('batch_stats', {})

    return apply


def _update(config, state, loss, grads, value_and_grad, learning_rate, hparams,
            depths) -> TrainState:
    """Returns the state after the optimizer's update; counters are not changed."""
    def value_fn(params, obj_fn=None, grad_fn=None):  # lbfgs passes all its extra arguments on
        return value_and_grad(params)[0][0]

    optimizer = optimizers.optimizer(config.optimizer, hparams, learning_rate)
    updates, opt_state = optimizer.update(
        grads, state.opt_state, state.params, value=loss, grad=grads, value_fn=value_fn,
        obj_fn=value_fn, grad_fn=lambda params, *_: value_and_grad(params)[1])
    updates = finetune.scale(config, hparams, depths, state.step, updates)
    params = optax.apply_updates(state.params, updates)
    ema = state.ema
    if config.ema:
        decay = ema_decay(hparams, state.step)
        ema = jax.tree.map(lambda mean, new: decay * mean + (1 - decay) * new, ema, params)
    return state.replace(params=params, opt_state=opt_state, ema=ema)


def ema_decay(hparams: dict, step):
    """Returns the decay of the EMA of the parameters: min(ema_decay, (1 + step) / (10 + step)).

    The smaller decay of the first steps makes the EMA forget the initial values also in a short
    run, as in TensorFlow's ExponentialMovingAverage. With ema_decay 0.999 it reaches 0.999 at step
    8,990.
    """
    step = step.astype(jnp.float32)
    return jnp.minimum(hparams['ema_decay'], (1.0 + step) / (10.0 + step))


def _record(config, state, sound, measured, learning_rate):
    """Returns (state, metrics): counts the step and adds its measures to the window of the row."""
    skipped, finite = {}, jnp.bool_(True)
    for cause in SKIP_CAUSES:  # counted once, for the first cause: the later ones follow from it
        skipped[cause] = state.skipped[cause] + jnp.where(finite & ~sound[cause], 1, 0)
        finite &= sound[cause]
    measured = measured | {'count': 1.0}
    fresh = state.step % config.log_every == 0
    window = {name: jnp.where(fresh, 0.0, total) + jnp.where(finite, measured[name], 0.0)
              for name, total in state.window.items()}
    state = state.replace(
        step=state.step + 1, window=window, skipped=skipped,
        skipped_in_a_row=jnp.where(finite, 0, state.skipped_in_a_row + 1),
        skipped_at=jnp.where(finite, state.skipped_at, state.step))
    metrics = {name: window[name] / window['count'] for name in window if name != 'count'}
    return state, metrics | {
        'learning_rate': learning_rate, 'skipped_updates': sum(skipped.values()),
        'skipped': skipped, 'skipped_in_a_row': state.skipped_in_a_row,
        'skipped_at': state.skipped_at}


def make_eval_step(model, config: Config, layout=sharding.WHOLE):
    """Returns eval_step(state, batch, hparams) -> columns, arrays (N, ...) with a row per image.

    `batch` is {'image': uint8 (N, H, W, C), 'label': as in a training batch, 'mask': bool (N,)}.
    The columns are `labels` and `mask` of the batch, unchanged; `predictions`, int32 (N,);
    `confidences`, float32 (N,), the probability of the prediction; `loss`, float32 (N,), the
    objective's loss without label smoothing and class weights; and the columns of the metrics.
    Probabilities are a softmax over the classes. If images have several labels, they are the
    sigmoid of each logit, and the column `probabilities`, float32 (N, K), has all of them. With
    `config.ema` the EMA of the parameters is evaluated.
    """
    objective = parts.find('objective', config.objective.name)
    options = config.objective.options

    def eval_step(state: TrainState, batch: dict, hparams: dict) -> dict:
        logits_NK, out = predict(model, config, state, batch['image'], layout)
        several = batch['label'].ndim == 2
        targets_NK = batch['label'] if several else jax.nn.one_hot(
            batch['label'], model.num_classes, dtype=jnp.float32)
        probability_NK = jax.nn.sigmoid(logits_NK) if several else jax.nn.softmax(logits_NK)
        if hasattr(objective, 'evaluate'):
            loss_N = objective.evaluate(logits_NK, targets_NK, hparams, options)
        else:
            cross_entropy = classification.sigmoid if several else classification.softmax
            loss_N = cross_entropy(logits_NK, targets_NK)
        columns = {
            'labels': batch['label'],
            'mask': batch['mask'],
            'predictions': jnp.argmax(logits_NK, -1).astype(jnp.int32),
            'confidences': probability_NK.max(-1),
            'loss': loss_N,
        } | ({'probabilities': probability_NK} if several else {})
        for metric in parts.metrics(config, several):
            found = metric.part.per_example(logits_NK, targets_NK, out, hparams,
                                            *parts.options_argument(metric))
            parts.check_columns(metric, found, len(logits_NK), columns)
            columns |= found
        return columns

    return eval_step


def predict(model, config: Config, state: TrainState, images_NHWC, layout=sharding.WHOLE):
    """Returns (logits, out) for uint8 images (N, H, W, C), with the parameters that are evaluated.

    `logits` are float32 (N, K); `out` is the model's dict of named intermediates.
    """
    images_NHWC = augment.color.normalize(
        images_NHWC, config.data.mean, config.data.std)
    params = eval_params(config, state)
    with layout.traced():
        return model.apply(
            {'params': layout.gather(params), 'batch_stats': state.batch_stats}, images_NHWC,
            train=False)


def eval_params(config: Config, state: TrainState):
    """Returns the parameters that are evaluated and exported: the EMA, or the trained ones.

    An optimizer that does not evaluate the parameters that it trains, such as schedule-free,
    computes them from its state.
    """
    if config.ema:
        return state.ema
    return optimizers.eval_params(config.optimizer, state.opt_state, state.params)
