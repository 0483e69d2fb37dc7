"""What predictions take from a card: it fits the checkpoint, keeps its promise, and is checked."""

import json
import types

import numpy as np
import pytest

from imgjax.commands import calibrated
from imgjax.errors import ConfigError, DataError
from imgjax.evals import ood_scores, recalibration
from imgjax.rundir.dataset_info import DatasetInfo

NAMES = ['cat', 'dog', 'bird']
_DATASET = DatasetInfo(NAMES, [8, 8, 1], 100, 100, 'a', 'b')
# Of the run only its dataset is read, unless images are rejected by their features.
SETUP, SEVERAL = (types.SimpleNamespace(dataset=_DATASET._replace(multi_label=several))
                  for several in (False, True))
META = {'state_digest': 'digest', 'step': 100}


def answers(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns over-confident logits, float32 (N, 3), and labels."""
    rng = np.random.default_rng(seed)
    labels_N = rng.integers(0, 3, count)
    logits_NK = rng.normal(size=(count, 3)) + 1.5 * np.eye(3)[labels_N]
    return (4 * logits_NK).astype(np.float32), labels_N


@pytest.fixture
def run(tmp_path):
    """A run directory with the calibration.json of 500 images."""
    logits_NK, labels_N = answers(500, 0)
    own_NK = recalibration.apply({'method': 'none'}, logits_NK)
    content = {'state_digest': 'digest', 'split': 'test', 'data': 'digits', 'images': 500,
               'fit': recalibration.fit_temperature(logits_NK, labels_N),
               'label_probabilities': own_NK[np.arange(500), labels_N].tolist(),
               'confidences': own_NK.max(1).tolist()}
    (tmp_path / 'card').mkdir()
    (tmp_path / 'card' / 'calibration.json').write_text(json.dumps(content))
    return tmp_path


def changed(run, **fields) -> None:
    path = run / 'card' / 'calibration.json'
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def test_nothing_is_read_where_nothing_is_asked(tmp_path):
    assert calibrated.read(str(tmp_path), META, '', 0.0, 0.0, SETUP) is None


def test_a_number_divides_the_logits(tmp_path):
    fits = calibrated.read(str(tmp_path), META, '2.5', 0.0, 0.0, SETUP)
    logits_NK, _ = answers(5, 1)
    (probabilities, classes), more = calibrated.answer(fits, logits_NK, 3, NAMES)
    expected = np.exp(logits_NK / 2.5) / np.exp(logits_NK / 2.5).sum(1, keepdims=True)
    np.testing.assert_allclose(probabilities, -np.sort(-expected, axis=1), rtol=1e-5)
    assert (classes == np.argsort(-logits_NK, axis=1)).all() and more == {}


def test_the_cards_temperature_makes_probabilities_that_hold(run):
    fits = calibrated.read(str(run), META, 'card', 0.0, 0.0, SETUP)
    logits_NK, labels_N = answers(4000, 2)
    (probabilities, classes), _ = calibrated.answer(fits, logits_NK, 1, NAMES)
    right = (classes[:, 0] == labels_N).mean()
    own = recalibration.apply({'method': 'none'}, logits_NK).max(1).mean()
    assert abs(probabilities.mean() - right) < 0.03 < 0.1 < own - right


@pytest.mark.parametrize('alpha', [0.05, 0.1, 0.3])
def test_sets_hold_the_right_class_as_often_as_promised(run, alpha):
    fits = calibrated.read(str(run), META, 'card', alpha, 0.0, SETUP)
    logits_NK, labels_N = answers(4000, 3)
    _, more = calibrated.answer(fits, logits_NK, 1, NAMES)
    covered = np.mean([NAMES[label] in names
                       for label, names in zip(labels_N, more['set'], strict=True)])
    assert abs(covered - (1 - alpha)) < 0.04


def test_the_least_confident_get_no_answer(run):
    fits = calibrated.read(str(run), META, '', 0.0, 0.2, SETUP)
    logits_NK, labels_N = answers(4000, 4)
    (_, classes), more = calibrated.answer(fits, logits_NK, 1, NAMES)
    rejected = np.array([one == calibrated.NONE for one in more['answer']])
    right = classes[:, 0] == labels_N
    assert abs(rejected.mean() - 0.2) < 0.05 and right[~rejected].mean() > right.mean()
    assert {one for one in more['answer']} == {*NAMES, calibrated.NONE}


def test_a_score_of_the_logits_takes_the_place_of_the_confidence(run):
    logits_NK, _ = answers(500, 0)
    changed(run, reject={'score': 'energy', 'layer': '', 'digest': '',
                         'scores': ood_scores.energy(logits_NK).tolist()})
    fits = calibrated.read(str(run), META, '', 0.0, 0.2, SETUP)
    logits_NK, _ = answers(4000, 4)
    _, more = calibrated.answer(fits, logits_NK, 1, NAMES)
    rejected = np.array([one == calibrated.NONE for one in more['answer']])
    assert abs(rejected.mean() - 0.2) < 0.05
    energies_N = ood_scores.energy(logits_NK)
    assert energies_N[rejected].min() > energies_N[~rejected].max()


@pytest.mark.parametrize(('arguments', 'setup', 'message'), [
    (('warm', 0.0, 0.0), SETUP, "--temperature: takes card, or a number above 0, got 'warm'"),
    (('-1', 0.0, 0.0), SETUP, '--temperature: takes'),
    (('nan', 0.0, 0.0), SETUP, '--temperature: takes'),
    (('', 1.0, 0.0), SETUP, '--set: takes a share'),
    (('', 0.0, -0.1), SETUP, '--reject: takes a share'),
    (('', 0.1, 0.0), SEVERAL, '--set: is for images with one label'),
    (('', 0.0, 0.1), SEVERAL, '--reject: is for images with one label'),
])
def test_wrong_flags(run, arguments, setup, message):
    with pytest.raises(ConfigError, match=message):
        calibrated.read(str(run), META, *arguments, setup)


@pytest.mark.parametrize('fields', [
    {'fit': {'method': 'temperature', 'multi_label': False, 'temperature': -1}},
    {'fit': {'method': 'temperature', 'multi_label': False, 'temperature': 'warm'}},
    {'fit': {'method': 'no_such'}}, {'fit': None}, {'fit': {}},
    {'fit': {'method': 'vector', 'multi_label': False, 'weight': [1.0], 'bias': [0.0]}},
    {'confidences': []}, {'confidences': [2.0]}, {'label_probabilities': ['x']},
    {'reject': None}, {'reject': []}, {'reject': {'score': 'energy'}},
    {'reject': {'score': 'no_such', 'layer': '', 'digest': '', 'scores': [1.0]}},
    {'reject': {'score': ['vim'], 'layer': '', 'digest': '', 'scores': [1.0]}},
    {'reject': {'score': 'vim', 'layer': 1, 'digest': '', 'scores': [1.0]}},
    {'reject': {'score': 'vim', 'layer': 'x', 'digest': '', 'scores': []}},
    {'reject': {'score': 'vim', 'layer': 'x', 'digest': '', 'scores': [1e999]}},
    {'reject': {'score': 'vim', 'layer': 'x', 'digest': '', 'scores': 'abc'}},
])
def test_a_damaged_file_is_one_line(run, fields):
    changed(run, **fields)
    with pytest.raises(DataError, match=r'calibration\.json: cannot be used .*run launch\.card'):
        calibrated.read(str(run), META, 'card', 0.1, 0.1, SETUP)


def test_a_missing_card_and_another_checkpoint(run, tmp_path):
    with pytest.raises(DataError, match='there is no card of this run yet; run launch.card'):
        calibrated.read(str(tmp_path / 'other'), META, 'card', 0.0, 0.0, SETUP)
    with pytest.raises(DataError, match='another checkpoint than step 200; .*--step=200'):
        calibrated.read(str(run), META | {'state_digest': 'x', 'step': 200}, 'card', 0.0, 0.0,
                        SETUP)
    (run / 'card' / 'calibration.json').unlink()
    (run / 'card' / 'calibration.json').symlink_to('/etc/passwd')
    with pytest.raises(DataError, match='cannot be used'):
        calibrated.read(str(run), META, 'card', 0.0, 0.0, SETUP)
