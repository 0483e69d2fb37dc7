"""Who may import whom: the table of the design, walked over every file."""

import ast
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent

# What a file (or each file of a folder) must never import.
ABOVE = tuple(f'imgjax.{name}' for name in ('train', 'loop', 'commands', 'study', 'entry'))
FORBIDDEN = {
    'configs': ('jax', 'launch', 'imgjax.data', 'imgjax.models', *ABOVE),
    'imgjax/models': ('imgjax.data', 'imgjax.rundir', 'imgjax.commands', 'imgjax.config', 'absl'),
    'imgjax/augment': ('imgjax.data', 'imgjax.rundir', 'imgjax.commands', 'imgjax.config', 'absl'),
    'imgjax/config': ('jax', 'ml_collections', *ABOVE),
    'imgjax/process/projects.py': ('jax', 'imgjax.data', 'imgjax.rundir'),
    'imgjax/data': ('jax', 'flax', 'imgjax.models', 'imgjax.step', 'imgjax.state'),
    **{f'imgjax/{kind}': ('imgjax.data', 'imgjax.rundir', 'imgjax.commands', 'absl', *ABOVE)
       for kind in ('objectives', 'optimizers', 'metrics')},
    'imgjax/samplers': ('jax', 'flax', 'imgjax.rundir', 'imgjax.commands', *ABOVE),
    **{f'imgjax/{kind}': ('absl', *(f'imgjax.{name}' for name in (
        'build', 'card', 'commands', 'data', 'evaluate', 'loop', 'report', 'rundir', 'step',
        'study', 'train'))) for kind in ('evals', 'explain')},
    'imgjax/card': ('imgjax.train', 'imgjax.loop'),
    'imgjax/sharding.py': ('imgjax.data', 'imgjax.rundir'),
    'imgjax/step.py': ('imgjax.data', 'imgjax.rundir', 'os', 'pathlib', 'io'),
    'imgjax/rundir': ('imgjax.models', 'imgjax.step', *ABOVE),
    'imgjax/process': ('imgjax.models', 'imgjax.step', *ABOVE),
    'imgjax/perf': ('imgjax.step', *ABOVE),
    **{f'imgjax/report/{name}.py': ('jax', 'imgjax.data', 'imgjax.step')
       for name in ('answers', 'findings', 'page', 'plots', 'statistics', 'study_page',
                    'study_tables', 'study_text', 'text')},
    'imgjax': ('launch', 'configs', 'tensorflow', 'torch', 'pickle', 'cloudpickle'),
}


def files(place: str):
    path = ROOT / place
    return [path] if path.suffix == '.py' else sorted(path.rglob('*.py'))


def imported(path: pathlib.Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f'{node.module}.{alias.name}' for alias in node.names}
    return names


@pytest.mark.parametrize('place', FORBIDDEN)
def test_imports(place):
    assert files(place)
    for path in files(place):
        for name in imported(path):
            bad = [f for f in FORBIDDEN[place] if name == f or name.startswith(f'{f}.')]
            assert not bad, f'{path.relative_to(ROOT)} imports {name}'


def test_launch_has_no_logic_of_its_own():
    for path in files('launch'):
        assert len(path.read_text().splitlines()) < 45, f'{path}: move logic into imgjax'


def test_the_root_stays_small():
    assert len(list((ROOT / 'imgjax').glob('*.py'))) <= 14


def test_functions_stay_short():
    for path in files('imgjax') + files('launch') + files('configs'):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                lines = node.end_lineno - node.lineno + 1
                assert lines <= 82, f'{path.relative_to(ROOT)}: {node.name} has {lines} lines'
    for path in files('imgjax/models'):
        assert len(path.read_text().splitlines()) <= 265, path  # about 250


def run_python(code: str, **environment: str) -> str:
    done = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True,
                          env=os.environ | environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_import_is_light():
    run_python('import sys, imgjax; bad = {"jax", "tensorflow", "torch"} & set(sys.modules); '
               'assert not bad, bad')


def test_configs_load_without_jax():
    run_python('import sys, configs.digits as c; c.get_config(); '
               'assert not {"jax", "numpy"} & set(sys.modules)')


def test_training_imports_neither_tensorflow_nor_torch_and_touches_no_device():
    run_python('import sys; from imgjax import commands, train; '
               'from imgjax.commands import evaluate, predict; import imgjax.data.sources.digits; '
               'assert not {"tensorflow", "torch"} & set(sys.modules)',
               JAX_PLATFORMS='none_such')  # whatever asks JAX for a device fails
