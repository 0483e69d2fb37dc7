"""Writes the card of a checkpoint or of published weights: a page on the model and its data.

    python -m launch.card --workdir=runs/digits --compare=runs/vit
    python -m launch.card --config=FILE --config.init.weights=timm:resnet50.a1_in1k --output=DIR
"""

from absl import flags
from ml_collections import config_flags

from configs import base
from imgjax.commands import entry

_CONFIG = config_flags.DEFINE_config_file(
    'config', base.__file__, 'For published weights: a file of configs/ with the model. For a run: '
    'only --config.data.FIELD=VALUE.', accept_new_attributes=True, lock_config=False)
_WORKDIR = flags.DEFINE_string('workdir', '', 'The run directory; leave it out for weights.')
_STEP = flags.DEFINE_string('step', '', 'The step of the checkpoint, or best; newest by default.')
_SPLIT = flags.DEFINE_string('split', '', 'The split; config.data.eval_split by default.')
_OUTPUT = flags.DEFINE_string('output', '', 'The folder of the card; RUN/card by default.')
_COMPARE = flags.DEFINE_string('compare', '', 'The run directory of a model to compare with.')
_ONLY = flags.DEFINE_string('only', '', 'The parts to measure, separated by commas.')
_SEED = flags.DEFINE_integer('seed', 0, 'Decides all random numbers.', 0)
_IMAGES = flags.DEFINE_integer('images', 10_000, 'The most images of a split for features.')
_ALPHA = flags.DEFINE_float('alpha', 0.1, 'The share of labels that sets of classes may miss.')
_KEPT = flags.DEFINE_list('kept', [], 'The only classes that may be answered.')
_LAYER = flags.DEFINE_string('layer', '', 'The intermediate whose channels are shown.')
_LABEL_SETS = flags.DEFINE_string('label_sets', '', 'A JSON file: all right classes per image.')
_SETS = flags.DEFINE_list('sets', [], 'Folders of prepared sets of the classes of the model.')
_STRANGERS = flags.DEFINE_string('strangers', '', 'A folder of images of none of its classes.')


def main() -> dict:
    from imgjax.commands import card
    more = {'at': _STEP.value} | {flag.name: flag.value for flag in (
        _SPLIT, _OUTPUT, _COMPARE, _ONLY, _SEED, _IMAGES, _ALPHA, _KEPT, _LAYER, _LABEL_SETS, _SETS,
        _STRANGERS)}
    if not _WORKDIR.value:
        return card.of_weights(_CONFIG.value, **more)
    changes = config_flags.get_override_values(flags.FLAGS['config'])
    return card.of_run(_WORKDIR.value, changes=changes, **more)


if __name__ == '__main__':
    entry.main(main)
