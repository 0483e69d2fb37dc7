"""The tests of explanations are those of quantus 0.6.0, on one network with equal weights.

Where quantus differs from the papers, the paper is followed and the test says how:
- Its curve of deletion has no point before the first step, and its area is in steps, not in shares.
- Its SensitivityN correlates over images, with the sums over growing sets of the most important
  pixels. Ancona et al. correlate over random sets of one image, as its FaithfulnessCorrelation.
- Its Infidelity removes one square after the other and puts none of them back.
- Its PointingGame counts a hit if any of several maxima is in the box.
"""

import copy

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imgjax.explain.metrics import (
    deletion,
    infidelity,
    pointing_game,
    randomization,
    road,
    sensitivity_n,
)
from imgjax.explain.metrics.order import generator

torch = pytest.importorskip('torch')
quantus = pytest.importorskip('quantus')
pytestmark = pytest.mark.filterwarnings('ignore')
QUIET = {'disable_warnings': True, 'normalise': False, 'abs': False}
IMAGES = 6


class Network(torch.nn.Module):
    """Two convolutions and a classifier, as `apply_fn`."""

    def __init__(self):
        super().__init__()
        self.conv1 = torch.nn.Conv2d(1, 4, 3, padding=1)
        self.conv2 = torch.nn.Conv2d(4, 4, 3, padding=1)
        self.head = torch.nn.Linear(256, 5)

    def forward(self, x):
        x = torch.tanh(self.conv2(torch.tanh(self.conv1(x))))
        return self.head(x.permute(0, 2, 3, 1).flatten(1))


def apply_fn(variables, images_NHWC):
    params, x = variables['params'], images_NHWC
    for name in ('conv1', 'conv2'):
        x = jax.lax.conv_general_dilated(x, params[name]['kernel'], (1, 1), 'SAME',
                                         dimension_numbers=('NHWC', 'HWIO', 'NHWC'))
        x = jnp.tanh(x + params[name]['bias'][None, None, None])
    return x.reshape(len(x), -1) @ params['head']['kernel'] + params['head']['bias'][None], {}


def variables_of(model):
    def layer(module):
        weight = module.weight.detach().numpy()
        kernel = weight.T if weight.ndim == 2 else weight.transpose(2, 3, 1, 0)
        return {'kernel': jnp.asarray(kernel.copy()),
                'bias': jnp.asarray(module.bias.detach().numpy().copy())}

    return {'params': {name: layer(getattr(model, name)) for name in ('conv1', 'conv2', 'head')}}


@jax.jit
def gradients(variables, images_NHWC, targets_N):
    def total(images_NHWC):
        logits_NK = apply_fn(variables, images_NHWC)[0]
        return jnp.take_along_axis(logits_NK, targets_N[:, None], axis=1).sum()

    return jax.grad(total)(images_NHWC)


def explain(apply_fn, variables, images_NHWC, targets_N):
    return np.asarray(gradients(variables, images_NHWC, targets_N))[..., 0]


def theirs(model, inputs, targets, **kwargs):
    """The gradient, as quantus calls a method."""
    inputs = torch.as_tensor(np.asarray(inputs), dtype=torch.float32).requires_grad_()
    logits = model(inputs)[torch.arange(len(inputs)), torch.as_tensor(targets).long()]
    return torch.autograd.grad(logits.sum(), inputs)[0].numpy()


@pytest.fixture(scope='module')
def example():
    """(model, x in NCHW, targets, maps in NCHW) of torch, and the arguments of ours."""
    torch.manual_seed(0)
    model = Network().eval()
    rng = np.random.default_rng(0)
    images_NCHW = 2 * rng.normal(size=(IMAGES, 1, 8, 8)).astype(np.float32)
    with torch.no_grad():
        model.head.weight.mul_(5)
        targets_N = model(torch.as_tensor(images_NCHW)).argmax(1).numpy().astype(np.int32)
    variables, images_NHWC = variables_of(model), images_NCHW.transpose(0, 2, 3, 1)
    maps_NHW = explain(apply_fn, variables, images_NHWC, targets_N)
    return ((model, images_NCHW, targets_N, maps_NHW[:, None]),
            (apply_fn, variables, images_NHWC, targets_N), maps_NHW)


def difference(ours, theirs, most):
    largest = np.abs(np.asarray(ours) - np.asarray(theirs)).max()
    print(f'largest difference {largest:.1e}')
    assert largest <= most


def test_the_methods_are_equal(example):
    model, images_NCHW, targets_N, maps_NCHW = example[0]
    difference(maps_NCHW, theirs(model, images_NCHW, targets_N), 1e-5)


def test_deletion(example):
    found = deletion.measure(*example[1], example[2], steps=16)
    metric = quantus.PixelFlipping(features_in_step=4, perturb_baseline=0.0, **QUIET)
    curves_NT = np.array(metric(*example[0], softmax=True, channel_first=True))
    difference(found['deletion_curve'][1:], curves_NT.mean(axis=0), 1e-5)
    assert curves_NT.std() > 0.1
    first_N = torch.softmax(example[0][0](torch.as_tensor(example[0][1])), 1).detach().numpy()[
        np.arange(IMAGES), example[0][2]]
    areas_N = np.trapezoid(np.column_stack([first_N, curves_NT]), dx=1 / 16, axis=1)
    difference(found['deletion']['per_image'], areas_N, 1e-5)


@pytest.mark.parametrize('relevance', [1, -1])
def test_road_without_noise(example, relevance):
    """With the opposite map the order is that of the least relevant pixels first."""
    model, images_NCHW, targets_N, maps_NCHW = example[0]
    percentages = [5, 10, 20, 30, 50, 70, 90]
    metric = quantus.ROAD(percentages=percentages, noise=0.0, **QUIET)
    scores = metric(model, images_NCHW, targets_N, relevance * maps_NCHW, channel_first=True)
    found = road.measure(*example[1], example[2], shares=[p / 100 for p in percentages], noise=0.0)
    key = 'morf' if relevance > 0 else 'lerf'
    assert [row[key] for row in found['rows']] == pytest.approx(list(scores.values()))
    assert len(set(scores.values())) > 2


@pytest.mark.parametrize('share', [0.05, 0.3, 0.8])
def test_imputed_images(share):
    from quantus.functions.perturb_func import noisy_linear_imputation

    rng = np.random.default_rng(1)
    image_HWC = rng.normal(size=(12, 9, 3)).astype(np.float32)
    removed_R = rng.permutation(108)[:int(share * 108)]
    expected = noisy_linear_imputation(image_HWC.transpose(2, 0, 1), removed_R.copy(), noise=0.0)
    difference(road.impute(image_HWC, removed_R, np.zeros(image_HWC.shape)),
               expected.transpose(1, 2, 0), 1e-6)


def test_sensitivity_n_is_their_faithfulness_correlation(example, monkeypatch):
    """The correlation of one n, with the same random pixels."""
    changes = sensitivity_n.changes(*example[1], shares=[0.2], subsets=30)
    found = sensitivity_n.measure(changes, example[2])
    chosen_NSR = np.stack([next(sensitivity_n.pixels(64, changes.sizes_T, 30, 0, index))
                           for index in range(IMAGES)])
    order = iter(chosen_NSR.transpose(1, 0, 2).reshape(-1, chosen_NSR.shape[2]))
    monkeypatch.setattr(np.random, 'choice', lambda *args, **kwargs: next(order))
    metric = quantus.FaithfulnessCorrelation(
        nr_runs=30, subset_size=int(changes.sizes_T[0]), perturb_baseline=0.0,
        return_aggregate=False, **QUIET)
    scores_N = metric(*example[0], softmax=False, channel_first=True)
    difference(found['rows'][0]['per_image'], scores_N, 1e-4)
    assert np.std(scores_N) > 0.05


def test_infidelity_with_their_growing_squares(example):
    """Quantus removes a second square without putting back the first, and so on."""
    blocks_SHW = np.zeros((4, 8, 8), bool)
    for place, (top, left) in enumerate([(0, 0), (0, 4), (4, 0), (4, 4)]):
        blocks_SHW[place:, top:top + 4, left:left + 4] = True
    changes = infidelity.changes(*example[1], masks_NSHW=np.tile(blocks_SHW, (IMAGES, 1, 1, 1)))
    found = infidelity.measure(changes, example[2], multiplied=False)
    metric = quantus.Infidelity(perturb_patch_sizes=[4], n_perturb_samples=1, perturb_baseline=0.0,
                                **QUIET)
    scores_N = np.array(metric(*example[0], softmax=False, channel_first=True))
    print(f'scores {scores_N}')
    difference(found['infidelity']['per_image'] / scores_N, 1, 1e-4)


def test_infidelity_is_that_of_captum(example):
    metrics = pytest.importorskip('captum.metrics')
    model, images_NCHW, targets_N, maps_NCHW = example[0]
    changes = infidelity.changes(*example[1])

    def perturb(inputs):
        removed = inputs * torch.as_tensor(next(steps)[:, None])
        return removed, inputs - removed

    for key, normalize in (('infidelity', False), ('scaled', True)):
        steps = iter(changes.masks_NSHW.transpose(1, 0, 2, 3))
        scores_N = metrics.infidelity(
            model, perturb, torch.as_tensor(images_NCHW), torch.as_tensor(maps_NCHW),
            target=torch.as_tensor(targets_N).long(), n_perturb_samples=infidelity.SQUARES,
            max_examples_per_batch=IMAGES, normalize=normalize).detach().numpy()
        found = infidelity.measure(changes, example[2], multiplied=False)
        difference(found[key]['per_image'] / scores_N, 1, 1e-4)


@pytest.fixture
def same_weights(example, monkeypatch):
    """Gives our test the random weights of quantus."""
    reference = quantus.helpers.model.pytorch_model.PyTorchModel(
        example[0][0], channel_first=True, softmax=False)
    states = {name: variables_of(copy.deepcopy(model))['params'][name]
              for name, model in reference.get_random_layer_generator('top_down', 42)}

    def randomized(variables, names, seed):
        params = variables['params']
        return {'params': params | {name: states[name] for name in names}}

    monkeypatch.setattr(randomization, 'randomized', randomized)


@pytest.mark.parametrize('absolute', [False, True])
@pytest.mark.parametrize('order', ['top_down', 'bottom_up'])
def test_cascade(example, same_weights, order, absolute):
    found = randomization.measure(explain, *example[1], example[2], absolute=absolute,
                                  bottom_up=order == 'bottom_up')
    metric = quantus.MPRT(layer_order=order, seed=42, **QUIET | {'abs': absolute})
    scores = metric(*example[0], explain_func=theirs, channel_first=True, softmax=False)
    assert list(scores)[0] == 'original' and len(scores) == 4
    assert [stage['layer'] for stage in found['stages']] == list(scores)[1:]
    for stage in found['stages']:
        difference(stage['per_image'], scores[stage['layer']], 2e-3)
        assert abs(stage['mean']) < 0.99


def test_smooth_cascade_with_the_same_noise(example, same_weights, monkeypatch):
    samples = 5
    draws = []

    def randn(*shape):
        if not draws:
            draws.append([generator(0, index, 'smooth') for index in range(IMAGES)])
            draws.append(0)
        draws[1] += 1
        if draws[1] == samples:
            draws[0], draws[1] = [generator(0, index, 'smooth') for index in range(IMAGES)], 1
        return np.stack([rng.normal(size=(8, 8, 1)).transpose(2, 0, 1) for rng in draws[0]])

    smooth = randomization.smooth(explain, samples=samples, noise=0.1)
    maps_NHW = smooth(*example[1])
    found = randomization.measure(smooth, *example[1], maps_NHW)
    monkeypatch.setattr(np.random, 'randn', randn)
    metric = quantus.SmoothMPRT(nr_samples=samples, noise_magnitude=0.1, layer_order='top_down',
                                seed=42, **QUIET)
    scores = metric(*example[0][:3], a_batch=None, explain_func=theirs, channel_first=True,
                    softmax=False)
    for stage in found['stages']:
        difference(stage['per_image'], scores[stage['layer']], 2e-3)


def test_rise_in_complexity(example, same_weights):
    found = randomization.measure(explain, *example[1], example[2], stages=1)
    metric = quantus.EfficientMPRT(seed=42, complexity_func_kwargs={'n_bins': 100}, **QUIET)
    scores_N = metric(*example[0], explain_func=theirs, channel_first=True, softmax=True)
    difference(found['complexity']['per_image'], scores_N, 1e-6)


def test_pointing_game(example):
    boxes_N = [[(0, 0, 4, 8)] if index % 2 else [(0, 0, 8, 4), (6, 6, 8, 8)]
               for index in range(IMAGES)]
    masks_NCHW = np.zeros((IMAGES, 1, 8, 8))
    for mask_CHW, boxes in zip(masks_NCHW, boxes_N, strict=True):
        for top, left, bottom, right in boxes:
            mask_CHW[:, top:bottom, left:right] = 1
    maps_NHW = np.abs(example[2])
    scores_N = quantus.PointingGame(**QUIET)(
        *example[0][:3], a_batch=maps_NHW[:, None], s_batch=masks_NCHW, channel_first=True)
    found = pointing_game.measure(maps_NHW, boxes_N)
    assert found['hits']['per_image'] == list(map(bool, scores_N))
    mass_N = quantus.RelevanceMassAccuracy(**QUIET)(
        *example[0][:3], a_batch=maps_NHW[:, None], s_batch=masks_NCHW, channel_first=True)
    difference(found['energy']['per_image'], mass_N, 1e-6)
