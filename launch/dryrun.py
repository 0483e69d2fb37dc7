"""Compiles the train step for devices that need not exist here; says if it fits, and its limits.

    python -m launch.dryrun --config=configs/imagenet_vit_b16.py --topology=v5e:16x16
    python -m launch.dryrun --config=configs/digits.py:vit --topology=cpu:8

A TPU topology needs the extra `imgjax[tpu]`, but no TPU. Exit code 1 means that the step does not
fit into the memory.
"""

from absl import flags
from ml_collections import config_flags

from imgjax.commands import entry

_CONFIG = config_flags.DEFINE_config_file(
    'config', None, 'A file of configs/, as PATH or PATH:ARGUMENT.',
    accept_new_attributes=True, lock_config=False)
_TOPOLOGY = flags.DEFINE_string(
    'topology', None, 'A TPU slice such as v5e:16x16 (v4, v5e, v5p, v6e), or cpu:8.', required=True)
_CLASSES = flags.DEFINE_integer(
    'num_classes', 0, 'The number of classes of a dataset that is not here.', lower_bound=0)
_SIDE = flags.DEFINE_integer(
    'image_size', 0, 'The side of the images in pixels, if the config does not set it.',
    lower_bound=0)
_EXAMPLES = flags.DEFINE_integer(
    'train_examples', 0, 'The number of training images of a dataset that is not here, for epochs.',
    lower_bound=0)
flags.mark_flag_as_required('config')


def main() -> dict:
    from imgjax.perf import topology
    topology.prepare(_TOPOLOGY.value)
    from imgjax.perf import dryrun
    return dryrun.run(_CONFIG.value, _TOPOLOGY.value, _CLASSES.value, _SIDE.value,
                      _EXAMPLES.value)


if __name__ == '__main__':
    entry.main(main)
