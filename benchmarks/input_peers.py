"""The loaders of others on the same JPEGs, for benchmarks/input_pipeline.py; needs no imgjax.

    PYTHON input_peers.py FOLDER    # a worker: a line of stdin per measurement, JSON on stdout

A request is '<loader> <seconds>'; the answer has 'images', 'cpu' and 'wall' (seconds), or 'error'.
The first answer lists the loaders that this interpreter can run.
"""

import io
import json
import math
import os
import pathlib
import random
import sys
import time

import numpy as np

SIZE, BATCH = 224, 128


def box(width, height):
    """torchvision's RandomResizedCrop: (left, top, w, h)."""
    for _ in range(10):
        area = width * height * random.uniform(0.08, 1.0)
        aspect = math.exp(random.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return random.randint(0, width - w), random.randint(0, height - h), w, h
    side = min(width, height)
    return (width - side) // 2, (height - side) // 2, side, side


def finish(image):
    from PIL import Image
    left, top, w, h = box(*image.size)
    image = image.crop((left, top, left + w, top + h)).resize((SIZE, SIZE), Image.BILINEAR)
    if random.random() < 0.5:
        image = image.transpose(Image.FLIP_LEFT_RIGHT)
    return np.array(image)


def load_with_pillow(encoded):
    """A torch-style loader: default_loader, RandomResizedCrop (bilinear), flip, to array."""
    from PIL import Image
    return finish(Image.open(io.BytesIO(encoded)).convert('RGB'))


def load_with_simplejpeg(encoded):
    import simplejpeg
    from PIL import Image
    return finish(Image.fromarray(simplejpeg.decode_jpeg(encoded)))


def decode_only(encoded):
    import simplejpeg
    return simplejpeg.decode_jpeg(encoded)


class Files:
    """A map-style torch data set of the images, repeated."""

    def __init__(self, encoded):
        self.encoded = encoded

    def __len__(self):
        return 10**9

    def __getitem__(self, index):
        return load_with_pillow(self.encoded[index % len(self.encoded)])


def loop(load):
    """Returns an endless stream of batches that are loaded one image after the other."""
    def batches(encoded):
        at = 0
        while True:
            yield np.stack([load(encoded[(at + i) % len(encoded)]) for i in range(BATCH)])
            at += BATCH
    return batches


def limit(encoded):
    """Decodes whole images with libjpeg-turbo and drops them."""
    at = 0
    while True:
        for i in range(BATCH):
            decode_only(encoded[(at + i) % len(encoded)])
        at += BATCH
        yield range(BATCH)


def torch_batches(encoded):
    """torch's DataLoader with its two worker processes."""
    from torch.utils.data import DataLoader
    yield from DataLoader(Files(encoded), batch_size=BATCH, num_workers=2, shuffle=False)


def tf_batches(encoded):
    """tf.data: decode_and_crop_jpeg of the random box, bilinear resize, flip, on two threads."""
    os.environ['TF_CPP_MIN_LOG_LEVEL'] = '3'
    import tensorflow as tf

    def load(content):
        begin, size, _ = tf.image.sample_distorted_bounding_box(
            tf.image.extract_jpeg_shape(content), tf.zeros([1, 0, 4]), area_range=(0.08, 1.0),
            aspect_ratio_range=(3 / 4, 4 / 3), min_object_covered=0.0, max_attempts=10,
            use_image_if_no_bounding_boxes=True)
        window = tf.concat([begin[:2], size[:2]], 0)
        image = tf.image.decode_and_crop_jpeg(content, window, channels=3)
        image = tf.image.random_flip_left_right(tf.image.resize(image, [SIZE, SIZE]))
        return tf.cast(image, tf.uint8)

    data = tf.data.Dataset.from_tensor_slices(list(encoded)).repeat()
    data = data.map(load, num_parallel_calls=2).batch(BATCH, drop_remainder=True).prefetch(1)
    yield from data.as_numpy_iterator()


LOADERS = {
    'pillow': (loop(load_with_pillow), ('PIL',)),
    'pillow+simplejpeg': (loop(load_with_simplejpeg), ('PIL', 'simplejpeg')),
    'decode only': (limit, ('simplejpeg',)),
    'torch DataLoader': (torch_batches, ('PIL', 'torch')),
    'tf.data': (tf_batches, ('tensorflow',)),
}

AHEAD = ('torch DataLoader', 'tf.data')  # load while nobody asks


def cpu(process='self') -> float:
    """Returns CPU seconds of a process and of all that it started, from Linux's /proc."""
    try:
        stat = pathlib.Path(f'/proc/{process}/stat').read_text().rpartition(')')[2].split()
        used = sum(map(int, stat[11:15])) / os.sysconf('SC_CLK_TCK')
        for task in pathlib.Path(f'/proc/{process}/task').iterdir():
            used += sum(map(cpu, (task / 'children').read_text().split()))
    except OSError:  # it has ended
        return 0.0
    return used


def main(folder: str) -> None:
    import importlib.util
    encoded = [path.read_bytes() for path in sorted(pathlib.Path(folder).rglob('*.jpg'))]
    able = [name for name, (_, needs) in LOADERS.items()
            if all(importlib.util.find_spec(module) for module in needs)]
    print(json.dumps(able), flush=True)
    streams = {}
    for line in sys.stdin:
        name, _, seconds = line.strip().rpartition(' ')
        if name not in streams:
            streams[name] = LOADERS[name][0](encoded)
        for _ in range(6 if name in AHEAD else 1):  # what was loaded between two measurements
            next(streams[name])
        images, cpu_0, wall = 0, cpu(), time.perf_counter()
        while time.perf_counter() - wall < float(seconds):
            images += len(next(streams[name]))
        print(json.dumps({'images': images, 'cpu': cpu() - cpu_0,
                          'wall': time.perf_counter() - wall}), flush=True)


if __name__ == '__main__':
    main(sys.argv[1])
