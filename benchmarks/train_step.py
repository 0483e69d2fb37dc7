"""One training step beside timm's in torch: time, memory, compiling.

    python -m benchmarks.train_step --peers=torch --peer_python=/venv/with/torch/and/timm/bin/python
    python -m benchmarks.train_step --models=resnet50:224:32,vit_small_patch16_224:224:32

A step is forward, loss, backward, SGD with momentum and, in ours, the look at norms and finiteness
that every run has; the images lie on the device. The ways take turns in processes of their own, so
that a busy machine slows all of them; medians over the rounds, and the ratio of each round. Torch
runs channels_last, eager and compiled; on a GPU in bfloat16 by autocast. MFU is FLOPs of our step's
matrix products and convolutions over what a large matrix product reaches. Memory is the most that
was held: of a device what its allocator says, on the CPU the process's, compiler and libraries
included.
"""

import statistics
import sys

from absl import app, flags

from benchmarks import turns

_MODELS = flags.DEFINE_list(
    'models', ['resnet50:224:16', 'vit_small_patch16_224:224:16', 'convnext_tiny:224:16',
               'mobilenetv2_100:224:32', 'resnet18:32:128'], 'variant:size:batch, each.')
_PEERS = flags.DEFINE_multi_enum(
    'peers', [], ['torch', 'plain'], 'Whom to compare with: plain is ours without what '
    'imgjax/process/backend.py says to XLA and the allocator.')
_PEER_PYTHON = flags.DEFINE_string(
    'peer_python', sys.executable, 'Interpreter that has torch and timm.')
_COMPILE = flags.DEFINE_list(
    'compile', ['default'], 'Modes of torch.compile beside eager; max-autotune takes minutes.')
_DTYPE = flags.DEFINE_enum('dtype', 'float32', ['float32', 'bfloat16'], 'Compute dtype.')
_ROUNDS = flags.DEFINE_integer('rounds', 5, 'How often each way has its turn.')
_SECONDS = flags.DEFINE_float('seconds', 5.0, 'About how long a turn lasts; at least a step.')


def ways(name: str, size: int, batch: int) -> dict[str, turns.Way]:
    """Returns {what it is called: way}, ours first."""
    wanted = {'name': name, 'size': size, 'batch': batch, 'dtype': _DTYPE.value}
    found = {}
    for title, plain in {'ours': False, 'ours, plain': True}.items():
        if not plain or 'plain' in _PEERS.value:
            found[title] = turns.Way('step_ours', wanted | {'plain': plain})
            found[title].begin()
    if 'torch' in _PEERS.value:
        for mode in ('', *_COMPILE.value):
            title = f'torch compile {mode}' if mode else 'torch eager'
            found[title] = turns.Way(
                'step_torch', wanted | {'compile': mode}, python=_PEER_PYTHON.value)
            found[title].begin()
    return found


def main(_) -> None:
    print('| model | way | step, ms | images/s | its time / ours | MFU | memory, MB | compile, s |')
    print('|---|---|---|---|---|---|---|---|', flush=True)
    for wanted in _MODELS.value:
        try:
            name, size, batch = wanted.split(':')
            size, batch = int(size), int(batch)
        except ValueError:
            raise app.UsageError(f'--models: takes variant:size:batch, got {wanted!r}') from None
        found = ways(name, size, batch)
        times = turns.in_turns({title: way.run for title, way in found.items()},
                               _ROUNDS.value, _SECONDS.value)
        ours = found['ours'].ready
        for title, way in found.items():
            step = statistics.median(times[title])
            print(f'| {name}, {size} px, {batch} | {title} | {step * 1000:.0f} | {batch / step:.1f}'
                  f' | {turns.ratio(times[title], times["ours"])} '
                  f'| {ours["flops"] / step / ours["ceiling"]:.0%} | {way.memory["peak"]:.0f} '
                  f'| {way.ready["compile"]:.0f} |', flush=True)
            way.close()
    print(f'\n{ours["device"]}, {_DTYPE.value}, ceiling {ours["ceiling"] / 1e9:.0f} GFLOP/s, '
          f'{_ROUNDS.value} rounds; ratios are medians (lowest to highest)')


if __name__ == '__main__':
    app.run(main)
