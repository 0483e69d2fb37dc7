"""What a study says: intervals, paired comparisons, how sure they are, and what is missing.

Two kinds of luck are kept apart. Seed noise is what another seed would change on these images: the
t test over the seeds counts it, and a winner needs it. Test-set noise is what other images would
change for these very networks: the tests over the images count it. Neither is part of the other, so
a difference that is sure in one sense need not be so in the other.
"""

import bisect
import math
from typing import NamedTuple

import numpy as np

ALPHA = 0.05
POWER = 0.8
MOST_SEEDS = 100_000
RESAMPLES = 9_999
DRAWS = 100_000_000  # of images in one bootstrap: a second or two
FEW_IMAGES = 25
ROUNDING = 1e-12  # of a score: what float64 may leave of a difference that is none


class Sample(NamedTuple):
    """An arm as it is compared.

    Attributes:
      name: of the arm.
      missing: a line for each of its planned cells that is not done, naming arm and seed; [] if
        all are.
      scores_S: float, the metric of each seed, in the order of the seeds; not looked at where
        something is missing.
      values_SN: what each image adds to that metric, seeds x images: 0 or 1 for an accuracy, nats
        for a loss. None where the metric is no mean over images (mean average precision).
    """

    name: str
    missing: list[str]
    scores_S: np.ndarray
    values_SN: np.ndarray | None


class Interval(NamedTuple):
    """Mean of n values and its interval by Student's t; sd is the sample's (n - 1 below).

    low, high and sd are NaN for one value.
    """

    mean: float
    low: float
    high: float
    sd: float
    n: int


class Examples(NamedTuple):
    """A comparison over the images, the networks being given.

    Attributes:
      count: images.
      better: pairs of image and seed where the first arm's value is better than the second's: it
        alone is right, or its loss is smaller.
      worse: those where the second's is.
      low: lower end of the 95 % bootstrap interval of the difference, over the images.
      high: its upper end. Both are NaN for a single image.
      p: of McNemar's test with the images as clusters (`example_test`).
      p_holm: Holm's, over all planned comparisons.
      seed_sd: seed noise: sd over the seeds of the difference on these images; NaN for one seed.
      test_se: test-set noise: standard error over the images of the difference of these networks;
        NaN for a single image.
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
    """Two arms, seed by seed.

    Attributes:
      first: name of an arm.
      second: name of the other.
      missing: why there are no figures: the lines of both arms; [] if there are. With lines here
        difference, seeds_needed and examples are None, all other figures NaN.
      difference: first - second, whatever is better; an interval over the seeds.
      p: of the paired t test over the seeds, two-sided. 1.0 where no seed shows any difference;
        NaN for one seed, and where all show the same one: that is the grain of a small test set,
        and a t test would be certain of it.
      p_holm: Holm's, over all planned comparisons.
      effect: Cohen's d_z, mean over sd of the difference; 0.0 or NaN where p is 1.0 or NaN so.
      seeds_needed: by `seeds_needed`, if the observed effect is the true one: with so many the
        corrected p is below alpha in 80 of 100 studies, even if it is the smallest of all planned
        ones, which Holm's method multiplies by their number.
      pairing_gain: (var first + var second) / var difference: how many times the seeds a comparison
        without pairs would take; above 1 if seeds are good or bad for both. NaN without variance.
      examples: the same over the images; None for a metric without a value an image.
      winner: the better arm's name, or '' where p_holm is not below alpha or the study is not
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
    """Returns the mean of float values (S,), one a seed, and its interval; S >= 1.

    Raises:
      ValueError: there are no values, or one is not finite.
    """
    from scipy import stats  # noqa: PLC0415  (0.6 s: only who writes a page pays for it)

    values_S = np.asarray(values_S, np.float64)
    if values_S.ndim != 1 or not len(values_S) or not np.isfinite(values_S).all():
        raise ValueError(
            f'values_S: {values_S.tolist()} are not one finite value a seed, leave out the seeds '
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

    Args:
      pairs: all planned ones, (first, second), those with missing cells among them: Holm's
        correction is by the number planned, so that a p value only falls as the rest is run.
      higher_is_better: of the metric.
      complete: whether every planned cell of the study is done; no winner is named otherwise.
      alpha: chance that a study without any true difference names a winner.

    The outcome is a function of the arguments: what is random has a seed of its own.

    Raises:
      ValueError: an arm's values are not finite or do not fit the other's.
    """
    compared = []
    for first, second in pairs:
        _check(first, second)
        compared.append(_compare(first, second, higher_is_better, alpha / len(pairs)))
    p_holm = holm([one.p for one in compared])
    examples_p = holm([one.examples.p if one.examples else math.nan for one in compared])
    return [one._replace(
        p_holm=p, winner=_winner(one, higher_is_better) if complete and p < alpha else '',
        examples=one.examples and one.examples._replace(p_holm=example_p))
        for one, p, example_p in zip(compared, p_holm, examples_p, strict=True)]


def holm(p_C: list[float]) -> list[float]:
    """Returns p values (C,) corrected by Holm's method; NaN stays NaN and counts as a test.

    What is not known yet counts as 1.0, which gives an upper bound of what the others become.
    """
    from statsmodels.stats.multitest import multipletests  # noqa: PLC0415  (1 s)

    unknown = np.isnan(np.asarray(p_C, np.float64))
    if unknown.all():
        return [math.nan] * len(p_C)
    corrected_C = multipletests(np.where(unknown, 1.0, p_C), method='holm')[1]
    return np.where(unknown, math.nan, corrected_C).tolist()


def seeds_needed(effect: float, alpha: float = ALPHA, power: float = POWER) -> int | None:
    """Returns how many seeds a two-sided paired t test takes to see Cohen's d_z = `effect`.

    The least number n with which the noncentral t, of n - 1 degrees of freedom and shifted by
    effect x sqrt(n), lies beyond the critical value with that power. At least 3, as two show only
    effects above 11. None for more than 100,000, and for an effect that is 0 or NaN.
    """
    if not abs(effect) > 1e-3:  # above 100,000 for any alpha in use
        return None
    from scipy import stats  # noqa: PLC0415  (0.6 s)

    effect = min(abs(effect), 1e3)  # three seeds show it for any alpha in use

    def shows(n: int) -> bool:
        # The other tail adds nothing where the power is 0.8, and is NaN where it is tiny.
        critical = stats.t.isf(alpha / 2, n - 1)
        return stats.nct.sf(critical, n - 1, effect * math.sqrt(n)) >= power

    most = 3
    while most <= MOST_SEEDS and not shows(most):  # nct is NaN far above the number
        most *= 2
    low = most // 2 + 1
    least = max(3, low + bisect.bisect_left(range(low, most), True, key=shows))
    return least if least <= MOST_SEEDS else None


def example_test(differences_SN: np.ndarray) -> float:
    """Returns the two-sided p of no difference between two arms over the images.

    Args:
      differences_SN: float, first less second, of each seed and image.

    An image is a cluster of S answers: z = sum(d) / sqrt(sum(d^2)), d being the sum of an image
    over the seeds. It is McNemar's test for one seed, its form for clusters of one size for several
    (Durkalski et al., Statistics in Medicine 22:2417, 2003), and says the same of real values.

    Where fewer than 25 images differ the normal approximation rejects up to 1.7 times as often as
    it should (at 0.05 / 4); there the signs of the images are flipped instead: McNemar's exact
    test for one seed.
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
    if np.ptp(np.abs(sums_N)) == 0:  # one seed, or as good as one
        wins = int((sums_N > 0).sum())
        return float(mcnemar([[0, wins], [len(sums_N) - wins, 0]], exact=True).pvalue)
    result = stats.permutation_test(  # all flips of up to 13 images, else so many at random
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
            raise ValueError(f'{name}: scores_S of shape {np.shape(scores_S)}, give one a seed')
        shape = None if values_SN is None else np.shape(values_SN)
        if shape is not None and (len(shape) != 2 or shape[0] != len(scores_S) or not shape[1]):
            raise ValueError(f'{name}: values_SN of shape {shape}, give {len(scores_S)} seeds x '
                             'images')
        for field, values in (('scores_S', scores_S), ('values_SN', values_SN)):
            if values is not None and not np.isfinite(values).all():
                raise ValueError(f'{name}: {field} is not finite everywhere, list the cells that '
                                 'diverged as missing')
    if len(first.scores_S) != len(second.scores_S):
        raise ValueError(f'{first.name} has {len(first.scores_S)} seeds, {second.name} '
                         f'{len(second.scores_S)}: give both the same')
    if first.values_SN is not None and second.values_SN is not None and (
            np.shape(first.values_SN) != np.shape(second.values_SN)):
        raise ValueError(f'{first.name} has values of {np.shape(first.values_SN)[1]} images, '
                         f'{second.name} of {np.shape(second.values_SN)[1]}: give both the same')


def _compare(first: Sample, second: Sample, higher_is_better: bool, alpha: float) -> Comparison:
    """Returns a comparison without what depends on the others."""
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
    """Returns p, Cohen's d_z and the gain of pairing, of scores of two arms."""
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
    """Returns the comparison over the images, but for Holm's correction."""
    from scipy import stats  # noqa: PLC0415  (0.6 s)

    seeds, count = differences_SN.shape
    mean_N, mean_S = differences_SN.mean(axis=0), differences_SN.mean(axis=1)
    larger, smaller = int((differences_SN > 0).sum()), int((differences_SN < 0).sum())
    low = high = test_se = math.nan
    if count > 1:
        # Percentiles, not BCa: of a mean over hundreds of images they cover 95 % as they are, and
        # BCa's jackknife takes time by the square of the images.
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
