"""When a cell of a study is old: the code that it runs has changed, and no other code."""

import ast
import os
import pathlib
import shutil

import pytest

from configs import digits
from imgjax import config as config_lib
from imgjax import parts
from imgjax.study import code

MORE_CODE = '\n\nMORE_CODE = 1\n'


def config(model='tiny_resnet', source='digits', **fields) -> dict:
    plain = config_lib.checked(digits.get_config('mlp'))
    data = plain['data'] | {'name': source}
    return plain | {'model': plain['model'] | {'name': model}, 'data': data, 'augment': []} | fields


CONFIGS = {
    'resnet': config(),
    'xcit': config('tiny_xcit'),
    'folder': config(source='folder'),
    'tfds': config(source='cifar10'),
    'flip': config(augment=[['random_flip', {}]]),
    'mixup': config(augment=[['mixup', {}]]),
    'weights': config(init=config()['init'] | {'weights': 'torchvision:/weights.pth'}),
}


@pytest.fixture
def package(tmp_path):
    """Returns what makes a copy of the package, {file: its text or what is added to it} changed."""
    def copy(changed=()) -> pathlib.Path:
        root = tmp_path / str(len(list(tmp_path.iterdir())))
        shutil.copytree(code.ROOT / 'imgjax', root / 'imgjax', copy_function=os.symlink,
                        ignore=shutil.ignore_patterns('__pycache__'))
        for name, text in dict(changed).items():
            file = root / 'imgjax' / name
            before = file.read_text() if file.exists() else ''
            file.unlink(missing_ok=True)
            file.parent.mkdir(exist_ok=True)
            file.write_text(text(before) if callable(text) else before + text)
        return root

    return copy


def old(root: pathlib.Path) -> set[str]:
    """Returns which of CONFIGS have another version in that copy."""
    return {name for name, one in CONFIGS.items() if code.version(one, root) != code.version(one)}


def test_a_copy_has_the_same_versions(package):
    assert old(package()) == set()
    assert len({code.version(one) for one in CONFIGS.values()}) == len(CONFIGS)


def test_comments_and_docstrings_change_nothing(package):
    """Of any module that a cell runs."""
    def reworded(text: str) -> str:
        text = text.replace('"""', '"""A word. ', 1).replace('    """Returns', '    """Gives back')
        return f'# A comment.\n{text}\n# The last one.\n'

    assert '"""Gives back' in reworded((code.ROOT / 'imgjax' / 'step.py').read_text())
    counted = {name for one in CONFIGS.values() for name in code.modules(one)}
    files = [path.relative_to(code.ROOT / 'imgjax').as_posix()
             for path in (code._file(name, code.ROOT) for name in counted)]
    assert old(package(dict.fromkeys(files, reworded))) == set()


@pytest.mark.parametrize('file, ones', [
    ('step.py', set(CONFIGS)),
    ('data/decode.py', set(CONFIGS)),
    ('train.py', set(CONFIGS)),
    ('members.py', set(CONFIGS)),
    ('study/population.py', set(CONFIGS)),
    ('process/backend.py', set(CONFIGS)),
    ('models/xcit.py', {'xcit'}),
    ('models/vit.py', set()),
    ('models/cait.py', {'xcit'}),  # whose blocks it has
    ('models/parts/pooling.py', set(CONFIGS) - {'xcit'}),
    ('data/sources/folder.py', {'folder'}),
    ('data/sources/tar.py', set()),
    ('augment/mix.py', {'mixup'}),
    ('augment/geometric.py', {'flip'}),
    ('interop/adapt.py', {'weights'}),
    ('interop/torchvision.py', {'weights'}),
    ('interop/huggingface.py', set()),
])
def test_a_module_makes_the_cells_old_that_run_it(package, file, ones):
    assert old(package({file: MORE_CODE})) == ones


def test_sets_of_tfds_have_a_source_too(package):
    """That of the digits imports it."""
    assert {'tfds', 'resnet'} <= old(package({'data/sources/tfds.py': MORE_CODE}))
    assert 'folder' not in old(package({'data/sources/tfds.py': MORE_CODE}))


def test_pages_jobs_commands_and_the_study_itself_make_no_cell_old(package):
    folders = ('report', 'jobs', 'commands', 'perf', 'study')
    # How many steps a dispatch has is chosen by the jaxpr of one.
    counted = {'study/population.py', 'perf/jaxpr_text.py'}
    files = {path.relative_to(code.ROOT / 'imgjax').as_posix() for folder in folders
             for path in (code.ROOT / 'imgjax' / folder).glob('*.py')} - counted
    files -= {f'{folder}/__init__.py' for folder in folders}
    assert old(package(dict.fromkeys(files, MORE_CODE))) == set()


def test_parts_in_folders_of_their_own_count_where_they_are_named(package):
    """In whatever field and folder: config.optimizer names a file of optimizers/."""
    folder = {'optimizers/__init__.py': '',
              'optimizers/first.py': 'from imgjax.optimizers import a',
              'optimizers/a.py': '', 'optimizers/second.py': ''}
    first, second = (config(optimizer={'name': name, 'options': {}}) for name in
                     ('first', 'second'))
    around = config(optimizer={'name': 'second', 'options': {'inner': ['first']}})

    def versions(**more):
        root = package(folder | {f'optimizers/{name}.py': text for name, text in more.items()})
        return [code.version(one, root) for one in (first, second, around)]

    before = versions()
    assert [a == b for a, b in zip(before, versions(second=MORE_CODE), strict=True)] == [
        True, False, False]
    assert [a == b for a, b in zip(before, versions(a=MORE_CODE), strict=True)] == [
        False, True, False]


def test_an_activation_is_no_objective_of_its_name():
    model = dict(CONFIGS['resnet']['model']) | {'name': 'mlp', 'options': {'act': 'sigmoid'}}
    named = code.modules(config_lib.Config(CONFIGS['resnet'] | {'model': model}))
    assert 'imgjax.models.mlp' in named and 'imgjax.objectives.sigmoid' not in named


def test_files_of_projects_count(package, tmp_path, monkeypatch):
    folder = tmp_path / 'here' / 'projects'
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder.parent)
    mine = config(objective={'name': 'projects.mine', 'options': {}})

    def version(text: str, helper: str = '') -> str:
        (folder / 'mine.py').write_text(text)
        (folder / 'helper.py').write_text(helper)
        return code.version(mine, package())

    before = version('from . import helper\nraise RuntimeError')  # it is not run
    assert version('from . import helper\nraise RuntimeError  # still not') == before
    assert version('from . import helper\nraise ValueError') != before
    assert version('from . import helper\nraise RuntimeError', 'a = 1') != before
    assert 'projects.helper' in code.modules(mine, package())


def test_where_and_how_fast_a_run_happens_is_no_name_of_a_part():
    """The same recipe has one version of the code."""
    other = config(name='xcit')
    other |= {'data': other.data | {'path': 'folder'}}
    assert code.modules(other) == code.modules(config())


def test_an_entry_that_moved_is_said(package):
    root = package()
    (root / 'imgjax' / 'step.py').unlink()
    with pytest.raises(FileNotFoundError, match=r'no module imgjax\.step.*code\.py names it'):
        code.version(config(), root)


def test_what_training_imports_and_does_not_count():
    """Files, processes, pages and logs; anything else that training imports makes its numbers.

    Where this fails, a new import of imgjax.train or of the loop has to be counted: let a module of
    code.MAKERS import it, or make it one.
    """
    reached = set(code._reachable(['imgjax.train', 'imgjax.study.population'], code.ROOT))
    rooms = ('rundir', 'process', 'report', 'perf', 'study', 'interop')
    others = {name for name in reached - set(code.modules(config()))
              if not name.startswith(tuple(f'imgjax.{room}' for room in rooms))}
    # They write down which images could not be read, and which fields nothing reads.
    assert others == {'imgjax.data.faults', 'imgjax.config.unread'}


def test_whatever_is_imported_by_name_is_found():
    """Each importlib.import_module(f'FOLDER.{name}') is of a folder whose names code.py knows."""
    known = {'imgjax.models', 'imgjax.data.sources', 'imgjax.augment', 'imgjax.interop'}
    known |= {'imgjax.card.parts', 'imgjax.explain'}  # which no run imports
    kinds = {name.removesuffix('.name').rpartition('.')[2] for name in config_lib.FIELDS}
    known |= {f'imgjax.{folder}' for kind in kinds for folder in (kind, f'{kind}s')}
    for path in (code.ROOT / 'imgjax').rglob('*.py'):
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.Call) and (
                    getattr(node.func, 'attr', '') == 'import_module'
                    and isinstance(node.args[0], ast.JoinedStr)):
                own = '.'.join(path.parent.relative_to(code.ROOT).parts)
                text = ast.unparse(node.args[0])[2:-1].replace('{__name__}', own)
                if text.startswith('imgjax.{PACKAGES[kind]}'):  # of parts.py
                    assert {f'imgjax.{folder}' for folder in parts.PACKAGES.values()} <= known
                    continue
                assert text.partition('.{')[0] in known, f'{path}:{node.lineno}: {text}'
