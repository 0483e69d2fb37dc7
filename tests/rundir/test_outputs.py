"""Nothing of a user's is replaced or taken away by what a command writes."""

import json
import os
import pathlib

import numpy as np
import pytest

from imgjax.commands import preview
from imgjax.errors import ConfigError
from imgjax.rundir import outputs

COMMAND = 'launch.export'


def put(path: pathlib.Path, text='years of work\n'):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def tree(folder: pathlib.Path) -> dict:
    """Returns everything below a folder: the text of files, the targets of links."""
    return {str(path.relative_to(folder)):
            os.readlink(path) if path.is_symlink() else path.is_file() and path.read_text()
            for path in sorted(folder.rglob('*'))}


def fill(folder: str, *names: str, command=COMMAND) -> None:
    own = outputs.check_folder('output', folder, command, names)
    with outputs.filling(folder, command, own) as new:
        for name in names:
            put(pathlib.Path(new) / name, 'new')


@pytest.mark.parametrize('ending', ['out', 'out/', 'a/b/out', 'link', './out//'])
def test_a_folder_is_new_or_empty_or_of_the_same_command(ending, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'target').mkdir()
    (tmp_path / 'link').symlink_to(tmp_path / 'target')
    put(tmp_path / 'out.tmp' / 'thesis.tex')
    folder = outputs.path('output', ending)
    fill(folder, 'config.json', 'model/part.pb')
    put(pathlib.Path(folder) / 'notes.txt')  # from now on the user has something there too
    fill(folder, 'config.json', 'other.onnx')
    found = tree(pathlib.Path(os.path.realpath(folder)))
    marker = json.loads(found.pop('.imgjax.json'))
    assert marker == {'command': COMMAND,
                      'files': ['config.json', 'model/part.pb', 'other.onnx']}
    assert found == {'config.json': 'new', 'model': False, 'model/part.pb': 'new',
                     'other.onnx': 'new', 'notes.txt': 'years of work\n'}
    assert tree(tmp_path / 'out.tmp') == {'thesis.tex': 'years of work\n'}
    assert os.stat(f'{folder}/config.json').st_mode & 0o777 == 0o666 & ~outputs._umask()


def run_directory(folder: pathlib.Path):
    for name in ('config.json', 'dataset.json', 'checkpoints/10/state', 'metrics.jsonl'):
        put(folder / name)


FOLDERS = {
    'a thesis': (lambda at: put(at / 'out/thesis.tex'), 'out', "holds 'thesis.tex', which launch"),
    'a hidden file': (lambda at: put(at / 'out/.git/HEAD'), 'out', "holds '.git'"),
    'the folder above': (lambda at: put(at / 'out/deeper/x'), 'out/', "holds 'deeper'"),
    'of another command': (lambda at: fill(f'{at}/out', 'a', command='launch.study'), 'out',
                           "holds '.imgjax.json'"),
    'a broken marker': (lambda at: put(at / 'out/.imgjax.json', '[]'), 'out', "'.imgjax.json'"),
    "a file of the user's in our way": (
        lambda at: (fill(f'{at}/out', 'a'), put(at / 'out/config.json')), 'out',
        "launch.export did not write its 'config.json'"),
    'a link in our way': (
        lambda at: (fill(f'{at}/out', 'config.json'), os.remove(at / 'out/config.json'),
                    put(at / 'mine'), (at / 'out/config.json').symlink_to(at / 'mine')), 'out',
        "did not write its 'config.json'"),
    'a file': (lambda at: put(at / 'out'), 'out', 'is no folder'),
    'a link to nothing': (lambda at: (at / 'out').symlink_to(at / 'gone'), 'out', 'is no folder'),
    'below a file': (lambda at: put(at / 'out'), 'out/in', 'out is no folder'),
    'the run itself': (lambda at: run_directory(at / 'out'), 'out', "holds 'checkpoints'"),
    'of the run': (lambda at: run_directory(at / 'out'), 'out/checkpoints/20', 'run directory'),
    'of the run by a link': (
        lambda at: (run_directory(at / 'run'), (at / 'out').symlink_to(at / 'run')),
        'out/profile', "'profile' is a name of the run directory"),
}


@pytest.mark.parametrize('case', FOLDERS)
def test_another_folder_is_refused_and_left_as_it_is(case, tmp_path):
    make, name, words = FOLDERS[case]
    make(tmp_path)
    before = tree(tmp_path)
    with pytest.raises(ConfigError, match='^--output=') as error:
        outputs.check_folder('output', outputs.path('output', f'{tmp_path}/{name}'), COMMAND,
                             ('config.json',))
    assert words in str(error.value) and '\n' not in str(error.value)
    assert tree(tmp_path) == before


def test_an_export_directory_of_a_run_is_one(tmp_path):
    run_directory(tmp_path / 'run')
    assert outputs.check_folder('output', f'{tmp_path}/run/export/onnx', COMMAND) == []


@pytest.mark.parametrize('before', [(), ('a',)])
def test_after_an_error_all_is_as_before(before, tmp_path):
    folder = f'{tmp_path}/x/out'
    if before:
        fill(folder, *before)
    there = tree(tmp_path)
    own = outputs.check_folder('output', folder, COMMAND)
    with pytest.raises(ZeroDivisionError), outputs.filling(folder, COMMAND, own) as new:
        put(pathlib.Path(new) / 'a', str(1 / 0))
    assert tree(tmp_path) == there


MARKS = (b'image,class_1',)
FILES = {
    'a new one': (lambda at: None, 'out.csv', None),
    'an empty one': (lambda at: put(at / 'out.csv', ''), 'out.csv', None),
    'its own': (lambda at: put(at / 'out.csv', 'image,class_1,\n1,2\n'), 'out.csv', None),
    'its own by a link': (
        lambda at: (put(at / 'a/b.csv', 'image,class_1\n'),
                    (at / 'out.csv').symlink_to(at / 'a/b.csv')), 'out.csv', None),
    'a listing': (lambda at: put(at / 'out.csv', 'path,label\n'), 'out.csv', 'is there already'),
    'a folder': (lambda at: (at / 'out.csv').mkdir(), 'out.csv', 'is a folder'),
    'a FIFO': (lambda at: os.mkfifo(at / 'out.csv'), 'out.csv', 'is no plain file'),
    'no folder': (lambda at: None, 'a/out.csv', 'no such folder'),
    'below a file': (lambda at: put(at / 'a'), 'a/out.csv', 'no such folder'),
    "a run's config": (lambda at: run_directory(at), 'config.json', 'a name of the run directory'),
    'a name of a run': (lambda at: run_directory(at), 'result.json', 'a name of the run'),
    'beside a run': (lambda at: run_directory(at), 'predictions.csv', None),
}


@pytest.mark.parametrize('case', FILES)
def test_a_file_is_new_or_empty_or_of_the_same_command(case, tmp_path):
    make, name, words = FILES[case]
    make(tmp_path)
    put(tmp_path / f'{name}.tmp') if words is None else None
    before = tree(tmp_path)
    file = outputs.path('output', f'{tmp_path}/{name}')
    if words:
        with pytest.raises(ConfigError, match=f'^--output=.*{words}') as error:
            outputs.check_file('output', file, 'launch.predict', MARKS)
        assert '\n' not in str(error.value) and tree(tmp_path) == before
        return
    outputs.check_file('output', file, 'launch.predict', MARKS)
    with outputs.replacing(file) as opened:
        opened.write('image,class_1\nnew')
    target = os.path.relpath(os.path.realpath(file), tmp_path)
    assert tree(tmp_path) == before | {target: 'image,class_1\nnew'}


@pytest.mark.parametrize('ending', preview.FORMATS)
def test_a_preview_is_known_again(ending, tmp_path):
    file = f'{tmp_path}/preview{ending}'
    for _ in range(2):
        outputs.check_file('output', file, 'launch.preview', (preview._MARK.encode(),))
        preview._save([('evaluated', [np.zeros((4, 4, 1), np.uint8)], ['a'])], file, 'a title')


def test_the_home_of_a_user(monkeypatch):
    monkeypatch.setenv('HOME', '/home/ada')
    assert outputs.path('workdir', '~/runs/') == '/home/ada/runs'
    assert outputs.path('workdir', './~') == './~' and outputs.path('workdir', '/') == '/'
    for text, words in (('', 'empty'), ('~nobody-here/x', "no user 'nobody-here'")):
        with pytest.raises(ConfigError, match=words):
            outputs.path('workdir', text)


def test_what_may_not_be_written_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(os, 'access', lambda *_: False)  # root may write everywhere
    for check in (lambda: outputs.check_folder('output', f'{tmp_path}/a/b', COMMAND),
                  lambda: outputs.check_file('output', f'{tmp_path}/a.csv', COMMAND, MARKS)):
        with pytest.raises(ConfigError, match=f'{tmp_path} may not be written'):
            check()
