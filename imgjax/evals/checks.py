"""What evaluators demand of their arrays. Each check raises DataError in one line."""

import numpy as np

from imgjax.errors import DataError, first_few
from imgjax.evals.blocks import blocks

ROUNDING = 1e-6  # by which a probability may be outside 0 to 1
SUM_TOLERANCE = 0.01  # of the sum of an image's probabilities


def check_logits(logits_NK: np.ndarray, labels: np.ndarray, name: str = 'logits') -> None:
    """Checks the logits of images, and that the labels fit them.

    Args:
      logits_NK: float (N, K), finite, of one image or more. K is 2 or more, or 1 or more where
        images have several labels.
      labels: int (N,), or (N, K) of 0 and 1 where images have several labels.
      name: of the logits, for the error.
    """
    if logits_NK.ndim != 2 or not logits_NK.size:
        raise DataError(f'{name}: shape {logits_NK.shape}; give (images, classes), at least one of '
                        'each')
    images, classes = logits_NK.shape
    _check_classes(name, classes, labels.ndim == 2)
    _check_finite(name, logits_NK)
    check_labels(labels, images, classes)


def check_probabilities(probabilities_NK: np.ndarray, multi_label: bool) -> None:
    """Checks probabilities of images: within 0 to 1, and with the sum 1 unless multi_label."""
    if probabilities_NK.ndim != 2 or not probabilities_NK.size:
        raise DataError(f'probabilities: shape {probabilities_NK.shape}; give (images, classes), '
                        'at least one of each')
    images, classes = probabilities_NK.shape
    _check_classes('probabilities', classes, multi_label)
    for rows in blocks(images, classes):
        block_BK = probabilities_NK[rows]  # NaN fails both comparisons
        good_B = ((block_BK >= -ROUNDING) & (block_BK <= 1 + ROUNDING)).all(axis=1)
        if not good_B.all():
            raise DataError(f'probabilities: those of image {rows.start + int(good_B.argmin())} '
                            'are not all within 0 to 1; give probabilities, not logits, and leave '
                            'out images with NaN')
        sums_B = block_BK.sum(axis=1, dtype=np.float64)
        far_B = np.abs(sums_B - 1) > SUM_TOLERANCE
        if not multi_label and far_B.any():
            row = int(far_B.argmax())
            raise DataError(f'probabilities: those of image {rows.start + row} sum to '
                            f'{sums_B[row]:.4g}, not 1; give the outputs of a softmax, or labels '
                            'of shape (images, classes) for images with several labels')


def check_labels(labels: np.ndarray, images: int, classes: int | None = None,
                 name: str = 'labels') -> None:
    """Checks labels.

    Args:
      labels: int (N,), each from 0 to K - 1; or (N, K) of 0 and 1 where images have several labels.
      images: N.
      classes: K; None for any number.
      name: of the labels, for the error.
    """
    several = labels.ndim == 2
    columns = labels.shape[1:] if classes is None else (classes,)
    if labels.shape != ((images, *columns) if several else (images,)):
        what = '' if classes is None else f' and {classes:,} classes'
        raise DataError(f'{name}: shape {labels.shape} for {images:,} images{what}; give one class '
                        'per image, or 0 and 1 per image and class')
    if several:
        if not ((labels == 0) | (labels == 1)).all():
            raise DataError(f'{name}: those of shape (images, classes) are 0 or 1; replace other '
                            'values')
        return
    if not (np.issubdtype(labels.dtype, np.integer) and np.can_cast(labels.dtype, np.int64)):
        raise DataError(f'{name}: {labels.dtype}; give the classes as integers from 0')
    wrong_N = (labels < 0) | (labels >= (np.inf if classes is None else classes))
    if wrong_N.any():
        row = int(wrong_N.argmax())
        last = '' if classes is None else f' to {classes - 1}'
        raise DataError(f'{name}: {labels[row]} of image {row} is no class; give integers from '
                        f'0{last}')


def check_single_labels(labels_N: np.ndarray, images: int, classes: int | None = None,
                        name: str = 'labels') -> None:
    """Checks labels as `check_labels` does, and refuses several labels per image."""
    if labels_N.shape != (images,):
        raise DataError(f'{name}: shape {labels_N.shape} for {images:,} images; give one class per '
                        'image (several labels per image do not fit here)')
    check_labels(labels_N, images, classes, name)


def check_features(name: str, features_ND: np.ndarray, fewest: int = 1) -> None:
    """Checks the features of a layer: finite, of `fewest` images or more, called `name`."""
    if np.ndim(features_ND) != 2 or len(features_ND) < fewest or not np.size(features_ND):
        raise DataError(f'{name}: shape {np.shape(features_ND)}; give (images, features), of '
                        f'{fewest:,} images or more')
    _check_finite(name, features_ND)


def check_answers(confidences_N: np.ndarray,
                  correct_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns confidences and whether answers are correct as float64 (N,), after a check."""
    confidences_N, correct_N = np.asarray(confidences_N, np.float64), np.asarray(correct_N)
    if confidences_N.ndim != 1 or confidences_N.shape != correct_N.shape or not correct_N.size:
        raise DataError(f'correct: shape {correct_N.shape}, confidences {confidences_N.shape}; '
                        'give two arrays (N,), of one answer or more')
    _check_finite('confidences', confidences_N[:, None])
    if not np.isin(correct_N, (0, 1)).all():
        raise DataError('correct: takes 0 and 1, or bool; other values are there')
    return confidences_N, correct_N.astype(np.float64)


def _check_classes(name: str, classes: int, multi_label: bool) -> None:
    if classes < 2 and not multi_label:
        raise DataError(f'{name}: there is one class only; give two or more')


def _check_finite(name: str, values_NX: np.ndarray) -> None:
    bad = np.flatnonzero(~np.isfinite(values_NX).all(axis=1))
    if len(bad):
        raise DataError(f'{name}: not finite for {len(bad):,} of {len(values_NX):,} images (image '
                        f'{first_few(bad, 3)}); the model diverged: use an earlier checkpoint, or '
                        'leave these images out')
