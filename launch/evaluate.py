"""Evaluates a checkpoint, or published weights, on a split of any dataset.

    python -m launch.evaluate --workdir=runs/digits --split=test
    python -m launch.evaluate --workdir=runs/mine --config.data.path=ELSEWHERE
    python -m launch.evaluate --config=configs/finetune.py:resnet50 \\
        --config.init.weights=timm:resnet50.a1_in1k --config.data.path=DIR
"""

from absl import flags
from ml_collections import config_flags

from configs import base
from imgjax.commands import entry
from imgjax.errors import ConfigError

_CONFIG = config_flags.DEFINE_config_file(
    'config', base.__file__, 'For published weights: a file of configs/ with the model. '
    'For a run: only --config.data.FIELD=VALUE, to evaluate other data than its own.',
    accept_new_attributes=True, lock_config=False)
_WORKDIR = flags.DEFINE_string('workdir', '', 'The run directory; leave it out for weights.')
_STEP = flags.DEFINE_string('step', '', 'The step of the checkpoint, or best for that of the best '
                            'evaluation; the newest by default.')
_SPLIT = flags.DEFINE_string('split', None, 'The split; config.data.eval_split by default.')
_CLASSES = flags.DEFINE_enum(
    'classes', 'name', ('name', 'number'), 'How the classes of the data are matched with those '
    'of the model; number is for data whose classes have other names in the same order.')


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
