"""Images a second from JPEG bytes to uint8 batches: ours, other loaders, and the limit.

    python -m benchmarks.input_pipeline --peer_python=/venv/with/torch/and/tensorflow/bin/python

Every loader decodes the same JPEGs, cuts a random-resized crop of 224 pixels, flips it and fills
batches of 128. They take turns, so that a busy machine slows all of them. What counts is images
per second of CPU time, over all threads and processes; the ratio is to a torch-style loader
(Pillow's decoding, torchvision's crop) in the same round. Medians over the rounds.
"""

import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile

import cv2
import numpy as np
from absl import app, flags

from configs import base
from imgjax import data
from imgjax.commands import reduce
from imgjax.data import decode, jpeg, pipeline
from imgjax.samplers import shuffle

ROOT = pathlib.Path(__file__).parents[1]
_IMAGES = flags.DEFINE_string(
    'images', str(ROOT.parent / 'shared/data/imagenet_sample_200.zip'),
    'A zip or a folder of JPEGs.')
_ROUNDS = flags.DEFINE_integer('rounds', 7, 'How often each loader has its turn.')
_SECONDS = flags.DEFINE_float('seconds', 2.0, 'Least time of a turn.')
_PEER_PYTHON = flags.DEFINE_string(
    'peer_python', sys.executable,
    'Interpreter of the other loaders; those whose packages it lacks are left out.')
SIZE, BATCH = 224, 128
RESIZES = ('linear', 'bilinear', 'bicubic')
OPTIONS = base.get_config().to_dict()['data'] | dict(
    image_size=SIZE, channels=3, train_crop='random_resized')
DECODERS = {'simplejpeg': None, 'nvimgcodec': jpeg.nvimgcodec}


def read_images() -> list[bytes]:
    """Returns the content of every JPEG of --images, in the order of their names."""
    path, endings = pathlib.Path(_IMAGES.value), ('.jpg', '.jpeg')
    if not path.exists():
        raise app.UsageError(f'--images: {path}: no such zip or folder')
    if path.is_dir():
        return [p.read_bytes() for p in sorted(path.iterdir()) if p.suffix.lower() in endings]
    with zipfile.ZipFile(path) as archive:
        names = sorted(n for n in archive.namelist() if n.lower().endswith(endings))
        return [archive.read(name) for name in names]


def write_folder(images: list[bytes], folder: str) -> str:
    """Writes them as FOLDER/train/<class>/<number>.jpg, which it returns as a data.path."""
    for i, image in enumerate(images):
        path = pathlib.Path(folder, 'train', 'ab'[i % 2], f'{i:05}.jpg')
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image)
    return folder


def ours_one_by_one(images: list[bytes], resize: str):
    """Yields batches of `decode.pixels` on one thread, flipped here (a run flips on the device)."""
    examples = [{'image': image, 'name': str(i)} for i, image in enumerate(images)]
    options = OPTIONS | {'train_resize': resize}
    rng, at = np.random.default_rng(0), 0
    batch = np.empty((BATCH, SIZE, SIZE, 3), np.uint8)
    while True:
        for row in range(BATCH):
            image = decode.pixels(examples[at % len(examples)], options, SIZE, rng)
            batch[row] = cv2.flip(image, 1) if rng.random() < 0.5 else image
            at += 1
        yield batch


def ours_in_a_run(path: str, resize: str):
    """Yields the batches that a run trains on: files, order, crops, threads."""
    options = OPTIONS | {'name': 'folder', 'path': path, 'train_resize': resize}
    source = data.open_split('train', options)
    batches = pipeline.train_batches(
        source, shuffle.order(source, {}, 0), options, SIZE, batch_size=BATCH, seed=0)
    for batch in pipeline.iterate(batches, workers=0):
        yield batch['image']


class Ours:
    """A loader of this process, using one of DECODERS."""

    def __init__(self, make, decoder: str, *arguments):
        self._make, self._decoder, self._arguments = make, decoder, arguments

    def measure(self) -> tuple[float, float]:
        """Returns images per second of CPU time, and of wall time."""
        jpeg.nvimgcodec = DECODERS[self._decoder]
        stream = self._make(*self._arguments)
        for _ in range(4 if self._make is ours_in_a_run else 1):  # what is loaded ahead
            next(stream)
        images, cpu, wall = 0, time.process_time(), time.perf_counter()
        while time.perf_counter() - wall < _SECONDS.value:
            images += len(next(stream))
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        stream.close()
        if self._make is ours_in_a_run:
            time.sleep(1.0)  # its threads finish what they began, outside of the clock
        return images / cpu, images / wall


class Peer:
    """A loader of benchmarks/input_peers.py, in a process of its own."""

    def __init__(self, name: str, folder: str):
        self._name = name
        self._process = subprocess.Popen(
            [_PEER_PYTHON.value, str(ROOT / 'benchmarks/input_peers.py'), folder], text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        self.able = json.loads(self._process.stdout.readline())

    def measure(self) -> tuple[float, float]:
        """As Ours.measure."""
        print(f'{self._name} {_SECONDS.value}', file=self._process.stdin, flush=True)
        line = self._process.stdout.readline()
        if not line:
            raise app.UsageError(f'--peer_python: the loader {self._name!r} failed there')
        found = json.loads(line)
        return found['images'] / found['cpu'], found['images'] / found['wall']

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()


def loaders(images: list[bytes], small: list[bytes], folders: tuple) -> tuple[dict, list[str]]:
    """Returns {name: loader}, the torch-style one first, and the names of those left out."""
    found, left_out = {}, []
    for name, shown in (('pillow', 'torch-style: Pillow, bilinear'),
                        ('pillow+simplejpeg', 'torch-style, decoded by simplejpeg'),
                        ('torch DataLoader', 'torch-style in a DataLoader, 2 workers'),
                        ('tf.data', 'tf.data: decode_and_crop_jpeg, resize, 2 threads'),
                        ('decode only', 'libjpeg-turbo decodes the whole image, no more')):
        peer = Peer(name, folders[0])
        if name in peer.able:
            found[shown] = peer
        else:
            peer.close()
            left_out.append(shown)
    for decoder, module in DECODERS.items():
        if module is None and decoder != 'simplejpeg':
            left_out.append('ours with nvimgcodec')
            continue
        notes = ('', ', prepared copy')
        for files, folder, note in zip((images, small), folders, notes, strict=True):
            for resize in RESIZES:
                found[f'ours, {decoder}, {resize}{note}'] = Ours(
                    ours_one_by_one, decoder, files, resize)
            found[f'a run, {decoder}, linear, all cores{note}'] = Ours(
                ours_in_a_run, decoder, folder, 'linear')
    return found, left_out


def main(_) -> None:
    images = read_images()
    small = [reduce.reduce({'image': image, 'name': ''}, OPTIONS, 320, 90)[0]
             for image in images]
    with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as second:
        folders = (write_folder(images, first), write_folder(small, second))
        found, left_out = loaders(images, small, folders)
        speeds = {name: [] for name in found}
        for _ in range(_ROUNDS.value):
            for name, loader in found.items():
                speeds[name].append(loader.measure())
        for loader in found.values():
            if isinstance(loader, Peer):
                loader.close()
    show(speeds, left_out, len(images))


def show(speeds: dict, left_out: list[str], count: int) -> None:
    reference = next(iter(speeds.values()))
    print(f'{count} images, {_ROUNDS.value} rounds of {_SECONDS.value:g} s, {os.cpu_count()} cores'
          '\n')
    print('| loader | images per CPU second | images per second | ratio per CPU second |')
    print('|---|---|---|---|')
    for name, runs in speeds.items():
        per_cpu, per_wall = (statistics.median(column) for column in zip(*runs, strict=True))
        ratio = statistics.median(a[0] / b[0] for a, b in zip(runs, reference, strict=True))
        print(f'| {name} | {per_cpu:.0f} | {per_wall:.0f} | {ratio:.2f} |')
    if left_out:
        print(f'\nLeft out, for want of their packages: {"; ".join(left_out)}')


if __name__ == '__main__':
    app.run(main)
