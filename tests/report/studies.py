"""Findings for the tests of what a study writes: as full, as large or as broken as they ask for."""

import itertools
import json
from unittest import mock

import numpy as np

from imgjax.report import statistics
from imgjax.report.findings import STATES, Arm, Axis, Cell, Curve, Findings, Picture
from tests.report.samples import png

CLASSES, IMAGES = 10, 355
HOSTILE = ('<script>alert(1)</script>', '=1+1', 'a|b & 100% of $x_1$ #{~^\\}', '"quoted", `ticks`')


def sample(arms: int = 4, seeds: int = 8, *, metric: str = 'accuracy', grid=(), names=None,
           states=None, comparisons=None) -> Findings:
    """Returns findings of random answers; arm k is right a little oftener than arm k - 1.

    Args:
      arms: how many; of a grid, the product of its sides.
      seeds: of each.
      metric: accuracy or loss.
      grid: values of each of its axes.
      names: of the arms.
      states: {(arm, seed): a state of STATES}, done if left out.
      comparisons: pairs of the places of arms; each against the first if left out.
    """
    rng = np.random.default_rng(0)
    axes = [Axis(f'hparams.axis_{i}', list(values)) for i, values in enumerate(grid)]
    arms = int(np.prod([len(axis.values) for axis in axes])) if axes else arms
    names = names or [f'arm {i}' for i in range(arms)]
    labels = rng.integers(0, CLASSES, IMAGES)
    hard_N = rng.uniform(0, 0.25, IMAGES)
    made, samples = [], []
    points = list(itertools.product(*(axis.values for axis in axes))) if axes else []
    for place, name in enumerate(names):
        state = [(states or {}).get((place, seed), 'done') for seed in range(seeds)]
        hits_SN = rng.uniform(size=(seeds, IMAGES)) > hard_N * (1 - 0.12 * min(place, 5))
        values_SN = hits_SN if metric == 'accuracy' else np.where(hits_SN, 0.1, 2.0)
        scores_S = np.where([one == 'done' for one in state], values_SN.mean(axis=1), np.nan)
        cells = [Cell(name, seed, one, f'/runs/cells/{place}-{seed}' if one == 'done' else '',
                      float(scores_S[seed]), 3.25 if one == 'done' else float('nan'),
                      '' if one == 'done' else 'a remark') for seed, one in enumerate(state)]
        done = scores_S[np.isfinite(scores_S)]
        steps = np.arange(100, 1001, 100)
        curve = Curve(steps, np.exp(-steps[:, None] / 300) + rng.uniform(0, 0.1, (10, len(done))))
        fields = dict(zip([axis.field for axis in axes], points[place], strict=True)) if axes else {
            'hparams.weight_decay': 0.1 * place}
        made.append(Arm(
            name, fields, cells, statistics.interval(done) if len(done) else None,
            {('train', 'loss'): curve, ('test', metric): curve} if len(done) else {},
            np.bincount(labels[hits_SN[0]], minlength=CLASSES) / np.bincount(labels), 26.0))
        missing = [f'{name}: seed {seed} {STATES[one]}' for seed, one in enumerate(state)
                   if one != 'done']
        samples.append(statistics.Sample(name, missing, scores_S, values_SN.astype(np.float64)))
    pairs = [(0, i) for i in range(1, len(names))] if comparisons is None else comparisons
    missing = [line for one in samples for line in one.missing
               if not line.endswith(STATES['stopped'])]
    # An interval of few resamples is as good as any here, and each collection takes 0.1 s.
    with mock.patch.object(statistics, 'RESAMPLES', 99), mock.patch('gc.collect'):
        comparisons = statistics.compare(
            [(samples[a], samples[b]) for a, b in pairs],
            higher_is_better=metric != 'loss', complete=not missing)
    return Findings(
        name='a_question', question='Does it matter?', text='It may.', metric=metric, split='test',
        percent=metric != 'loss',
        higher_is_better=metric != 'loss', examples=IMAGES, seeds=seeds, arms=made,
        comparisons=comparisons,
        missing=missing, grid=axes, class_names=[f'class {i}' for i in range(CLASSES)],
        pictures={(names[a], names[b]): [
            Picture(png(rng.integers(0, 255, (8, 8), np.uint8)), f'{i}.png', 'class 1', seeds, 0,
                    'class 1', 'class 7') for i in range(3)] for a, b in pairs[:2]},
        cost={'device_seconds': 104.0, 'compile_seconds': 12.0, 'wall_seconds': 130.0,
              'solo_seconds': 600.0, 'cells_run': len(names) * seeds},
        strategies=['32 cells like arm 0: vmap, as it is faster'],
        environment=json.loads('{"python": "3.11", "devices": "1 x cpu"}'), code='01234567',
        notes=['A note.'])
