"""Few-shot ridge regression, against its closed form."""

import json

import numpy as np
import pytest

from imgjax.errors import ConfigError, DataError
from imgjax.evals import few_shot
from tests.evals.test_probes import several, standardised


def test_few_shots_are_ridge_regression(digits):
    train_ND, labels_N, eval_ND, eval_labels_N = digits
    result = few_shot.measure(*digits, shots=[5], seeds=1, l2=0.5)
    rng = np.random.default_rng(0)
    drawn = np.concatenate([rng.permutation(np.flatnonzero(labels_N == one))[:5]
                            for one in range(10)])
    x_ND, queries_ND = standardised(train_ND[drawn], eval_ND)
    queries_ND[:, train_ND[drawn].std(axis=0) == 0] = 0
    weights_DK = np.linalg.solve(x_ND.T @ x_ND + 0.5 * 64 * np.eye(64),
                                 x_ND.T @ (np.eye(10)[labels_N[drawn]] - 0.1))
    answers_N = (queries_ND @ weights_DK).argmax(axis=1)
    assert result['rows'] == [{'shots': 5, 'mean': (answers_N == eval_labels_N).mean(), 'low': None,
                               'high': None, 'accuracies': [(answers_N == eval_labels_N).mean()]}]


def test_more_shots_are_better_and_impossible_ones_left_out(digits):
    train_ND, labels_N, eval_ND, eval_labels_N = digits
    kept_N = (labels_N != 4) | (np.cumsum(labels_N == 4) <= 12)
    result = few_shot.measure(train_ND[kept_N], labels_N[kept_N], eval_ND, eval_labels_N)
    assert [row['shots'] for row in result['rows']] == [1, 5, 10]
    assert result['notes'] == ['25 shots are left out: class 4 has 12 training images.']
    one, _, ten = result['rows']
    assert one['high'] < ten['low']
    for row in result['rows']:
        assert len(set(row['accuracies'])) > 1 and len(row['accuracies']) == 10
        assert row['mean'] == pytest.approx(np.mean(row['accuracies']))
        half = 2.262157 * np.std(row['accuracies'], ddof=1) / np.sqrt(10)  # t of 9 degrees
        assert row['high'] - row['mean'] == pytest.approx(half, rel=1e-5)
    json.dumps(result, allow_nan=False)


@pytest.mark.parametrize(('call', 'error', 'line'), [
    (lambda d: few_shot.measure(*d, shots=[500]), DataError,
     'training images, fewer than 500 shots; give more images or fewer shots'),
    (lambda d: few_shot.measure(*d, shots=[0, 1]), ConfigError, r'shots: \[0, 1\], seeds: 10'),
    (lambda d: few_shot.measure(*d, l2=0), ConfigError, 'l2: 0; give shots and seeds from 1'),
    (lambda d: few_shot.measure(d[0], several(d[1]), d[2], several(d[3])), ConfigError,
     'few-shot least squares takes one class per image'),
])
def test_bad_arguments(digits, call, error, line):
    with pytest.raises(error, match=line) as raised:
        call(digits)
    assert '\n' not in str(raised.value)
