"""The package as a whole: its docstring names every file, and the example in it runs."""

import doctest
import pathlib
import re

from imgjax import evals


def test_the_example_of_the_docstring_runs():
    found = doctest.testmod(evals)
    assert found.attempted >= 5 and not found.failed


def test_the_docstring_lists_every_file():
    listed = re.findall(r'^  (\w+)  +\w', evals.__doc__, re.MULTILINE)
    files = [path.stem for path in pathlib.Path(evals.__file__).parent.glob('*.py')]
    assert sorted([*listed, '__init__']) == sorted(files)
