"""Wall time from command to first step, and steps/s: streamed against device-resident.

    python -m benchmarks.feed                    # digits, mlp and cnn

The two ways alternate, so that a busy machine slows both; medians, and the ratio of each pair.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

from absl import app, flags

_FAMILIES = flags.DEFINE_list('families', ['mlp', 'cnn'], 'Which families of configs/digits.py.')
_REPEATS = flags.DEFINE_integer('repeats', 5, 'How often each way runs.')
_STEPS = flags.DEFINE_integer('steps', 600, 'Steps of a run.')
_WAYS = {'streamed': 'no', 'resident': 'yes'}


def measure(family: str, resident: str) -> tuple[float, float]:
    """Returns (seconds from command to first step, steps/s as the median over log rows)."""
    with tempfile.TemporaryDirectory() as workdir:
        began = time.time()
        subprocess.run(
            [sys.executable, '-m', 'launch.train', f'--config=configs/digits.py:{family}',
             f'--config.data.resident={resident}', f'--config.steps={_STEPS.value}',
             '--config.eval_every=0', '--config.checkpoint.every=0', f'--workdir={workdir}'],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True,
            env=os.environ | {'JAX_ENABLE_COMPILATION_CACHE': 'false'})  # else the first is slower
        with open(os.path.join(workdir, 'metrics.jsonl'), encoding='utf-8') as file:
            rows = [row for row in map(json.loads, file) if row['split'] == 'train']
    step_times = [row['perf']['step_time'] for row in rows]
    # The first row's stretch begins with the first dispatch.
    first_step = rows[0]['perf']['time'] - rows[0]['step'] * step_times[0] - began
    return first_step, 1 / statistics.median(step_times[1:])


def main(_) -> None:
    print('| family | feed | to first step, s | steps/s | resident / streamed |')
    print('|---|---|---|---|---|')
    for family in _FAMILIES.value:
        found = {way: [] for way in _WAYS}
        for _ in range(_REPEATS.value):
            for way, resident in _WAYS.items():
                found[way].append(measure(family, resident))
        ratios = [r[1] / s[1] for s, r in zip(found['streamed'], found['resident'], strict=True)]
        for way, runs in found.items():
            first, speed = (statistics.median(column) for column in zip(*runs, strict=True))
            ratio = f'{statistics.median(ratios):.2f}' if way == 'resident' else ''
            print(f'| {family} | {way} | {first:.1f} | {speed:.0f} | {ratio} |', flush=True)


if __name__ == '__main__':
    app.run(main)
