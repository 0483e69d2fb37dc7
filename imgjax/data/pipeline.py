"""Which examples make batch k, and their pixels: a pure function of (seed, step).

position -> order -> load -> batch, all in random access, so that neither workers nor hosts nor a
restart change a batch. A position is the global number of an example in the endless stream of
training: batch k holds the positions k*N to k*N + N - 1.
"""

import concurrent.futures
import functools
import os
import threading
import time
from collections.abc import Iterator

import grain
import numpy as np
from absl import flags

from imgjax.data import Source, decode
from imgjax.errors import DataError


def image_shape(source: Source, options: dict) -> tuple[int, int, int]:
    """Returns (H, W, C) of the decoded images.

    Raises:
      DataError: image_size is 0 and the first image is not square, so there is no one size.
    """
    if options['image_size']:
        return (options['image_size'], options['image_size'], options['channels'])
    example = source.examples[0]
    width, height = decode.decode(example['image'], options['channels'], example['name']).size
    if width != height:
        raise DataError(f'{example["name"]}: is {width}x{height}; set config.data.image_size to '
                        'the side that images shall have')
    return (height, width, options['channels'])


def pixels(example: dict, options: dict, size: int, rng=None) -> np.ndarray:
    """Returns uint8 (size, size, C) of one example, randomly cropped when `rng` is given."""
    image = decode.decode(example['image'], options['channels'], example['name'])
    if rng is not None:
        return decode.random_resized_crop(image, size, rng)
    if options['image_size']:
        return decode.center_crop(image, size, options['eval_crop_fraction'])
    if image.size != (size, size):
        raise DataError(f'{example["name"]}: is {image.size[0]}x{image.size[1]} where the first '
                        f'image is {size}x{size}; set config.data.image_size')
    return decode.as_array(image)


@functools.lru_cache(maxsize=4)
def _epoch_order(num_examples: int, seed: int, epoch: int) -> np.ndarray:
    # Sorting raw bits, as NumPy promises to keep a bit generator's stream but no shuffle of it.
    # Grain's index_shuffle needs no memory but 40 us an index: 22,000 images/s at best.
    bits = np.random.Philox(key=[seed, epoch]).random_raw(num_examples)
    return np.argsort(bits, kind='stable')


def order(positions: np.ndarray, num_examples: int, seed: int) -> np.ndarray:
    """Returns the example index at each position, int64 of the same shape.

    Every epoch holds every example once, in an order of its own.
    """
    epochs, places = np.divmod(positions, num_examples)
    indices = np.empty(positions.shape, np.int64)
    for epoch in np.unique(epochs):
        here = epochs == epoch
        indices[here] = _epoch_order(num_examples, seed, int(epoch))[places[here]]
    return indices


def batch_positions(step: int, batch_size: int, steps: int = 1) -> np.ndarray:
    """Returns the positions of the batches step ... step + steps - 1, int64, one after another."""
    return step * batch_size + np.arange(steps * batch_size, dtype=np.int64)


def train_batches(source: Source, options: dict, size: int, *, batch_size: int, seed: int,
                  process: tuple[int, int] = (0, 1)) -> grain.MapDataset:
    """Returns this process's rows of every batch; item k belongs to step k.

    Process p of c holds rows p*n to (p+1)*n - 1 of each batch of batch_size = c*n:
    {'position': int64 (n,), 'image': uint8 (n, size, size, C), 'label': int32 (n,)}.

    Args:
      source: the training split.
      options: plain config['data'].
      size: side of the images in pixels.
      batch_size: examples of a batch over all processes.
      seed: of the order and of the random crops.
      process: (index, count) of this process.
    """
    index, count = process
    share = batch_size // count

    def load(local):
        step, row = divmod(int(local), share)
        position = step * batch_size + index * share + row
        # Crops follow the position: another number of processes or workers cuts the same ones.
        rng = np.random.Generator(np.random.Philox(key=[seed, position]))
        example = source.examples[int(order(np.int64([position]), len(source.examples), seed)[0])]
        crop = rng if options['train_crop'] == 'random_resized' else None
        return {'position': np.int64(position), 'image': pixels(example, options, size, crop),
                'label': np.int32(example['label'])}

    return grain.MapDataset.range(2**62).map(load).batch(share)


def iterate(batches: grain.MapDataset, workers: int, first: int = 0) -> Iterator[dict]:
    """Yields batches[first], batches[first + 1], ... decoded ahead of time.

    Args:
      batches: as `train_batches` or `eval_batches` returns.
      workers: decoding processes; 0 decodes in threads of this one.
      first: the batch to begin with.
    """
    stream = batches[first:].to_iter_dataset(
        grain.ReadOptions(num_threads=16, prefetch_buffer_size=16))
    if workers:
        if not flags.FLAGS.is_parsed():  # Grain's workers read flags, also from a script
            flags.FLAGS.mark_as_parsed()
        stream = stream.mp_prefetch(
            grain.MultiprocessingOptions(num_workers=workers), worker_init_fn=_end_with_parent)
    return iter(stream)


def _end_with_parent(index: int, count: int) -> None:
    """Ends a decoding process when the one that started it is gone, also by kill -9."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(0)

    threading.Thread(target=watch, daemon=True, name='parent watch').start()


def load_all(source: Source, options: dict, size: int, watch=iter) -> dict:
    """Decodes a whole split: {'image': uint8 (N, size, size, C), 'label': int32 (N,)}.

    Decodes in threads; `watch` gets an iterable that comes to an end with them, an item an example,
    and may raise to stop them.
    """
    images = np.empty((len(source.examples), size, size, options['channels']), np.uint8)
    labels = np.empty(len(source.examples), np.int32)

    def load(index: int) -> None:
        example = source.examples[index]
        images[index] = pixels(example, options, size)
        labels[index] = example['label']

    threads = concurrent.futures.ThreadPoolExecutor(max_workers=os.cpu_count())
    try:
        for _ in watch(threads.map(load, range(len(source.examples)))):
            pass
    finally:  # an error, or a stop, does not wait for the rest
        threads.shutdown(cancel_futures=True)
    return {'image': images, 'label': labels}


def eval_batches(source: Source, options: dict, size: int, *, batch_size: int,
                 process: tuple[int, int] = (0, 1)) -> grain.MapDataset:
    """Returns this process's rows of the batches that hold every example exactly once.

    The last batch is filled up with copies of example 0 whose `mask` is False:
    {'index': int64 (n,), 'image': uint8 (n, size, size, C), 'label': int32 (n,),
    'mask': bool (n,)}.
    """
    index, count = process
    share = batch_size // count
    total = len(source.examples)

    def load(local):
        batch, row = divmod(int(local), share)
        number = batch * batch_size + index * share + row
        example = source.examples[number if number < total else 0]
        return {'index': np.int64(number), 'image': pixels(example, options, size),
                'label': np.int32(example['label']), 'mask': np.bool_(number < total)}

    return grain.MapDataset.range(-(-total // batch_size) * share).map(load).batch(share)
