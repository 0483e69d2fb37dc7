"""In-process cache of decoded data and compiled programs, which later runs of a process reuse.

It is a dict, `Setup.cache`, which is empty for a run alone. The cells of a study hand it on from
one to the next.
"""

import json
from collections.abc import Callable
from typing import Any

from imgjax import config as config_lib
from imgjax.config import Config

# Fields that no program and no decoded set depends on, besides the numbers in hparams.
_FREE = ('name', 'checkpoint.', 'data.max_unreadable_share', 'watchdog_seconds', 'profile.')


def once(cache: dict, name: str, key, make: Callable[[], Any]):
    """Returns what `make()` gave when it was last called for this key.

    Of each name only the newest value stays: that of another key replaces it.
    """
    if name not in cache or cache[name][0] != key:
        cache.pop(name, None)  # its memory is free before the next one takes some
        cache[name] = (key, make())
    return cache[name][1]


def structure(config: Config) -> str:
    """Returns what of a config decides which programs are compiled, as text.

    That is all but the numbers that a step receives (`hparams`). Of these it matters how many there
    are.
    """
    flat = {name: value for name, value in config_lib.flatten(config).items()
            if not name.startswith((*_FREE, 'hparams.'))}
    hparams = config.hparams
    flat['hparams'] = [sorted(hparams['augment']), sorted(
        [name, len(value)] for name, value in hparams.items() if isinstance(value, tuple))]
    return json.dumps(flat, sort_keys=True)


def data(config: Config, dataset, mesh=None) -> str:
    """Returns what a decoded split depends on, as text.

    Args:
      config: checked.
      dataset: what is known of its dataset.
      mesh: on which it lies; None for the host.
    """
    place = mesh and [dict(mesh.shape), [device.id for device in mesh.devices.flat]]
    return json.dumps([config.data, config.eval_batch_size, dataset, place], sort_keys=True)
