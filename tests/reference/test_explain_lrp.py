"""Layer-wise relevance propagation as captum computes it."""

import numpy as np
import pytest
from flax import linen as nn

from imgjax.explain import lrp

torch = pytest.importorskip('torch')
captum = pytest.importorskip('captum')
from captum.attr import LRP  # noqa: E402
from captum.attr._utils.lrp_rules import EpsilonRule  # noqa: E402

CLASSES = 5


class Net(nn.Module):
    """Convolutions, ReLUs, a max pooling and two dense layers, all with biases."""

    @nn.compact
    def __call__(self, images_NHWC):
        x = nn.relu(nn.Conv(6, (3, 3), name='conv1')(images_NHWC))
        x = nn.max_pool(x, (2, 2), (2, 2))
        x = nn.relu(nn.Conv(8, (3, 3), name='conv2')(x))
        x = nn.relu(nn.Dense(16, name='hidden')(x.reshape(x.shape[0], -1)))
        return nn.Dense(CLASSES, name='head')(x), {}


def apply_fn(variables, images_NHWC):
    return Net().apply(variables, images_NHWC)


def both(side):
    """Returns variables of `Net`, and the same network in torch."""
    rng = np.random.default_rng(0)
    rest = side // 2
    shapes = {'conv1': (3, 3, 3, 6), 'conv2': (3, 3, 6, 8), 'hidden': (rest * rest * 8, 16),
              'head': (16, CLASSES)}
    params = {name: {
        'kernel': (rng.normal(size=shape) * (2 / np.prod(shape[:-1])) ** 0.5).astype(np.float32),
        'bias': 0.3 * rng.normal(size=shape[-1]).astype(np.float32)}
        for name, shape in shapes.items()}
    layers = torch.nn.Sequential(
        torch.nn.Conv2d(3, 6, 3, padding=1), torch.nn.ReLU(), torch.nn.MaxPool2d(2),
        torch.nn.Conv2d(6, 8, 3, padding=1), torch.nn.ReLU(), torch.nn.Flatten(),
        torch.nn.Linear(rest * rest * 8, 16), torch.nn.ReLU(), torch.nn.Linear(16, CLASSES))
    # torch flattens (C, H, W), flax (H, W, C).
    hidden = params['hidden']['kernel'].reshape(rest, rest, 8, 16).transpose(2, 0, 1, 3)
    weights = [params['conv1']['kernel'].transpose(3, 2, 0, 1),
               params['conv2']['kernel'].transpose(3, 2, 0, 1),
               hidden.reshape(-1, 16).T, params['head']['kernel'].T]
    with torch.no_grad():
        for index, name, weight in zip((0, 3, 6, 8), shapes, weights, strict=True):
            layers[index].weight.copy_(torch.tensor(weight.copy()))
            layers[index].bias.copy_(torch.tensor(params[name]['bias']))
    return {'params': params}, layers.eval()


@pytest.mark.parametrize('epsilon', [1e-6, 0.1, 0.5])
def test_relevance_is_captums(epsilon):
    side = 12
    variables, layers = both(side)
    images = np.random.default_rng(1).normal(size=(4, side, side, 3)).astype(np.float32)
    targets = np.array([0, 2, 4, 1])
    for layer in layers:
        if hasattr(layer, 'weight'):
            layer.rule = EpsilonRule(epsilon)
    # Maxima and a flattening have no sum to stabilise; captum has an epsilon there, too.
    layers[2].rule, layers[5].rule = EpsilonRule(1e-9), EpsilonRule(1e-9)
    x = torch.tensor(images.transpose(0, 3, 1, 2).copy()).requires_grad_()
    theirs = LRP(layers).attribute(x, target=torch.tensor(targets)).detach().numpy()
    expected = theirs.transpose(0, 2, 3, 1)
    found = np.asarray(lrp.attributions(apply_fn, variables, images, targets, epsilon=epsilon))
    largest = np.abs(expected).max()
    difference = np.abs(found - expected).max() / largest
    print(f'epsilon {epsilon}: largest difference {difference:.1e} of the largest relevance')
    assert difference < 1e-4
    logits_N = np.asarray(apply_fn(variables, images)[0])[np.arange(4), targets]
    assert np.abs(layers(x).detach().numpy()[np.arange(4), targets] - logits_N).max() < 1e-5
