"""The text of errors: the name that is offered in place of a wrong one, and the first line."""

import pytest

from imgjax import config
from imgjax.errors import first_line, nearest

DATASETS = ['folder', 'tar', 'arrays', 'svhn_cropped', 'mnist', 'cifar10', 'imagenette']


@pytest.mark.parametrize('name, valid, meant', [
    ('nope', DATASETS, ''), ('webdataset', DATASETS, ''), ('ci', DATASETS, ''),
    ('cifr10', DATASETS, 'cifar10'), ('CIFAR-10', DATASETS, 'cifar10'),
    ('image_folder', DATASETS, 'folder'), ('imagenet', DATASETS, 'imagenette'),
    ('tst', ['train', 'test'], 'test'), ('vl', ['train', 'val'], 'val'),
    ('ResNet5', ['ResNet50', 'ResNet101'], 'ResNet50'), ('resnet50.a1', ['resnet50.a1_in1k'],
                                                         'resnet50.a1_in1k'),
    ('lables', ['image', 'label'], 'label'), ('bb', ['a', 'b'], 'b'),
    ('hparams.lr', config.FIELDS, ''), ('wd', config.FIELDS, ''),
    ('seed', config.FIELDS, 'hparams.seed'), ('optim', config.FIELDS, 'optimizer.name'),
    ('learning_rte', config.FIELDS, 'hparams.learning_rate'),
    ('data.imagesize', config.FIELDS, 'data.image_size')])
def test_a_close_name_is_offered_and_a_far_one_is_not(name, valid, meant):
    assert nearest(name, valid) == (f'; did you mean {meant!r}?' if meant else '')


@pytest.mark.parametrize('error, line', [
    (ValueError('a\nb'), 'a'), (ValueError('\n  a'), 'a'), (AssertionError(), 'AssertionError'),
    (ValueError('x' * 500), 'x' * 300)])
def test_the_first_line_of_an_error(error, line):
    assert first_line(error) == line
