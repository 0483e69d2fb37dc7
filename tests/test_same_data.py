"""Whether data are the same: between processes, and between a run and what it is evaluated on."""

import pytest

from imgjax import same_data
from imgjax.build import Facts

FACTS = Facts(['cat', 'dog'], [8, 8, 3], 40, 10, 'a', 'b')


@pytest.mark.parametrize('mine, words', [
    ({}, ''),
    ({'class_names': ['ant', 'cat']}, "than process 0: 'ant' only there, 'dog' only in process 0"),
    ({'class_names': ['dog', 'cat']}, "order than process 0: class 0 is 'dog', there 'cat'"),
    ({'train_examples': 41}, 'has 41 training images, process 0 has 40'),
    ({'eval_examples': 9}, 'has 9 evaluation images, process 0 has 10'),
    ({'eval_fingerprint': 'c'}, 'has other evaluation images than process 0: as many'),
    ({'image_shape': [16, 16, 3]}, 'has images of 16x16x3, process 0 of 8x8x3')])
def test_what_a_process_sees_otherwise(mine, words):
    said = same_data.data_difference(FACTS, FACTS._replace(**mine))
    assert words in said and bool(words) == bool(said)
