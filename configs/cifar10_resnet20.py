"""Does ResNet-20 reach the CIFAR-10 accuracy of its paper?

He et al., arXiv:1512.03385, table 6: 91.25 % after 64,000 steps of 128 images. Here the step
schedule of the paper with its augmentation (4 pixels of padding, flips).

    python -m launch.train --config=configs/cifar10_resnet20.py --workdir=runs/cifar10
    python -m launch.train --config=configs/cifar10_resnet20.py:folder --workdir=runs/cifar10 \\
        --config.data.path=DIR

The first reads the TFDS set `cifar10`, prepared before; the second a folder of class folders under
`train/` and `test/`. Hardware: any. Result: untested at this length.
"""

from configs import base


def get_config(arg=''):
    if arg not in ('', 'folder'):
        raise ValueError(f'cifar10_resnet20 takes no argument or folder, got {arg!r}')
    config = base.get_config()
    config.name = 'cifar10_resnet20'
    config.model.name = 'resnet20_cifar'
    config.update(
        data=dict(
            name=arg or 'cifar10', mean=(0.4914, 0.4822, 0.4465), std=(0.247, 0.2435, 0.2616)),
        augment=(('pad_crop', {'padding': 4}), ('random_flip', {})),
        batch_size=128,
        eval_batch_size=1000,
        steps=64_000,
        log_every=100,
        eval_every=2000,
        checkpoint=dict(every=2000),
        optimizer=dict(name='sgd', options=dict(nesterov=False), decay_mask='all'),
        schedule=dict(name='step', milestones=(0.5, 0.75), factor=0.1),
    )
    config.hparams.update(learning_rate=0.1, momentum=0.9, weight_decay=1e-4)
    config.hparams.augment = dict(pad_crop=1.0, random_flip=0.5)
    return config
