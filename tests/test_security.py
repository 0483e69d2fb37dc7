"""Nothing on disk is executed, nobody is asked, no secret is written, nobody else may write."""

import ast
import json
import os
import pathlib
import stat
import subprocess
import sys

import jax
import pytest

from imgjax import config
from imgjax.errors import ConfigError
from imgjax.process import compile_cache
from imgjax.report import run as run_page
from imgjax.rundir import files as files_lib
from imgjax.rundir import redact
from tests.conftest import FAST
from tests.test_imports import ROOT, files, imported

MODULES = ('pickle', 'cPickle', 'dill', 'cloudpickle', 'joblib', 'marshal', 'shelve', 'jsonpickle')
CALLS = {'eval', 'exec', 'compile', '__import__', 'yaml.load', 'yaml.unsafe_load', 'os.system',
         'os.popen', 'pandas.read_pickle', 'subprocess.getoutput', 'subprocess.getstatusoutput'}
SUBPROCESS = {'run', 'Popen', 'call', 'check_call', 'check_output'}


def forbidden(tree: ast.AST):
    """Yields (line, what) for each call that would run what it is given."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        keywords = {k.arg: ast.unparse(k.value) for k in node.keywords}
        if name in CALLS:
            yield node.lineno, name
        if keywords.get('allow_pickle', 'False') != 'False' or keywords.get('shell', '') == 'True':
            yield node.lineno, f'{name} with {keywords}'
        if name == 'torch.load' and keywords.get('weights_only') != 'True':
            yield node.lineno, 'torch.load without weights_only=True'
        if name.startswith('subprocess.') and name.split('.')[1] in SUBPROCESS and isinstance(
                node.args[0], ast.Constant | ast.JoinedStr):
            yield node.lineno, 'a command as a string'


@pytest.mark.parametrize('place', ['imgjax', 'configs', 'launch', 'benchmarks'])
def test_nothing_is_executed_or_unpickled(place):
    for path in files(place):
        assert not list(forbidden(ast.parse(path.read_text()))), path
        assert not [name for name in imported(path) if name.split('.')[0] in MODULES], path


@pytest.mark.parametrize('code', [
    'eval(x)', 'exec(x)', 'compile(x, "", "exec")', 'np.load(x, allow_pickle=True)',
    'np.load(x, allow_pickle=y)', 'subprocess.run(x, shell=True)', 'subprocess.run("ls")',
    'subprocess.Popen(f"ls {x}")', 'torch.load(x)', 'torch.load(x, weights_only=False)',
    'yaml.load(x)', 'os.system(x)'])
def test_the_test_sees(code):
    assert list(forbidden(ast.parse(code)))


# A real run whose process is watched, with secrets in its environment and no umask.

SECRETS = {
    'HF_TOKEN': 'hf_' + 'aZ3kQ9' * 6, 'AWS_ACCESS_KEY_ID': 'AKIA' + 'J7Q2' * 4,
    'AWS_SECRET_ACCESS_KEY': 'wJalrXUtnFEMI/K7MDENG/bPxRfiCY' * 2, 'DB_PASSWORD': 'correct horse',
    'MY_SERVICE_KEY': 'the-plainest-of-words', 'GITHUB_PAT': 'ghp_' + 'b4T8' * 9}
# Python starts every process with it; a spy that says what an attack would say.
WATCH = '''
import sys
_log = open({log!r}, 'a', buffering=1)
def _hook(event, args):
    if event in ('socket.connect', 'socket.bind', 'socket.sendto', 'socket.getaddrinfo',
                 'os.system', 'os.exec', 'urllib.Request'):
        _log.write(f'{{event}} {{args[1:]}}\\n')
sys.addaudithook(_hook)
'''
SHORT = ('--config=configs/digits.py', '--config.steps=20', '--config.eval_every=0',
         '--config.checkpoint.every=10', '--config.log_every=10', '--config.name=watched')


@pytest.fixture(scope='module')
def start(data_dir, tmp_path_factory):
    """Returns start(module, *flags) -> CompletedProcess of `python -m launch.MODULE`, watched.

    It runs from another folder than the checkout; what it did on the network is in start.log.
    """
    place = tmp_path_factory.mktemp('watched')
    (place / 'site').mkdir()
    log = place / 'log'
    (place / 'site' / 'sitecustomize.py').write_text(WATCH.format(log=str(log)))
    (place / 'home').mkdir(mode=0o700)
    for link in ('configs', 'docs'):
        (place / link).symlink_to(ROOT / link)

    def run(module: str, *flags: str) -> subprocess.CompletedProcess:
        env = {name: value for name, value in os.environ.items() if not name.startswith('JAX_')}
        env |= SECRETS | {
            'HOME': str(place / 'home'), 'JAX_PLATFORMS': 'cpu', 'TFDS_DATA_DIR': data_dir,
            'XLA_FLAGS': FAST, 'PYTHONPATH': os.pathsep.join([str(place / 'site'), str(ROOT)])}
        env.pop('XDG_CACHE_HOME', None)
        return subprocess.run([sys.executable, '-m', f'launch.{module}', *flags], cwd=place,
                              env=env, text=True, capture_output=True, umask=0, timeout=200)

    run.log, run.home = log, place / 'home'
    return run


@pytest.fixture(scope='module')
def watched(start, tmp_path_factory):
    """(run directory, process) of a short training."""
    workdir = tmp_path_factory.mktemp('runs') / 'run'
    done = start('train', *SHORT, f'--workdir={workdir}')
    assert done.returncode == 0, done.stderr[-3000:]
    return workdir, done


def result_of(done) -> dict:
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_a_run_asks_nobody(watched, start):
    assert start.log.read_text() == ''


def test_no_secret_is_written(watched):
    workdir, done = watched
    written = [(path, path.read_bytes()) for path in workdir.rglob('*') if path.is_file()]
    assert {'config.json', 'environment.json', 'report.html', 'metrics.jsonl'} <= {
        path.name for path, _ in written}
    for path, data in [*written, ('stdout', done.stdout.encode()), ('err', done.stderr.encode())]:
        for name, value in SECRETS.items():
            assert value.encode() not in data, f'{name} is in {path}'


def test_directories_are_closed_to_others(watched, start):
    workdir, _ = watched
    assert stat.S_IMODE(workdir.stat().st_mode) == 0o750
    assert stat.S_IMODE((workdir / 'lock').stat().st_mode) == 0o640
    cache = start.home / '.cache' / 'imgjax' / 'xla'
    place, = cache.iterdir()
    for path in (place, cache, cache.parent):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
    assert jax.__version__ in place.name and list(place.glob('*-cache'))


def test_programs_from_the_cache_give_the_same_bits(watched, start, tmp_path):
    _, cold = watched
    place, = (start.home / '.cache' / 'imgjax' / 'xla').iterdir()
    before = sorted(place.glob('*-cache'))
    # One of them was cut short by a kill, which costs a warning and its compilation.
    os.truncate(before[0], before[0].stat().st_size // 2)
    warm = start('train', *SHORT, f'--workdir={tmp_path / "run"}')
    same = ('state_digest', 'accuracy', 'loss', 'step')
    assert [result_of(warm)[k] for k in same] == [result_of(cold)[k] for k in same]
    # A small program that took a little less than the limit before may be stored now; the step's
    # would have a second file if it were compiled again under another key.
    after = sorted(place.glob('*-cache'))
    steps = [[path for path in paths if 'jit_dispatch' in path.name] for paths in (before, after)]
    assert steps[0] and steps[0] == steps[1] and set(before) <= set(after), 'compiled again'


def test_nothing_in_a_run_directory_is_executed(watched, start, tmp_path):
    workdir, _ = watched
    marker = tmp_path / 'executed'
    code = f'open({str(marker)!r}, "a").write(__name__)\n'
    for name in ('config.py', '__init__.py', 'sitecustomize.py', 'usercustomize.py', 'conftest.py',
                 'imgjax/__init__.py', 'jax/__init__.py', 'checkpoints/__init__.py', 'model.py'):
        (workdir / name).parent.mkdir(exist_ok=True)
        (workdir / name).write_text(code)
    (workdir / 'x.pth').write_text(f'import sys; {code}')
    (workdir / 'params.pkl').write_bytes(b"cos\nsystem\n(S'touch %s'\ntR." % str(marker).encode())
    found = result_of(start('inspect', f'--workdir={workdir}'))
    assert [entry['verified'] for entry in found['steps']] == [True, True]
    images = ROOT / 'docs' / 'digits'
    result_of(start('predict', f'--workdir={workdir}', f'--images={images}',
                    f'--output={tmp_path / "out.json"}'))
    assert not marker.exists()
    assert start.log.read_text() == ''


FORMS = [
    'ghp_' + 'a1B2' * 9, 'github_pat_' + 'a1B2' * 9, 'hf_' + 'aB' * 17, 'AKIA' + 'Q3' * 8,
    'sk-' + 'a1B2' * 8, 'sk-proj-' + 'a_B-' * 8, 'xoxb-123456789012-abcdef', 'AIza' + 'x' * 35,
    'eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.c2lnbmF0dXJl',
    '-----BEGIN RSA PRIVATE KEY-----\nMIIEow\n-----END RSA PRIVATE KEY-----',
    's3://user:hunter2@host/bucket', 'https://host/file?X-Amz-Signature=0123456789abcdef',
    'Authorization: Bearer abcdefghijklmnopqrst']


@pytest.mark.parametrize('value', FORMS)
def test_a_secret_in_a_config_is_refused_and_not_repeated(value):
    from tests.drills.config import get_config
    for name, change in (('name', {'name': f'my {value}'}), ('data.path', {'path': value}),
                         ('data.options.x', {'options': {'x': [value]}})):
        plain = get_config().to_dict()
        (plain['data'] if 'data' in name else plain).update(change)
        with pytest.raises(ConfigError, match=f'^config.{name}: looks like a secret') as error:
            config.checked(plain)
        assert value not in str(error.value) and '\n' not in str(error.value)
    assert value not in redact.text(f'failed: {value} at step 3') and (
        redact.text(f'failed: {value} at step 3').endswith('at step 3'))


def test_a_field_that_is_named_as_a_secret_is_refused(monkeypatch):
    from tests.drills.config import get_config
    plain = get_config().to_dict()
    for name in ('token', 'hub_token', 'api_key', 'secret-key', 'Password', 'aws.credentials'):
        plain['data']['options'] = {name: 'anything'}
        with pytest.raises(ConfigError, match='looks like a secret'):
            config.checked(plain)
    plain['data']['options'] = {'image_key': 'jpg', 'tokens': 7, 'tokenizer': 'words', 'key': 'x'}
    plain['data']['path'] = 'https://host:8080/a/b?revision=main'
    config.checked(plain)
    monkeypatch.setenv('STORE_PASSWORD', 'b/c/d/e/f')
    plain['data']['path'] = '/a/b/c/d/e/f'
    with pytest.raises(ConfigError, match='config.data.path: looks like a secret'):
        config.checked(plain)


def test_the_command_in_the_environment_is_redacted(monkeypatch):
    monkeypatch.setattr(sys, 'argv', ['train', f'--workdir={FORMS[0]}', '--x=s3://me:pw@h/'])
    assert run_page.environment()['command'] == 'train --workdir=[redacted] --x=s3://[redacted]@h/'


# The compilation cache.

@pytest.fixture
def cache(tmp_path, monkeypatch):
    """XDG_CACHE_HOME of one user only, and JAX's settings as they are without us."""
    tmp_path.chmod(0o700)
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    names = ('jax_compilation_cache_dir', 'jax_compilation_cache_max_size',
             'jax_persistent_cache_min_compile_time_secs', 'jax_enable_compilation_cache')
    before = {name: getattr(jax.config, name) for name in names}
    jax.config.update('jax_compilation_cache_dir', None)
    yield tmp_path / 'cache'
    for name, value in before.items():
        jax.config.update(name, value)


def test_the_cache_is_bounded_and_of_this_version_and_cpu(cache, monkeypatch):
    compile_cache.enable()
    place = pathlib.Path(jax.config.jax_compilation_cache_dir)
    assert place.parent == cache / 'imgjax' / 'xla' and place.is_dir()
    assert jax.config.jax_compilation_cache_max_size == 4 * 2**30
    assert place.name == pathlib.Path(compile_cache.directory()).name
    monkeypatch.setattr(compile_cache.platform, 'machine', lambda: 'another')
    assert place.name != pathlib.Path(compile_cache.directory()).name


def _leaf(cache) -> pathlib.Path:
    compile_cache.enable()
    jax.config.update('jax_compilation_cache_dir', None)
    return pathlib.Path(compile_cache.directory())


def _linked(path):
    path.rename(path.with_name('elsewhere'))
    path.symlink_to(path.with_name('elsewhere'))


def test_a_run_directory_has_a_name_in_utf_8():
    with pytest.raises(ConfigError, match=r'--workdir=/.*/w\?: the name is no UTF-8'):
        files_lib.check_run('w\udcff')


HARMS = {
    'others may read it': (lambda place: place.chmod(0o755), 'others may use'),
    'its group may write in it': (lambda place: place.chmod(0o770), 'others may use'),
    'others may write above it': (lambda place: place.parent.chmod(0o777), 'others may use'),
    'others may write far above': (lambda place: place.parents[2].chmod(0o777), 'others may write'),
    'it is a link': (_linked, 'is a link'),
    'a link is above it': (lambda place: _linked(place.parent), 'is a link'),
    'it is a file': (lambda place: (place.rmdir(), place.touch()), 'is a link or no directory'),
    'it is of another user': (lambda place: os.chown(place, 12345, 12345), 'is not yours'),
    'a folder above is': (lambda place: os.chown(place.parents[2], 12345, -1), 'others may write'),
}


@pytest.mark.parametrize('harm', HARMS)
def test_no_cache_where_others_could_put_programs(harm, cache, caplog):
    make, words = HARMS[harm]
    place = _leaf(cache)
    if 'chown' in make.__code__.co_names and os.geteuid():
        pytest.skip('giving a folder away needs root')
    make(place)
    compile_cache.enable()
    assert jax.config.jax_compilation_cache_dir is None
    line, = caplog.messages
    assert words in line and line.startswith('compiled programs are not kept')


def test_no_cache_without_a_home(cache, monkeypatch, caplog):
    monkeypatch.setenv('XDG_CACHE_HOME', 'relative')
    monkeypatch.setattr(compile_cache.os.path, 'expanduser', lambda path: path)
    compile_cache.enable()
    assert jax.config.jax_compilation_cache_dir is None and 'no home' in caplog.text


def test_the_users_own_choice_is_kept(cache, monkeypatch):
    jax.config.update('jax_compilation_cache_dir', '/mine')
    compile_cache.enable()
    assert jax.config.jax_compilation_cache_dir == '/mine' and not cache.exists()
    jax.config.update('jax_compilation_cache_dir', None)
    jax.config.update('jax_enable_compilation_cache', False)
    compile_cache.enable()
    assert jax.config.jax_compilation_cache_dir is None and not cache.exists()
