"""Maps as colours over an image."""

import numpy as np
import pytest

from imgjax.report import overlays

IMAGE_HWC = np.random.default_rng(0).integers(0, 256, (6, 9, 3), np.uint8)
CLEAR_HWC = overlays.overlay(IMAGE_HWC, np.zeros((6, 9)), signed=True)


def redness(picture_HWC):
    """How much more red than blue a pixel has, -255 to 255."""
    return picture_HWC[..., 0].astype(int) - picture_HWC[..., 2]


def test_red_speaks_for_the_class_and_blue_against_it():
    map_HW = np.zeros((6, 9), np.float32)
    map_HW[:2], map_HW[2:4] = 3, -3
    picture_HWC = overlays.overlay(IMAGE_HWC, map_HW, signed=True)
    assert picture_HWC.shape == (6, 9, 3) and picture_HWC.dtype == np.uint8
    assert redness(picture_HWC)[:2].min() > 60 and redness(picture_HWC)[2:4].max() < -60
    np.testing.assert_array_equal(picture_HWC[4:], CLEAR_HWC[4:])
    # The two signs are shown equally, whichever is the more frequent.
    mirrored_HWC = overlays.overlay(IMAGE_HWC, -map_HW, signed=True)
    np.testing.assert_array_equal(redness(mirrored_HWC) > 60, redness(picture_HWC) < -60)


def test_a_larger_value_has_a_stronger_colour():
    map_HW = np.broadcast_to(np.linspace(-1, 1, 9), (6, 9))
    grey_HWC = np.full((6, 9, 3), 128, np.uint8)
    assert (np.diff(redness(overlays.overlay(grey_HWC, map_HW, signed=True)), axis=1) >= 0).all()
    assert (np.diff(redness(overlays.overlay(grey_HWC, map_HW, signed=False)), axis=1) >= 0).all()


@pytest.mark.parametrize('least', [0, 5, -5])
def test_a_map_without_signs_is_clear_at_its_least_value(least):
    map_HW = np.full((6, 9), least, np.float32)
    map_HW[0] += 2
    picture_HWC = overlays.overlay(IMAGE_HWC, map_HW, signed=False)
    assert redness(picture_HWC)[0].min() > 60
    np.testing.assert_array_equal(picture_HWC[1:], CLEAR_HWC[1:])


def test_the_scale_of_a_map_has_no_effect():
    map_HW = np.random.default_rng(1).normal(size=(6, 9))
    for signed in (False, True):
        small, large = (overlays.overlay(IMAGE_HWC, scale * map_HW, signed)
                        for scale in (1e-30, 1e30))
        np.testing.assert_array_equal(small, large)


def test_a_single_large_value_does_not_hide_the_others():
    map_HW = np.zeros((20, 20))
    map_HW[:5], map_HW[19, 19] = 1, 1000
    picture_HWC = overlays.overlay(np.full((20, 20, 3), 128, np.uint8), map_HW, signed=True)
    assert redness(picture_HWC)[:5].min() > 60


def test_one_pixel_alone_is_seen():
    map_HW = np.zeros((20, 20))  # whose percentile is 0
    map_HW[3, 4] = 7
    picture_HWC = overlays.overlay(np.full((20, 20, 3), 128, np.uint8), map_HW, signed=False)
    assert redness(picture_HWC)[3, 4] > 60 and (redness(picture_HWC) == 0).sum() == 399


@pytest.mark.parametrize('value', [-2, 0, 2])
def test_a_constant_map(value):
    """Without signs it says nothing; with signs it speaks for or against the class everywhere."""
    map_HW = np.full((6, 9), value)
    np.testing.assert_array_equal(overlays.overlay(IMAGE_HWC, map_HW, signed=False), CLEAR_HWC)
    found = redness(overlays.overlay(IMAGE_HWC, map_HW, signed=True))
    assert value == 0 or (np.sign(found) == np.sign(value)).all()


@pytest.mark.parametrize('signed', [False, True])
def test_a_value_that_is_no_number_is_clear(signed):
    map_HW = np.abs(np.random.default_rng(1).normal(size=(6, 9)))
    map_HW[0, 0] = 0
    expected = overlays.overlay(IMAGE_HWC, map_HW, signed)
    map_HW[2, 3] = np.nan
    found = overlays.overlay(IMAGE_HWC, map_HW, signed)
    np.testing.assert_array_equal(found[2, 3], CLEAR_HWC[2, 3])
    # The others keep their colours, but for the small change of the percentile.
    others = np.arange(54).reshape(6, 9) != 21
    assert np.abs(found.astype(int) - expected)[others].max() <= 2
    nothing = overlays.overlay(IMAGE_HWC, np.full((6, 9), np.nan), signed)
    np.testing.assert_array_equal(nothing, CLEAR_HWC)


def test_an_image_of_one_channel_is_grey_as_one_of_three():
    map_HW = np.random.default_rng(1).normal(size=(6, 9))
    grey_HW1 = IMAGE_HWC[..., :1]
    found = overlays.overlay(grey_HW1, map_HW, signed=True)
    assert found.shape == (6, 9, 3)
    np.testing.assert_array_equal(
        found, overlays.overlay(np.repeat(grey_HW1, 3, axis=-1), map_HW, signed=True))
    assert (CLEAR_HWC[..., 0] == CLEAR_HWC[..., 2]).all()  # no colour without a value
