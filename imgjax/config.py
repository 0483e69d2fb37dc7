"""The config: which fields there are, reading it, checking it, hashing it.

A config has two parts. `hparams` are the numbers that the compiled step receives as arrays; the
rest is structure. A recipe gives plain data, `checked` makes a frozen Config of it, and on disk it
is JSON. FIELDS is the one list of common fields; what a part of the step takes stands in its file
(parts.py). `python -m launch.fields` prints both. Importing this module does not import JAX.
"""

import copy
import hashlib
import json
import math
import os
from typing import Any, NamedTuple

from imgjax.errors import ConfigError, nearest
from imgjax.rundir import redact


class Field(NamedTuple):
    """A field of the config: its type, its default, what it may be, and what it means.

    Attributes:
      type: bool, int, float, str, tuple (a list in JSON) or dict (any names).
      low: the smallest value of a number, or of each number in a tuple.
      high: the largest.
      choices: the words that it may be, () for any.
      default: what a config without the field has. It never changes: the run directory of an older
        version lacks what came later, and its hash leaves out what is the default.
      help: what it means, in a line.
      when: {field: values}: it is read while one of these fields has one of these values; a value
        of True stands for any that is not empty or 0. {} is always.
    """

    type: type
    low: float = -math.inf
    high: float = math.inf
    choices: tuple = ()
    default: Any = None
    help: str = ''
    when: dict[str, tuple] = {}


_WEIGHTS = {'init.weights': (True,)}
_SAVES = {'checkpoint.every': (True,), 'eval_every': (True,)}

FIELDS = {
    'name': Field(str, default='', help='what the run is called on its pages'),

    # Numbers: the compiled step receives them as arrays, so changing one never recompiles. Those of
    # the chosen parts (objective, optimizer, metrics) are in their files.
    'hparams.seed': Field(
        int, 0, 2**31 - 1, default=0, help='data order, augmentation, initial values, dropout'),
    'hparams.learning_rate': Field(
        float, 0, default=1e-3, help='the peak, reached at the end of the warm-up'),
    'hparams.end_learning_rate': Field(
        float, 0, default=0.0, help='at the last step of cosine and linear',
        when={'schedule.name': ('cosine', 'linear')}),
    'hparams.clip_norm': Field(
        float, 0, default=0.0, help='largest global norm of the gradient; 0 does not clip'),
    'hparams.layer_decay': Field(
        float, 0, 1, default=1.0, help='of optimizer.layerwise',
        when={'optimizer.layerwise': (True,)}),
    'hparams.ema_decay': Field(
        float, 0, 1, default=0.999, help='of the mean of the parameters; less in the first steps '
        '(step.ema_decay)', when={'ema': (True,)}),
    'hparams.augment': Field(
        dict, default={}, help='strength of each operation in `augment`, by its name'),

    # Structure: everything below decides which program is compiled.
    'model.name': Field(str, default='', help='a family or a variant of imgjax/models'),
    'model.dtype': Field(
        str, choices=('float32', 'bfloat16'), default='float32',
        help='what is computed in; parameters are float32'),
    'model.options': Field(dict, default={}, help="keyword arguments of the family's Model"),
    'init.weights': Field(
        str, default='', help="weights to begin with, LAYOUT:WHERE (docs/weights.md); '' for "
        'random ones'),
    'init.head': Field(
        str, choices=('keep', 'new'), default='keep', when=_WEIGHTS, help='the classifier of the '
        'weights, or a new one for as many classes as the dataset has'),
    'init.channels': Field(
        str, choices=('same', 'mean', 'tile'), default='same', when=_WEIGHTS, help='for images of '
        'other channels: the mean over those of the weights, or theirs in turns'),
    'init.resample': Field(
        bool, default=False, when=_WEIGHTS, help='resample positions to another image size'),
    'init.preprocessing': Field(
        str, choices=('auto', 'checkpoint', 'config'), default='auto', when=_WEIGHTS,
        help='whose image size, crop, mean and std: what the weights were evaluated with, or '
        'config.data; auto is the first where the weights say so, else the second'),
    'objective.name': Field(str, default='softmax', help='a file of imgjax/objectives'),
    'objective.options': Field(dict, default={}, help='of the objective; its file says which'),
    'optimizer.name': Field(
        str, default='adamw', help='a file of imgjax/optimizers, or a name of optax'),
    'optimizer.options': Field(dict, default={}, help='of the optimizer; its file says which'),
    'optimizer.decay_mask': Field(
        str, choices=('kernels', 'all'), default='kernels', help='which parameters decay',
        when={'hparams.weight_decay': (True,)}),
    'optimizer.freeze': Field(
        tuple, default=(), help='names or patterns of parameters that stay as they are'),
    'optimizer.layerwise': Field(
        bool, default=False, help="the learning rate of a layer is hparams.layer_decay times that "
        'of the layer above it'),
    'schedule.name': Field(
        str, choices=('constant', 'cosine', 'linear', 'step'), default='cosine',
        help='of the learning rate'),
    'schedule.warmup_steps': Field(
        float, 0, default=0.0, help="steps, or a number below 1: a share of the run's steps"),
    'schedule.head_steps': Field(
        float, 0, default=0.0, help='at first only the head trains; counted as warmup_steps'),
    'schedule.milestones': Field(
        tuple, default=(0.5, 0.75), help='of `step`: fractions of the run',
        when={'schedule.name': ('step',)}),
    'schedule.factor': Field(
        float, 0, 1, default=0.1, help='of `step`: what each milestone multiplies by',
        when={'schedule.name': ('step',)}),
    'ema': Field(
        bool, default=False, help='an exponential mean of the parameters, which is evaluated'),
    'augment': Field(
        tuple, default=(), help='((operation, {option: value}), ...) of imgjax/augment'),
    'metrics': Field(
        tuple, default=(), help='((metric, {option: value}), ...) of imgjax/metrics, besides '
        'accuracy'),
    'best_metric': Field(
        str, default='', help="by which the best checkpoint is chosen; '' is accuracy, or "
        'mean_average_precision where images have several labels'),
    'sampler.name': Field(str, default='shuffle', help='a file of imgjax/samplers'),
    'sampler.options': Field(dict, default={}, help='of the sampler; its file says which'),

    # Data.
    'data.name': Field(str, default='', help='a file of imgjax/data/sources, or a TFDS name'),
    'data.path': Field(str, default='', help='of sources on disk: where it lies'),
    'data.options': Field(dict, default={}, help='of the source; its file says which'),
    'data.data_dir': Field(
        str, default='', help="of TFDS sets; '' is TFDS_DATA_DIR or ~/tensorflow_datasets"),
    'data.train_split': Field(str, default='train', help='what is trained on'),
    'data.eval_split': Field(str, default='test', help='what is evaluated on'),
    'data.held_out': Field(
        float, 0, 0.9, default=0.1, help='share of a set that has no second split'),
    'data.image_size': Field(
        int, 0, 4096, default=0, help='pixels of a side; 0 finds it (pipeline.native_size)'),
    'data.usual_size': Field(
        int, 1, 4096, default=224, help='taken where image_size is 0 and the images are not '
        'squares of one size up to 8/7 of it'),
    'data.channels': Field(int, choices=(1, 3), default=3, help='of the images'),
    'data.train_crop': Field(
        str, choices=('center', 'random_resized'), default='center', help='of training images'),
    'data.crop_min_area': Field(
        float, 0, 1, default=0.08, help='of random_resized: least share of the image',
        when={'data.train_crop': ('random_resized',)}),
    'data.train_resize': Field(
        str, choices=('bicubic', 'bilinear', 'linear'), default='bicubic',
        help='how the random crop is resized: bicubic and bilinear by Pillow, antialiased; linear '
        'by OpenCV, not', when={'data.train_crop': ('random_resized',)}),
    # Weights may say this one and the transform themselves, see interop/preprocessing.py.
    'data.eval_crop_fraction': Field(
        float, 0.1, 1, default=0.875, help='image_size / (shorter) side after resizing',
        when={'data.eval_transform': ('pil', 'squash'), **_WEIGHTS}),
    'data.eval_resize': Field(
        str, choices=('bicubic', 'bilinear'), default='bicubic', help='of the evaluation'),
    'data.eval_transform': Field(
        str, choices=('pil', 'squash', 'tf', 'tf2', 'tf2_squash'), default='pil',
        help='squash: both sides to one size, whatever the aspect; tf, tf2: as networks born in '
        'TensorFlow 1 and 2 were evaluated; tf2_squash: that of the whole image (data/crop.py)'),
    'data.exif_orientation': Field(
        bool, default=False, help='turn images as their EXIF tag says'),
    'data.pixel_range': Field(
        tuple, default=(), help='black and white of images whose values are no bytes, such as '
        '(0, 4095) (data/modes.py)'),
    'data.background': Field(
        tuple, default=(), help='what lies under transparent pixels, 0 to 255 for each channel; () '
        'takes their colours as stored'),
    'data.max_pixels': Field(
        int, 1, default=64_000_000, help='an image of more is refused unopened'),
    'data.max_bytes': Field(int, 1, default=32 * 2**20, help='of an encoded image'),
    'data.max_unreadable_share': Field(
        float, 0, 1, default=0.01, help='unreadable training images get weight 0, up to this share '
        'of them; then the run ends with 3'),
    'data.aug_repeats': Field(
        int, 1, default=1, help='times an image is in a batch, cropped anew'),
    'data.mean': Field(
        tuple, default=(0.5, 0.5, 0.5), help='of each channel, on the scale 0 to 1'),
    'data.std': Field(tuple, default=(0.5, 0.5, 0.5), help='of each channel'),
    'data.resident': Field(
        str, choices=('auto', 'yes', 'no'), default='auto', help='keep the set on the device'),
    'data.workers': Field(
        int, 0, 256, default=0, help='decoding processes; 0 decodes in threads'),

    # The run.
    'batch_size': Field(int, 1, default=128, help='images of a step, over all devices'),
    'eval_batch_size': Field(int, 1, default=512, help='images of a batch of an evaluation'),
    'accumulation_steps': Field(
        int, 1, default=1, help='parts that a batch is computed in, one after the other'),
    'steps': Field(int, 0, default=0, help='optimizer steps; 0 takes `epochs`'),
    'epochs': Field(float, 0, default=0.0, help='passes over the training split'),
    'log_every': Field(int, 1, default=50, help='steps'),
    'eval_every': Field(int, 0, default=0, help='steps; 0 evaluates at the end only'),
    'max_skipped_updates': Field(
        int, 1, default=20, help='in a row that are not finite; then the run has diverged'),
    # The invocation: may differ between two starts of one run, but for the intervals.
    'checkpoint.every': Field(
        int, 0, default=0, help='steps; 0 saves at the end only, and when asked to stop'),
    'checkpoint.keep_newest': Field(int, 1, default=2, help='how many stay', when=_SAVES),
    'checkpoint.keep_every': Field(
        int, 0, default=0, help='those of multiples of so many steps stay, too', when=_SAVES),
    'checkpoint.keep_best': Field(
        bool, default=True, help='the one of the best evaluation stays, too'),
    'mesh.data': Field(int, -1, default=-1, help='devices; -1 takes those that are left'),
    'mesh.fsdp': Field(int, 1, default=1, help='devices that cut the state'),
    'mesh.tensor': Field(int, 1, default=1, help='devices that split attention and MLPs'),
    'steps_per_dispatch': Field(
        int, 0, default=0, help='0 chooses by backend and model (feed.py)'),
    'profile.start': Field(
        int, 0, default=0, help='first step of a profiler trace', when={'profile.steps': (True,)}),
    'profile.steps': Field(int, 0, default=0, help='steps of the trace; 0 takes none'),
    'watchdog_seconds': Field(
        int, 1, default=1800, help='without progress; then the process ends with 76'),
    # Not set by hand: filled in when a run is built, so that its hash holds them.
    'fingerprints': Field(
        dict, default={}, help="of the source of each part of projects/, and of an objective's "
        'constants; filled in by the program'),
}

# What says where and how fast a run happens: left out of the hash, and free to differ when a run
# goes on. Other devices or dispatches round differently; everything else of the result is the same.
INVOCATION = (
    'name', 'data.path', 'data.data_dir', 'data.max_unreadable_share', 'data.resident',
    'data.workers', 'checkpoint.', 'mesh.', 'steps_per_dispatch', 'profile.', 'watchdog_seconds',
)

# Fields that name parts (parts.py).
PART_FIELDS = ('objective.name', 'optimizer.name', 'sampler.name', 'metrics')

# Fields that count steps, or are a share of them where they are below 1.
STEPS_OR_SHARE = ('schedule.warmup_steps', 'schedule.head_steps')


class Config(dict):
    """A config, or a group of its fields: frozen, hashable, with the fields as attributes.

    `config.data.image_size` reads a field, `config | {'steps': 9}` returns another config, and
    `plain` gives data to edit. It is a dict for JSON's sake; lists are tuples.
    """

    def __init__(self, data=()):
        super().__init__({name: _frozen(value) for name, value in dict(data).items()})

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f'the config has no field {name!r}') from None

    def __or__(self, other) -> 'Config':
        return Config({**self, **other})

    __ior__ = __or__

    def __hash__(self) -> int:  # type: ignore[override]  # a dict has none
        return hash(frozenset(self.items()))

    def __reduce__(self):  # how a copy of it reaches the decoding processes
        return Config, (dict(self),)

    def _refuse(self, *_, **__):
        raise TypeError("a config is frozen; config | {'field': value} returns another one")

    __setitem__ = __delitem__ = __setattr__ = __delattr__ = _refuse
    clear = pop = popitem = setdefault = update = _refuse


def _frozen(value):
    if isinstance(value, dict):
        return value if isinstance(value, Config) else Config(value)
    return tuple(map(_frozen, value)) if isinstance(value, list | tuple) else value


def plain(config: dict) -> dict:
    """Returns a copy of a config that can be edited: dicts and lists."""
    if isinstance(config, dict):
        return {name: plain(value) for name, value in config.items()}
    return list(map(plain, config)) if isinstance(config, list | tuple) else config


def defaults() -> dict:
    """Returns a config of which every field has its default; it names no model and no dataset."""
    config = {}
    for name, field in FIELDS.items():
        put(config, name, copy.copy(field.default))
    return config


def put(config: dict, name: str, value) -> None:
    """Sets a field by its dotted name, and makes the groups that it is in."""
    *groups, last = name.split('.')
    for place, group in enumerate(groups):
        config = config.setdefault(group, {})
        if not isinstance(config, dict):
            raise ConfigError(f'config.{".".join(groups[:place + 1])}: takes a group of fields, '
                              f'got {config!r}')
    config[last] = value


def flatten(config: dict, prefix: str = '') -> dict[str, Any]:
    """Returns {'hparams.seed': 0, ...}; free-form fields (Field type dict) stay whole."""
    flat = {}
    for key, value in config.items():
        name = f'{prefix}{key}'
        inner = isinstance(value, dict) and not (name in FIELDS and FIELDS[name].type is dict)
        flat.update(flatten(value, f'{name}.') if inner else {name: value})
    return flat


def checked(config) -> Config:
    """Checks every field of what get_config returned, or of its plain data, and freezes it.

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
        found = json.loads(json.dumps(data))
    except (TypeError, ValueError) as error:
        raise ConfigError(f'config: not plain JSON data ({error})') from None
    if not isinstance(found, dict):
        raise ConfigError(f'config: takes a dict of fields, got {type(found).__name__}')
    flat = flatten(found)
    redact.check_config(flat)
    for name in flat:
        if name not in FIELDS and not name.startswith('hparams.'):  # numbers may be a part's
            raise ConfigError(f'config.{name}: no such field{nearest(name, FIELDS)}')
    for name, field in FIELDS.items():
        if name not in flat:
            flat[name] = json.loads(json.dumps(field.default))
            put(found, name, flat[name])
        check_value(f'config.{name}', flat[name], field)
    if not found['init']['weights'] and found['init']['preprocessing'] == 'auto':
        found['init']['preprocessing'] = 'checkpoint'  # nothing to choose
    _count_in_whole_steps(found)
    _check_together(found)
    from imgjax import parts  # which imports JAX
    return Config(parts.complete(found))


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


def check_value(name: str, value, field: Field) -> None:
    """Raises ConfigError where a value is not of a field's type, out of its range or no choice."""
    kind = {tuple: list}.get(field.type, field.type)
    whole = isinstance(value, int) and not isinstance(value, bool)
    fits = whole or isinstance(value, float) if kind is float else (
        whole if kind is int else isinstance(value, kind))
    if not fits or (kind is float and whole and abs(value) > 2**1000):  # no float holds that
        raise ConfigError(f'{name}: takes {field.type.__name__}, got {value!r}')
    if field.choices and value not in field.choices:
        words = ', '.join(map(repr, field.choices))
        raise ConfigError(f'{name}: takes one of {words}, got '
                          f'{value!r}{nearest(value, field.choices)}')
    if kind in (int, float) and not field.low <= value <= field.high:
        limits = f'at least {field.low}' if math.isinf(field.high) else (
            f'{field.low} to {field.high}')
        raise ConfigError(f'{name}: takes {limits}, got {value!r}')


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
    if config['batch_size'] % data['aug_repeats']:
        raise ConfigError(f'config.data.aug_repeats: batch_size {config["batch_size"]} is not '
                          f'divisible by {data["aug_repeats"]}')
    check_pixel_values(data)
    if min(data['std']) <= 0:
        raise ConfigError(f'config.data.std: takes numbers above 0, got {data["std"]}')
    for field, kind in (('augment', 'operation'), ('metrics', 'metric')):
        for entry in config[field]:
            if not (isinstance(entry, list) and len(entry) == 2 and isinstance(entry[0], str)
                    and isinstance(entry[1], dict)):
                raise ConfigError(
                    f'config.{field}: takes (("{kind}", {{options}}), ...), got {entry!r}')
    for operation, _ in config['augment']:
        name = str(operation).rpartition('.')[2]
        if name not in config['hparams']['augment']:
            raise ConfigError(f'config.hparams.augment.{name}: missing; it takes the strength '
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


def unread(config: dict) -> dict[str, str]:
    """Returns {field: a line about it} of the common fields that a config sets and nothing reads.

    A field that nothing reads has to keep its default. (A number or option that no part takes is
    an error, see parts.complete.)
    """
    flat = flatten(Config(config))
    found = {}
    for name, field in FIELDS.items():
        value = flat.get(name, field.default)
        if not field.when or value == field.default or (name, value) == (
                'init.preprocessing', 'checkpoint') or any(
                    _has(flat.get(other), values) for other, values in field.when.items()):
            continue
        fix = ' or '.join(
            f'{"that" if len(field.when) == 1 else f"config.{other}"} to '
            f'{_words_of(other, values)}'
            for other, values in field.when.items())
        found[name] = _unread_line(name, flat, list(field.when), fix, value)
    return found | _unread_of_source(flat) | _unread_size(flat)


def _words_of(name: str, values: tuple) -> str:
    if values == (True,) and FIELDS.get(name, Field(float)).type is not bool:
        return 'a value'
    return ' or '.join(map(str, values))


def _has(value, values: tuple) -> bool:
    return bool(value) if values == (True,) else value in values


def _unread_line(name: str, flat: dict, others: list[str], fix: str, value) -> str:
    there = ' and '.join(f'config.{field} is {flat.get(field)!r}' for field in others)
    return f'config.{name}: nothing reads it while {there}; set {fix}, or leave {value!r} out'


def _unread_of_source(flat: dict) -> dict[str, str]:
    """Returns the fields of config.data that its source does not read."""
    from imgjax import data
    source = str(flat.get('data.name'))
    of_tfds = '.' not in source and source not in data.names()
    on_disk = source not in ('digits', 'synthetic')
    read = {
        'data.path': (on_disk and not of_tfds, 'a source on disk such as folder'),
        'data.held_out': (on_disk, 'a source on disk such as folder'),
        'data.data_dir': (of_tfds or source == 'digits', 'a set of TFDS')}
    return {name: _unread_line(name, flat, ['data.name'], f'that to {fix}', flat[name])
            for name, (is_read, fix) in read.items()
            if not is_read and flat.get(name, FIELDS[name].default) != FIELDS[name].default}


def _unread_size(flat: dict) -> dict[str, str]:
    """Returns usual_size where image_size says another one: the config's own, not the weights'."""
    name, size = 'data.usual_size', flat.get('data.image_size')
    usual = flat.get(name, 224)
    if usual == 224 or size in (0, usual) or flat.get('init.weights'):
        return {}
    return {name: _unread_line(name, flat, ['data.image_size'], 'that to 0', usual)}


def digest(config: dict) -> str:
    """Returns 16 hex digits that say what the result of a config depends on."""
    flat = {name: value for name, value in flatten(Config(config)).items()
            if not name.startswith(INVOCATION) and not _is_default(name, value)}
    return hashlib.sha256(json.dumps(flat, sort_keys=True).encode()).hexdigest()[:16]


def _is_default(name: str, value) -> bool:
    return name in FIELDS and value == FIELDS[name].default


def differences(mine: dict, theirs: dict) -> dict[str, str]:
    """Returns {field: 'field: theirs -> mine'} of each field that changes the result."""
    a, b = flatten(Config(mine)), flatten(Config(theirs))
    return {name: f'{name}: {b.get(name)!r} -> {a.get(name)!r}' for name in {**FIELDS, **a, **b}
            if a.get(name) != b.get(name) and not name.startswith(INVOCATION)}


def read(workdir: str) -> Config | None:
    """Returns the config that a run directory was started with; None if it has none.

    Raises:
      ConfigError: the file is there but is not a config of this version, or was changed.
    """
    path = os.path.join(workdir, 'config.json')
    if not os.path.lexists(path):
        return None
    try:
        from imgjax.rundir import files  # which imports NumPy: a recipe does without
        stored = files.read_json(path, 4 * 2**20)
        config = checked(stored['config'])
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
    from imgjax.rundir import files
    with files.replacing(path) as file:
        json.dump(data, file, indent=1)
