"""Writes the script of a training run on a Cloud TPU; --config.FIELD=VALUE as of launch.train.

    python -m launch.tpu --config=configs/imagenet_vit_s16.py --workdir=/mnt/runs/vit --spot \\
        --zone=us-west4-a --accelerator=v5litepod-16 --output=tpu.sh && bash tpu.sh
"""

import pathlib

from absl import flags
from ml_collections import config_flags

from imgjax import entry, jobs

config_flags.DEFINE_config_file('config', None, 'A file of configs/.', accept_new_attributes=True,
                                lock_config=False)
_FLAGS = (
    flags.DEFINE_string('workdir', '', 'The run directory, on a disk that all hosts mount.'),
    flags.DEFINE_string('name', 'imgjax', 'Of the slice.'),
    flags.DEFINE_string('project', '', "Of Google Cloud; gcloud's own when left out."),
    flags.DEFINE_string('zone', '', 'Of the slice.'),
    flags.DEFINE_string('accelerator', '', 'Its type, such as v5litepod-16.'),
    flags.DEFINE_string('version', 'v2-alpha-tpuv5-lite', 'Of the software of its hosts.'),
    flags.DEFINE_bool('spot', False, 'It may be taken away.'),
    flags.DEFINE_multi_string('options', [], 'Another of gcloud, --NAME=VALUE; repeatable.'),
    flags.DEFINE_string('directory', 'imgjax', 'Where the checkout lies on the hosts.'),
    flags.DEFINE_string('python', '.venv/bin/python', 'Of the environment on the hosts.'),
    flags.DEFINE_integer('heartbeat_seconds', 30, 'As of launch.train.', lower_bound=1),
    flags.DEFINE_integer('max_restarts', 100, 'Of the run.', lower_bound=0),
    flags.DEFINE_integer('poll_seconds', 30, 'Between looks at the slice.', lower_bound=1),
    flags.DEFINE_string('output', 'tpu.sh', 'The file to write.'))


def main() -> dict:
    from imgjax.jobs import tpu
    return tpu.run(pathlib.Path(__file__).with_name('tpu_vm.sh').read_text(), **jobs.asked(_FLAGS))


if __name__ == '__main__':
    entry.main(main)
