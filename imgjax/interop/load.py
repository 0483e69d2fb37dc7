"""Loads the weights that a run begins with: finds, reads, renames, adapts and checks them.

config.init.weights is LAYOUT:WHERE. WHERE is a file (.safetensors, .pth, .npz). For `timm` it may
be a name on the Hugging Face Hub such as timm:vit_small_patch16_224.augreg_in21k_ft_in1k, which is
read from the cache without a network; for `keras` it is an application, whose weights Keras
downloads.
"""

import functools
import importlib
import json
import logging
import os
import re
from typing import NamedTuple

import jax
import numpy as np

from imgjax import models, parts
from imgjax.config import Config
from imgjax.errors import ConfigError, DataError, nearest, one_line
from imgjax.interop import adapt, description, files, labels, prefixes, preprocessing, torch_layout
from imgjax.optimizers.parts import finetune

log = logging.getLogger('imgjax')

# Whose names and shapes a file has. Each but timm has a file here that converts them to timm's:
# `to_timm(tensors, family, variant) -> tensors`. Keras reads its own files, and has
# `application(name) -> tensors` instead. Four of them have `demands(family, variant, folder) ->
# (options, fields)`: the config.model.options that the weights need, and the fields of config.data
# that they were evaluated with.
LAYOUTS = ('timm', 'torchvision', 'huggingface', 'google', 'keras', 'cifar',
           'efficientnet_pytorch')
_DEMANDING = ('torchvision', 'huggingface', 'google', 'efficientnet_pytorch')
_HUB_NAME = re.compile(r'[a-z0-9_]+(\.[A-Za-z0-9_]+)?')


class Weights(NamedTuple):
    """Where weights are, and what is known about them before they are read.

    Attributes:
      layout: one of LAYOUTS.
      path: the file; for `keras` the application.
      preprocessing: the fields of config.data that they were evaluated with, or {}.
      label_names: the names of their classes, as labels.beside returns them.
      multi_label: whether an export of ours says that an image may have several of the classes.
    """

    layout: str
    path: str
    preprocessing: dict
    label_names: tuple[tuple[str, ...], ...] = ()
    multi_label: bool = False


class Stored(NamedTuple):
    """Weights that were read and not yet fitted to a model.

    Attributes:
      weights: where they are.
      raw: {name in the file: array}.
      tensors: {timm's name: array}, of the model alone.
      label_names: the names of their classes, as labels.beside returns them.
    """

    weights: Weights
    raw: dict
    tensors: dict
    label_names: tuple[tuple[str, ...], ...]


def find(config: Config) -> Weights | None:
    """Returns the weights that config.init.weights names, on this disk; None if it is empty.

    Raises:
      ConfigError: there is no such layout or name.
      DataError: the weights are not available.
    """
    layout, colon, where = config.init.weights.partition(':')
    if not layout:
        return None
    if layout not in LAYOUTS or not colon or not where:
        raise ConfigError(
            f'config.init.weights: takes LAYOUT:WHERE with a layout of {", ".join(LAYOUTS)}, got '
            f'{config.init.weights!r}{nearest(layout, LAYOUTS)}')
    if layout == 'keras':
        keras = importlib.import_module('imgjax.interop.keras')
        model = config.model
        return Weights(layout, where, keras.check(where, model.name, model.options))
    if os.sep in where or where.endswith(files.FORMATS) or os.path.isfile(where):
        path = os.path.expanduser(where)
        if os.path.isdir(path):
            raise DataError(f'config.init.weights: {path} is a folder; give the file of weights in '
                            'it, such as model.safetensors')
        if not os.path.isfile(path):
            raise DataError(f'config.init.weights: no such file {path}')
        folder, known, several = os.path.dirname(path), {}, False
        if layout in _DEMANDING:
            known = _known(config.model, layout, folder)
        elif os.path.isfile(os.path.join(folder, 'config.json')):
            if config.init.preprocessing != 'config':
                known = preprocessing.of_timm(os.path.join(folder, 'config.json'))
            several = _check_exported(config.model, os.path.join(folder, 'config.json'))
        return Weights(layout, path, known, labels.beside(path), several)
    if layout != 'timm' or not _HUB_NAME.fullmatch(where):
        raise ConfigError(f'config.init.weights: {layout} takes a file '
                          f'({", ".join(files.FORMATS)}), '
                          f'got {where!r}')
    if where.partition('.')[0] != config.model.name:
        raise ConfigError('config.init.weights: weights of '
                          f'{where.partition(".")[0]!r} are not for '
                          f'config.model.name {config.model.name!r}')
    described, path = (_from_hub(where, name) for name in ('config.json', 'model.safetensors'))
    return Weights(layout, path, preprocessing.of_timm(described), labels.beside(described))


def _known(model: Config, layout: str, folder: str) -> dict:
    """Returns the fields of config.data for weights, and checks the options of the model.

    Raises:
      ConfigError: the weights need other options.
    """
    try:
        built = models.create(model.name, 1, **model.options)
    except ValueError:  # build.check raises the better error
        return {}
    family = models.variants().get(model.name, model.name)
    options, fields = importlib.import_module(f'imgjax.interop.{layout}').demands(
        family, model.name, folder)
    wrong = {key: value for key, value in options.items() if getattr(built, key) != value}
    if wrong:
        key, value = next(iter(wrong.items()))
        raise ConfigError(
            f'config.model.options: weights of {layout} for {model.name} take '
            f'{", ".join(f"{k}={v!r}" for k, v in wrong.items())}, and the model has '
            f'{key}={getattr(built, key)!r}')
    return fields


def _check_exported(model: Config, path: str) -> bool:
    """Checks that the model is the one that the config.json of an export describes.

    Returns whether it says that images have several labels.

    Raises:
      ConfigError: it has another variant or other options.
    """
    try:
        with open(path, encoding='utf-8') as file:
            stored = json.load(file)
        exported = stored.get('imgjax')  # only launch.export writes it
    except (OSError, ValueError, AttributeError):  # of another program
        return False
    if not isinstance(exported, dict):
        return False
    several = bool(exported.get('multi_label'))
    if stored.get('architecture') != model.name:
        raise ConfigError(f'config.model.name: the weights were exported from '
                          f'{stored.get("architecture")!r} ({path}), got {model.name!r}')
    try:
        built, mine = models.create(model.name, 1), description.changed_options(model)
    except ValueError:  # build.check says it better
        return several
    theirs = exported.get('model_options') or {}
    for key in sorted({*mine, *theirs}):
        value = theirs.get(key, getattr(built, key, None))
        if json.dumps(mine.get(key, getattr(built, key, None))) != json.dumps(value):
            raise ConfigError(f'config.model.options: the weights were exported with {key}='
                              f'{value!r} ({path}); set config.model.options to {theirs}')
    return several


def _from_hub(name: str, file: str) -> str:
    try:
        import huggingface_hub
    except ImportError:
        raise ConfigError("config.init.weights: names on the Hub need huggingface_hub; install "
                          "imgjax[weights], or give a file") from None
    try:
        return huggingface_hub.hf_hub_download(f'timm/{name}', file)
    except Exception as error:  # of HTTP, of the cache, of the repository
        text = one_line(error, 160)
        raise DataError(f'config.init.weights: timm/{name} has no {file} that can be had here '
                        f'({type(error).__name__}: {text}); download it elsewhere and give its '
                        'path') from None


def with_preprocessing(config: Config, weights: Weights | None) -> Config:
    """Returns the config with the preprocessing of the weights; see preprocessing.taken."""
    if weights is None:
        return config
    return preprocessing.taken(config, weights.preprocessing, weights.path)


def load(config: Config, weights: Weights, target, class_names: tuple[str, ...] = ()) -> dict:
    """Returns the variables of the model with the values of the weights.

    Args:
      config: checked.
      weights: what `find` returned.
      target: {'params': ..., 'batch_stats': ...} of arrays, or of anything with a shape and a
        dtype; new parameters keep their leaf.
      class_names: the classes of the dataset, whose order the outputs of the head get. () keeps the
        order of the weights.

    Raises:
      DataError: tensors are missing, left over or of other shapes; one line lists them.
    """
    return fit(config, read(config, weights, target), target, class_names)


def read(config: Config, weights: Weights, target) -> Stored:
    """Reads the tensors of weights and gives them timm's names.

    Args:
      config: checked.
      weights: what `find` returned.
      target: as `load` takes it, of a model with any number of classes except 0.

    Raises:
      DataError: the file cannot be read, or holds two models.
    """
    variant = config.model.name
    family = models.variants().get(variant, variant)
    ours = torch_layout.shapes(target, getattr(models.module(variant), 'RENAMES', {}))
    raw, label_names = _read(weights)
    try:
        tensors = prefixes.without(
            raw, lambda some: _to_timm(some, weights.layout, family, variant), set(ours))
    except DataError as error:
        raise DataError(f'{weights.path}: {error}') from None
    return Stored(weights, raw, tensors, label_names)


def outputs(config: Config, stored: Stored, one_class) -> int:
    """Returns how many outputs the classifier of the weights has, 0 if they have none.

    Args:
      config: checked.
      stored: what `read` returned.
      one_class: as `target` of `load`, of a model with one class: of the tensors of its heads, only
        those of the classifier have one row.
    """
    renames = getattr(models.module(config.model.name), 'RENAMES', {})
    heads = tuple(f'{head}.' for head in _heads(one_class, renames))
    return max((len(stored.tensors[name]) for name, shape in torch_layout.shapes(
        one_class, renames).items() if name.startswith(heads) and shape[:1] == (1,)
        and name in stored.tensors), default=0)


def fit(config: Config, stored: Stored, target, class_names: tuple[str, ...] = ()) -> dict:
    """Returns the variables of the model with the values of weights that `read` returned.

    The arguments and the errors are those of `load`.
    """
    variant, weights = config.model.name, stored.weights
    family = models.variants().get(variant, variant)
    module = models.module(family)
    renames = getattr(module, 'RENAMES', {})
    ours = torch_layout.shapes(target, renames)
    heads = _heads(target, renames)
    new = tuple(f'{head}.' for head in heads) if config.init.head == 'new' else ()
    tensors, buffers = stored.tensors, getattr(module, 'BUFFERS', ())
    try:
        if not adapt.far_off(tensors, ours, heads, buffers):
            if not new:
                objective = parts.find('objective', config.objective.name)
                tensors = labels.in_order_of(tensors, stored.label_names, class_names, heads,
                                             not getattr(objective, 'MULTI_LABEL', False))
            tensors = adapt.adapt(tensors, ours, heads, config.init)
        variables = torch_layout.read(tensors, target, renames, buffers, new)
    except torch_layout.DoesNotFit as error:
        hint = _nearest_layout(stored.raw, weights, family, variant, set(ours))
        missing = set(ours) - set(tensors)
        if not hint and missing and all(name.startswith(heads) for name in missing):
            hint = "; set config.init.head='new' for a newly initialised classifier"
        raise DataError(f'{weights.path}: {error}{hint}') from None
    except DataError as error:
        raise DataError(f'{weights.path}: {error}') from None
    _check_finite(variables, renames, weights.path)
    if new:
        variables['params'] = finetune.with_new_classifiers(
            variables['params'], getattr(module, 'NEW_HEAD_BIAS', 0.0))
        log.info('%s: newly initialised', ', '.join(sorted(heads)))
    count = sum(leaf.size for leaf in jax.tree.leaves(variables['params']))
    log.info('%s parameters from %s', f'{count:,}', weights.path)
    return jax.tree.map(lambda found, old: found if found is old else np.asarray(found, old.dtype),
                        variables, target)


def _heads(target, renames) -> tuple[str, ...]:
    """Returns the beginnings of timm's names of the classifiers."""
    return tuple({torch_layout.name_of(('params', name, 'x'), renames)[:-2]
                  for name in target['params'] if re.fullmatch(r'head(_\w+)?', name)})


def _check_finite(variables, renames, path: str) -> None:
    """Raises DataError for the first tensor, of those that the model takes, with nan or inf."""
    for keys, leaf in jax.tree_util.tree_leaves_with_path(variables):
        if isinstance(leaf, np.ndarray) and not np.isfinite(leaf).all():
            raise DataError(f'{path}: {torch_layout.name_of(keys, renames)} holds values that are '
                            'not finite, as of a training that diverged; take an earlier file')


def _read(weights: Weights):
    """Returns (tensors by the names in the file, sets of names of the classes)."""
    if weights.layout == 'keras':
        return importlib.import_module('imgjax.interop.keras').application(weights.path), ()
    found = files.read_state_dict(weights.path)
    inside = (found.label_names,) if found.label_names else ()
    return found.tensors, weights.label_names or inside


def _to_timm(tensors: dict, layout: str, family: str, variant: str) -> dict:
    if layout in ('timm', 'keras'):
        return tensors
    return importlib.import_module(f'imgjax.interop.{layout}').to_timm(tensors, family, variant)


def _nearest_layout(tensors: dict, weights: Weights, family: str, variant: str,
                    wanted: set[str]) -> str:
    """Returns a hint "; ..." with the layout that these names have, or ''."""
    matched = {}
    for layout in LAYOUTS:
        if 'keras' in (layout, weights.layout):
            continue
        try:
            matched[layout] = prefixes.count(
                tensors, functools.partial(_to_timm, layout=layout, family=family, variant=variant),
                wanted)
        except (DataError, ValueError):  # it lacks the family, or expects other shapes
            continue
    best = max(matched, key=matched.get, default=weights.layout)
    if matched.get(best, 0) <= max(matched.get(weights.layout, 0), len(wanted) / 2):
        return ''
    return f'; its names are those of {best}: set config.init.weights={best}:{weights.path}'
