"""Draws the images that the model is trained on, after crop and augmentation."""

import io
import logging
import os
import warnings

import jax
import matplotlib.backends.backend_agg
import matplotlib.figure
import numpy as np
from matplotlib import font_manager

from imgjax import build, data, step
from imgjax import config as config_lib
from imgjax import state as state_lib
from imgjax.data import decode, pipeline
from imgjax.errors import ConfigError
from imgjax.rundir import outputs

log = logging.getLogger('imgjax')

# The first font has the letters of most alphabets; the others, if installed, have those of Chinese,
# Japanese and Korean.
_FONTS = ('DejaVu Sans', 'Noto Sans', 'Noto Sans CJK SC', 'Noto Sans CJK JP', 'WenQuanYi Zen Hei',
          'Arial Unicode MS')
_MARK = 'imgjax launch.preview'  # is written into the metadata of the picture
FORMATS = ('.png', '.jpg', '.pdf', '.svg')


def draw(config, output: str, images: int = 8, steps: int = 5) -> dict:
    """Draws the first images of the first batch as they are evaluated and as they are trained on.

    Each column shows one image. The first row shows the images as an evaluation gets them; each row
    below shows them after the crop and the augmentation of one step, with their targets as titles.
    The row of step 0 shows the exact input of that step in a run, except that an operation which
    mixes neighbours takes the last image shown as the neighbour of the first one.

    Args:
      config: what a get_config returned, or plain data.
      output: path of the picture; its ending, one of FORMATS, is the format. An older preview is
        replaced.
      images: number of columns.
      steps: number of rows below the first one.

    Returns output, classes (their number), image_shape and train_examples.

    Raises:
      ConfigError: a field of the config or `output` is wrong.
      DataError: the dataset cannot be read.
    """
    if not output.endswith(FORMATS):
        raise ConfigError(f'--output={output}: takes a name ending in {", ".join(FORMATS)}')
    output = outputs.path('output', output)
    outputs.check_file('output', output, 'launch.preview', (_MARK.encode(),))
    config = config_lib.checked(config)
    build.check(config)
    train, held_out = build.open_dataset(config)
    config, dataset = build.describe(config, train, held_out)
    names = [_printable(name) for name in dataset.class_names]
    images = min(images, config.batch_size)
    size, options = dataset.image_shape[0], config.data
    batches = pipeline.train_batches(
        train, build.draw(config, train), options, size, batch_size=config.batch_size,
        seed=config.hparams.seed)
    first = batches[0]['index'][:images]
    examples = data.read(train, first)
    rows = [('evaluated', [decode.pixels(example, options, size) for example in examples],
             [_class_names(example['label'], names) for example in examples])]
    hparams = state_lib.hparams_of(config)

    @jax.jit
    def trained_on(at, batch):
        key, _ = step.keys(hparams, at)
        return step.augmented_batch(config, len(dataset.class_names), key, batch, hparams)

    for at in range(steps):
        batch = pipeline.load(
            train, options, size, first, seed=config.hparams.seed,
            positions=at * config.batch_size + np.arange(images, dtype=np.int64))
        batch.pop('fault')
        shown = jax.device_get(trained_on(np.int32(at), batch))
        # The last view if there are several: some operations are not applied to the first one.
        pixels = shown['image'][:, -1] * np.float32(options.std) + np.float32(options.mean)
        rows.append((f'step {at}', np.clip(pixels, 0, 1),
                     [_class_names(target, names) for target in shown['target']]))
    operations = ', '.join(name for name, _ in config.augment) or 'no augmentation'
    _save(rows, output, ': '.join(filter(None, (config.name, operations))))
    return {'output': os.path.abspath(output), 'classes': len(dataset.class_names),
            'image_shape': dataset.image_shape, 'train_examples': dataset.train_examples}


def _printable(text: str) -> str:
    """Returns text with U+FFFD in place of characters that cannot be drawn, such as a newline."""
    return ''.join(letter if letter.isprintable() else '\ufffd' for letter in text)


def _class_names(label, class_names: list[str]) -> str:
    """Returns the class names of a label or a row of targets, with shares if they are below 1."""
    if np.ndim(label) == 0:
        return class_names[label]
    likeliest = [k for k in np.argsort(-label, kind='stable')[:3] if label[k] > 0.005]
    return '\n'.join(class_names[k] if label[k] > 0.995 else f'{class_names[k]} {label[k]:.2f}'
                     for k in likeliest) or 'none'


def _save(rows: list[tuple], output: str, title: str) -> None:
    """Draws rows of (name, images, titles) as a grid and writes it to `output`."""
    kind, picture = os.path.splitext(output)[1].removeprefix('.'), io.BytesIO()
    mark = {'png': {'metadata': {'Software': _MARK}}, 'jpg': {'pil_kwargs': {'comment': _MARK}}}
    marked = mark.get(kind, {'metadata': {'Creator': _MARK}})
    fonts = [name for name in _FONTS if name in font_manager.get_font_names()]
    # Matplotlib's defaults, as the settings of a user may read '$' and '_' in a name as TeX.
    with matplotlib.rc_context(matplotlib.rcParamsDefault | {'font.family': fonts}):
        figure = _figure(rows, title)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter('always')
            figure.savefig(picture, format=kind, dpi=150, **marked)
    with outputs.replacing(output, binary=True) as file:
        file.write(picture.getvalue())
    missing = {str(one.message) for one in said if 'missing from' in str(one.message)}
    if missing:
        log.warning('%d letters of class names are drawn as boxes, as no font here has them; '
                    'install one that does, such as Noto Sans CJK (%s)', len(missing), min(missing))


def _figure(rows: list[tuple], title: str) -> matplotlib.figure.Figure:
    count = len(rows[0][1])
    lines = max(text.count('\n') + 1 for _, _, texts in rows for text in texts)
    figure = matplotlib.figure.Figure(
        figsize=(1.3 * count + 0.9, (1.3 + 0.15 * lines) * len(rows) + 0.5), layout='constrained')
    matplotlib.backends.backend_agg.FigureCanvasAgg(figure)
    figure.suptitle(_printable(title), fontsize=10, parse_math=False)
    axes = figure.subplots(len(rows), count, squeeze=False)
    for row, (name, images, texts) in zip(axes, rows, strict=True):
        for axis, image, text in zip(row, images, texts, strict=True):
            image = np.asarray(image)
            axis.imshow(image.squeeze(-1) if image.shape[-1] == 1 else image, cmap='gray',
                        vmin=0, vmax=255 if image.dtype == np.uint8 else 1,
                        interpolation='nearest')
            axis.set_title('\n'.join(line[:18] for line in text.split('\n')), fontsize=7, pad=2,
                           parse_math=False)  # '$' is a letter of a class name
            axis.set_xticks([])
            axis.set_yticks([])
            axis.spines[:].set_visible(False)
        row[0].set_ylabel(name, fontsize=8)
    return figure
