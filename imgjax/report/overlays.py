"""Maps of explanations as pictures: colours over a grey image."""

import matplotlib
import numpy as np

CLIPPED = 99.0  # percentile of the absolute values that has the full colour
STRENGTH = 0.75  # of the colour over the image, at the full colour


def overlay(image_HWC: np.ndarray, map_HW: np.ndarray, signed: bool) -> np.ndarray:
    """Returns an image in grey with a map over it in colours, uint8 (H, W, 3).

    In a map with signs red speaks for the class and blue against it; one without goes from clear at
    its least value to red. The full colour is that of the 99 % percentile of the absolute values of
    this map, so that maps of different methods can be looked at side by side, but not compared in
    size.

    Args:
      image_HWC: uint8 (H, W, 1) or (H, W, 3).
      map_HW: float (H, W).
      signed: whether the map has signs.
    """
    value_HW = np.asarray(map_HW, np.float64)
    finite_HW = np.isfinite(value_HW)
    least = 0.0 if signed or not finite_HW.any() else value_HW[finite_HW].min()
    value_HW = np.where(finite_HW, value_HW - least, 0)
    scale = np.percentile(np.abs(value_HW), CLIPPED) or np.abs(value_HW).max() or 1.0
    value_HW = np.clip(value_HW / scale, -1 if signed else 0, 1)
    grey_HW1 = np.asarray(image_HWC, np.float64).mean(-1, keepdims=True)
    # A light and flat grey, on which both colours are seen.
    ground_HWC = np.repeat(70 + grey_HW1 * 0.6, 3, axis=-1)
    colours = matplotlib.colormaps['coolwarm']
    colour_HWC = 255 * colours(0.5 + value_HW / 2)[..., :3]
    share_HW1 = STRENGTH * np.sqrt(np.abs(value_HW))[..., None]
    return np.round(ground_HWC * (1 - share_HW1) + colour_HWC * share_HW1).astype(np.uint8)
