"""Published weights in a script of one's own, without a config or a run directory.

    from imgjax.interop import pretrained

    found = pretrained.load('resnet50', 'timm:resnet50.a1_in1k')
    pretrained.predict(found, ['cat.jpg', 'dog.png'], top_k=5)

    images_NHWC = pretrained.images(found, ['cat.jpg', 'dog.png'])
    logits_NK, out = found.model.apply(found.variables, images_NHWC, train=False)

    encoder = pretrained.load('resnet50', 'timm:resnet50.a1_in1k', num_classes=0)
    features_ND = pretrained.apply(encoder, images_NHWC)
"""

import concurrent.futures
import functools
import logging
import os
from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from imgjax import augment, models
from imgjax import config as config_lib
from imgjax.config import Config
from imgjax.data import decode, ignored, records
from imgjax.errors import ConfigError, first_line
from imgjax.interop import load as load_lib
from imgjax.process import backend

log = logging.getLogger('imgjax')

_BATCH = 64  # images that `predict` decodes and classifies at a time
# Where neither the weights nor the caller say it: what most weights were trained with.
_IMAGENET = {'mean': (0.485, 0.456, 0.406), 'std': (0.229, 0.224, 0.225)}


class Pretrained(NamedTuple):
    """A model with weights, and how images are made ready for it.

    Attributes:
      model: the Flax module; `model.apply(variables, images_NHWC, train=False)` returns
        (logits_NK, out), where `out` names the intermediate arrays.
      variables: {'params', 'batch_stats'} of arrays on the device, float32.
      data: config.data with the preprocessing, such as data.image_size and data.mean.
      class_names: the K classes in the order of the logits; their numbers where the weights name
        none, () for features.
      multi_label: whether an image may have several of the classes, so that each has a sigmoid.
    """

    model: Any
    variables: dict
    data: Config
    class_names: tuple[str, ...]
    multi_label: bool


def load(name: str, weights: str, *, num_classes: int | None = None, data: dict | None = None,
         **options) -> Pretrained:
    """Loads a model with weights, and the preprocessing that they were evaluated with.

    Args:
      name: a variant, as `models.create` takes it.
      weights: LAYOUT:WHERE, as config.init.weights takes it: a file, or a name on the Hugging Face
        Hub, which is downloaded once.
      num_classes: None keeps the classifier of the weights; 0 leaves it out, and the model gives
        features; another number than theirs makes a new classifier, which begins at zero.
      data: fields of config.data that win over those beside the weights, such as
        {'image_size': 384}, for which position tables are resampled.
      **options: options of the model, as config.model.options; dtype='bfloat16' is one.

    Raises:
      ConfigError: a name, a field or an option is wrong, or the weights need another option.
      DataError: there is no such file, or its tensors do not fit the model; one line lists them.
    """
    data = data or {}
    config = config_lib.checked({
        'model': {'name': name, 'options': options}, 'data': {**_IMAGENET, **data},
        'init': {'weights': weights, 'resample': 'image_size' in data},
        'steps': 1})  # a valid number; there is no training
    _model(config, 1)
    if isinstance(num_classes, bool) or not isinstance(num_classes, int | None) or (
            num_classes or 0) < 0:
        raise ConfigError(f'num_classes: takes None or a whole number from 0, got {num_classes!r}')
    where = load_lib.find(config)
    if where is None:
        raise ConfigError('weights: takes LAYOUT:WHERE, such as timm:resnet50.a1_in1k, got '
                          f'{weights!r}; models.create makes a model without weights')
    config = _with_preprocessing(config, where, data)
    one_class, headless = _target(config, 1), _target(config, 0)
    stored = load_lib.read(config, where, one_class)
    outputs = load_lib.outputs(config, stored, one_class)
    kept = 2 if outputs == 1 else outputs  # one sigmoid becomes two classes
    count = kept if num_classes is None else num_classes
    if not outputs and num_classes is None:
        log.warning('%s has no classifier: the model gives features', where.path)
    new = count not in (0, kept)
    class_names = tuple(map(str, range(count))) if new or not count else (
        _class_names(stored, count))
    target = _target(config, count or kept)
    if new:
        config = config | {'init': config.init | {'head': 'new'}}
        target['params'] |= _new_heads(config, count, headless)
    variables = load_lib.fit(config, stored, target, class_names if outputs == 1 else ())
    if not count:  # of the weights that were all found, only the classifier is left out
        variables = {kind: {key: tree[key] for key in headless[kind]}
                     for kind, tree in variables.items()}
    return Pretrained(_model(config, count), jax.device_put(variables), config.data, class_names,
                      where.multi_label and not new)


def images(found: Pretrained, paths: Iterable[str | os.PathLike]) -> jax.Array:
    """Returns image files as the model takes them: decoded, cropped, resized and normalised.

    The result is float32 images_NHWC with the mean and the deviation of the weights taken off, so
    that most values lie between -3 and 3. The images of `paths` are in their order.

    Raises:
      DataError: a file cannot be read or decoded; the line names it.
    """
    size, paths = found.data.image_size, _list(paths)
    files = records.Files('', paths, np.zeros(len(paths), int), found.data)
    if paths:
        ignored.look('images', files, found.data)
    images_NHWC = np.zeros((len(paths), size, size, found.data.channels), np.uint8)
    with concurrent.futures.ThreadPoolExecutor() as threads:
        for row, pixels_HWC in enumerate(threads.map(
                lambda row: decode.pixels(files[row], found.data, size), range(len(paths)))):
            images_NHWC[row] = pixels_HWC
    return augment.color.normalize(images_NHWC, found.data.mean, found.data.std)


def apply(found: Pretrained, images_NHWC) -> jax.Array:
    """Returns float32 logits_NK, or features_ND of num_classes=0, by a program compiled once.

    Args:
      found: what `load` returned.
      images_NHWC: float32 as `images` returns them.
    """
    return _compiled(found.model)(found.variables, images_NHWC)


def predict(found: Pretrained, paths: Iterable[str | os.PathLike],
            top_k: int = 5) -> list[list[tuple[str, float]]]:
    """Returns [(class name, probability), ...] of each image file, the most probable classes first.

    They are those that launch.predict gives. Of weights for several labels per image each
    probability is a sigmoid of its own.

    Args:
      found: what `load` returned.
      paths: image files.
      top_k: the number of classes per image; all where there are fewer.

    Raises:
      ConfigError: the model gives features.
      DataError: as `images` raises it.
    """
    if not found.class_names:
        raise ConfigError('pretrained.predict: the model has no classifier (num_classes=0) and '
                          'gives features; load it without num_classes, or call pretrained.apply')
    paths, rows = _list(paths), []
    for start in range(0, len(paths), _BATCH):
        logits_NK = apply(found, images(found, paths[start:start + _BATCH]))
        probability = jax.nn.sigmoid if found.multi_label else jax.nn.softmax
        for of_image, classes in zip(*map(np.asarray, jax.lax.top_k(
                probability(logits_NK), min(top_k, len(found.class_names)))), strict=True):
            rows.append([(found.class_names[k], float(p))
                         for k, p in zip(classes, of_image, strict=True)])
    return rows


def _list(paths) -> list[str]:
    one = isinstance(paths, str | os.PathLike)
    return [os.path.expanduser(path) for path in ([paths] if one else paths)]


def _with_preprocessing(config: Config, where: load_lib.Weights, data: dict) -> Config:
    """Returns the config with the preprocessing of the weights, except for the fields in `data`."""
    known = {field: value for field, value in where.preprocessing.items() if field not in data}
    channels = {'channels': len(known.get('mean', config.data.mean))}
    config = config | {'data': config.data | channels | data}
    if known or not data:
        config = load_lib.with_preprocessing(config, where._replace(preprocessing=known))
    size = config.data.image_size or config.data.usual_size
    return config | {'data': config.data | {'image_size': size}}


def _class_names(stored: load_lib.Stored, count: int) -> tuple[str, ...]:
    """Returns the names of the classes: of two sets of names, the one in words; else numbers."""
    for names in reversed(stored.label_names):
        if len(names) == count:
            return tuple(names)
    log.warning('%s names no classes: they are called by their numbers, 0 to %d',
                stored.weights.path, count - 1)
    return tuple(map(str, range(count)))


def _model(config: Config, num_classes: int):
    try:
        return models.create(config.model.name, num_classes, **config.model.options)
    except ValueError as error:
        raise ConfigError(f'config.model: {error}') from None


def _target(config: Config, num_classes: int) -> dict:
    """Returns the shapes of the variables, as load.load takes them."""
    size, model = config.data.image_size, _model(config, num_classes)
    try:
        shapes = jax.eval_shape(lambda: _init(model, config))
    except (ValueError, TypeError, ZeroDivisionError) as error:
        raise ConfigError(f'config.model: {config.model.name} does not take images of {size}x{size}'
                          f' ({first_line(error, 200)}); set data={{"image_size": ...}}') from None
    return {'params': shapes['params'], 'batch_stats': shapes.get('batch_stats', {})}


def _new_heads(config: Config, num_classes: int, headless: dict) -> dict:
    """Returns initial values of the parameters that a model without a classifier lacks."""
    model = _model(config, num_classes)
    return jax.device_get(jax.jit(lambda: {  # compiled without all that is not returned
        key: value for key, value in _init(model, config)['params'].items()
        if key not in headless['params']})())


def _init(model, config: Config) -> dict:
    size, channels = config.data.image_size, config.data.channels
    return model.init(jax.random.key(0), jnp.zeros((1, size, size, channels)), train=False)


@functools.cache
def _compiled(model):
    return jax.jit(lambda variables, x_NHWC: model.apply(variables, x_NHWC, train=False)[0],
                   compiler_options=backend.compiler_options())
