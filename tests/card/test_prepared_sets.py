"""Prepared sets: trees and folders of real image files, through a run that was really trained."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from configs import digits
from imgjax import train
from imgjax.card import engine, model, other_sets
from imgjax.card.inputs import Inputs
from imgjax.card.parts import prepared_sets
from imgjax.commands import evaluate
from imgjax.errors import ConfigError, DataError
from imgjax.evals.intervals import wilson
from imgjax.report import card_page

NAMES = ['cat', 'dog', 'truck', 'car']


def pattern(label: int, number: int, noise: float = 0.0) -> np.ndarray:
    """Returns a picture of 8 x 8 with a bright quarter, which is the class."""
    rng = np.random.default_rng(100 * label + number)
    picture = rng.integers(0, 60, (8, 8)).astype(np.float64)
    top, left = divmod(label, 2)
    picture[4 * top:4 * top + 4, 4 * left:4 * left + 4] += 150
    return np.clip(picture + noise * rng.normal(0, 255, (8, 8)), 0, 255).astype(np.uint8)


def write_class(folder, label: int, count: int = 5, noise: float = 0.0, kind: str = 'png') -> None:
    folder.mkdir(parents=True)
    for number in range(count):
        Image.fromarray(pattern(label, number, noise)).save(folder / f'{number}.{kind}', quality=95)


@pytest.fixture(scope='module')
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp('sets')
    for label, name in enumerate(NAMES[:3]):
        write_class(place / 'plain' / name, label, kind='jpg')
    write_class(place / 'plain' / 'zebra', 3, count=2)
    write_class(place / 'strangers' / 'lion', 0)
    write_class(place / 'strangers' / 'tiger', 1)
    write_class(place / 'alone' / 'dog', 1)
    write_class(place / 'alone' / 'lion', 0)
    for label in (0, 2, 3):
        write_class(place / 'numbered' / str(label), label)
    for corruption, base in (('fog', 0.0), ('noise/shot', 2.0)):
        for severity in (1, 5):
            for label, name in enumerate(NAMES):
                write_class(place / 'C' / corruption / str(severity) / name, label,
                            noise=base * severity)
    return place


@pytest.fixture(scope='module')
def inputs(place):
    labels = np.arange(80) % 4
    images = np.stack([pattern(label, 50 + row) for row, label in enumerate(labels)])
    np.savez(place / 'own.npz', train_images=images, train_labels=labels, test_images=images[:20],
             test_labels=labels[:20], class_names=np.array(NAMES))
    config = digits.get_config()
    config.update(data=dict(name='arrays', path=str(place / 'own.npz')), augment=(), steps=30,
                  batch_size=16, eval_batch_size=16, eval_every=30, log_every=30,
                  checkpoint=dict(every=30), schedule=dict(warmup_steps=3))
    config.hparams.learning_rate = 5e-3
    config.hparams.augment = {}
    train.run(config, str(place / 'run'))
    return Inputs(model.of_run(str(place / 'run')), str(place / 'card'))


def measured(inputs, place, *names) -> dict:
    found = prepared_sets.measure(inputs, paths=[str(place / name) for name in names])
    json.dumps(found, allow_nan=False)
    return found


def test_a_folder_is_evaluated_as_launch_evaluate_does(inputs, place):
    [one] = measured(inputs, place, 'plain')['sets']
    alone = evaluate.evaluate_split(str(place / 'run'), changes={
        'data.name': 'folder', 'data.path': str(place / 'plain')})
    assert one['all']['value'] == alone['accuracy'] > 0.5 and one['images'] == 15
    assert one['classes'] == 3 and one['all_classes'] == 4
    assert one['left_out'] == 2 and one['not_known'] == ['zebra']
    low, high = wilson(round(15 * one['all']['value']), 15)
    assert (one['all']['low'], one['all']['high']) == (low, high)


def test_answers_are_restricted_to_the_classes_of_the_set_on_both_sides(inputs, place):
    [one] = measured(inputs, place, 'numbered')['sets']
    assert one['by_number'] and one['classes'] == 3 and one['own']['count'] == 15
    answers = inputs.answers
    chosen = np.isin(answers.labels, (0, 2, 3))
    logits_NK = answers.logits_NK[chosen] + np.array([0, -1e9, 0, 0])  # no dog is answered
    right = (logits_NK.argmax(1) == answers.labels[chosen]).mean()
    assert one['own']['restricted']['value'] == right
    assert one['gap']['value'] == right - one['restricted']['value']
    assert one['gap']['low'] < one['gap']['value'] < one['gap']['high']


def test_a_tree_of_corruptions_gives_a_cell_for_each_severity(inputs, place):
    [one] = measured(inputs, place, 'C')['sets']
    cells = {(cell['corruption'], cell['severity']): cell['restricted']['value']
             for cell in one['cells']}
    assert sorted(cells) == [('fog', 1), ('fog', 5), ('shot', 1), ('shot', 5)]
    assert cells['fog', 1] == cells['fog', 5] > cells['shot', 5]
    assert one['restricted']['value'] == np.mean(list(cells.values())) and one['images'] == 80
    [shot] = measured(inputs, place, 'C/noise/shot')['sets']  # a single corruption is a tree, too
    assert [cell['corruption'] for cell in shot['cells']] == ['shot', 'shot']


def test_cells_are_stored_and_found_again_by_their_content(inputs, place, monkeypatch):
    before = measured(inputs, place, 'plain')
    monkeypatch.setattr(prepared_sets.forward, 'collector', lambda _: None)  # evaluates nothing
    assert measured(inputs, place, 'plain') == before
    digest = other_sets.content([str(place / 'plain')])
    assert digest == other_sets.content([str(place / 'plain')])
    first, renamed = place / 'plain' / 'cat' / '0.jpg', place / 'plain' / 'cat' / 'other.jpg'
    first.rename(renamed)
    try:
        assert other_sets.content([str(place / 'plain')]) != digest
        with pytest.raises(TypeError):
            measured(inputs, place, 'plain')
    finally:
        renamed.rename(first)


def test_a_changed_image_changes_the_digest(place, tmp_path):
    shutil.copytree(place / 'plain', tmp_path / 'set')
    digest = other_sets.content([str(tmp_path / 'set')])
    image = tmp_path / 'set' / 'cat' / '0.jpg'
    image.write_bytes(image.read_bytes() + b' ')
    assert other_sets.content([str(tmp_path / 'set')]) != digest


def test_other_classes_are_not_answered_where_answers_are_restricted():
    logits_NK = np.array([[5, 9, 1, 0], [5, 9, 1, 0], [0, 0, 3, 9], [0, 1, 3, 2]], np.float32)
    found = prepared_sets._accuracies(logits_NK, np.array([0, 2, 2, 2]), np.array([0, 2]))
    assert found['all']['value'] == 1 / 4 and found['restricted']['value'] == 3 / 4


def test_conflicts_of_cues_are_counted_by_the_names_of_the_files(inputs, tmp_path):
    folder = tmp_path / 'conflict'
    for shape, texture, count in ((0, 2, 3), (1, 2, 2), (1, 1, 4)):
        (folder / NAMES[shape]).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            Image.fromarray(pattern(texture, number)).save(
                folder / NAMES[shape] / f'{NAMES[shape]}{number}-{NAMES[texture]}{number}.png')
    [one] = measured(inputs, tmp_path, 'conflict')['sets']
    bias = one['cue_conflict']
    assert bias['images'] == 5  # the four dogs with the texture of dogs do not count
    assert bias['texture'] == 5 and bias['shape_bias'] == 0.0
    page = page_of(inputs, tmp_path, {'split': inputs.split, 'sets': [one]})
    assert 'of 5 answers 0 name the class of the shape, 5 that of the texture' in page


def page_of(inputs, place, found: dict) -> str:
    card_page.write_page(str(place / 'page.html'), title='t', about={}, inputs=inputs,
                         parts=[engine._section('prepared_sets', found)])
    return (place / 'page.html').read_text()


def test_the_page_has_each_set_and_the_summary_the_gap(inputs, place):
    found = measured(inputs, place, 'plain', 'C', 'strangers', 'numbered')
    page = page_of(inputs, place, found)
    assert all(word in page for word in ('>plain<', '>fog<', '>shot<', 'zebra', 'AlexNet',
                                         'taken for the numbers of the classes'))
    kinds = {(one.kind, one.text.split(' ')[0]) for one in prepared_sets.findings(found)}
    assert ('look', 'strangers') in kinds and ('note', 'Of') in kinds
    texts = ' '.join(one.text for one in prepared_sets.findings(found))
    assert 'a gap of' in texts and 'The worst of C is shot of severity' in texts
    assert set(prepared_sets.figures(found)) == {
        'plain_accuracy', 'C_accuracy', 'numbered_accuracy'}


@pytest.mark.parametrize(('names', 'error', 'line'), [
    (['nowhere'], ConfigError, '--sets=.*nowhere: no such folder'),
    (['plain', 'plain'], ConfigError, 'is named twice'),
    (['plain/cat'], ConfigError, 'has no folders'),
    (['strangers'], DataError, '--sets=.*strangers: has images of none of the 4 classes'),
    (['alone'], DataError, '--sets=.*alone: has images of one class of the model only .dog.'),
])
def test_what_cannot_be_measured_is_one_line(inputs, place, names, error, line):
    with pytest.raises(error, match=line) as raised:
        measured(inputs, place, *names)
    assert '\n' not in str(raised.value) and len(str(raised.value)) < 400


def test_a_folder_of_splits_is_refused(inputs, tmp_path):
    for split in ('train', 'val'):
        write_class(tmp_path / 'both' / split / 'cat', 0)
        write_class(tmp_path / 'both' / split / 'dog', 1)
    with pytest.raises(ConfigError, match='has the splits train, val; name the .*both/val'):
        measured(inputs, tmp_path, 'both')
    found = measured(inputs, tmp_path / 'both', 'val')
    assert found['sets'][0]['images'] == 10
