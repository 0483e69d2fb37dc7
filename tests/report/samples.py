"""Answers, rows and whole runs that the tests of the pages draw."""

import io
import math

import numpy as np
import PIL.Image
import sklearn.datasets

from imgjax.report.answers import Evaluation


def png(pixels):
    out = io.BytesIO()
    PIL.Image.fromarray(pixels).save(out, 'PNG')
    return out.getvalue()


def metrics(steps=2000, seed=0):
    """Rows as a run logs them: train every ten steps, test every two hundred."""
    rng, rows = np.random.default_rng(seed), []
    for step in range(10, steps + 1, 10):
        loss = 0.04 + 2.3 * math.exp(-step / 180) * rng.uniform(0.8, 1.25) + rng.exponential(0.02)
        rows.append({
            'step': step, 'split': 'train', 'loss': loss, 'accuracy': 1 - min(0.9, loss / 2.6),
            'learning_rate': 0.0015 * min(step / 200, 1 + math.cos(math.pi * step / steps)),
            'grad_norm': 1.2, 'skipped_updates': 0,
            'perf': {'images_per_second': 21000.0 * rng.uniform(0.9, 1.05), 'step_time': 0.0061,
                     'infeed_stall': 0.01, 'mfu': None, 'flops_per_second': 1.2e9}})
        if step % 200 == 0:
            rows.append({'step': step, 'split': 'test', 'loss': loss * 1.2 + 0.06,
                         'accuracy': 0.98 - min(0.9, loss / 2.3)})
    return rows


def evaluation(classes=10, examples=360, error=0.05, class_names=None, size=None, seed=0):
    """Random answers; pictures are the digits of scikit-learn, or noise of `size` pixels."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, examples)
    slips = (labels + rng.choice([1, 3, 5], examples, p=[0.2, 0.2, 0.6])) % classes
    confidences = 1 - rng.beta(1.0, 12.0, examples)
    wrong = rng.random(examples) < error
    confidences[wrong] = rng.uniform(0.3, 0.99, wrong.sum())
    predictions = np.where(wrong, slips, labels)
    names = [f'test/{i:05d}.png' for i in range(examples)]
    digits = sklearn.datasets.load_digits()
    worst = []
    for i in sorted(np.flatnonzero(wrong), key=lambda i: -confidences[i])[:24]:
        if size:
            pixels = rng.integers(0, 255, (size, size, 3), dtype=np.uint8)
        else:
            mine = np.flatnonzero(digits.target == labels[i] % 10)
            pixels = (digits.images[mine[i % len(mine)]] * 255 / 16).astype(np.uint8)
        worst.append({'image': png(pixels), 'label': int(labels[i]), 'name': names[i],
                      'prediction': int(predictions[i]), 'confidence': float(confidences[i])})
    return Evaluation(
        split='test', class_names=class_names or [str(i) for i in range(classes)], labels=labels,
        predictions=predictions, confidences=confidences, worst=worst, loss=0.1173)


def run(answers=None, **changes):
    answers = answers or evaluation()
    accuracy = float(np.mean(answers.labels == answers.predictions))
    return {
        'config': {
            'name': 'digits_cnn',
            'model': {'name': 'cnn', 'width': 32, 'depth': 3}, 'batch_size': 128, 'steps': 2000,
            'data': {'name': 'digits', 'augment': ['shift', 'cutout']},
            'hparams': {'learning_rate': 0.001, 'weight_decay': 1e-4, 'seed': 0}},
        'config_hash': 'a41c09be77d2',
        'rows': metrics(),
        'evaluation': answers,
        'environment': {'python': '3.11.15', 'jax': '0.10.2', 'devices': '1 x cpu', 'host': 'lab-7',
                        'command': 'python -m launch.train --config=configs/digits.py'},
        'result': {'split': 'test', 'accuracy': accuracy, 'loss': 0.1173, 'step': 2000,
                   'examples': len(answers.labels), 'workdir': '/runs/digits/cnn-0',
                   'state_digest': '9f1e4c7a0b53d218', 'parameters': 93322, 'train_seconds': 42.7},
        **changes}


def thousand():
    rng = np.random.default_rng(1)
    names = [f'{rng.choice(["grey", "red", "great"])} {rng.choice(["fox", "heron"])} {i}'
             for i in range(1000)]
    return evaluation(1000, 50_000, error=0.24, class_names=names, size=224)
