"""What several tests of the evaluators use."""

import numpy as np
import pytest


@pytest.fixture(scope='session')
def digits():
    """Digits of 8 x 8 pixels: train features and labels, eval features and labels."""
    from sklearn.datasets import load_digits

    images_ND, labels_N = load_digits(return_X_y=True)
    images_ND = images_ND.astype(np.float32)
    return images_ND[:400], labels_N[:400], images_ND[400:600], labels_N[400:600]
