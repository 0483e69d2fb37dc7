"""The entry point of a command: parses flags, prints the result, and sets the exit code."""

import json
import logging
import os
import sys
import traceback

from absl import app, flags
from absl import logging as absl_logging

from imgjax.errors import ConfigError, DataError, DoesNotFitError, RunError
from imgjax.process import backend, compile_cache, processes, stop, terminal
from imgjax.rundir import metrics_log, redact

log = logging.getLogger('imgjax')


def main(run, distributed: bool = False) -> None:
    """Parses the flags, calls `run` and prints the dict that it returns as the last line of stdout.

    Logs go to stderr. A RunError ends the process with its message, one line, and its exit code.

    Args:
      run: the function of the command; it takes no arguments.
      distributed: whether the process may be one of several, which the environment or three more
        flags describe (processes.start); the first of them prints the result.
    """
    if distributed:
        _define_flags()
    stop.end_at_signals()
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter('%(asctime)s %(message)s', '%H:%M:%S'))
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False
    absl_logging.set_verbosity(absl_logging.FATAL)  # what Orbax logs is raised as an error, too
    app.run(lambda _: _run(run, distributed), flags_parser=_parse_flags)


def _define_flags() -> None:
    flags.DEFINE_string('coordinator_address', None, 'host:port of process 0; not needed under '
                        'Slurm, Open MPI and Kubernetes and on TPU VMs, which provide it.')
    flags.DEFINE_integer('num_processes', None, 'Number of processes of the run; 1 without the '
                         'other flags ignores the cluster.', lower_bound=1)
    flags.DEFINE_integer('process_id', None, 'Number of this process, from 0.', lower_bound=0)
    flags.DEFINE_integer('heartbeat_seconds', processes.HEARTBEAT_SECONDS, 'A process of the run '
                         'that sends no heartbeat for so many seconds counts as dead.',
                         lower_bound=1)


class _Formatter(logging.Formatter):
    """Removes secrets from all log lines, also from errors of other libraries."""

    def format(self, record) -> str:
        return redact.text(super().format(record))


def _run(run, distributed: bool) -> None:
    # Gloo prints to file descriptor 1, so that stdout is moved to another one for the result.
    stdout = os.fdopen(os.dup(1), 'w', encoding='utf-8')
    os.dup2(2, 1)
    try:
        if distributed:
            values = flags.FLAGS
            processes.start(values.coordinator_address, values.num_processes, values.process_id,
                            values.heartbeat_seconds, stop.leave)
        compile_cache.enable()
        terminal.report_regularly(log)
        with backend.memory_for('this command', 'run it where there is more'):
            result = run()
    except RunError as error:
        _print_last_line(str(error))
        if isinstance(error, DoesNotFitError):
            print(json.dumps(metrics_log.jsonable(error.result)), file=stdout, flush=True)
        stop.leave(error.exit_code, together=error.together)
    except OSError as error:  # such as a full disk or no write permission; it names the file
        _print_last_line(str(error))
        stop.leave(DataError.exit_code)
    except Exception:
        if processes.count() == 1:
            raise
        traceback.print_exc()  # a normal exit of the interpreter would wait for the other processes
        stop.leave(1)
    if processes.first():
        print(json.dumps(metrics_log.jsonable(result)), file=stdout, flush=True)
    stop.leave(0, together=True)


def _print_last_line(text: str) -> None:
    """Prints the last line of the process on stderr; later output of other threads is dropped.

    Threads of TensorStore print a lot after a save that failed.
    """
    sys.stderr.flush()
    stderr = os.dup(2)
    with open(os.devnull, 'w', encoding='utf-8') as nowhere:
        os.dup2(nowhere.fileno(), 2)
    with os.fdopen(stderr, 'w', encoding='utf-8', errors='backslashreplace') as last:
        last.write(f'imgjax: {redact.text(text)}\n')


def _parse_flags(arguments: list[str]) -> list[str]:
    from imgjax.process import overrides  # only here: decoding processes import this module too

    try:
        rest = flags.FLAGS(arguments)
        overrides.finish(flags.FLAGS, arguments)
    except ConfigError as error:
        print(f'imgjax: {redact.text(str(error))}', file=sys.stderr)
        sys.exit(ConfigError.exit_code)
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        # An error inside a config file comes as a traceback, whose last line is the message.
        text = lines[-1] if 'parsing config file' in lines[0] else lines[0]
        text = overrides.explain(arguments) or text
        print(f'imgjax: {redact.text(text)}', file=sys.stderr)
        sys.exit(ConfigError.exit_code)
    if len(rest) > 1:
        print(f'imgjax: {rest[1]!r} is no flag; see --help', file=sys.stderr)
        sys.exit(ConfigError.exit_code)
    return rest
