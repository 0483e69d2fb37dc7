"""The config: the list of its fields, and how it is checked, frozen, hashed, read and written.

A config has two parts. `hparams` are the numbers that the compiled step receives as arrays; the
rest is structure. A recipe gives plain data, `checked` makes a frozen Config of it, and on disk it
is JSON. FIELDS is the one list of common fields; the fields of a part of the step are declared in
the file of that part (parts.py). `python -m launch.fields` prints both. Importing this module does
not import JAX.
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
    """A field of the config: its type, its default, its valid values and its meaning.

    Attributes:
      type: bool, int, float, str, tuple (a list in JSON) or dict (any names).
      low: the smallest valid number; of a tuple, the smallest valid value of each number in it.
      high: the largest valid number, likewise.
      choices: the valid words; () allows any word.
      default: the value in a config that does not set the field. It never changes: the run
        directory of an older version lacks the fields that were added later, and the hash leaves
        out every field that has its default.
      help: the meaning of the field, in one line.
      when: {other field: values}: the field is read only while one of the other fields has one of
        its values; (True,) means any value that is not empty and not 0. {}: it is always read.
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
    'name': Field(str, default='', help='the title of the run on its pages'),

    # Numbers: the compiled step receives them as arrays, so changing one never recompiles. The
    # numbers of the chosen parts (objective, optimizer, metrics) are declared in their files.
    'hparams.seed': Field(
        int, 0, 2**31 - 1, default=0, help='decides data order, augmentation, initial values and '
        'dropout'),
    'hparams.learning_rate': Field(
        float, 0, default=1e-3, help='the highest learning rate, reached at the end of the '
        'warm-up'),
    'hparams.end_learning_rate': Field(
        float, 0, default=0.0, help='the learning rate at the last step, with the '
        'schedules cosine and linear',
        when={'schedule.name': ('cosine', 'linear')}),
    'hparams.clip_norm': Field(
        float, 0, default=0.0, help='a gradient with a larger global norm is scaled down to this '
        'norm; 0 does not clip'),
    'hparams.layer_decay': Field(
        float, 0, 1, default=1.0, help='the factor of optimizer.layerwise',
        when={'optimizer.layerwise': (True,)}),
    'hparams.ema_decay': Field(
        float, 0, 1, default=0.999, help='decay of the mean of the parameters; smaller in the '
        'first steps (step.ema_decay)', when={'ema': (True,)}),
    'hparams.augment': Field(
        dict, default={}, help='{operation: strength} for each operation in `augment`'),

    # Structure: everything below decides which program is compiled.
    'model.name': Field(str, default='', help='name of a family or a variant in imgjax/models'),
    'model.dtype': Field(
        str, choices=('float32', 'bfloat16'), default='float32',
        help='dtype of the computation; the parameters are always float32'),
    'model.options': Field(dict, default={}, help="keyword arguments of the family's Model"),
    'init.weights': Field(
        str, default='', help="weights to begin with, as LAYOUT:WHERE (docs/weights.md); '' "
        'begins with random ones'),
    'init.head': Field(
        str, choices=('keep', 'new'), default='keep', when=_WEIGHTS, help='keep the classifier '
        'of the weights, or make a new one for the classes of the dataset'),
    'init.channels': Field(
        str, choices=('same', 'mean', 'tile'), default='same', when=_WEIGHTS, help='where images '
        'have another number of channels than the weights: mean gives each channel the mean over '
        'the channels of the weights, tile repeats these in turn'),
    'init.resample': Field(
        bool, default=False, when=_WEIGHTS, help='resample the position embeddings where the '
        'image size differs from that of the weights'),
    'init.preprocessing': Field(
        str, choices=('auto', 'checkpoint', 'config'), default='auto', when=_WEIGHTS,
        help='where image size, crop, mean and std come from: checkpoint takes those that the '
        'weights were evaluated with, config takes config.data; auto means checkpoint where the '
        'weights name them, else config'),
    'objective.name': Field(str, default='softmax', help='name of a file in imgjax/objectives'),
    'objective.options': Field(dict, default={}, help='options of the objective, declared in '
        'its file'),
    'optimizer.name': Field(
        str, default='adamw', help='name of a file in imgjax/optimizers, or of an '
        'optimizer of optax'),
    'optimizer.options': Field(dict, default={}, help='options of the optimizer, declared in '
        'its file'),
    'optimizer.decay_mask': Field(
        str, choices=('kernels', 'all'), default='kernels', help='which parameters '
        'weight decay applies to',
        when={'hparams.weight_decay': (True,)}),
    'optimizer.freeze': Field(
        tuple, default=(), help='names or patterns of parameters that are not trained'),
    'optimizer.layerwise': Field(
        bool, default=False, help='the learning rate of a layer is hparams.layer_decay times the '
        'learning rate of the layer above it'),
    'schedule.name': Field(
        str, choices=('constant', 'cosine', 'linear', 'step'), default='cosine',
        help='how the learning rate changes over the run'),
    'schedule.warmup_steps': Field(
        float, 0, default=0.0, help="number of steps in which the learning rate rises to its "
        "peak; a number below 1 is a share of the run's steps"),
    'schedule.head_steps': Field(
        float, 0, default=0.0, help='number of first steps in which only the head is trained; '
        'below 1 it is a share, too'),
    'schedule.milestones': Field(
        tuple, default=(0.5, 0.75), help='where the schedule `step` lowers the learning '
        'rate, as fractions of the run',
        when={'schedule.name': ('step',)}),
    'schedule.factor': Field(
        float, 0, 1, default=0.1, help='each milestone of `step` multiplies the learning '
        'rate by this',
        when={'schedule.name': ('step',)}),
    'ema': Field(
        bool, default=False, help='compute an exponential mean of the parameters, and evaluate '
        'and export it'),
    'augment': Field(
        tuple, default=(), help='((operation, {option: value}), ...), operations in '
        'imgjax/augment'),
    'metrics': Field(
        tuple, default=(), help='((metric, {option: value}), ...), metrics in imgjax/metrics that '
        'are computed besides accuracy'),
    'best_metric': Field(
        str, default='', help="the metric that chooses the best checkpoint; '' is accuracy, or "
        'mean_average_precision where images have several labels'),
    'sampler.name': Field(str, default='shuffle', help='name of a file in imgjax/samplers'),
    'sampler.options': Field(dict, default={}, help='options of the sampler, declared in its '
        'file'),

    # Data.
    'data.name': Field(str, default='', help='name of a file in imgjax/data/sources, or of a '
        'dataset of TFDS'),
    'data.path': Field(str, default='', help='where the dataset lies, for sources on disk'),
    'data.options': Field(dict, default={}, help='options of the source, described in its file'),
    'data.data_dir': Field(
        str, default='', help="where TFDS datasets lie; '' is TFDS_DATA_DIR or "
        '~/tensorflow_datasets'),
    'data.train_split': Field(str, default='train', help='the split to train on'),
    'data.eval_split': Field(str, default='test', help='the split to evaluate on'),
    'data.held_out': Field(
        float, 0, 0.9, default=0.1, help='share of the images that is held out for '
        'evaluation where the dataset has only one split'),
    'data.image_size': Field(
        int, 0, 4096, default=0, help='side of the square images, in pixels; 0 '
        'takes the size of the images (pipeline.native_size)'),
    'data.usual_size': Field(
        int, 1, 4096, default=224, help='the image size where image_size is 0 and the '
        'images are not squares of one size of at most 8/7 of this'),
    'data.channels': Field(int, choices=(1, 3), default=3, help='channels of the images'),
    'data.train_crop': Field(
        str, choices=('center', 'random_resized'), default='center',
        help='how training images are cropped'),
    'data.crop_min_area': Field(
        float, 0, 1, default=0.08, help='smallest share of the image that a crop of '
        'random_resized has',
        when={'data.train_crop': ('random_resized',)}),
    'data.train_resize': Field(
        str, choices=('bicubic', 'bilinear', 'linear'), default='bicubic',
        help='how the random crop is resized: bicubic and bilinear by Pillow, antialiased; linear '
        'by OpenCV, not antialiased', when={'data.train_crop': ('random_resized',)}),
    # The weights may set this field and eval_transform, see interop/preprocessing.py.
    'data.eval_crop_fraction': Field(
        float, 0.1, 1, default=0.875, help='image_size divided by the shorter side of the '
        'resized image',
        when={'data.eval_transform': ('pil', 'squash'), **_WEIGHTS}),
    'data.eval_resize': Field(
        str, choices=('bicubic', 'bilinear'), default='bicubic',
        help='how images are resized in an evaluation, and with '
        'train_crop=center'),
    'data.eval_transform': Field(
        str, choices=('pil', 'squash', 'tf', 'tf2', 'tf2_squash'), default='pil',
        help='pil: resize the shorter side, then crop the centre; squash: resize both sides to one '
        'size, whatever the aspect ratio; tf, tf2: the transforms of networks that were trained in '
        'TensorFlow 1 and 2; tf2_squash: tf2 on the whole image (data/crop.py)'),
    'data.exif_orientation': Field(
        bool, default=False, help='rotate and flip images as their EXIF tag says'),
    'data.pixel_range': Field(
        tuple, default=(), help='(black, white) of images whose values are not bytes, such as '
        '(0, 4095) (data/modes.py)'),
    'data.background': Field(
        tuple, default=(), help='the colour under transparent pixels, 0 to 255 per channel; () '
        'takes the colours of these pixels as they are stored'),
    'data.max_pixels': Field(
        int, 1, default=64_000_000, help='an image with more pixels is refused before '
        'it is decoded'),
    'data.max_bytes': Field(int, 1, default=32 * 2**20, help='an encoded image with '
        'more bytes is refused'),
    'data.max_unreadable_share': Field(
        float, 0, 1, default=0.01, help='unreadable training images get weight 0; where more than '
        'this share is unreadable, the run ends with exit code 3'),
    'data.aug_repeats': Field(
        int, 1, default=1, help='how often an image is in a batch, each time with another '
        'crop'),
    'data.mean': Field(
        tuple, default=(0.5, 0.5, 0.5), help='mean per channel, on the scale 0 to 1'),
    'data.std': Field(tuple, default=(0.5, 0.5, 0.5), help='standard '
        'deviation per channel, on the scale 0 to 1'),
    'data.resident': Field(
        str, choices=('auto', 'yes', 'no'), default='auto', help='keep the '
        'whole decoded training split on the device; auto does so where it fits'),
    'data.workers': Field(
        int, 0, 256, default=0, help='number of decoding processes; 0 decodes in threads'),

    # The run.
    'batch_size': Field(int, 1, default=128, help='images per step, over all devices'),
    'eval_batch_size': Field(int, 1, default=512, help='images per batch of an evaluation, over '
        'all devices'),
    'accumulation_steps': Field(
        int, 1, default=1, help='number of parts that a batch is split into; they are computed '
        'one after the other, and one update follows'),
    'steps': Field(int, 0, default=0, help='number of optimizer steps; 0 takes `epochs`'),
    'epochs': Field(float, 0, default=0.0, help='number of passes over the training split'),
    'log_every': Field(int, 1, default=50, help='steps between two logged rows'),
    'eval_every': Field(int, 0, default=0, help='steps between two evaluations; 0 evaluates at '
        'the end only'),
    'max_skipped_updates': Field(
        int, 1, default=20, help='the run has diverged when so many updates in a row were not '
        'finite'),
    # The invocation: these may differ between two starts of one run, except for the intervals.
    'checkpoint.every': Field(
        int, 0, default=0, help='steps between two checkpoints; 0 saves at the end and when '
        'asked to stop only'),
    'checkpoint.keep_newest': Field(int, 1, default=2, help='how many of the newest checkpoints '
        'are not deleted', when=_SAVES),
    'checkpoint.keep_every': Field(
        int, 0, default=0, help='checkpoints whose step is a multiple of this are not '
        'deleted, either; 0: none', when=_SAVES),
    'checkpoint.keep_best': Field(
        bool, default=True, help='the checkpoint of the best evaluation is not deleted, '
        'either'),
    'mesh.data': Field(int, -1, default=-1, help='number of devices that split the batch; -1 '
        'takes all that fsdp and tensor leave'),
    'mesh.fsdp': Field(int, 1, default=1, help='number of devices that split the state'),
    'mesh.tensor': Field(int, 1, default=1, help='number of devices that split attention and '
        'MLPs'),
    'steps_per_dispatch': Field(
        int, 0, default=0, help='steps that one dispatch computes; 0 chooses by backend and '
        'model (feed.py)'),
    'profile.start': Field(
        int, 0, default=0, help='first step of a profiler trace', when={'profile.steps': (True,)}),
    'profile.steps': Field(int, 0, default=0, help='number of steps in the trace; 0 takes no '
        'trace'),
    'watchdog_seconds': Field(
        int, 1, default=1800, help='the process ends with exit code 76 after so many seconds '
        'without progress'),
    # Not set by hand: filled in when a run is built, so that the hash of its config depends on it.
    'fingerprints': Field(
        dict, default={}, help="{name: digest} of the source of each part in projects/, and of "
        "an objective's constants; filled in by the program"),
}

# Fields that say where and how fast a run is computed. The hash leaves them out, and they may
# differ when a run goes on. Another number of devices, or of steps per dispatch, changes the
# rounding; nothing else in the result changes.
INVOCATION = (
    'name', 'data.path', 'data.data_dir', 'data.max_unreadable_share', 'data.resident',
    'data.workers', 'checkpoint.', 'mesh.', 'steps_per_dispatch', 'profile.', 'watchdog_seconds',
)

# Fields that name parts (parts.py).
PART_FIELDS = ('objective.name', 'optimizer.name', 'sampler.name', 'metrics')

# Fields that are a number of steps, or below 1 a share of the run's steps.
STEPS_OR_SHARE = ('schedule.warmup_steps', 'schedule.head_steps')


class Config(dict):
    """A config, or a group of its fields: frozen, hashable, with the fields as attributes.

    `config.data.image_size` reads a field, `config | {'steps': 9}` returns another config, and
    `plain` returns a copy that can be edited. It is a dict so that `json.dumps` takes it; its lists
    are tuples.
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

    def __hash__(self) -> int:  # type: ignore[override]  # a dict has no hash
        return hash(frozenset(self.items()))

    def __reduce__(self):  # pickle, which the decoding processes need, cannot set items one by one
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
    """Returns a copy of a config as dicts and lists, which can be edited."""
    if isinstance(config, dict):
        return {name: plain(value) for name, value in config.items()}
    return list(map(plain, config)) if isinstance(config, list | tuple) else config


def defaults() -> dict:
    """Returns plain data with the default of every field; it names no model and no dataset."""
    config = {}
    for name, field in FIELDS.items():
        put(config, name, copy.copy(field.default))
    return config


def put(config: dict, name: str, value) -> None:
    """Sets a field of a plain config by its dotted name; adds the groups that are missing.

    Raises:
      ConfigError: something other than a group of fields has the name of a group.
    """
    *groups, last = name.split('.')
    for place, group in enumerate(groups):
        config = config.setdefault(group, {})
        if not isinstance(config, dict):
            raise ConfigError(f'config.{".".join(groups[:place + 1])}: takes a group of fields, '
                              f'got {config!r}')
    config[last] = value


def flatten(config: dict, prefix: str = '') -> dict[str, Any]:
    """Returns {'hparams.seed': 0, ...}; a field of type dict is one entry, a dict."""
    flat = {}
    for key, value in config.items():
        name = f'{prefix}{key}'
        inner = isinstance(value, dict) and not (name in FIELDS and FIELDS[name].type is dict)
        flat.update(flatten(value, f'{name}.') if inner else {name: value})
    return flat


def checked(config) -> Config:
    """Returns the frozen Config of what get_config returned, or of plain data, after all checks.

    Fields that it does not set get their defaults.

    Raises:
      ConfigError: a field is unknown or missing, or its value has a wrong type or is out of range.
        The message names the first such field.
    """
    try:
        data = config.to_dict() if hasattr(config, 'to_dict') else config
    except OSError as error:  # the config flag raises it only now if there is no such file
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
        if name not in FIELDS and not name.startswith('hparams.'):  # a part may take it
            raise ConfigError(f'config.{name}: no such field{nearest(name, FIELDS)}')
    for name, field in FIELDS.items():
        if name not in flat:
            flat[name] = json.loads(json.dumps(field.default))
            put(found, name, flat[name])
        check_value(f'config.{name}', flat[name], field)
    if not found['init']['weights'] and found['init']['preprocessing'] == 'auto':
        found['init']['preprocessing'] = 'checkpoint'  # no weights: nothing to choose
    _count_in_whole_steps(found)
    _check_together(found)
    from imgjax import parts  # only here, as it imports JAX
    return Config(parts.complete(found))


def _not_finite(data, prefix: str = ''):
    """Yields (name, value) of each field that is NaN or infinite."""
    if isinstance(data, float) and not math.isfinite(data):
        yield prefix.rstrip('.'), data
    elif isinstance(data, dict):
        for key, value in data.items():
            yield from _not_finite(value, f'{prefix}{key}.')
    elif isinstance(data, list | tuple):
        for value in data:
            yield from _not_finite(value, prefix)


def _count_in_whole_steps(config: dict) -> None:
    """Makes whole numbers of STEPS_OR_SHARE ints, so that 50.0 and 50 have the same hash."""
    for name in STEPS_OR_SHARE:
        group, _, last = name.partition('.')
        value = config[group][last]
        if value >= 1 and value != int(value):
            raise ConfigError(f'config.{name}: takes a whole number of steps, or a share of the '
                              f'run below 1, got {value!r}')
        if value == int(value):
            config[group][last] = int(value)


def check_value(name: str, value, field: Field) -> None:
    """Raises ConfigError if a value has another type than its field, or is not a valid value."""
    kind = {tuple: list}.get(field.type, field.type)
    whole = isinstance(value, int) and not isinstance(value, bool)
    fits = whole or isinstance(value, float) if kind is float else (
        whole if kind is int else isinstance(value, kind))
    if not fits or (kind is float and whole and abs(value) > 2**1000):  # too large for a float
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
    """Checks the fields whose valid values depend on other fields."""
    data = config['data']
    for name in ('mean', 'std'):
        if len(data[name]) != data['channels']:
            raise ConfigError(
                f'config.data.{name}: takes {data["channels"]} numbers, one per channel '
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
    """Checks pixel_range and background of a plain config's `data`.

    Args:
      data: with channels, pixel_range and background.
      field: what an error writes before the name of the field.

    Raises:
      ConfigError: names the field.
    """
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
    """Returns {field: a warning of one line} for each common field that is set and not read.

    A field is set if it does not have its default. (A number or option that no part takes is an
    error, see parts.complete.)
    """
    flat = flatten(Config(config))
    found = {}
    for name, field in FIELDS.items():
        value = flat.get(name, field.default)
        if not field.when or value == field.default or (name, value) == (
                'init.preprocessing', 'checkpoint') or any(
                    _is_one_of(flat.get(other), values) for other, values in field.when.items()):
            continue
        fix = ' or '.join(
            f'{"that" if len(field.when) == 1 else f"config.{other}"} to '
            f'{_values_in_words(other, values)}'
            for other, values in field.when.items())
        found[name] = _unread_line(name, flat, list(field.when), fix, value)
    return found | _unread_of_source(flat) | _unread_size(flat)


def _values_in_words(name: str, values: tuple) -> str:
    if values == (True,) and FIELDS.get(name, Field(float)).type is not bool:
        return 'a value'
    return ' or '.join(map(str, values))


def _is_one_of(value, values: tuple) -> bool:
    return bool(value) if values == (True,) else value in values


def _unread_line(name: str, flat: dict, others: list[str], fix: str, value) -> str:
    there = ' and '.join(f'config.{field} is {flat.get(field)!r}' for field in others)
    return f'config.{name}: nothing reads it while {there}; set {fix}, or leave {value!r} out'


def _unread_of_source(flat: dict) -> dict[str, str]:
    """Returns the fields of config.data that are set and that its source does not read."""
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
    """Returns usual_size where config.data.image_size, not the weights, sets another size."""
    name, size = 'data.usual_size', flat.get('data.image_size')
    usual = flat.get(name, 224)
    if usual == 224 or size in (0, usual) or flat.get('init.weights'):
        return {}
    return {name: _unread_line(name, flat, ['data.image_size'], 'that to 0', usual)}


def digest(config: dict) -> str:
    """Returns the hash of a config: 16 hex digits that depend on every field that the result does.

    Fields that have their default, and those of INVOCATION, are left out.
    """
    flat = {name: value for name, value in flatten(Config(config)).items()
            if not name.startswith(INVOCATION) and not _is_default(name, value)}
    return hashlib.sha256(json.dumps(flat, sort_keys=True).encode()).hexdigest()[:16]


def _is_default(name: str, value) -> bool:
    return name in FIELDS and value == FIELDS[name].default


def differences(mine: dict, theirs: dict) -> dict[str, str]:
    """Returns {field: 'field: theirs -> mine'} for each field that differs and changes the result.
    """
    a, b = flatten(Config(mine)), flatten(Config(theirs))
    return {name: f'{name}: {b.get(name)!r} -> {a.get(name)!r}' for name in {**FIELDS, **a, **b}
            if a.get(name) != b.get(name) and not name.startswith(INVOCATION)}


def read(workdir: str) -> Config | None:
    """Returns the frozen Config that a run directory was started with; None if it has none.

    Raises:
      ConfigError: config.json cannot be read, is not a config of this version, or was edited.
    """
    path = os.path.join(workdir, 'config.json')
    if not os.path.lexists(path):
        return None
    try:
        from imgjax.rundir import files  # only here: a recipe loads without NumPy
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
    """Writes config.json into a run directory, whole or not at all."""
    write_json(os.path.join(workdir, 'config.json'), {'hash': digest(config), 'config': config})


def write_json(path: str, data) -> None:
    """Writes `data` as JSON and renames it to `path`, so that no reader sees an incomplete file."""
    from imgjax.rundir import files
    with files.replacing(path) as file:
        json.dump(data, file, indent=1)
