"""What does ResNet-50 reach on ImageNet with the recipe that most papers compare to?

Goyal et al., arXiv:1706.02677: 90 epochs, SGD with Nesterov momentum, learning rate 0.1 for 256
images scaled to the batch, 5 epochs of warm-up: 76.3 % top-1. Here with a cosine.

    python -m launch.train --config=configs/imagenet_resnet50.py --workdir=runs/resnet50

Hardware: 8 GPUs or TPU v3-8 and up. Result: untested.
"""

from configs import base

TRAIN_IMAGES = 1_281_167


def get_config(arg=''):
    config = base.get_config(arg)
    config.name = 'imagenet_resnet50'
    config.model.update(name='resnet50', dtype='bfloat16')
    config.update(
        data=dict(
            name='imagenet2012', eval_split='validation', image_size=224,
            train_crop='random_resized', mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225),
            workers=8),
        augment=(('random_flip', {}),),
        batch_size=1024,
        eval_batch_size=1024,
        steps=90 * TRAIN_IMAGES // 1024,
        log_every=100,
        eval_every=5000,
        checkpoint=dict(every=1000),
        optimizer=dict(name='sgd'),
        schedule=dict(name='cosine', warmup_steps=5 * TRAIN_IMAGES // 1024),
    )
    config.hparams.update(
        learning_rate=0.1 * 1024 / 256, momentum=0.9, weight_decay=1e-4)
    config.hparams.augment = dict(random_flip=0.5)
    return config
