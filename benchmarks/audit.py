"""How many planted wrong labels launch.audit finds in scikit-learn's digits, and how long it takes.

    python -m benchmarks.audit --seeds=0,1,2

For each seed 5 % of the 1,442 training labels are replaced by another class, drawn at random; the
audit trains configs/digits.py:cnn on five folds. It prints a row per seed of a Markdown table.
"""

import csv
import json
import os
import subprocess
import sys
import tempfile
import time

import numpy as np
from absl import app, flags

_SEEDS = flags.DEFINE_list('seeds', ['0', '1', '2'], 'The seeds of the planted labels.')
_SHARE = flags.DEFINE_float('share', 0.05, 'The share of the training labels that are wrong.')


def plant(path: str, seed: int, share: float) -> set[int]:
    """Writes the digits with wrong training labels as .npz; returns the images that have them."""
    from sklearn.datasets import load_digits

    found, rng = load_digits(), np.random.default_rng(seed)
    images_NHWC = np.rint(found.images * (255 / 16)).astype(np.uint8)[..., None]
    order = np.random.default_rng(0).permutation(len(images_NHWC))
    images_NHWC, labels_N = images_NHWC[order], found.target[order]
    train = labels_N[:1442].copy()
    wrong = rng.choice(len(train), round(share * len(train)), replace=False)
    train[wrong] = (train[wrong] + rng.integers(1, 10, len(wrong))) % 10
    np.savez(path, train_images=images_NHWC[:1442], train_labels=train,
             test_images=images_NHWC[1442:], test_labels=labels_N[1442:])
    return set(wrong.tolist())


def audit(seed: int, share: float) -> str:
    """Audits the digits with planted wrong labels; returns a row of the table."""
    with tempfile.TemporaryDirectory() as folder:
        path, workdir = os.path.join(folder, 'digits.npz'), os.path.join(folder, 'audit')
        wrong, began = plant(path, seed, share), time.monotonic()
        subprocess.run(
            [sys.executable, '-m', 'launch.audit', '--config=configs/digits.py:cnn',
             '--config.data.name=arrays', f'--config.data.path={path}', f'--workdir={workdir}'],
            check=True, capture_output=True)
        seconds = time.monotonic() - began
        with open(os.path.join(workdir, 'relabel.csv'), newline='') as file:
            rows = [row for row in csv.DictReader(file)
                    if row['split'] == 'train' and row['reason'] == 'label']
        with open(os.path.join(workdir, 'audit.json')) as file:
            found = json.load(file)['parts']['label_errors']['splits']['train']
    suspects = [int(row['index']) for row in sorted(rows, key=lambda row: float(row['margin']))]
    right = len(set(suspects) & wrong)
    low, high = found['estimated_interval']
    return (f'| {seed} | {len(wrong)} | {found["estimated"]} ({low:.0f} to {high:.0f}) | '
            f'{len(suspects)} | {right} | {100 * right / len(wrong):.0f} % | {seconds:.0f} s |')


def main(_) -> None:
    print('| seed | wrong labels | estimated | suspected | of them wrong | found | time |')
    print('|---|---|---|---|---|---|---|')
    for seed in _SEEDS.value:
        print(audit(int(seed), _SHARE.value), flush=True)


if __name__ == '__main__':
    app.run(main)
