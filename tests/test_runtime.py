import os
import pathlib
import signal
import subprocess
import sys
import threading
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


def test_signals_have_one_owner():
    texts = {path.name: path.read_text() for path in sorted((ROOT / 'imgjax').rglob('*.py'))}
    def having(words):
        return [name for name, text in texts.items() if words in text]

    assert having('signal.signal(') == ['runtime.py']
    assert having('pthread_sigmask(') == ['pipeline.py']  # Ctrl-C is the run's
    assert having('distributed.initialize(address') == ['processes.py']
    assert having("'jax_enable_preemption_service', False") == ['processes.py']  # JAX's own handler


@pytest.mark.parametrize('signum', [signal.SIGTERM, signal.SIGINT])
def test_a_stop_is_heard_at_any_rate_of_polling_and_the_handler_comes_back(signum):
    before = signal.getsignal(signum)
    for pause in (0.0, 0.004):
        with runtime.hear_stop():
            assert not runtime.preempted()
            threading.Timer(0.05, os.kill, (os.getpid(), signum)).start()
            deadline = time.monotonic() + 5
            while not runtime.preempted():
                assert time.monotonic() < deadline
                time.sleep(pause)
            assert runtime.preempted()
        assert not runtime.preempted()  # it was this run that was asked, not the next one
    assert signal.getsignal(signum) == before


def test_a_second_ctrl_c_interrupts_a_script_but_one_that_comes_twice_does_not(request):
    # As a script has it, also where the tests run in the background, which ignores Ctrl-C.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    with pytest.raises(KeyboardInterrupt), runtime.hear_stop():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)  # `timeout` sends it to its child, then to the group
        assert runtime.preempted()
        time.sleep(1.2 * runtime._ONE_PRESS)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)


ENTRY = '''
import hashlib, sys, time
from imgjax import runtime
from imgjax.errors import PreemptedError
def run():
    with runtime.hear_stop():
        print('ready', file=sys.stderr, flush=True)
        {}
    raise PreemptedError('asked to stop at step 3')
runtime.main(run)
'''
ENTRIES = {
    'it stops': ('while not runtime.preempted(): time.sleep(0.01)', 1, 75, 'at step 3'),
    # As in XLA's compiler no handler of Python's is run there.
    'it is in C++': ("hashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)", 2, 130, 'interrupted twice'),
    'it is slow': ('time.sleep(60); time.sleep(60)', 2, 130, 'interrupted twice')}


@pytest.mark.parametrize('case', ENTRIES)
def test_ctrl_c_stops_a_command_and_a_second_one_ends_it_at_once(case):
    code, presses, exit_code, words = ENTRIES[case]
    process = python(ENTRY.format(code))
    assert process.stderr.readline() == 'ready\n'
    began = time.monotonic()
    for _ in range(presses):
        process.send_signal(signal.SIGINT)
        time.sleep(1.5 * runtime._ONE_PRESS)
    _, err = process.communicate(timeout=30)
    assert process.returncode == exit_code and time.monotonic() - began < 10
    assert words in err.splitlines()[-1] and 'Traceback' not in err


def test_ctrl_c_of_a_command_that_saves_nothing():
    process = python(ENTRY.format('pass').replace('runtime.hear_stop()', 'runtime.watchdog(60)')
                     .replace("raise PreemptedError('asked to stop at step 3')", 'time.sleep(60)'))
    assert process.stderr.readline() == 'ready\n'
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 75
    assert err == 'imgjax: asked to stop; nothing had to be saved\n'


def test_a_stop_within_is_told_until_the_outer_one_ends():
    """A study hears what came while one of its runs was writing its page."""
    with runtime.hear_stop():
        with runtime.hear_stop():
            os.kill(os.getpid(), signal.SIGTERM)
        assert runtime.preempted()
    with runtime.hear_stop():
        assert not runtime.preempted()
