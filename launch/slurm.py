"""Submits a training run or a study to Slurm; --config.FIELD=VALUE works as in launch.train.

    python -m launch.slurm --config=configs/digits.py --workdir=runs/digits --nodes=2
    python -m launch.slurm --study=configs/studies/digits_lr_wd.py --workdir=runs/lr --array=0-7
"""

import pathlib

from absl import flags
from ml_collections import config_flags

from imgjax import jobs
from imgjax.commands import entry

config_flags.DEFINE_config_file('config', None, 'A file of configs/.', accept_new_attributes=True,
                                lock_config=False)
_FLAGS = (
    flags.DEFINE_string('study', '', 'A file of configs/studies/ in place of a config.'),
    flags.DEFINE_string('workdir', '', 'The run directory, on a disk that all nodes see.'),
    flags.DEFINE_string('cells', '', 'The folder of the run directories, as for launch.study.'),
    flags.DEFINE_string('name', 'imgjax', 'The name of the job.'),
    flags.DEFINE_integer('nodes', 1, 'The number of nodes.', lower_bound=1),
    flags.DEFINE_integer('processes', 1, 'Processes per node; one uses all GPUs.', lower_bound=1),
    flags.DEFINE_integer('gpus', 0, 'GPUs per node.', lower_bound=0),
    flags.DEFINE_string('time', '', 'The time limit, as sbatch takes it.'),
    flags.DEFINE_string('partition', '', 'The partition; the default one if empty.'),
    flags.DEFINE_multi_string('options', [], 'An option of sbatch, --NAME=VALUE; repeatable.'),
    flags.DEFINE_string('array', '', '0-4: five runs, each in WORKDIR/INDEX, or parts of a study.'),
    flags.DEFINE_string('array_field', 'hparams.seed', 'The config field set to the index.'),
    flags.DEFINE_integer('grace_seconds', 120, 'Stop so long before the limit.', lower_bound=1),
    flags.DEFINE_integer('heartbeat_seconds', 30, 'See launch.train.', lower_bound=1),
    flags.DEFINE_integer('max_requeues', 100, 'How often the job may restart.', lower_bound=0),
    flags.DEFINE_string('python', 'python', 'The Python of the environment on the nodes.'),
    flags.DEFINE_bool('dry_run', False, 'Show the script; write and submit nothing.'))


def main() -> dict:
    from imgjax.jobs import slurm
    file = pathlib.Path(__file__).with_suffix('.sh')
    return slurm.run(file.read_text(), **jobs.flag_values(_FLAGS))


if __name__ == '__main__':
    entry.main(main)
