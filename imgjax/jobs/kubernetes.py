"""Writes the JobSet manifest of a run on Kubernetes."""

import posixpath

from imgjax import jobs
from imgjax.errors import ConfigError
from imgjax.rundir import outputs

_MARK = '# A run on Kubernetes with the JobSet controller'  # a line of launch/jobset.yaml
PORT = 8476  # on which the first process listens; JAX's default on Kubernetes


def jobset(template: str, *, config: str, fields: list[str], workdir: str, name: str, nodes: int,
           chips: int, resource: str, node_selector: list[str], image: str, directory: str,
           python: str, claim: str, mount: str, grace_seconds: int, heartbeat_seconds: int,
           max_restarts: int) -> str:
    """Returns the text of the YAML manifest, for `kubectl apply -f`.

    Args:
      template: the content of launch/jobset.yaml.
      config: a config file in the image, as launch.train takes it.
      fields: overrides of the config, as jobs.overrides returns them.
      workdir: the run directory, below `mount`.
      name: the name of the JobSet.
      nodes: the number of pods, each with one process.
      chips: the number of chips per pod, or 0.
      resource: the name of the chips in Kubernetes, nvidia.com/gpu or google.com/tpu.
      node_selector: the labels that a node needs, each KEY=VALUE.
      image: the image of the container.
      directory: the folder of the checkout in the image.
      python: the Python of the environment in the image.
      claim: the PersistentVolumeClaim of the disk for run directories.
      mount: the folder where that disk is mounted.
      grace_seconds: the time from SIGTERM to SIGKILL.
      heartbeat_seconds: the seconds of silence after which a process counts as dead.
      max_restarts: how often all pods may start again.

    Raises:
      ConfigError: a value cannot be written into a manifest.
    """
    jobs.check(config=config, workdir=workdir, resource=resource, node_selector=node_selector,
               image=image, directory=directory, python=python, claim=claim, mount=mount,
               overrides=fields)
    jobs.check_name(name)
    if not posixpath.normpath(workdir).startswith(f'{mount.rstrip("/")}/'):
        raise ConfigError(f'--workdir: takes a folder below --mount={mount}, got {workdir!r}')
    for label in node_selector:
        if '=' not in label:
            raise ConfigError(f'--node_selector: takes KEY=VALUE, got {label!r}')
    # Kubernetes replaces $(NAME) by a variable's value, and $$ by $.
    command = [word.replace('$', '$$') for word in jobs.train_command(
        python, config, fields, workdir, heartbeat_seconds)]
    command += [f'--coordinator_address={name}-run-0-0.{name}:{PORT}', f'--num_processes={nodes}',
                '--process_id=$(JOB_COMPLETION_INDEX)'] if nodes > 1 else ['--num_processes=1']
    return jobs.render(
        template, name=name, nodes=nodes, max_restarts=max_restarts, grace_seconds=grace_seconds,
        node_selector=dict(label.split('=', 1) for label in node_selector), image=image,
        directory=directory, command=command, chips=chips, resource=resource, mount=mount,
        claim=claim, port=PORT, final_codes=list(jobs.FINAL_CODES))


def run(template: str, output: str, **fields) -> dict:
    """Writes the JobSet manifest to `output`; returns {manifest: the path of the file}.

    The fields are the other arguments of `jobset`, and it raises the same errors.
    """
    text = jobset(template, **fields)
    output = outputs.path('output', output)
    jobs.write('output', output, text, 'launch.kubernetes', _MARK)
    return {'manifest': output}
