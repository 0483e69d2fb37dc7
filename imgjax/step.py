"""The train step and the eval step: pure functions of (state, batch, hparams)."""

import functools

import jax
import jax.numpy as jnp
import optax

from imgjax import augment, finetune, losses, optim, sharding
from imgjax.models.parts import frozen
from imgjax.process import backend
from imgjax.state import MEASURES, SKIP_CAUSES, TrainState


def make_train_step(model, config: dict, depths=None, layout=sharding.WHOLE):
    """Returns train_step(state, batch, hparams) -> (state, metrics).

    `batch` is {'image': uint8 (N, H, W, C), 'label': int32 (N,) or, of images with several labels,
    float32 (N, K) of 0 and 1, 'weight': float32 (N,), 0 for an image that could not be read};
    `hparams` is what state.hparams_of gives. Everything random comes from (hparams['seed'],
    state.step, position in the global batch), so neither the device count nor the way the batch got
    there changes it.

    `depths` is what finetune.depths gives, read with config.optimizer.layerwise only; `layout` what
    sharding.layout gives.

    The loss of a model with two classifiers (`out['logits_dist']`, a distilled DeiT) is the mean of
    theirs, each with the labels: equation 3 of Touvron et al. 2020 (arXiv:2012.12877) where there
    is no teacher.

    `metrics` are scalars: the means of loss, accuracy and grad_norm over the finite updates since
    the last multiple of config.log_every, the learning rate, how many updates were skipped, in all,
    by cause and in a row, and the step of the last of them.
    An update with a loss, gradient or outcome that is not finite changes nothing but counters.
    """

    def train_step(state: TrainState, batch: dict, hparams: dict):
        augment_key, dropout_key = keys(hparams, state.step)
        augmented = augmented_batch(config, model.num_classes, augment_key, batch, hparams)
        with layout.traced():
            loss, accuracy, batch_stats, grads = _gradient(
                model, config, state.replace(params=layout.gather(state.params)), dropout_key,
                augmented, hparams)
        grads = layout.scatter(grads)
        grad_norm = optax.tree.norm(grads)
        learning_rate = optim.learning_rate(
            config['schedule'], state.step, config['steps'], hparams)
        updated = _update(config, state, batch_stats, grads, learning_rate, hparams, depths)
        # An update can overflow although its gradient is finite: what it would leave is looked at.
        after_norm = optax.tree.norm((updated.params, updated.batch_stats))
        sound = dict(zip(SKIP_CAUSES, map(jnp.isfinite, (loss, grad_norm, after_norm)),
                         strict=True))
        finite = sound['loss'] & sound['gradient'] & sound['update']
        state = jax.tree.map(lambda new, old: jnp.where(finite, new, old), updated, state)
        return _record(config, state, sound, (loss, accuracy, grad_norm), learning_rate)

    return train_step


def keys(hparams: dict, step):
    """Returns the keys of one step: of the augmentation, and of dropout."""
    return jax.random.split(jax.random.fold_in(jax.random.key(hparams['seed']), step))


def augmented_batch(config: dict, num_classes: int, key, batch: dict, hparams: dict) -> dict:
    """Returns what the model is trained on: {'image', 'target', 'weight'}.

    Args:
      config: plain.
      num_classes: K.
      key: of the augmentation at this step.
      batch: as `train_step` takes it.
      hparams: as `train_step` takes them.

    Returns:
      image, float32 (N, V, H, W, C) normalised, V views of each image (one but for
      config.consistency); target, float32 (N, K); weight, float32 (N,) with mean 1.
    """
    weight_N1 = batch['weight'][:, None]
    targets_NK = batch['label']
    if targets_NK.ndim == 1:
        targets_NK = jax.nn.one_hot(targets_NK, num_classes, dtype=jnp.float32)
    # The weight travels as one class more: of an image mixed with an unreadable one, only the share
    # that is its own counts.
    carried = jnp.concatenate([targets_NK * weight_N1, weight_N1], axis=1)
    views = []
    for view in range(3 if config['consistency'] == 'jsd' else 1):
        images_NHWC, mixed = augment.apply(
            config['augment'], key, batch['image'], carried, hparams['augment'],
            view=view if config['consistency'] == 'jsd' else None)
        views.append(augment.color.normalize(
            images_NHWC, config['data']['mean'], config['data']['std']))
    weight_N1 = mixed[:, -1:]
    targets_NK = mixed[:, :-1] / jnp.where(weight_N1 > 0, weight_N1, 1.0)
    weight_N = weight_N1[:, 0]
    # Scaled once for the whole batch, so that parts of it (accumulation) add up to the same.
    scale = weight_N.shape[0] / jnp.maximum(weight_N.sum(), 1e-6)
    return {'image': jnp.stack(views, axis=1), 'target': targets_NK, 'weight': weight_N * scale}


def _gradient(model, config, state, key, augmented, hparams):
    """Returns (loss, accuracy, batch_stats, grads), means over the parts of the batch."""
    parts = config['accumulation_steps']

    def part_loss(params, batch_stats, key, part):
        views = part['image'].shape[1]
        images_NHWC = part['image'].reshape(-1, *part['image'].shape[2:])
        with frozen.norms(functools.partial(finetune.is_frozen_norm, config)):
            (logits, out), updates = model.apply(
                {'params': finetune.stop_gradients(config, params), 'batch_stats': batch_stats},
                images_NHWC, train=True,
                rngs={'dropout': key}, mutable=['batch_stats'])
        loss_N = loss_of(logits, part['target'], views)
        if 'logits_dist' in out:  # half a loss each, and the mean of both is what is evaluated
            loss_N = (loss_N + loss_of(out['logits_dist'], part['target'], views)) / 2
            logits = (logits + out['logits_dist']) / 2
        hit_N = is_hit(logits[::views], part['target']) * part['weight']
        return (loss_N * part['weight']).mean(), (hit_N.mean(), updates.get('batch_stats', {}))

    def loss_of(logits, targets_NK, views):
        logits_NVK = logits.reshape(-1, views, logits.shape[-1])
        weights_K = hparams['class_weights'] if hparams['class_weights'].shape[0] else None
        loss_N = losses.per_example(
            config['loss'], logits_NVK[:, 0], targets_NK,
            label_smoothing=hparams['label_smoothing'], gamma=hparams['focal_gamma'],
            class_weights_K=weights_K)
        if views > 1:
            loss_N += hparams['consistency_weight'] * losses.agreement(logits_NVK)
        return loss_N

    def part_gradient(batch_stats, index, part):
        (loss, (accuracy, batch_stats)), grads = jax.value_and_grad(part_loss, has_aux=True)(
            state.params, batch_stats, jax.random.fold_in(key, index), part)
        return batch_stats, (loss, accuracy, grads)

    def accumulate(carry, indexed):
        batch_stats, total = carry
        batch_stats, measured = part_gradient(batch_stats, *indexed)
        return (batch_stats, jax.tree.map(jnp.add, total, measured)), None

    # Part p takes the examples p, p + parts, ...: each device already holds its share of it.
    def split(x):
        return jnp.swapaxes(x.reshape(x.shape[0] // parts, parts, *x.shape[1:]), 0, 1)

    if parts == 1:
        batch_stats, (loss, accuracy, grads) = part_gradient(state.batch_stats, 0, augmented)
        return loss, accuracy, batch_stats, grads
    zero = jax.tree.map(jnp.zeros_like, (jnp.float32(0), jnp.float32(0), state.params))
    (batch_stats, total), _ = jax.lax.scan(
        accumulate, (state.batch_stats, zero),
        (jnp.arange(parts), jax.tree.map(split, augmented)),
        # XLA's CPU backend runs a convolution inside a loop 8 to 18 times slower.
        unroll=backend.platform() == 'cpu')
    loss, accuracy, grads = jax.tree.map(lambda x: x / parts, total)
    return loss, accuracy, batch_stats, grads


def is_hit(logits_NK, targets_NK):
    """Returns float32 (N,): 1 where the class of the highest logit is a label, or the likeliest.

    Of images with several labels each of them counts; an image without any is never hit.
    """
    predicted_N1 = jnp.argmax(logits_NK, -1, keepdims=True)
    own_N = jnp.take_along_axis(targets_NK, predicted_N1, axis=1)[:, 0]
    return ((own_N >= targets_NK.max(-1)) & (own_N > 0)).astype(jnp.float32)


def _update(config, state, batch_stats, grads, learning_rate, hparams, depths) -> TrainState:
    """Returns the state after the optimizer; the counters are as they were."""
    optimizer = optim.optimizer(config['optimizer'], hparams, learning_rate)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    updates = finetune.scale(config, hparams, depths, state.step, updates)
    params = optax.apply_updates(state.params, updates)
    ema = state.ema
    if config['ema']:
        decay = ema_decay(hparams, state.step)
        ema = jax.tree.map(lambda mean, new: decay * mean + (1 - decay) * new, ema, params)
    return state.replace(params=params, batch_stats=batch_stats, opt_state=opt_state, ema=ema)


def ema_decay(hparams: dict, step):
    """Returns the decay of the mean of the parameters: min(ema_decay, (1 + step) / (10 + step)).

    So the mean forgets the initial values also in a run that is short for its decay, as that of
    TensorFlow's ExponentialMovingAverage does; at 0.999 it is the decay itself from step 8,990 on.
    """
    step = step.astype(jnp.float32)
    return jnp.minimum(hparams['ema_decay'], (1.0 + step) / (10.0 + step))


def _record(config, state, sound, measured, learning_rate):
    """Returns (state, metrics) with the step counted and what was measured added up."""
    skipped, finite = {}, jnp.bool_(True)
    for cause in SKIP_CAUSES:  # the first that is not finite makes the later ones so
        skipped[cause] = state.skipped[cause] + jnp.where(finite & ~sound[cause], 1, 0)
        finite &= sound[cause]
    measured = dict(zip(MEASURES, measured, strict=True), count=1.0)
    fresh = state.step % config['log_every'] == 0
    window = {name: jnp.where(fresh, 0.0, total) + jnp.where(finite, measured[name], 0.0)
              for name, total in state.window.items()}
    state = state.replace(
        step=state.step + 1, window=window, skipped=skipped,
        skipped_in_a_row=jnp.where(finite, 0, state.skipped_in_a_row + 1),
        skipped_at=jnp.where(finite, state.skipped_at, state.step))
    metrics = {name: window[name] / window['count'] for name in MEASURES}
    return state, metrics | {
        'learning_rate': learning_rate, 'skipped_updates': sum(skipped.values()),
        'skipped': skipped, 'skipped_in_a_row': state.skipped_in_a_row,
        'skipped_at': state.skipped_at}


def make_eval_step(model, config: dict, layout=sharding.WHOLE):
    """Returns eval_step(state, batch) -> per-example results, each of shape (N,).

    `batch` is {'image', 'label', 'mask'}; `label` and `mask` come back with the results: `loss`
    float32 (without label smoothing or weights), `prediction` int32, `confidence` float32 (the
    probability of the prediction), `hit` bool (the prediction is a label), `top5` bool (a label is
    among the five likeliest). Probabilities are a softmax over the classes; of images with several
    labels, (N, K), a sigmoid of each, and `probability`, float32 (N, K), holds them all. With
    `config.ema` the mean of the parameters is what is evaluated.
    """

    def eval_step(state: TrainState, batch: dict):
        logits_NK = predict(model, config, state, batch['image'], layout)
        several = batch['label'].ndim == 2
        targets_NK = batch['label'] if several else jax.nn.one_hot(
            batch['label'], model.num_classes, dtype=jnp.float32)
        probability_NK = jax.nn.sigmoid(logits_NK) if several else jax.nn.softmax(logits_NK)
        # The best placed of the labels decides; an image without one is never right.
        own_N1 = jnp.where(targets_NK > 0, logits_NK, -jnp.inf).max(-1, keepdims=True)
        return {
            'label': batch['label'],
            'mask': batch['mask'],
            'loss': losses.per_example(
                config['loss'], logits_NK, targets_NK, label_smoothing=jnp.float32(0),
                gamma=jnp.float32(config['hparams']['focal_gamma'])),
            'prediction': jnp.argmax(logits_NK, -1).astype(jnp.int32),
            'confidence': probability_NK.max(-1),
            'hit': is_hit(logits_NK, targets_NK) > 0,
            'top5': ((logits_NK > own_N1).sum(-1) < 5) & jnp.isfinite(own_N1[:, 0]),
        } | ({'probability': probability_NK} if several else {})

    return eval_step


def predict(model, config: dict, state: TrainState, images_NHWC, layout=sharding.WHOLE):
    """Returns logits float32 (N, K) of uint8 images, with the parameters that are evaluated."""
    images_NHWC = augment.color.normalize(
        images_NHWC, config['data']['mean'], config['data']['std'])
    params = state.ema if config['ema'] else state.params
    with layout.traced():
        logits_NK, _ = model.apply(
            {'params': layout.gather(params), 'batch_stats': state.batch_stats}, images_NHWC,
            train=False)
    return logits_NK
