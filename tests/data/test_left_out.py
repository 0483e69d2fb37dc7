"""What a split says of itself when it is opened."""

import logging

import numpy as np
import pytest

from configs import base
from imgjax import data
from imgjax.data import Source, left_out
from imgjax.data.sources import synthetic


def test_an_opened_split_says_once_what_it_holds_and_leaves_out(monkeypatch, caplog):
    def open_split(split, options):
        found = {}
        for name in ('cat/a.txt', 'cat/b.txt'):
            left_out.count(found, 'with other endings', name)
        left_out.count(found, 'dead links', f'{split}/c.png', 1200)
        return Source([{'image': np.zeros((1, 1, 1), np.uint8)}] * 3000, ('cat', 'dog'), split,
                      lambda: np.arange(3000) % 2, False, found)

    monkeypatch.setattr(synthetic, 'open_split', open_split)
    options = base.get_config().data.to_dict() | dict(name='synthetic', path='PATH')
    with caplog.at_level(logging.INFO, 'imgjax'):
        data.open_split('train', options)
        data.open_split('train[:10]+test[:5]', options)
    assert [record.getMessage() for record in caplog.records] == [
        'train: 3,000 images of 2 classes in PATH; left out: 2 with other endings (cat/a.txt), '
        '1,200 dead links (train/c.png)',
        'train[:10]+test[:5]: 15 images of 2 classes in PATH; left out: 4 with other endings '
        '(cat/a.txt), 2,400 dead links (train/c.png)']


@pytest.mark.parametrize('split', ['train', 'train[:10]'])
def test_a_split_that_leaves_out_nothing_says_what_it_holds(split, caplog):
    options = base.get_config().data.to_dict() | dict(
        name='synthetic', options=dict(examples=10, classes=4))
    with caplog.at_level(logging.INFO, 'imgjax'):
        data.open_split(split, options)
    assert [record.getMessage() for record in caplog.records] == [
        f'{split}: 10 images of 4 classes in synthetic']
