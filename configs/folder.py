"""How well can my own images be told apart?

Any folder of class folders, with or without splits, by its path alone: the classes, the image size
and the split are found there (docs/guides/data.md says how), and each is a field that can be set.

    python -m launch.train --config=configs/folder.py --workdir=runs/mine --config.data.path=DIR
    python -m launch.train --config=configs/folder.py:small --workdir=runs/mine \\
        --config.data.path=DIR

The first is a ResNet-18, for photographs on a GPU, at 224 pixels where the images have no one size;
the second ResNet-20 of the CIFAR paper, for small images, or to see on a CPU whether a set can be
learnt at all: photographs are brought to 64 pixels. Both from scratch.
Hardware: any. Result of the second on CIFAR-10: docs/reference/measured.md; of the first: untested.
The second command took 10.9 minutes and 2.2 GB for 1,400 photographs of 500 x 375 on two cores of
an AMD EPYC (591 steps of 64 images, one run, median 63 images/s).
"""

from configs import base


def get_config(arg=''):
    if arg not in ('', 'small'):
        raise ValueError(f'folder takes no argument or small, got {arg!r}')
    config = base.get_config()
    config.name = 'folder'
    config.model.name = 'resnet20_cifar' if arg else 'resnet18'
    config.update(
        data=dict(
            name='folder', eval_split='held_out',
            train_crop='random_resized', crop_min_area=0.35, train_resize='linear',
            usual_size=64 if arg else 224,
            mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
        augment=(('random_flip', {}),),
        batch_size=64,
        eval_batch_size=64,
        epochs=30.0,
        log_every=20,
        eval_every=200,
        checkpoint=dict(every=200),
        optimizer=dict(name='adamw'),
        schedule=dict(name='cosine', warmup_steps=0.05),  # a share of the run
    )
    config.hparams.update(learning_rate=1e-3, weight_decay=0.05, label_smoothing=0.1, clip_norm=1.0)
    config.hparams.augment = dict(random_flip=0.5)
    return config
