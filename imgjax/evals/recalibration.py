"""Fits that make the probabilities of a classifier better calibrated.

A fit is computed from the logits and labels of images that the model was not trained on. It is a
dict that JSON can hold, and `apply` takes it to the probabilities of other images.

Everywhere `logits_NK` are float (N, K), and `labels` are int (N,), each 0 to K - 1, or float (N, K)
of 0 and 1 for images with several labels.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax

from imgjax.errors import ConfigError, DataError
from imgjax.evals.answers import probabilities
from imgjax.evals.checks import check_logits

TEMPERATURES = 0.01, 100.0  # 0.01 suits logits that are cosines
LEAST_OF_CLASS = 2  # images in each half


def fit_none(logits_NK: np.ndarray, labels: np.ndarray) -> dict:
    """Returns the fit that leaves the logits as they are."""
    return {'method': 'none', 'multi_label': np.ndim(labels) == 2}


def fit_temperature(logits_NK: np.ndarray, labels: np.ndarray) -> dict:
    """Returns {method, multi_label, temperature}: the one divisor of the logits of lowest nll.

    Guo et al. 2017 (https://arxiv.org/abs/1706.04599). It is between 0.01 and 100, where the
    derivative of the nll is 0 (the nll is convex in 1 / temperature).

    >>> import numpy as np
    >>> from imgjax.evals import recalibration
    >>> logits_NK = np.array([[4.0, 0.0], [4.0, 0.0], [0.0, 4.0], [0.0, 4.0]])
    >>> fitted = recalibration.fit_temperature(logits_NK, np.array([0, 1, 1, 1]))
    >>> round(fitted['temperature'], 2)
    3.64
    >>> recalibration.apply(fitted, logits_NK[:1]).round(2)
    array([[0.75, 0.25]])
    """
    from scipy.optimize import brentq  # noqa: PLC0415  (0.3 s)

    logits_NK, labels = checked(logits_NK, labels)
    arrays = _on_device(logits_NK, labels)
    zeros_K = jnp.zeros(logits_NK.shape[1], jnp.float32)

    def derivative(scale: float) -> float:
        _, (slope_K, _) = _loss_and_gradient(zeros_K + jnp.float32(scale), zeros_K, *arrays)
        return float(np.asarray(slope_K, np.float64).sum())

    low, high = 1 / TEMPERATURES[1], 1 / TEMPERATURES[0]
    if derivative(1.0) == 0:
        scale = 1.0
    elif derivative(low) >= 0:
        scale = low
    elif derivative(high) <= 0:
        scale = high
    else:
        scale = brentq(derivative, low, high, xtol=1e-9)
    return fit_none(logits_NK, labels) | {'method': 'temperature', 'temperature': 1 / scale}


def fit_vector(logits_NK: np.ndarray, labels: np.ndarray) -> dict:
    """Returns {method, multi_label, weight, bias}: weight_k * logit_k + bias_k of lowest nll.

    Vector scaling, Guo et al. 2017 (https://arxiv.org/abs/1706.04599), by L-BFGS; weight and bias
    are lists of K.
    """
    from scipy.optimize import minimize  # noqa: PLC0415  (0.3 s)

    logits_NK, labels = checked(logits_NK, labels)
    arrays, classes = _on_device(logits_NK, labels), logits_NK.shape[1]

    def loss(values: np.ndarray) -> tuple[float, np.ndarray]:
        halves = jnp.split(jnp.asarray(values, jnp.float32), 2)
        value, gradient = _loss_and_gradient(*halves, *arrays)
        return float(value), np.concatenate(gradient).astype(np.float64)

    start = np.repeat([1.0, 0.0], classes)
    found = minimize(loss, start, jac=True, method='L-BFGS-B',
                     options={'maxiter': 200, 'ftol': 1e-8, 'gtol': 1e-6}).x
    return fit_none(logits_NK, labels) | {
        'method': 'vector', 'weight': found[:classes].tolist(), 'bias': found[classes:].tolist()}


def fit_isotonic(logits_NK: np.ndarray, labels: np.ndarray) -> dict:
    """Returns {method, multi_label, thresholds, values}: per class an increasing step function.

    Zadrozny and Elkan 2002 (https://doi.org/10.1145/775047.775151). The function takes
    p_k to the share of images with the label k; between its points `thresholds[k]` and `values[k]`
    it is linear. Values are at least 1 / (N + 2) away from 0 and 1 (N images show no more), as an
    exact 0 would make the nll infinite. Where an image has one label, `apply` divides the K
    values by their sum.
    """
    from sklearn.isotonic import IsotonicRegression  # noqa: PLC0415  (1 s)

    logits_NK, labels = checked(logits_NK, labels)
    probabilities_NK, least = probabilities(logits_NK, labels.ndim == 2), 1 / (len(labels) + 2)
    thresholds, values = [], []
    for k in range(logits_NK.shape[1]):
        fitted = IsotonicRegression(y_min=least, y_max=1 - least).fit(
            probabilities_NK[:, k], is_label(labels, k, k + 1)[:, 0])
        thresholds.append(fitted.X_thresholds_.tolist())
        values.append(fitted.y_thresholds_.tolist())
    return fit_none(logits_NK, labels) | {
        'method': 'isotonic', 'thresholds': thresholds, 'values': values}


FITS: dict[str, Callable[[np.ndarray, np.ndarray], dict]] = {
    'none': fit_none, 'temperature': fit_temperature, 'vector': fit_vector,
    'isotonic': fit_isotonic}


def apply(fitted: dict, logits_NK: np.ndarray) -> np.ndarray:
    """Returns the calibrated probabilities, float64 (N, K), of a fit.

    >>> import numpy as np
    >>> from imgjax.evals import recalibration
    >>> fitted = {'method': 'temperature', 'temperature': 2.0}
    >>> recalibration.apply(fitted, np.array([[2.0, 0.0]])).round(2)  # the softmax of 1 and 0
    array([[0.73, 0.27]])

    Args:
      fitted: what a `fit_` function returned; also {'method': 'none'} (softmax).
      logits_NK: float (N, K), finite, with the classes of the fit.
    """
    return probabilities(calibrated_logits(fitted, logits_NK), fitted.get('multi_label', False))


def calibrated_logits(fitted: dict, logits_NK: np.ndarray) -> np.ndarray:
    """Returns logits, float64 (N, K), whose softmax or sigmoid are the calibrated probabilities."""
    from scipy import special  # noqa: PLC0415  (0.3 s)

    logits_NK, method = np.asarray(logits_NK, np.float64), fitted.get('method')
    per_class = {'vector': 'weight', 'isotonic': 'values'}.get(method)
    if method not in FITS:
        raise ConfigError(f'calibration: unknown method {method!r}; there are {", ".join(FITS)}')
    if logits_NK.ndim != 2 or (per_class and len(fitted[per_class]) != logits_NK.shape[1]):
        raise DataError(f'calibration: logits of shape {logits_NK.shape} do not fit the method '
                        f'{method!r}, which was fitted on other classes; fit it again')
    if not np.isfinite(logits_NK).all():
        raise DataError('calibration: the logits are not finite; check the weights of the model')
    if method == 'temperature':
        return logits_NK / fitted['temperature']
    if method == 'vector':
        return logits_NK * np.array(fitted['weight']) + np.array(fitted['bias'])
    if method == 'isotonic':
        probabilities_NK = probabilities(logits_NK, fitted['multi_label'])
        for k, points in enumerate(zip(fitted['thresholds'], fitted['values'], strict=True)):
            probabilities_NK[:, k] = np.interp(probabilities_NK[:, k], *points)
        return special.logit(probabilities_NK) if fitted['multi_label'] else np.log(
            probabilities_NK)
    return logits_NK


def cross_fitted(fit: Callable, logits_NK: np.ndarray, labels: np.ndarray,
                 in_first_N: np.ndarray) -> np.ndarray:
    """Returns calibrated logits, float64 (N, K): each half by the fit on the other."""
    calibrated_NK = np.empty(logits_NK.shape)
    for half_N in (in_first_N, ~in_first_N):
        calibrated_NK[half_N] = calibrated_logits(
            fit(logits_NK[~half_N], labels[~half_N]), logits_NK[half_N])
    return calibrated_NK


def first_half(labels: np.ndarray, seed: int) -> np.ndarray:
    """Returns bool (N,): every second image of each class (combination of labels), by chance."""
    _, group_N = np.unique(labels, axis=0, return_inverse=True)
    order = np.random.default_rng(seed).permutation(len(labels))
    order = order[np.argsort(group_N.ravel()[order], kind='stable')]
    in_first_N = np.zeros(len(labels), bool)
    in_first_N[order[::2]] = True
    return in_first_N


def too_few(logits_NK: np.ndarray, labels: np.ndarray, in_first_N: np.ndarray) -> str | None:
    """Returns why methods per class cannot be compared; None if they can."""
    for k in range(logits_NK.shape[1]):
        has_N = is_label(labels, k, k + 1)[:, 0] > 0
        groups = (has_N, ~has_N) if labels.ndim == 2 else (has_N,)
        for group_N, what in zip(groups, ('with', 'without'), strict=False):
            least = min((group_N & in_first_N).sum(), (group_N & ~in_first_N).sum())
            if least < LEAST_OF_CLASS:
                return (f'vector and isotonic are left out, as only {least} images {what} label '
                        f'{k} are in one of the two halves and {LEAST_OF_CLASS} are needed.')
    return None


def is_label(labels: np.ndarray, start: int, stop: int) -> np.ndarray:
    """Returns float64 (N, stop - start): 1 where the class is a label of the image, else 0."""
    if labels.ndim == 2:
        return labels[:, start:stop].astype(np.float64)
    return (labels[:, None] == np.arange(start, stop)).astype(np.float64)


def checked(logits_NK: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns both as arrays that fit together."""
    logits_NK, labels = np.asarray(logits_NK), np.asarray(labels)
    check_logits(logits_NK, labels)
    return logits_NK, labels


@jax.jit
def _loss_and_gradient(scale_K, bias_K, logits_NK, labels):
    """Returns the nll of scale_K * logits_NK + bias_K, and its gradient for both."""
    def loss(scale_K, bias_K):
        scaled_NK = logits_NK * scale_K[None] + bias_K[None]
        if labels.ndim == 2:
            return optax.sigmoid_binary_cross_entropy(scaled_NK, labels).mean()
        return optax.softmax_cross_entropy_with_integer_labels(scaled_NK, labels).mean()

    return jax.value_and_grad(loss, argnums=(0, 1))(scale_K, bias_K)


def _on_device(logits_NK: np.ndarray, labels: np.ndarray) -> tuple[jax.Array, jax.Array]:
    kind = jnp.float32 if labels.ndim == 2 else jnp.int32
    return jnp.asarray(logits_NK, jnp.float32), jnp.asarray(labels, kind)
