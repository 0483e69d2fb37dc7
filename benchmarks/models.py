"""The table of all models, docs/reference/models.md: parameters, FLOPs, published accuracy, speed.

    python -m benchmarks.models --count
    python -m benchmarks.models --measure=resnet50,vit_small_patch16_224

--count counts the parameters and FLOPs of every variant from its traced shapes, without an array;
--measure measures the images per second of these variants on this machine. What they find is stored
beside the page (counted.csv, speed.csv), and the page is written from it. Published accuracies and
names of weights are facts of others, in published.csv; the page names their source.
"""

import csv
import importlib
import os
import pathlib
import statistics
import sys
import time

import jax
import jax.numpy as jnp
from absl import app, flags
from tqdm import tqdm

from imgjax import models
from imgjax.perf import flops
from imgjax.process import backend

_COUNT = flags.DEFINE_bool('count', False, 'Count the parameters and FLOPs of all variants anew.')
_MEASURE = flags.DEFINE_list('measure', [], 'Variants whose images per second are measured.')
_BATCH = flags.DEFINE_integer('batch', 8, 'Images of one call that is measured.')
_ROUNDS = flags.DEFINE_integer('rounds', 5, 'Calls of which the median is taken.')

FOLDER = pathlib.Path(__file__).resolve().parent.parent / 'docs' / 'reference'
USUAL_SIZE = 224
SIZES = {'lenet5': 32, 'mlp': 32, 'cnn': 32, 'rnn': 32, 'gru': 32, 'lstm': 32, 'bigru': 32,
         'bilstm': 32}  # of those that are for small images; `_cifar` and `wrn_` are, too
SMALL = 32

INTRODUCTION = """# Models

`models.create('VARIANT', num_classes=10)` builds a model, and `--config.model.name=VARIANT` trains
it. Options of its family, such as `act`, `dropout` and `drop_path`, win over the variant's:
`--config.model.options.act=silu`.

Here are {count} variants of {families} families, counted by `python -m benchmarks.models
--count`. Each family also has a tiny one for tests, `tiny_FAMILY`.

- **Parameters** are counted at 1,000 classes (networks for small images at 10), in millions.
- **Image** is the side in pixels that the weights were trained at. Other sizes work where the
  architecture allows it.
- **GFLOPs** are those of one image forward at this size; a multiply-add counts as two
  (`imgjax/perf/flops.py`).
- **Top-1** is the published accuracy of these weights on ImageNet's 50,000 validation images, in
  percent, and the side at which it was measured. It is timm's own measurement
  ([results-imagenet.csv](https://github.com/huggingface/pytorch-image-models/blob/main/results/results-imagenet.csv),
  revision 0173a139), or torchvision's where the weights are torchvision's. Weights that are
  younger than that table have none here.
- **Weights** are timm's default for the variant, what `--config.init.weights` takes
  ([Weights](../guides/weights.md)), with their licence. Those of torchvision are files
  to be given as `torchvision:FILE`.
- **Images/s** is the speed of the forward pass in float32{measured}. Compare rows by it; other
  machines have other figures.
"""


def main(_) -> None:
    published = _read('published.csv')
    if _COUNT.value:
        _write('counted.csv', {name: dict(zip(
            ('variant', 'parameters', 'flops'), (name, *count(name, image_size(name, published))),
            strict=True)) for name in tqdm(_variants(), unit='model', file=sys.stderr)})
    if _MEASURE.value:
        measure(_MEASURE.value, published)
    (FOLDER / 'models.md').write_text(page(_read('counted.csv'), published, _read('speed.csv')))


def _variants() -> dict[str, str]:
    """Returns {variant: family} without the tiny variants for tests."""
    return {name: family for name, family in models.variants().items()
            if not name.startswith('tiny_')}


def page(counted: dict, published: dict, speed: dict) -> str:
    """Returns the text of docs/reference/models.md."""
    variants = _variants()
    how = next(iter(speed.values()), None)
    measured = (f', in batches of {how["batch"]} on {how["machine"]}, by `python -m '
                'benchmarks.models --measure=VARIANT`' if how else '')
    sections = [INTRODUCTION.format(count=len(variants), families=len(models.families()),
                                    measured=measured)]
    for family in models.families():
        module = importlib.import_module(f'imgjax.models.{family}')
        rows = [name for name, of in variants.items() if of == family]
        if rows:
            about = module.__doc__.strip().splitlines()[0]
            sections.append(f'## {family}\n\n{about}\n\n' + _table(rows, counted, published, speed))
    return '\n'.join(sections)


def _table(rows: list[str], counted: dict, published: dict, speed: dict) -> str:
    lines = ['| variant | parameters, M | image | GFLOPs | top-1, % | images/s | weights |',
             '|---|---|---|---|---|---|---|']
    for name in rows:
        found = published.get(name, {})
        parameters, operations = (int(counted[name][column]) for column in ('parameters', 'flops'))
        top1 = f'{float(found["top1"]):.2f} ({found["top1_image"]})' if found.get('top1') else ''
        weights = f'`{found["weights"]}`' if found.get('weights') else ''
        if weights and found['classes'] not in ('', '1000'):
            weights += f', {found["classes"]} classes'.replace(' 0 ', ' no ')
        if weights and found['licence']:
            weights += f', {found["licence"]}'
        rate = f'{float(speed[name]["images_per_second"]):.3g}' if name in speed else ''
        lines.append(f'| `{name}` | {parameters / 1e6:.2f} | {image_size(name, published)} | '
                     f'{operations / 1e9:.2f} | {top1} | {rate} | {weights} |')
    return '\n'.join(lines) + '\n'


def image_size(name: str, published: dict) -> int:
    """Returns the side in pixels at which a variant is counted and measured."""
    if published.get(name, {}).get('image'):
        return int(published[name]['image'])
    small = name.endswith('_cifar') or name.startswith(('wrn_', 'densenet_bc'))
    return SMALL if small else SIZES.get(name, USUAL_SIZE)


def count(name: str, size: int) -> tuple[int, int]:
    """Returns the numbers of parameters and of forward FLOPs of a variant; no array is made."""
    model = models.create(name, num_classes=10 if size == SMALL else 1000)
    image = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    variables = jax.eval_shape(
        lambda image: model.init(jax.random.key(0), image, train=False), image)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(variables['params']))
    traced = jax.make_jaxpr(lambda v, x: model.apply(v, x, train=False)[0])(variables, image)
    return parameters, flops.count(traced)


def measure(names: list[str], published: dict) -> None:
    """Adds the images per second of these variants to speed.csv, all in turns."""
    backend.keep_memory()
    calls = {}
    for name in tqdm(names, unit='model', desc='compiling', file=sys.stderr):
        size = image_size(name, published)
        model = models.create(name, num_classes=10 if size == SMALL else 1000)
        images = jax.random.normal(jax.random.key(1), (_BATCH.value, size, size, 3))
        variables = model.init(jax.random.key(0), images[:1], train=False)
        forward = jax.jit(lambda v, x, model=model: model.apply(v, x, train=False)[0],
                          compiler_options=backend.compiler_options())
        forward(variables, images).block_until_ready()
        calls[name] = lambda f=forward, v=variables, x=images: f(v, x).block_until_ready()
    seconds = {name: [] for name in names}
    for _ in tqdm(range(_ROUNDS.value), unit='round', desc='measuring', file=sys.stderr):
        for name, call in calls.items():
            begin = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - begin)
    machine = f'{os.cpu_count()} cores of {_processor()}'
    rows = _read('speed.csv') | {name: {
        'variant': name, 'images_per_second': f'{_BATCH.value / statistics.median(times):.4g}',
        'batch': str(_BATCH.value), 'machine': machine} for name, times in seconds.items()}
    _write('speed.csv', rows)


def _processor() -> str:
    lines = pathlib.Path('/proc/cpuinfo').read_text().splitlines()
    return next((line.split(':')[1].strip() for line in lines if line.startswith('model name')),
                'an unknown processor')


def _read(name: str) -> dict[str, dict]:
    """Returns {variant: its row} of a file of docs/reference/."""
    if not (FOLDER / name).exists():
        return {}
    with (FOLDER / name).open(newline='') as file:
        return {row['variant']: row for row in csv.DictReader(file)}


def _write(name: str, rows: dict[str, dict]) -> None:
    with (FOLDER / name).open('w', newline='') as file:
        writer = csv.DictWriter(file, list(next(iter(rows.values()))), lineterminator='\n')
        writer.writeheader()
        writer.writerows(rows[variant] for variant in sorted(rows))


if __name__ == '__main__':
    app.run(main)
