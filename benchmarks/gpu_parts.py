"""The rows of benchmarks/gpu.py that one process measures: each function yields its findings.

A finding is {'way'} with either 'times', seconds a round of what `amount` and `unit` count, or
'said', what there is to say in words; `beside` is what else is to be known.
"""

import functools
import os
import tempfile

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import layers, step_ours, turns
from imgjax import config as config_lib
from imgjax import models, step
from imgjax.config import Config
from imgjax.evals import corruptions, pgd
from imgjax.explain import grad_cam, gradient, integrated_gradients
from imgjax.models.parts import attention, forms
from imgjax.perf import chips
from imgjax.process import backend


def start(row: str, tiny: bool, rounds: int, seconds: float, **options):
    """Yields the findings of the row of that name; what turns.answer takes."""
    backend.keep_memory()
    compared = functools.partial(turns.in_turns, rounds=rounds, seconds=seconds)
    yield from ROWS[row](tiny, compared, **options)


def _timed(compiled, *arguments):
    return turns.timed(lambda: compiled(*arguments), jax.block_until_ready)


def _reason(error: Exception) -> str:
    return f'not measured: {type(error).__name__}: {" ".join(str(error).split())[:160]}'


def ceiling(tiny: bool, compared):
    """The largest matrix product, beside the data sheet."""
    side = 512 if tiny else step_ours.CEILING_SIDE[jax.default_backend()]
    reached = step_ours.matmul_flops(jnp.bfloat16, side)
    device = jax.devices()[0].device_kind
    peak = chips.peak_flops(device)
    sheet = f'{peak / 1e12:.0f} TFLOP/s by the data sheet' if peak else 'no data sheet is known'
    yield {'way': f'{side} x {side}, {device}', 'unit': 'TFLOP/s', 'amount': 1,
           'times': [1e12 / each for each in reached], 'beside': sheet}


# Exact resume.


def _resumed_config(tiny: bool) -> tuple[Config, int]:
    """Returns a config with all that a state can hold, and the side of its images."""
    config = step_ours.base_config()
    config['model'] |= {'name': 'tiny_resnet', 'dtype': 'bfloat16'} if tiny else {
        'name': 'resnet18', 'dtype': 'bfloat16', 'options': {'depths': (1, 1, 1, 1)}}
    config['augment'] = [['random_flip', {}], ['mixup', {}]]
    config['hparams']['augment'] = {'random_flip': 0.5, 'mixup': 0.2}
    config |= {'batch_size': 16 if tiny else 128, 'steps': 8 if tiny else 40, 'ema': True}
    return Config(config), 16 if tiny else 64


def _train(config: Config, size: int, current, hparams, train_step, last: int):
    """Trains up to step `last` on batches that are functions of the step."""
    dispatch = jax.jit(train_step, compiler_options=backend.compiler_options())
    for at in range(int(current.step), last):
        current, _ = dispatch(
            current, step_ours.examples(config.batch_size, size, seed=at), hparams)
    return current


def resume_begin(tiny: bool, compared, workdir: str):
    """Trains twice to the end and says the digests; saves another run half-way."""
    from imgjax.rundir import checkpoint, digests

    config, size = _resumed_config(tiny)
    train_step, hparams, init = step_ours.build(config, size)
    steps = config.steps
    through = [digests.state_digest(_train(config, size, step_ours.initial(init, hparams), hparams,
                                           train_step, steps)) for _ in range(2)]
    half = _train(config, size, step_ours.initial(init, hparams), hparams, train_step, steps // 2)
    writer = checkpoint.Writer(workdir, config.checkpoint)
    writer.save(half, config_lib.digest(config))
    saved = writer.wait()
    writer.close()
    yield {'through': through, 'saved': saved, 'steps': steps}


def resume_rest(tiny: bool, compared, workdir: str):
    """Goes on from the step that is on disk, in a process of its own."""
    from imgjax.rundir import checkpoint, digests

    config, size = _resumed_config(tiny)
    train_step, hparams, init = step_ours.build(config, size)
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    target = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
        jax.eval_shape(init, hparams))
    current, _ = checkpoint.restore_newest(
        workdir, target, config_lib.digest(config), put_aside=False)
    yield {'resumed': digests.state_digest(
        _train(config, size, current, hparams, train_step, config.steps))}


def resume_run(tiny: bool, compared):
    """A whole run of configs/digits.py that pauses half-way, with its data, beside one through."""
    from configs import digits
    from imgjax import train

    family = 'mlp' if tiny else 'cnn'
    config = digits.get_config(family)
    steps = 20 if tiny else 200
    config.update(steps=steps, eval_every=steps // 2, log_every=steps // 2,
                  checkpoint=dict(every=steps // 2), schedule=dict(warmup_steps=2))
    with tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault('TFDS_DATA_DIR', os.path.join(folder, 'data'))
        through = train.run_one(config, os.path.join(folder, 'through'))
        train.run_one(config, os.path.join(folder, 'paused'), pause_at=steps // 2)
        paused = train.run_one(config, os.path.join(folder, 'paused'))
    same = through['state_digest'] == paused['state_digest']
    yield {'way': f'launch.train, digits:{family}, {steps} steps',
           'said': 'equal' if same else 'NOT equal',
           'beside': f'{through["state_digest"][:8]} and {paused["state_digest"][:8]}'}


# Forms.


def attentions(tiny: bool, compared):
    """Attention and its three gradients by cuDNN, by jax.nn and by ours, in bfloat16."""
    ways = {
        'ours, xla': attention.ATTENTIONS['xla'],
        'jax.nn, xla': lambda q, k, v: (
            jax.nn.dot_product_attention(q, k, v, implementation='xla'), None),
        'ours, cudnn': attention.ATTENTIONS['cudnn'],
    }
    shapes = [('ViT-S, b1024', (1024, 197, 6, 64)), ('ViT-B, b256', (256, 197, 12, 64)),
              ('1,024 tokens', (32, 1024, 12, 64))]
    for name, shape in [('tiny', (2, 17, 2, 8))] if tiny else shapes:
        q, k, v = jax.random.normal(jax.random.key(0), (3, *shape), jnp.bfloat16)
        runs, failed = {}, {}
        for way, attend in ways.items():
            def loss(q, k, v, attend=attend):
                return attend(q, k, v)[0].astype(jnp.float32).mean()

            run = _timed(jax.jit(jax.grad(loss, (0, 1, 2))), q, k, v)
            try:
                run(1)
                runs[way] = run
            except Exception as error:  # no such kernel here, or too little memory: each its type
                failed[way] = _reason(error)
        found = compared(runs)
        first = next(iter(found.values()), None)
        for way in ways:
            beside = {'way': f'{name}, {way}'}
            yield beside | ({'times': found[way], 'first': first, 'beside': 'NLHK = '
                             + 'x'.join(map(str, shape))} if way in found else
                            {'said': failed[way]})


# By their names in layers.LAYERS; those of other forms than XLA's own on some backend.
_LAYERS = ('ResNet-50, 1x1', 'ResNet-50, 1x1 down', 'ViT-S, patches', 'ConvNeXt-T, down',
           'ResNeXt-50, 32 groups', 'ConvNeXt-T, depthwise', 'MobileNetV2, depthwise')


def convolutions(tiny: bool, compared):
    """Layers and their gradients by XLA's convolution and by the other forms, in bfloat16."""
    images = 1 if tiny else 128
    for name, shape, kernel_shape, stride, groups, candidates in layers.LAYERS:
        if name not in (_LAYERS[3:4] if tiny else _LAYERS):
            continue
        shape = (images, *shape[1:])
        strides, padding = layers.geometry(kernel_shape, stride)
        chosen, padding = forms.choose(shape, kernel_shape, strides, padding, (1, 1), groups)
        x, kernel = (jax.random.normal(jax.random.key(0), of, jnp.bfloat16)
                     for of in (shape, kernel_shape))
        runs = {form: _timed(layers.gradient(form, strides, padding, groups,
                                             backend.compiler_options()), x, kernel)
                for form in candidates if form != 'taps'}
        found = compared(runs)
        for form, times in found.items():
            yield {'way': f'{name}, stride {stride}, {form}', 'times': times,
                   'first': found['lax'],
                   'beside': 'what a model runs here' if form == chosen else ''}


# Many steps a dispatch, many members a program.


def _small(name: str, size: int, channels: int, batch: int):
    """Returns (train step, hparams, initial state, a resident set) of a small model."""
    config = step_ours.base_config()
    config['model'] |= {'name': name, 'dtype': 'bfloat16'}
    config['data'] |= {name: (0.5,) * channels for name in ('mean', 'std')}
    config |= {'batch_size': batch, 'steps': 100_000}
    train_step, hparams, init = step_ours.build(config, size, channels, classes=10)
    return (train_step, hparams, step_ours.initial(init, hparams),
            step_ours.examples(2048, size, channels, 10))


def _scan(train_step, held):
    """Returns (state, indices int32 (steps, images), hparams) -> state, as a run dispatches it."""
    def dispatch(state, index_SB, hparams):
        def one(state, index_B):
            batch = {name: values[index_B] for name, values in held.items()}
            return train_step(state, batch, hparams)[0], None

        return jax.lax.scan(one, state, index_SB)[0]

    return dispatch


def _run(dispatch, state, index, hparams):
    """Returns run(times) -> seconds of a compiled dispatch, which takes over its state."""
    compiled = jax.jit(
        dispatch, donate_argnums=0, compiler_options=backend.compiler_options())
    kept = [jax.tree.map(jnp.copy, state)]

    def call():
        kept[0] = compiled(kept[0], index, hparams)
        return kept[0]

    return turns.timed(call, jax.block_until_ready)


def dispatches(tiny: bool, compared):
    """Steps/s with 1, 10 and 50 steps a dispatch."""
    batch = 16 if tiny else 128
    for name, size, channels in [('mlp', 8, 1)] if tiny else [
            ('mlp', 28, 1), ('resnet20_cifar', 32, 3)]:
        train_step, hparams, state, held = _small(name, size, channels, batch)
        rng = np.random.default_rng(0)
        runs = {}
        for stride in (1, 10, 50):
            index = jnp.asarray(rng.integers(0, 2048, (stride, batch)), jnp.int32)
            runs[stride] = _run(_scan(train_step, held), state, index, hparams)
        found = {stride: [seconds / stride for seconds in times]
                 for stride, times in compared(runs).items()}
        for stride, times in found.items():
            yield {'way': f'{name}, {stride} a dispatch', 'times': times, 'first': found[1],
                   'amount': 1, 'unit': 'steps/s', 'beside': f'{size} px, batches of {batch}'}


def studies(tiny: bool, compared):
    """Steps/s of all members together, by vmap of the step over states and hparams."""
    name, size, batch, stride = ('mlp', 8, 16, 10) if tiny else ('cnn', 28, 128, 10)
    train_step, hparams, state, held = _small(name, size, 1, batch)
    rng = np.random.default_rng(0)
    runs = {}
    for members in (1, 8, 32, 128):
        index = jnp.asarray(rng.integers(0, 2048, (members, stride, batch)), jnp.int32)
        dispatch = _scan(train_step, held)
        if members == 1:
            runs[members] = _run(dispatch, state, index[0], hparams)
            continue
        states, hparams_of_all = jax.tree.map(
            lambda leaf, n=members: jnp.broadcast_to(leaf, (n, *jnp.shape(leaf))),
            (state, hparams))
        runs[members] = _run(jax.vmap(dispatch), states, index, hparams_of_all)
    found = {members: [seconds / stride / members for seconds in times]
             for members, times in compared(runs).items()}
    for members, times in found.items():
        yield {'way': f'{name}, {members} members', 'times': times, 'first': found[1],
               'amount': 1, 'unit': 'steps/s of all',
               'beside': f'{size} px, batches of {batch}, {stride} steps a dispatch'}


# Augmentation.

_RECIPES = {
    'none': {},
    'flip, mixup or CutMix': {'random_flip': 0.5, 'mixup_or_cutmix': 1.0},
    'flip, RandAugment of 2, mixup': {'random_flip': 0.5, 'rand_augment': 10.0, 'mixup': 0.2},
}


def augmentation(tiny: bool, compared):
    """Images/s from uint8 pixels to what the model takes, normalised, alone on the device."""
    size, batch = (16, 8) if tiny else (224, 256)
    images, runs = step_ours.examples(batch, size), {}
    for name, strengths in _RECIPES.items():
        config = step_ours.base_config()
        config['augment'] = [[operation, {}] for operation in strengths]
        config['hparams']['augment'] = strengths
        config['model'] |= {'name': 'mlp'}
        config = Config(config | {'steps': 1})
        _, hparams, _ = step_ours.build(config, size)
        made = jax.jit(lambda key, batch, hparams, config=config: step.augmented_batch(
            config, 1000, key, batch, hparams), compiler_options=backend.compiler_options())
        runs[name] = _timed(made, jax.random.key(0), images, hparams)
    found = compared(runs)
    for name, times in found.items():
        yield {'way': name, 'times': times, 'first': found['none'], 'amount': batch,
               'unit': 'images/s', 'beside': f'{size} px, batches of {batch}'}


# What a card takes.


def corruption(tiny: bool, compared):
    """Images/s of the common corruptions, and of the slowest kinds alone."""
    size, batch = (16, 4) if tiny else (224, 64)
    images = np.asarray(step_ours.examples(batch, size)['image'])
    names = ('gaussian_noise', 'jpeg_compression') if tiny else corruptions.COMMON
    key, runs = jax.random.key(0), {}
    for name in names:
        runs[name] = _timed(functools.partial(corruptions.corrupt, name, 3), images, key)
    found = compared(runs)
    whole = [sum(times) for times in zip(*found.values(), strict=True)]
    yield {'way': f'all {len(names)}', 'times': whole, 'amount': batch * len(names),
           'unit': 'images/s', 'beside': f'{size} px, batches of {batch}, severity 3'}
    slowest = sorted(found, key=lambda name: -np.median(found[name]))[:4]
    for name in slowest:
        yield {'way': name, 'times': found[name], 'amount': batch, 'unit': 'images/s'}


def card(tiny: bool, compared):
    """Images/s of what the parts of a card do most: answers, gradients, maps, steps of attacks."""
    name, size, batch = ('tiny_resnet', 16, 4) if tiny else ('resnet50', 224, 64)
    model = models.create(name, num_classes=10)
    images = np.asarray(step_ours.examples(batch, size)['image'], np.float32) / 255
    variables = jax.jit(functools.partial(model.init, train=False))(
        jax.random.key(0), jnp.asarray(images[:1]))

    def apply_fn(variables, images_NHWC):
        return model.apply(variables, images_NHWC, train=False)

    predict = jax.tree_util.Partial(lambda variables, x: apply_fn(variables, x)[0], variables)
    answers = jax.jit(lambda predict, images_NHWC: predict(images_NHWC))
    targets = np.asarray(answers(predict, images)).argmax(1).astype(np.int32)
    given = (apply_fn, variables, images, targets)
    runs = {
        'answers': _timed(answers, predict, images),
        'gradients': _timed(gradient.explain, *given),
        'Grad-CAM': _timed(grad_cam.explain, *given),
        'integrated gradients, 50 steps': _timed(integrated_gradients.explain, *given),
        'PGD, 10 steps': _timed(lambda: pgd.attack(
            predict, images, targets, 4 / 255, steps=10).images_NHWC)}
    found = compared(runs)
    for way, times in found.items():
        yield {'way': way, 'times': times, 'first': found['answers'], 'amount': batch,
               'unit': 'images/s', 'beside': f'{name}, {size} px, batches of {batch}'}


ROWS = {function.__name__: function for function in (
    ceiling, resume_begin, resume_rest, resume_run, attentions, convolutions, dispatches, studies,
    augmentation, corruption, card)}


if __name__ == '__main__':
    turns.answer(start)
