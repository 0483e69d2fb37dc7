import os
import pathlib
import subprocess
import sys
import time

import pytest

from imgjax import runtime
from imgjax.errors import LockedError

ROOT = pathlib.Path(__file__).parent.parent


def python(code: str, **options) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, '-c', code], cwd=ROOT, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)


def test_the_lock_names_its_holder_and_ends_with_it(tmp_path):
    holder = python(f'''
import time
from imgjax import runtime
with runtime.run_lock({str(tmp_path)!r}):
    print('held', flush=True)
    time.sleep(60)
''')
    assert holder.stdout.readline() == 'held\n'
    with pytest.raises(LockedError, match=f'held by process {holder.pid} on'):
        with runtime.run_lock(str(tmp_path)):
            pass
    holder.kill()
    holder.communicate()
    with runtime.run_lock(str(tmp_path)):  # a dead process holds nothing
        assert f'process {os.getpid()} ' in (tmp_path / 'lock').read_text()
    with runtime.run_lock(str(tmp_path)):
        pass


def test_the_watchdog_ends_a_stuck_process_and_says_where():
    stuck = python('''
import time
from imgjax import runtime
with runtime.watchdog(1.0) as beat:
    for _ in range(4):
        time.sleep(0.5)
        beat()
    print('beats kept it', flush=True)
    time.sleep(60)
''')
    out, err = stuck.communicate(timeout=30)
    assert out == 'beats kept it\n'
    assert stuck.returncode == 76
    assert 'no progress for 1 s' in err and 'time.sleep' not in err and 'line 9' in err


def test_a_watchdog_that_is_over_bites_nobody():
    with runtime.watchdog(0.2):
        pass
    time.sleep(0.6)


def test_nothing_else_takes_sigterm():
    """A Python handler set after start() would silence JAX's notifier: main() sets the only one."""
    taken = [path for path in sorted((ROOT / 'imgjax').rglob('*.py'))
             if 'signal.signal(' in path.read_text()]
    assert [path.name for path in taken] == ['runtime.py']
    assert (ROOT / 'imgjax' / 'runtime.py').read_text().count('signal.signal(') == 1


def test_start_gives_sigterm_to_the_notifier():
    process = python('''
import os, signal, time
from imgjax import runtime
runtime.start()
runtime.start()
assert not runtime.preempted()
os.kill(os.getpid(), signal.SIGTERM)
began = time.monotonic()
while not runtime.preempted():
    assert time.monotonic() - began < 10
    time.sleep(0.01)
assert runtime.preempted()
''', env=dict(os.environ, XLA_FLAGS=''))
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
