"""The config.json beside an exported model, by which other programs build the model and feed it.

Its form is that of timm's files on the Hub, so that `timm.create_model('local-dir:FOLDER',
pretrained=True)` builds the same function; `imgjax` holds what `config.init.weights` compares.
"""

import math

import jax
import jax.numpy as jnp

from imgjax import models
from imgjax.build import Setup
from imgjax.config import Config
from imgjax.interop import torch_layout

# Names of options in timm's constructors, and options that do not change inference.
_TIMM_ARGUMENTS = {'act': 'act_layer'}
_TIMM_ACTIVATIONS = {'hardswish': 'hard_swish'}
_TRAINING_ONLY = ('dtype', 'remat', 'dropout', 'drop_path', 'init_std', 'scan_layers', 'zero_init')


def describe(setup: Setup) -> dict:
    """Returns the content of config.json.

    `model_args` are the options that differ from those of the variant, with timm's name where it is
    known here; others keep their name, which timm accepts or refuses, but never ignores.
    """
    model, names = setup.config.model, setup.dataset.class_names
    options = changed_options(model)
    # If the variant has a table of activations, timm's act_layer does not change it.
    known = _TIMM_ARGUMENTS if getattr(models.create(model.name, 1), 'act', None) else {}
    return {
        'architecture': model.name,
        'num_classes': len(names),
        'num_features': _features(setup),
        'label_names': names,
        'model_args': {known.get(key, key): _TIMM_ACTIVATIONS.get(value, value)
                       if key == 'act' else value for key, value in options.items()},
        'pretrained_cfg': _pretrained_cfg(setup),
        'imgjax': {'model_options': options, 'multi_label': setup.dataset.multi_label},
        'preprocessing': preprocessing(setup),
    }


def changed_options(model: Config) -> dict:
    """Returns the config.model.options that change the function of the variant."""
    plain = models.create(model.name, 1)
    built = models.create(model.name, 1, **model.options)
    return {key: value for key, value in model.options.items()
            if key not in _TRAINING_ONLY and getattr(built, key) != getattr(plain, key)}


def preprocessing(setup: Setup) -> dict:
    """Returns the preprocessing of an image in numbers and as a sentence."""
    data, (height, width, channels) = setup.config.data, setup.dataset.image_shape
    found = {'image_size': [height, width], 'channels': channels,
             'interpolation': data.eval_resize, 'mean': list(data.mean),
             'std': list(data.std)}
    colour = 'RGB' if channels == 3 else 'grayscale'
    scaled = f'divide by 255, subtract mean {list(data.mean)}, divide by std {list(data.std)}'
    if data.eval_transform not in ('pil', 'squash'):
        return found | {'rule': (
            f'decode to {colour}; crop and resize to {height} x {width} as TensorFlow\'s '
            f'EfficientNets are evaluated (imgjax/data/crop.py, {data.eval_transform!r}), '
            f'{data.eval_resize}; {scaled}')}
    fraction = data.eval_crop_fraction if data.image_size else 1.0
    shorter = max(height, math.floor(height / fraction))
    if data.eval_transform == 'squash':
        return found | {'crop_pct': fraction, 'side': shorter, 'rule': (
            f'decode to {colour}; resize to {shorter} x {shorter} pixels (floor({height} / '
            f'{fraction})), {data.eval_resize} and antialiased, whatever the aspect; cut the '
            f'middle {height} x {width}; {scaled}')}
    return found | {'crop_pct': fraction, 'shorter_side': shorter, 'rule': (
        f'decode to {colour}; resize the shorter side to {shorter} pixels '
        f'(floor({height} / {fraction})), {data.eval_resize} and antialiased, keeping the '
        f'aspect; cut the middle {height} x {width}; {scaled}')}


def _pretrained_cfg(setup: Setup) -> dict:
    data, (height, width, channels) = setup.config.data, setup.dataset.image_shape
    _, renames = _family(setup)
    heads = sorted({torch_layout.name_of(('params', name, 'kernel'), renames).rpartition('.')[0]
                    for name in setup.target.params if name == 'head' or name.startswith('head_')})
    return {
        'input_size': [channels, height, width],
        'fixed_input_size': _fixed_size(setup),
        'mean': list(data.mean), 'std': list(data.std),
        'crop_pct': data.eval_crop_fraction if data.image_size else 1.0,
        'crop_mode': 'squash' if 'squash' in data.eval_transform else 'center',
        'interpolation': data.eval_resize,
        'classifier': heads[0] if len(heads) == 1 else heads,
    }


def _family(setup: Setup):
    """Returns (the module of the family, its {prefix of our names: timm's prefix})."""
    name = setup.config.model.name
    module = models.module(name)
    return module, getattr(module, 'RENAMES', {})


def _shapes(setup: Setup, image_shape):
    """Returns the shapes of ((logits, out), variables) for one image."""
    image = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    return jax.eval_shape(
        lambda x: setup.model.init_with_output(jax.random.key(0), x, train=False), image)


def _features(setup: Setup) -> int | None:
    """Returns the number of features that the classifier reads."""
    (_, out), _ = _shapes(setup, setup.dataset.image_shape)
    return int(out['pre_logits'].shape[-1]) if 'pre_logits' in out else None


def _fixed_size(setup: Setup) -> bool:
    """Returns whether parameters (positions, windows) fit this image size only."""
    height, width, channels = setup.dataset.image_shape
    _, here = _shapes(setup, (height, width, channels))
    try:
        _, there = _shapes(setup, (2 * height, 2 * width, channels))
    except (ValueError, TypeError):  # the family refuses that size
        return True
    return jax.tree.map(jnp.shape, here) != jax.tree.map(jnp.shape, there)
