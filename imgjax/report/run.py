"""Collects the data that the page of a run shows, and writes the page."""

import io
import os
import platform
import socket
import statistics
import sys
from importlib import metadata

import jax
import numpy as np
from PIL import Image

from imgjax import config as config_lib
from imgjax import parts
from imgjax.build import Setup
from imgjax.config import Config
from imgjax.data import Source, decode
from imgjax.evaluate import Columns
from imgjax.metrics import labelled, mean_average_precision
from imgjax.report import page
from imgjax.report.answers import Evaluation
from imgjax.rundir import history, redact

WORST = 24  # how many of the most confident errors the page shows


def write(workdir: str, setup: Setup, rows: list[dict], results: Columns, source: Source,
          result: dict) -> str:
    """Writes report.html and environment.json; returns the path of the page.

    Args:
      workdir: the run directory.
      setup: the setup of the run.
      rows: the rows of metrics.jsonl.
      results: the columns of the evaluation at the last step.
      source: the split that was evaluated; the pictures of the worst errors are read from it.
      result: the result that the run prints as its last line.
    """
    environment_info = environment()
    config_lib.write_json(os.path.join(workdir, 'environment.json'), environment_info)
    path = os.path.join(workdir, 'report.html')
    page.write_page(
        path, config=setup.config, config_hash=config_lib.digest(setup.config), rows=rows,
        evaluation=_evaluation(setup, results, source, result), environment=environment_info,
        result=result, history=history.lines(workdir),
        in_percent=[name for name, metric in setup.metrics.items() if metric.percent],
        own_metrics=own_metrics(setup.config))
    return path


def own_metrics(config: Config) -> list[str]:
    """Returns the names of what config.metrics adds to the measures that every page shows."""
    return [name for chosen in parts.chosen(config) if chosen.kind == 'metric'
            and chosen.name not in parts.ALWAYS
            for name in chosen.part.METRICS]


def _evaluation(setup: Setup, results: Columns, source: Source, result: dict) -> Evaluation:
    """Returns the answers as the page shows them.

    An image with several labels is counted under the one to which the model gives the highest
    probability. Images without any label are used for the average precisions only.
    """
    labels, shown = results['labels'], np.flatnonzero(labelled(results['labels']))
    precisions = None
    if 'probabilities' in results:
        precisions = mean_average_precision.by_class(labels, results['probabilities'])
        labels = np.where(labels > 0, results['probabilities'], -1.0).argmax(axis=1)
    labels = labels[shown]
    return Evaluation(
        split=result['split'], class_names=setup.dataset.class_names, labels=labels,
        predictions=results['predictions'][shown], confidences=results['confidences'][shown],
        worst=_worst(setup, results, labels, shown, source), loss=result['loss'],
        average_precisions=precisions)


def table(result: dict, rows: list[dict], own: list[str]) -> str:
    """Returns the result of a run and the paths of its files, as a few lines for people.

    `own` has the names of the measures that config.metrics adds, see `own_metrics`.
    """
    workdir = result['workdir']
    speeds = [row['perf']['images_per_second'] for row in rows
              if row.get('perf', {}).get('images_per_second')]
    precision = result.get('mean_average_precision')
    lines = ({'mAP': f'{precision:.2%}'} if precision is not None else {}) | {
        'accuracy': f'{result["accuracy"]:.2%} of {result["examples"]:,} {result["split"]} images',
        'loss': f'{result["loss"]:.4f}',
        **{name: f'{result[name]:.4f}' for name in own if result.get(name) is not None},
        'steps': f'{result["step"]:,}',
        'parameters': f'{result["parameters"]:,}',
        'time': f'{result["seconds"]:.1f} s, {result["train_seconds"]:.1f} s of it in steps',
        **({'unreadable': f'{result["unreadable_images"]} training images, weight 0, listed in '
                          f'{os.path.join(workdir, "unreadable.jsonl")}'}
           if result['unreadable_images'] else {}),
        'speed': f'{statistics.median(speeds):,.0f} images/s (median)' if speeds else '-',
        'checkpoint': os.path.join(workdir, 'checkpoints', str(result['step'])),
        'metrics': os.path.join(workdir, 'metrics.jsonl'),
        'TensorBoard': f'tensorboard --logdir={os.path.join(workdir, "tensorboard")}',
        'report page': os.path.join(workdir, 'report.html'),
    }
    return '\n'.join(f'  {name:<12} {text}' for name, text in lines.items())


def environment() -> dict:
    """Returns {name: value} of what a result may depend on besides the config."""
    packages = ('imgjax', 'jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'grain', 'numpy')
    return {
        'command': redact.text(' '.join(sys.argv)), 'host': socket.gethostname(),
        'platform': platform.platform(), 'python': platform.python_version(),
        'devices': f'{jax.device_count()} x {jax.devices()[0].device_kind}',
        'processes': jax.process_count(), 'cpus': os.cpu_count(),
    } | {name: _version(name) for name in packages}


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return 'not installed'


def _worst(setup: Setup, results: Columns, labels: np.ndarray, shown: np.ndarray,
           source: Source) -> list[dict]:
    """Returns the most confident errors with their pictures, the most confident first."""
    wrong = np.flatnonzero(labels != results['predictions'][shown])
    order = np.argsort(-results['confidences'][shown[wrong]], kind='stable')
    pictures = []
    for place in wrong[order][:WORST].tolist():
        index = int(shown[place])
        example = source.examples[index]
        pixels = decode.pixels(example, setup.config.data, setup.dataset.image_shape[0])
        png = io.BytesIO()
        Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels).save(png, 'PNG')
        pictures.append({
            'image': png.getvalue(), 'label': int(labels[place]),
            'prediction': int(results['predictions'][index]),
            'confidence': float(results['confidences'][index]), 'name': example['name']})
    return pictures
