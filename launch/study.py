"""Runs a study: arms and seeds of a file of configs/studies/; the same command goes on.

    python -m launch.study --study=configs/studies/digits_augment.py --workdir=runs/digits_augment
    python -m launch.study --study=... --workdir=... --list     # the cells, and what they took
    python -m launch.study --study=... --workdir=... --report   # the page alone
"""

from absl import flags

from imgjax import entry

_STUDY = flags.DEFINE_string('study', None, 'A file of configs/studies/, as PATH or '
                             'PATH:ARGUMENT.', required=True)
_WORKDIR = flags.DEFINE_string('workdir', None, 'Of its page and tables.', required=True)
_CELLS = flags.DEFINE_string('cells', '', 'The folder of run directories, which studies may '
                             'share; `cells` beside the workdir when left out.')
_STRATEGY = flags.DEFINE_enum('strategy', 'auto', ('auto', 'loop', 'vmap', 'mesh'),
                              'How cells of one structure are run.')
_ONLY = flags.DEFINE_string('only', '', 'An arm; the others are not run.')
_LIST = flags.DEFINE_bool('list', False, 'Print the cells with their states; run nothing.')
_PART = flags.DEFINE_string('part', '', 'I/N: run part I, from 0, of N; for arrays of jobs.')
_REPORT = flags.DEFINE_bool('report', False, 'Write the page; run nothing.')


def main() -> dict:
    from imgjax.study import engine
    if _LIST.value:
        return engine.listing(_STUDY.value, _WORKDIR.value, _CELLS.value)
    return engine.run(_STUDY.value, _WORKDIR.value, _CELLS.value, _STRATEGY.value, _ONLY.value,
                      _PART.value, _REPORT.value)


if __name__ == '__main__':
    entry.main(main, distributed=True)
