"""The preprocessing that weights were trained with, read as fields of config.data."""

import json
import logging

from imgjax import config as config_lib
from imgjax.config import Config
from imgjax.errors import ConfigError, DataError

log = logging.getLogger('imgjax')

# The fields of config.data that weights may give.
FIELDS = ('mean', 'std', 'image_size', 'eval_transform', 'eval_crop_fraction', 'eval_resize')
# timm's words, and our field and word for each; all our transforms but one cut out the middle.
_WORDS = {
    'interpolation': ('eval_resize', {'bicubic': 'bicubic', 'bilinear': 'bilinear'}),
    'crop_mode': ('eval_transform', {'center': '', 'squash': 'squash'})}


def of_timm(path: str) -> dict:
    """Returns fields of config.data from the config.json that timm puts beside its weights.

    Raises:
      DataError: it is another file, or images were prepared in a way that there is no field for.
    """
    try:
        with open(path, encoding='utf-8') as file:
            stored = json.load(file)
        stored = stored.get('pretrained_cfg', stored)
        stored = {name: value for name, value in stored.items() if value is not None}
        found = {}
        if ('mean' in stored) != ('std' in stored):
            log.warning('%s: has only one of mean and std: those of config.data are used instead',
                        path)
        elif 'mean' in stored:
            found |= {'mean': [float(x) for x in stored['mean']],
                      'std': [float(x) for x in stored['std']]}
        if 'input_size' in stored:
            channels, height, width = stored['input_size']
            if height == width:
                found |= {'image_size': int(height)}
            else:
                log.warning('%s: for images of %d x %d, which are always squares here: '
                            'config.data.image_size is used instead', path, height, width)
        if 'crop_pct' in stored:
            found |= {'eval_crop_fraction': float(stored['crop_pct'])}
        for name, (field, known) in _WORDS.items():
            if stored.get(name) in known:
                found |= {field: known[stored[name]]} if known[stored[name]] else {}
            elif name in stored:
                log.warning('%s: %s=%r is none of %s: config.data.%s is used instead', path, name,
                            stored[name], ', '.join(known), field)
        return found
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f'{path}: not a config.json of timm ({error}); config.init.preprocessing='
                        "'config' does without it") from None


def taken(config: Config, found: dict, path: str) -> Config:
    """Returns the config with the preprocessing that config.init asks for, and logs it.

    `auto` becomes `checkpoint` where the weights give any field, else `config`. If their mean and
    deviation are unknown, it warns.

    Args:
      config: checked, with config.init.weights set.
      found: the FIELDS that the weights give.
      path: the path of the weights.

    Raises:
      ConfigError: init.preprocessing is `checkpoint`, and the weights do not give it.
      DataError: a field that they give is not valid.
    """
    source = config.init.preprocessing
    if source == 'config':
        return config
    if 'mean' not in found and source == 'checkpoint':
        raise ConfigError(
            f'config.init.preprocessing: nothing beside {path} says what mean and deviation its '
            'images had (config.json of timm, preprocessor_config.json of transformers); set '
            'config.data.mean, std, image_size and eval_crop_fraction as in its training, and '
            "config.init.preprocessing='config'")
    found, data = dict(found), config.data
    if len(found.get('mean', [])) not in (0, data.channels):
        log.warning('mean and deviation of the weights are for %d channels, the images have %d: '
                    'those of config.data are used instead', len(found['mean']), data.channels)
        found = {name: value for name, value in found.items() if name not in ('mean', 'std')}
    if config.init.resample:  # the config asks for another size
        found.pop('image_size', None)
    left = [name for name in FIELDS if name not in found]
    rest = ', '.join(f'{name} {config_lib.plain(data[name])}' for name in left)
    if found:
        log.log(logging.INFO if 'mean' in found else logging.WARNING,
                'preprocessing of the weights, from beside them: %s%s',
                 ', '.join(f'{name} {value}' for name, value in found.items()),
                 f'; from the config: {rest}' if rest else '')
    else:
        log.warning('preprocessing of the config, since nothing beside %s says what it was trained '
                    "with: %s; set those that differ from its training, and "
                    "config.init.preprocessing='config'", path, rest)
    init = config.init | {'preprocessing': 'checkpoint' if found else 'config'}
    try:
        return config_lib.checked(config | {'init': init, 'data': data | found})
    except ConfigError as error:
        raise DataError(f'the preprocessing beside {path} cannot be used ({error}); set '
                        "config.init.preprocessing='config'") from None
