"""In-process cache of decoded data and compiled programs, which later runs of a process reuse.

It is a dict, `Setup.cache`. A run that is trained alone begins with an empty one; the cells of a
study pass it from one to the next.
"""

import json
from collections.abc import Callable
from typing import Any

from imgjax import config as config_lib
from imgjax.config import Config

# Fields that neither a program nor a decoded split depends on, besides the numbers in hparams.
_IRRELEVANT = ('name', 'checkpoint.', 'data.max_unreadable_share', 'watchdog_seconds', 'profile.',
               'sampler.')


def once(cache: dict, name: str, key, make: Callable[[], Any]):
    """Returns the cached value of a name if it has this key; otherwise caches `make()`.

    The cache has one value per name: a value with another key replaces it.
    """
    if name not in cache or cache[name][0] != key:
        cache.pop(name, None)  # frees its memory before the next value needs some
        cache[name] = (key, make())
    return cache[name][1]


def structure(config: Config) -> str:
    """Returns, as JSON, the fields of a config that decide which programs are compiled.

    These are all fields except the numbers that a step receives (`hparams`): of the hparams only
    the names of strengths and the lengths of tuples are included.
    """
    flat = {name: value for name, value in config_lib.flatten(config).items()
            if not name.startswith((*_IRRELEVANT, 'hparams.'))}
    hparams = config.hparams
    flat['hparams'] = [sorted(hparams['augment']), sorted(
        [name, len(value)] for name, value in hparams.items() if isinstance(value, tuple))]
    return json.dumps(flat, sort_keys=True)


def data(config: Config, dataset, mesh=None) -> str:
    """Returns, as JSON, everything that a decoded split depends on.

    Args:
      config: the frozen Config of the run.
      dataset: its DatasetInfo.
      mesh: the mesh on which the split is placed; None for a split on the host.
    """
    place = mesh and [dict(mesh.shape), [device.id for device in mesh.devices.flat]]
    return json.dumps([config.data, config.eval_batch_size, dataset, place], sort_keys=True)
