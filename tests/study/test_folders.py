"""A study writes into folders that are new, empty or a study's."""

import pytest

from imgjax.errors import ConfigError
from imgjax.study import engine

LOCK = 'process 7 on host since 2026-01-01T00:00:00'
CELL = 'cells/0123456789abcdef-01234567/config.json'


@pytest.mark.parametrize('files, words', [
    ([], None),
    (['study/lock', 'study/plan.json', 'study/notes.txt', CELL, 'cells/notes.txt'], None),
    (['study/part-0-of-2/plan.json', CELL], None),  # another part has just begun
    (['study/cells.csv'], "--workdir=.*study: holds 'cells.csv', which launch.study did not"),
    (['study/config.json', 'study/lock'], "--workdir=.*study: holds 'config.json'"),
    (['study/lock', 'study/prepared.json'], "--workdir=.*study: holds 'lock'"),
    (['cells/a.tif'], "--cells=.*cells: holds 'a.tif'")])
def test_the_folders_of_a_study(files, words, tmp_path):
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(LOCK)
    workdir, cells = engine._folders(f'{tmp_path}/study/', '')
    if words is None:
        engine._check_folders(workdir, cells)
        return
    with pytest.raises(ConfigError, match=words):
        engine._check_folders(workdir, cells)
    assert sorted(path.name for path in tmp_path.rglob('*.*')) == sorted(
        name.rpartition('/')[2] for name in files if '.' in name)
