import os
import pathlib
import subprocess
import sys

import pytest

from imgjax.errors import LockedError
from imgjax.process import lock

ROOT = pathlib.Path(__file__).parents[2]


def test_the_lock_names_its_holder_and_ends_with_it(tmp_path):
    holder = subprocess.Popen([sys.executable, '-c', f'''
import time
from imgjax.process import lock
with lock.run_lock({str(tmp_path)!r}):
    print('held', flush=True)
    time.sleep(60)
'''], cwd=ROOT, text=True, stdout=subprocess.PIPE)
    assert holder.stdout.readline() == 'held\n'
    with pytest.raises(LockedError, match=f'locked by process {holder.pid} on'):
        with lock.run_lock(str(tmp_path)):
            pass
    holder.kill()
    holder.communicate()
    with lock.run_lock(str(tmp_path)):  # a dead process holds nothing
        assert f'process {os.getpid()} ' in (tmp_path / 'lock').read_text()
    with lock.run_lock(str(tmp_path)):
        pass
