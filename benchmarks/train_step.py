"""One training step beside timm's in torch: time, memory, compiling.

    python -m benchmarks.train_step --peers=torch --peer_python=/venv/with/torch/and/timm/bin/python
    python -m benchmarks.train_step --models=resnet50:224:32,vit_small_patch16_224:224:32

A step is forward, loss, backward, SGD with momentum and, in ours, the look at norms and finiteness
that every run has; the images lie on the device. The ways take turns in processes of their own, so
that a busy machine slows all of them; medians over the rounds, and the ratio of each round. Torch
runs channels_last, eager and compiled; on a GPU in bfloat16 by autocast. MFU is FLOPs of our step
as lowered over what the largest matrix product reaches. Memory is the most that was held: of a
device what its allocator says, on the CPU the process's, compiler and libraries included.
"""

import json
import statistics
import subprocess
import sys

from absl import app, flags

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


class Way:
    """A process that runs training steps when asked to."""

    def __init__(self, *command: str):
        self._process = subprocess.Popen(
            command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.dataset = self._read()
        first = self._ask(1)['seconds']
        self.steps = max(1, round(_SECONDS.value / first))

    def measure(self) -> float:
        """Returns seconds a step."""
        found = self._ask(self.steps)
        self.memory = found['memory']
        return found['seconds'] / self.steps

    def _ask(self, steps: int) -> dict:
        print(steps, file=self._process.stdin, flush=True)
        return self._read()

    def _read(self) -> dict:
        line = self._process.stdout.readline()
        if not line:
            raise app.UsageError(f'{" ".join(self._process.args)}: failed; see its error above')
        return json.loads(line)

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()


def ways(name: str, size: int, batch: int) -> dict[str, Way]:
    """Returns {what it is called: way}, ours first."""
    wanted = {'name': name, 'size': size, 'batch': batch, 'dtype': _DTYPE.value}
    found = {}
    for name, plain in {'ours': False, 'ours, plain': True}.items():
        if not plain or 'plain' in _PEERS.value:
            found[name] = Way(sys.executable, '-m', 'benchmarks.step_ours',
                              json.dumps(wanted | {'plain': plain}))
    if 'torch' in _PEERS.value:
        for mode in ('', *_COMPILE.value):
            found[f'torch compile {mode}' if mode else 'torch eager'] = Way(
                _PEER_PYTHON.value, 'benchmarks/step_torch.py',
                json.dumps(wanted | {'compile': mode}))
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
        times = {way: [] for way in found}
        for _ in range(_ROUNDS.value):
            for way, process in found.items():
                times[way].append(process.measure())
        ours = found['ours'].dataset
        for way, process in found.items():
            step = statistics.median(times[way])
            ratios = [a / b for a, b in zip(times[way], times['ours'], strict=True)]
            used = ours['flops'] / step / ours['ceiling'] if ours['flops'] else float('nan')
            print(f'| {name}, {size} px, {batch} | {way} | {step * 1000:.0f} | {batch / step:.1f} '
                  f'| {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) '
                  f'| {used:.0%} | {process.memory:.0f} | {process.dataset["compile"]:.0f} |',
                  flush=True)
            process.close()
    print(f'\n{ours["device"]}, {_DTYPE.value}, ceiling {ours["ceiling"] / 1e9:.0f} GFLOP/s, '
          f'{_ROUNDS.value} rounds; ratios are medians (lowest to highest)')


if __name__ == '__main__':
    app.run(main)
