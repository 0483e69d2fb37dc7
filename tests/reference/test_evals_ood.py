"""Scores of strangers and their measures against pytorch-ood 0.4.0 and scikit-learn."""

import numpy as np
import pytest

from imgjax.evals import ood, ood_scores

torch = pytest.importorskip('torch')
detector = pytest.importorskip('pytorch_ood.detector')
functional = pytest.importorskip('pytorch_ood.metrics.functional')
metrics = pytest.importorskip('sklearn.metrics')

HIGHEST = 1e-6  # relative difference


@pytest.fixture(autouse=True)
def double(monkeypatch):
    """Makes pytorch-ood compute in float64; it takes float32 in Mahalanobis and in ViM."""
    monkeypatch.setattr(torch.Tensor, 'float', torch.Tensor.double)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def data(images=600, features=24, classes=5, seed=0):
    """Returns ((features, labels), (features of others), (kernel_DK, bias_K))."""
    rng = np.random.default_rng(seed)
    centers = rng.normal(size=(classes, features))
    labels_N = np.arange(images) % classes
    scale = np.geomspace(0.1, 2, features)
    x_ND = np.maximum(centers[labels_N] + scale * rng.normal(size=(images, features)), -0.5)
    others_ND = 2 * rng.normal(size=(200, features))
    return (x_ND, labels_N), others_ND, (rng.normal(size=(features, classes)),
                                         rng.normal(size=classes))


def compare(ours_N, theirs) -> None:
    theirs_N = theirs.numpy()
    difference = np.abs(ours_N - theirs_N) / np.maximum(np.abs(theirs_N), 1e-3)
    print(f'largest relative difference {difference.max():.1e}')
    assert difference.max() < HIGHEST


@pytest.mark.parametrize('temperature', [1.0, 0.5, 20.0])
def test_scores_of_logits(temperature):
    logits_NK = 5 * np.random.default_rng(0).normal(size=(500, 7))
    logits = torch.tensor(logits_NK)
    if temperature == 1:
        compare(ood_scores.max_softmax(logits_NK), detector.MaxSoftmax.score(logits))
        compare(ood_scores.max_logit(logits_NK), detector.MaxLogit.score(logits))
    compare(ood_scores.energy(logits_NK, temperature),
            detector.EnergyBased.score(logits, temperature))


@pytest.mark.parametrize('features', [3, 24, 200])
def test_mahalanobis(features):
    (x_ND, labels_N), others_ND, _ = data(features=features)
    theirs = detector.Mahalanobis(None).fit_features(torch.tensor(x_ND), torch.tensor(labels_N))
    compare(ood_scores.mahalanobis(ood_scores.fit_mahalanobis(x_ND, labels_N), others_ND),
            theirs.predict_features(torch.tensor(others_ND)))


@pytest.mark.parametrize('k', [1, 10, 600])
@pytest.mark.parametrize('features', [3, 200])
def test_neighbors(k, features):
    (x_ND, labels_N), others_ND, _ = data(features=features)
    others_ND = np.concatenate([others_ND, np.zeros((1, features))])
    theirs = detector.KNN(None, k=k).fit_features(torch.tensor(x_ND), torch.tensor(labels_N))
    compare(ood_scores.neighbors(ood_scores.fit_neighbors(x_ND, k), others_ND),
            theirs.predict_features(torch.tensor(others_ND)))


@pytest.mark.parametrize('classes,features,dimension', [(5, 24, 12), (5, 24, 3), (30, 10, 4)])
def test_vim(classes, features, dimension):
    (x_ND, labels_N), others_ND, (kernel_DK, bias_K) = data(features=features, classes=classes)
    theirs = detector.ViM(None, dimension, torch.tensor(kernel_DK.T), torch.tensor(bias_K))
    theirs.fit_features(torch.tensor(x_ND), torch.tensor(labels_N))
    fitted = ood_scores.fit_vim(x_ND, x_ND @ kernel_DK + bias_K, kernel_DK, bias_K, dimension)
    compare(ood_scores.vim(fitted, others_ND, others_ND @ kernel_DK + bias_K),
            theirs.predict_features(torch.tensor(others_ND)))
    print(f'alpha {fitted["alpha"][0]:.6f}, theirs {theirs.alpha:.6f}')


@pytest.mark.parametrize('ties', [False, True])
@pytest.mark.parametrize('familiar,strange', [(500, 300), (20, 900), (3, 1)])
def test_measures(ties, familiar, strange):
    rng = np.random.default_rng(familiar)
    familiar_N, strange_M = rng.normal(size=familiar), rng.normal(1, 1, strange)
    if ties:
        familiar_N, strange_M = familiar_N.round(), strange_M.round()
    found = {name: one['value'] for name, one in ood.measure(familiar_N, strange_M).items()}
    scores = np.concatenate([familiar_N, strange_M])
    is_strange = np.arange(len(scores)) >= familiar
    arguments = torch.tensor(scores), torch.tensor(-is_strange.astype(int))
    precision, recall, _ = metrics.precision_recall_curve(is_strange, scores)
    expected = {
        'auroc': [functional.auroc(*arguments), metrics.roc_auc_score(is_strange, scores)],
        'aupr_strange': [functional.aupr(*arguments), metrics.auc(recall, precision)],
        'aupr_familiar': [functional.aupr(*arguments, positive='id')],
        'fpr95': [functional.fpr_at_tpr(*arguments)]}
    for name, values in expected.items():
        for value in values:
            print(f'{name}: difference {found[name] - float(value):.1e}')
            assert found[name] == pytest.approx(float(value), abs=1e-9)
