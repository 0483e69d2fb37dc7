"""Is a study that is killed the same study?

    python -m launch.study --study=tests/drills/study.py --workdir=DIR
"""

from configs import digits


def get_study():
    base = digits.get_config('mlp')
    base.update(steps=1200, log_every=50, eval_every=400, checkpoint=dict(every=100))
    return dict(
        base=base,
        arms={'base': {}, 'half': {'hparams.learning_rate': 1e-3},
              'far too fast': {'optimizer.name': 'sgd', 'hparams.learning_rate': 1e30,
                               'hparams.clip_norm': 0.0}},
        seeds=2, comparisons=[('base', 'half')])
