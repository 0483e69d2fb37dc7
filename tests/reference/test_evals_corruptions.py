"""The common corruptions against the package `imagecorruptions` (its fork for NumPy 2).

Those without random numbers are compared pixel by pixel, at all severities. The others are compared
in what their change of the image is like: its mean and standard deviation over all pixels in
levels, and its power in seven bands of frequency.
"""

import jax
import numpy as np
import pytest

from imgjax.evals import corruptions
from tests import real

package = pytest.importorskip('imagecorruptions')

PLAIN = ('defocus_blur', 'zoom_blur', 'brightness', 'contrast', 'pixelate', 'jpeg_compression',
         'gaussian_blur', 'saturate')
# {name: (how far the means may be apart in levels, the standard deviations and the powers of the
# bands in percent of the package's)}. The lowest band has 16 frequencies only.
RANDOM = {
    'gaussian_noise': (0.5, 1, 15), 'shot_noise': (0.5, 1, 15), 'impulse_noise': (0.5, 2, 15),
    'speckle_noise': (0.5, 1, 15), 'glass_blur': (0.5, 2, 15), 'motion_blur': (0.5, 3, 10),
    'snow': (1, 3, 20), 'frost': (8, 5, 30), 'fog': (3, 5, 15),
    'elastic_transform': (0.5, 3, 15), 'spatter': (1, 5, 15)}
# These have few random numbers for each image, so that they need more draws.
FEW_NUMBERS = ('fog', 'frost', 'spatter', 'motion_blur', 'elastic_transform')
BANDS = np.geomspace(1 / 112, 0.5, 8)  # cycles per pixel


@pytest.fixture(scope='module')
def photographs():
    return real.photographs(12, 224, 224)


def theirs(name: str, severity: int, images_NHWC, draws: int = 1) -> np.ndarray:
    """Returns uint8 images_NHWC of the package; of each image, `draws` of them in turn."""
    np.random.seed(severity)
    return np.stack([package.corrupt(image_HWC, severity, name, **(
        {'seed': 100 * draw + i} if name in ('impulse_noise', 'glass_blur') else {}))
        for draw in range(draws) for i, image_HWC in enumerate(images_NHWC)])


def ours(name: str, severity: int, images_NHWC, draws: int = 1) -> np.ndarray:
    key = jax.random.key(1)
    return np.concatenate([np.asarray(corruptions.corrupt(
        name, severity, images_NHWC, key, draw * len(images_NHWC) + np.arange(len(images_NHWC))))
        for draw in range(draws)])


@pytest.mark.parametrize('name', PLAIN)
def test_without_random_numbers_images_are_the_same(name, photographs):
    apart = []
    for severity in corruptions.SEVERITIES:
        difference = np.abs(ours(name, severity, photographs)
                            - theirs(name, severity, photographs).astype(np.float32))
        apart.append((difference.mean(), difference.max()))
    print(f'\n{name}: mean absolute difference and largest, in levels, by severity: '
          + ', '.join(f'{mean:.3f} {most:.0f}' for mean, most in apart))
    assert max(mean for mean, _ in apart) < 0.3


def change(found_NHWC, images_NHWC):
    """Returns the mean of the change, its standard deviation, and its power in each band."""
    repeated = np.concatenate([images_NHWC] * (len(found_NHWC) // len(images_NHWC)))
    change_NHW = (found_NHWC.astype(np.float64) - repeated).mean(axis=3)
    height, width = change_NHW.shape[1:]
    window_HW = np.hanning(height)[:, None] * np.hanning(width)
    power_HF = (np.abs(np.fft.rfft2((change_NHW - change_NHW.mean(axis=(1, 2), keepdims=True))
                                    * window_HW)) ** 2).mean(axis=0)
    radius_HF = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    return change_NHW.mean(), change_NHW.std(), np.array([
        power_HF[(radius_HF >= low) & (radius_HF < high)].mean()
        for low, high in zip(BANDS[:-1], BANDS[1:], strict=True)])


@pytest.mark.parametrize('severity', [1, 3, 5])
@pytest.mark.parametrize('name', RANDOM)
def test_random_changes_have_the_same_statistics(name, severity, photographs):
    draws = 16 if name in FEW_NUMBERS else 2
    mean, spread, power_B = change(ours(name, severity, photographs, draws), photographs)
    mean_2, spread_2, power_2_B = change(theirs(name, severity, photographs, draws), photographs)
    ratios_B = power_B / power_2_B
    print(f'\n{name} {severity}: mean {mean:.2f} {mean_2:.2f}, standard deviation {spread:.2f} '
          f'{spread_2:.2f}, power over theirs by band {ratios_B.round(2)}')
    far, percent, percent_power = RANDOM[name]
    assert abs(mean - mean_2) < far
    assert abs(spread / spread_2 - 1) < percent / 100
    assert np.abs(ratios_B - 1).max() < percent_power / 100
