"""A run directory that version 0.1.0 wrote is read, goes on and is used by every later version.

stored_run/ is configs/digits.py with the model tiny_mlp, batches of 32, 5 steps of warm-up and
40 steps, stopped at step 20.
"""

import pathlib
import shutil

import pytest

from imgjax import config as config_lib
from imgjax import train
from imgjax.commands import evaluate, inspect, predict

STORED = pathlib.Path(__file__).with_name('stored_run')


@pytest.fixture
def stored(tmp_path) -> str:
    return str(shutil.copytree(STORED, tmp_path / 'run'))


def test_it_is_read_and_verified(stored):
    found = inspect.inspect_run(stored)
    assert found['step'] == 20 and found['steps'][0]['verified']


def test_it_goes_on_as_it_would_have_then(stored, tmp_path):
    """To the bit on the machine that wrote it; others round differently."""
    config = config_lib.read(stored)
    result = train.run(None, stored)
    assert result['step'] == 40
    anew = train.run(config, str(tmp_path / 'anew'))
    assert result['loss'] == pytest.approx(anew['loss'], rel=1e-4)
    assert result['accuracy'] == pytest.approx(anew['accuracy'], abs=0.01)


def test_it_is_evaluated_and_classifies(stored, tmp_path):
    found = evaluate.evaluate_split(stored)
    assert found['accuracy'] == pytest.approx(73 / 355, abs=0.01) and found['examples'] == 355
    predict.predict_images(stored, 'docs/digits', 2, str(tmp_path / 'out.csv'))
