"""Writes a named intermediate of a model for every image of a split; the same command continues.

    python -m launch.features --workdir=runs/digits --layer=pre_logits --output=features.npz
"""

from absl import flags
from ml_collections import config_flags

from configs import base
from imgjax.commands import entry

_CONFIG = config_flags.DEFINE_config_file(
    'config', base.__file__, 'Only --config.data.FIELD=VALUE, for other data than the run\'s own.',
    accept_new_attributes=True, lock_config=False)
_WORKDIR = flags.DEFINE_string('workdir', None, 'The run directory.', required=True)
_STEP = flags.DEFINE_string('step', '', 'The step of the checkpoint, or best; newest by default.')
_SPLIT = flags.DEFINE_string('split', '', 'The split; config.data.eval_split by default.')
_LAYER = flags.DEFINE_string('layer', 'pre_logits', 'The name of the intermediate.')
_POOL = flags.DEFINE_enum('pool', 'mean', ('mean', 'none'), 'mean averages over the positions of '
                          'maps and tokens; none writes them as they are.')
_OUTPUT = flags.DEFINE_string('output', 'features.npz', 'The file to write, .npz or .parquet.')


def main() -> dict:
    from imgjax.commands import features
    changes = config_flags.get_override_values(flags.FLAGS['config'])
    return features.write(_WORKDIR.value, _LAYER.value, _OUTPUT.value, _SPLIT.value, _STEP.value,
                          changes, _POOL.value)


if __name__ == '__main__':
    entry.main(main)
