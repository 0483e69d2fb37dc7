import json

import numpy as np
import pytest

from imgjax.errors import ConfigError, DataError
from imgjax.evals import ood


def values(familiar, strange) -> dict:
    found = ood.measure(np.array(familiar, float), np.array(strange, float))
    return {name: one['value'] for name, one in found.items()}


def test_measures_by_hand():
    found = values([0, 1, 2, 3], [2.5, 4])
    assert found['auroc'] == 7 / 8  # only the pair (3, 2.5) is in the wrong order
    assert found['fpr95'] == 1 / 4
    # Precision 1 to the recall 1/2, then 1/2 and 2/3 at the recalls 1/2 and 1.
    assert found['aupr_strange'] == pytest.approx(0.5 + 0.5 * (1 / 2 + 2 / 3) / 2)
    # 0, 1 and 2 are found without an error; 3 comes after 2.5.
    assert found['aupr_familiar'] == pytest.approx(0.75 + 0.25 * (3 / 4 + 4 / 5) / 2)


def test_the_best_the_worst_and_the_undecided():
    assert values([0, 1], [2, 3]) == {
        'auroc': 1, 'aupr_strange': 1, 'aupr_familiar': 1, 'fpr95': 0}
    worst = values([2, 3], [0, 1])
    assert worst['auroc'] == 0 and worst['fpr95'] == 1
    assert values([5, 5, 5], [5])['auroc'] == 0.5
    assert values([5, 5, 5], [5])['fpr95'] == 1


def test_only_the_order_counts():
    rng = np.random.default_rng(0)
    familiar_N, strange_M = rng.normal(size=80), rng.normal(1, 2, 50)
    assert values(familiar_N, strange_M) == values(np.exp(familiar_N), np.exp(strange_M))
    assert values(familiar_N, strange_M) == values(familiar_N[::-1], strange_M[::-1])


def test_intervals_hold_the_true_value():
    """Of 60 pairs of samples about 57 have the value of the distributions in their interval."""
    from scipy import stats

    true = stats.norm.cdf(1 / 2 ** 0.5)
    held, rng = 0, np.random.default_rng(0)
    for seed in range(60):
        found = ood.measure(rng.normal(size=100), rng.normal(1, 1, 60), seed)
        held += found['auroc']['low'] <= true <= found['auroc']['high']
        assert all(one['low'] <= one['value'] <= one['high'] for one in found.values())
    assert 52 <= held <= 60


def test_the_seed_decides_the_intervals_and_nothing_else():
    rng = np.random.default_rng(0)
    scores = rng.normal(size=40), rng.normal(1, 1, 30)
    first, again, other = (ood.measure(*scores, seed) for seed in (0, 0, 1))
    assert first == again != other and json.loads(json.dumps(first)) == first
    assert all(first[name]['value'] == other[name]['value'] for name in ood.MEASURES)


def test_the_curve_rejects_no_more_familiar_images_than_it_says():
    assert ood.curve(np.arange(10), np.array([8.5, 9.5, 3.5]), [0, 0.1, 0.29, 0.6, 1]) == [
        1 / 3, 2 / 3, 2 / 3, 1, 1]
    assert ood.curve(np.array([1, 1, 1, 0]), np.array([1, 2]), [0.25, 0.5, 0.75]) == [
        0.5, 0.5, 1]  # equal scores are rejected together or not at all


def test_of_equal_scores_the_simplest_is_chosen():
    assert ood.chosen({'max_softmax': 0.9, 'energy': 0.9 + 1e-12, 'vim': 0.8}) == 'max_softmax'
    assert ood.chosen({'max_softmax': 0.9, 'energy': 0.91, 'vim': 0.91}) == 'energy'


def test_strangers_of_a_known_class_are_refused():
    ood.check_strangers(['car', 'ship'], ['cat', 'dog'])
    ood.check_strangers([], ['cat', 'dog'])
    with pytest.raises(ConfigError, match=r'--strangers: 2 of its 3 classes are classes of the '
                       r'model \(Sea_Lion, dog\)') as error:
        ood.check_strangers(['Sea_Lion', 'dog', 'ship'], ['cat', 'dog', 'sea lion'])
    assert '\n' not in str(error.value)
    with pytest.raises(ConfigError, match=r'4 of its 4 .*\(0, 1, 2, \.\.\.\)'):
        ood.check_strangers(list('0123'), list('0123456789'))


@pytest.mark.parametrize(('scores', 'message'), [
    (([], [1.0]), 'familiar: shape'), (([1.0], []), 'strange: shape'),
    (([[1.0]], [1.0]), 'familiar: shape'),
    (([1.0], [2.0, np.nan]), 'strange: not finite for 1 of 2'),
    (([np.inf], [2.0]), 'familiar: not finite')])
def test_scores_that_cannot_be_used_are_refused(scores, message):
    for function in (ood.measure, lambda *arrays: ood.curve(*arrays, [0.1])):
        with pytest.raises(DataError, match=message):
            function(*map(np.array, scores))
