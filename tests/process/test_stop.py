import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import pytest

from imgjax.process import stop

ROOT = pathlib.Path(__file__).parents[2]


def python(code: str, **options) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, '-c', code], cwd=ROOT, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)


def test_signals_have_one_owner():
    texts = {path.name: path.read_text() for path in sorted((ROOT / 'imgjax').rglob('*.py'))}
    def having(words):
        return [name for name, text in texts.items() if words in text]

    assert having('signal.signal(') == ['stop.py']
    assert having('pthread_sigmask(') == ['pipeline.py']  # Ctrl-C is the run's
    assert having('distributed.initialize(address') == ['processes.py']
    assert having("'jax_enable_preemption_service', False") == ['processes.py']  # JAX's own handler


@pytest.mark.parametrize('signum', [signal.SIGTERM, signal.SIGINT])
def test_a_stop_is_heard_at_any_rate_of_polling_and_the_handler_comes_back(signum):
    before = signal.getsignal(signum)
    for pause in (0.0, 0.004):
        with stop.hear_stop():
            assert not stop.preempted()
            threading.Timer(0.05, os.kill, (os.getpid(), signum)).start()
            deadline = time.monotonic() + 5
            while not stop.preempted():
                assert time.monotonic() < deadline
                time.sleep(pause)
            assert stop.preempted()
        assert not stop.preempted()  # it was this run that was asked, not the next one
    assert signal.getsignal(signum) == before


def test_a_second_ctrl_c_interrupts_a_script_but_one_that_comes_twice_does_not(request):
    # As a script has it, also where the tests run in the background, which ignores Ctrl-C.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    with pytest.raises(KeyboardInterrupt), stop.hear_stop():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)  # `timeout` sends it to its child, then to the group
        assert stop.preempted()
        time.sleep(1.2 * stop._ONE_PRESS)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)


ENTRY = '''
import hashlib, sys, time
from imgjax.commands import entry
from imgjax.process import stop, watchdog
from imgjax.errors import PreemptedError
def run():
    with stop.hear_stop():
        print('ready', file=sys.stderr, flush=True)
        {}
    raise PreemptedError('asked to stop at step 3')
entry.main(run)
'''
ENTRIES = {
    'it stops': ('while not stop.preempted(): time.sleep(0.01)', 1, 75, 'at step 3'),
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
        time.sleep(1.5 * stop._ONE_PRESS)
    _, err = process.communicate(timeout=30)
    assert process.returncode == exit_code and time.monotonic() - began < 10
    assert words in err.splitlines()[-1] and 'Traceback' not in err


def test_ctrl_c_of_a_command_that_saves_nothing():
    process = python(ENTRY.format('pass').replace('stop.hear_stop()', 'watchdog.watchdog(60)')
                     .replace("raise PreemptedError('asked to stop at step 3')", 'time.sleep(60)'))
    assert process.stderr.readline() == 'ready\n'
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 75
    assert err == 'imgjax: asked to stop; nothing had to be saved\n'


def test_a_stop_within_is_told_until_the_outer_one_ends():
    """A study hears what came while one of its runs was writing its page."""
    with stop.hear_stop():
        with stop.hear_stop():
            os.kill(os.getpid(), signal.SIGTERM)
        assert stop.preempted()
    with stop.hear_stop():
        assert not stop.preempted()
