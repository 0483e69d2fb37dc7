"""Writes the script of a run on a Cloud TPU; --config.FIELD=VALUE works as in launch.train.

    python -m launch.tpu --config=configs/imagenet_vit_s16.py --workdir=/mnt/runs/vit --spot \\
        --zone=us-west4-a --accelerator=v5litepod-16 --output=tpu.sh && bash tpu.sh
"""

import pathlib

from absl import flags
from ml_collections import config_flags

from imgjax import jobs
from imgjax.commands import entry

config_flags.DEFINE_config_file('config', None, 'A file of configs/.', accept_new_attributes=True,
                                lock_config=False)
_FLAGS = (
    flags.DEFINE_string('workdir', '', 'The run directory, on a disk that all hosts mount.'),
    flags.DEFINE_string('name', 'imgjax', 'The name of the slice.'),
    flags.DEFINE_string('project', '', "The Google Cloud project; gcloud's by default."),
    flags.DEFINE_string('zone', '', 'The zone of the slice.'),
    flags.DEFINE_string('accelerator', '', 'The type of the slice, such as v5litepod-16.'),
    flags.DEFINE_string('version', 'v2-alpha-tpuv5-lite', 'The software version of the hosts.'),
    flags.DEFINE_bool('spot', False, 'Allow Google to take the slice away.'),
    flags.DEFINE_multi_string('options', [], 'An option of gcloud, --NAME=VALUE; repeatable.'),
    flags.DEFINE_string('directory', 'imgjax', 'The folder of the checkout on the hosts.'),
    flags.DEFINE_string('python', '.venv/bin/python', "The Python of the hosts' environment."),
    flags.DEFINE_integer('heartbeat_seconds', 30, 'See launch.train.', lower_bound=1),
    flags.DEFINE_integer('max_restarts', 100, 'How often the run may restart.', lower_bound=0),
    flags.DEFINE_integer('poll_seconds', 30, 'The time between two polls.', lower_bound=1),
    flags.DEFINE_string('output', 'tpu.sh', 'The file to write.'))


def main() -> dict:
    from imgjax.jobs import tpu
    file = pathlib.Path(__file__).with_name('tpu_vm.sh')
    return tpu.run(file.read_text(), **jobs.flag_values(_FLAGS))


if __name__ == '__main__':
    entry.main(main)
