"""Does a study do what runs alone do?

Small enough for tests: four arms of a tiny MLP, one of which diverges.
"""

from configs import digits


def get_study(arg=''):
    base = digits.get_config('mlp')
    base.model.name = arg or 'tiny_mlp'
    base.update(batch_size=32, eval_batch_size=355, steps=60, log_every=10, eval_every=20,
                checkpoint=dict(every=20), max_skipped_updates=5)
    base.optimizer.name = 'sgd'
    base.hparams.update(learning_rate=0.05, clip_norm=0.0)
    base.schedule.warmup_steps = 0
    return dict(
        base=base,
        arms={
            'base': {},
            'no decay': {'hparams.weight_decay': 0.0},
            'half': {'hparams.learning_rate': 0.025},
            'far too fast': {'hparams.learning_rate': 1e30},
        },
        seeds=2,
        comparisons=[('base', 'half'), ('base', 'no decay')],
    )
