"""The process a run lives in: the stop signal, the run lock, the watchdog, exit codes."""

import contextlib
import datetime
import faulthandler
import fcntl
import json
import logging
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
import traceback

from absl import app, flags
from absl import logging as absl_logging

from imgjax import alive, backend, compiled, metrics, processes, redact
from imgjax.errors import (
    WATCHDOG_EXIT_CODE,
    ConfigError,
    DataError,
    DoesNotFitError,
    LockedError,
    PreemptedError,
    RunError,
)

log = logging.getLogger('imgjax')

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_ONE_PRESS = 0.3  # seconds: one Ctrl-C may come twice, also from `timeout` or `make` above

_stop = {'asked': False, 'heard': 0, 'at': 0.0}


def main(run, distributed: bool = False) -> None:
    """Runs an entry point: flags in, `run()`'s dict out as the last line of stdout.

    Logs go to stderr. A RunError ends the process with its one line and its exit code.

    Args:
      run: the entry point, without arguments.
      distributed: it may be one of several processes, which the environment or three more flags
        tell of (processes.start); the first of them prints the result.
    """
    if distributed:
        _define_flags()
    for signum in _SIGNALS:
        signal.signal(signum, _stop_at_once)
    _end_at_second_interrupt()
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter('%(asctime)s %(message)s', '%H:%M:%S'))
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False
    absl_logging.set_verbosity(absl_logging.FATAL)  # what Orbax reports also reaches us as errors
    app.run(lambda _: _run(run, distributed), flags_parser=_parse_flags)


def _define_flags() -> None:
    flags.DEFINE_string('coordinator_address', None, 'host:port of process 0, where no cluster '
                        'tells it (Slurm, Open MPI, Kubernetes and TPU VMs do).')
    flags.DEFINE_integer('num_processes', None, 'How many processes the run has; 1 alone ignores '
                         'the cluster.', lower_bound=1)
    flags.DEFINE_integer('process_id', None, 'Which of them this is, from 0.', lower_bound=0)
    flags.DEFINE_integer('heartbeat_seconds', processes.HEARTBEAT_SECONDS, 'After so many seconds '
                         'of silence a process of the run is taken for dead.', lower_bound=1)


class _Formatter(logging.Formatter):
    """Keeps secrets out of the log, also those in other libraries' errors."""

    def format(self, record) -> str:
        return redact.text(super().format(record))


def _run(run, distributed: bool) -> None:
    # Gloo prints to file descriptor 1, which is kept for the result.
    stdout = os.fdopen(os.dup(1), 'w', encoding='utf-8')
    os.dup2(2, 1)
    try:
        if distributed:
            values = flags.FLAGS
            processes.start(values.coordinator_address, values.num_processes, values.process_id,
                            values.heartbeat_seconds, leave)
        compiled.enable()
        alive.speak(log)
        with backend.memory_for('this command', 'run it where there is more'):
            result = run()
    except RunError as error:
        _last_word(str(error))
        if isinstance(error, DoesNotFitError):
            print(json.dumps(metrics.jsonable(error.result)), file=stdout, flush=True)
        leave(error.exit_code, together=error.together)
    except OSError as error:  # a full disk, a folder that may not be written: it names the file
        _last_word(str(error))
        leave(DataError.exit_code)
    except Exception:
        if processes.count() == 1:
            raise
        traceback.print_exc()  # an orderly exit of the interpreter would wait for the peers
        leave(1)
    if processes.first():
        print(json.dumps(metrics.jsonable(result)), file=stdout, flush=True)
    leave(0, together=True)


def _last_word(text: str) -> None:
    """Says on stderr how the process ends; what threads of libraries say from then on is dropped.

    After saves that failed TensorStore's have a lot to say.
    """
    sys.stderr.flush()
    stderr = os.dup(2)
    with open(os.devnull, 'w', encoding='utf-8') as nowhere:
        os.dup2(nowhere.fileno(), 2)
    with os.fdopen(stderr, 'w', encoding='utf-8', errors='backslashreplace') as last:
        last.write(f'imgjax: {redact.text(text)}\n')


def leave(code: int, together: bool = False) -> None:
    """Ends the process without waiting for what may never end (a worker, a dead peer).

    Args:
      code: the exit code.
      together: the other processes of the run come to this point too.
    """
    processes.end(code, together)
    for worker in multiprocessing.active_children():
        worker.kill()
    with contextlib.suppress(OSError, RuntimeError):  # a signal may have come within a write
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def _parse_flags(arguments: list[str]) -> list[str]:
    from imgjax import overrides  # only here: decoding processes import this module too

    try:
        rest = flags.FLAGS(arguments)
        overrides.finish(flags.FLAGS, arguments)
    except ConfigError as error:
        print(f'imgjax: {redact.text(str(error))}', file=sys.stderr)
        sys.exit(ConfigError.exit_code)
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        # An error inside a config file comes as a traceback, whose last line says it.
        text = lines[-1] if 'parsing config file' in lines[0] else lines[0]
        text = overrides.explain(arguments) or text
        print(f'imgjax: {redact.text(text)}', file=sys.stderr)
        sys.exit(ConfigError.exit_code)
    if len(rest) > 1:
        print(f'imgjax: {rest[1]!r} is no flag; see --help', file=sys.stderr)
        sys.exit(ConfigError.exit_code)
    return rest


def _stop_at_once(signum, frame) -> None:
    if _stop['asked']:  # hear_stop() holds, and _end_at_second_interrupt does the rest
        return
    # Outside hear_stop() nothing is under way that would have to be saved.
    _say('asked to stop; nothing had to be saved')
    leave(PreemptedError.exit_code)


def _say(text: str) -> None:
    """Writes a line to stderr within a handler of signals, where print() may be under way."""
    os.write(2, f'{chr(10) if os.isatty(2) else ""}imgjax: {text}\n'.encode())


def _end_at_second_interrupt() -> None:
    """Has a thread end the process at the second Ctrl-C, also while the main one is in C++."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)

    def watch() -> None:
        first = None
        while True:
            if os.read(reader, 1)[0] != signal.SIGINT:
                continue
            if first is None:
                first = time.monotonic()
            elif time.monotonic() - first > _ONE_PRESS:
                _say('interrupted twice, ended at once; the same command goes on from the newest '
                     'checkpoint, if there is one')
                leave(128 + signal.SIGINT)

    threading.Thread(target=watch, daemon=True, name='second interrupt').start()


@contextlib.contextmanager
def hear_stop():
    """While it holds, SIGTERM and Ctrl-C only set what preempted() tells; then the old handlers
    are back.

    Within another one it changes nothing: what was asked for is told until that one ends. A second
    Ctrl-C goes to the old handler, which in a script or notebook raises KeyboardInterrupt.

    JAX's own preemption notifier is not used for one process: it answers a second later, and it
    misses the signal when it is polled faster than its protocol runs (measured with jax 0.10.2:
    4 of 9 signals at a poll every 4 ms), as it compares a counter for equality.
    """
    before = {}

    def note(signum, frame) -> None:
        now = time.monotonic()
        if signum == signal.SIGINT and _stop['asked']:
            if now - _stop['at'] > _ONE_PRESS and callable(before[signum]):
                before[signum](signum, frame)
            return
        if signum == signal.SIGINT:
            _say('asked to stop: it ends this step and saves; Ctrl-C again ends it at once')
        _stop.update(asked=True, at=now)

    # Other threads may not set handlers.
    if threading.current_thread() is threading.main_thread():
        before = {signum: signal.signal(signum, note) for signum in _SIGNALS}
    _stop['heard'] += 1
    try:
        yield
    finally:
        _stop['heard'] -= 1
        if not _stop['heard']:
            _stop['asked'] = False  # whoever comes next in this process was not asked
        for signum, handler in before.items():
            signal.signal(signum, signal.SIG_DFL if handler is None else handler)


def asked_alone() -> bool:
    """Was this process asked to stop, and is there no other one that has to agree?"""
    return _stop['asked'] and processes.count() == 1


def preempted() -> bool:
    """Polled in every loop: has this job been asked to stop?

    A signal to one process of a run stops all of them, at the same call of this function.
    """
    return processes.stop_agreed(_stop['asked'])


@contextlib.contextmanager
def run_lock(workdir: str):
    """Holds the run directory for this process; the kernel lets go when the process ends.

    Raises:
      LockedError: another process holds it; the line names that process.
    """
    with contextlib.ExitStack() as opened:
        file = opened.enter_context(_locked(workdir))
        while not _is_lock_of(workdir, file):  # who held it before has just taken it away
            file = opened.enter_context(_locked(workdir))
        now = datetime.datetime.now().isoformat(timespec='seconds')
        file.truncate(0)
        several = f', the first of {processes.count()}' if processes.count() > 1 else ''
        file.write(f'process {os.getpid()} on {socket.gethostname()} since {now}{several}')
        file.flush()
        yield


def _locked(workdir: str):
    """Returns the lock file of a run directory, locked."""
    try:
        file = open(os.path.join(workdir, 'lock'), 'a+', encoding='utf-8',
                    opener=lambda name, how: os.open(
                        name, how | os.O_NOFOLLOW | os.O_CLOEXEC, 0o640))
    except OSError as error:
        raise ConfigError(f'{workdir}: may not be written ({error.strerror}); take another folder, '
                          'or change its permissions') from None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        with file:
            file.seek(0)
            raise LockedError(
                f'{workdir}: held by {file.read(200).strip() or "another process"}; wait for it, '
                'stop it, or take another --workdir') from None
    except OSError as error:
        raise ConfigError(f'--workdir={workdir}: its file system gives no locks '
                          f'({error.strerror}); take one that does') from None
    return file


def _is_lock_of(workdir: str, file) -> bool:
    try:
        return os.path.samestat(os.lstat(os.path.join(workdir, 'lock')), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def watchdog(seconds: float):
    """Ends the process with 76 when the `beat` it yields was not called for `seconds`.

    A data worker that hangs, or a peer that is gone, leaves the main thread in a call that never
    returns; only another thread can end that.
    """
    state = {'last': time.monotonic(), 'over': False}

    def beat() -> None:
        state['last'] = time.monotonic()

    def watch() -> None:
        while not state['over']:
            if time.monotonic() - state['last'] > seconds:
                print(f'imgjax: no progress for {seconds:.0f} s (config.watchdog_seconds); the '
                      'same command goes on from the last checkpoint. Where it hung:',
                      file=sys.stderr)
                faulthandler.dump_traceback(file=sys.stderr)
                leave(WATCHDOG_EXIT_CODE)
            time.sleep(min(1.0, seconds / 4))

    threading.Thread(target=watch, daemon=True, name='watchdog').start()
    try:
        yield beat
    finally:
        state['over'] = True
