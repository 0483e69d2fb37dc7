"""The entry point of a command: flags in, the result as the last line, exit codes."""

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
    """Runs an entry point: flags in, `run()`'s dict out as the last line of stdout.

    Logs go to stderr. A RunError ends the process with its one line and its exit code.

    Args:
      run: the entry point, without arguments.
      distributed: it may be one of several processes, which the environment or three more flags
        tell of (processes.start); the first of them prints the result.
    """
    if distributed:
        _define_flags()
    stop.end_at_signals()
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
                            values.heartbeat_seconds, stop.leave)
        compile_cache.enable()
        terminal.report_regularly(log)
        with backend.memory_for('this command', 'run it where there is more'):
            result = run()
    except RunError as error:
        _last_word(str(error))
        if isinstance(error, DoesNotFitError):
            print(json.dumps(metrics_log.jsonable(error.result)), file=stdout, flush=True)
        stop.leave(error.exit_code, together=error.together)
    except OSError as error:  # a full disk, a folder that may not be written: it names the file
        _last_word(str(error))
        stop.leave(DataError.exit_code)
    except Exception:
        if processes.count() == 1:
            raise
        traceback.print_exc()  # an orderly exit of the interpreter would wait for the peers
        stop.leave(1)
    if processes.first():
        print(json.dumps(metrics_log.jsonable(result)), file=stdout, flush=True)
    stop.leave(0, together=True)


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
        # An error inside a config file comes as a traceback, whose last line says it.
        text = lines[-1] if 'parsing config file' in lines[0] else lines[0]
        text = overrides.explain(arguments) or text
        print(f'imgjax: {redact.text(text)}', file=sys.stderr)
        sys.exit(ConfigError.exit_code)
    if len(rest) > 1:
        print(f'imgjax: {rest[1]!r} is no flag; see --help', file=sys.stderr)
        sys.exit(ConfigError.exit_code)
    return rest
