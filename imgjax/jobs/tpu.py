"""The script of a run on a Cloud TPU slice."""

import shlex

from imgjax import jobs
from imgjax.errors import ConfigError
from imgjax.rundir import outputs

_MARK = '# A run on a Cloud TPU: makes the slice'  # of launch/tpu_vm.sh


def script(template: str, *, config: str, fields: list[str], workdir: str, name: str,
           project: str, zone: str, accelerator: str, version: str, spot: bool, options: list[str],
           directory: str, python: str, heartbeat_seconds: int, max_restarts: int,
           poll_seconds: int) -> str:
    """Returns the text of the script, which a machine with gcloud runs.

    Args:
      template: launch/tpu_vm.sh.
      config: a config file, as launch.train takes it, on the hosts.
      fields: overrides of the config (jobs.overrides).
      workdir: the run directory, on a disk that all hosts mount.
      name: of the slice.
      project: of Google Cloud, or '' for gcloud's own.
      zone: of the slice.
      accelerator: its type, such as v5litepod-16.
      version: of the software of its hosts.
      spot: may it be taken away?
      options: more of `queued-resources create`, each as --NAME=VALUE.
      directory: where the checkout lies on the hosts.
      python: of the environment on the hosts.
      heartbeat_seconds: of silence, after which a process is taken for dead.
      max_restarts: so often the run starts again.
      poll_seconds: between two looks at a slice that is waited for.

    Raises:
      ConfigError: a value that cannot be in a script.
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
    """Writes the script (fields as of `script`); returns {script: the path of the file}."""
    text = script(template, **fields)
    output = outputs.path('output', output)
    jobs.write('output', output, text, 'launch.tpu', _MARK)
    return {'script': output}
