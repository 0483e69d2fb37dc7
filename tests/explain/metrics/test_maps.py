"""Tests of maps alone: agreement, the pointing game, the two baselines, and means over images."""

import json
import pathlib
import re

import numpy as np
import pytest
from scipy import stats

from imgjax.errors import ConfigError, DataError
from imgjax.explain import metrics
from imgjax.explain.metrics import agreement, baselines, means, pointing_game


@pytest.fixture(scope='module')
def maps():
    rng = np.random.default_rng(0)
    maps_NHW = rng.normal(size=(5, 6, 7)).astype(np.float32)
    return {'a': maps_NHW, 'cubed': maps_NHW ** 3, 'opposite': -maps_NHW,
            'rounded': maps_NHW.round(), 'other': rng.normal(size=(5, 6, 7)).astype(np.float32)}


def test_agreement(maps):
    found = agreement.measure(maps, top=0.25)
    pairs = {(pair['a'], pair['b']): pair for pair in found['pairs']}
    assert len(pairs) == 10 and found['methods'] == list(maps)
    assert found['overlap_by_chance'] == 10 / 42
    assert pairs['a', 'cubed']['correlation']['mean'] == pytest.approx(1)
    assert pairs['a', 'cubed']['overlap']['per_image'] == [1] * 5
    assert pairs['a', 'opposite']['correlation']['mean'] == pytest.approx(-1)
    assert pairs['a', 'opposite']['overlap']['mean'] == 0
    for (a, b), pair in pairs.items():
        expected = [stats.spearmanr(one.ravel(), two.ravel()).statistic
                    for one, two in zip(maps[a], maps[b], strict=True)]
        assert pair['correlation']['per_image'] == pytest.approx(expected)
    best = [{*np.argsort(-maps[name][0].ravel())[:10]} for name in ('a', 'other')]
    assert pairs['a', 'other']['overlap']['per_image'][0] == len(best[0] & best[1]) / 10
    json.dumps(found, allow_nan=False)


def test_maps_with_one_value_everywhere():
    flat_NHW, map_NHW = np.ones((1, 4, 4)), np.arange(16.0).reshape(1, 4, 4)
    assert agreement.rank_correlation(flat_NHW, 0 * flat_NHW) == [1]
    assert agreement.rank_correlation(flat_NHW, map_NHW) == [0]
    many = np.zeros((500, 10, 10))
    pair = agreement.measure({'a': many, 'b': many})['pairs'][0]
    # The most important pixels of two maps of zeros are drawn, and agree by chance.
    assert pair['overlap']['low'] < 0.1 < pair['overlap']['high'] < 0.12


@pytest.mark.parametrize(('names', 'top', 'error', 'line'), [
    (['a'], 0.1, ConfigError, 'maps: 1 methods'), (['a', 'other'], 0, ConfigError, 'top: 0'),
    (['a', 'cut'], 0.1, DataError, r'maps_NHW: shape \(4, 6, 7\)'),
])
def test_bad_agreement(maps, names, top, error, line):
    more = maps | {'cut': maps['a'][:4]}
    with pytest.raises(error, match=line):
        agreement.measure({name: more[name] for name in names}, top=top)


def test_the_pointing_game_by_hand():
    maps_NHW = np.zeros((5, 4, 6))
    maps_NHW[0, 1, 2], maps_NHW[0, 3, 5], maps_NHW[0, 0, 0] = 3, 1, -5
    maps_NHW[1, 3, 5] = 2
    maps_NHW[2, 0, 0] = 1
    boxes_N = [[(0, 2, 2, 4)], [(0, 0, 1, 1), (3, 3, 4, 5)], [], [(0, 0, 4, 3)], [(0, 0, 4, 6)]]
    found = pointing_game.measure(maps_NHW, boxes_N)
    assert found['hits']['per_image'] == [True, False, None, False, True]
    assert found['hits']['share'] == 0.5 and 0 < found['hits']['low'] < 0.5
    assert found['energy']['per_image'] == [0.75, 0, None, None, None]
    assert found['area'] == pytest.approx(np.mean([4, 3, 12, 24]) / 24)
    assert found['images'] == 4 and found['notes'] == [
        '1 of 5 images are left out, without a box.',
        '2 of 5 images have no energy, as their maps have no positive values.']
    near = pointing_game.measure(maps_NHW, boxes_N, tolerance=1)
    assert near['hits']['per_image'] == [True, True, None, False, True]
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize(('boxes_N', 'line'), [
    ([[(0, 0, 1, 1)]], r'maps_NHW: shape \(2, 4, 4\) for the boxes of 1 images'),
    ([[], []], 'no image has a box'),
    ([[(0, 0, 1, 1)], [(4, 0, 9, 1)]], 'image 1 has no pixel in its boxes'),
])
def test_bad_boxes(boxes_N, line):
    with pytest.raises(DataError, match=line):
        pointing_game.measure(np.zeros((2, 4, 4)), boxes_N)


def test_a_random_map_depends_on_the_index_of_its_image():
    images_NHWC = np.zeros((3, 8, 9, 3), np.float32)
    maps_NHW = baselines.random_map(None, None, images_NHWC, None, seed=1)
    assert maps_NHW.shape == (3, 8, 9) and maps_NHW.dtype == np.float32
    again_NHW = baselines.random_map(None, None, images_NHWC[:2], None, seed=1,
                                     indices_N=np.array([2, 0]))
    np.testing.assert_array_equal(again_NHW, maps_NHW[[2, 0]])
    assert (baselines.random_map(None, None, images_NHWC, None) != maps_NHW).any()


def test_edges_lie_where_the_image_changes():
    images_NHWC = np.zeros((2, 8, 8, 3), np.float32)
    images_NHWC[0, :, 4:] = 1
    images_NHWC[1] = np.arange(8, dtype=np.float32)[:, None, None]
    maps_NHW = baselines.edges(None, None, images_NHWC, None)
    assert maps_NHW.dtype == np.float32
    assert maps_NHW[0, 0].tolist() == [0, 0, 0, 4, 4, 0, 0, 0]
    np.testing.assert_allclose(maps_NHW[1, 1:-1], 8)


def test_the_docstring_lists_every_file():
    listed = re.findall(r'^  (\w+)  +\w', metrics.__doc__, re.MULTILINE)
    files = [path.stem for path in pathlib.Path(metrics.__file__).parent.glob('*.py')]
    assert sorted([*listed, '__init__']) == sorted(files)


def test_the_mean_leaves_out_what_has_no_number():
    values_N = np.random.default_rng(0).normal(size=200)
    found = means.mean_of(np.append(values_N, np.nan))
    assert found['mean'] == pytest.approx(values_N.mean()) and found['left_out'] == 1
    error = values_N.std() / np.sqrt(200)
    assert found['low'] == pytest.approx(values_N.mean() - 1.96 * error, abs=0.2 * error)
    assert found['high'] == pytest.approx(values_N.mean() + 1.96 * error, abs=0.2 * error)
    assert found['per_image'][-1] is None
    nothing = means.mean_of(np.array([np.nan]))
    assert [nothing[key] for key in ('mean', 'low', 'high', 'left_out')] == [None] * 3 + [1]
    assert means.mean_of(np.array([2.0]))['low'] is None
