"""The 15 common corruptions beside the package `imagecorruptions`, on the CPU: time per image.

    python -m benchmarks.corruptions --peer_python=/venv/with/imagecorruptions/bin/python

All are at severity 3 on random images of one size. Ours are compiled and warm and work on a batch;
the package works on one image after the other. Both take turns in processes of their own, so that
a busy machine slows both; times are medians over the rounds.
"""

import statistics
import sys

from absl import app, flags

from benchmarks import turns

_PEER_PYTHON = flags.DEFINE_string(
    'peer_python', sys.executable, 'Interpreter that has imagecorruptions-imaug.')
_SIZE = flags.DEFINE_integer('size', 224, 'Side of the images in pixels.')
_BATCH = flags.DEFINE_integer('batch', 16, 'Images of one call of ours.')
_ROUNDS = flags.DEFINE_integer('rounds', 5, 'How often each has its turn.')
_SECONDS = flags.DEFINE_float('seconds', 0.5, 'About how long a turn lasts; at least one call.')

NAMES = ('gaussian_noise', 'shot_noise', 'impulse_noise', 'defocus_blur', 'glass_blur',
         'motion_blur', 'zoom_blur', 'snow', 'frost', 'fog', 'brightness', 'contrast',
         'elastic_transform', 'pixelate', 'jpeg_compression')


def main(_) -> None:
    print('| corruption | ours, ms per image | the package | its time / ours |')
    print('|---|---|---|---|', flush=True)
    totals = [0.0, 0.0]
    for name in NAMES:
        wanted = {'name': name, 'size': _SIZE.value, 'batch': _BATCH.value}
        ways = {title: turns.Way('corruptions_way', wanted | {'ours': title == 'ours'},
                                 python=sys.executable if title == 'ours' else _PEER_PYTHON.value)
                for title in ('ours', 'package')}
        for way in ways.values():
            way.begin()
        times = turns.in_turns({title: way.run for title, way in ways.items()}, _ROUNDS.value,
                               _SECONDS.value)
        # A call of ours is a batch, one of the package's an image.
        times['ours'] = [seconds / _BATCH.value for seconds in times['ours']]
        medians = [statistics.median(times[title]) for title in ('ours', 'package')]
        totals = [total + median for total, median in zip(totals, medians, strict=True)]
        print(f'| {name} | {1000 * medians[0]:.2f} | {1000 * medians[1]:.2f} | '
              f'{turns.ratio(times["package"], times["ours"])} |', flush=True)
        for way in ways.values():
            way.close()
    print(f'| all 15 | {1000 * totals[0]:.2f} | {1000 * totals[1]:.2f} | '
          f'{totals[1] / totals[0]:.2f} |')
    print(f'\n{_SIZE.value} px, severity 3, {_BATCH.value} images a batch, {_ROUNDS.value} rounds; '
          'ratios are medians (lowest to highest)')


if __name__ == '__main__':
    app.run(main)
