"""Studies: R's figures, error rates over hundreds of simulated studies, what must not change."""

import itertools
import math

import numpy as np
import pytest
from scipy import integrate, stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower

from imgjax.report import statistics
from imgjax.report.statistics import Sample

BASE = [0.912, 0.905, 0.918, 0.909, 0.914, 0.903]
CUTMIX = [0.921, 0.911, 0.929, 0.915, 0.926, 0.908]
MIXUP = [0.915, 0.903, 0.924, 0.910, 0.921, 0.904]
TALL = [0.908, 0.914, 0.906, 0.917, 0.905, 0.910]


@pytest.fixture(autouse=True)
def no_collection(monkeypatch):
    """statsmodels' multipletests collects garbage in each call, 0.1 s of it."""
    monkeypatch.setattr('gc.collect', lambda: 0)


def sample(name, scores_S, values_SN=None, missing=()):
    return Sample(name, list(missing), np.array(scores_S), values_SN)


def right(name, values_SN):
    """An arm whose score is the share of right answers."""
    return sample(name, values_SN.mean(axis=1), values_SN)


def compare(first, second, higher_is_better=True, complete=True):
    one, = statistics.compare(
        [(first, second)], higher_is_better=higher_is_better, complete=complete)
    return one


def answers(rng, seeds, images, *, shift=0.0, shared=0.0, own=0.0):
    """Right answers (2, S, N) of two arms to images of any difficulty, and their true rates (2, S).

    A network is better or worse by its seed, `shared` by both arms and `own` of each; shift is the
    first arm's advantage.
    """
    skill_AS = own * rng.normal(size=(2, seeds)) + shared * rng.normal(size=seeds)
    skill_AS += 0.5 + np.array([[shift], [0.0]])
    latent_ASN = rng.normal(size=images) + 0.5 * rng.normal(size=(2, seeds, images))
    return latent_ASN < skill_AS[..., None], stats.norm.cdf(skill_AS / math.sqrt(1.25))


@pytest.mark.parametrize('values, expected', [
    # t <- t.test(x); c(t$estimate, t$conf.int, sd(x))
    (BASE, (0.91016666666666668, 0.90425184531220304, 0.91608148802113010, 0.00563619256827397)),
    (TALL, (0.91000000000000003, 0.90507771053571162, 0.91492228946428855, 0.00469041575982343)),
])
def test_interval_is_that_of_r(values, expected):
    found = statistics.interval(values)
    np.testing.assert_allclose(
        (found.mean, found.low, found.high, found.sd), expected, rtol=1e-6)
    assert found.n == 6


def test_comparisons_are_those_of_r():
    base = sample('base', BASE)
    arms = [sample('cutmix', CUTMIX), sample('mixup', MIXUP), sample('tall', TALL)]
    found = statistics.compare([(arm, base) for arm in arms], higher_is_better=True, complete=True)
    # t <- t.test(x, base, paired=TRUE); d <- x - base
    # c(mean(d), t$conf.int, t$p.value, mean(d) / sd(d), (var(x) + var(base)) / var(d))
    expected = [
        (0.00816666666666667, 0.00509508728624493, 0.01123824604708842, 0.00102315849495770,
         2.79022287809920710, 11.91050583657587580),
        (0.002666666666666669, -0.000886981298573463, 0.006220314631906802, 0.111637370549481113,
         0.787499230958157770, 9.377906976744187162),
        (-0.000166666666666667, -0.009953275303640430, 0.009619941970307095, 0.966776498622158309,
         -0.017871966323642526, 0.618244538137217359)]
    for one, row in zip(found, expected, strict=True):
        np.testing.assert_allclose(
            (one.difference.mean, one.difference.low, one.difference.high, one.p, one.effect,
             one.pairing_gain), row, rtol=1e-6)
    # p.adjust(p, method='holm')
    np.testing.assert_allclose(
        [one.p_holm for one in found],
        (0.00306947548487309, 0.22327474109896223, 0.96677649862215831), rtol=1e-6)
    # Three are planned, so that the smallest p has to be below a third of 0.05.
    assert [one.seeds_needed for one in found] == [
        statistics.seeds_needed(row[4], 0.05 / 3) for row in expected] == [5, 20, 32_780]
    alone, = statistics.compare([(arms[1], base)], higher_is_better=True, complete=True)
    # power.t.test(delta=abs(mean(d)), sd=sd(d), power=0.8, type='paired', strict=TRUE, tol=1e-12)$n
    assert alone.seeds_needed == math.ceil(14.692128608589)
    assert [one.winner for one in found] == ['cutmix', '', '']


def test_correction_is_that_of_r_and_statsmodels_and_counts_what_is_unknown():
    p = [0.01, 0.04, 0.03, 0.005, 0.03]
    # p.adjust(c(0.01, 0.04, 0.03, 0.005, 0.03), method='holm')
    np.testing.assert_allclose(statistics.holm(p), (0.04, 0.09, 0.09, 0.025, 0.09), rtol=1e-6)
    np.testing.assert_allclose(statistics.holm(p), multipletests(p, method='holm')[1], rtol=1e-6)
    np.testing.assert_allclose(
        statistics.holm([0.01, math.nan, 0.2]), (0.03, math.nan, 0.4), rtol=1e-6)
    assert math.isnan(statistics.holm([math.nan])[0]) and statistics.holm([]) == []


@pytest.mark.parametrize('effect, expected', [
    # power.t.test(delta=effect, sd=1, power=0.8, type='paired', strict=TRUE, tol=1e-12)$n
    (0.009, 96901.4332054266), (0.05, 3141.46547407369), (0.1, 786.808940281774),
    (0.3, 89.1493643536038), (-0.5, 33.3671289533192), (1, 9.93784993781867),
    (2, 4.22071919324573), (3, 3.14402470762875), (4, 2.72015118193491), (8, 2.16738557459785)])
def test_seeds_needed_are_those_of_r(effect, expected):
    assert statistics.seeds_needed(effect) == math.ceil(expected)
    if abs(effect) <= 4:  # statsmodels is NaN above
        n = TTestPower().solve_power(effect_size=abs(effect), alpha=0.05, power=0.8)
        assert n == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize('alpha', [0.05, 0.05 / 39])
@pytest.mark.parametrize('effect', [0.3, 1, 2, 4, 5, 8, 20, 93])
def test_one_seed_less_has_less_power(alpha, effect):
    """The power as an integral: P(|Z + effect sqrt(n)| > c s) over the distribution of the sd s."""
    def power(n):
        critical, shift = stats.t.isf(alpha / 2, n - 1), effect * math.sqrt(n)

        def given(s2):
            at = critical * math.sqrt(s2 / (n - 1))
            return stats.chi2.pdf(s2, n - 1) * (stats.norm.sf(at - shift)
                                                + stats.norm.cdf(-at - shift))

        return integrate.quad(given, 0, 20 * n + 400, limit=500, points=[n - 1])[0]

    n = statistics.seeds_needed(effect, alpha)
    assert power(n) >= 0.8 and (n == 3 or power(n - 1) < 0.8)


def test_seeds_needed_are_never_below_three_and_unknown_without_an_effect():
    assert [statistics.seeds_needed(effect) for effect in (12, 1e6, math.inf)] == [3, 3, 3]
    for effect in (0.0, 1e-9, 0.0088, math.nan):
        assert statistics.seeds_needed(effect) is None


def table_of(wins, losses, ties=50):
    return np.array([[1.0] * wins + [-1.0] * losses + [0.0] * ties])


def test_example_test_of_one_seed_is_mcnemars():
    # mcnemar.test(matrix(c(0, 21, 9, 0), 2), correct=FALSE)$p.value
    assert statistics.example_test(table_of(9, 21)) == pytest.approx(0.0284597369163105, rel=1e-6)
    # binom.test(9, 12)$p.value: exact where few images differ
    assert statistics.example_test(table_of(9, 3)) == pytest.approx(0.14599609375, rel=1e-6)
    for wins, losses in itertools.product((0, 3, 11, 12, 13, 40), repeat=2):
        theirs = mcnemar([[0, wins], [losses, 0]], exact=wins + losses < 25, correction=False)
        expected = theirs.pvalue if wins + losses else 1.0
        assert statistics.example_test(table_of(wins, losses)) == pytest.approx(expected, rel=1e-6)


def test_example_test_of_several_seeds_takes_images_as_clusters():
    # d <- c(rep(3,6), rep(2,9), rep(1,20), rep(-1,14), rep(-2,4), -3)
    # 2 * pnorm(-abs(sum(d) / sqrt(sum(d^2))))
    sums = np.repeat([3, 2, 1, -1, -2, -3, 0], [6, 9, 20, 14, 4, 1, 30])
    differences_SN = np.array([np.sign(sums) * (np.abs(sums) > seed) for seed in range(3)], float)
    assert statistics.example_test(differences_SN) == pytest.approx(0.0110973300579124, rel=1e-6)
    # The same answers from every seed are no new images: p is that of one seed.
    one = table_of(21, 9)
    assert statistics.example_test(np.repeat(one, 5, axis=0)) == pytest.approx(
        statistics.example_test(one), rel=1e-9)
    # Few images: all flips of their signs.
    few = np.array([3, 2, 2, 1, 1, 1, -1, -2])
    flips = np.array(list(itertools.product([1, -1], repeat=8)))
    expected = (np.abs(flips @ few) >= few.sum()).mean()
    assert statistics.example_test(few[None].astype(float)) == pytest.approx(expected, rel=1e-9)


def test_intervals_cover_and_null_studies_name_few_winners(monkeypatch):
    """1,000 studies of four arms against a base, eight seeds each, no arm better than another."""
    monkeypatch.setattr(statistics, 'seeds_needed', lambda effect, alpha: None)  # takes long
    rng = np.random.default_rng(0)
    covered, covered_differences, named = [], [], 0
    for _ in range(1_000):
        # A seed's order of the data is that of every arm; scores are whole images of 10,000.
        scores_AS = np.round(0.9 + 0.003 * rng.normal(size=8) + 0.003 * rng.normal(size=(5, 8)), 4)
        base, *arms = [sample(str(arm), scores_S) for arm, scores_S in enumerate(scores_AS)]
        found = statistics.compare([(arm, base) for arm in arms], higher_is_better=True,
                                   complete=True)
        covered += [end.low <= 0.9 <= end.high for end in map(statistics.interval, scores_AS)]
        covered_differences += [one.difference.low <= 0 <= one.difference.high for one in found]
        named += any(one.winner for one in found)
    assert 0.93 <= np.mean(covered) <= 0.97
    assert 0.93 <= np.mean(covered_differences) <= 0.97
    assert 0.02 <= named / 1_000 <= 0.055


@pytest.mark.parametrize('seeds, images', [(1, 400), (3, 400)])
def test_image_interval_covers_and_its_test_errs_by_alpha(monkeypatch, seeds, images):
    """New images for networks that differ by their seeds."""
    monkeypatch.setattr(statistics, 'RESAMPLES', 999)
    rng = np.random.default_rng(1)
    covered, rejected = [], []
    for _ in range(500):
        right_ASN, rates_AS = answers(rng, seeds, images, shift=0.1, shared=0.2, own=0.1)
        truth = (rates_AS[0] - rates_AS[1]).mean()
        found = statistics._over_images(right_ASN[0] - right_ASN[1].astype(float), True)
        covered.append(found.low <= truth <= found.high)
        null_ASN, _ = answers(rng, seeds, images, shared=0.2)
        rejected.append(statistics.example_test(null_ASN[0] - null_ASN[1].astype(float)) < 0.05)
    assert 0.93 <= np.mean(covered) <= 0.97
    assert 0.03 <= np.mean(rejected) <= 0.065


def test_exact_test_of_few_images_never_errs_more_than_alpha():
    rng = np.random.default_rng(2)
    p = [statistics.example_test(rng.choice([-1.0, 1.0], size=(1, rng.integers(6, 25))))
         for _ in range(1_000)]
    for alpha in (0.05, 0.0125):
        assert np.mean(np.array(p) < alpha) <= alpha


def test_seed_noise_is_told_from_test_set_noise(monkeypatch):
    """Arms that are as good as one another over the seeds; single networks are not.

    These networks differ on new images as well, which the images' test says truly and often; that
    one arm is better than the other it does not say, so the seeds name the winner.
    """
    monkeypatch.setattr(statistics, 'RESAMPLES', 99)
    rng = np.random.default_rng(3)
    found = []
    for _ in range(100):
        (first_SN, second_SN), _ = answers(rng, 4, 2_000, own=0.1)
        found.append(compare(right('a', first_SN), right('b', second_SN)))
    assert np.mean([one.examples.p < 0.05 for one in found]) > 0.4
    assert np.mean([bool(one.winner) for one in found]) < 0.09
    # A tenth of a standard deviation of skill moves a rate by `slope` / 10, twice for two arms.
    slope = stats.norm.pdf(0.5 / math.sqrt(1.25)) / math.sqrt(1.25)
    seed_sd = np.sqrt(np.mean([one.examples.seed_sd ** 2 for one in found]))
    assert seed_sd == pytest.approx(math.sqrt(2) * 0.1 * slope, rel=0.1)
    # With the images drawn anew: the scatter that test_se foretells.
    (a, b), rates_AS = answers(rng, 1, 200_000, own=0.1)
    drawn = [d.mean() for d in (a[0] - b[0].astype(float)).reshape(100, 2_000)]
    foretold = statistics._over_images((a - b.astype(float))[:, :2_000], True).test_se
    assert np.std(drawn, ddof=1) == pytest.approx(foretold, rel=0.2)


def pair(seeds=5, images=300, seed=0, shared=0.3):
    rng = np.random.default_rng(seed)
    (first_SN, second_SN), _ = answers(rng, seeds, images, shift=0.3, shared=shared, own=0.03)
    return right('first', first_SN), right('second', second_SN)


def permuted(arm, order):
    return arm._replace(scores_S=arm.scores_S[order], values_SN=arm.values_SN[order])


def flat(one):
    """The figures of a comparison, in the order of the fields."""
    return [*one.difference, one.p, one.p_holm, one.effect, one.seeds_needed, one.pairing_gain,
            *one.examples]


@pytest.mark.parametrize('seed', range(5))
def test_order_of_seeds_changes_nothing_and_that_of_arms_the_sign(seed):
    first, second = pair(seed=seed)
    one = compare(first, second)
    order = np.random.default_rng(seed).permutation(5)
    other = compare(permuted(first, order), permuted(second, order))
    np.testing.assert_allclose(flat(other), flat(one), rtol=1e-9)
    swapped = compare(second, first)
    for mine, theirs in ((one.difference, swapped.difference), (one.examples, swapped.examples)):
        assert (theirs.low, theirs.high) == pytest.approx((-mine.high, -mine.low))
    assert swapped.difference.mean == pytest.approx(-one.difference.mean)
    assert swapped.effect == pytest.approx(-one.effect)
    assert (swapped.examples.better, swapped.examples.worse) == (
        one.examples.worse, one.examples.better)
    for field in ('p', 'p_holm', 'pairing_gain', 'seeds_needed', 'winner'):
        assert getattr(swapped, field) == pytest.approx(getattr(one, field)), field
    assert swapped.examples.p == pytest.approx(one.examples.p)
    assert one.winner == 'first'
    # Pairing only the one arm anew loses what the seeds share.
    assert one.pairing_gain > 2
    unpaired = compare(permuted(first, np.roll(np.arange(5), 1)), second)
    assert unpaired.pairing_gain < one.pairing_gain
    assert unpaired.difference.mean == pytest.approx(one.difference.mean)


def test_loss_is_better_when_it_is_lower():
    first, second = pair()
    loss = [sample(arm.name, 1 - arm.scores_S, 1.0 - arm.values_SN) for arm in (first, second)]
    by_accuracy, by_loss = compare(first, second), compare(*loss, higher_is_better=False)
    assert by_loss.difference.mean == pytest.approx(-by_accuracy.difference.mean)
    assert by_accuracy.winner == by_loss.winner == 'first'
    for field in ('better', 'worse', 'p'):
        assert getattr(by_loss.examples, field) == pytest.approx(
            getattr(by_accuracy.examples, field))
    assert by_accuracy.examples.better > by_accuracy.examples.worse


def test_better_and_worse_are_counted_over_seeds_and_images():
    first = right('a', np.array([[1, 1, 0, 1], [1, 0, 0, 1]], bool))
    second = right('b', np.array([[0, 1, 1, 1], [0, 0, 0, 1]], bool))
    found = compare(first, second).examples
    assert (found.count, found.better, found.worse) == (4, 2, 1)
    assert found.seed_sd == pytest.approx(np.std([0, 0.25], ddof=1))
    assert found.test_se == pytest.approx(np.std([1, 0, -0.5, 0], ddof=1) / 2)


def test_nothing_is_named_while_something_is_missing():
    first, second = pair()
    late = sample('late', [0.99, math.nan], missing=['late, seed 1: diverged'])
    other, one = statistics.compare(
        [(late, second), (first, second)], higher_is_better=True, complete=False)
    assert other.missing == ['late, seed 1: diverged']
    assert other.difference is other.examples is other.seeds_needed is None
    assert all(math.isnan(value) for value in (
        other.p, other.p_holm, other.effect, other.pairing_gain))
    assert other.winner == one.winner == ''
    # The planned comparison counts although it has no p yet.
    assert one.p_holm == pytest.approx(2 * one.p)
    assert one.examples.p_holm == pytest.approx(2 * one.examples.p)
    assert compare(first, second).winner == 'first'
    assert compare(first, second, complete=False).winner == ''


def test_no_certainty_from_nothing():
    one_seed = compare(*pair(seeds=1))
    assert math.isnan(one_seed.p) and math.isnan(one_seed.p_holm) and one_seed.winner == ''
    assert one_seed.seeds_needed is None and math.isnan(one_seed.examples.seed_sd)
    assert one_seed.examples.p < 0.05 and math.isnan(one_seed.difference.low)
    same = compare(sample('a', BASE), sample('b', BASE))
    assert (same.p, same.p_holm, same.effect, same.winner) == (1.0, 1.0, 0.0, '')
    # The same image every time, but for rounding: a t test would be sure of it.
    grain = compare(sample('a', [0.1 + 0.2, 0.4, 0.5]), sample('b', [0.2, 0.3, 0.4]))
    assert math.isnan(grain.p) and math.isnan(grain.pairing_gain) and grain.winner == ''
    alike = np.ones((3, 40), bool)
    found = compare(right('a', alike), right('b', alike)).examples
    assert (found.low, found.high, found.p, found.test_se) == (0.0, 0.0, 1.0, 0.0)
    single = compare(right('a', alike[:, :1]), right('b', ~alike[:, :1])).examples
    assert math.isnan(single.low) and math.isnan(single.test_se) and single.p == 1.0
    assert compare(sample('a', CUTMIX), sample('b', BASE)).examples is None
    assert compare(*pair()) == compare(*pair())


def test_image_interval_of_a_large_split_is_the_normal_one():
    rng = np.random.default_rng(0)
    loss_ASN = rng.exponential(size=(2, 3, 50_000)).astype(np.float32)
    first, second = (sample(name, loss.mean(axis=1), loss)
                     for name, loss in zip('ab', loss_ASN, strict=True))
    found = compare(first, second, higher_is_better=False).examples
    normal = stats.norm.interval(0.95, float((loss_ASN[0] - loss_ASN[1]).mean()), found.test_se)
    np.testing.assert_allclose((found.low, found.high), normal, atol=0.2 * found.test_se)


@pytest.mark.parametrize('first, second, message', [
    (sample('a', [0.9, math.nan]), sample('b', [0.9, 0.8]), 'a: scores_S is not finite'),
    (sample('a', [0.9]), sample('b', [0.8], np.array([[1.0, math.inf]])), 'b: values_SN is not'),
    (sample('a', [0.9]), sample('b', [0.8, 0.7]), 'a has 1 seeds, b 2'),
    (sample('a', []), sample('b', []), 'a: scores_S of shape'),
    (sample('a', [0.9], np.ones((2, 3))), sample('b', [0.8]), 'a: values_SN of shape'),
    (sample('a', [0.9], np.ones((1, 3))), sample('b', [0.8], np.ones((1, 4))), '3 images, b of 4'),
    (sample('a', [0.9]), sample('a', [0.8]), 'a is compared with itself')])
def test_what_does_not_fit_is_refused_in_one_line(first, second, message):
    with pytest.raises(ValueError, match=message) as error:
        compare(first, second)
    assert '\n' not in str(error.value)


@pytest.mark.parametrize('values', [[], [0.9, math.nan], [[0.9]]])
def test_interval_of_what_is_not_done_is_refused(values):
    with pytest.raises(ValueError, match='one finite value per seed'):
        statistics.interval(values)
