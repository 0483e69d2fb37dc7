"""SHAP: the values add up, and are those of the package on the same model in torch."""

import sys

import numpy as np
import pytest

pytest.importorskip('shap')

import shap  # noqa: E402
import torch  # noqa: E402

from imgjax.errors import ConfigError, DataError  # noqa: E402
from imgjax.explain import copies, partition_shap  # noqa: E402
from tests.explain.test_gradient import linear  # noqa: E402
from tests.explain.test_layers import filled  # noqa: E402
from tests.reference import test_explain_cam as cams  # noqa: E402

rng = np.random.default_rng(0)


def of_linear(height, width, channels, count=3):
    """Weights, images and targets of a linear model, whose values are known."""
    weights_HWCK = rng.normal(size=(height, width, channels, 4)).astype(np.float32)
    images_NHWC = rng.normal(size=(count, height, width, channels)).astype(np.float32)
    return weights_HWCK, images_NHWC, np.arange(count) % 4


@pytest.mark.parametrize('shape', [(8, 8, 1), (3, 5, 2), (1, 2, 1)])
def test_of_a_linear_model_each_pixel_has_its_own_part(shape):
    """With evaluations for all pixels, and some baseline."""
    weights_HWCK, images_NHWC, targets_N = of_linear(*shape)
    found = partition_shap.explain(linear, weights_HWCK, images_NHWC, targets_N, baseline=0.5,
                                   evaluations=20_000)
    weights_NHWC = weights_HWCK.transpose(3, 0, 1, 2)[targets_N]
    expected = ((images_NHWC - np.float32(0.5)) * weights_NHWC).sum(axis=3)
    assert found.dtype == np.float32 and partition_shap.SIGNED
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize('name, side, evaluations', [
    ('linear', 8, 2), ('linear', 8, 37), ('tiny_resnet', 32, 200), ('tiny_vit', 32, 200)])
@pytest.mark.parametrize('baseline', [0.0, 0.3])
def test_the_values_add_up_to_the_change_of_the_logit(name, side, evaluations, baseline):
    if name == 'linear':
        weights, images_NHWC, targets_N = of_linear(side, side, 1)
        apply_fn = linear
    else:
        (apply_fn, weights, images_NHWC), targets_N = filled(name, side, side), np.array([0, 3])
    maps_NHW = partition_shap.explain(apply_fn, weights, images_NHWC, targets_N,
                                      evaluations=evaluations, baseline=baseline)
    logits_N, baseline_N = (np.asarray(copies.logit(apply_fn, weights, x, targets_N)) for x in (
        images_NHWC, np.full_like(images_NHWC, baseline)))
    difference = np.abs(maps_NHW.sum((1, 2)) - (logits_N - baseline_N)).max()
    share = difference / np.abs([logits_N, baseline_N]).max()
    print(f'{name}, sum of the values: largest difference {share:.1e} of the largest logit')
    assert share < 1e-6


@pytest.mark.parametrize('family, variant', [
    ('resnet', 'resnet18'), ('vit', 'vit_tiny_patch16_224')])
def test_the_values_are_those_of_shap_on_the_model_in_torch(family, variant):
    reference, x, (apply_fn, variables, image_NHWC) = cams.pair(family, variant, 64)
    targets_N = np.array([3, 141])

    def logits(versions_NHWC):
        with torch.no_grad():
            return reference(torch.tensor(versions_NHWC.transpose(0, 3, 1, 2).copy())).numpy()

    masker = shap.maskers.Image(np.zeros((64, 64, 3), np.float32), (64, 64, 3))
    explainer = shap.PartitionExplainer(logits, masker)
    values = np.concatenate([explainer(
        np.asarray(image_NHWC[n:n + 1]), max_evals=100, batch_size=partition_shap.BATCH,
        outputs=np.array([target]), silent=True).values for n, target in enumerate(targets_N)])
    found = partition_shap.explain(apply_fn, variables, image_NHWC, targets_N, evaluations=100)
    cams.close(f'{variant}, partition shap', found, values[..., 0].sum(axis=3))


@pytest.mark.parametrize('fit', [1, 4, 64])
def test_a_map_depends_on_its_image_alone(fit, monkeypatch):
    weights_HWCK, images_NHWC, targets_N = of_linear(8, 8, 1)
    images_NHWC[:, :4] = 0  # as the baseline: shap orders these by chance
    given = linear, weights_HWCK, images_NHWC, targets_N
    np.random.seed(1)
    state = np.random.get_state()[1].copy()
    together = partition_shap.explain(*given, evaluations=41)
    np.testing.assert_array_equal(np.random.get_state()[1], state)
    np.random.seed(2)
    monkeypatch.setattr(copies, 'at_once', lambda *args: fit)
    alone = partition_shap.explain(*given[:2], images_NHWC[1:2], targets_N[1:2], evaluations=41)
    np.testing.assert_allclose(alone[0], together[1], atol=1e-5)


def test_programs_are_few():
    given = linear, *of_linear(8, 8, 1)
    copies.logits.clear_cache()
    partition_shap.explain(*given, evaluations=300)
    assert copies.logits._cache_size() <= 9  # 1, 2, 4, ... 256 images


def test_what_does_not_fit_is_refused(monkeypatch):
    weights_HWCK, images_NHWC, targets_N = of_linear(8, 8, 1)
    for options in ({'evaluations': 1}, {'baseline': np.nan}):
        with pytest.raises(ConfigError, match='evaluations: .*baseline: .*give 2 or more'):
            partition_shap.explain(linear, weights_HWCK, images_NHWC, targets_N, **options)
    with pytest.raises(DataError, match='no class'):
        partition_shap.explain(linear, weights_HWCK, images_NHWC, targets_N + 2)
    with pytest.raises(DataError, match='logits: not finite'):
        partition_shap.explain(linear, weights_HWCK * np.float32(np.inf), images_NHWC, targets_N)
    monkeypatch.setitem(sys.modules, 'shap', None)
    with pytest.raises(ConfigError, match=r"pip install 'imgjax\[shap\]'"):
        partition_shap.explain(linear, weights_HWCK, images_NHWC, targets_N)
