"""Writes the script of a run on a Cloud TPU slice."""

import shlex

from imgjax import jobs
from imgjax.errors import ConfigError
from imgjax.rundir import outputs

_MARK = '# A run on a Cloud TPU: makes the slice'  # a line of launch/tpu_vm.sh


def script(template: str, *, config: str, fields: list[str], workdir: str, name: str,
           project: str, zone: str, accelerator: str, version: str, spot: bool, options: list[str],
           directory: str, python: str, heartbeat_seconds: int, max_restarts: int,
           poll_seconds: int) -> str:
    """Returns the text of the script, which a machine with gcloud runs.

    Args:
      template: the content of launch/tpu_vm.sh.
      config: a config file on the hosts, as launch.train takes it.
      fields: overrides of the config, as jobs.overrides returns them.
      workdir: the run directory, on a disk that all hosts mount.
      name: the name of the slice.
      project: the project of Google Cloud, or '' for gcloud's default.
      zone: the zone of the slice.
      accelerator: the type of the slice, such as v5litepod-16.
      version: the version of the software on its hosts.
      spot: whether Google may take the slice away.
      options: more options of `queued-resources create`, each as --NAME=VALUE.
      directory: the folder of the checkout on the hosts.
      python: the Python of the environment on the hosts.
      heartbeat_seconds: the seconds of silence after which a process counts as dead.
      max_restarts: how often the run may start again.
      poll_seconds: the seconds between two polls of a slice that is not ready.

    Raises:
      ConfigError: a value cannot be written into a script.
    """
    jobs.check(config=config, workdir=workdir, project=project, zone=zone, version=version,
               accelerator=accelerator, options=options, directory=directory, python=python,
               overrides=fields)
    jobs.check_name(name)
    for flag, value in (('zone', zone), ('accelerator', accelerator)):
        if not value:
            raise ConfigError(f'--{flag}: missing')
    # JAX finds the hosts of a slice by itself.
    command = shlex.join(jobs.train_command(python, config, fields, workdir, heartbeat_seconds))
    return jobs.render(
        template, name=name, at=[f'--zone={zone}', *([f'--project={project}'] if project else [])],
        create=[f'--accelerator-type={accelerator}', f'--runtime-version={version}',
                *(['--spot'] if spot else []), *options],
        remote=f'(cd {shlex.quote(directory)} || exit 2; {command}); echo imgjax-exit-code $?',
        max_restarts=max_restarts, poll_seconds=poll_seconds, final_codes=jobs.FINAL_CODES)


def run(template: str, output: str, **fields) -> dict:
    """Writes the script to `output`; returns {script: the path of the file}.

    The fields are the other arguments of `script`, and it raises the same errors.
    """
    text = script(template, **fields)
    output = outputs.path('output', output)
    jobs.write('output', output, text, 'launch.tpu', _MARK)
    return {'script': output}
