"""Evaluates a checkpoint of a run directory on a split of its dataset.

    python -m launch.evaluate --workdir=runs/digits --split=test
"""

from absl import flags

from imgjax import runtime

_WORKDIR = flags.DEFINE_string('workdir', None, 'The run directory.', required=True)
_STEP = flags.DEFINE_string('step', '', 'Which checkpoint: a number, or best, that of the best '
                            'evaluation; the newest when left out.')
_SPLIT = flags.DEFINE_string('split', None, 'Which split; config.data.eval_split when left out.')


def main() -> dict:
    from imgjax import use
    return use.evaluate_split(_WORKDIR.value, _STEP.value, _SPLIT.value)


if __name__ == '__main__':
    runtime.main(main, distributed=True)
