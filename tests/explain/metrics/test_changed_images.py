"""Deletion, ROAD, sensitivity-n and infidelity, on models whose contributions are known."""

import json

import numpy as np
import pytest
from scipy import ndimage

from imgjax.errors import ConfigError, DataError
from imgjax.evals import chunks
from imgjax.explain.metrics import (
    baselines,
    deletion,
    infidelity,
    order,
    outputs,
    road,
    sensitivity_n,
)


def probabilities(example, images_NHWC):
    logits_NK = np.asarray(example.apply_fn(example.variables, images_NHWC)[0], np.float64)
    logits_NK = np.exp(logits_NK - logits_NK.max(axis=1, keepdims=True))
    return logits_NK / logits_NK.sum(axis=1, keepdims=True)


def test_the_curves_are_the_probabilities_of_the_changed_images(exact, exact_maps):
    maps_NHW = exact_maps.sum(axis=3)
    found = deletion.measure(*exact, maps_NHW, steps=16)
    deleted_NHWC = exact.images_NHWC.copy()
    for image_HWC, map_HW in zip(deleted_NHWC, maps_NHW, strict=True):
        best_4 = np.argsort(-map_HW.ravel())[:4]
        image_HWC[best_4 // 8, best_4 % 8] = 0
    rows = np.arange(6), exact.targets_N
    begin, second, end = (probabilities(exact, images_NHWC)[rows].mean() for images_NHWC in (
        exact.images_NHWC, deleted_NHWC, 0 * exact.images_NHWC))
    curve_T = found['deletion_curve']
    assert found['shares'] == pytest.approx(np.arange(17) / 16)
    assert [curve_T[0], curve_T[1], curve_T[-1]] == pytest.approx([begin, second, end], abs=1e-6)
    assert end == pytest.approx(1 / 5)
    assert found['insertion_curve'][-1] == pytest.approx(begin, abs=1e-6)
    blurred_NHWC = ndimage.gaussian_filter(exact.images_NHWC, (0, 5, 5, 0), mode='nearest')
    assert found['insertion_curve'][0] == pytest.approx(
        probabilities(exact, blurred_NHWC)[rows].mean(), abs=1e-6)
    area = (sum(curve_T) - (curve_T[0] + curve_T[-1]) / 2) / 16
    assert found['deletion']['mean'] == pytest.approx(area)
    assert found['deletion']['mean'] == pytest.approx(np.mean(found['deletion']['per_image']))
    json.dumps(found, allow_nan=False)


def test_right_maps_are_better_than_their_opposite(exact, exact_maps):
    maps_NHW = exact_maps.sum(axis=3)
    good, bad = (deletion.measure(*exact, sign * maps_NHW) for sign in (1, -1))
    assert good['deletion']['high'] < bad['deletion']['low']
    assert good['insertion']['low'] > bad['insertion']['high']
    good, bad = (road.measure(*exact, sign * maps_NHW) for sign in (1, -1))
    assert good['gap']['low'] > 0.1 and bad['gap']['high'] < -0.1
    # Without noise, the order from the least relevant pixel is that of the opposite map.
    good, bad = (road.measure(*exact, sign * maps_NHW, noise=0) for sign in (1, -1))
    for row, opposite in zip(good['rows'], bad['rows'], strict=True):
        assert row['morf_probability'] == pytest.approx(opposite['lerf_probability'], abs=1e-6)
        assert row['morf_low'] <= row['morf'] <= row['morf_high']
    json.dumps(good, allow_nan=False)


def test_more_steps_than_pixels(exact, exact_maps):
    found = deletion.measure(*exact, exact_maps.sum(axis=3), steps=1000)
    assert found['steps'] == 64 and len(found['deletion_curve']) == 65


def test_sensitivity_of_exact_contributions_is_one(exact, exact_maps):
    changes = sensitivity_n.changes(*exact, subsets=20)
    maps_NHW = exact_maps.sum(axis=3)
    found = sensitivity_n.measure(changes, maps_NHW)
    assert [row['n'] for row in found['rows']] == [1, 2, 6, 19, 51]
    for row in [*found['rows'], found['overall']]:
        assert row['per_image'] == pytest.approx([1] * 6, abs=1e-4)
    wrong = sensitivity_n.measure(changes, baselines.random_map(*exact))
    assert abs(wrong['overall']['mean']) < 0.3
    turned = sensitivity_n.measure(changes, -2 * maps_NHW)
    assert turned['overall']['mean'] == pytest.approx(-1, abs=1e-4)
    json.dumps(found, allow_nan=False)


def test_a_map_of_zeros_has_no_correlation(exact, exact_maps):
    maps_NHW = exact_maps.sum(axis=3)
    maps_NHW[2] = 0
    found = sensitivity_n.measure(sensitivity_n.changes(*exact, subsets=5), maps_NHW)
    assert found['overall']['per_image'][2] is None and found['overall']['left_out'] == 1
    assert found['overall']['mean'] == pytest.approx(1, abs=1e-4)


def test_infidelity_of_exact_contributions_is_zero(exact, exact_maps):
    changes = infidelity.changes(*exact)
    mean_square = np.square(changes.changes_NS).mean()
    found = infidelity.measure(changes, exact_maps)
    assert found['infidelity']['mean'] < 1e-8 * mean_square
    doubled = infidelity.measure(changes, 2 * exact_maps.sum(axis=3))
    assert doubled['infidelity']['mean'] == pytest.approx(mean_square, rel=1e-4)
    assert doubled['scaled']['mean'] < 1e-8 * mean_square
    nothing = infidelity.measure(changes, 0 * exact_maps)
    assert nothing['scaled']['mean'] == pytest.approx(mean_square)
    assert nothing['share']['mean'] == 1
    json.dumps(found, allow_nan=False)


def test_infidelity_of_the_gradient_of_a_linear_model_is_zero(exact, exact_maps):
    gradients = exact_maps / exact.images_NHWC
    for baseline in (0.0, 0.5):
        changes = infidelity.changes(*exact, baseline=baseline)
        found = infidelity.measure(changes, gradients, multiplied=False)
        assert found['infidelity']['mean'] < 1e-6 * np.square(changes.changes_NS).mean()


def test_squares_lie_in_the_image():
    masks_SHW = infidelity.squares(5, 9, 200, 0, 3)
    heights, widths = masks_SHW.any(axis=2).sum(axis=1), masks_SHW.any(axis=1).sum(axis=1)
    np.testing.assert_array_equal(heights, widths)
    assert set(heights.tolist()) == {1, 2} and masks_SHW.any(axis=0).all()
    np.testing.assert_array_equal(masks_SHW.sum(axis=(1, 2)), heights * widths)


def test_imputed_pixels_are_the_weighted_means_of_their_neighbours():
    rng = np.random.default_rng(0)
    image_HWC = rng.normal(size=(6, 7, 2)).astype(np.float32)
    removed_R = rng.permutation(42)[:30]
    imputed_HWC = road.impute(image_HWC, removed_R, np.zeros((6, 7, 2)))
    kept_P = np.setdiff1d(np.arange(42), removed_R)
    np.testing.assert_array_equal(imputed_HWC.reshape(42, 2)[kept_P],
                                  image_HWC.reshape(42, 2)[kept_P])
    for y, x in zip(removed_R // 7, removed_R % 7, strict=True):
        around = [(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1)
                  if (i, j) != (0, 0) and 0 <= y + i < 6 and 0 <= x + j < 7]
        weights = [2 if 0 in place else 1 for place in around]
        mean_C = np.average([imputed_HWC[y + i, x + j] for i, j in around], axis=0, weights=weights)
        np.testing.assert_allclose(imputed_HWC[y, x], mean_C, atol=1e-5)
    noise_HWC = np.ones((6, 7, 2))
    np.testing.assert_allclose(
        (road.impute(image_HWC, removed_R, noise_HWC) - imputed_HWC).reshape(42, 2)[removed_R], 1,
        atol=1e-5)
    np.testing.assert_array_equal(road.impute(image_HWC, removed_R[:0], noise_HWC), image_HWC)


def test_equal_values_are_in_random_order():
    map_HW = np.zeros((8, 8))
    map_HW[3, 5] = 1
    first, again, other = (order.pixel_order(map_HW, 0, index) for index in (4, 4, 5))
    assert first[0] == other[0] == 29 and sorted(first) == list(range(64))
    assert first.tolist() == again.tolist() != other.tolist()
    assert order.pixel_order(map_HW, 1, 4).tolist() != first.tolist()
    a_N, b_N = (order.generator(0, 0, use).random(1000) for use in ('map', 'subsets'))
    assert abs(np.corrcoef(a_N, b_N)[0, 1]) < 0.1


def test_an_image_has_the_same_numbers_in_any_batch(exact, exact_maps, monkeypatch):
    maps_NHW = exact_maps.sum(axis=3).round(1)  # with ties

    def measured(rows):
        of = (exact.apply_fn, exact.variables, exact.images_NHWC[rows], exact.targets_N[rows])
        options = {'indices_N': rows, 'seed': 3}
        return [deletion.measure(*of, maps_NHW[rows], **options)['deletion']['per_image'],
                deletion.measure(*of, maps_NHW[rows], **options)['insertion']['per_image'],
                road.measure(*of, maps_NHW[rows], **options)['gap']['per_image'],
                sensitivity_n.measure(sensitivity_n.changes(*of, subsets=5, **options),
                                      maps_NHW[rows])['overall']['per_image'],
                infidelity.measure(infidelity.changes(*of, **options),
                                   maps_NHW[rows])['scaled']['per_image']]

    together = measured(np.arange(6))
    monkeypatch.setattr(chunks, 'images_at_once', lambda *args, most=256: 4)
    alone = measured(np.array([5, 2]))
    for of_all, of_two in zip(together, alone, strict=True):
        np.testing.assert_allclose(np.array(of_all)[[5, 2]], of_two, rtol=1e-3, atol=1e-5)


def test_a_model_is_compiled_once(trained, contributions):
    maps_NHW = contributions(*trained)
    outputs._outputs.clear_cache()
    for one in (maps_NHW, -maps_NHW):
        deletion.measure(*trained, one)
        road.measure(*trained, one)
        sensitivity_n.changes(*trained)
        infidelity.changes(*trained)
    assert outputs._outputs._cache_size() == 1


@pytest.mark.parametrize(('change', 'line'), [
    (lambda maps_NHW: maps_NHW[:, :7], r'maps_NHW: shape \(6, 7, 8\) for images of the shape'),
    (lambda maps_NHW: maps_NHW / np.arange(6)[:, None, None], r'not finite for 1 of 6 .*image 0'),
])
def test_bad_maps(exact, exact_maps, change, line):
    with np.errstate(divide='ignore'):
        maps_NHW = change(exact_maps.sum(axis=3))
    for measure in (lambda: deletion.measure(*exact, maps_NHW),
                    lambda: road.measure(*exact, maps_NHW),
                    lambda: infidelity.measure(infidelity.changes(*exact), maps_NHW),
                    lambda: sensitivity_n.measure(sensitivity_n.changes(*exact, subsets=3),
                                                  maps_NHW)):
        with pytest.raises(DataError, match=line) as raised:
            measure()
        assert '\n' not in str(raised.value)


def test_a_target_that_is_no_class(exact):
    with pytest.raises(DataError, match='target'):
        infidelity.changes(*exact[:3], exact.targets_N + 1)


@pytest.mark.parametrize(('measure', 'options', 'line'), [
    (deletion.measure, {'steps': 0}, 'steps: 0'), (deletion.measure, {'blur': 0}, 'blur: 0'),
    (road.measure, {'shares': [0.5, 1]}, r'shares: \[0.5, 1\]'),
    (road.measure, {'noise': -1}, 'noise: -1'),
    (sensitivity_n.changes, {'shares': []}, r'shares: \[\]'),
    (sensitivity_n.changes, {'subsets': 2}, 'subsets: 2'),
    (infidelity.changes, {'masks_NSHW': np.ones((6, 2, 7, 8), bool)}, 'masks_NSHW: shape'),
])
def test_bad_options(exact, exact_maps, measure, options, line):
    maps = [exact_maps.sum(axis=3)] if measure in (deletion.measure, road.measure) else []
    with pytest.raises(ConfigError, match=line):
        measure(*exact, *maps, **options)
