"""Nearest neighbours, against sklearn's and against values by hand."""

import json

import numpy as np
import pytest

from imgjax.errors import ConfigError, DataError
from imgjax.evals import neighbors


@pytest.fixture(scope='module')
def clouds():
    """Three noisy classes: base features and labels, query features and labels."""
    rng = np.random.default_rng(0)
    labels_N = rng.integers(3, size=173)
    features_ND = rng.normal(size=(173, 7)) + 1.2 * np.eye(7)[labels_N]
    features_ND = features_ND.astype(np.float32)
    return features_ND[:120], labels_N[:120], features_ND[120:], labels_N[120:]


@pytest.mark.parametrize('blocks', [(512, 8192), (20, 17)])
@pytest.mark.parametrize('count', [1, 11, 120])
def test_the_nearest_are_sorted_by_cosine(clouds, monkeypatch, blocks, count):
    monkeypatch.setattr(neighbors, 'QUERY_ROWS', blocks[0])
    monkeypatch.setattr(neighbors, 'BASE_ROWS', blocks[1])
    base_ND, _, query_ND, _ = clouds
    indices_NC, similarities_NC = neighbors.nearest(query_ND, base_ND, count)
    unit = lambda x: x / np.linalg.norm(x.astype(np.float64), axis=1, keepdims=True)  # noqa: E731
    cosine_NB = unit(query_ND) @ unit(base_ND).T
    np.testing.assert_array_equal(indices_NC, np.argsort(-cosine_NB, axis=1)[:, :count])
    np.testing.assert_allclose(similarities_NC, -np.sort(-cosine_NB, axis=1)[:, :count], atol=1e-6)


@pytest.mark.parametrize('base_rows', [8192, 3])
def test_exact_ties_are_in_the_order_of_the_index(monkeypatch, base_rows):
    monkeypatch.setattr(neighbors, 'BASE_ROWS', base_rows)
    monkeypatch.setattr(neighbors, 'QUERY_ROWS', 2)
    base_ND = np.array([[0, 1], [3, 4], [1, 0], [6, 8], [3, 4], [0, 0], [-3, -4]], np.float32)
    indices_NC, similarities_NC = neighbors.nearest(base_ND[[1, 5]], base_ND, 7)
    assert indices_NC[0].tolist() == [1, 3, 4, 0, 2, 5, 6]
    np.testing.assert_allclose(similarities_NC[0], [1, 1, 1, 0.8, 0.6, 0, -1], atol=1e-6)
    assert indices_NC[1].tolist() == list(range(7)) and not similarities_NC[1].any()
    alone_NC, _ = neighbors.nearest(None, base_ND, 6)
    assert alone_NC[1].tolist() == [3, 4, 0, 2, 5, 6]
    assert not (alone_NC == np.arange(7)[:, None]).any()


@pytest.mark.parametrize('vote', ['weighted', 'unweighted'])
@pytest.mark.parametrize('k', [1, 5, 20, 100])
def test_the_answers_are_those_of_sklearn(clouds, vote, k):
    from sklearn.neighbors import KNeighborsClassifier

    base_ND, base_labels_N, query_ND, query_labels_N = clouds
    weights = {'weighted': lambda distances: np.exp((1 - distances) / 0.07),
               'unweighted': 'uniform'}[vote]
    theirs = KNeighborsClassifier(k, weights=weights, metric='cosine', algorithm='brute').fit(
        base_ND, base_labels_N).predict(query_ND)
    indices_NC, similarities_NC = neighbors.nearest(query_ND, base_ND, k)
    ours = neighbors.answers(base_labels_N[indices_NC], similarities_NC,
                             weighted=vote == 'weighted')
    np.testing.assert_array_equal(ours, theirs)
    result = neighbors.measure(*clouds, counts=[k])
    assert result['rows'][0][vote] == (theirs == query_labels_N).mean()


def test_votes_by_hand():
    labels_NC = np.array([[2, 0, 0], [1, 0, 2]])
    similarities_NC = np.array([[0.9, 0.8, 0.8], [0.5, 0.5, 0.5]], np.float32)
    # exp(0.1 / 0.07) = 4.2 is above two votes; equal votes go to the smaller class.
    assert neighbors.answers(labels_NC, similarities_NC, weighted=True).tolist() == [2, 0]
    assert neighbors.answers(labels_NC, similarities_NC, weighted=False).tolist() == [0, 0]


def test_the_result_says_what_was_left_out(clouds):
    base_ND, base_labels_N, query_ND, query_labels_N = clouds
    noise_ND = np.random.default_rng(1).normal(size=(173, 2))
    result = neighbors.measure(*clouds, baseline_ND=(noise_ND[:120], noise_ND[120:]))
    assert [row['k'] for row in result['rows']] == [1, 5, 10, 20, 50, 100]
    assert result['notes'] == ['k = 200 is left out: there are 120 neighbours.']
    assert result['baseline'][3]['weighted'] < result['rows'][3]['weighted'] - 0.2
    for row in result['rows']:
        assert 0 <= row['weighted_low'] < row['weighted'] < row['weighted_high'] <= 1
    json.dumps(result, allow_nan=False)

    alone = neighbors.measure(base_ND, base_labels_N, counts=[1, 119, 120])
    assert alone['leave_one_out'] and not result['leave_one_out']
    assert [row['k'] for row in alone['rows']] == [1, 119]
    assert alone['rows'][0]['weighted'] < 1  # an image does not vote for itself
    assert neighbors.measure(base_ND, base_labels_N, base_ND, base_labels_N,
                             counts=[1])['rows'][0]['weighted'] == 1


def broken(features_ND):
    features_ND = features_ND.copy()
    features_ND[[2, 5], 0] = np.nan
    return features_ND


@pytest.mark.parametrize(('change', 'error', 'line'), [
    (lambda b, y, q, m: (broken(b), y, q, m), DataError,
     r'features: not finite for 2 of 120 images \(image 2, 5\)'),
    (lambda b, y, q, m: (b, y, q[:, :0], m), DataError,
     r'features of the query: shape \(53, 0\); give'),
    (lambda b, y, q, m: (b, y[1:], q, m), DataError,
     r'features, labels: shape \(119,\) for 120 images; give one class per image'),
    (lambda b, y, q, m: (b, y - 1, q, m), DataError,
     'features, labels: -1 of image .* is no class; give integers from 0'),
    (lambda b, y, q, m: (b, y, q[:, 1:], m), DataError, 'query_ND has 6 features, base_ND 7'),
    (lambda b, y, q, m: (b, 0 * y, q, m), DataError, 'have one class only; give two or more'),
    (lambda b, y, q, m: (b, y, q, None), ConfigError, 'query_ND and query_labels_N: give both'),
])
def test_bad_arrays(clouds, change, error, line):
    with pytest.raises(error, match=line) as raised:
        neighbors.measure(*change(*clouds))
    assert '\n' not in str(raised.value)


@pytest.mark.parametrize(('counts', 'error', 'line'), [
    ([], ConfigError, r'counts: \[\]; give'),
    ([0, 1], ConfigError, r'counts: \[0, 1\]; give'),
    ([121, 500], DataError, 'there are 120 neighbours, fewer than k = 121; give more images'),
])
def test_bad_counts(clouds, counts, error, line):
    with pytest.raises(error, match=line):
        neighbors.measure(*clouds, counts=counts)


def test_more_neighbours_than_there_are(clouds):
    with pytest.raises(ConfigError, match='count: 120; there are 119 neighbours'):
        neighbors.nearest(None, clouds[0], 120)
