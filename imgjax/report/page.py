"""The HTML page of one run: a single file that opens anywhere and asks the network for nothing.

The page is a pure function of its inputs (the same run gives the same bytes), so it holds no date.
Curves are inline SVG and everything else is HTML, so that one style sheet sets the colours of light
and dark mode for both.
"""

import base64
import json
import math
import pathlib
from collections.abc import Sequence

import jinja2
import numpy as np

from imgjax.errors import first_few
from imgjax.process.duration import duration_text
from imgjax.report import answers, plots
from imgjax.report.answers import Evaluation
from imgjax.report.text import MISSING, number, percent, short
from imgjax.rundir import files

MATRIX_CLASSES = 30  # with more classes the page lists the worst pairs in place of a matrix
PAIRS_SHOWN = 25
IMAGE_BUDGET = 2_500_000  # base64 characters of pictures, so that a page stays below 3 MB


def write_page(
    path,
    *,
    config: dict,
    config_hash: str,
    rows: list[dict],
    evaluation: Evaluation,
    environment: dict,
    result: dict,
    history: Sequence[str] = (),
    in_percent: Sequence[str] = (),
    own_metrics: Sequence[str] = (),
) -> None:
    """Writes the page of a run to `path`, which at no time is an incomplete file.

    The folder must exist. `render_page` documents the other arguments and the errors.
    """
    path = pathlib.Path(path)
    text = render_page(config=config, config_hash=config_hash, rows=rows, evaluation=evaluation,
                       environment=environment, result=result, history=history,
                       in_percent=in_percent, own_metrics=own_metrics)
    with files.replacing(path) as file:
        file.write(text)


def render_page(
    *,
    config: dict,
    config_hash: str,
    rows: list[dict],
    evaluation: Evaluation,
    environment: dict,
    result: dict,
    history: Sequence[str] = (),
    in_percent: Sequence[str] = (),
    own_metrics: Sequence[str] = (),
) -> str:
    """Returns the page of a run as HTML.

    Args:
        config: nested plain JSON; `name` becomes the title.
        config_hash: the hash of the config, shown unchanged.
        rows: the rows of metrics.jsonl, in any order. If a resumed run wrote a step again, the
            later row is used. Missing, null and non-finite values are left out of the curves.
        evaluation: the answers on one split.
        environment: a flat dict of versions, host, devices and command.
        result: any of `accuracy`, `top5_accuracy` (shown for more than five classes), `split`,
            `loss`, `step`, `examples`, `workdir`, `state_digest`, `parameters`, `train_seconds`.
        history: sentences that say at which step the run continued with other settings.
        in_percent: the names of measures, besides `accuracy`, that are shown in percent.
        own_metrics: the names of the measures in `result` that config.metrics adds.

    Raises:
        ValueError: the arrays of the evaluation do not fit together, or a picture is not a PNG.
    """
    answers.check(evaluation)
    curves, dropped = plots.curves(rows, in_percent)
    classes = len(evaluation.class_names)
    pairs = answers.confused_pairs(evaluation)
    workdir = str(result.get('workdir') or '')
    return templates().get_template('page.html').render(
        title=str(config.get('name') or pathlib.Path(workdir).name or 'run'),
        headline=_headline(evaluation),
        top5=plots.value(result, 'top5_accuracy') if classes > 5 else math.nan,
        tiles=_tiles(rows, evaluation, result, in_percent, own_metrics),
        identity=[(label, value) for label, value in (
            ('run', workdir), ('config', config_hash), ('state', result.get('state_digest')))
            if value],
        notes=[*history, *_notes(rows, evaluation, result, dropped)],
        curves=curves,
        split=evaluation.split,
        names=evaluation.class_names,
        several=evaluation.average_precisions is not None,
        examples=len(evaluation.labels),
        matrix=_matrix(evaluation) if classes <= MATRIX_CLASSES else None,
        pairs=pairs[:PAIRS_SHOWN],
        pair_count=len(pairs),
        per_class=answers.per_class(evaluation),
        calibration=answers.calibration(evaluation),
        errors=int(np.sum(np.asarray(evaluation.labels) != np.asarray(evaluation.predictions))),
        **_pictures(evaluation),
        config=flatten(config),
        environment=flatten(environment),
    )


def templates() -> jinja2.Environment:
    """Returns the environment of this folder's templates, with the filters that they use."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(pathlib.Path(__file__).parent),
        autoescape=True,  # names of classes and files come from datasets
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(percent=percent, number=number)
    return environment


def _headline(evaluation):
    labels = np.asarray(evaluation.labels)
    n = len(labels)
    correct = int(np.sum(labels == np.asarray(evaluation.predictions)))
    low, high = answers.wilson(correct, n)
    return {
        'accuracy': correct / n if n else math.nan, 'low': low, 'high': high, 'correct': correct,
        'largest': float(np.bincount(labels).max() / n) if n else math.nan,
    }


def _tiles(rows, evaluation, result, in_percent, own_metrics):
    """Returns the figures beside the headline as tuples (label, value, remark)."""
    last = {row.get('split'): row for row in rows}.get('train', {})
    speeds = [plots.value(row, 'perf.images_per_second') for row in rows
              if row.get('split') == 'train']
    speeds = [speed for speed in speeds if math.isfinite(speed)]
    parameters = result.get('parameters')
    precisions = evaluation.average_precisions
    tiles = [] if precisions is None else [
        ('mAP', percent(np.nanmean(precisions)), 'mean average precision of the classes')]
    tiles += [(name.replace('_', ' '), (percent if name in in_percent else number)(
        plots.value(result, name)), evaluation.split) for name in own_metrics]
    tiles += [
        (f'{evaluation.split} loss', number(evaluation.loss), 'nats per example'),
        ('train loss', number(plots.value(last, 'loss')), 'last logged'),
        ('steps', number(result.get('step', last.get('step'))), ''),
        ('parameters', short(parameters), number(parameters)),
        ('training time', duration_text(result.get('train_seconds')), ''),
        ('images/s', short(np.median(speeds)) if speeds else MISSING, 'median in training'),
    ]
    return [tile for tile in tiles if tile[1] != MISSING]


def _notes(rows, evaluation, result, dropped):
    """Returns sentences that a reader must know before believing the figures."""
    notes = []
    labels = np.asarray(evaluation.labels)
    n, correct = len(labels), int(np.sum(labels == np.asarray(evaluation.predictions)))
    if result.get('split', evaluation.split) == evaluation.split:
        stated = plots.value(result, 'accuracy')
        # Half an example allows for rounding in float32, but not for one different answer.
        if n and math.isfinite(stated) and abs(stated * n - correct) > 0.5:
            notes.append(f'The run recorded an accuracy of {percent(stated)}, but the predictions '
                         f'here give {percent(correct / n)}.')
        if evaluation.average_precisions is not None:
            notes.append(
                'Images have several labels. Accuracy is the share of images whose likeliest class '
                f'is one of their labels, over the {number(n)} of '
                f'{number(result.get("examples"))} images that have a label. A confusion is '
                'between that class and the likeliest of the labels.')
        elif result.get('examples') not in (None, n):
            notes.append(f'The run recorded {number(result["examples"])} examples; '
                         f'here are {number(n)}.')
    absent = _absent(evaluation)
    if absent and n:
        notes.append(f'{evaluation.split} has no images of {number(len(absent))} of the '
                     f'{number(len(evaluation.class_names))} classes ({first_few(absent)}): '
                     'all figures are about the others.')
    skipped = [plots.value(row, 'skipped_updates', 0) for row in rows]
    skipped = max((count for count in skipped if math.isfinite(count)), default=0)
    if skipped > 0:
        notes.append(f'Updates skipped in training: {number(skipped)}.')
    if dropped:
        notes.append('Logged values that are not finite, and so not drawn: '
                     f'{number(dropped)}.')
    not_finite = int(np.sum(~np.isfinite(np.asarray(evaluation.confidences, np.float64))))
    if not_finite:
        notes.append('Confidences that are not finite, and so not in the calibration: '
                     f'{number(not_finite)}.')
    return notes


def _absent(evaluation):
    """Returns the names of the classes that have no image in the split."""
    is_present = np.bincount(evaluation.labels, minlength=len(evaluation.class_names)) > 0
    if evaluation.average_precisions is not None:
        is_present = np.isfinite(evaluation.average_precisions)
    return [name for name, present in zip(evaluation.class_names, is_present, strict=True)
            if not present]


def _matrix(evaluation):
    """Returns the rows of the confusion matrix.

    A row is a tuple (true class, examples, cells), a cell a tuple (count, shade, hover text).
    """
    names = evaluation.class_names
    labels, predictions = np.asarray(evaluation.labels), np.asarray(evaluation.predictions)
    counts = np.zeros((len(names), len(names)), np.int64)
    np.add.at(counts, (labels, predictions), 1)
    table = []
    for i, row in enumerate(counts):
        cells = []
        for j, count in enumerate(row):
            share = count / row.sum() if count else 0.0
            # Errors are rare: by the square root one in fifty still gets a visible shade.
            shade = share if i == j else math.sqrt(share)
            hover = (f'{names[i]} taken for {names[j]}: ' if i != j else f'{names[i]}, right: ')
            cells.append((int(count), round(shade, 2),
                          hover + f'{count} of {row.sum()} ({percent(share, 1)})'))
        table.append((names[i], int(row.sum()), cells))
    return table


def _pictures(evaluation):
    """Returns the most confident errors as data URIs, as many as fit in IMAGE_BUDGET."""
    pictures, spent = [], 0
    for example in evaluation.worst:
        shown = picture(example['image'], example['name'])
        spent += len(shown['uri'])
        if spent > IMAGE_BUDGET:
            break
        pictures.append(shown | {
            'label': evaluation.class_names[example['label']],
            'prediction': evaluation.class_names[example['prediction']],
            'confidence': example['confidence'],
        })
    return {'pictures': pictures, 'pictures_left_out': len(evaluation.worst) - len(pictures)}


def picture(png: bytes, name: str) -> dict:
    """Returns what a template needs to show a PNG: {uri, width, height, small, name}.

    `uri` is a data URI, the size is in pixels, and `small` images are shown without smoothing.

    Raises:
        ValueError: the bytes are not a PNG.
    """
    if png[:8] != b'\x89PNG\r\n\x1a\n' or len(png) < 24:
        raise ValueError(f'the image of {name!r} is not a PNG')
    width, height = (int.from_bytes(png[i:i + 4], 'big') for i in (16, 20))  # in the header chunk
    return {'uri': f'data:image/png;base64,{base64.b64encode(png).decode("ascii")}',
            'width': width, 'height': height, 'small': max(width, height) < 128, 'name': name}


def flatten(tree, prefix=''):
    """Returns the leaves of nested dicts as [('hparams.learning_rate', '0.001'), ...].

    Strings stay as they are; other values are written as JSON.
    """
    leaves = []
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            leaves += flatten(value, f'{prefix}{key}.')
        else:
            text = value if isinstance(value, str) else json.dumps(value, default=str)
            leaves.append((f'{prefix}{key}', text))
    return leaves
