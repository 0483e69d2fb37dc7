"""Files of the user's own: where they come from, what is refused, what changes their digest."""

import importlib
import importlib.machinery
import os
import subprocess
import sys
import textwrap

import pytest

from imgjax import models
from imgjax.process import projects
from tests.test_imports import ROOT

MODEL = '''
from flax import linen as nn

VARIANTS = {'mine': {'width': 7}}
TENSOR_RULES = (('hidden/kernel', (None, 'tensor')),)


class Model(nn.Module):
    num_classes: int
    width: int = 5
    drop_path: float = 0.0

    @nn.compact
    def __call__(self, image_NHWC, *, train):
        hidden_ND = nn.Dense(self.width, name='hidden')(image_NHWC.mean((1, 2)))
        return nn.Dense(self.num_classes, name='head')(hidden_ND), {'pre_logits': hidden_ND}
'''


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Returns write(file, code), which writes a file in the directory of the command."""
    before = {name: sys.modules.pop(name) for name in list(sys.modules)
              if name.split('.')[0] == 'projects'}
    (tmp_path / 'here' / 'projects').mkdir(parents=True)
    monkeypatch.chdir(tmp_path / 'here')
    monkeypatch.syspath_prepend(str(tmp_path / 'elsewhere'))

    def to(file: str, code: str) -> None:
        path = tmp_path / 'here' / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(code))

    yield to
    for name in [name for name in sys.modules if name.split('.')[0] == 'projects']:
        del sys.modules[name]
    sys.modules.update(before)


def refused(function, name: str) -> str:
    with pytest.raises(ValueError) as error:
        function(name)
    assert '\n' not in str(error.value)
    return str(error.value)


def test_a_file_is_imported_once_and_imports_others(write):
    write('projects/mine.py', 'from projects import other\nfrom projects.deep.part import B\nA = 1')
    write('projects/other.py', 'A = 2')
    write('projects/deep/part.py', 'from ..other import A\nB = A + 1')
    mine = projects.load('projects.mine')
    assert (mine.A, mine.other.A, mine.B) == (1, 2, 3)
    assert projects.load('projects.mine') is mine
    assert projects.load('projects.deep.part').B == 3
    write('projects/__init__.py', 'C = 4')
    write('projects/late.py', 'from projects import other')
    assert projects.load('projects.late').other is mine.other


def test_the_folder_may_be_a_package(write):
    write('projects/__init__.py', 'C = 4')
    write('projects/mine.py', 'from projects import C')
    assert projects.load('projects.mine').C == 4
    before = projects.digest('projects.mine')
    write('projects/__init__.py', 'C = 5')
    assert projects.digest('projects.mine') != before


@pytest.mark.parametrize('as_package', [False, True])
def test_only_the_current_directory_counts(write, tmp_path, monkeypatch, as_package):
    elsewhere = tmp_path / 'elsewhere' / 'projects'
    elsewhere.mkdir(parents=True)
    for name in ('mine', 'theirs'):
        (elsewhere / f'{name}.py').write_text('A = "elsewhere"')
    if as_package:
        (elsewhere / '__init__.py').touch()
    assert importlib.import_module('projects.mine').A == 'elsewhere'  # as other code imports it
    write('projects/mine.py', 'A = "here"')
    assert projects.load('projects.mine').A == 'here'
    assert 'projects/theirs.py: there is no such file' in refused(projects.load, 'projects.theirs')
    write('projects/mine.py', 'from projects.theirs import A')
    del sys.modules['projects.mine']
    assert "No module named 'projects.theirs'" in refused(projects.load, 'projects.mine')
    monkeypatch.chdir(tmp_path / 'elsewhere')
    assert projects.load('projects.mine').A == 'elsewhere'


@pytest.mark.parametrize('name', [
    'projects', 'projects.', 'projects..mine', 'projects.../mine', 'projects.mine\n', 'mine',
    'projects.Mine', 'os.path', 'projects/mine', '', None])
@pytest.mark.parametrize('function', [projects.load, projects.digest])
def test_other_names_are_refused(write, function, name):
    write('projects/mine.py', 'raise AssertionError')
    assert f'{name!r} is refused' in refused(function, name)


@pytest.mark.parametrize(('code', 'words'), [
    (None, 'projects/mine.py: there is no such file in /'),
    ('A = 1\nA =', 'projects/mine.py, line 2: does not import: SyntaxError: invalid syntax'),
    ('A = "\0"', 'projects/mine.py: does not import: '),  # a ValueError before Python 3.11.4
    ('def f():\n    raise TypeError("two\\nlines")\nf()\n',
     'projects/mine.py, line 2: does not import: TypeError: two'),
    ('import imgjax.no_such', 'projects/mine.py, line 1: does not import: ModuleNotFoundError: '),
    ('import sys\nsys.exit(3)', 'projects/mine.py, line 2: does not import: SystemExit: 3'),
    ('from projects import other', 'projects/other.py, line 1: does not import: SyntaxError')])
def test_a_file_that_does_not_import(write, code, words):
    write('projects/other.py', '(')
    if code is not None:
        write('projects/mine.py', code)
    assert words in refused(projects.load, 'projects.mine')
    assert 'projects.mine' not in sys.modules


@pytest.mark.parametrize('part', ['mine.py', 'mine', 'other.py'])
def test_no_link_out_of_the_folder_is_followed(write, tmp_path, part):
    write('outside/deep.py', 'raise AssertionError')
    write('projects/theirs.py', 'A = 1')
    (tmp_path / 'here' / 'projects' / part).symlink_to(
        tmp_path / 'here' / 'outside' / ('' if part == 'mine' else 'deep.py'))
    if part == 'other.py':
        write('projects/mine.py', 'from .other import A')
    name = 'projects.mine.deep' if part == 'mine' else 'projects.mine'
    for function in (projects.load, projects.digest):
        assert f'projects/{part}' in (words := refused(function, name))
        assert 'out of the folder projects' in words
    os.symlink('theirs.py', 'projects/inside.py')
    assert projects.load('projects.inside').A == 1


def test_files_of_a_run_directory_are_not_executed(write):
    write('projects/mine.py', 'raise AssertionError')
    write('config.json', '{}')
    os.mkdir('checkpoints')
    assert 'is a run directory' in refused(projects.load, 'projects.mine')


def test_a_name_that_python_finds_elsewhere_is_refused(write):
    write('projects/mine.py', 'A = 1')
    suffix = importlib.machinery.EXTENSION_SUFFIXES[0]
    write(f'projects/mine{suffix}', 'no library')
    assert 'projects/mine.py: Python imports /' in refused(projects.load, 'projects.mine')


CODE = '''
"""A file."""
from .other import B


class Model:
    """A model."""

    def run(self, x: int = 3):
        return x * 2  # a comment
'''


def test_comments_docstrings_and_layout_do_not_change_the_digest(write):
    write('projects/mine.py', CODE)
    write('projects/other.py', 'B = 1')
    before = projects.digest('projects.mine')
    assert len(before) == 16 and set(before) <= set('0123456789abcdef')
    for old, new in (('"""A file."""\n', ''), ('A model', 'Another'), ('# a comment', ''),
                     ('x * 2', '(x *\n                2)'), ('    """A model."""', '')):
        assert old in CODE
        write('projects/mine.py', CODE.replace(old, new))
        assert projects.digest('projects.mine') == before, old
    write('projects/other.py', '"""What another file holds."""\nB = 1  # one')
    assert projects.digest('projects.mine') == before


def test_code_changes_the_digest_also_that_of_a_file_that_is_imported(write):
    write('projects/mine.py', CODE)
    write('projects/other.py', 'from projects.deep import third\nB = 1')
    write('projects/deep/third.py', 'C = None')
    write('projects/aside.py', 'D = 1')
    digests = [projects.digest('projects.mine')]
    for file, code in (
            ('mine', CODE.replace('x * 2', 'x * 3')), ('mine', CODE.replace('x * 2', 'x * 2.0')),
            ('mine', CODE.replace('int = 3', 'int = 4')), ('mine', f'{CODE}\n"text"'),
            ('mine', CODE.replace('x * 2', '"x * 2"')), ('mine', CODE.replace('run', 'walk')),
            ('other', 'from projects.deep import third\nB = 2'), ('deep/third', 'C = "None"'),
            ('deep/third', 'C = ...')):
        write(f'projects/{file}.py', code)
        digests.append(projects.digest('projects.mine'))
    assert len(set(digests)) == len(digests)
    write('projects/aside.py', 'D = 2')
    assert projects.digest('projects.mine') == digests[-1]


def test_the_digest_is_the_same_under_all_versions_of_python(write):
    write('projects/mine.py', CODE.replace('from .other import B', 'import os'))
    assert projects.digest('projects.mine') == 'ac5943ce55a6ed19'


def test_a_model_of_ones_own(write):
    write('projects/mine.py', MODEL)
    write('projects/plain.py', MODEL.replace("VARIANTS = {'mine': {'width': 7}}", ''))
    assert models.create('projects.mine', 3).width == 7
    assert models.create('projects.mine', 3, width=9).width == 9
    assert models.create('projects.plain', 3).width == 5
    assert models.options('projects.mine') == ['drop_path', 'width']
    assert models.tensor_rules('projects.mine') == (('hidden/kernel', (None, 'tensor')),)
    for option, value, words in (('widht', 3, "did you mean 'width'"),
                                 ('width', 'x', 'takes a whole number'),
                                 ('drop_path', 1.5, 'below 1')):
        with pytest.raises(ValueError, match=f"model family 'projects.mine'.*{words}"):
            models.create('projects.mine', 3, **{option: value})


@pytest.mark.parametrize('code', ['A = 1', 'def Model(num_classes): pass', 'class Model: pass'])
def test_a_file_without_a_model_is_refused(write, code):
    write('projects/mine.py', code)
    for function in (models.module, models.options, models.tensor_rules,
                     lambda name: models.create(name, 3)):
        assert 'projects/mine.py: has no Model' in refused(function, 'projects.mine')


def test_it_is_found_without_a_path_and_without_jax(write):
    write('projects/mine.py', 'import sys\nassert not {"jax", "numpy"} & set(sys.modules)')
    code = 'import imgjax.process.projects as p; print(p.load("projects.mine").__name__)'
    done = subprocess.run([sys.executable, '-P', '-c', code], capture_output=True, text=True,
                          env={**os.environ, 'PYTHONPATH': str(ROOT)})
    assert done.stdout == 'projects.mine\n', done.stderr
