"""Writes the JobSet of a training run, for kubectl; --config.FIELD=VALUE as of launch.train.

    python -m launch.kubernetes --config=configs/digits.py --workdir=/runs/digits --image=IMAGE
"""

import pathlib

from absl import flags
from ml_collections import config_flags

from imgjax import entry, jobs

config_flags.DEFINE_config_file('config', None, 'A file of configs/.', accept_new_attributes=True,
                                lock_config=False)
_FLAGS = (
    flags.DEFINE_string('workdir', '', 'The run directory, below --mount.'),
    flags.DEFINE_string('name', 'imgjax', 'Of the JobSet.'),
    flags.DEFINE_integer('nodes', 1, 'Pods, each with a process.', lower_bound=1),
    flags.DEFINE_integer('chips', 0, 'A pod; 0 for none.', lower_bound=0),
    flags.DEFINE_string('resource', 'nvidia.com/gpu', 'What Kubernetes calls them.'),
    flags.DEFINE_multi_string('node_selector', [], 'A label of nodes, KEY=VALUE; repeatable.'),
    flags.DEFINE_string('image', '', 'Of the container.'),
    flags.DEFINE_string('directory', '/imgjax', 'Where the checkout lies in the image.'),
    flags.DEFINE_string('python', 'python', 'Of the environment in the image.'),
    flags.DEFINE_string('claim', 'runs', 'The PersistentVolumeClaim of run directories.'),
    flags.DEFINE_string('mount', '/runs', 'Where that is mounted.'),
    flags.DEFINE_integer('grace_seconds', 120, 'To save, after SIGTERM.', lower_bound=1),
    flags.DEFINE_integer('heartbeat_seconds', 30, 'As of launch.train.', lower_bound=1),
    flags.DEFINE_integer('max_restarts', 100, 'Of all pods together.', lower_bound=0),
    flags.DEFINE_string('output', 'jobset.yaml', 'The file to write.'))


def main() -> dict:
    from imgjax.jobs import kubernetes
    file = pathlib.Path(__file__).with_name('jobset.yaml')
    return kubernetes.run(file.read_text(), **jobs.asked(_FLAGS))


if __name__ == '__main__':
    entry.main(main)
