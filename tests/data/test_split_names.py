"""Which split is meant by a name, whatever the spelling of those that are there."""

import pytest

from imgjax.data import split_names
from imgjax.errors import ConfigError


@pytest.mark.parametrize('split, there, wanted', [
    ('train', ['Training', 'Testing'], 'Training'), ('train', ['TRAIN', 'val'], 'TRAIN'),
    ('held_out', ['Training', 'Testing'], 'Testing'), ('train', ['train', 'Train'], 'train'),
    ('train', ['training_set', 'test_set'], 'training_set'), ('train', ['trn', 'tst'], 'trn'),
    ('test', ['training_set', 'test_set'], 'test_set'), ('held_out', ['train', ' val'], ' val'),
    ('held_out', ['train', 'Val'], 'Val'), ('held_out', ['train', 'validate'], 'validate'),
    ('held_out', ['train', 'eval'], 'eval'), ('held_out', ['train', 'evaluation'], 'evaluation'),
    ('held_out', ['train', 'Valid', 'Test'], 'Valid'), ('held_out', ['test', 'DEV'], 'DEV'),
    ('held_out', ['train', 'Hold-Out', 'val'], 'Hold-Out'), ('held_out', ['test', 'val'], 'val'),
    ('val', ['train', 'validation'], 'validation'), ('validation', ['train', 'Valid'], 'Valid'),
    ('Testing', ['train', 'test'], 'test'), ('Fold 1', ['fold1', 'fold2'], 'fold1'),
    ('val', ['train', 'test'], None), ('held_out', ['train', 'sketches'], None),
    ('held_out', ['Val', 'train', 'val'], 'val'), ('validation', ['VAL', 'val'], 'val'),
    ('train', ['trainers', 'val'], None), ('test', ['contest', 'train'], None)])
def test_names_of_the_field_are_known_in_any_spelling(split, there, wanted):
    assert split_names.find(split, there) == wanted


@pytest.mark.parametrize('split', ['val', 'valid', 'held_out'])
def test_a_name_that_may_be_two_splits_is_refused(split):
    with pytest.raises(ConfigError, match=f"the split '{split}' may be 'VAL' or 'Val'"):
        split_names.find(split, ['train', 'Val', 'VAL', 'Test'])


@pytest.mark.parametrize('split, there, wanted', [
    ('train', ['Training'], ('Training', False)), ('eval', ['Training'], ('Training', True)),
    ('train', ['train', 'Val'], ('train', None)), ('held_out', ['train', 'Val'], ('Val', None)),
    ('sketches', ['train', 'sketches'], ('sketches', None)),
    ('test', ['train', 'sketches'], ('train', True))])
def test_a_share_of_train_is_held_out_where_no_split_is_for_it(split, there, wanted):
    assert split_names.resolve_share(split, there, '') == wanted


def test_which_split_is_read_under_another_name_is_said(caplog):
    caplog.set_level('INFO', 'imgjax')
    split_names.resolve_share('held_out', ['train', 'Val'], '')
    split_names.resolve_share('train', ['train', 'Val'], '')
    split_names.resolve_share('val', ['train', 'Val'], '')
    assert [record.message for record in caplog.records] == [
        "held_out is the split 'Val' of this dataset"]


@pytest.mark.parametrize('name, wanted', [
    ('seg_train', True), ('val2', True), ('Test-images', True), ('fold1', False),
    ('contest', False), ('trainers', False)])
def test_a_word_of_a_name_may_be_that_of_a_split(name, wanted):
    assert split_names.contains_split_name(name) == wanted
