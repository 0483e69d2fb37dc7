import re

import numpy as np

from imgjax.report import plots


def test_thinned_curves_keep_their_spikes():
    values = np.zeros(100_000)
    values[54_321] = 9.0
    steps, thin = plots._thin(np.arange(100_000), values)
    assert len(thin) < 2000 and steps[thin.argmax()] == 54_321


def test_one_step_is_a_whole_number_and_slow_steps_are_no_thousandths():
    rows = [{'step': 1, 'split': 'train', 'loss': 2.4, 'perf': {'images_per_second': 0.96}},
            {'step': 1, 'split': 'test', 'loss': 2.3}]
    curves, _ = plots.curves(rows)
    for curve in curves:
        ticks = re.findall(r'<text[^>]*>([^<]*)</text>', curve['svg'])
        assert '1' in ticks and not [tick for tick in ticks if tick.endswith(('m', 'µ'))], ticks
    assert '0.8' in ticks  # images a second
    many, _ = plots.curves([{'step': step, 'loss': 1.0} for step in range(0, 3001, 100)])
    assert '>2k</text>' in many[0]['svg']


def test_later_rows_of_a_step_count():
    rows = [{'step': 2, 'split': 'test', 'loss': 1.0}, {'step': 1, 'split': 'train', 'loss': 5.0},
            {'step': 2, 'split': 'test', 'loss': 3.0}, {'step': 3, 'split': 'test', 'loss': None},
            {'step': 4, 'split': 'test'}]
    series, missing = plots._series(rows, 'loss')
    assert {name: (list(s), list(v)) for name, (s, v) in series.items()} == {
        'train': ([1.0], [5.0]), 'test': ([2.0], [3.0])}
    assert list(series) == ['train', 'test'] and missing == 1
