"""How well does a published network tell my own images apart, once it is fine-tuned?

Any family and variant as the argument, weights of any layout of docs/guides/weights.md, any dataset
of docs/guides/data.md. A new head, learning rates that fall with the depth (BEiT,
arXiv:2106.08254), and the head alone for the first tenth of the steps, so that its first
gradients do no harm.

    python -m launch.train --config=configs/finetune.py:vit_small_patch16_224 --workdir=runs/mine \\
        --config.init.weights=timm:vit_small_patch16_224.augreg_in21k_ft_in1k \\
        --config.data.path=DIR

Hardware: any. Result: untested on published weights (docs/guides/weights.md runs it
on its own ones).
"""

from configs import base


def get_config(arg=''):
    config = base.get_config()
    config.name = 'finetune'
    config.model.name = arg or 'vit_small_patch16_224'
    config.init.update(head='new')
    config.update(
        data=dict(
            name='folder', eval_split='held_out',
            train_crop='random_resized', crop_min_area=0.35, train_resize='linear',
            mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
        augment=(('random_flip', {}),),
        batch_size=64,
        eval_batch_size=64,
        epochs=10.0,
        log_every=20,
        eval_every=200,
        checkpoint=dict(every=200),
        optimizer=dict(name='adamw', layerwise=True),
        schedule=dict(name='cosine', warmup_steps=0.1, head_steps=0.1),  # shares of the run
    )
    config.hparams.update(learning_rate=5e-4, weight_decay=0.05, label_smoothing=0.1,
                          clip_norm=1.0, layer_decay=0.75)
    config.hparams.augment = dict(random_flip=0.5)
    return config
