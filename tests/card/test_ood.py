"""Strangers: the part of the card that measures them, and predictions that reject them."""

import csv
import json
import pathlib
import shutil

import numpy as np
import pytest
import safetensors.numpy
from PIL import Image
from sklearn.datasets import load_digits

from configs import digits
from imgjax import train
from imgjax.card import stranger_set
from imgjax.card.inputs import Inputs
from imgjax.card.parts import ood
from imgjax.commands import calibrated, card, predict
from imgjax.errors import ConfigError, DataError
from imgjax.evals import ood as evals_ood
from imgjax.evals import ood_scores, strangers

TRAIN, TEST, REST = slice(0, 900), slice(900, 1300), slice(1300, 1797)
KINDS = list(strangers.KINDS)


@pytest.fixture(scope='module', autouse=True)
def fast():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evals_ood, 'DRAWS', 50)
        yield


def trained(workdir, path, **changes) -> str:
    config = digits.get_config()
    config.update(data=dict(name='arrays', path=path), augment=(), steps=200, batch_size=64,
                  eval_batch_size=200, eval_every=0, log_every=100, checkpoint=dict(every=0),
                  schedule=dict(warmup_steps=10))
    config.hparams.learning_rate = 5e-3
    config.hparams.augment = {}
    config.update(changes)
    train.run(config, str(workdir))
    return str(workdir)


def part(folder) -> dict:
    return json.loads((pathlib.Path(folder) / 'card.json').read_text())['parts']['ood']


def write_images(folder, images) -> str:
    folder.mkdir()
    for i, image in enumerate(images):
        Image.fromarray(image).save(folder / f'{i:03}.png')
    return str(folder)


def rejected(run, folder, output, share=0.05) -> float:
    """Returns the share of the images of a folder that get no answer."""
    predict.predict_images(run, folder, 1, str(output), reject=share)
    with open(output, newline='', encoding='utf-8') as file:
        answers = [row['answer'] for row in csv.DictReader(file)]
    return np.mean([one == calibrated.NONE for one in answers])


@pytest.fixture(scope='module')
def place(tmp_path_factory):
    return tmp_path_factory.mktemp('strangers')


@pytest.fixture(scope='module')
def handwritten():
    found = load_digits()
    return np.rint(found.images * (255 / 16)).astype(np.uint8), found.target


@pytest.fixture(scope='module')
def data(place, handwritten):
    images, labels = handwritten
    path = str(place / 'digits.npz')
    np.savez(path, train_images=images[TRAIN], train_labels=labels[TRAIN],
             test_images=images[TEST], test_labels=labels[TEST])
    return path


@pytest.fixture(scope='module')
def run(place, data):
    return trained(place / 'run', data)


@pytest.fixture(scope='module')
def measured(run):
    """(folder, result) of a card with the parts that predictions read."""
    return pathlib.Path(run) / 'card', card.of_run(run, only='calibration,ood')


@pytest.fixture(scope='module')
def folders(place, handwritten):
    """{name: folder} of digits that neither training nor card have seen, and of strangers."""
    rng = np.random.default_rng(5)
    return {'digits': write_images(place / 'rest', handwritten[0][REST]),
            'noise': write_images(place / 'noise', rng.integers(0, 256, (200, 8, 8), np.uint8)),
            'inverted': write_images(place / 'inverted', 255 - handwritten[0][REST][:200])}


def test_each_score_is_measured_on_each_kind(measured):
    folder, result = measured
    found = part(folder)
    assert list(found['rows']) == list(ood_scores.NAMES) and not found['notes']
    assert all(list(of_kind) == KINDS for of_kind in found['rows'].values())
    assert found['images'] == 400 and found['train_images'] == 900
    means = {name: np.mean([one['auroc']['value'] for one in of_kind.values()])
             for name, of_kind in found['rows'].items()}
    assert {name: one['auroc'] for name, one in found['means'].items()} == pytest.approx(means)
    assert found['chosen'] == max(means, key=means.get) == result['stranger_score']
    assert result['stranger_auroc'] == pytest.approx(max(means.values())) and max(
        means.values()) > 0.9
    for kind in KINDS:
        assert found['rejected'][kind] == sorted(found['rejected'][kind])
        assert [len(one['pixels']) for one in found['pictures'][kind]] == [8, 8, 8]
    page = (folder / 'card.html').read_text().split('id="ood"')[1].split('</details>')[0]
    assert all(kind in page for kind in KINDS) and page.count('<figure') == 2 + 3 * len(KINDS)


def test_the_score_of_the_card_rejects_more_strangers(measured, run, folders, place, caplog):
    chosen = part(measured[0])['chosen']
    assert chosen not in ood_scores.OF_LOGITS
    caplog.set_level('INFO', 'imgjax')
    by_card = {name: rejected(run, folder, place / 'card.csv') for name, folder in folders.items()}
    assert f'--reject: by the score {chosen}' in caplog.text
    path = pathlib.Path(run) / 'card' / calibrated.FILE
    content = path.read_text()
    try:  # a calibration.json as it was written before there was the part
        path.write_text(json.dumps({name: value for name, value in json.loads(content).items()
                                    if name != 'reject'}))
        caplog.clear()
        by_softmax = {name: rejected(run, folder, place / 'softmax.csv')
                      for name, folder in folders.items()}
        assert 'by the largest probability, as the card has no part ood' in caplog.text
    finally:
        path.write_text(content)
    print(by_card, by_softmax)
    assert abs(by_card['digits'] - 0.05) < 0.05 and abs(by_softmax['digits'] - 0.05) < 0.05
    assert by_card['noise'] > max(0.9, by_softmax['noise'])
    assert by_card['inverted'] > by_softmax['inverted'] + 0.3


@pytest.mark.parametrize('share', [0.01, 0.1, 0.3])
def test_as_many_familiar_images_are_rejected_as_promised(measured, run, folders, place, share):
    assert abs(rejected(run, folders['digits'], place / 'share.csv', share) - share) < 0.05


@pytest.mark.parametrize('name', ['mahalanobis', 'vim'])
def test_every_score_can_be_the_chosen_one(name, measured, run, folders, place, monkeypatch):
    """What lies in the files gives the scores of the card again, whichever was chosen."""
    copy = shutil.copytree(run, place / f'copy_{name}')
    monkeypatch.setattr(evals_ood, 'chosen', lambda means: name)
    shutil.rmtree(copy / 'card')
    card.of_run(str(copy), only='calibration,ood')
    assert (copy / 'card' / calibrated.ARRAYS).exists() == (name not in ood_scores.OF_LOGITS)
    stored = json.loads((copy / 'card' / calibrated.FILE).read_text())['reject']
    assert stored['score'] == name and len(stored['scores']) == 400
    assert abs(rejected(str(copy), folders['digits'], place / 'one.csv', 0.2) - 0.2) < 0.1
    shutil.rmtree(copy)


def test_the_part_alone_is_enough_once_there_is_a_calibration(run, folders, place):
    copy = shutil.copytree(run, place / 'later')
    shutil.rmtree(copy / 'card')
    card.of_run(str(copy), only='calibration')
    assert 'reject' not in json.loads((copy / 'card' / calibrated.FILE).read_text())
    card.of_run(str(copy), only='ood')
    assert 'reject' in json.loads((copy / 'card' / calibrated.FILE).read_text())
    assert rejected(str(copy), folders['noise'], place / 'later.csv') > 0.9


@pytest.mark.parametrize('harm', ['missing', 'cut', 'link', 'other', 'pickle', 'layer'])
def test_a_damaged_file_of_arrays_is_one_line(harm, measured, run, folders, place, tmp_path):
    copy = pathlib.Path(shutil.copytree(run, tmp_path / 'run'))
    path, listed = copy / 'card' / calibrated.ARRAYS, copy / 'card' / calibrated.FILE
    content = json.loads(listed.read_text())
    arrays = safetensors.numpy.load(path.read_bytes())
    if harm == 'cut':
        path.write_bytes(path.read_bytes()[:-8])
    elif harm == 'other':
        path.write_bytes(safetensors.numpy.save(
            {name: array * np.ones(1, array.dtype) + 1 for name, array in arrays.items()}))
    elif harm == 'pickle':
        path.write_bytes(b'\x80\x04.')
    elif harm in ('missing', 'link'):
        path.unlink()
        if harm == 'link':
            path.symlink_to(measured[0] / calibrated.ARRAYS)
    else:
        content['reject']['layer'] = 'no_such'
        listed.write_text(json.dumps(content))
    with pytest.raises(DataError, match=r'reject\.safetensors: cannot be used .*run launch\.card'
                       ) as error:
        rejected(str(copy), folders['noise'], tmp_path / 'out.csv')
    assert '\n' not in str(error.value)


def test_without_training_images_the_logits_are_left(run, data, place, handwritten, tmp_path):
    images, labels = handwritten
    lone = str(place / 'lone.npz')
    np.savez(lone, test_images=images[TEST], test_labels=labels[TEST])
    card.of_run(run, output=str(tmp_path), only='ood', changes={'data.path': lone})
    found = part(tmp_path)
    assert list(found['rows']) == list(ood_scores.OF_LOGITS) and not found['train_images']
    assert found['notes'] == [
        'Left out: Mahalanobis distance, nearest neighbours, ViM. They compare with training '
        'images, and none are at hand.']
    assert found['notes'][0] in (tmp_path / 'card.html').read_text()
    card.of_run(run, output=str(tmp_path), only='ood', split='train')
    assert 'which are those of train itself' in part(tmp_path)['notes'][0]


def test_a_set_of_strangers(run, tmp_path):
    """Pictures with a cross are far from all digits."""
    crosses = np.zeros((300, 8, 8, 1), np.uint8)
    crosses[:, 3:5] = crosses[:, :, 3:5] = 255
    inputs = Inputs(card.model.of_run(run), str(tmp_path))
    inputs.stranger_images = crosses
    found = ood.measure(inputs, 'crosses', 'digest', 'Some were left out.')
    assert found['kinds'][0] == {
        'kind': 'your strangers', 'what': 'the images of crosses', 'images': 300,
        'confidence': found['kinds'][0]['confidence']}
    assert found['rows'][found['chosen']]['your strangers']['auroc']['value'] > 0.95
    assert found['notes'] == ['Some were left out.']
    assert len(found['histogram']) == 8  # as many lines as a plot can have


def test_of_many_strangers_a_part_is_taken_and_counted(run, folders, tmp_path, monkeypatch):
    monkeypatch.setattr(stranger_set, 'MOST', 50)
    (pathlib.Path(folders['noise']) / 'broken.png').write_bytes(b'no image')
    card.of_run(run, output=str(tmp_path), only='ood', strangers=folders['noise'])
    (pathlib.Path(folders['noise']) / 'broken.png').unlink()
    found = part(tmp_path)
    assert found['kinds'][0]['images'] in (49, 50)
    assert any('Of the 201 images' in note and 'drawn by the seed' in note
               for note in found['notes'])


def test_the_flag_takes_a_folder(run, folders, tmp_path):
    card.of_run(run, output=str(tmp_path / 'card'), only='ood', strangers=folders['noise'])
    found = part(tmp_path / 'card')
    assert found['kinds'][0]['kind'] == 'your strangers' and found['kinds'][0]['images'] == 200
    before = (tmp_path / 'card' / 'parts' / 'ood.json').read_bytes()
    card.of_run(run, output=str(tmp_path / 'card'), only='ood', strangers=folders['inverted'])
    assert (tmp_path / 'card' / 'parts' / 'ood.json').read_bytes() != before


def test_strangers_that_cannot_be_used_are_refused_before_any_work(run, folders, tmp_path):
    familiar = tmp_path / 'set' / '7'
    familiar.mkdir(parents=True)
    shutil.copy(pathlib.Path(folders['digits']) / '000.png', familiar)
    (tmp_path / 'empty').mkdir()
    for folder, complaint in ((tmp_path / 'set', 'are classes of the model'),
                              (tmp_path / 'none', 'no such folder'),
                              (tmp_path / 'empty', 'no images there')):
        with pytest.raises(ConfigError, match=complaint) as error:
            card.of_run(run, output=str(tmp_path / 'card'), only='ood', strangers=str(folder))
        assert '\n' not in str(error.value) and not (tmp_path / 'card').exists()
    with pytest.raises(ConfigError, match='is read by ood'):
        card.of_run(run, output=str(tmp_path / 'card'), only='accuracy', strangers='x')


def test_few_images_of_one_class(place, handwritten, tmp_path):
    """No blend can be made, and ViM has fewer training images than dimensions."""
    images, labels = handwritten
    path = str(place / 'few.npz')
    two = np.flatnonzero(np.isin(labels, (3, 8)))
    threes = np.flatnonzero(labels == 3)[-12:]
    np.savez(path, train_images=images[two[:20]], train_labels=labels[two[:20]] == 8,
             test_images=images[threes], test_labels=0 * threes, class_names=np.array(['3', '8']))
    run = trained(place / 'few', path, steps=20, batch_size=8)
    card.of_run(run, output=str(tmp_path), only='ood')
    found = part(tmp_path)
    assert 'blend' not in found['rejected'] and 'vim' not in found['rows']
    assert [note.partition('.')[0] for note in found['notes']] == [
        'Left out: ViM', 'Left out: blend: all images have the same class; give images of two or '
        'more']
