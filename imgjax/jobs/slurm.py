"""Writes the batch script of a run on Slurm, and submits it."""

import os
import re
import shlex
import shutil
import subprocess

from imgjax import jobs
from imgjax.errors import ConfigError
from imgjax.rundir import outputs

_MARK = '# Slurm starts the job again after the failure of a node'  # a line of launch/slurm.sh
MAX_FAILURES = 3  # a job ends after so many starts in a row that failed before they saved a step


def _absolute(path: str) -> str:
    return os.path.abspath(outputs.path('workdir', path))


def logs(workdir: str) -> str:
    """Returns the folder of the script and the logs, which lies beside the run directory."""
    return f'{workdir.rstrip("/")}.slurm'


def script(template: str, *, config: str, study: str, fields: list[str], workdir: str, cells: str,
           name: str, nodes: int, processes: int, gpus: int, time: str, partition: str,
           options: list[str], array: str, array_field: str, grace_seconds: int,
           heartbeat_seconds: int, max_requeues: int, python: str) -> str:
    """Returns the text of the batch script.

    Args:
      template: the content of launch/slurm.sh.
      config: a config file, as launch.train takes it.
      study: a study file instead of a config, as launch.study takes it; each task of `array`, 0 to
        N - 1, runs its part of the cells.
      fields: overrides of the config, as jobs.overrides returns them.
      workdir: the run directory, on a disk that all nodes see; with `array`, task I runs in
        WORKDIR/I. For a study, the directory of the study.
      cells: the folder of a study's run directories; '' is `cells` beside the workdir.
      name: the name of the job.
      nodes: the number of nodes.
      processes: processes per node; a single one uses all GPUs of its node.
      gpus: GPUs per node, or 0.
      time: the time limit, as sbatch takes it; '' is the limit of the partition.
      partition: the partition, or '' for the default one.
      options: more options of sbatch, each as --NAME=VALUE.
      array: the indices of a job array as sbatch takes them, or ''.
      array_field: the field of the config that is set to the index of an array's task.
      grace_seconds: how long before the time limit the run is asked to stop.
      heartbeat_seconds: the seconds of silence after which a process counts as dead.
      max_requeues: how often a job may start again.
      python: the Python of the environment; a bare name is looked up in this machine's PATH.

    Raises:
      ConfigError: a value cannot be written into a script.
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
        # srun waits so long after a process has ended: if that one was killed, its peers notice it
        # by the missing heartbeat.
        wait_seconds=heartbeat_seconds + 10, max_requeues=max_requeues,
        max_failures=MAX_FAILURES, directory=os.getcwd(),
        final_codes='|'.join(map(str, jobs.FINAL_CODES)))


def _check_study(config: str, study: str, fields: list[str], array: str) -> None:
    if config and study:
        raise ConfigError('--study: in place of --config, not with it')
    if study and fields:
        raise ConfigError(f'{fields[0]}: a study file sets the fields of its arms; set it there')
    if study and array and not re.fullmatch(r'0-\d{1,4}(%\d+)?', array):
        raise ConfigError(f'--array: for a study takes 0-N, such as 0-7 or 0-7%4, got {array!r}')


def _parts(array: str) -> int:
    return int(array.partition('%')[0].removeprefix('0-')) + 1


def run(template: str, dry_run: bool, **fields) -> dict:
    """Writes the batch script of a run and submits it.

    Args:
      template: the content of launch/slurm.sh.
      dry_run: whether to return the script without writing or submitting it.
      **fields: the arguments of `script`.

    Returns:
      {script: its path in WORKDIR.slurm or, for a dry run, its text; job: the number that Slurm
      gave it, only if it was submitted}.

    Raises:
      ConfigError: this machine has no sbatch, or Slurm refuses the job; the message has Slurm's
        reason.
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
    # This also makes the folder, in which Slurm opens the log before the script runs.
    jobs.write('workdir', path, text, 'launch.slurm', _MARK)
    done = subprocess.run(['sbatch', '--parsable', path], capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f'exit code {done.returncode}'])[-1]
        raise ConfigError(f'{shlex.quote(path)}: {reason}')
    return {'script': path, 'job': int(done.stdout.strip().split(';')[0])}
