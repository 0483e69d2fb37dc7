"""The part of a card about attacks, on a small linear model."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imgjax.card.parts import attacks
from imgjax.errors import DataError
from imgjax.report import card_page

rng = np.random.default_rng(0)
IMAGES = rng.integers(0, 256, (30, 6, 6, 1)).astype(np.uint8)
KERNEL = jnp.asarray(rng.normal(0, 0.02, (36, 4)), jnp.float32)


def logits(kernel, images_NHWC):
    return (images_NHWC - 127.5).reshape(len(images_NHWC), -1) @ kernel


def inputs_of(multi_label=False, other=None):
    predict = jax.tree_util.Partial(logits, KERNEL)
    labels_N = np.asarray(predict(IMAGES.astype(np.float32))).argmax(1).astype(np.int32)
    return types.SimpleNamespace(
        multi_label=multi_label, split='test', seed=0, other=other, predict=predict,
        other_predict=lambda: other, labels_of=lambda split: labels_N,
        images=lambda split, rows: IMAGES[rows],
        subset=lambda count, most: np.arange(count)[:most])


@pytest.fixture(scope='module')
def found():
    return attacks.measure(inputs_of(other=jax.tree_util.Partial(logits, 0.5 * KERNEL)), images=20)


def test_the_model_falls_and_the_figures_say_so(found):
    assert found['images'] == 20 and found['clean']['robust'] == 1
    assert found['epsilon'] == 0.1 and found['autoattack']['robust'] < 0.5
    assert attacks.figures(found)['robust_accuracy'] == found['autoattack']['robust']
    told = attacks.findings(found)
    assert '20 images' in told[0].text and 'at most 0.1' in told[0].text
    assert 'other model' in told[1].text and len(told) == 2
    # The gradient of a linear model keeps its direction where all logits are halved.
    assert [row['right'] for row in found['other']['pgd'][1:]] == pytest.approx(
        [row['right'] for row in found['linf']['pgd']], abs=1)


def test_the_pictures_show_the_change(found):
    one = found['shown'][0]
    before, after, change = (np.asarray(one[name]) for name in ('before', 'after', 'change'))
    np.testing.assert_array_equal(before, IMAGES[one['image']])
    assert 0 < np.abs(after - before).max() <= 255 * one['epsilon'] + 1
    assert one['answer'] != one['label'] and change.min() < 128 < change.max()


def test_the_page_shows_it(found):
    part = {'name': 'attacks', 'title': attacks.TITLE, 'question': attacks.QUESTION,
            'found': found, 'findings': attacks.findings(found)}
    page = card_page.render_page(title='t', about={}, parts=[part], class_names=list('abcd'))
    assert 'AutoAttack at epsilon 0.1' in page and 'PGD-20, the other model' in page
    assert 'apgd-t' in page and 'magnified' in page and 'None' not in page


def test_epsilons_follow_the_size():
    assert attacks.epsilons(8) == (0.1, 0.5) and attacks.epsilons(32) == (8 / 255, 0.5)
    assert attacks.epsilons(224) == (4 / 255, 3.0)
    assert attacks.shown_epsilon(8 / 255) == '8/255' and attacks.shown_epsilon(0.1) == '0.1'


def test_several_labels_are_refused():
    with pytest.raises(DataError, match='one label'):
        attacks.measure(inputs_of(multi_label=True))
