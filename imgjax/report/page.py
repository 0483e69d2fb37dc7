"""The HTML page of one run: a single file that opens anywhere and asks the network for nothing.

The page is a pure function of its inputs (the same run gives the same bytes), so it holds no date.
Curves are drawn by matplotlib as inline SVG in CSS colours, everything else is HTML: light and
dark mode are then one style sheet's business.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import math
import os
import pathlib
import re

import jinja2
import numpy as np

MATRIX_CLASSES = 30  # a larger confusion matrix is wallpaper: list its worst pairs instead
PAIRS_SHOWN = 25
CALIBRATION_BINS = 10
POINTS_PER_LINE = 800  # what a plot of this width can show
IMAGE_BUDGET = 2_500_000  # base64 characters of pictures, so that a page stays below 3 MB
MISSING = '–'

_BLACK = '#000000'  # what matplotlib draws text and axes in; becomes currentColor
_SERIES = ('#a00001', '#a00002', '#a00003', '#a00004')  # become var(--series-1) ...


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What a model answered on every example of one split.

    Attributes:
        split: name of the split, such as 'test'.
        class_names: C names; labels and predictions index them.
        labels: int[N], the true classes.
        predictions: int[N], the classes of highest probability.
        confidences: float[N], the probability of the predicted class, 0 to 1.
        worst: the most confident errors, worst first, each a dict of `image` (PNG bytes), `label`
            and `prediction` (int), `confidence` (0 to 1) and `name`.
        loss: mean loss over the split, in nats.
    """

    split: str
    class_names: list[str]
    labels: np.ndarray
    predictions: np.ndarray
    confidences: np.ndarray
    worst: list[dict]
    loss: float


def write_page(
    path,
    *,
    config: dict,
    config_hash: str,
    rows: list[dict],
    evaluation: Evaluation,
    environment: dict,
    result: dict,
) -> None:
    """Writes the page of a run to `path`; a reader sees the old page or the new one, whole.

    The folder must exist; for the other arguments see `render_page`.
    """
    path = pathlib.Path(path)
    text = render_page(config=config, config_hash=config_hash, rows=rows, evaluation=evaluation,
                       environment=environment, result=result)
    # Not tempfile: its files are readable by their owner only, and pages are shared.
    temporary = path.with_name(f'.{path.name}.{os.getpid()}.tmp')
    try:
        temporary.write_text(text, encoding='utf-8')
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def render_page(
    *,
    config: dict,
    config_hash: str,
    rows: list[dict],
    evaluation: Evaluation,
    environment: dict,
    result: dict,
) -> str:
    """Returns the page of a run as HTML.

    Args:
        config: nested plain JSON; `name` becomes the title.
        config_hash: hash of the config, shown as it is.
        rows: rows of metrics.jsonl, in any order; where a resumed run wrote a step again, the
            later row counts. Missing, null and non-finite values are left out of the curves.
        evaluation: the answers on one split.
        environment: versions, host, devices, command: a flat dict.
        result: any of `accuracy`, `split`, `loss`, `step`, `examples`, `workdir`, `state_digest`,
            `parameters`, `train_seconds`.
    """
    _check(evaluation)
    curves, dropped = _curves(rows)
    classes = len(evaluation.class_names)
    pairs = confused_pairs(evaluation)
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(pathlib.Path(__file__).parent),
        autoescape=True,  # class and file names come from data sets
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters.update(percent=_percent, number=_number)
    workdir = str(result.get('workdir') or '')
    return templates.get_template('page.html').render(
        title=str(config.get('name') or pathlib.Path(workdir).name or 'run'),
        headline=_headline(evaluation),
        tiles=_tiles(rows, evaluation, result),
        identity=[(label, value) for label, value in (
            ('run', workdir), ('config', config_hash), ('state', result.get('state_digest')))
            if value],
        notes=_notes(rows, evaluation, result, dropped),
        curves=curves,
        split=evaluation.split,
        names=evaluation.class_names,
        examples=len(evaluation.labels),
        matrix=_matrix(evaluation) if classes <= MATRIX_CLASSES else None,
        pairs=pairs[:PAIRS_SHOWN],
        pair_count=len(pairs),
        per_class=per_class(evaluation),
        calibration=calibration(evaluation),
        errors=int(np.sum(np.asarray(evaluation.labels) != np.asarray(evaluation.predictions))),
        **_pictures(evaluation),
        config=_flatten(config),
        environment=_flatten(environment),
    )


def wilson(correct: int, examples: int, z: float = 1.959964) -> tuple[float, float]:
    """Returns the Wilson score interval of a proportion, (nan, nan) for no examples.

    Unlike the normal approximation it stays inside [0, 1] and keeps a width at 100%.

    Args:
        correct: number of successes.
        examples: number of trials.
        z: normal quantile; the default gives 95%.
    """
    if not examples:
        return math.nan, math.nan
    p, n = correct / examples, examples
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return max(0.0, centre - half), min(1.0, centre + half)


def confused_pairs(evaluation: Evaluation) -> list[dict]:
    """Returns the pairs of classes taken for one another, the most frequent first.

    Each is a dict of `label`, `prediction` (int), `count` and `share` (of the label's examples).
    """
    labels, predictions = np.asarray(evaluation.labels), np.asarray(evaluation.predictions)
    classes = len(evaluation.class_names)
    support = np.bincount(labels, minlength=classes)
    # Not a matrix: it would be gigabytes for the 21k classes of ImageNet-21k.
    wrong = labels != predictions
    codes, counts = np.unique(
        labels[wrong].astype(np.int64) * classes + predictions[wrong], return_counts=True)
    order = np.argsort(-counts, kind='stable')
    return [
        {'label': int(code // classes), 'prediction': int(code % classes), 'count': int(count),
         'share': count / support[code // classes]}
        for code, count in zip(codes[order], counts[order], strict=True)
    ]


def per_class(evaluation: Evaluation) -> list[dict]:
    """Returns, for every class, `examples`, `precision`, `recall`, `f1` and `confused`.

    A ratio of nothing is nan: the recall of a class without examples, the precision of one that
    was never predicted. `confused` is the commonest wrong answer (a dict of `confused_pairs`) or
    None.
    """
    labels, predictions = np.asarray(evaluation.labels), np.asarray(evaluation.predictions)
    classes = len(evaluation.class_names)
    support = np.bincount(labels, minlength=classes)
    predicted = np.bincount(predictions, minlength=classes)
    hits = np.bincount(labels[labels == predictions], minlength=classes)
    confused = {}
    for pair in confused_pairs(evaluation):
        confused.setdefault(pair['label'], pair)
    ratio = lambda a, b: float(a / b) if b else math.nan  # noqa: E731
    return [
        {'index': i, 'name': name, 'examples': int(support[i]),
         'precision': ratio(hits[i], predicted[i]), 'recall': ratio(hits[i], support[i]),
         'f1': ratio(2 * hits[i], support[i] + predicted[i]), 'confused': confused.get(i)}
        for i, name in enumerate(evaluation.class_names)
    ]


def calibration(evaluation: Evaluation, bins: int = CALIBRATION_BINS) -> dict:
    """Returns the expected calibration error and the bins of equal width behind it.

    The result holds `ece` (0 to 1), `gap` (mean confidence less accuracy: positive for an
    over-confident model) and `bins`, each of `low`, `high`, `count`, `accuracy`, `confidence`.
    """
    confidences = np.asarray(evaluation.confidences, np.float64)
    hits = np.asarray(evaluation.labels) == np.asarray(evaluation.predictions)
    finite = np.isfinite(confidences)
    confidences, hits = confidences[finite], hits[finite]
    index = np.clip((confidences * bins).astype(np.int64), 0, bins - 1)
    table, ece = [], 0.0
    for i in range(bins):
        mine = index == i
        count = int(mine.sum())
        accuracy = float(hits[mine].mean()) if count else math.nan
        confidence = float(confidences[mine].mean()) if count else math.nan
        if count:
            ece += count / len(hits) * abs(accuracy - confidence)
        table.append({'low': i / bins, 'high': (i + 1) / bins, 'count': count,
                      'accuracy': accuracy, 'confidence': confidence})
    if not len(hits):
        return {'ece': math.nan, 'gap': math.nan, 'bins': table}
    return {'ece': ece, 'gap': float(confidences.mean() - hits.mean()), 'bins': table}


def _check(evaluation):
    n = len(evaluation.labels)
    for field in ('predictions', 'confidences'):
        if len(getattr(evaluation, field)) != n:
            raise ValueError(
                f'evaluation.{field} has {len(getattr(evaluation, field))} entries, labels {n}')
    classes = len(evaluation.class_names)
    for field in ('labels', 'predictions'):
        values = np.asarray(getattr(evaluation, field))
        if n and (values.min() < 0 or values.max() >= classes):
            raise ValueError(
                f'evaluation.{field} spans {values.min()} to {values.max()}, '
                f'but there are {classes} class names')


def _headline(evaluation):
    labels = np.asarray(evaluation.labels)
    n = len(labels)
    correct = int(np.sum(labels == np.asarray(evaluation.predictions)))
    low, high = wilson(correct, n)
    return {
        'accuracy': correct / n if n else math.nan, 'low': low, 'high': high, 'correct': correct,
        'largest': float(np.bincount(labels).max() / n) if n else math.nan,
    }


def _tiles(rows, evaluation, result):
    """The figures beside the headline, as (label, value, remark)."""
    last = {row.get('split'): row for row in rows}.get('train', {})
    speeds = [_value(row, 'perf.images_per_second') for row in rows if row.get('split') == 'train']
    speeds = [speed for speed in speeds if math.isfinite(speed)]
    parameters = result.get('parameters')
    tiles = [
        (f'{evaluation.split} loss', _number(evaluation.loss), 'nats an example'),
        ('train loss', _number(_value(last, 'loss')), 'last logged'),
        ('steps', _number(result.get('step', last.get('step'))), ''),
        ('parameters', _short(parameters), _number(parameters)),
        ('training time', _duration(result.get('train_seconds')), ''),
        ('images/s', _short(np.median(speeds)) if speeds else MISSING, 'median in training'),
    ]
    return [tile for tile in tiles if tile[1] != MISSING]


def _notes(rows, evaluation, result, dropped):
    """What a reader must know before believing the figures."""
    notes = []
    labels = np.asarray(evaluation.labels)
    n, correct = len(labels), int(np.sum(labels == np.asarray(evaluation.predictions)))
    if result.get('split', evaluation.split) == evaluation.split:
        stated = _value(result, 'accuracy')
        # Half an example: room for float32, none for a different answer.
        if n and math.isfinite(stated) and abs(stated * n - correct) > 0.5:
            notes.append(f'The run recorded an accuracy of {_percent(stated)}, but the predictions '
                         f'here give {_percent(correct / n)}.')
        if result.get('examples') not in (None, n):
            notes.append(f'The run recorded {_number(result["examples"])} examples; '
                         f'here are {_number(n)}.')
    skipped = [_value(row, 'skipped_updates', 0) for row in rows]
    skipped = max((count for count in skipped if math.isfinite(count)), default=0)
    if skipped > 0:
        notes.append(f'Updates skipped in training: {_number(skipped)}.')
    if dropped:
        notes.append(f'Logged values that are not finite, and so not drawn: {_number(dropped)}.')
    unsure = int(np.sum(~np.isfinite(np.asarray(evaluation.confidences, np.float64))))
    if unsure:
        notes.append('Confidences that are not finite, and so not in the calibration: '
                     f'{_number(unsure)}.')
    return notes


def _matrix(evaluation):
    """Rows of the confusion matrix: (true class, examples, cells of (count, shade, hover text))."""
    names = evaluation.class_names
    labels, predictions = np.asarray(evaluation.labels), np.asarray(evaluation.predictions)
    counts = np.zeros((len(names), len(names)), np.int64)
    np.add.at(counts, (labels, predictions), 1)
    table = []
    for i, row in enumerate(counts):
        cells = []
        for j, count in enumerate(row):
            share = count / row.sum() if count else 0.0
            # Errors are few: the square root lets one of fifty be seen.
            shade = share if i == j else math.sqrt(share)
            hover = (f'{names[i]} taken for {names[j]}: ' if i != j else f'{names[i]}, right: ')
            cells.append((int(count), round(shade, 2),
                          hover + f'{count} of {row.sum()} ({_percent(share, 1)})'))
        table.append((names[i], int(row.sum()), cells))
    return table


def _pictures(evaluation):
    """The most confident errors as data URIs, as many as the page's budget holds."""
    pictures, spent = [], 0
    for example in evaluation.worst:
        png = example['image']
        if png[:8] != b'\x89PNG\r\n\x1a\n' or len(png) < 24:
            raise ValueError(f'evaluation.worst: the image of {example["name"]!r} is not a PNG')
        data = base64.b64encode(png).decode('ascii')
        spent += len(data)
        if spent > IMAGE_BUDGET:
            break
        width, height = (int.from_bytes(png[i:i + 4], 'big') for i in (16, 20))  # of IHDR
        pictures.append({
            'uri': f'data:image/png;base64,{data}', 'width': width, 'height': height,
            'small': max(width, height) < 128, 'name': example['name'],
            'label': evaluation.class_names[example['label']],
            'prediction': evaluation.class_names[example['prediction']],
            'confidence': example['confidence'],
        })
    return {'pictures': pictures, 'pictures_left_out': len(evaluation.worst) - len(pictures)}


def _curves(rows):
    """The curves that have data, as dicts for the template, and the count of values left out."""
    curves, dropped = [], 0
    for title, key, scale in (
        ('Loss', 'loss', 'loss'),
        ('Accuracy', 'accuracy', 'fraction'),
        ('Learning rate', 'learning_rate', 'zero'),
        ('Images per second', 'perf.images_per_second', 'zero'),
    ):
        series, missing = _series(rows, key)
        # An unknown speed is null and no harm; a loss that is null or NaN is news.
        dropped += missing if '.' not in key else 0
        if not series:
            continue
        show = (lambda v: _percent(v)) if scale == 'fraction' else _number
        legend = [(split, i % len(_SERIES) + 1, show(values[-1]))
                  for i, (split, (_, values)) in enumerate(series.items())]
        label = f'{title} against training step; last values: ' + ', '.join(
            f'{split} {last}' for split, _, last in legend)
        logarithmic = scale == 'loss' and _spans_decades(series)
        curves.append({
            'title': title, 'legend': legend, 'label': label, 'logarithmic': logarithmic,
            'svg': _draw(series, key, scale, logarithmic),
        })
    return curves, dropped


def _series(rows, key):
    """`{split: (steps, values)}` of finite values, train first, and how many were not finite."""
    table, missing = {}, 0
    for row in rows:
        step = _value(row, 'step')
        if not math.isfinite(step) or _get(row, key, MISSING) == MISSING:
            continue
        table.setdefault(str(row.get('split', 'train')), {})[step] = _value(row, key)
    series = {}
    for split in sorted(table, key=lambda name: name != 'train'):  # stable: then as they came
        steps = np.array(sorted(table[split]))
        values = np.array([table[split][step] for step in steps])
        finite = np.isfinite(values)
        missing += int(np.sum(~finite))
        if finite.any():
            series[split] = (steps[finite], values[finite])
    return series, missing


def _thin(steps, values):
    """Keeps the lowest and highest point of each stretch, so that no spike is lost."""
    if len(steps) <= POINTS_PER_LINE:
        return steps, values
    edges = np.linspace(0, len(steps), POINTS_PER_LINE // 2 + 1).astype(int)
    keep = {0, len(steps) - 1}
    for low, high in zip(edges[:-1], edges[1:], strict=True):
        keep |= {low + int(values[low:high].argmin()), low + int(values[low:high].argmax())}
    index = sorted(keep)
    return steps[index], values[index]


def _spans_decades(series):
    values = np.concatenate([v for _, v in series.values()])
    return bool(values.min() > 0 and values.max() > 20 * values.min())


def _draw(series, key, scale, logarithmic):
    """Draws the lines of one panel as an SVG element in CSS colours."""
    import io  # noqa: PLC0415

    import matplotlib  # noqa: PLC0415  (1.9 s: only who draws pays for it)
    from matplotlib import figure, ticker  # noqa: PLC0415

    # hashsalt: the ids of clip paths must differ between the SVGs of one page, not between runs.
    style = {'svg.fonttype': 'none', 'svg.hashsalt': key, 'font.size': 8.5, 'axes.linewidth': 0.6}
    with matplotlib.rc_context({**matplotlib.rcParamsDefault, **style}):
        fig = figure.Figure(figsize=(5.2, 2.5))
        fig.patch.set_visible(False)
        axes = fig.add_axes((0.1, 0.12, 0.88, 0.83))
        axes.patch.set_visible(False)
        for i, (steps, values) in enumerate(series.values()):
            axes.plot(*_thin(steps, values), color=_SERIES[i % len(_SERIES)], linewidth=1.4,
                      marker='o' if len(steps) <= 30 else None, markersize=2.6)
        if logarithmic:
            axes.set_yscale('log')
            axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_minor_locator(ticker.NullLocator())
            axes.yaxis.set_major_formatter('{x:g}')
        elif scale == 'fraction':
            axes.yaxis.set_major_formatter(ticker.PercentFormatter(xmax=1))
            axes.set_ylim(top=min(1.01, axes.get_ylim()[1]))
        elif scale == 'zero':
            axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]), top=axes.get_ylim()[1] or 1.0)
            axes.ticklabel_format(axis='y', style='plain', useOffset=False)
            axes.yaxis.set_major_formatter(
                ticker.EngFormatter(sep='') if '.' in key else '{x:g}')
        axes.xaxis.set_major_formatter(ticker.EngFormatter(sep=''))
        axes.margins(x=0.02)
        axes.spines[['top', 'right', 'left']].set_visible(False)
        axes.spines['bottom'].set_alpha(0.4)
        axes.tick_params(length=0, pad=4)
        axes.grid(axis='y', color=_BLACK, alpha=0.13, linewidth=0.6)
        axes.set_axisbelow(True)
        text = io.StringIO()
        fig.savefig(text, format='svg', metadata={'Date': None})
    return _to_css(text.getvalue())


def _to_css(svg):
    """Strips from matplotlib's SVG what an HTML page has of its own, and turns colours to CSS."""
    import markupsafe  # noqa: PLC0415  (jinja2's own)

    svg = svg[svg.index('<svg'):]
    svg = re.sub(r'<metadata>.*?</metadata>|<!--.*?-->', '', svg, flags=re.DOTALL)
    # The style element speaks of `*`, which inside HTML is the whole page.
    svg = re.sub(r'<style.*?</style>', '', svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*"', '<g', svg)  # figure_1 ... of four SVGs would collide
    svg = re.sub(r'<svg[^>]*?viewBox="([^"]*)"[^>]*>',
                 r'<svg viewBox="\1" aria-hidden="true" focusable="false">', svg, count=1)
    svg = re.sub(r'font(-family|-size|-weight|-style)?:[^;"]*;?', '', svg)
    for i, colour in enumerate(_SERIES, 1):
        svg = svg.replace(colour, f'var(--series-{i})')
    return markupsafe.Markup(svg.replace(_BLACK, 'currentColor'))


def _get(row, key, default=None):
    for part in key.split('.'):
        if not isinstance(row, dict) or part not in row:
            return default
        row = row[part]
    return row


def _value(row, key, default=math.nan):
    """The number under a dotted key; nan where it is null, and the default where it is absent."""
    try:
        return float(_get(row, key, default))
    except (TypeError, ValueError):
        return math.nan


def _flatten(tree, prefix=''):
    """`[('hparams.learning_rate', '0.001'), ...]` of nested dicts; other values as JSON."""
    leaves = []
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            leaves += _flatten(value, f'{prefix}{key}.')
        else:
            text = value if isinstance(value, str) else json.dumps(value, default=str)
            leaves.append((f'{prefix}{key}', text))
    return leaves


def _percent(value, digits=2):
    return f'{100 * value:.{digits}f}%' if math.isfinite(value) else MISSING


def _number(value):
    """'12,345' of whole numbers, four significant digits of others."""
    if value is None or not math.isfinite(value):
        return MISSING
    if value == int(value) and abs(value) < 1e15:
        return f'{int(value):,}'
    return f'{value:,.0f}' if abs(value) >= 1e4 else f'{value:.4g}'


def _short(value):
    """'25.6 M' of 25,557,032."""
    if value is None or not math.isfinite(value):
        return MISSING
    for size, unit in ((1e9, 'G'), (1e6, 'M'), (1e3, 'k')):
        if abs(value) >= size:
            return f'{value / size:.3g} {unit}'
    return f'{value:.3g}'


def _duration(seconds):
    if seconds is None or not math.isfinite(seconds):
        return MISSING
    if seconds < 60:
        return f'{seconds:.3g} s'
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f'{hours} h {minutes:02d} min' if hours else f'{minutes} min {seconds:02d} s'
