"""Batches of decoded images: batch k is a pure function of (seed, k).

position -> sampler -> read -> decode -> batch. All of it has random access, so that a batch depends
on neither workers nor hosts nor restarts.
"""

import concurrent.futures
import functools
import itertools
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing import resource_tracker

import grain
import numpy as np
from absl import flags

from imgjax import data
from imgjax.data import Source, decode
from imgjax.errors import WorkerError

# Examples that a thread reads and decodes in one go, at most. A source that reads many at once gets
# them in large parts; of others the parts are small, so that the threads end a batch together.
CHUNK, CHUNK_AT_ONCE = 16, 128
# What an unreadable image's `fault` says, 1 for the first; 0 is none.
FAULTS = decode.KINDS


def native_size(source: Source, options: dict) -> int:
    """Returns the side of the source's images, 0 unless they are small squares of one size.

    Small means up to 8/7 of config.data.usual_size, such as 256 for 224. It reads the headers of 64
    images, spread over the split.

    Raises:
      Unreadable: none of these is an image.
    """
    picked = np.unique(np.linspace(0, len(source.examples) - 1, 64).astype(int))
    found, complaint = set(), None
    for example in data.read(source, picked):
        try:
            found.add(decode.image_size(example, options))
        except decode.Unreadable as error:
            complaint = complaint or error
    if not found:
        raise complaint
    (width, height), *others = found
    small = width == height <= options['usual_size'] * 8 // 7
    return width if not others and small else 0


@functools.cache
def _threads() -> concurrent.futures.ThreadPoolExecutor:
    # Decoding releases Python's lock. More threads than cores, as reading waits for the disk.
    return concurrent.futures.ThreadPoolExecutor(thread_name_prefix='decode')


def load(source: Source, options: dict, size: int, indices: np.ndarray, *,
         positions: np.ndarray | None = None, seed: int = 0, strict: bool = False,
         watch=iter) -> dict:
    """Decodes the examples at these indices with all threads; returns them as one batch.

    The batch is {'image': uint8 (n, size, size, C), 'label': int32 (n,) or float32 (n, K),
    'weight': float32 (n,), 'fault': uint8 (n,)}. An image that cannot be decoded is black and has
    weight 0, and `fault` is the number of its kind in FAULTS, counted from 1.

    Args:
      source: the split.
      options: config.data.
      size: side of the images in pixels.
      indices: int64 (n,).
      positions: int64 (n,), places in the stream of training examples. The random crop depends on
        them, so that any number of processes or workers cuts the same crops. None decodes the
        images as for evaluation.
      seed: the seed of the crops.
      strict: whether to raise Unreadable instead.
      watch: gets an iterable with an item per decoded example, and may raise to stop the decoding.
    """
    cropped = positions is not None and options['train_crop'] == 'random_resized'
    count = len(indices)
    several = source.multi_label
    batch = {
        'image': np.zeros((count, size, size, options['channels']), np.uint8),
        'label': np.zeros((count, len(source.class_names)) if several else count,
                          np.float32 if several else np.int32),
        'weight': np.ones(count, np.float32), 'fault': np.zeros(count, np.uint8)}

    at_once = hasattr(source.examples, '__getitems__')
    share = -(-count // (os.cpu_count() or 1)) if at_once else count // 8
    stride = max(1, min(share, CHUNK_AT_ONCE if at_once else CHUNK))

    def fill(first: int) -> range:
        rows = range(first, min(first + stride, count))
        for row, example in zip(rows, data.read(source, indices[rows.start:rows.stop]),
                                strict=True):
            batch['label'][row] = example['label']
            try:
                rng = np.random.Generator(
                    np.random.Philox(key=[seed, positions[row]])) if cropped else None
                batch['image'][row] = decode.pixels(example, options, size, rng)
            except decode.Unreadable as error:
                if strict:
                    raise
                batch['weight'][row] = 0.0
                batch['fault'][row] = 1 + FAULTS.index(error.kind)
        return rows

    futures = [_threads().submit(fill, first) for first in range(0, count, stride)]
    try:
        for _ in watch(row for future in futures for row in future.result()):
            pass
    finally:  # after an error or a stop it does not wait for the rest
        for future in futures:
            future.cancel()
    return batch


def train_batches(source: Source, draw: Callable, options: dict, size: int, *,
                  batch_size: int, seed: int,
                  process: tuple[int, int] = (0, 1)) -> grain.MapDataset:
    """Returns the rows of this process in every batch; item k belongs to step k.

    Process p of c holds rows p*n to (p+1)*n - 1 of each batch of batch_size = c*n:
    {'position': int64 (n,), 'index': int64 (n,) of the examples, 'image': uint8
    (n, size, size, C), and label, weight and fault as `load` has them}.

    >>> import numpy as np
    >>> from imgjax import config
    >>> from imgjax.data import pipeline
    >>> from imgjax.data.sources import arrays
    >>> from imgjax.samplers import shuffle
    >>> source = arrays.source(np.zeros((6, 8, 8, 3), np.uint8), np.arange(6) % 2)
    >>> batches = pipeline.train_batches(
    ...     source, shuffle.order(source, {}, seed=0), config.defaults()['data'], size=8,
    ...     batch_size=2, seed=0)
    >>> batches[4]['image'].shape, batches[4]['label'].shape, batches[4]['position'].tolist()
    ((2, 8, 8, 3), (2,), [8, 9])

    Args:
      source: the training split.
      draw: positions -> example indices, as of build.draw.
      options: config.data.
      size: side of the images in pixels.
      batch_size: examples per batch over all processes.
      seed: the seed of the random crops.
      process: (index, count) of this process.
    """
    index, count = process
    share = batch_size // count

    def batch(step: int) -> dict:
        positions = int(step) * batch_size + index * share + np.arange(share, dtype=np.int64)
        indices = draw(positions)
        return {'position': positions, 'index': indices,
                **load(source, options, size, indices, positions=positions, seed=seed)}

    return grain.MapDataset.range(2**62).map(batch)


def eval_batches(source: Source, options: dict, size: int, *, batch_size: int,
                 process: tuple[int, int] = (0, 1)) -> grain.MapDataset:
    """Returns the rows of this process in batches that hold every example exactly once.

    The last batch is filled up with copies of example 0 whose `mask` is False:
    {'index': int64 (n,), 'image': uint8 (n, size, size, C), 'label': int32 (n,) or float32 (n, K),
    'mask': bool (n,)}. An image that cannot be decoded is an error here, as a metric of
    the split has to include all of its images.

    >>> import numpy as np
    >>> from imgjax import config
    >>> from imgjax.data import pipeline
    >>> from imgjax.data.sources import arrays
    >>> source = arrays.source(np.zeros((3, 8, 8, 3), np.uint8), np.array([0, 1, 0]))
    >>> batches = pipeline.eval_batches(source, config.defaults()['data'], 8, batch_size=2)
    >>> len(batches), batches[1]['image'].shape, batches[1]['mask'].tolist()
    (2, (2, 8, 8, 3), [True, False])
    """
    index, count = process
    share = batch_size // count
    total = len(source.examples)

    def batch(place: int) -> dict:
        numbers = int(place) * batch_size + index * share + np.arange(share, dtype=np.int64)
        mask = numbers < total
        loaded = load(source, options, size, np.where(mask, numbers, 0), strict=True)
        return {'index': numbers, 'image': loaded['image'], 'label': loaded['label'], 'mask': mask}

    return grain.MapDataset.range(-(-total // batch_size)).map(batch)


def iterate(batches: grain.MapDataset, workers: int, first: int = 0) -> Iterator[dict]:
    """Yields batches[first], batches[first + 1], ..., decoded ahead of time.

    Args:
      batches: what `train_batches` or `eval_batches` returns.
      workers: the number of decoding processes; 0 decodes in threads of this one.
      first: the batch to begin with.
    """
    # With two batches in progress the threads are busy also where one batch ends.
    stream = batches[first:].to_iter_dataset(
        grain.ReadOptions(num_threads=2, prefetch_buffer_size=2))
    if workers:
        if not flags.FLAGS.is_parsed():  # Grain's workers read flags, which a script may not parse
            flags.FLAGS.mark_as_parsed()
        _silence_resource_tracker()
        stream = stream.mp_prefetch(
            grain.MultiprocessingOptions(num_workers=workers), worker_init_fn=_end_with_parent)
        return _from_workers(stream)
    return iter(stream)


def _silence_resource_tracker() -> None:
    """Silences the warnings of the tracker of shared memory about what it frees.

    A run ends without the interpreter's finalizers, so that the tracker always frees something; its
    lines would come after the one that says how the run ended.
    """
    quiet = 'ignore::UserWarning:multiprocessing.resource_tracker'
    others = os.environ.get('PYTHONWARNINGS', '')
    if quiet not in others:
        os.environ['PYTHONWARNINGS'] = ','.join(filter(None, (others, quiet)))


def _from_workers(stream: grain.IterDataset) -> Iterator[dict]:
    try:
        # A terminal sends Ctrl-C to the decoding processes too, but the run continues until it has
        # saved. They inherit the blocked signal from their first instruction on, and the other
        # threads here receive it. The tracker of shared memory would unblock it as it starts.
        resource_tracker.ensure_running()
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            items = iter(stream)
            first = list(itertools.islice(items, 1))  # this starts the processes
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        yield from first
        yield from items
    except RuntimeError as error:
        if 'Worker process was terminated' not in str(error):
            raise
        raise WorkerError('a decoding process was ended from outside (config.data.workers; out of '
                          'memory?); the same command goes on from the newest checkpoint') from None


def _end_with_parent(index: int, count: int) -> None:
    """Ends a decoding process when its parent is gone, also after kill -9."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(0)

    threading.Thread(target=watch, daemon=True, name='parent watch').start()


def load_all(source: Source, options: dict, size: int, watch=iter) -> dict:
    """Decodes a whole split; the arguments and the result are those of `load`.

    >>> import numpy as np
    >>> from imgjax import config
    >>> from imgjax.data import pipeline
    >>> from imgjax.data.sources import arrays
    >>> source = arrays.source(np.zeros((3, 8, 8, 3), np.uint8), np.array([0, 1, 0]))
    >>> batch = pipeline.load_all(source, config.defaults()['data'], size=8)
    >>> batch['image'].shape, batch['label'].tolist()
    ((3, 8, 8, 3), [0, 1, 0])
    """
    return load(source, options, size, np.arange(len(source.examples)), watch=watch)
