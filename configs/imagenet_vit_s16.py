"""How far does a plain ViT-S/16 get on ImageNet in 90 epochs?

Beyer et al., arXiv:2205.01580: global average pooling, fixed sincos positions, batch 1024,
RandAugment level 10 and mixup 0.2, 76.5 % top-1. Crops are resized without antialiasing, as there.

    python -m launch.train --config=configs/imagenet_vit_s16.py --workdir=runs/vit_s16

Hardware: 8 GPUs or TPU v3-8 (6.5 hours there, by the paper). Result: untested.
"""

from configs import base

TRAIN_IMAGES = 1_281_167


def get_config(arg=''):
    config = base.get_config(arg)
    config.name = 'imagenet_vit_s16'
    config.model.update(
        name='vit_small_patch16_224', dtype='bfloat16', options=dict(pool='avg', pos='sincos'))
    config.update(
        data=dict(name='imagenet2012', train_split='train[:99%]', eval_split='validation',
                  image_size=224, train_crop='random_resized', train_resize='linear', workers=8),
        augment=(('random_flip', {}), ('rand_augment', {'num_ops': 2}), ('mixup', {})),
        batch_size=1024,
        eval_batch_size=1024,
        steps=90 * TRAIN_IMAGES // 1024,
        log_every=100,
        eval_every=5000,
        checkpoint=dict(every=1000),
        optimizer=dict(name='adamw'),
        schedule=dict(name='cosine', warmup_steps=10_000),
    )
    # Decoupled from the learning rate in the paper (1e-4); adamw here multiplies by 1e-3.
    config.hparams.update(learning_rate=1e-3, weight_decay=0.1, clip_norm=1.0)
    config.hparams.augment = dict(random_flip=0.5, rand_augment=10.0, mixup=0.2)
    return config
