"""Synthetic images of any size, number and number of classes, for benchmarks and for trials.

Each class is a wave with its own direction and length; each example has its own phase and noise.
"""

import hashlib
import io
import math

import numpy as np
from PIL import Image

from imgjax.data import Source, source_options, splits
from imgjax.data.fingerprint import fingerprint
from imgjax.errors import ConfigError

DEFAULTS = dict(examples=10_000, classes=10, height=32, width=32, encoded='', noise=0.25)


class _Examples:
    """Images that depend on the number of the split and the index alone, computed when read."""

    def __init__(self, split: str, count: int, channels: int, settings: dict):
        self._split = split
        self._number = int.from_bytes(hashlib.sha256(split.encode()).digest()[:8])
        self._count = count
        self._channels = channels
        self._settings = settings

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> dict:
        if not 0 <= index < self._count:
            raise IndexError(index)
        settings = self._settings
        label = index % settings['classes']
        shape = (settings['height'], settings['width'], self._channels)
        random = np.random.Philox(key=[self._number, index])
        bits = random.random_raw(-(-math.prod(shape) // 8) + 1)
        noise = bits[1:].view(np.uint8)[:math.prod(shape)].reshape(shape)
        wave = _wave(label, settings['classes'], shape, bits[0] / 2**64)
        # Integer arithmetic on the pixels, so that a benchmark of decoding does not wait for this.
        share = np.uint16(round(256 * settings['noise']))
        image = (wave * (1 - share / np.float32(256))).astype(np.uint8)[..., None] + (
            noise * share >> 8).astype(np.uint8)
        if settings['encoded']:
            file = io.BytesIO()
            Image.fromarray(image.squeeze(-1) if shape[-1] == 1 else image).save(
                file, settings['encoded'])
            image = file.getvalue()
        return {'image': image, 'label': label, 'name': f'synthetic/{self._split}[{index}]'}

    def labels(self) -> np.ndarray:
        return np.arange(self._count, dtype=np.int32) % np.int32(self._settings['classes'])


def _wave(label: int, classes: int, shape: tuple[int, ...], phase: float) -> np.ndarray:
    """Returns the wave of a class, float32 (H, W) from 0 to 255."""
    angle = math.pi * label / classes
    turns = 2 * math.pi * (2 + label % 3)  # waves per side
    y = (np.arange(shape[0]) / shape[0] * (turns * math.sin(angle))).astype(np.float32)
    x = (np.arange(shape[1]) / shape[1] * (turns * math.cos(angle))).astype(np.float32)
    x += np.float32(2 * math.pi * phase)
    # sin(x + y), as outer products of short vectors
    return 127.5 + 127.5 * (np.outer(np.sin(y), np.cos(x)) + np.outer(np.cos(y), np.sin(x)))


def open_split(split: str, options: dict) -> Source:
    """Opens 'train', or 'test' (also 'val', 'held_out' ...), which has a tenth as many images.

    Options: examples (of train), classes, height, width (pixels), encoded ('' for arrays, 'jpeg'
    or 'png'), noise (0 to 1, its share of a pixel). Channels are config.data.channels.
    """
    settings = source_options(options, **DEFAULTS)
    split = splits.resolve(split, ('train', *splits.HELD_OUT), f'config.data: no split {split!r}')
    limits = dict(examples=(1, 2**40), classes=(2, 100_000), height=(1, 8192),
                  width=(1, 8192), noise=(0, 1))
    for name, (low, high) in limits.items():
        if not low <= settings[name] <= high:
            raise ConfigError(f'config.data.options.{name}: takes {low} to {high}, got '
                              f'{settings[name]}')
    if settings['encoded'] not in ('', 'jpeg', 'png'):
        raise ConfigError("config.data.options.encoded: takes '', 'jpeg' or 'png', got "
                          f'{settings["encoded"]!r}')
    count = settings['examples'] if split == 'train' else -(-settings['examples'] // 10)
    examples = _Examples(split, count, options['channels'], settings)
    words = [f'{name}={value}' for name, value in sorted(settings.items())]
    mark = fingerprint([' '.join([split, str(options['channels']), *words])])
    names = tuple(str(number) for number in range(settings['classes']))
    return Source(examples, names, mark, examples.labels)
