"""Tables of positions resampled to another image size, against timm's."""

import numpy as np
import pytest
import torch
from timm.layers import resample_abs_pos_embed
from timm.layers.pos_embed_rel import resize_rel_pos_bias_table

from imgjax.interop import adapt


@pytest.mark.parametrize('side', [7, 16, 24])
def test_positions(side):
    table_1LD = np.random.default_rng(0).normal(size=(1, 1 + 14 * 14, 8)).astype(np.float32)
    theirs = resample_abs_pos_embed(
        torch.from_numpy(table_1LD), (side, side), num_prefix_tokens=1).numpy()
    np.testing.assert_allclose(adapt._positions(table_1LD, theirs.shape), theirs, atol=1e-5)


@pytest.mark.filterwarnings('ignore')  # timm's, of torch
@pytest.mark.parametrize('window', [4, 8, 12, 24])
@pytest.mark.parametrize('tokens', [0, 3])
def test_relative_positions(window, tokens):
    rows = 13 * 13 + tokens
    table_LH = np.random.default_rng(0).normal(size=(rows, 3)).astype(np.float32)
    shape = ((2 * window - 1) ** 2 + tokens, 3)
    theirs = resize_rel_pos_bias_table(
        torch.from_numpy(table_LH), (window, window), shape).numpy()
    np.testing.assert_allclose(adapt._relative(table_LH, shape), theirs, atol=1e-4)


def test_a_window_of_one_pixel_has_one_bias():
    table_LH = np.arange(3, dtype=np.float32)[None]
    np.testing.assert_array_equal(adapt._relative(table_LH, (9, 3)), np.repeat(table_LH, 9, axis=0))
