"""CKA with the unbiased estimate of HSIC, whole and in batches, against ckatorch."""

import numpy as np
import pytest
import torch

from imgjax.evals import representation

core = pytest.importorskip('ckatorch.core')


def layers():
    """Three layers of 300 images, each computed from the one before."""
    rng = np.random.default_rng(0)
    features = [rng.normal(size=(300, 20)) + 2]
    for width in (40, 11):
        kernel_DE = rng.normal(size=(features[-1].shape[1], width))
        features.append(np.maximum(features[-1] @ kernel_DE, 0) + rng.normal(size=(300, width)))
    return [layer_ND.astype(np.float32) for layer_ND in features]


@pytest.mark.parametrize('batch', [300, 50, 20])
def test_cka(batch):
    batches, size = representation._batches(300, batch)
    order_N = np.random.default_rng(3).permutation(300)[:batches * size]
    batched = [torch.from_numpy(layer_ND[order_N].reshape(batches, size, -1))
               for layer_ND in layers()]
    theirs_LL = [[float(core.cka_batch(first, second)) for second in batched] for first in batched]
    ours_LL = representation.cka(layers(), batch=batch, seed=3)
    print(f'batches of {batch}: {np.abs(ours_LL - theirs_LL).max():.1e}')
    assert 0.05 < theirs_LL[0][2] < 0.95
    np.testing.assert_allclose(ours_LL, theirs_LL, atol=1e-5)


def test_cka_of_the_whole_is_that_of_centred_gram_matrices():
    theirs_LL = [[float(core.cka_base(torch.from_numpy(first), torch.from_numpy(second),
                                      unbiased=True)) for second in layers()] for first in layers()]
    np.testing.assert_allclose(representation.cka(layers(), batch=300), theirs_LL, atol=1e-5)
