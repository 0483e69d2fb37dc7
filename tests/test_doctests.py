"""The examples in the docstrings of the package give what they say."""

import doctest
import importlib
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parent.parent
MODULES = sorted(
    '.'.join(path.relative_to(ROOT).with_suffix('').parts).removesuffix('.__init__')
    for path in (ROOT / 'imgjax').rglob('*.py') if '>>> ' in path.read_text())


@pytest.mark.parametrize('name', MODULES)
def test_examples_of_a_module(name):
    module = importlib.import_module(name)
    found = doctest.testmod(module)
    assert found.attempted and not found.failed
