"""Explanations of a run: launch.explain, the page of predictions, and the part of the card."""

import json
import pathlib
import re
import shutil

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from configs import digits
from imgjax import explain, train
from imgjax.card import explained, explanation_tests, functions
from imgjax.commands import card, predict, run_directory
from imgjax.commands import explain as explain_command
from imgjax.errors import ConfigError, DataError

SOUND = 'integrated_gradients'  # passes its tests on a trained network


def trained(workdir, path, steps=60, **changes) -> str:
    """Trains a small CNN on a .npz of digits."""
    config = digits.get_config('cnn')
    config.update(data=dict(name='arrays', path=path), augment=(), steps=steps, batch_size=64,
                  eval_batch_size=100, eval_every=0, log_every=20, checkpoint=dict(every=0),
                  schedule=dict(warmup_steps=min(10, steps // 2)))
    config.model = dict(name='tiny_cnn', options={})
    config.hparams.learning_rate = 0.01 if steps > 1 else 0.0
    config.hparams.augment = {}
    config.update(changes)
    train.run(config, str(workdir))
    return str(workdir)


@pytest.fixture(scope='module')
def place(tmp_path_factory):
    return tmp_path_factory.mktemp('explanations')


@pytest.fixture(scope='module')
def data(place):
    found = load_digits()
    images = np.rint(found.images * (255 / 16)).astype(np.uint8)
    np.savez(place / 'digits.npz', train_images=images[:900], train_labels=found.target[:900],
             test_images=images[900:1000], test_labels=found.target[900:1000])
    for i, image in enumerate(images[1000:1005]):
        Image.fromarray(image).save(place / f'a b {i}.png')
    return str(place / 'digits.npz')


@pytest.fixture(scope='module')
def run(place, data):
    return trained(place / 'run', data, 150)


@pytest.fixture(scope='module')
def written(place, run):
    """(folder, result) of launch.explain with two methods."""
    folder = place / 'explained'
    result = explain_command.explain_images(
        run, str(place / '*.png'), f'grad_cam,{SOUND}', output=str(folder))
    return folder, result


def test_maps_pictures_and_a_page_are_written(written):
    folder, result = written
    assert result['images'] == 5 and result['methods'] == [SOUND, 'grad_cam']
    found = json.loads((folder / 'explain.json').read_text())
    assert [pathlib.Path(one['name']).name for one in found['images']] == [
        f'a b {i}.png' for i in range(5)]
    for name in result['methods']:
        maps_NHW = np.load(folder / 'maps' / f'{name}.npy', allow_pickle=False)
        assert maps_NHW.shape == (5, 8, 8) and maps_NHW.dtype == np.float32
        assert np.ptp(maps_NHW, axis=(1, 2)).min() > 0
        for i in range(5):
            with Image.open(folder / 'overlays' / f'{i + 1:04}_a_b_{i}_{name}.png') as picture:
                assert picture.size == (8, 8) and picture.mode == 'RGB'
    page = (folder / 'explain.html').read_text()
    assert page.count('<img') >= 5 * 3 and 'http-equiv="Content-Security-Policy"' in page
    assert all(word in page for word in ('integrated gradients', 'ROAD', 'random map', 'a b 3.png'))


def test_each_method_has_its_verdict_on_images_of_the_split(written):
    folder, _ = written
    found = json.loads((folder / 'explain.json').read_text())
    assert found['tested_on'] == explanation_tests.IMAGES and found['tested_of'] == 'test'
    by_name = {one['name']: one for one in found['methods']}
    assert by_name[SOUND]['verdict'] == 'passed' and by_name[SOUND]['similarity'] < 0.5
    assert by_name[SOUND]['deletion'] < found['baselines'][0]['deletion']
    assert found['completeness'] < 0.1
    assert np.array(found['agreement']).shape == (2, 2)


def test_the_maps_are_those_of_the_method(written, run, place):
    folder, _ = written
    setup = run_directory.open_run(run)
    state, _ = run_directory.restore(setup, run, None)
    model = explained.of(setup, functions.of(setup, state))
    paths = [str(place / f'a b {i}.png') for i in range(5)]
    images_NHWC = np.stack([predict.read_image(path, setup, predict.reading(setup), [])
                            for path in paths])
    answers_N = explained.logits_of(model.model.predict, images_NHWC, 2).argmax(1)
    mine_NHW = explain.method(SOUND).explain(
        model.model.apply_fn, model.model.variables, explained.normalised(model, images_NHWC),
        answers_N)
    stored_NHW = np.load(folder / 'maps' / f'{SOUND}.npy')
    np.testing.assert_allclose(stored_NHW, mine_NHW, rtol=1e-4, atol=1e-5 * mine_NHW.max())


def test_a_class_can_be_chosen(run, place, tmp_path, written):
    explain_command.explain_images(run, str(place / '*.png'), SOUND, '3', str(tmp_path / 'three'))
    found = json.loads((tmp_path / 'three' / 'explain.json').read_text())
    assert {one['target'] for one in found['images']} == {'3'}
    chosen = np.load(tmp_path / 'three' / 'maps' / f'{SOUND}.npy')
    assert not np.allclose(chosen, np.load(written[0] / 'maps' / f'{SOUND}.npy'))


@pytest.mark.parametrize('more,complaint', [
    (dict(methods='gradcam'), "--method: no method 'gradcam'; did you mean 'grad_cam'?"),
    (dict(target='seven'), "--target: the model has no class 'seven'"),
    (dict(methods='attention_rollout'), 'no attention maps'),
    (dict(methods='grad_cam', layer='stage9'), 'stage9'),
    (dict(methods='grad_cam', layer='hidden1'), '--method=grad_cam: '),
    (dict(methods=SOUND, layer='stage1'), '--layer=stage1: is read by grad_cam'),
    (dict(images='nowhere/*.png'), 'no such images'),
])
def test_what_cannot_work_is_refused_in_one_line(run, place, tmp_path, more, complaint):
    given = {'images': str(place / '*.png'), 'output': str(tmp_path / 'out')} | more
    with pytest.raises((ConfigError, DataError), match=re.escape(complaint)) as error:
        explain_command.explain_images(run, **given)
    assert '\n' not in str(error.value) and not (tmp_path / 'out').exists()


def test_a_model_without_positions_names_what_works(place, data, tmp_path):
    flat = trained(place / 'flat', data, 1, model=dict(name='tiny_mlp', options={}))
    with pytest.raises(ConfigError, match='gradient') as error:
        explain_command.explain_images(flat, str(place / '*.png'), 'grad_cam',
                                       output=str(tmp_path / 'out'))
    assert '\n' not in str(error.value)


def test_several_labels_are_refused(place, data, tmp_path):
    found = np.load(data)
    both = np.eye(10, dtype=np.uint8) + np.eye(10, k=1, dtype=np.uint8)
    several = {name: found[name] if name.endswith('images') else both[found[name]]
               for name in found}
    np.savez(place / 'several.npz', class_names=np.array(list('abcdefghij')), **several)
    run = trained(place / 'several', str(place / 'several.npz'), 1, objective=dict(name='sigmoid'))
    with pytest.raises(ConfigError, match='one label per image'):
        explain_command.explain_images(run, str(place / '*.png'), output=str(tmp_path / 'out'))
    predict.predict_images(run, str(place / '*.png'), 3, str(tmp_path / 'p.html'))
    assert 'Maps are for models with one label' in (tmp_path / 'p.html').read_text()


def test_what_an_earlier_call_wrote_is_removed(run, place, tmp_path):
    for methods, images in ((SOUND, '*.png'), ('gradient', 'a b 1.png')):
        explain_command.explain_images(run, str(place / images), methods, output=str(tmp_path))
        (tmp_path / 'overlays' / 'mine.png').write_bytes(b'mine')
    assert [path.name for path in (tmp_path / 'maps').iterdir()] == ['gradient.npy']
    assert sorted(path.name for path in (tmp_path / 'overlays').iterdir()) == [
        '0001_a_b_1_gradient.png', 'mine.png']


def test_a_folder_of_the_user_is_not_touched(run, place, tmp_path):
    (tmp_path / 'mine.txt').write_text('mine')
    with pytest.raises(ConfigError, match='did not write'):
        explain_command.explain_images(run, str(place / '*.png'), SOUND, output=str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ['mine.txt']


def test_an_unreadable_image_is_said_and_the_others_are_explained(run, place, tmp_path):
    folder = tmp_path / 'images'
    folder.mkdir()
    (folder / 'good.png').write_bytes((place / 'a b 0.png').read_bytes())
    (folder / 'bad.png').write_bytes(b'no image')
    with pytest.raises(DataError, match='1 of 2 images could not be read'):
        explain_command.explain_images(run, str(folder), SOUND, output=str(tmp_path / 'out'))
    found = json.loads((tmp_path / 'out' / 'explain.json').read_text())
    assert len(found['images']) == 1 and 'bad.png' in found['failed_images'][0]


def test_without_the_dataset_the_given_images_are_tested(place, data, tmp_path, caplog):
    caplog.set_level('INFO', 'imgjax')
    copy = shutil.copy(data, place / 'copy.npz')
    alone = trained(place / 'alone', str(copy), 20)
    copy.unlink()
    explain_command.explain_images(alone, str(place / '*.png'), SOUND, output=str(tmp_path / 'out'))
    found = json.loads((tmp_path / 'out' / 'explain.json').read_text())
    assert found['tested_on'] == 5 and found['methods'][0]['verdict'] == 'undecided'
    assert 'dataset of the run is not at hand' in caplog.text


def test_the_page_of_predictions_has_a_map_beside_every_answer(run, place, tmp_path):
    output = tmp_path / 'predictions.html'
    for _ in range(2):  # its own page is replaced
        predict.predict_images(run, str(place / '*.png'), 3, str(output))
    page = output.read_text()
    assert page.count('<img') == 2 * 5 and 'Tested on 24 images of test' in page
    assert all(f'a b {i}.png' in page for i in range(5))
    output.write_text('<title>mine</title>')
    with pytest.raises(ConfigError, match='did not write it'):
        predict.predict_images(run, str(place / '*.png'), 3, str(output))


def test_the_card_shows_errors_with_maps_and_exposes_an_untrained_model(place, data, run):
    fresh = trained(place / 'fresh', data, 1)
    result = card.of_run(fresh, only='explanations', output=str(place / 'fresh card'))
    found = json.loads((place / 'fresh card' / 'card.json').read_text())['parts']['explanations']
    assert len(found['images']) == 8 and found['heading'] == 'The most confident errors'
    assert all(set(one['overlays']) == {m['name'] for m in found['methods']}
               for one in found['images'])
    assert found['confused'][0]['count'] >= found['confused'][-1]['count'] > 0
    both = card.of_run(run, only='explanations', output=str(place / 'card'), compare=fresh)
    found = json.loads((place / 'card' / 'card.json').read_text())['parts']['explanations']
    assert SOUND in both['explanations_passed'] and all('other' in one for one in found['images'])
    assert len(result['explanations_passed']) < len(both['explanations_passed'])
