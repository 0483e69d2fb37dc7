"""Submits a training run or a study to Slurm; --config.FIELD=VALUE as of launch.train.

    python -m launch.slurm --config=configs/digits.py --workdir=runs/digits --nodes=2
    python -m launch.slurm --study=configs/studies/digits_lr_wd.py --workdir=runs/lr --array=0-7
"""

import pathlib

from absl import flags
from ml_collections import config_flags

from imgjax import entry, jobs

config_flags.DEFINE_config_file('config', None, 'A file of configs/.', accept_new_attributes=True,
                                lock_config=False)
_FLAGS = (
    flags.DEFINE_string('study', '', 'A file of configs/studies/ in place of a config.'),
    flags.DEFINE_string('workdir', '', 'The run directory, on a disk that all nodes see.'),
    flags.DEFINE_string('cells', '', 'Of a study, as of launch.study.'),
    flags.DEFINE_string('name', 'imgjax', 'Of the job.'),
    flags.DEFINE_integer('nodes', 1, 'How many.', lower_bound=1),
    flags.DEFINE_integer('processes', 1, 'A node; one has all of its GPUs.', lower_bound=1),
    flags.DEFINE_integer('gpus', 0, 'A node.', lower_bound=0),
    flags.DEFINE_string('time', '', 'Limit of the job, as sbatch takes it.'),
    flags.DEFINE_string('partition', '', 'The default one when left out.'),
    flags.DEFINE_multi_string('options', [], 'Another of sbatch, --NAME=VALUE; repeatable.'),
    flags.DEFINE_string('array', '', 'A run an index (0-4) in WORKDIR/INDEX; parts of a study.'),
    flags.DEFINE_string('array_field', 'hparams.seed', 'The config field that is the index.'),
    flags.DEFINE_integer('grace_seconds', 120, 'To save before the time limit.', lower_bound=1),
    flags.DEFINE_integer('heartbeat_seconds', 30, 'As of launch.train.', lower_bound=1),
    flags.DEFINE_integer('max_requeues', 100, 'So often the job starts again.', lower_bound=0),
    flags.DEFINE_string('python', 'python', 'Of the environment, on the nodes.'),
    flags.DEFINE_bool('dry_run', False, 'Show the script; write and submit nothing.'))


def main() -> dict:
    from imgjax.jobs import slurm
    return slurm.run(pathlib.Path(__file__).with_suffix('.sh').read_text(), **jobs.asked(_FLAGS))


if __name__ == '__main__':
    entry.main(main)
