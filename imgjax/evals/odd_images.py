"""Which images of a dataset are odd, and how its classes are distributed.

An image is described by a few numbers (`describe`). `odd` finds the images whose number is outside
what is usual in this dataset and also extreme in itself, so that a clean dataset gives nothing. The
usual range goes from 3 interquartile ranges below the first quartile to 3 above the third one
(Tukey's outer fences, Exploratory Data Analysis, 1977), of the logarithms, and at least
from half to twice the median.

Descriptions can be compared only between images that were decoded in the same way: sharpness
depends on the size to which an image was scaled.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from imgjax.errors import ConfigError, DataError
from imgjax.evals.checks import check_features, check_labels, check_single_labels

FENCE = 3.0  # interquartile ranges
BLANK_CONTRAST = 1.0  # an image with less contrast shows nothing
# (reason, description, 'below' or 'above', the limit that an odd image passes in any dataset)
RULES = (
    ('nearly blank', 'contrast', 'below', 6.0),
    ('nearly blank', 'most_common', 'above', 0.95),
    ('very dark', 'brightness', 'below', 20.0),
    ('very bright', 'brightness', 'above', 235.0),
    ('very blurred', 'sharpness', 'below', 50.0),
    ('odd aspect', 'aspect', 'below', 1 / 3),
    ('odd aspect', 'aspect', 'above', 3.0),
)
TINY = 0.25  # of the median side
# The descriptions that `odd` reads, with the largest value that each can have.
LARGEST = {'brightness': 255.0, 'contrast': 127.5, 'most_common': 1.0, 'sharpness': math.inf,
           'aspect': math.inf, 'side': math.inf}
FEW_IMAGES = 10  # a class with fewer can be neither learned nor judged
FAR = 3.5  # robust standard deviations (Iglewicz and Hoaglin, How to Detect Outliers, 1993)
TINIEST = 1e-9  # of a number that is divided by
UNLIKELY = 10.0  # the expected number of images with a pair that never occurs


def describe(image_HWC: np.ndarray, stored_height: int, stored_width: int) -> dict[str, float]:
    """Returns numbers that describe one image.

    Args:
      image_HWC: uint8 (H, W, C), the decoded image, with 1 or 3 channels.
      stored_height: of the image as it is stored, in pixels.
      stored_width: the same.

    Returns:
      A dict of floats:
        brightness: the mean grey level, 0 to 255 (0.299 R + 0.587 G + 0.114 B, ITU-R BT.601).
        contrast: the standard deviation of the grey levels, 0 to 127.5.
        most_common: the share of the pixels that have the most common grey level, 0 to 1.
        sharpness: the variance of the Laplacian of the grey levels (Pech-Pacheco et al., ICPR
          2000, https://doi.org/10.1109/ICPR.2000.903548); small for a blurred image.
        colorfulness: of Hasler and Suesstrunk (2003, https://doi.org/10.1117/12.477378); 0 for a
          grey image, about 33 for an averagely colorful one, above 100 for an extreme one.
        aspect: stored width / stored height.
        side: the shorter side as stored, in pixels.

    Raises:
      DataError: the image is not uint8 (H, W, 1 or 3) or a side is not above 0.
    """
    from scipy import ndimage  # takes long to import

    if (image_HWC.dtype != np.uint8 or image_HWC.ndim != 3 or image_HWC.shape[2] not in (1, 3)
            or not image_HWC.size):
        raise DataError(f'image: {image_HWC.dtype} of shape {image_HWC.shape}; decode it to uint8 '
                        '(height, width, 1 or 3)')
    if min(stored_height, stored_width) < 1:
        raise DataError(f'image: stored as {stored_height} x {stored_width} pixels; give a '
                        'height and a width above 0')
    color_HW3 = np.broadcast_to(image_HWC, (*image_HWC.shape[:2], 3)).astype(np.float64)
    grey_HW = color_HW3 @ np.array([0.299, 0.587, 0.114])
    levels = np.bincount(np.rint(grey_HW).astype(np.int64).ravel())
    red_green_HW = color_HW3[:, :, 0] - color_HW3[:, :, 1]
    yellow_blue_HW = (color_HW3[:, :, 0] + color_HW3[:, :, 1]) / 2 - color_HW3[:, :, 2]
    return {
        'brightness': float(grey_HW.mean()), 'contrast': float(grey_HW.std()),
        'most_common': float(levels.max() / grey_HW.size),
        'sharpness': float(ndimage.laplace(grey_HW, mode='nearest').var()),
        'colorfulness': float(np.hypot(red_green_HW.std(), yellow_blue_HW.std())
                              + 0.3 * np.hypot(red_green_HW.mean(), yellow_blue_HW.mean())),
        'aspect': stored_width / stored_height, 'side': float(min(stored_height, stored_width))}


def odd(descriptions: Mapping[str, np.ndarray]) -> list[dict]:
    """Returns the odd images, by their index; an image has an entry for each reason.

    Reasons: 'blank' (the grey levels hardly differ; no other reason is given that depends on the
    pixels), 'nearly blank', 'very dark', 'very bright', 'very blurred', 'odd aspect' (RULES), and
    'tiny' (the shorter side is below a quarter of the median one). But for 'blank', the number must
    be outside the usual range too.

    Args:
      descriptions: an array (N,), of the same N images, for each key of `describe`; no rule reads
        `colorfulness`.

    Returns:
      A list of dicts of `index`, `reason`, `description` (the key), `value`, and `usual_low` and
      `usual_high`, the ends of the usual range.

    Raises:
      ConfigError: a description is missing.
      DataError: the descriptions are empty, of unequal length or not finite.
    """
    values = _checked(descriptions)
    usual = {key: _usual(values_N, LARGEST[key]) for key, values_N in values.items()}
    blank_N = values['contrast'] < BLANK_CONTRAST
    rules = [('blank', 'contrast', 'below', BLANK_CONTRAST), *RULES,
             ('tiny', 'side', 'below', TINY * float(np.median(values['side'])))]
    found = {}
    for reason, key, direction, limit in rules:
        (low, high), values_N = usual[key], values[key]
        if reason == 'blank':
            odd_N = blank_N
        elif direction == 'below':
            odd_N = values_N < min(low, limit)
        else:
            odd_N = values_N > max(high, limit)
        if reason not in ('blank', 'tiny', 'odd aspect'):
            odd_N = odd_N & ~blank_N
        for index in np.flatnonzero(odd_N).tolist():  # the first rule of a reason is reported
            found.setdefault((index, reason), {
                'index': index, 'reason': reason, 'description': key,
                'value': float(values_N[index]), 'usual_low': low, 'usual_high': high})
    return [found[place] for place in sorted(found)]


def imbalance(labels: np.ndarray, class_names: Sequence[str]) -> dict:
    """Returns how the images are distributed over the classes.

    Args:
      labels: int (N,), or (N, K) of 0 and 1 for a multi-label set.
      class_names: K names.

    Returns:
      A dict of `counts` (class name: images), `ratio` (of the largest class to the smallest one
      that has images), `without_images` and `few_images` (the names of the classes with no image,
      and with 1 to 9), and `effective_classes`: exp(entropy of the shares), the number of classes
      of equal size that would be as diverse (Hill, 1973, https://doi.org/10.2307/1934352).

    Raises:
      DataError: there are no labels, or they do not fit the class names.
    """
    classes = len(class_names)
    check_labels(labels, len(labels), classes)
    counts_K = ((labels > 0).sum(axis=0) if labels.ndim == 2 else
                np.bincount(labels, minlength=classes))
    present = counts_K[counts_K > 0]
    if not len(present):
        raise DataError('labels: no image has a label; check how they were read')
    share = present / present.sum()
    return {
        'counts': dict(zip(class_names, counts_K.tolist(), strict=True)),
        'ratio': float(present.max() / present.min()),
        'without_images': [name for name, count in zip(class_names, counts_K.tolist(), strict=True)
                           if not count],
        'few_images': [name for name, count in zip(class_names, counts_K.tolist(), strict=True)
                       if 0 < count < FEW_IMAGES],
        'effective_classes': float(np.exp(-(share * np.log(share)).sum()))}


def far_from_class(features_ND: np.ndarray, labels_N: np.ndarray, most: int = 10) -> dict:
    """Returns the images whose features are far from those of their class.

    Features are scaled to length 1. The distance of an image is the one to the mean of its class,
    which is computed without the furthest quarter of the images. Its z is (distance - median) /
    scale, where scale is 1.4826 x the median of what the distances above the median exceed it by:
    the standard deviation if they are normal, and outliers hardly change it.

    Args:
      features_ND: float (N, D), the features of a network.
      labels_N: int (N,).
      most: the largest number of images to list per class.

    Returns:
      A dict of `far`, a list of dicts of `index`, `label`, `distance` (0 to 2) and `z` (3.5 or
      above), the largest z first; and `left_out`, the classes with fewer than 10 images.

    Raises:
      DataError: the arrays do not fit, or features are not finite or all 0.
    """
    check_features('features_ND', features_ND)
    check_single_labels(labels_N, len(features_ND))
    far, left_out = [], []
    for label in np.unique(labels_N).tolist():
        index_M = np.flatnonzero(labels_N == label)
        features_MD = features_ND[index_M].astype(np.float64)
        length_M1 = np.linalg.norm(features_MD, axis=1, keepdims=True)
        if not length_M1.all():
            raise DataError(f'features_ND: those of image {index_M[length_M1.argmin()]} are all 0; '
                            'leave it out')
        if len(index_M) < FEW_IMAGES:
            left_out.append(label)
            continue
        distance_M = _distances(features_MD / length_M1)
        above_M = distance_M - np.median(distance_M)
        scale = 1.4826 * float(np.median(above_M[above_M >= 0]))
        z_M = above_M / max(scale, 1e-6)  # of features that are all equal
        for place in np.argsort(-z_M, kind='stable')[:most]:
            if z_M[place] >= FAR:
                far.append({'index': int(index_M[place]), 'label': label,
                            'distance': float(distance_M[place]), 'z': float(z_M[place])})
    return {'far': sorted(far, key=lambda one: -one['z']), 'left_out': left_out}


def co_occurrence(labels_NK: np.ndarray) -> dict:
    """Returns which labels of a multi-label set occur together.

    Args:
      labels_NK: (N, K) of 0 and 1.

    Returns:
      A dict of
        counts: K lists of K, the number of images with both labels; with one label where they are
          the same.
        lift: K lists of K, counts x N / (images with the one x images with the other): 1 if they
          are independent, None where a label has no image.
        always: [[a, b], ...]: each image with the label a has the label b too, which not all images
          have; a has 10 images or more.
        never: [[a, b], ...] with a < b: no image has both, where 10 or more would if they were
          independent.

    Raises:
      DataError: the labels are not of this kind.
    """
    if labels_NK.ndim != 2 or not labels_NK.size:
        raise DataError(f'labels: shape {labels_NK.shape}; give (images, classes) of 0 and 1')
    check_labels(labels_NK, len(labels_NK))
    has_NK = (labels_NK > 0).astype(np.float64)
    images, counts_KK = len(has_NK), has_NK.T @ has_NK
    single_K = np.diag(counts_KK)
    expected_KK = np.outer(single_K, single_K) / images
    lift = [[float(count / expected) if expected else None
             for count, expected in zip(count_K, expected_K, strict=True)]
            for count_K, expected_K in zip(counts_KK, expected_KK, strict=True)]
    always_KK = ((counts_KK == single_K[:, None]) & (single_K[:, None] >= FEW_IMAGES)
                 & (single_K[None] < images) & ~np.eye(len(single_K), dtype=bool))
    never_KK = np.triu((counts_KK == 0) & (expected_KK >= UNLIKELY), 1)
    return {'counts': counts_KK.astype(int).tolist(), 'lift': lift,
            'always': np.argwhere(always_KK).tolist(), 'never': np.argwhere(never_KK).tolist()}


def _checked(descriptions: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the descriptions as float64 (N,), after a check."""
    missing = [key for key in LARGEST if key not in descriptions]
    if missing:
        raise ConfigError(f'descriptions: {missing[0]!r} is missing; give what `describe` returns')
    values = {key: np.asarray(descriptions[key], np.float64) for key in LARGEST}
    for key, values_N in values.items():
        if values_N.ndim != 1 or not len(values_N) or len(values_N) != len(values['side']):
            raise DataError(f'descriptions: {key} has the shape {values_N.shape}; give one number '
                            'per image, for one image or more')
        if not np.isfinite(values_N).all():
            bad = int(np.isfinite(values_N).argmin())
            raise DataError(f'descriptions: {key} of image {bad} is {values_N[bad]}; leave it out')
    return values


def _usual(values_N: np.ndarray, largest: float) -> tuple[float, float]:
    """Returns the ends of the usual range of values that are 0 to `largest`.

    It goes at least from half to twice the median, as all values of a set may be almost equal. The
    upper end of a bounded value is that of its distance to the bound.
    """
    values_3 = np.quantile(values_N, (0.25, 0.5, 0.75))
    first, median, third = np.maximum(values_3, TINIEST).tolist()
    low = min(first * (first / third)**FENCE, median / 2)
    if math.isinf(largest):
        return low, max(third * (third / first)**FENCE, median * 2)
    first, median, third = np.maximum(largest - values_3, TINIEST).tolist()
    return low, largest - min(third * (third / first)**FENCE, median / 2)


def _distances(unit_MD: np.ndarray) -> np.ndarray:
    """Returns the distances to the mean of the three quarters that are nearest to the mean."""
    mean_D = unit_MD.mean(axis=0)
    distance_M = np.linalg.norm(unit_MD - mean_D[None], axis=1)
    nearest = np.argsort(distance_M, kind='stable')[:max(1, 3 * len(unit_MD) // 4)]
    return np.linalg.norm(unit_MD - unit_MD[nearest].mean(axis=0)[None], axis=1)
