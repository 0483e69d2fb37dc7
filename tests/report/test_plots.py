import numpy as np

from imgjax.report import plots


def test_thinned_curves_keep_their_spikes():
    values = np.zeros(100_000)
    values[54_321] = 9.0
    steps, thin = plots._thin(np.arange(100_000), values)
    assert len(thin) < 2000 and steps[thin.argmax()] == 54_321


def test_later_rows_of_a_step_count():
    rows = [{'step': 2, 'split': 'test', 'loss': 1.0}, {'step': 1, 'split': 'train', 'loss': 5.0},
            {'step': 2, 'split': 'test', 'loss': 3.0}, {'step': 3, 'split': 'test', 'loss': None},
            {'step': 4, 'split': 'test'}]
    series, missing = plots._series(rows, 'loss')
    assert {name: (list(s), list(v)) for name, (s, v) in series.items()} == {
        'train': ([1.0], [5.0]), 'test': ([2.0], [3.0])}
    assert list(series) == ['train', 'test'] and missing == 1
