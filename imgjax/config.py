"""The config: which fields there are, reading it, checking it, hashing it.

A config is plain JSON-able data in two parts. `hparams` are the numbers that the compiled step
receives as arrays; the rest is structure. FIELDS is the one list of fields; `configs/base.py`
gives their defaults.
"""

import copy
import hashlib
import json
import math
import os
from typing import Any, NamedTuple

from imgjax.errors import ConfigError, nearest
from imgjax.rundir import files, redact


class Field(NamedTuple):
    """What a field holds: its type, the smallest and largest value, or the words it may be.

    `before` is of a field that came after the first version: the value that does what runs did
    without it. A config that lacks the field gets it, and it is left out of the hash, so that the
    run directories of older versions stay theirs.
    """

    type: type
    low: float = -math.inf
    high: float = math.inf
    choices: tuple = ()
    before: Any = None


FIELDS = {
    'name': Field(str),  # what the run is called on its pages
    # hparams: traced, so changing one never recompiles
    'hparams.seed': Field(int, 0, 2**31 - 1),  # data order, augmentation, initial values, dropout
    'hparams.learning_rate': Field(float, 0),  # the peak, reached at the end of the warm-up
    'hparams.end_learning_rate': Field(float, 0),  # at the last step of cosine and linear
    'hparams.weight_decay': Field(float, 0),
    'hparams.momentum': Field(float, 0, 1),
    'hparams.b1': Field(float, 0, 1),
    'hparams.b2': Field(float, 0, 1),
    'hparams.eps': Field(float, 0),
    'hparams.clip_norm': Field(float, 0),  # global gradient norm; 0 does not clip
    'hparams.layer_decay': Field(float, 0, 1, before=1.0),  # of optimizer.layerwise
    'hparams.label_smoothing': Field(float, 0, 1),
    'hparams.focal_gamma': Field(float, 0),
    'hparams.ema_decay': Field(float, 0, 1),  # less in the first steps, see step.ema_decay
    # a factor of the loss a class, () for none, or ('balanced',): inversely as frequent, mean 1
    'hparams.class_weights': Field(tuple, before=[]),
    'hparams.consistency_weight': Field(float, 0, before=12.0),  # of `consistency` in the loss
    'hparams.augment': Field(dict),  # strength of each operation in `augment`, by its name
    # model and objective
    'model.name': Field(str),  # a family or a variant of imgjax.models
    'model.dtype': Field(str, choices=('float32', 'bfloat16')),  # compute; parameters are float32
    'model.options': Field(dict),  # keyword arguments of the family's Model
    # weights to begin with, '' for random ones: LAYOUT:WHERE, see imgjax/interop/load.py
    'init.from_': Field(str, before=''),
    # the classifier is theirs, or a new one; for as many classes as the dataset has
    'init.head': Field(str, choices=('keep', 'new'), before='keep'),
    # for images of other channels: the mean over theirs, or theirs in turns
    'init.channels': Field(str, choices=('same', 'mean', 'tile'), before='same'),
    'init.resample': Field(bool, before=False),  # positions, to another image size
    # whose image size, crop, mean and so on: what the weights say they were evaluated with, or
    # config.data; auto is the first where they say it, else the second (interop/preprocessing.py)
    'init.preprocessing': Field(str, choices=('auto', 'checkpoint', 'config'),
                                before='checkpoint'),
    'loss': Field(str),  # imgjax.losses.NAMES
    # jsd: three views of each image, two of them through `augmix`, shall agree (losses.agreement)
    'consistency': Field(str, choices=('none', 'jsd'), before='none'),
    'optimizer.name': Field(str),  # imgjax.optim.OPTIMIZERS
    'optimizer.nesterov': Field(bool),
    'optimizer.decay_mask': Field(str, choices=('kernels', 'all')),
    'optimizer.freeze': Field(tuple, before=[]),  # names or patterns of parameters that stay
    # a layer's learning rate is hparams.layer_decay times that of the layer above it
    'optimizer.layerwise': Field(bool, before=False),
    'schedule.name': Field(str),  # imgjax.optim.SCHEDULES
    # steps, or a number below 1: the share of the run's steps (optim.count)
    'schedule.warmup_steps': Field(float, 0),
    'schedule.head_steps': Field(float, 0, before=0),  # at first, only the head trains
    'schedule.milestones': Field(tuple),  # of `step`: fractions of the run
    'schedule.factor': Field(float, 0, 1),  # of `step`: what each milestone multiplies by
    'ema': Field(bool),  # keep an exponential mean of the parameters, and evaluate that
    'augment': Field(tuple),  # ((operation, {option: value}), ...) of imgjax.augment
    # data
    'data.name': Field(str),  # a file of imgjax/data, or a TFDS name
    'data.path': Field(str),  # of sources on disk: where it lies
    'data.options': Field(dict, before={}),  # of the source, by name; each file says which it takes
    'data.data_dir': Field(str),  # of TFDS sets; '' is TFDS_DATA_DIR or ~/tensorflow_datasets
    'data.train_split': Field(str),
    'data.eval_split': Field(str),
    'data.held_out': Field(float, 0, 0.9, before=0.1),  # share of a set that has no second split
    'data.image_size': Field(int, 0, 4096),  # pixels of a side; 0 finds it (pipeline.native_size)
    # taken where image_size is 0 and the images are not squares of one size up to 8/7 of it
    'data.usual_size': Field(int, 1, 4096, before=224),
    'data.channels': Field(int, choices=(1, 3)),
    'data.train_crop': Field(str, choices=('center', 'random_resized')),
    'data.crop_min_area': Field(float, 0, 1, before=0.08),  # of random_resized, share of the image
    # how the crop is resized: bicubic and bilinear by Pillow, antialiased; linear by OpenCV, not
    'data.train_resize': Field(str, choices=('bicubic', 'bilinear', 'linear'), before='bicubic'),
    'data.eval_crop_fraction': Field(float, 0.1, 1),  # image_size / (shorter) side after resizing
    'data.eval_resize': Field(str, choices=('bicubic', 'bilinear'), before='bicubic'),
    # squash: both sides to one size, whatever the aspect. tf, tf2: as networks born in TensorFlow
    # 1 and 2 were evaluated, which tf2_squash does to the whole image; crop.py says how they differ
    'data.eval_transform': Field(str, choices=('pil', 'squash', 'tf', 'tf2', 'tf2_squash'),
                                 before='pil'),
    'data.exif_orientation': Field(bool, before=False),  # turn images as their EXIF tag says
    # black and white of images whose values are no bytes (data/modes.py), such as (0, 4095)
    'data.pixel_range': Field(tuple, before=[]),
    # what lies under transparent pixels, 0 to 255 a channel; () takes their colours as stored
    'data.background': Field(tuple, before=[]),
    'data.max_pixels': Field(int, 1, before=64_000_000),  # an image of more is refused unopened
    'data.max_bytes': Field(int, 1, before=32 * 2**20),
    # what an unreadable training image is: weight 0, up to this share of them; then exit 3
    'data.max_unreadable_share': Field(float, 0, 1, before=0.01),
    'data.sampler': Field(str, choices=('shuffle', 'class_balanced'), before='shuffle'),
    'data.aug_repeats': Field(int, 1, before=1),  # times an image is in a batch, cropped anew
    'data.mean': Field(tuple),  # per channel, on the scale 0 to 1
    'data.std': Field(tuple),
    'data.resident': Field(str, choices=('auto', 'yes', 'no')),  # keep the set on the device
    'data.workers': Field(int, 0, 256),  # decoding processes; 0 decodes in threads
    # the run
    'batch_size': Field(int, 1),
    'eval_batch_size': Field(int, 1),
    'accumulation_steps': Field(int, 1),
    'steps': Field(int, 0),  # optimizer steps; 0 takes `epochs`
    'epochs': Field(float, 0),
    'log_every': Field(int, 1),
    'eval_every': Field(int, 0),  # 0 evaluates at the end only
    'max_skipped_updates': Field(int, 1),  # in a row; then the run has diverged
    'checkpoint.every': Field(int, 0),  # 0 saves at the end only (and when asked to stop)
    'checkpoint.keep_newest': Field(int, 1),
    'checkpoint.keep_every': Field(int, 0),
    'checkpoint.keep_best': Field(bool),
    'mesh.data': Field(int, -1),  # -1 takes the devices that are left
    'mesh.fsdp': Field(int, 1),  # cuts the state
    'mesh.tensor': Field(int, 1),  # splits attention and MLPs
    'steps_per_dispatch': Field(int, 0),  # 0 chooses by backend and model (feed.py)
    'profile.start': Field(int, 0),  # first step of a profiler trace
    'profile.steps': Field(int, 0),  # 0 takes none
    'watchdog_seconds': Field(int, 1),  # without progress; then the process ends with 76
}

# What says where and how fast a run happens: left out of the hash, and free to differ when a run
# goes on. Other devices or dispatches round differently; everything else of the result is the same.
INVOCATION = (
    'name', 'data.path', 'data.data_dir', 'data.max_unreadable_share', 'data.resident',
    'data.workers', 'checkpoint.', 'mesh.', 'steps_per_dispatch', 'profile.', 'watchdog_seconds',
)

# Fields that count steps, or are a share of them where they are below 1.
STEPS_OR_SHARE = ('schedule.warmup_steps', 'schedule.head_steps')


def flatten(config: dict, prefix: str = '') -> dict[str, Any]:
    """Returns {'hparams.seed': 0, ...}; free-form fields (Field type dict) stay whole."""
    flat = {}
    for key, value in config.items():
        name = f'{prefix}{key}'
        inner = isinstance(value, dict) and not (name in FIELDS and FIELDS[name].type is dict)
        flat.update(flatten(value, f'{name}.') if inner else {name: value})
    return flat


def to_plain(config) -> dict:
    """Turns what get_config returned into plain JSON data and checks every field.

    Raises:
      ConfigError: one line naming the field, for the first that is unknown, missing, ill-typed
        or out of range.
    """
    try:
        data = config.to_dict() if hasattr(config, 'to_dict') else config
    except OSError as error:  # what the config flag holds when there is no such file
        raise ConfigError(f'--config: {str(error).strip().splitlines()[-1].strip()}') from None
    for name, value in _not_finite(data):
        raise ConfigError(f'config.{name}: takes a finite number, got {value}')
    try:
        plain = json.loads(json.dumps(data))
    except (TypeError, ValueError) as error:
        raise ConfigError(f'config: not plain JSON data ({error})') from None
    if not isinstance(plain, dict):
        raise ConfigError(f'config: takes a dict of fields, got {type(plain).__name__}')
    flat = flatten(plain)
    redact.check_config(flat)
    for name in flat:
        if name not in FIELDS:
            raise ConfigError(f'config.{name}: no such field{nearest(name, FIELDS)}')
    for name, field in FIELDS.items():
        if name not in flat and field.before is not None:
            group, _, last = name.rpartition('.')
            inner = plain.setdefault(group, {}) if group else plain
            if not isinstance(inner, dict):
                raise ConfigError(f'config.{group}: takes a group of fields, got {inner!r}')
            inner[last] = flat[name] = copy.copy(field.before)
        if name not in flat:
            raise ConfigError(
                f'config.{name}: missing; start the config from configs/base.py')
        _check(name, flat[name], field)
    if not plain['init']['from_'] and plain['init']['preprocessing'] == 'auto':
        plain['init']['preprocessing'] = FIELDS['init.preprocessing'].before  # nothing to choose
    _count_in_whole_steps(plain)
    _check_together(plain)
    return plain


def _not_finite(data, prefix: str = ''):
    """Yields (name, value) of each NaN and infinity."""
    if isinstance(data, float) and not math.isfinite(data):
        yield prefix.rstrip('.'), data
    elif isinstance(data, dict):
        for key, value in data.items():
            yield from _not_finite(value, f'{prefix}{key}.')
    elif isinstance(data, list | tuple):
        for value in data:
            yield from _not_finite(value, prefix)


def _count_in_whole_steps(config: dict) -> None:
    """Makes a number of steps an int, as it always was in files and hashes."""
    for name in STEPS_OR_SHARE:
        group, _, last = name.partition('.')
        value = config[group][last]
        if value >= 1 and value != int(value):
            raise ConfigError(f'config.{name}: takes a whole number of steps, or a share of the '
                              f'run below 1, got {value!r}')
        if value == int(value):
            config[group][last] = int(value)


def _check(name: str, value, field: Field) -> None:
    kind = {tuple: list}.get(field.type, field.type)
    whole = isinstance(value, int) and not isinstance(value, bool)
    fits = whole or isinstance(value, float) if kind is float else (
        whole if kind is int else isinstance(value, kind))
    if not fits or (kind is float and whole and abs(value) > 2**1000):  # no float holds that
        raise ConfigError(f'config.{name}: takes {field.type.__name__}, got {value!r}')
    if field.choices and value not in field.choices:
        words = ', '.join(map(repr, field.choices))
        raise ConfigError(f'config.{name}: takes one of {words}, got {value!r}')
    if kind in (int, float) and not field.low <= value <= field.high:
        limits = f'at least {field.low}' if math.isinf(field.high) else (
            f'{field.low} to {field.high}')
        raise ConfigError(f'config.{name}: takes {limits}, got {value!r}')


def _check_together(config: dict) -> None:
    """Checks what one field says about another."""
    data = config['data']
    for name in ('mean', 'std'):
        if len(data[name]) != data['channels']:
            raise ConfigError(
                f'config.data.{name}: takes {data["channels"]} numbers, one a channel '
                f'(config.data.channels), got {data[name]}')
    if (config['steps'] > 0) == (config['epochs'] > 0):
        raise ConfigError('config.steps: set either steps or epochs above 0')
    if config['batch_size'] % config['accumulation_steps']:
        raise ConfigError(
            f'config.accumulation_steps: batch_size {config["batch_size"]} is not divisible by '
            f'{config["accumulation_steps"]}')
    numbers = {
        'data.mean': data['mean'], 'data.std': data['std'],
        'schedule.milestones': config['schedule']['milestones'],
        **{f'hparams.augment.{k}': [v] for k, v in config['hparams']['augment'].items()}}
    for name, values in numbers.items():
        if not all(map(_is_number, values)):
            raise ConfigError(f'config.{name}: takes numbers, got {values!r}')
    weights = config['hparams']['class_weights']
    if weights != ['balanced'] and not all(map(_is_weight, weights)):
        raise ConfigError("config.hparams.class_weights: takes (), ('balanced',) or a number of at "
                          f'least 0 for each class, got {weights!r}')
    if config['batch_size'] % data['aug_repeats']:
        raise ConfigError(f'config.data.aug_repeats: batch_size {config["batch_size"]} is not '
                          f'divisible by {data["aug_repeats"]}')
    check_pixel_values(data)
    if min(data['std']) <= 0:
        raise ConfigError(f'config.data.std: takes numbers above 0, got {data["std"]}')
    for entry in config['augment']:
        if not (isinstance(entry, list) and len(entry) == 2 and isinstance(entry[0], str)
                and isinstance(entry[1], dict)):
            raise ConfigError(
                f'config.augment: takes (("operation", {{options}}), ...), got {entry!r}')
        if entry[0] not in config['hparams']['augment']:
            raise ConfigError(f'config.hparams.augment.{entry[0]}: missing; it takes the strength '
                              '(a number) of that operation in config.augment')


def check_pixel_values(data: dict, field: str = 'config.data.') -> None:
    """Checks pixel_range and background of plain config['data']; `field` stands before them."""
    black_white, ground = data['pixel_range'], data['background']
    if black_white and not (len(black_white) == 2 and all(map(_is_number, black_white))
                            and -math.inf < black_white[0] < black_white[1] < math.inf):
        raise ConfigError(f'{field}pixel_range: takes black and white, two numbers of which the '
                          f'second is larger, such as (0, 4095), or nothing; got {black_white!r}')
    if ground and not (len(ground) == data['channels'] and all(
            type(value) is int and 0 <= value <= 255 for value in ground)):
        raise ConfigError(f'{field}background: takes a whole number of 0 to 255 for each of '
                          f'{data["channels"]} channels, or nothing; got {ground!r}')


def _is_number(value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_weight(value) -> bool:
    return _is_number(value) and value >= 0


def digest(config: dict) -> str:
    """Returns 16 hex digits that say what a plain config's result depends on."""
    flat = {name: value for name, value in flatten(config).items()
            if not name.startswith(INVOCATION) and value != FIELDS[name].before}
    return hashlib.sha256(json.dumps(flat, sort_keys=True).encode()).hexdigest()[:16]


def differences(mine: dict, theirs: dict) -> dict[str, str]:
    """Returns {field: 'field: theirs -> mine'} of each field that changes the result."""
    a, b = flatten(mine), flatten(theirs)
    return {name: f'{name}: {b.get(name)!r} -> {a.get(name)!r}' for name in FIELDS
            if a.get(name) != b.get(name) and not name.startswith(INVOCATION)}


def read(workdir: str) -> dict | None:
    """Returns the plain config that a run directory was started with; None if it has none.

    Raises:
      ConfigError: the file is there but is not a config of this version, or was changed.
    """
    path = os.path.join(workdir, 'config.json')
    if not os.path.lexists(path):
        return None
    try:
        stored = files.read_json(path, 4 * 2**20)
        config = to_plain(stored['config'])
        intact = digest(config) == stored['hash']
    except (ValueError, KeyError, TypeError, OSError, ConfigError) as error:
        raise ConfigError(f'{path}: cannot be used ({error}); restore it or take a new '
                          '--workdir') from None
    if not intact:
        raise ConfigError(f'{path}: was edited after the run began; restore it or take a new '
                          '--workdir')
    return config


def write(workdir: str, config: dict) -> None:
    """Writes config.json, whole or not at all."""
    write_json(os.path.join(workdir, 'config.json'), {'hash': digest(config), 'config': config})


def write_json(path: str, data) -> None:
    """Writes `data` under `path` in one rename, so that no reader sees a part of it."""
    with files.replacing(path) as file:
        json.dump(data, file, indent=1)
