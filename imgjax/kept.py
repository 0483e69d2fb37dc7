"""What the runs of one process have in common: decoded sets and compiled programs.

A run takes them from a dict, `Job.kept`, which is empty for a run alone. The cells of a study hand
it on from one to the next.
"""

import json
from collections.abc import Callable
from typing import Any

from imgjax import config as config_lib

# Fields that no program and no decoded set depends on, besides the numbers in hparams.
_FREE = ('name', 'checkpoint.', 'data.max_unreadable_share', 'watchdog_seconds', 'profile.')


def once(kept: dict, name: str, key, make: Callable[[], Any]):
    """Returns what `make()` gave when it was last called for this key.

    Of a name only the newest is kept: what another key asks for takes its place.
    """
    if name not in kept or kept[name][0] != key:
        kept.pop(name, None)  # its memory is free before the next one takes some
        kept[name] = (key, make())
    return kept[name][1]


def structure(config: dict) -> str:
    """Returns what of a plain config decides which programs are compiled, as text.

    That is all but the numbers that a step receives (`hparams`). Of these it matters how many there
    are, and focal_gamma to an evaluation by the focal loss.
    """
    flat = {name: value for name, value in config_lib.flatten(config).items()
            if not name.startswith((*_FREE, 'hparams.'))}
    hparams = config['hparams']
    flat['hparams'] = [sorted(hparams['augment']), len(hparams['class_weights'])]
    if config['loss'] == 'focal':
        flat['hparams'].append(hparams['focal_gamma'])
    return json.dumps(flat, sort_keys=True)


def data(config: dict, facts, mesh=None) -> str:
    """Returns what a decoded split depends on, as text.

    Args:
      config: plain.
      facts: of its dataset.
      mesh: on which it lies; None for the host.
    """
    place = mesh and [dict(mesh.shape), [device.id for device in mesh.devices.flat]]
    return json.dumps([config['data'], config['eval_batch_size'], facts, place], sort_keys=True)
