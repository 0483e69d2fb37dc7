"""The parent of every recipe: all fields there are, with their defaults.

A recipe starts from `base.get_config()` and shows only what it changes. What each field means
and which values it takes stands beside its name in `imgjax/config.py`.
"""

from ml_collections import config_dict


def get_config(arg=''):
    """Returns the defaults, as a ConfigDict of plain JSON-able data."""
    if arg:
        raise ValueError(f'this config takes no argument, got {arg!r}')
    return config_dict.create(
        name='',
        # Data: the train step receives these as arrays, so changing one never recompiles.
        hparams=dict(
            seed=0,
            learning_rate=1e-3,
            end_learning_rate=0.0,
            weight_decay=0.0,
            momentum=0.9,
            b1=0.9,
            b2=0.999,
            eps=1e-8,
            clip_norm=0.0,
            layer_decay=1.0,
            label_smoothing=0.0,
            focal_gamma=2.0,
            ema_decay=0.999,
            class_weights=(),
            consistency_weight=12.0,
            augment=dict(),
        ),
        # Structure: everything below decides which program is compiled.
        model=dict(name='', dtype='float32', options=dict()),
        init=dict(from_='', head='keep', channels='same', resample=False,
                  preprocessing='auto'),
        loss='softmax',
        consistency='none',
        optimizer=dict(name='adamw', nesterov=True, decay_mask='kernels', freeze=(),
                       layerwise=False),
        schedule=dict(name='cosine', warmup_steps=0.0, milestones=(0.5, 0.75), factor=0.1,
                      head_steps=0.0),
        ema=False,
        augment=(),
        data=dict(
            name='',
            path='',
            options=dict(),
            data_dir='',
            train_split='train',
            eval_split='test',
            held_out=0.1,
            image_size=0,
            usual_size=224,
            channels=3,
            train_crop='center',
            crop_min_area=0.08,
            train_resize='bicubic',
            eval_crop_fraction=0.875,
            eval_resize='bicubic',
            eval_transform='pil',
            exif_orientation=False,
            pixel_range=(),
            background=(),
            max_pixels=64_000_000,
            max_bytes=32 * 2**20,
            max_unreadable_share=0.01,
            sampler='shuffle',
            aug_repeats=1,
            mean=(0.5, 0.5, 0.5),
            std=(0.5, 0.5, 0.5),
            resident='auto',
            workers=0,
        ),
        batch_size=128,
        eval_batch_size=512,
        accumulation_steps=1,
        steps=0,
        epochs=0.0,
        log_every=50,
        eval_every=0,
        max_skipped_updates=20,
        # The invocation: may differ between two starts of one run.
        checkpoint=dict(every=0, keep_newest=2, keep_every=0, keep_best=True),
        mesh=dict(data=-1, fsdp=1, tensor=1),
        steps_per_dispatch=0,
        profile=dict(start=0, steps=0),
        watchdog_seconds=1800,
    )
