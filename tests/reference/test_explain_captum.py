"""Gradients, integrated gradients and occlusion as captum computes them.

The models are timm's with random weights, and ours with the same ones.
"""

import numpy as np
import pytest

pytest.importorskip('captum')

import captum.attr  # noqa: E402
import torch  # noqa: E402

from imgjax.explain import (  # noqa: E402
    gradient,
    input_x_gradient,
    integrated_gradients,
    occlusion,
    smoothgrad,
)
from tests.reference import test_explain_cam as cams  # noqa: E402

TARGETS_N = np.array([3, 141])
MODELS = [('resnet', 'resnet18'), ('vit', 'vit_tiny_patch16_224')]


@pytest.fixture(scope='module', params=MODELS, ids=[name for _, name in MODELS])
def model(request):
    """The name, timm's model, its images, and (apply_fn, variables, images, targets) of ours."""
    reference, x, ours = cams.pair(*request.param, 64)
    return request.param[1], reference, x, (*ours, TARGETS_N)


def attribute(of, x, **options):
    found = of.attribute(x.clone(), target=torch.tensor(TARGETS_N), **options)
    return found.detach().numpy().transpose(0, 2, 3, 1)


def test_the_gradient_is_captums(model):
    name, reference, x, ours = model
    saliency = captum.attr.Saliency(reference)
    found = gradient.attributions(*ours)
    cams.close(f'{name}, gradient', found, attribute(saliency, x, abs=False))
    cams.close(f'{name}, gradient, map', gradient.explain(*ours),
               attribute(saliency, x, abs=True).max(axis=3))


def test_the_gradient_times_the_image_is_captums(model):
    name, reference, x, ours = model
    theirs = attribute(captum.attr.InputXGradient(reference), x)
    cams.close(f'{name}, input x gradient', input_x_gradient.attributions(*ours), theirs)
    cams.close(f'{name}, input x gradient, map', input_x_gradient.explain(*ours),
               theirs.sum(axis=3))


@pytest.mark.parametrize('steps, baseline', [(50, 0.0), (20, 0.4)])
def test_integrated_gradients_are_captums(model, steps, baseline):
    name, reference, x, ours = model
    method = captum.attr.IntegratedGradients(reference)
    theirs = attribute(method, x, n_steps=steps, baselines=baseline, method='gausslegendre')
    found = integrated_gradients.attributions(*ours, steps=steps, baseline=baseline)
    # A ReLU whose input at a step is nearly 0 may be on in one package and off in the other, and
    # changes the gradient there: for ResNet-18 the median step differs by 4e-7, the largest by
    # 4e-3, and captum's own results in float32 and float64 by 1.1e-4 with 50 steps from 0.4.
    tolerance = 1e-3 if name == 'resnet18' else 1e-4
    cams.close(f'{name}, integrated gradients, {steps} steps', found, theirs, tolerance)
    mean = np.abs(found - theirs).mean() / np.abs(theirs).mean()
    print(f'{name}, integrated gradients, {steps} steps: mean difference {mean:.1e} of the mean')
    assert mean < 1e-3
    delta = method.compute_convergence_delta(
        torch.tensor(theirs.transpose(0, 3, 1, 2)), baseline, x, target=torch.tensor(TARGETS_N))
    error_N, change_N = integrated_gradients.completeness(*ours, steps=steps, baseline=baseline)
    difference = np.abs(error_N - np.abs(delta.numpy())).max() / np.abs(change_N).max()
    print(f'{name}, its completeness: largest difference {difference:.1e} of the largest change')
    assert difference < 1e-4


@pytest.mark.parametrize('window, stride, baseline', [(16, 8, 0.0), (20, 15, 0.4)])
def test_occlusion_is_captums(model, window, stride, baseline):
    """The second one has squares that pass the edge."""
    name, reference, x, ours = model
    with torch.no_grad():
        theirs = attribute(captum.attr.Occlusion(reference), x, strides=(3, stride, stride),
                           sliding_window_shapes=(3, window, window), baselines=baseline,
                           perturbations_per_eval=16)
    assert np.ptp(theirs, axis=3).max() == 0  # all channels of a pixel have its value
    found = occlusion.explain(*ours, window=window, stride=stride, baseline=baseline)
    cams.close(f'{name}, occlusion by {window} every {stride}', found, theirs[..., 0])


def test_smoothgrad_is_captums_but_for_the_noise(model):
    """Our mean differs from captum's as captum's with another seed does."""
    name, reference, x, ours = model
    samples, noise = 32, 0.15
    tunnel = captum.attr.NoiseTunnel(captum.attr.Saliency(reference))
    deviations = [noise * float(np.ptp(image)) for image in ours[2]]

    def theirs(seed):
        torch.manual_seed(seed)
        return np.concatenate([tunnel.attribute(
            x[n:n + 1], target=int(TARGETS_N[n]), nt_type='smoothgrad', nt_samples=samples,
            nt_samples_batch_size=16, stdevs=deviation, abs=False,
        ).detach().numpy().transpose(0, 2, 3, 1) for n, deviation in enumerate(deviations)])

    one, two = theirs(0), theirs(1)
    found = smoothgrad.attributions(*ours, samples=samples, noise=noise)

    def distance(a, b):
        return np.sqrt(((a - b) ** 2).mean() / (one ** 2).mean())

    between, ours_to_theirs = distance(one, two), distance(found, one)
    print(f'{name}, smoothgrad: {ours_to_theirs:.3f} from captum, whose runs differ by '
          f'{between:.3f}')
    # Noise of half or twice the deviation makes the ratio 0.79 or 1.58.
    assert 0.85 < ours_to_theirs / between < 1.15
