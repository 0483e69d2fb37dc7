"""A run of some seconds in which everything that has a state or a random key is at work."""

from configs import base


def get_config(arg=''):
    config = base.get_config(arg)
    config.update(
        data=dict(name='digits', channels=1, mean=(0.3,), std=(0.37,)),
        model=dict(name='tiny_cnn', options=dict(norm='batch', dropout=0.1)),
        augment=(('shift_rotate', {}), ('mixup', {})),
        ema=True, batch_size=32, accumulation_steps=2, steps=800, log_every=20, eval_every=200,
        checkpoint=dict(every=40))
    config.hparams.augment = dict(shift_rotate=1.0, mixup=0.2)
    return config
