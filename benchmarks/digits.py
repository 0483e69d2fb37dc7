"""Accuracy of each family on the digits: mean and spread over seeds.

    python -m benchmarks.digits                  # all families, seeds 0, 1, 2
    python -m benchmarks.digits --families=cnn

Each run is a process of its own, as a user starts it.
"""

import json
import statistics
import subprocess
import sys
import tempfile

from absl import app, flags

from configs import digits

_FAMILIES = flags.DEFINE_list('families', list(digits.FAMILIES), 'Which families.')
_SEEDS = flags.DEFINE_list('seeds', ['0', '1', '2'], 'Which seeds.')


def train(family: str, seed: str) -> dict:
    """Returns the result of one run."""
    with tempfile.TemporaryDirectory() as workdir:
        done = subprocess.run(
            [sys.executable, '-m', 'launch.train', f'--config=configs/digits.py:{family}',
             f'--config.hparams.seed={seed}', f'--workdir={workdir}'],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True, text=True)
        return json.loads(done.stdout.splitlines()[-1])


def main(_) -> None:
    print('| family | parameters | steps | accuracy, mean (lowest to highest) |')
    print('|---|---|---|---|')
    for family in _FAMILIES.value:
        runs = [train(family, seed) for seed in _SEEDS.value]
        accuracy = [100 * result['accuracy'] for result in runs]
        print(f'| {family} | {runs[0]["parameters"]:,} | {runs[0]["step"]:,} | '
              f'{statistics.mean(accuracy):.2f} % ({min(accuracy):.2f} to {max(accuracy):.2f}) |',
              flush=True)


if __name__ == '__main__':
    app.run(main)
