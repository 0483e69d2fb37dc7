"""Evaluates a checkpoint on a split of its dataset or of any other, or published weights on one.

    python -m launch.evaluate --workdir=runs/digits --split=test
    python -m launch.evaluate --workdir=runs/mine --config.data.path=ELSEWHERE
    python -m launch.evaluate --config=configs/finetune.py:resnet50 \\
        --config.init.weights=timm:resnet50.a1_in1k --config.data.path=DIR
"""

from absl import flags
from ml_collections import config_flags

from configs import base
from imgjax import entry
from imgjax.errors import ConfigError

_CONFIG = config_flags.DEFINE_config_file(
    'config', base.__file__, 'Of published weights a file of configs/ that says the model; of a '
    'run only --config.data... of other data than its own.', accept_new_attributes=True,
    lock_config=False)
_WORKDIR = flags.DEFINE_string('workdir', '', 'The run directory; weights have none.')
_STEP = flags.DEFINE_string('step', '', 'Which checkpoint: a number, or best, that of the best '
                            'evaluation; the newest when left out.')
_SPLIT = flags.DEFINE_string('split', None, 'Which split; config.data.eval_split when left out.')
_CLASSES = flags.DEFINE_enum(
    'classes', 'name', ('name', 'number'), 'How those of the data are found among those of the '
    'model: number is for data that call the same classes otherwise.')


def main() -> dict:
    from imgjax.commands import evaluate, evaluate_weights
    config = flags.FLAGS['config']
    if not _WORKDIR.value:
        return evaluate_weights.run(_CONFIG.value, _SPLIT.value, _CLASSES.value)
    if config_flags.get_config_filename(config) != base.__file__:
        raise ConfigError('--config: a run has its own; leave it out, or leave out --workdir to '
                          'evaluate the weights of config.init.weights')
    return evaluate.evaluate_split(
        _WORKDIR.value, _STEP.value, _SPLIT.value, config_flags.get_override_values(config),
        _CLASSES.value)


if __name__ == '__main__':
    entry.main(main, distributed=True)
