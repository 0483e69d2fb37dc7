"""Audits a dataset: wrong labels, duplicates, leaks and odd images; the same command continues.

    python -m launch.audit --config=configs/digits.py --workdir=runs/digits_audit
    python -m launch.audit --config=configs/digits.py --workdir=runs/digits_audit \\
        --apply=runs/digits_audit/relabel.csv
"""

from absl import flags
from ml_collections import config_flags

from imgjax.commands import entry

_CONFIG = config_flags.DEFINE_config_file(
    'config', None, 'A file of configs/, as PATH or PATH:ARGUMENT; it is trained once per fold.',
    accept_new_attributes=True, lock_config=False)
_WORKDIR = flags.DEFINE_string('workdir', 'runs/audit', 'The folder of the audit.')
_FOLDS = flags.DEFINE_integer('folds', 5, 'The number of folds.')
_ONLY = flags.DEFINE_string('only', '', 'The parts to measure, separated by commas.')
_IMAGES = flags.DEFINE_integer('images', 50_000, 'The most images of a split that are compared by '
                               'their pixels.', lower_bound=1)
_APPLY = flags.DEFINE_string('apply', '', 'A relabel.csv: train with its labels, without the '
                             'images that have none in it.')


def main() -> dict:
    from imgjax.commands import audit
    if _APPLY.value:
        return audit.apply(_CONFIG.value, _WORKDIR.value, _APPLY.value)
    return audit.run(_CONFIG.value, _WORKDIR.value, _FOLDS.value, _ONLY.value, _IMAGES.value)


if __name__ == '__main__':
    flags.mark_flag_as_required('config')
    entry.main(main)
