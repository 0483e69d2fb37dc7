"""The error of a model under common corruptions, by itself and beside a baseline.

Hendrycks and Dietterich, ICLR 2019 (https://arxiv.org/abs/1903.12261), section 4. With E the top-1
error of the model f at severity s of corruption c, the corruption error is

    CE_c = sum_s E_f(s, c) / sum_s E_baseline(s, c),

the relative corruption error has E(s, c) - E(clean) in place of each E(s, c), and mCE and relative
mCE are their means over the paper's 15 corruptions. The paper's baseline is AlexNet; its errors
(`ALEXNET`) are those of the 1,000 classes of ImageNet and fit no other data. For other data the
baseline is another model on the same images, or the model itself without corruptions
(`own_error`); the result names it.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from imgjax.errors import ConfigError, DataError, first_few, unknown
from imgjax.evals.corruptions import CATEGORIES, COMMON, NAMES, SEVERITIES
from imgjax.evals.intervals import wilson


class Baseline(NamedTuple):
    """What a model is compared with.

    Attributes:
      name: of the other model and its data, which the result names.
      errors: {corruption: mean top-1 error over the five severities, 0 to 1}.
      clean: its top-1 error without corruptions, 0 to 1.
    """

    name: str
    errors: Mapping[str, float]
    clean: float


# The mean errors over the severities are those that imagenet.py of AugMix
# (https://github.com/google-research/augmix) quotes from the paper's authors, the clean error that
# of the paper's table 1.
ALEXNET = Baseline('AlexNet on ImageNet-C', {
    'gaussian_noise': 0.886428, 'shot_noise': 0.894468, 'impulse_noise': 0.922640,
    'defocus_blur': 0.819880, 'glass_blur': 0.826268, 'motion_blur': 0.785948,
    'zoom_blur': 0.798360, 'snow': 0.866816, 'frost': 0.826572, 'fog': 0.819324,
    'brightness': 0.564592, 'contrast': 0.853204, 'elastic_transform': 0.646056,
    'pixelate': 0.717840, 'jpeg_compression': 0.606500}, 0.435)


def own_error(clean_accuracy: float) -> Baseline:
    """Returns the model's own clean error as a baseline: mCE says how many times it grows."""
    clean = 1 - clean_accuracy
    return Baseline('the model itself without corruptions', dict.fromkeys(NAMES, clean), clean)


def mean_errors(accuracies: Mapping[str, Mapping[int, float]]) -> dict[str, float]:
    """Returns {corruption: mean error over its severities}, as `Baseline` takes it."""
    return {name: 1 - float(np.mean(list(by_severity.values())))
            for name, by_severity in accuracies.items()}


def measure(accuracies: Mapping[str, Mapping[int, float]], clean_accuracy: float, images: int, *,
            baseline: Baseline | None = None) -> dict:
    """Summarises the accuracies of a model under corruptions.

    Each accuracy comes with the ends of a 95 % interval. Those of one severity are Wilson's. Those
    of a mean are Wilson's for `images` answers, as if an image had one answer for all its
    corruptions: the answers on one image depend on each other, and no dependence gives a wider
    interval. The result can be written as JSON:
      images: int.
      clean: dict of `accuracy`, `low`, `high`.
      corruptions: a list with a dict per corruption: `name`, `category`, `severities` (a list of
        dicts of `severity`, `accuracy`, `low`, `high`), the mean over them as `accuracy`, `low`,
        `high`, and beside the baseline `ce` and `relative_ce`, or None.
      categories: a list with a dict per category: `name`, `accuracy`, `low`, `high`, and
        `by_severity`, the five accuracies; the means over its corruptions.
      common: dict of `accuracy`, `low`, `high`, `error` and `added_error`, the mean over the
        paper's 15 corruptions and by how much its error is above the clean one; None without any.
      worst: the name of the corruption with the lowest accuracy.
      baseline: its name, or None; mce, relative_mce: float, 1 is the baseline; or None.
      notes: sentences on what was left out.

    Args:
      accuracies: {corruption: {severity: accuracy}}, 0 to 1, each with the severities 1 to 5.
      clean_accuracy: on the same images without corruptions.
      images: how many images each accuracy is of.
      baseline: what the errors are divided by; None for nothing.

    Raises:
      ConfigError: there is no such corruption.
      DataError: severities are missing, or an accuracy is not within 0 to 1.
    """
    _check(accuracies, clean_accuracy, images)
    notes = []
    missing = [name for name in COMMON if name not in accuracies]
    if missing:
        notes.append(f'The means over the common corruptions leave out {", ".join(missing)}.')
    category_of = {name: category for category, names in CATEGORIES.items() for name in names}
    rows = []
    for name in (name for name in NAMES if name in accuracies):
        at_S = [float(accuracies[name][severity]) for severity in SEVERITIES]
        rows.append({
            'name': name, 'category': category_of[name], **_share(np.mean(at_S), images),
            'severities': [{'severity': severity, **_share(accuracy, images)}
                           for severity, accuracy in zip(SEVERITIES, at_S, strict=True)],
            'ce': None, 'relative_ce': None})
    if baseline is not None:
        notes += _add_baseline(rows, 1 - float(clean_accuracy), baseline)
    common = [row for row in rows if row['name'] in COMMON]
    found = {'images': images, 'clean': _share(clean_accuracy, images), 'corruptions': rows,
             'categories': _categories(rows, images), 'common': None,
             'worst': min(rows, key=lambda row: row['accuracy'])['name']}
    if common:
        share = _share(np.mean([row['accuracy'] for row in common]), images)
        error = 1 - share['accuracy']
        found['common'] = share | {'error': error,
                                   'added_error': error - (1 - float(clean_accuracy))}
    return found | {'baseline': baseline and baseline.name, 'mce': _mean(common, 'ce'),
                    'relative_mce': _mean(common, 'relative_ce'), 'notes': notes}


def _check(accuracies, clean_accuracy, images) -> None:
    if not accuracies or images < 1:
        raise DataError(f'accuracies: {len(accuracies)} corruptions of {images} images; give one '
                        'of each or more')
    for name, by_severity in accuracies.items():
        if name not in NAMES:
            raise ConfigError(unknown('corruption', name, NAMES))
        if set(by_severity) != set(SEVERITIES):
            raise DataError(f'accuracies: {name} has the severities {sorted(by_severity)}; give '
                            '1, 2, 3, 4 and 5')
        if not all(0 <= accuracy <= 1 for accuracy in by_severity.values()):
            raise DataError(f'accuracies: {name} has one that is not within 0 to 1; give shares of '
                            'right answers')
    if not 0 <= clean_accuracy <= 1:
        raise DataError(f'clean_accuracy: {clean_accuracy}; give the share of right answers, 0 to '
                        '1')


def _share(accuracy, images) -> dict:
    low, high = wilson(accuracy * images, images)
    return {'accuracy': float(accuracy), 'low': float(low), 'high': float(high)}


def _add_baseline(rows, clean_error, baseline) -> list[str]:
    """Writes the errors beside the baseline into the rows; returns notes on what has none."""
    unknown_names, no_error, no_more = [], [], []
    for row in rows:
        error, name = 1 - row['accuracy'], row['name']
        if name not in baseline.errors:
            unknown_names.append(name)
            continue
        theirs = baseline.errors[name]
        if theirs > 0:
            row['ce'] = error / theirs
        else:
            no_error.append(name)
        if theirs > baseline.clean:
            row['relative_ce'] = (error - clean_error) / (theirs - baseline.clean)
        else:
            no_more.append(name)
    return [f'No {what} of {_listed(names, rows)}: {baseline.name} {why}.'
            for what, names, why in (
                ('CE', unknown_names, 'has no figure for them'),
                ('CE', no_error, 'makes no error with them'),
                ('relative CE', no_more, 'has no added errors with them')) if names]


def _listed(names, rows) -> str:
    return 'any corruption' if len(names) == len(rows) else first_few(names, 4)


def _categories(rows, images) -> list[dict]:
    found = []
    for category in CATEGORIES:
        at_CS = np.array([[one['accuracy'] for one in row['severities']] for row in rows
                          if row['category'] == category])
        if len(at_CS):
            found.append({'name': category, **_share(at_CS.mean(), images),
                          'by_severity': at_CS.mean(axis=0).tolist()})
    return found


def _mean(rows, kind) -> float | None:
    """Returns the mean over the rows, or None where one has no value."""
    values = [row[kind] for row in rows]
    return None if not values or None in values else float(np.mean(values))
