"""A run that compiles in a second, as every start of every drill does so."""

from configs import base


def get_config(arg=''):
    config = base.get_config(arg)
    config.update(
        data=dict(name='digits', channels=1, mean=(0.3,), std=(0.37,), resident='no'),
        model=dict(name='mlp', options=dict(hidden=(32,), dropout=0.1)),
        ema=True, batch_size=32, steps=400, log_every=10, eval_every=200,
        checkpoint=dict(every=20))
    return config
