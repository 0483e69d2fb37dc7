"""The batch script of a run on Slurm, and its submission."""

import os
import re
import shlex
import shutil
import subprocess

from imgjax import jobs
from imgjax.errors import ConfigError
from imgjax.rundir import outputs

_MARK = '# Slurm starts the job again after the failure of a node'  # of launch/slurm.sh
MAX_FAILURES = 3  # starts in a row that end by a fault and save nothing


def _absolute(path: str) -> str:
    return os.path.abspath(outputs.path('workdir', path))


def logs(workdir: str) -> str:
    """Returns the folder of the script and the logs: a run directory holds a run alone."""
    return f'{workdir.rstrip("/")}.slurm'


def script(template: str, *, config: str, study: str, fields: list[str], workdir: str, cells: str,
           name: str, nodes: int, processes: int, gpus: int, time: str, partition: str,
           options: list[str], array: str, array_field: str, grace_seconds: int,
           heartbeat_seconds: int, max_requeues: int, python: str) -> str:
    """Returns the text of the batch script.

    Args:
      template: launch/slurm.sh.
      config: a config file, as launch.train takes it.
      study: a study file, as launch.study takes it, in place of the config: each task of `array`,
        0 to N - 1, has its part of the cells.
      fields: overrides of the config (jobs.overrides).
      workdir: the run directory, on a disk that all nodes see; with `array`, that of task I is
        WORKDIR/I. Of a study, its own.
      cells: the folder of a study's run directories; '' is `cells` beside the workdir.
      name: of the job.
      nodes: how many.
      processes: a node; 1 has all of its GPUs.
      gpus: a node, or 0.
      time: the limit, as sbatch takes it; '' is the partition's.
      partition: or '' for the default one.
      options: more of sbatch's own, each as --NAME=VALUE.
      array: the indices of a job array as sbatch takes them, or ''.
      array_field: the field of the config that the index of an array is given to.
      grace_seconds: before the time limit the run is asked to stop.
      heartbeat_seconds: of silence, after which a process is taken for dead.
      max_requeues: so often a job starts again.
      python: of the environment; a bare name is that of this machine's PATH.

    Raises:
      ConfigError: a value that cannot be in a script.
    """
    _check_study(config, study, fields, array)
    jobs.check(config=study or config, workdir=workdir, cells=cells,
               name=name, time=time, partition=partition, options=options, array=array,
               array_field=array_field, python=python, overrides=fields)
    workdir, python = _absolute(workdir), shutil.which(python) or python
    cells = _absolute(cells) if cells else os.path.join(os.path.dirname(workdir), 'cells')
    if '\\' in workdir:
        raise ConfigError(f'--workdir: Slurm takes no backslash in the path of a log: {workdir}')
    if array and not re.fullmatch(r'[\d,:%-]+', array):
        raise ConfigError(f'--array: takes indices such as 0-4 or 1,3%2, got {array!r}')
    for option in options:
        if not re.fullmatch(r'--[a-z][a-z-]*(=.*)?', option):
            raise ConfigError(f'--options: takes --NAME=VALUE, got {option!r}')
    if study:
        command = jobs.study_command(python, study, workdir, cells, heartbeat_seconds)
    else:
        command = jobs.train_command(python, config, fields, workdir, heartbeat_seconds)
    log = f'{logs(workdir).replace("%", "%%")}/{"%A_%a" if array else "%j"}.log'
    return jobs.render(
        template, command=command, log=log, logs=logs(workdir), workdir=workdir, name=name,
        nodes=nodes, processes=processes, gpus=gpus, time=time, partition=partition,
        options=options, study=study, cells=cells, parts=_parts(array) if study and array else 1,
        array=array, array_field=array_field, grace_seconds=grace_seconds,
        # The first process to end may be a killed one; its peers learn of it by the heartbeat.
        wait_seconds=heartbeat_seconds + 10, max_requeues=max_requeues,
        max_failures=MAX_FAILURES, directory=os.getcwd(),
        final_codes='|'.join(map(str, jobs.FINAL_CODES)))


def _check_study(config: str, study: str, fields: list[str], array: str) -> None:
    if config and study:
        raise ConfigError('--study: in place of --config, not with it')
    if study and fields:
        raise ConfigError(f'{fields[0]}: a study file says what its arms change; set it there')
    if study and array and not re.fullmatch(r'0-\d{1,4}(%\d+)?', array):
        raise ConfigError(f'--array: of a study takes 0-N, such as 0-7 or 0-7%4, got {array!r}')


def _parts(array: str) -> int:
    return int(array.partition('%')[0].removeprefix('0-')) + 1


def run(template: str, dry_run: bool, **fields) -> dict:
    """Writes the batch script of a run and submits it.

    Args:
      template: launch/slurm.sh.
      dry_run: return the script, and write and submit nothing.
      **fields: those of `script`.

    Returns {script: its path or, for a dry run, its text; job: the number that Slurm gave}.

    Both lie in WORKDIR.slurm, beside the logs.

    Raises:
      ConfigError: no sbatch on this machine, or Slurm refuses the job; the line has its reason.
    """
    text = script(template, **fields)
    if dry_run:
        return {'script': text}
    if not shutil.which('sbatch'):
        raise ConfigError('sbatch is not on this machine; --dry_run shows the script')
    folder = logs(_absolute(fields['workdir']))
    path = os.path.join(folder, 'slurm.sh')
    if not os.path.isfile(path):
        outputs.check_folder('workdir', folder, 'launch.slurm')
    # It makes the folder: Slurm opens the log there before the script runs.
    jobs.write('workdir', path, text, 'launch.slurm', _MARK)
    done = subprocess.run(['sbatch', '--parsable', path], capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f'exit code {done.returncode}'])[-1]
        raise ConfigError(f'{shlex.quote(path)}: {reason}')
    return {'script': path, 'job': int(done.stdout.strip().split(';')[0])}
