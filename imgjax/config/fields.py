"""The common fields of a config: one list, FIELDS, with the type, default and meaning of each.

The fields of a part of the step are declared in the file of that part (parts.py).
`python -m launch.fields` prints both.
"""

import math
from typing import Any, NamedTuple


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
        float, 0, 1, default=0.999, help='decay of the EMA of the parameters; smaller in the first '
        'steps (step.ema_decay)', when={'ema': (True,)}),
    'hparams.augment': Field(
        dict, default={}, help='{operation: strength} for each operation in `augment`'),

    # Structure: everything below decides which program is compiled.
    'model.name': Field(str, default='', help='name of a family or a variant in imgjax/models'),
    'model.dtype': Field(
        str, choices=('float32', 'bfloat16'), default='float32',
        help='dtype of the computation; the parameters are always float32'),
    'model.options': Field(dict, default={}, help="keyword arguments of the family's Model"),
    'init.weights': Field(
        str, default='', help="weights to begin with, as LAYOUT:WHERE (docs/guides/weights.md); '' "
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
        when={'hparams.weight_decay': (True,), 'hparams.weight_decay_rate': (True,)}),
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
        bool, default=False, help='compute an exponential moving average (EMA) of the '
        'parameters, and evaluate and export it'),
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
    'data.relabel': Field(
        str, default='', help='a .csv that launch.audit writes: an image in it gets the label of '
        'its row, or is left out where the row has none'),
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
    # The invocation: these may differ between two starts of one run (see INVOCATION below).
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
