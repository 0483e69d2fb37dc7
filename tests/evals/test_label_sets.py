import json

import pytest

from imgjax.errors import DataError
from imgjax.evals import label_sets

FILES = ['n02/val_10.JPEG', 'n01/val_2.JPEG', 'n01/val_1.JPEG']


@pytest.mark.parametrize('stored', [
    [[5], [], [7, 8]],  # in the order 1, 2, 10
    {'n02/val_10.JPEG': [7, 8], 'val_1.JPEG': [5], 'val_2.JPEG': [], 'another.JPEG': [1]}])
def test_label_sets_are_read(tmp_path, stored):
    (tmp_path / 'real.json').write_text(json.dumps(stored))
    assert label_sets.read(str(tmp_path / 'real.json'), FILES) == [[7, 8], [], [5]]


@pytest.mark.parametrize('text, names, message', [
    ('[[1], [2', FILES, 'cannot be read as JSON'),
    ('[' * 100_000, FILES, 'cannot be read as JSON'),
    ('3', FILES, 'neither a dict nor a list'),
    ('[[1]]', FILES, '1 lists for 3 images'),
    ('[[1], [2], [3]]', ['a/1.png', 'b/1.png', 'c/1.png'], 'file names that differ'),
    ('{"val_1.JPEG": [1]}', FILES, 'no classes for 2 of 3 images: n02/val_10.JPEG'),
    ('[[1], [2], ["cat"]]', FILES, r"n02/val_10.JPEG: \['cat'\] is no list"),
    ('[[1], [2], [-1]]', FILES, 'is no list of class indices'),
    ('[[1], [2], [true]]', FILES, 'is no list of class indices'),
    ('[[1], [2], 3]', FILES, 'is no list of class indices'),
])
def test_a_broken_file_of_label_sets_gives_one_line(tmp_path, text, names, message):
    path = tmp_path / 'real.json'
    path.write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        label_sets.read(str(path), names)
    assert '\n' not in str(caught.value)


def test_a_missing_file_of_label_sets_gives_one_line(tmp_path):
    with pytest.raises(DataError, match='none.json: cannot be read .*FileNotFoundError'):
        label_sets.read(str(tmp_path / 'none.json'), FILES)
