"""Compiles the train step for devices that need not be there; says whether it fits, what bounds it.

    python -m launch.dryrun --config=configs/imagenet_vit_b16.py --topology=v5e:16x16
    python -m launch.dryrun --config=configs/digits.py:vit --topology=cpu:8

TPUs take the extra `imgjax[tpu]`, no TPU. Exit code 1 says that the step does not fit.
"""

from absl import flags
from ml_collections import config_flags

from imgjax import entry

_CONFIG = config_flags.DEFINE_config_file(
    'config', None, 'A file of configs/, as PATH or PATH:ARGUMENT.',
    accept_new_attributes=True, lock_config=False)
_TOPOLOGY = flags.DEFINE_string(
    'topology', None, 'A TPU slice such as v5e:16x16 (v4, v5e, v5p, v6e), or cpu:8.', required=True)
_CLASSES = flags.DEFINE_integer(
    'num_classes', 0, 'Of a dataset that is not at hand.', lower_bound=0)
_SIDE = flags.DEFINE_integer(
    'image_size', 0, 'Pixels of a side, where the config leaves it to the dataset.', lower_bound=0)
_EXAMPLES = flags.DEFINE_integer(
    'train_examples', 0, 'Of a dataset that is not at hand, for epochs.', lower_bound=0)
flags.mark_flag_as_required('config')


def main() -> dict:
    from imgjax.perf import topology
    topology.prepare(_TOPOLOGY.value)
    from imgjax.perf import dryrun
    return dryrun.run(_CONFIG.value, _TOPOLOGY.value, _CLASSES.value, _SIDE.value,
                      _EXAMPLES.value)


if __name__ == '__main__':
    entry.main(main)
