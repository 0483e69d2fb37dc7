import numpy as np
import pytest

from imgjax.errors import DataError
from imgjax.evals import ood_scores


@pytest.fixture(scope='module')
def head():
    """The kernel and the bias of a linear head, float32 (64, 10) and (10,)."""
    rng = np.random.default_rng(0)
    return (rng.normal(size=(64, 10)).astype(np.float32),
            rng.normal(size=10).astype(np.float32))


@pytest.fixture(scope='module')
def fits(digits, head):
    train_ND, labels_N, _, _ = digits
    return {'max_softmax': {}, 'max_logit': {}, 'energy': {},
            'mahalanobis': ood_scores.fit_mahalanobis(train_ND, labels_N),
            'neighbors': ood_scores.fit_neighbors(train_ND),
            'vim': ood_scores.fit_vim(train_ND, train_ND @ head[0] + head[1], *head)}


def test_scores_of_logits_by_hand():
    logits_NK = np.log(np.array([[0.7, 0.2, 0.1], [4.0, 4.0, 8.0]]))
    np.testing.assert_allclose(ood_scores.max_softmax(logits_NK), [-0.7, -0.5])
    np.testing.assert_allclose(ood_scores.max_logit(logits_NK), -np.log([0.7, 8]))
    np.testing.assert_allclose(ood_scores.energy(logits_NK), [0, -np.log(16)], atol=1e-12)
    np.testing.assert_allclose(ood_scores.energy(logits_NK, 0.5), -0.5 * np.log([0.54, 96]))


def test_large_logits_overflow_nowhere():
    logits_NK = np.array([[1e4, 0.0], [-1e4, -1e4]], np.float32)
    assert ood_scores.energy(logits_NK).tolist() == [-1e4, 1e4 - np.log(2)]
    assert ood_scores.max_softmax(logits_NK).tolist() == [-1, -0.5]


def test_mahalanobis_by_hand():
    x_ND = np.array([[0, 1], [0, -1], [10, 3], [10, -3], [9, 0], [11, 0], [-1, 0], [1, 0]])
    labels_N = np.array([0, 0, 7, 7, 7, 7, 0, 0])  # 1 to 6 have no images
    fitted = ood_scores.fit_mahalanobis(x_ND.astype(np.float32), labels_N)
    assert fitted['means'].shape == (2, 2)
    # The sums of squares are 4 along x and 2 + 18 along y.
    scores = ood_scores.mahalanobis(fitted, np.array([[0, 0], [2, 0], [10, 4], [6, 0]]))
    np.testing.assert_allclose(scores, [0, 4 / 4 / 2, 16 / 20 / 2, 16 / 4 / 2], rtol=1e-6,
                               atol=1e-12)


def test_features_that_never_vary_are_no_obstacle(digits):
    train_ND, labels_N, _, _ = digits
    constant = train_ND.std(0) == 0
    assert constant.any()
    fitted = ood_scores.fit_mahalanobis(train_ND, labels_N)
    other_ND = train_ND[:3] + constant * np.float32(1)
    assert (ood_scores.mahalanobis(fitted, other_ND)
            > 1e5 + ood_scores.mahalanobis(fitted, train_ND[:3])).all()


def test_neighbors_are_compared_by_their_direction():
    base_ND = np.array([[1, 0], [5, 0], [0, 2], [-3, 0]], np.float32)
    query_ND = np.array([[7, 0], [0, 0.1], [0, 0]], np.float32)
    for k, expected in [(1, [0, 0, 1]), (2, [0, 2 ** 0.5, 1]), (4, [2, 2 ** 0.5, 1])]:
        found = ood_scores.neighbors(ood_scores.fit_neighbors(base_ND, k), query_ND)
        np.testing.assert_allclose(found, expected, atol=1e-7)


@pytest.mark.parametrize(('images', 'k'), [(5, 1), (100, 5), (999, 49), (1000, 50), (3000, 50)])
def test_the_neighbor_of_few_images(images, k):
    rows_ND = np.random.default_rng(0).normal(size=(images, 2))
    assert ood_scores.fit_neighbors(rows_ND)['k'].tolist() == [k]


@pytest.mark.parametrize(('features', 'dimension'), [(10, 5), (767, 383), (768, 512), (1501, 1000)])
def test_vim_takes_the_dimensions_of_its_paper(features, dimension):
    assert ood_scores.principal_dimension(features) == dimension


def test_vim_adds_what_lies_outside_of_the_principal_space(digits, head, fits):
    train_ND, fitted = digits[0], fits['vim']
    np.testing.assert_allclose(fitted['residual'].T @ fitted['residual'], np.eye(32), atol=1e-9)
    # At the origin all logits are 0; alpha makes the virtual logit as large as the others.
    np.testing.assert_allclose(fitted['origin'] @ head[0] + head[1], 0, atol=1e-4)
    logits_NK = train_ND @ head[0] + head[1]
    virtual_N = ood_scores.vim(fitted, train_ND, logits_NK) - ood_scores.energy(logits_NK)
    assert virtual_N.mean() == pytest.approx(logits_NK.max(1).mean(), rel=1e-4)
    moved_ND = train_ND + 100 * fitted['residual'][:, 0]
    moved_N = ood_scores.vim(fitted, moved_ND, logits_NK) - ood_scores.energy(logits_NK)
    assert (moved_N > virtual_N).mean() == 1


@pytest.mark.parametrize('name', ood_scores.NAMES)
def test_a_score_does_not_depend_on_the_other_images(name, digits, head, fits, monkeypatch):
    features_ND = digits[2]
    logits_NK = features_ND @ head[0] + head[1]
    whole_N = ood_scores.score(name, fits[name], features_ND, logits_NK)
    assert whole_N.shape == (200,) and whole_N.dtype == np.float64
    parts_N = np.concatenate([
        ood_scores.score(name, fits[name], features_ND[rows], logits_NK[rows])
        for rows in (slice(0, 3), slice(3, 200))])
    np.testing.assert_allclose(whole_N, parts_N, rtol=1e-9)


@pytest.mark.parametrize('name', ['mahalanobis', 'neighbors', 'vim'])
def test_digits_are_told_from_noise(name, digits, head, fits):
    noise_ND = np.random.default_rng(1).uniform(0, 16, (200, 64)).astype(np.float32)
    own_N, noise_N = (ood_scores.score(name, fits[name], x_ND, x_ND @ head[0] + head[1])
                      for x_ND in (digits[2], noise_ND))
    assert np.quantile(own_N, 0.95) < np.quantile(noise_N, 0.05)


def test_what_a_file_holds_is_checked(fits):
    for name, fitted in fits.items():
        ood_scores.check_fitted(name, fitted, 64)
        for key, array in fitted.items():
            bad = [array[..., None], array.astype(np.int8 if key != 'k' else np.float32),
                   array[:0]]
            if key != 'k':
                bad.append(array * np.nan)
            for changed in bad:
                with pytest.raises(DataError, match=f"'{name}': {key} is .*fit it again"):
                    ood_scores.check_fitted(name, fitted | {key: changed}, 64)
            with pytest.raises(DataError, match='has the arrays'):
                ood_scores.check_fitted(
                    name, {word: one for word, one in fitted.items() if word != key}, 64)
        if fitted:
            with pytest.raises(DataError, match='for 65 features'):
                ood_scores.check_fitted(name, fitted, 65)
    for k in (0, 401, -1):
        with pytest.raises(DataError, match=f'k is {k} for 400 images'):
            ood_scores.check_fitted('neighbors', fits['neighbors'] | {'k': np.array([k])}, 64)
    with pytest.raises(DataError, match="'no_such'"):
        ood_scores.check_fitted('no_such', {}, 64)


def test_wrong_arrays_are_refused(digits, head):
    train_ND, labels_N, _, _ = digits
    with pytest.raises(DataError, match='one class per image'):
        ood_scores.fit_mahalanobis(train_ND, labels_N[:5])
    with pytest.raises(DataError, match='400 images have no neighbour 500'):
        ood_scores.fit_neighbors(train_ND, 500)
    with pytest.raises(DataError, match='head: a kernel'):
        ood_scores.fit_vim(train_ND[:, :9], train_ND @ head[0], *head)
    few_ND = train_ND[:20]
    with pytest.raises(DataError, match='nothing of them lies outside of 32 dimensions'):
        ood_scores.fit_vim(few_ND, few_ND @ head[0] + head[1], *head)
    with pytest.raises(DataError, match='not finite'):
        ood_scores.fit_neighbors(train_ND * np.float32(np.nan))
