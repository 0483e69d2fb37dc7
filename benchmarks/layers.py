"""Every form that a convolution can be run in, by kinds of layers: what forms.py chooses from.

    python -m benchmarks.layers
    python -m benchmarks.layers --rounds=9 --plain

A number is the time in ms of the layer and of both its gradients, in float32, the median over
rounds in which the forms take turns; the one that a model runs is in bold. `--plain` leaves out
what imgjax/process/backend.py says to XLA and the allocator.
"""

import functools
import statistics

import jax
import numpy as np
from absl import app, flags

from benchmarks import turns
from imgjax.models.parts import forms
from imgjax.process import backend

_ROUNDS = flags.DEFINE_integer('rounds', 5, 'How often each form has its turn.')
_PLAIN = flags.DEFINE_bool('plain', False, "Without imgjax/process/backend.py's options.")

# what it is, (N, H, W, C), (h, w, C / groups, F), stride, groups, the forms that can run it
LAYERS = [
    ('ResNet-50, 1x1', (16, 56, 56, 256), (1, 1, 256, 64), 1, 1, ('lax', 'dot', 'taps')),
    ('ResNet-50, 1x1 down', (16, 28, 28, 512), (1, 1, 512, 1024), 2, 1, ('lax', 'dot', 'taps')),
    ('ResNet-50, stem', (16, 224, 224, 3), (7, 7, 3, 64), 2, 1, ('lax', 'taps')),
    ('ResNet-50, 3x3', (16, 56, 56, 64), (3, 3, 64, 64), 1, 1, ('lax', 'taps')),
    ('ResNet-50, 3x3', (16, 14, 14, 256), (3, 3, 256, 256), 1, 1, ('lax', 'taps')),
    ('ResNet-50, 3x3 down', (16, 28, 28, 256), (3, 3, 256, 256), 2, 1, ('lax', 'taps')),
    ('ResNet-18 at 32 px', (128, 4, 4, 128), (3, 3, 128, 128), 1, 1, ('lax', 'taps')),
    ('ResNet-18 at 32 px', (128, 2, 2, 256), (3, 3, 256, 256), 1, 1, ('lax', 'taps')),
    ('ResNet-18 at 32 px', (128, 1, 1, 512), (3, 3, 512, 512), 1, 1, ('lax', 'taps')),
    ('ViT-S, patches', (16, 224, 224, 3), (16, 16, 3, 384), 16, 1, ('lax', 'patches')),
    ('ConvNeXt-T, down', (16, 28, 28, 192), (2, 2, 192, 384), 2, 1, ('lax', 'patches')),
    ('ResNeXt-50, 32 groups', (4, 28, 28, 256), (3, 3, 8, 256), 1, 32, ('lax', 'split')),
    ('RegNetY, 9 groups', (4, 28, 28, 216), (3, 3, 24, 216), 1, 9, ('lax', 'split')),
    ('ConvNeXt-T, depthwise', (4, 14, 14, 384), (7, 7, 1, 384), 1, 384, ('lax', 'shifted')),
    ('MobileNetV2, depthwise', (4, 56, 56, 144), (3, 3, 1, 144), 1, 144, ('lax', 'shifted')),
    ('MobileNetV2, depthwise', (4, 56, 56, 144), (3, 3, 1, 144), 2, 144, ('lax', 'shifted')),
]


def gradient(form: str, strides, padding, groups: int, options: dict):
    """Returns (x, kernel) -> the layer's mean and its gradients, compiled with these options."""
    def loss(x, kernel):
        return forms.FORMS[form](x, kernel, strides, padding, (1, 1), groups).mean()

    return jax.jit(jax.value_and_grad(loss, (0, 1)), compiler_options=options)


def geometry(kernel_shape, stride: int):
    """Returns the strides and the padding of a layer: halves of the kernel, or none of patches."""
    half = kernel_shape[0] // 2
    return (stride, stride), ((0, 0) if stride == kernel_shape[0] else (half, half),) * 2


def main(_) -> None:
    if not _PLAIN.value:
        backend.keep_memory()
    options = {} if _PLAIN.value else backend.compiler_options()
    rng = np.random.default_rng(0)
    print('| layer | x, NHWC | kernel, HWIO | stride | groups | ms |')
    print('|---|---|---|---|---|---|')
    for name, shape, kernel_shape, stride, groups, candidates in LAYERS:
        strides, padding = geometry(kernel_shape, stride)
        chosen, padding = forms.choose(
            shape, kernel_shape, strides, padding, (1, 1), groups)
        x, kernel = (jax.device_put(rng.normal(size=each).astype(np.float32))
                     for each in (shape, kernel_shape))
        runs = {form: gradient(form, strides, padding, groups, options) for form in candidates}
        for run in runs.values():
            jax.block_until_ready(run(x, kernel))
        times = turns.in_turns(
            {form: turns.timed(functools.partial(run, x, kernel), jax.block_until_ready)
             for form, run in runs.items()}, _ROUNDS.value, 0)
        shown = []
        for form in candidates:
            text = f'{form} {statistics.median(times[form]) * 1000:.1f}'
            shown.append(f'**{text}**' if form == chosen else text)
        print(f'| {name} | {"x".join(map(str, shape))} | {"x".join(map(str, kernel_shape))} '
              f'| {stride} | {groups} | {", ".join(shown)} |', flush=True)
    print(f'\n{jax.devices()[0].device_kind}, {_ROUNDS.value} rounds')


if __name__ == '__main__':
    app.run(main)
