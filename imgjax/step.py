"""The train step and the eval step: pure functions of (state, batch, hparams)."""

import jax
import jax.numpy as jnp
import optax

from imgjax import augment, losses, optim
from imgjax.state import MEASURES, TrainState


def make_train_step(model, config: dict):
    """Returns train_step(state, batch, hparams) -> (state, metrics).

    `batch` is {'image': uint8 (N, H, W, C), 'label': int32 (N,)}; `hparams` is what
    state.hparams_of gives. Everything random comes from (hparams['seed'], state.step, position in
    the global batch), so neither the device count nor the way the batch got there changes it.

    `metrics` are scalars: the means of loss, accuracy and grad_norm over the finite updates since
    the last multiple of config.log_every, the learning rate, and how many updates were skipped.
    An update with a loss, gradient or outcome that is not finite changes nothing but counters.
    """

    def train_step(state: TrainState, batch: dict, hparams: dict):
        key = jax.random.fold_in(jax.random.key(hparams['seed']), state.step)
        augment_key, dropout_key = jax.random.split(key)
        images_NHWC, targets_NK = augment.apply(
            config['augment'], augment_key, batch['image'],
            jax.nn.one_hot(batch['label'], model.num_classes, dtype=jnp.float32),
            hparams['augment'])
        images_NHWC = augment.color.normalize(
            images_NHWC, config['data']['mean'], config['data']['std'])
        loss, accuracy, batch_stats, grads = _gradient(
            model, config, state, dropout_key, images_NHWC, targets_NK, hparams)
        grad_norm = optax.tree.norm(grads)
        learning_rate = optim.learning_rate(
            config['schedule'], state.step, config['steps'], hparams)
        updated = _update(config, state, batch_stats, grads, learning_rate, hparams)
        # An update can overflow although its gradient is finite: what it would leave is looked at.
        after_norm = optax.tree.norm((updated.params, updated.batch_stats))
        finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm) & jnp.isfinite(after_norm)
        state = jax.tree.map(lambda new, old: jnp.where(finite, new, old), updated, state)
        return _record(config, state, finite, (loss, accuracy, grad_norm), learning_rate)

    return train_step


def _gradient(model, config, state, key, images_NHWC, targets_NK, hparams):
    """Returns (loss, accuracy, batch_stats, grads), means over the parts of the batch."""
    parts = config['accumulation_steps']

    def part_loss(params, batch_stats, key, images_NHWC, targets_NK):
        (logits_NK, _), updates = model.apply(
            {'params': params, 'batch_stats': batch_stats}, images_NHWC, train=True,
            rngs={'dropout': key}, mutable=['batch_stats'])
        loss_N = losses.per_example(
            config['loss'], logits_NK, targets_NK,
            label_smoothing=hparams['label_smoothing'], gamma=hparams['focal_gamma'])
        hit_N = jnp.argmax(logits_NK, -1) == jnp.argmax(targets_NK, -1)
        return loss_N.mean(), (hit_N.mean(dtype=jnp.float32), updates.get('batch_stats', {}))

    def part_gradient(batch_stats, part):
        index, images_NHWC, targets_NK = part
        (loss, (accuracy, batch_stats)), grads = jax.value_and_grad(part_loss, has_aux=True)(
            state.params, batch_stats, jax.random.fold_in(key, index), images_NHWC, targets_NK)
        return batch_stats, (loss, accuracy, grads)

    def accumulate(carry, part):
        batch_stats, total = carry
        batch_stats, measured = part_gradient(batch_stats, part)
        return (batch_stats, jax.tree.map(jnp.add, total, measured)), None

    # Part p takes the examples p, p + parts, ...: each device already holds its share of it.
    def split(x):
        return jnp.swapaxes(x.reshape(x.shape[0] // parts, parts, *x.shape[1:]), 0, 1)

    if parts == 1:
        batch_stats, (loss, accuracy, grads) = part_gradient(
            state.batch_stats, (0, images_NHWC, targets_NK))
        return loss, accuracy, batch_stats, grads
    zero = jax.tree.map(jnp.zeros_like, (jnp.float32(0), jnp.float32(0), state.params))
    (batch_stats, total), _ = jax.lax.scan(
        accumulate, (state.batch_stats, zero),
        (jnp.arange(parts), split(images_NHWC), split(targets_NK)),
        # XLA's CPU backend runs a convolution inside a loop 8 to 18 times slower.
        unroll=jax.default_backend() == 'cpu')
    loss, accuracy, grads = jax.tree.map(lambda x: x / parts, total)
    return loss, accuracy, batch_stats, grads


def _update(config, state, batch_stats, grads, learning_rate, hparams) -> TrainState:
    """Returns the state after the optimizer; the counters are as they were."""
    optimizer = optim.optimizer(config['optimizer'], hparams, learning_rate)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    ema = state.ema
    if config['ema']:
        decay = hparams['ema_decay']
        ema = jax.tree.map(lambda mean, new: decay * mean + (1 - decay) * new, ema, params)
    return state.replace(params=params, batch_stats=batch_stats, opt_state=opt_state, ema=ema)


def _record(config, state, finite, measured, learning_rate):
    """Returns (state, metrics) with the step counted and what was measured added up."""
    measured = dict(zip(MEASURES, measured, strict=True), count=1.0)
    fresh = state.step % config['log_every'] == 0
    window = {name: jnp.where(fresh, 0.0, total) + jnp.where(finite, measured[name], 0.0)
              for name, total in state.window.items()}
    state = state.replace(
        step=state.step + 1, window=window, skipped=state.skipped + jnp.where(finite, 0, 1),
        skipped_in_a_row=jnp.where(finite, 0, state.skipped_in_a_row + 1))
    metrics = {name: window[name] / window['count'] for name in MEASURES}
    return state, metrics | {
        'learning_rate': learning_rate, 'skipped_updates': state.skipped,
        'skipped_in_a_row': state.skipped_in_a_row}


def make_eval_step(model, config: dict):
    """Returns eval_step(state, batch) -> per-example results, each of shape (N,).

    `batch` is {'image', 'label', 'mask'}; `label` and `mask` come back with the results: `loss`
    float32 (without label smoothing), `prediction` int32, `confidence` float32 (the probability
    of the prediction; softmax over the classes), `top5` bool. With `config.ema` the mean of the
    parameters is what is evaluated.
    """

    def eval_step(state: TrainState, batch: dict):
        logits_NK = predict(model, config, state, batch['image'])
        targets_NK = jax.nn.one_hot(batch['label'], model.num_classes, dtype=jnp.float32)
        own_N1 = jnp.take_along_axis(logits_NK, batch['label'][:, None], axis=1)
        return {
            'label': batch['label'],
            'mask': batch['mask'],
            'loss': losses.per_example(
                config['loss'], logits_NK, targets_NK, label_smoothing=jnp.float32(0),
                gamma=jnp.float32(config['hparams']['focal_gamma'])),
            'prediction': jnp.argmax(logits_NK, -1).astype(jnp.int32),
            'confidence': jax.nn.softmax(logits_NK).max(-1),
            'top5': ((logits_NK > own_N1).sum(-1) < 5) & jnp.isfinite(own_N1[:, 0]),
        }

    return eval_step


def predict(model, config: dict, state: TrainState, images_NHWC):
    """Returns logits float32 (N, K) of uint8 images, with the parameters that are evaluated."""
    images_NHWC = augment.color.normalize(
        images_NHWC, config['data']['mean'], config['data']['std'])
    params = state.ema if config['ema'] else state.params
    logits_NK, _ = model.apply(
        {'params': params, 'batch_stats': state.batch_stats}, images_NHWC, train=False)
    return logits_NK
