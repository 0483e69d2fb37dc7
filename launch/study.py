"""Runs a study, the arms and seeds of a file in configs/studies/; the same command continues it.

    python -m launch.study --study=configs/studies/digits_augment.py --workdir=runs/digits_augment
    python -m launch.study --study=... --workdir=... --list     # the cells and their times
    python -m launch.study --study=... --workdir=... --report   # write the page only
"""

from absl import flags

from imgjax.commands import entry

_STUDY = flags.DEFINE_string('study', None, 'A file of configs/studies/, as PATH or '
                             'PATH:ARGUMENT.', required=True)
_WORKDIR = flags.DEFINE_string('workdir', None, 'The directory of its page and tables.',
                              required=True)
_CELLS = flags.DEFINE_string('cells', '', 'The folder of the run directories, which studies '
                             'may share; `cells` beside the workdir by default.')
_STRATEGY = flags.DEFINE_enum('strategy', 'auto', ('auto', 'loop', 'vmap', 'mesh'),
                              'How cells of one structure are run.')
_ONLY = flags.DEFINE_string('only', '', 'The only arm to run.')
_LIST = flags.DEFINE_bool('list', False, 'Print the cells with their states without running.')
_PART = flags.DEFINE_string('part', '', 'I/N: run part I, from 0, of N; for job arrays.')
_REPORT = flags.DEFINE_bool('report', False, 'Write the page without running anything.')


def main() -> dict:
    from imgjax.study import engine
    if _LIST.value:
        return engine.listing(_STUDY.value, _WORKDIR.value, _CELLS.value)
    return engine.run(_STUDY.value, _WORKDIR.value, _CELLS.value, _STRATEGY.value, _ONLY.value,
                      _PART.value, _REPORT.value)


if __name__ == '__main__':
    entry.main(main, distributed=True)
