"""Statistics of a study: intervals, paired comparisons, their p values, and missing cells.

Two kinds of noise are reported separately. Seed noise is the change that other seeds would make on
the same images; the t test over the seeds measures it, and this test decides whether there is a
winner. Test-set noise is the change that other images would make for the same networks; the tests
over the images measure it. Neither includes the other, so a difference that is significant over the
seeds may not be significant over the images, and the other way round.
"""

import bisect
import math
from typing import NamedTuple

import numpy as np

ALPHA = 0.05
POWER = 0.8
MOST_SEEDS = 100_000  # seeds_needed returns None above it
RESAMPLES = 9_999
DRAWS = 100_000_000  # images drawn in one bootstrap, which takes one or two seconds
FEW_IMAGES = 25  # example_test uses the normal approximation from this number on
ROUNDING = 1e-12  # relative to a score: a smaller difference is float64's rounding


class Sample(NamedTuple):
    """The scores of an arm, as a comparison needs them.

    Attributes:
      name: the name of the arm.
      missing: lines that say which planned cells of the arm are not done; [] if all are done.
      scores_S: float (S,), the metric of each seed, in the order of the seeds. It is not read if
        cells are missing.
      values_SN: float (S, N), the value of each seed and image whose mean is the metric: 0 or 1 for
        an accuracy, nats for a loss. None if the metric is not a mean over images (mean average
        precision).
    """

    name: str
    missing: list[str]
    scores_S: np.ndarray
    values_SN: np.ndarray | None


class Interval(NamedTuple):
    """The mean of n values and its interval by Student's t.

    sd is the standard deviation of the sample (with denominator n - 1). low, high and sd are NaN
    for one value.
    """

    mean: float
    low: float
    high: float
    sd: float
    n: int


class Examples(NamedTuple):
    """A comparison over the images, for the given networks.

    Attributes:
      count: the number of images.
      better: the number of pairs (image, seed) for which the first arm has the better value: only
        the first arm is right, or its loss is smaller.
      worse: the number of pairs for which the second arm has the better value.
      low: the lower end of the 95 % bootstrap interval of the difference, over the images.
      high: the upper end of that interval. Both ends are NaN for a single image.
      p: the p value of McNemar's test with the images as clusters (`example_test`).
      p_holm: p, corrected by Holm's method for all planned comparisons.
      seed_sd: the seed noise: the standard deviation of the difference over the seeds, on these
        images; NaN for one seed.
      test_se: the test-set noise: the standard error of the difference over the images, for these
        networks; NaN for a single image.
    """

    count: int
    better: int
    worse: int
    low: float
    high: float
    p: float
    p_holm: float
    seed_sd: float
    test_se: float


class Comparison(NamedTuple):
    """A comparison of two arms, paired by seed.

    Attributes:
      first: the name of the first arm.
      second: the name of the second arm.
      missing: why the comparison has no figures: the `missing` lines of both arms; [] if none. If
        there are lines, difference, seeds_needed and examples are None and all other figures NaN.
      difference: the interval of (first - second) over the seeds. Its sign does not depend on
        whether a higher value is better.
      p: the two-sided p value of the paired t test over the seeds. 1.0 if the difference is 0 for
        every seed. NaN for one seed, and if all seeds have exactly the same difference: a
        small test set allows few different scores, and a t test would take that for certainty.
      p_holm: p, corrected by Holm's method for all planned comparisons.
      effect: Cohen's d_z, the mean of the difference over its standard deviation; 0.0 where the
        difference is 0 for every seed, NaN where p is NaN.
      seeds_needed: the result of `seeds_needed` for the observed effect. If that is the true
        effect, the corrected p is below alpha in 80 of 100 studies with so many seeds, even if it
        is the smallest p, which Holm's method multiplies by the number of planned comparisons.
      pairing_gain: (var first + var second) / var difference. An unpaired comparison needs so many
        times the seeds. It is above 1 if a good seed is good for both arms. NaN without variance.
      examples: the comparison over the images; None if the metric has no value per image.
      winner: the name of the better arm; '' if p_holm is not below alpha or the study is not
        complete.
    """

    first: str
    second: str
    missing: list[str]
    difference: Interval | None
    p: float
    p_holm: float
    effect: float
    seeds_needed: int | None
    pairing_gain: float
    examples: Examples | None
    winner: str


def interval(values_S, level: float = 0.95) -> Interval:
    """Returns the mean of the values and its interval.

    >>> import numpy as np
    >>> from imgjax.report import statistics
    >>> found = statistics.interval(np.array([0.90, 0.91, 0.92]))
    >>> [round(one, 3) for one in (found.mean, found.low, found.high)]
    [0.91, 0.885, 0.935]

    Args:
      values_S: float (S,), one value per seed; S >= 1.
      level: the level of confidence.

    Raises:
      ValueError: there are no values, or one is not finite.
    """
    from scipy import stats  # noqa: PLC0415  (0.6 s, which a process that writes no page saves)

    values_S = np.asarray(values_S, np.float64)
    if values_S.ndim != 1 or not len(values_S) or not np.isfinite(values_S).all():
        raise ValueError(
            f'values_S: {values_S.tolist()} is not one finite value per seed; leave out the seeds '
            'that are not done')
    n, mean = len(values_S), float(values_S.mean())
    if n == 1:
        return Interval(mean, math.nan, math.nan, math.nan, 1)
    sd = float(values_S.std(ddof=1))
    half = float(stats.t.ppf((1 + level) / 2, n - 1)) * sd / math.sqrt(n)
    return Interval(mean, mean - half, mean + half, sd, n)


def compare(pairs: list[tuple[Sample, Sample]], *, higher_is_better: bool, complete: bool,
            alpha: float = ALPHA) -> list[Comparison]:
    """Returns the planned comparisons in their order.

    The result is a function of the arguments: random numbers are drawn with a fixed seed.

    >>> import numpy as np
    >>> from imgjax.report import statistics
    >>> new = statistics.Sample('new', [], np.array([0.93, 0.94, 0.95, 0.94]), None)
    >>> base = statistics.Sample('base', [], np.array([0.90, 0.91, 0.93, 0.90]), None)
    >>> [found] = statistics.compare([(new, base)], higher_is_better=True, complete=True)
    >>> found.winner, round(found.difference.mean, 3), round(found.p, 3)
    ('new', 0.03, 0.005)

    Args:
      pairs: all planned pairs (first, second), including pairs with missing cells. Holm's method
        corrects for the number of planned pairs, so that a corrected p can only fall when the
        missing cells are run.
      higher_is_better: whether a higher value of the metric is better.
      complete: whether every planned cell of the study is done; otherwise no winner is named.
      alpha: the probability that a study without any true difference names a winner.

    Raises:
      ValueError: the values of an arm are not finite or do not fit those of the other arm.
    """
    compared = []
    for first, second in pairs:
        _check(first, second)
        compared.append(_compare(first, second, higher_is_better, alpha / len(pairs)))
    p_holm = holm([comparison.p for comparison in compared])
    examples_p_holm = holm([comparison.examples.p if comparison.examples else math.nan
                            for comparison in compared])
    return [comparison._replace(
        p_holm=p, winner=_winner(comparison, higher_is_better) if complete and p < alpha else '',
        examples=comparison.examples and comparison.examples._replace(p_holm=example_p))
        for comparison, p, example_p in zip(compared, p_holm, examples_p_holm, strict=True)]


def holm(p_C: list[float]) -> list[float]:
    """Returns the p values of C comparisons, corrected by Holm's method.

    A NaN, which is a p value that is not known yet, stays NaN. It counts as a test with p = 1.0, so
    that the other corrected values are upper bounds of their final ones.

    >>> from imgjax.report import statistics
    >>> [round(p, 3) for p in statistics.holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]
    """
    from statsmodels.stats.multitest import multipletests  # noqa: PLC0415  (1 s)

    unknown = np.isnan(np.asarray(p_C, np.float64))
    if unknown.all():
        return [math.nan] * len(p_C)
    corrected_C = multipletests(np.where(unknown, 1.0, p_C), method='holm')[1]
    return np.where(unknown, math.nan, corrected_C).tolist()


def seeds_needed(effect: float, alpha: float = ALPHA, power: float = POWER) -> int | None:
    """Returns how many seeds a two-sided paired t test needs to detect Cohen's d_z = `effect`.

    This is the smallest n for which the noncentral t distribution with n - 1 degrees of freedom and
    noncentrality effect x sqrt(n) exceeds the critical value with probability `power`. It is at
    least 3, as two seeds detect only effects above 11. None if it is above 100,000, and for an
    effect that is 0 or NaN.

    >>> from imgjax.report import statistics
    >>> statistics.seeds_needed(2.0), statistics.seeds_needed(1.0), statistics.seeds_needed(0.5)
    (5, 10, 34)
    """
    if not abs(effect) > 1e-3:  # above 100,000 for any alpha in use
        return None
    from scipy import stats  # noqa: PLC0415  (0.6 s)

    effect = min(abs(effect), 1e3)  # three seeds detect it for any alpha in use

    def detects(n: int) -> bool:
        # The other tail adds nothing at a power of 0.8, and is NaN where it is tiny.
        critical = stats.t.isf(alpha / 2, n - 1)
        return stats.nct.sf(critical, n - 1, effect * math.sqrt(n)) >= power

    most = 3
    while most <= MOST_SEEDS and not detects(most):  # nct is NaN for a much too large n
        most *= 2
    low = most // 2 + 1
    least = max(3, low + bisect.bisect_left(range(low, most), True, key=detects))
    return least if least <= MOST_SEEDS else None


def example_test(differences_SN: np.ndarray) -> float:
    """Returns the two-sided p value of the hypothesis that two arms do not differ over the images.

    An image is a cluster of S answers. The statistic is z = sum(d) / sqrt(sum(d^2)), where d is the
    sum of an image's differences over the seeds. With one seed this is McNemar's test, with several
    its form for clusters of equal size (Durkalski et al., Statistics in Medicine 22:2417, 2003). It
    also applies to real values, such as losses.

    If fewer than 25 images differ, the normal approximation would reject up to 1.7 times too often
    (at 0.05 / 4). The p value then comes from a permutation test that flips the signs of the
    images; with one seed this is McNemar's exact test.

    Args:
      differences_SN: float (S, N), first minus second, of each seed and image.
    """
    from scipy import stats  # noqa: PLC0415  (0.6 s)
    from statsmodels.stats.contingency_tables import mcnemar  # noqa: PLC0415  (1 s)

    sums_N = differences_SN.sum(axis=0)
    sums_N = sums_N[sums_N != 0]
    if not len(sums_N):
        return 1.0
    if len(sums_N) >= FEW_IMAGES:
        z = sums_N.sum() / np.sqrt(np.square(sums_N).sum())
        return float(2 * stats.norm.sf(abs(z)))
    if np.ptp(np.abs(sums_N)) == 0:  # the same size everywhere, as with one seed
        wins = int((sums_N > 0).sum())
        return float(mcnemar([[0, wins], [len(sums_N) - wins, 0]], exact=True).pvalue)
    result = stats.permutation_test(  # all flips for up to 13 images, else RESAMPLES random ones
        (sums_N,), np.sum, permutation_type='samples', vectorized=True, n_resamples=RESAMPLES,
        rng=np.random.default_rng(0))
    return float(result.pvalue)


def _check(first: Sample, second: Sample) -> None:
    if first.name == second.name:
        raise ValueError(f'{first.name} is compared with itself: plan two different arms')
    if first.missing or second.missing:
        return
    for name, _, scores_S, values_SN in (first, second):
        if np.ndim(scores_S) != 1 or not len(scores_S):
            raise ValueError(f'{name}: scores_S of shape {np.shape(scores_S)}, give one per seed')
        shape = None if values_SN is None else np.shape(values_SN)
        if shape is not None and (len(shape) != 2 or shape[0] != len(scores_S) or not shape[1]):
            raise ValueError(f'{name}: values_SN of shape {shape}, give {len(scores_S)} seeds x '
                             'images')
        for field, values in (('scores_S', scores_S), ('values_SN', values_SN)):
            if values is not None and not np.isfinite(values).all():
                raise ValueError(f'{name}: {field} is not finite everywhere; list the cells that '
                                 'diverged as missing')
    if len(first.scores_S) != len(second.scores_S):
        raise ValueError(f'{first.name} has {len(first.scores_S)} seeds, {second.name} '
                         f'{len(second.scores_S)}: give both the same number')
    if first.values_SN is not None and second.values_SN is not None and (
            np.shape(first.values_SN) != np.shape(second.values_SN)):
        raise ValueError(f'{first.name} has values of {np.shape(first.values_SN)[1]} images, '
                         f'{second.name} of {np.shape(second.values_SN)[1]}: give both the '
                         'same images')


def _compare(first: Sample, second: Sample, higher_is_better: bool, alpha: float) -> Comparison:
    """Returns a comparison without p_holm and winner, which depend on the other comparisons."""
    missing = list(dict.fromkeys([*first.missing, *second.missing]))
    empty = Comparison(first.name, second.name, missing, None, math.nan, math.nan, math.nan, None,
                       math.nan, None, '')
    if missing:
        return empty
    scores_AS = np.asarray([first.scores_S, second.scores_S], np.float64)
    p, effect, gain = _over_seeds(scores_AS)
    examples = None
    if first.values_SN is not None and second.values_SN is not None:
        examples = _over_images(np.asarray(first.values_SN, np.float64)
                                - np.asarray(second.values_SN, np.float64), higher_is_better)
    return empty._replace(
        difference=interval(scores_AS[0] - scores_AS[1]), p=p, effect=effect,
        seeds_needed=seeds_needed(effect, alpha), pairing_gain=gain, examples=examples)


def _over_seeds(scores_AS: np.ndarray) -> tuple[float, float, float]:
    """Returns p, Cohen's d_z and the pairing gain of scores_AS, float (2 arms, S seeds)."""
    from scipy import stats  # noqa: PLC0415  (0.6 s)

    differences_S = scores_AS[0] - scores_AS[1]
    rounding = ROUNDING * np.abs(scores_AS).max()
    if len(differences_S) == 1:
        return math.nan, math.nan, math.nan
    if np.ptp(differences_S) <= rounding:
        same = np.abs(differences_S).max() <= rounding
        return (1.0, 0.0, math.nan) if same else (math.nan, math.nan, math.nan)
    return (float(stats.ttest_rel(*scores_AS).pvalue),
            float(differences_S.mean() / differences_S.std(ddof=1)),
            float(scores_AS.var(axis=1, ddof=1).sum() / differences_S.var(ddof=1)))


def _over_images(differences_SN: np.ndarray, higher_is_better: bool) -> Examples:
    """Returns the comparison over the images without p_holm, which is NaN."""
    from scipy import stats  # noqa: PLC0415  (0.6 s)

    seeds, count = differences_SN.shape
    mean_N, mean_S = differences_SN.mean(axis=0), differences_SN.mean(axis=1)
    larger, smaller = int((differences_SN > 0).sum()), int((differences_SN < 0).sum())
    low = high = test_se = math.nan
    if count > 1:
        # Percentiles, not BCa: for a mean over hundreds of images they cover 95 % without BCa's
        # correction, whose jackknife takes time in the square of the number of images.
        resamples = min(RESAMPLES, max(1_000, DRAWS // count))
        low, high = stats.bootstrap(
            (mean_N,), np.mean, vectorized=True, method='percentile', n_resamples=resamples,
            batch=max(1, 2_000_000 // count), rng=np.random.default_rng(0)).confidence_interval
        test_se = float(mean_N.std(ddof=1)) / math.sqrt(count)
    return Examples(
        count, larger if higher_is_better else smaller, smaller if higher_is_better else larger,
        float(low), float(high), example_test(differences_SN), math.nan,
        float(mean_S.std(ddof=1)) if seeds > 1 else math.nan, test_se)


def _winner(comparison: Comparison, higher_is_better: bool) -> str:
    first_is_better = (comparison.difference.mean > 0) == higher_is_better
    return comparison.first if first_is_better else comparison.second
