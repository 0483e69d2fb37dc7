"""Weights to begin a run with: found, read, renamed, made to fit, and checked to the last tensor.

config.init.from_ is LAYOUT:WHERE. WHERE is a file (.safetensors, .pth, .npz), or for `timm` a name
on the Hugging Face Hub such as timm:vit_small_patch16_224.augreg_in21k_ft_in1k (from its cache
where there is no network), for `keras` the name of an application with the weights it downloads.
"""

import importlib
import json
import logging
import os
import re
from typing import NamedTuple

import jax
import numpy as np

from imgjax import config as config_lib
from imgjax import finetune, models
from imgjax.errors import ConfigError, DataError, nearest
from imgjax.interop import adapt, files, torch_layout

log = logging.getLogger('imgjax')

# What the names and shapes in a file follow; each but timm's has a file here that turns them into
# timm's: `to_timm(tensors, family, variant) -> tensors`. Keras reads its own files, and has
# `application(name) -> tensors` in its place. Three of them have `demands(family, variant, folder)
# -> (options, fields)`: what config.model.options must say for the weights to be what they were,
# and config.data's fields that they were evaluated with.
LAYOUTS = ('timm', 'torchvision', 'huggingface', 'google', 'keras', 'cifar')
# What with_preprocessing may set.
PREPROCESSING = ('mean', 'std', 'image_size', 'eval_crop_fraction', 'eval_resize')
_HUB_NAME = re.compile(r'[a-z0-9_]+(\.[A-Za-z0-9_]+)?')
_RESIZE = {'bicubic': 'bicubic', 'bilinear': 'bilinear'}


class Weights(NamedTuple):
    """Where weights lie, and config.data's fields that they were evaluated with (or {})."""

    layout: str
    path: str
    preprocessing: dict


def find(config: dict) -> Weights | None:
    """Returns what config.init.from_ names, on this disk; None where it names nothing.

    Raises:
      ConfigError: no such layout or name.
      DataError: it cannot be had.
    """
    layout, colon, where = config['init']['from_'].partition(':')
    if not layout:
        return None
    if layout not in LAYOUTS or not colon or not where:
        raise ConfigError(
            f'config.init.from_: takes LAYOUT:WHERE with a layout of {", ".join(LAYOUTS)}, got '
            f'{config["init"]["from_"]!r}{nearest(layout, LAYOUTS)}')
    if layout == 'keras':
        keras = importlib.import_module('imgjax.interop.keras')
        model = config['model']
        return Weights(layout, where, keras.check(where, model['name'], model['options']))
    if os.sep in where or where.endswith(files.FORMATS):
        path = os.path.expanduser(where)
        if not os.path.isfile(path):
            raise DataError(f'config.init.from_: no such file {path}')
        folder, known = os.path.dirname(path), {}
        if layout in ('torchvision', 'huggingface', 'google'):
            known = _known(config['model'], layout, folder)
        elif os.path.isfile(os.path.join(folder, 'config.json')):
            known = _preprocessing(os.path.join(folder, 'config.json'))
        return Weights(layout, path, known)
    if layout != 'timm' or not _HUB_NAME.fullmatch(where):
        raise ConfigError(f'config.init.from_: {layout} takes a file ({", ".join(files.FORMATS)}), '
                          f'got {where!r}')
    if where.partition('.')[0] != config['model']['name']:
        raise ConfigError(f'config.init.from_: weights of {where.partition(".")[0]!r} are not for '
                          f'config.model.name {config["model"]["name"]!r}')
    return Weights(layout, _from_hub(where, 'model.safetensors'),
                   _preprocessing(_from_hub(where, 'config.json')))


def _known(model: dict, layout: str, folder: str) -> dict:
    """Returns config.data's fields of weights; ConfigError where the model is not what they fit."""
    try:
        built = models.create(model['name'], 1, **model['options'])
    except ValueError:  # build.check says it better
        return {}
    family = models.variants().get(model['name'], model['name'])
    options, fields = importlib.import_module(f'imgjax.interop.{layout}').demands(
        family, model['name'], folder)
    wrong = {key: value for key, value in options.items() if getattr(built, key) != value}
    if wrong:
        key, value = next(iter(wrong.items()))
        raise ConfigError(
            f'config.model.options: weights of {layout} for {model["name"]} take '
            f'{", ".join(f"{k}={v!r}" for k, v in wrong.items())}, and the model has '
            f'{key}={getattr(built, key)!r}')
    return fields


def _from_hub(name: str, file: str) -> str:
    try:
        import huggingface_hub
    except ImportError:
        raise ConfigError("config.init.from_: names on the Hub need huggingface_hub; install "
                          "imgjax[weights], or give a file") from None
    try:
        return huggingface_hub.hf_hub_download(f'timm/{name}', file)
    except Exception as error:  # of HTTP, of the cache, of the repository
        text = ' '.join(str(error).split())[:160]
        raise DataError(f'config.init.from_: timm/{name} has no {file} that can be had here '
                        f'({type(error).__name__}: {text}); download it elsewhere and give its '
                        'path') from None


def _preprocessing(path: str) -> dict:
    """Returns fields of config.data from the config.json that timm puts beside its weights."""
    try:
        with open(path, encoding='utf-8') as file:
            stored = json.load(file)
        stored = stored.get('pretrained_cfg', stored)
        found = {}
        if 'mean' in stored:
            found |= {'mean': [float(x) for x in stored['mean']],
                      'std': [float(x) for x in stored['std']]}
        if 'input_size' in stored:
            channels, height, width = stored['input_size']
            if height == width:
                found |= {'image_size': int(height)}
        if 'crop_pct' in stored:
            found |= {'eval_crop_fraction': float(stored['crop_pct'])}
        if stored.get('interpolation') in _RESIZE:
            found |= {'eval_resize': _RESIZE[stored['interpolation']]}
        return found
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f'{path}: not a config.json of timm ({error})') from None


def with_preprocessing(config: dict, weights: Weights | None) -> dict:
    """Returns config with the preprocessing of the weights, where config.init asks for that."""
    if weights is None or config['init']['preprocessing'] == 'config' or not weights.preprocessing:
        return config
    found = dict(weights.preprocessing)
    if len(found.get('mean', [])) != config['data']['channels']:
        found = {key: value for key, value in found.items() if key not in ('mean', 'std')}
    if config['init']['resample']:  # the size is what was asked to be another one
        found.pop('image_size', None)
    log.info('preprocessing of the weights: %s',
             ', '.join(f'{key} {value}' for key, value in found.items()))
    try:
        return config_lib.to_plain(config | {'data': config['data'] | found})
    except ConfigError as error:
        raise DataError(f'the preprocessing beside {weights.path} cannot be used ({error}); set '
                        "config.init.preprocessing='config'") from None


def load(config: dict, weights: Weights, target):
    """Returns variables that begin with the weights.

    Args:
      config: plain.
      weights: as `find` returns.
      target: {'params': ..., 'batch_stats': ...} of initial arrays; what is new keeps them.

    Raises:
      DataError: in one line, each tensor that is missing, left over or of another shape.
    """
    variant = config['model']['name']
    family = models.variants().get(variant, variant)
    module = importlib.import_module(f'imgjax.models.{family}')
    renames = getattr(module, 'RENAMES', {})
    if weights.layout == 'keras':
        tensors = importlib.import_module('imgjax.interop.keras').application(weights.path)
    else:
        tensors = files.read(weights.path)
    ours = torch_layout.write(target, renames)
    heads = tuple({torch_layout.name_of(('params', name, 'x'), renames)[:-2]
                   for name in target['params'] if re.fullmatch(r'head(_\w+)?', name)})
    try:
        if weights.layout not in ('timm', 'keras'):
            layout = importlib.import_module(f'imgjax.interop.{weights.layout}')
            tensors = layout.to_timm(tensors, family, variant)
        tensors = adapt.adapt(tensors, {name: x.shape for name, x in ours.items()}, heads,
                              config['init'])
        if config['init']['head'] == 'new':
            tensors |= {name: x for name, x in ours.items()
                        if name.startswith(tuple(f'{head}.' for head in heads))}
            log.info('%s begins anew', ', '.join(sorted(heads)))
        variables = torch_layout.read(tensors, target, renames, getattr(module, 'BUFFERS', ()))
        if config['init']['head'] == 'new':
            variables['params'] = finetune.with_new_classifiers(
                variables['params'], getattr(module, 'NEW_HEAD_BIAS', 0.0))
    except DataError as error:
        raise DataError(f'{weights.path}: {error}') from None
    count = sum(leaf.size for leaf in jax.tree.leaves(variables['params']))
    log.info('%s parameters from %s', f'{count:,}', weights.path)
    return jax.tree.map(lambda new, old: np.asarray(new, old.dtype), variables, target)
