"""The picture of what a model is trained on, with the names that classes have in the wild."""

import numpy as np
import pytest
from PIL import Image

from imgjax.commands import preview

NAMES = ['$x_1$', 'a_$b', '100% <b>', '\\frac{', '日本', '\udcff', 'two\nlines', 'a\x1b[31m']


@pytest.mark.filterwarnings('error')
@pytest.mark.parametrize('ending', ['png', 'svg'])
def test_any_name_of_a_class_is_drawn_as_it_is(ending, tmp_path, caplog):
    """A '$' is no formula; what no font has is said once."""
    output = tmp_path / f'preview.{ending}'
    images = [np.zeros((4, 4, 1), np.uint8)] * len(NAMES)
    names = [preview._printable(name) for name in NAMES]
    preview._save([('evaluated', images, names)], str(output), '$run_1: a')
    assert len(caplog.messages) <= 1
    if ending == 'png':
        with Image.open(output) as picture:
            assert picture.size[0] > 1000
