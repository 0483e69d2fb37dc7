"""Does the activation function matter to a network that reads handwritten digits?

Every activation of imgjax/models/parts/layers.py in an MLP, a small CNN and a small ViT of
configs/digits.py, three seeds each, at 300 steps without augmentation; each is compared with ReLU
in the same network.

    python -m launch.study --study=configs/studies/digits_activation.py \\
        --workdir=runs/digits_activation

Two cores: 2 min 58 s. Result: a CNN with sigmoid is worse by 15.1 points; of the 38 other
comparisons three seeds show no difference.
"""

from configs import digits

ACTIVATIONS = ('relu', 'relu6', 'leaky_relu', 'elu', 'selu', 'gelu', 'gelu_tanh', 'silu', 'mish',
               'hardswish', 'softplus', 'tanh', 'sigmoid', 'identity')


def get_study():
    arms = {}
    for family, options in (('mlp', {}), ('cnn', dict(widths=(16, 32), hidden=(64,))),
                            ('vit', dict(patch_size=2, width=32, depth=1, heads=4, pool='avg'))):
        for act in ACTIVATIONS:
            config = digits.get_config(family)
            config.model.options = dict(options, act=act)
            config.hparams.augment = {}
            config.update(
                augment=(), batch_size=64, steps=300, eval_every=0, checkpoint=dict(every=0))
            arms[f'{family} {act}'] = config
    return dict(
        arms=arms, seeds=3,
        comparisons=[(f'{family} {act}', f'{family} relu') for family in ('mlp', 'cnn', 'vit')
                     for act in ACTIVATIONS[1:]],
    )
