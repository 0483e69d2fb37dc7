"""Evaluates a checkpoint on a split of its dataset, or on other data.

    python -m launch.evaluate --workdir=runs/digits --split=test
    python -m launch.evaluate --workdir=runs/mine --config.data.path=ELSEWHERE
"""

from absl import flags
from ml_collections import config_flags

from configs import base
from imgjax import runtime

_CONFIG = config_flags.DEFINE_config_file(
    'config', base.__file__, '--config.data... names other data than those of the run.')
_WORKDIR = flags.DEFINE_string('workdir', None, 'The run directory.', required=True)
_STEP = flags.DEFINE_string(
    'step', '', 'Which checkpoint: a number, or best, of the best evaluation; the newest when left '
    'out.')
_SPLIT = flags.DEFINE_string('split', None, 'Which split; config.data.eval_split when left out.')
_CLASSES = flags.DEFINE_enum(
    'classes', 'name', ('name', 'number'), 'How those of the data are found among those of the '
    'run: number is for data that call the same classes otherwise.')


def main() -> dict:
    from imgjax import use
    return use.evaluate_split(
        _WORKDIR.value, _STEP.value, _SPLIT.value,
        config_flags.get_override_values(flags.FLAGS['config']), _CLASSES.value)


if __name__ == '__main__':
    runtime.main(main, distributed=True)
