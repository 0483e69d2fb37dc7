"""Trains a config in a run directory; the same command continues a run that was stopped.

    python -m launch.train --config=configs/digits.py --workdir=runs/digits
    python -m launch.train --config=configs/digits.py:vit --workdir=runs/vit \\
        --config.hparams.learning_rate=3e-4
    python -m launch.train --workdir=runs/digits --config.steps=3000
"""

from absl import flags
from ml_collections import config_flags

from configs import base
from imgjax.commands import entry

_CONFIG = config_flags.DEFINE_config_file(
    'config', base.__file__, 'A file of configs/, as PATH or PATH:ARGUMENT; by default the config '
    'of the run directory.', accept_new_attributes=True, lock_config=False)
_WORKDIR = flags.DEFINE_string('workdir', None, 'The run directory.', required=True)


def main() -> dict:
    from imgjax import train
    from imgjax.process import overrides
    config, flag = _CONFIG.value, flags.FLAGS['config']
    if config_flags.get_config_filename(flag) == base.__file__:
        config = overrides.of_run(flag, _WORKDIR.value)
    return train.run(config, _WORKDIR.value)


if __name__ == '__main__':
    entry.main(main, distributed=True)
