import pathlib
import subprocess
import sys
import time

from imgjax.process import watchdog

ROOT = pathlib.Path(__file__).parents[2]


def test_the_watchdog_ends_a_stuck_process_and_says_where():
    stuck = subprocess.Popen([sys.executable, '-c', '''
import time
from imgjax.process import watchdog
with watchdog.watchdog(1.0) as beat:
    for _ in range(4):
        time.sleep(0.5)
        beat()
    print('beats kept it', flush=True)
    time.sleep(60)
'''], cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    out, err = stuck.communicate(timeout=30)
    assert out == 'beats kept it\n'
    assert stuck.returncode == 76
    assert 'no progress for 1 s' in err and 'time.sleep' not in err and 'line 9' in err


def test_a_watchdog_that_is_over_bites_nobody():
    with watchdog.watchdog(0.2):
        pass
    time.sleep(0.6)
