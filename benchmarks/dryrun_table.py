"""What bounds the training of seven networks on slices of 8, 64 and 256 TPU v5e chips.

    python -m benchmarks.dryrun_table                     # every row, 64 images a chip
    python -m benchmarks.dryrun_table --models=resnet50 --topologies=v5e:2x4

Each row is a dry run of configs/imagenet_resnet50.py with the model, the batch and, but for the
ResNets, the optimizer exchanged: bfloat16, images of 224 pixels, flipped. It takes `imgjax[tpu]`.
"""

import json
import subprocess
import sys

from absl import app, flags

MODELS = {
    'vit_small_patch16_224': 'adamw', 'vit_base_patch16_224': 'adamw',
    'vit_large_patch16_224': 'adamw', 'vit_huge_patch14_224': 'adamw',
    'resnet50': 'sgd', 'resnet152': 'sgd', 'convnext_base': 'adamw',
}
_MODELS = flags.DEFINE_list('models', list(MODELS), 'Which networks.')
_TOPOLOGIES = flags.DEFINE_list('topologies', ['v5e:2x4', 'v5e:8x8', 'v5e:16x16'], 'Which slices.')
_IMAGES = flags.DEFINE_integer('images', 64, 'Images a chip.')


def dry_run(model: str, topology: str) -> dict:
    """Returns the result, whether it fits or not."""
    chips = 1
    for side in topology.partition(':')[2].split('x'):
        chips *= int(side)
    done = subprocess.run(
        [sys.executable, '-m', 'launch.dryrun', '--config=configs/imagenet_resnet50.py',
         f'--topology={topology}', f'--config.model.name={model}',
         f'--config.optimizer.name={MODELS[model]}',
         f'--config.batch_size={_IMAGES.value * chips}'],
        capture_output=True, text=True)
    if not done.stdout:
        raise RuntimeError(done.stderr[-2000:])
    return json.loads(done.stdout.splitlines()[-1])


def row(model: str, name: str, found: dict) -> str:
    """Returns a line of the table; `name` says what was changed to make it fit, or nothing."""
    peak = '–' if found['peak_bytes'] is None else f'{found["peak_bytes"] / 2**30:.1f}'
    start = f'| {model}{name} | {found["devices"]} | {"yes" if found["fits"] else "no"} | {peak} |'
    if 'bounds' not in found:
        return f'{start} | | | | | {found["compile_seconds"]:.0f} |'
    bounds = ' | '.join(f'{1e3 * seconds:.2f}' for seconds in found['bounds'].values())
    return (f'{start} {bounds} | {100 * found["mfu_bound"]:.0f} % | '
            f'{found["images_per_second_bound"]:,.0f} | {found["compile_seconds"]:.0f} |')


def main(_) -> None:
    print('| model | chips | fits | peak, GiB | compute, ms | HBM, ms | interconnect, ms | '
          'MFU at most | images/s at most | compiled in, s |')
    print('|---|---|---|---|---|---|---|---|---|---|', flush=True)
    for model in _MODELS.value:
        for topology in _TOPOLOGIES.value:
            found = dry_run(model, topology)
            print(row(model, '', found), flush=True)
            for change in found.get('tries', []):
                print(row(model, f', {change["change"]}', change), flush=True)


if __name__ == '__main__':
    app.run(main)
