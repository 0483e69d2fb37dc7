"""Writes the JobSet of a training run for kubectl; --config.FIELD=VALUE works as in launch.train.

    python -m launch.kubernetes --config=configs/digits.py --workdir=/runs/digits --image=IMAGE
"""

import pathlib

from absl import flags
from ml_collections import config_flags

from imgjax import jobs
from imgjax.commands import entry

config_flags.DEFINE_config_file('config', None, 'A file of configs/.', accept_new_attributes=True,
                                lock_config=False)
_FLAGS = (
    flags.DEFINE_string('workdir', '', 'The run directory, below --mount.'),
    flags.DEFINE_string('name', 'imgjax', 'The name of the JobSet.'),
    flags.DEFINE_integer('nodes', 1, 'The number of pods, each with one process.', lower_bound=1),
    flags.DEFINE_integer('chips', 0, 'The number of chips per pod, or 0.', lower_bound=0),
    flags.DEFINE_string('resource', 'nvidia.com/gpu', 'The resource name of the chips.'),
    flags.DEFINE_multi_string('node_selector', [], 'A node label KEY=VALUE; repeatable.'),
    flags.DEFINE_string('image', '', 'The image of the container.'),
    flags.DEFINE_string('directory', '/imgjax', 'The folder of the checkout in the image.'),
    flags.DEFINE_string('python', 'python', 'The Python of the environment in the image.'),
    flags.DEFINE_string('claim', 'runs', 'The PersistentVolumeClaim for run directories.'),
    flags.DEFINE_string('mount', '/runs', 'The folder where the claim is mounted.'),
    flags.DEFINE_integer('grace_seconds', 120, 'The time to save after SIGTERM.', lower_bound=1),
    flags.DEFINE_integer('heartbeat_seconds', 30, 'See launch.train.', lower_bound=1),
    flags.DEFINE_integer('max_restarts', 100, 'How often all pods may restart.', lower_bound=0),
    flags.DEFINE_string('output', 'jobset.yaml', 'The file to write.'))


def main() -> dict:
    from imgjax.jobs import kubernetes
    file = pathlib.Path(__file__).with_name('jobset.yaml')
    return kubernetes.run(file.read_text(), **jobs.flag_values(_FLAGS))


if __name__ == '__main__':
    entry.main(main)
