"""How well does each family read 1,442 handwritten digits of 8x8 pixels?

scikit-learn's bundled scans, fixed stratified fifth (355 images) held out. No download.

    python -m launch.train --config=configs/digits.py --workdir=runs/digits
    python -m launch.train --config=configs/digits.py:vit --workdir=runs/digits_vit

The families are `mlp`, `cnn`, `rnn`, `resnet` and `vit`; without an argument it is `mlp`,
the best on three seeds.
Results and hardware: docs/reference/measured.md, from `python -m benchmarks.digits`.
"""

from configs import base

FAMILIES = ('mlp', 'cnn', 'rnn', 'resnet', 'vit')


def get_config(arg=''):
    family = arg or FAMILIES[0]
    if family not in FAMILIES:
        raise ValueError(f'digits takes one of {", ".join(FAMILIES)}, got {family!r}')
    config = base.get_config()
    config.name = f'digits_{family}'
    config.update(
        data=dict(name='digits', channels=1, mean=(0.3,), std=(0.37,)),
        augment=(('shift_rotate', {'max_pixels': 1.0, 'max_degrees': 15.0}),),
        batch_size=128,
        eval_batch_size=355,
        steps=1500,
        log_every=50,
        eval_every=500,
        checkpoint=dict(every=500),
        optimizer=dict(name='adamw'),
        schedule=dict(name='cosine', warmup_steps=100),
    )
    config.hparams.update(learning_rate=2e-3, weight_decay=0.05, label_smoothing=0.1, clip_norm=1.0)
    config.hparams.augment = dict(shift_rotate=1.0)
    config.model.name = family
    if family == 'vit':
        config.model.options = dict(patch_size=2, width=64, depth=2, heads=4, pool='avg')
        config.batch_size = 64
        config.steps = 2000
        config.hparams.learning_rate = 3e-3
        config.hparams.augment.shift_rotate = 0.5
    elif family == 'resnet':
        config.model.name = 'resnet20_cifar'
        config.update(steps=400, eval_every=200, checkpoint=dict(every=200))
    elif family == 'rnn':
        config.model.options = dict(bidirectional=True)
    return config
