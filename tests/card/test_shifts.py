"""The part of the card about shifts, of a digit classifier that was really trained."""

import json

import numpy as np
import pytest
from sklearn.datasets import load_digits

from configs import digits
from imgjax import train
from imgjax.card import engine, model
from imgjax.card.inputs import Inputs
from imgjax.card.parts import shifts as part
from imgjax.evals import shifts
from imgjax.report import card_page


def trained(place, name: str, data: str, classes: list[str], steps: int) -> model.Model:
    config = digits.get_config()
    config.update(data=dict(name='arrays', path=data), augment=(), steps=steps, batch_size=64,
                  eval_batch_size=60, eval_every=steps, log_every=steps,
                  checkpoint=dict(every=steps), schedule=dict(warmup_steps=2))
    config.hparams.learning_rate = 5e-3
    config.hparams.augment = {}
    train.run(config, str(place / name))
    return model.of_run(str(place / name))


@pytest.fixture(scope='module')
def inputs(tmp_path_factory):
    """A model of 40 steps, compared with one of 5 whose classes have another order."""
    place, found = tmp_path_factory.mktemp('shifts'), load_digits()
    images = np.rint(found.images * (255 / 16)).astype(np.uint8)
    names = np.array([f'digit {k}' for k in range(10)])
    np.savez(place / 'a.npz', train_images=images[:400], train_labels=found.target[:400],
             test_images=images[400:460], test_labels=found.target[400:460], class_names=names)
    np.savez(place / 'b.npz', train_images=images[:400], train_labels=9 - found.target[:400],
             test_images=images[400:460], test_labels=9 - found.target[400:460],
             class_names=names[::-1])
    models = [trained(place, name, str(place / f'{name}.npz'), list(names), steps)
              for name, steps in (('a', 40), ('b', 5))]
    return Inputs(models[0], str(place / 'card'), other=models[1])


@pytest.fixture(scope='module')
def found(inputs):
    return part.measure(inputs)


def test_both_models_are_measured_with_the_classes_of_the_first(found, inputs):
    json.dumps(found, allow_nan=False)
    answers, other = inputs.answers, inputs.other_logits('b')
    assert found['shifts']['images'] == 60
    assert found['shifts']['clean']['accuracy'] == (
        answers.logits_NK.argmax(1) == answers.labels).mean()
    assert found['other']['shifts']['clean']['accuracy'] == (
        other.argmax(1) == answers.labels).mean()
    assert 'colour' not in found['shifts']['curves']


def test_the_worst_mild_shift_is_told(found):
    worst = found['worst']
    rows = {(kind, row['amount']): row['accuracy'] for kind, rows in
            found['shifts']['curves'].items() for row in rows
            if row['amount'] in shifts.KINDS[kind].mild}
    assert worst['accuracy'] == min(rows.values()) == rows[worst['kind'], worst['amount']]
    title = shifts.KINDS[worst['kind']].title
    assert any(f'"{title}" by {worst["amount"]:g}' in one.text for one in part.findings(found))
    assert part.figures(found)['worst_mild_shift_accuracy'] == worst['accuracy']
    steady = found | {'worst': worst | {'accuracy': found['shifts']['clean']['accuracy']}}
    assert part.findings(steady)[0].kind == 'good'


def test_the_pictures_are_those_of_one_image(found, inputs):
    image_HWC = inputs.images(inputs.split, np.array([found['example']]))[0]
    for kind, pictures in found['pictures'].items():
        [still] = [one['pixels'] for one in pictures
                   if one['amount'] == shifts.KINDS[kind].neutral]
        np.testing.assert_array_equal(still, image_HWC)
        assert len(pictures) <= part.PICTURES
    titles = [one['title'] for one in found['cue_pictures']]
    assert titles == ['as it is', '2 × 2 patches', '4 × 4 patches', 'below 2 cycles',
                      'above 2 cycles', 'edges', 'texture of the conflict', 'conflict']


def test_the_page_shows_the_curves_of_both(found, inputs, tmp_path):
    card_page.write_page(str(tmp_path / 'page.html'), title='t', about={}, inputs=inputs,
                         parts=[engine._section('shifts', found)])
    page = (tmp_path / 'page.html').read_text()
    curves = [kind for kind, rows in found['shifts']['curves'].items() if len(rows) > 2]
    assert len(curves) == 7 and all(f'<h3>{shifts.KINDS[kind].title.capitalize()}' in page
                                    for kind in curves)
    assert page.count('right, the other model') > len(curves)
    assert 'not the stylised set of Geirhos' in page and 'Colour is not changed' in page
