"""Does the loop wait for data, and does memory grow?

    python -m benchmarks.loader                      # 10,000 batches of 32 images of 32x32
    python -m benchmarks.loader --step_ms=20 --batches=2000 --workers=2

A step of the given length that leaves the host alone (as an accelerator's does) takes batches of
JPEGs, decoded from memory; the share of the time that it waits for them, and the growth of this
process and its workers in MB per 1,000 batches (least squares, without the first tenth).
"""

import time

import numpy as np
import psutil
from absl import app, flags

from configs import base
from imgjax import data
from imgjax.data import pipeline
from imgjax.samplers import shuffle

_BATCHES = flags.DEFINE_integer('batches', 10_000, 'How many batches are taken.')
_STEP_MS = flags.DEFINE_float('step_ms', 20.0, 'Length of a step in ms; 0 takes them at full speed')
_BATCH_SIZE = flags.DEFINE_integer('batch_size', 32, 'Images of a batch.')
_SIZE = flags.DEFINE_integer('size', 32, 'Side of the images in pixels.')
_WORKERS = flags.DEFINE_integer('workers', 0, 'Decoding processes; 0 decodes in threads.')


def main(_) -> None:
    options = base.get_config().data.to_dict() | dict(
        name='synthetic', image_size=_SIZE.value, train_crop='random_resized',
        train_resize='linear', options=dict(
            examples=2_000, classes=10, height=_SIZE.value, width=_SIZE.value, encoded='jpeg'))
    source = data.open_split('train', options)
    # Encoded once: making them is no part of what a loader does.
    source = source._replace(examples=list(source.examples))
    stream = pipeline.iterate(pipeline.train_batches(
        source, shuffle.order(source, {}, 0), options, _SIZE.value,
        batch_size=_BATCH_SIZE.value, seed=0), _WORKERS.value)
    process = psutil.Process()
    next(stream)  # threads and workers start
    waited, memory, began = 0.0, [], time.monotonic()
    for count in range(_BATCHES.value):
        at = time.monotonic()
        next(stream)
        waited += time.monotonic() - at
        if _STEP_MS.value:
            time.sleep(_STEP_MS.value / 1000)
        if count % max(1, _BATCHES.value // 200) == 0:
            family = [process, *process.children(recursive=True)]
            memory.append((count, sum(each.memory_info().rss for each in family) / 2**20))
    seconds = time.monotonic() - began
    places, megabytes = np.array(memory[len(memory) // 10:]).T
    slope = np.polyfit(places, megabytes, 1)[0] * 1000
    print('| batches | step, ms | images/s | waiting for data | MB at the end '
          '| MB / 1,000 batches |')
    print('|---|---|---|---|---|---|')
    print(f'| {_BATCHES.value} | {_STEP_MS.value:g} | '
          f'{_BATCHES.value * _BATCH_SIZE.value / seconds:.0f} | {waited / seconds:.2%} | '
          f'{megabytes[-1]:.0f} | {slope:+.2f} |')


if __name__ == '__main__':
    app.run(main)
