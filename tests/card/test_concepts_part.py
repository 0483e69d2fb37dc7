"""The part of the card about channels: of a trained network, and its page."""

import json

import numpy as np
import pytest
from sklearn.datasets import load_digits

from configs import digits
from imgjax import train
from imgjax.card import model
from imgjax.card.inputs import Inputs
from imgjax.card.parts import concepts
from imgjax.errors import DataError
from imgjax.report import card_page


@pytest.fixture(scope='module')
def inputs(tmp_path_factory):
    """A card's inputs of a small network that has learned digits in part."""
    place = tmp_path_factory.mktemp('concepts')
    found = load_digits()
    images = np.rint(found.images * (255 / 16)).astype(np.uint8)
    np.savez(place / 'digits.npz', train_images=images[:300], train_labels=found.target[:300],
             test_images=images[300:420], test_labels=found.target[300:420])
    config = digits.get_config()
    config.update(data=dict(name='arrays', path=str(place / 'digits.npz')), augment=(),
                  batch_size=64, eval_batch_size=64, eval_every=0, checkpoint=dict(every=0),
                  steps=60, schedule=dict(warmup_steps=5))
    config.hparams.augment = {}
    config.model.name = 'tiny_cnn'
    train.run(config, str(place / 'run'))
    return Inputs(model.of_run(str(place / 'run')), str(place / 'card'))


@pytest.fixture(scope='module')
def found(inputs):
    return json.loads(json.dumps(concepts.measure(inputs)))


def test_channels_of_classes_and_errors(inputs, found):
    features_ND = inputs.train_answers.features['pre_logits']
    assert found['shown_split'] == inputs.train_split and not found['note']
    assert found['channels'] == features_ND.shape[1] == found['counts'][-1]
    logits_NK, labels_N = inputs.eval_answers.logits_NK, inputs.eval_answers.labels
    accuracy = (logits_NK.argmax(1) == labels_N).mean()
    assert found['accuracies'][-1] == pytest.approx(accuracy) and 0.2 < accuracy < 1
    accuracies = [one['accuracy'] for one in found['classes']]
    assert len(accuracies) == 10 and accuracies == sorted(accuracies)
    kernel_DK = inputs.params()['head']['kernel']
    for one in found['classes']:
        weights_D = (kernel_DK[:, one['class']] - kernel_DK.mean(1))
        mean_D = features_ND[inputs.train_answers.labels == one['class']].mean(0)
        best = one['channels'][0]
        assert best['channel'] == (weights_D * mean_D).argmax()
        assert best['term'] == pytest.approx((weights_D * mean_D).max(), rel=1e-4)
    for name, one in found['exciting'].items():
        side, channel = name.split()
        rows = [np.flatnonzero(inputs.train_rows == index)[0] for index in one['images']]
        values_N = features_ND[:, int(channel)]
        assert side == 'high'  # behind a ReLU
        assert values_N[rows].tolist() == np.sort(values_N)[::-1][:6].tolist()
    assert found['errors']
    for error in found['errors']:
        assert error['label'] != error['prediction'] == logits_NK[error['index']].argmax()


def test_a_channel_that_speaks_by_its_low_values_is_shown_at_its_lowest():
    features_ND = np.arange(-10.0, 10.0)[:, None]
    found = concepts._images(features_ND, np.arange(20) + 100, np.arange(20),
                             [(0, False), (0, True)])
    assert found['high 0']['images'][0] == 119 and found['low 0']['images'][0] == 100


def test_what_the_page_and_the_summary_say(inputs, found):
    told = concepts.findings(found)
    assert f'of {found["channels"]} channels give 90% of what speaks' in told[0].text
    assert concepts.figures(found) == {'concept_channels': found['needed']}
    text = card_page.render_page(
        title='Card', about={}, class_names=inputs.class_names,
        picture=card_page.Pictures(inputs.source_of, inputs.model.setup.config.data),
        parts=[{'name': 'concepts', 'title': concepts.TITLE, 'question': concepts.QUESTION,
                'found': found, 'findings': told}])
    first = found['classes'][0]['channels'][0]
    assert f'channel <b>{first["channel"]}</b>' in text and 'most confident errors' in text
    assert text.count('<img') >= 6 * len(found['exciting'])


@pytest.mark.parametrize('accuracies, word', [
    ([0.2, 0.795, 0.8], 'With the 2 channels of each class'), ([0.2, 0.78, 0.8], 'With fewer')])
def test_the_summary_says_how_many_are_enough(found, accuracies, word):
    [told] = concepts.findings(found | {'channels': 9, 'counts': [1, 2, 9],
                                        'accuracies': accuracies, 'dead': 0})
    assert word in told.text and '80.0%' in told.text


def test_channels_that_are_always_0_are_reported(found):
    told = concepts.findings(found | {'dead': 3})
    assert told[-1].kind == 'look' and '3 channels of' in told[-1].text


def test_images_with_several_labels_are_refused(inputs, monkeypatch):
    monkeypatch.setattr(Inputs, 'multi_label', True)
    with pytest.raises(DataError, match='one label each'):
        concepts.measure(inputs)


def test_without_training_images_those_of_the_split_are_shown(inputs, monkeypatch):
    monkeypatch.setattr(inputs, 'model', inputs.model._replace(train_source=None))
    found = concepts.measure(inputs)
    assert found['shown_split'] == inputs.split and 'no training images' in found['note']
