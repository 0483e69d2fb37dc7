"""Does the plain recipe of `imagenet_vit_s16` carry over to ViT-B/16?

The larger model overfits sooner: stochastic depth and more mixup, EMA for the evaluation.

    python -m launch.train --config=configs/imagenet_vit_b16.py --workdir=runs/vit_b16

Hardware: 8 GPUs with 80 GB, or TPU v3-32 and up. Result: untested.
"""

from configs import imagenet_vit_s16


def get_config(arg=''):
    config = imagenet_vit_s16.get_config(arg)
    config.name = 'imagenet_vit_b16'
    config.model.name = 'vit_base_patch16_224'
    config.model.options.drop_path = 0.1
    config.ema = True
    config.hparams.update(ema_decay=0.9999)
    config.hparams.augment.mixup = 0.5
    return config
