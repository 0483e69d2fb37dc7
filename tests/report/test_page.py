"""The report page of a run: its figures, its bytes, and what a browser makes of it."""

import dataclasses
import io
import math
import re
import subprocess
import sys

import numpy as np
import PIL.Image
import pytest
import scipy.stats
import sklearn.datasets
import sklearn.metrics

from imgjax.report import page as page_lib

HOSTILE = '<script>window.hostile = 1</script>'


def png(pixels):
    out = io.BytesIO()
    PIL.Image.fromarray(pixels).save(out, 'PNG')
    return out.getvalue()


def metrics(steps=2000, seed=0):
    """Rows as a run logs them: train every ten steps, test every two hundred."""
    rng, rows = np.random.default_rng(seed), []
    for step in range(10, steps + 1, 10):
        loss = 0.04 + 2.3 * math.exp(-step / 180) * rng.uniform(0.8, 1.25) + rng.exponential(0.02)
        rows.append({
            'step': step, 'split': 'train', 'loss': loss, 'accuracy': 1 - min(0.9, loss / 2.6),
            'learning_rate': 0.0015 * min(step / 200, 1 + math.cos(math.pi * step / steps)),
            'grad_norm': 1.2, 'skipped_updates': 0,
            'perf': {'images_per_second': 21000.0 * rng.uniform(0.9, 1.05), 'step_time': 0.0061,
                     'infeed_stall': 0.01, 'mfu': None, 'flops_per_second': 1.2e9}})
        if step % 200 == 0:
            rows.append({'step': step, 'split': 'test', 'loss': loss * 1.2 + 0.06,
                         'accuracy': 0.98 - min(0.9, loss / 2.3)})
    return rows


def evaluation(classes=10, examples=360, error=0.05, class_names=None, size=None, seed=0):
    """Random answers; pictures are the digits of scikit-learn, or noise of `size` pixels."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, examples)
    slips = (labels + rng.choice([1, 3, 5], examples, p=[0.2, 0.2, 0.6])) % classes
    confidences = 1 - rng.beta(1.0, 12.0, examples)
    wrong = rng.random(examples) < error
    confidences[wrong] = rng.uniform(0.3, 0.99, wrong.sum())
    predictions = np.where(wrong, slips, labels)
    names = [f'test/{i:05d}.png' for i in range(examples)]
    digits = sklearn.datasets.load_digits()
    worst = []
    for i in sorted(np.flatnonzero(wrong), key=lambda i: -confidences[i])[:24]:
        if size:
            pixels = rng.integers(0, 255, (size, size, 3), dtype=np.uint8)
        else:
            mine = np.flatnonzero(digits.target == labels[i] % 10)
            pixels = (digits.images[mine[i % len(mine)]] * 255 / 16).astype(np.uint8)
        worst.append({'image': png(pixels), 'label': int(labels[i]), 'name': names[i],
                      'prediction': int(predictions[i]), 'confidence': float(confidences[i])})
    return page_lib.Evaluation(
        split='test', class_names=class_names or [str(i) for i in range(classes)], labels=labels,
        predictions=predictions, confidences=confidences, worst=worst, loss=0.1173)


def run(answers=None, **changes):
    answers = answers or evaluation()
    accuracy = float(np.mean(answers.labels == answers.predictions))
    return {
        'config': {
            'name': 'digits_cnn',
            'model': {'name': 'cnn', 'width': 32, 'depth': 3}, 'batch_size': 128, 'steps': 2000,
            'data': {'name': 'digits', 'augment': ['shift', 'cutout']},
            'hparams': {'learning_rate': 0.001, 'weight_decay': 1e-4, 'seed': 0}},
        'config_hash': 'a41c09be77d2',
        'rows': metrics(),
        'evaluation': answers,
        'environment': {'python': '3.11.15', 'jax': '0.10.2', 'devices': '1 x cpu', 'host': 'lab-7',
                        'command': 'python -m launch.train --config=configs/digits.py'},
        'result': {'split': 'test', 'accuracy': accuracy, 'loss': 0.1173, 'step': 2000,
                   'examples': len(answers.labels), 'workdir': '/runs/digits/cnn-0',
                   'state_digest': '9f1e4c7a0b53d218', 'parameters': 93322, 'train_seconds': 42.7},
        **changes}


def thousand():
    rng = np.random.default_rng(1)
    names = [f'{rng.choice(["grey", "red", "great"])} {rng.choice(["fox", "heron"])} {i}'
             for i in range(1000)]
    return evaluation(1000, 50_000, error=0.24, class_names=names, size=224)


# The figures.


@pytest.mark.parametrize('correct, examples', [(0, 5), (5, 5), (342, 360), (49_000, 50_000)])
def test_wilson_agrees_with_scipy(correct, examples):
    theirs = scipy.stats.binomtest(correct, examples).proportion_ci(method='wilson')
    np.testing.assert_allclose(page_lib.wilson(correct, examples), theirs, atol=1e-7)


def test_per_class_agrees_with_sklearn():
    answers = evaluation(error=0.3)
    theirs = sklearn.metrics.precision_recall_fscore_support(answers.labels, answers.predictions)
    for name, values in zip(('precision', 'recall', 'f1', 'examples'), theirs, strict=True):
        ours = [row[name] for row in page_lib.per_class(answers)]
        np.testing.assert_allclose(ours, values, err_msg=name)


def test_pairs_are_the_off_diagonal_of_the_matrix():
    answers = evaluation(error=0.3)
    matrix = sklearn.metrics.confusion_matrix(answers.labels, answers.predictions)
    pairs = page_lib.confused_pairs(answers)
    assert [p['count'] for p in pairs] == sorted((p['count'] for p in pairs), reverse=True)
    for pair in pairs:
        assert pair['count'] == matrix[pair['label'], pair['prediction']]
        matrix[pair['label'], pair['prediction']] = 0
    assert np.array_equal(matrix, np.diag(np.diag(matrix)))


def test_calibration_by_hand():
    answers = page_lib.Evaluation(
        'test', ['a', 'b'], np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1]),
        np.array([0.95, 0.95, 0.55, 1.0]), [], 0.5)
    # [0.9, 1]: two of three right at 2.9 / 3; [0.5, 0.6): one of one right at 0.55.
    ece = 3 / 4 * (2.9 / 3 - 2 / 3) + 1 / 4 * (1 - 0.55)
    result = page_lib.calibration(answers)
    assert result['ece'] == pytest.approx(ece)
    assert result['gap'] == pytest.approx(3.45 / 4 - 3 / 4)
    assert [row['count'] for row in result['bins']] == [0, 0, 0, 0, 0, 1, 0, 0, 0, 3]


def test_thinned_curves_keep_their_spikes():
    values = np.zeros(100_000)
    values[54_321] = 9.0
    steps, thin = page_lib._thin(np.arange(100_000), values)
    assert len(thin) < 2000 and steps[thin.argmax()] == 54_321


def test_later_rows_of_a_step_count():
    rows = [{'step': 2, 'split': 'test', 'loss': 1.0}, {'step': 1, 'split': 'train', 'loss': 5.0},
            {'step': 2, 'split': 'test', 'loss': 3.0}, {'step': 3, 'split': 'test', 'loss': None},
            {'step': 4, 'split': 'test'}]
    series, missing = page_lib._series(rows, 'loss')
    assert {name: (list(s), list(v)) for name, (s, v) in series.items()} == {
        'train': ([1.0], [5.0]), 'test': ([2.0], [3.0])}
    assert list(series) == ['train', 'test'] and missing == 1


# The bytes.


def test_page_is_a_function_of_the_run_and_small(tmp_path):
    page_lib.write_page(tmp_path / 'a.html', **run())
    page_lib.write_page(tmp_path / 'b.html', **run())
    page = (tmp_path / 'a.html').read_bytes()
    assert page == (tmp_path / 'b.html').read_bytes()
    assert len(page) < 300_000
    assert sorted(p.name for p in tmp_path.iterdir()) == ['a.html', 'b.html']
    assert b'var(--series-2)' in page and b'#a0000' not in page and b'<metadata' not in page


def test_failure_leaves_the_old_page(tmp_path):
    path = tmp_path / 'report.html'
    page_lib.write_page(path, **run())
    before = path.read_bytes()
    answers = evaluation()
    answers.worst[0]['image'] = b'GIF89a'
    with pytest.raises(ValueError, match='is not a PNG'):
        page_lib.write_page(path, **run(answers))
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize('field, values, message', [
    ('predictions', np.zeros(3, int), 'predictions has 3 entries, labels 360'),
    ('labels', np.full(360, 10), 'labels spans 10 to 10, but there are 10 class names'),
    ('predictions', np.full(360, -1), 'predictions spans -1 to -1'),
])
def test_answers_that_do_not_fit_are_refused(field, values, message):
    answers = dataclasses.replace(evaluation(), **{field: values})
    with pytest.raises(ValueError, match=message):
        page_lib.render_page(**run(evaluation=answers))


def test_disagreements_are_said():
    rows = metrics(100)
    rows[3].update(loss=math.nan, skipped_updates=2)
    rows[0].update(skipped_updates=None)
    given = run(rows=rows)
    given['result'].update(accuracy=0.99, examples=400)
    text = page_lib.render_page(**given)
    for note in ('recorded an accuracy of 99.00%, but the predictions here give',
                 'recorded 400 examples; here are 360', 'skipped in training: 2.',
                 'not finite, and so not drawn: 1.'):
        assert note in text
    assert 'class="note"' not in page_lib.render_page(**run())


def test_bare_run_has_a_page():
    empty = page_lib.Evaluation('test', ['a', 'b'], np.zeros(0, int), np.zeros(0, int),
                                np.zeros(0), [], math.nan)
    for answers in (empty, evaluation(error=0.0)):
        text = page_lib.render_page(config={}, config_hash='', rows=[], evaluation=answers,
                                    environment={}, result={})
        assert not re.search(r'\bnan\b', text, re.IGNORECASE)


def test_import_is_cheap():
    code = ('import sys, imgjax.report.page; '
            'print([m for m in ("matplotlib", "jax", "tensorflow", "torch") if m in sys.modules])')
    assert subprocess.check_output([sys.executable, '-c', code], text=True).strip() == '[]'


# The browser.


def test_page_in_a_browser(open_page, tmp_path):
    path = tmp_path / 'report.html'
    given = run()
    page_lib.write_page(path, **given)
    with open_page(path) as page:
        assert page.requests() == [path.as_uri()] and page.problems() == []
        accuracy = given['result']['accuracy']
        assert page.evaluate('document.querySelector("#accuracy").innerText') == f'{accuracy:.2%}'
        assert page.evaluate('document.querySelector("h1").innerText') == 'digits_cnn'
        assert page.evaluate('document.querySelectorAll("#curves svg").length') == 4
        matrix = page.evaluate('[...document.querySelectorAll(".matrix tbody tr")].map(row => '
                               '[...row.cells].slice(1, -1).map(cell => +cell.innerText))')
        answers = given['evaluation']
        assert np.array_equal(
            matrix, sklearn.metrics.confusion_matrix(answers.labels, answers.predictions))
        shown = page.evaluate('[...document.images].filter(i => i.complete && i.naturalWidth == 8 '
                              '&& getComputedStyle(i).imageRendering == "pixelated").length')
        assert shown == len(answers.worst) > 0
        assert page.evaluate('[...document.images].every(i => i.alt)')
        assert page.evaluate('[...document.querySelectorAll("table")].every(t => t.caption)')
        assert 'learning_rate' not in page.evaluate('document.body.innerText').split('Config')[-1]
        page.evaluate('document.querySelectorAll("details").forEach(d => d.open = true)')
        text = page.evaluate('document.body.innerText')
        assert 'hparams.learning_rate' in text and 'launch.train' in text
        ids = page.evaluate('[...document.querySelectorAll("[id]")].map(e => e.id)')
        assert len(ids) == len(set(ids))
        assert page.problems() == []


def test_headers_sort(open_page, tmp_path):
    path = tmp_path / 'report.html'
    answers = evaluation(12, error=0.2)
    answers.labels[answers.labels == 7] = 8  # a class without examples: its recall is missing
    page_lib.write_page(path, **run(answers))
    recall = [row['recall'] for row in page_lib.per_class(answers)]
    shown = [f'{100 * value:.1f}%' for value in sorted(recall) if value == value]
    column = ('[...document.querySelectorAll(".sortable tbody tr")]'
              '.map(row => row.cells[{}].innerText.trim())')
    with open_page(path) as page:
        click = lambda name: page.evaluate(  # noqa: E731
            '[...document.querySelectorAll("th button")]'
            f'.find(b => b.innerText == "{name}").click()')
        click('recall')
        assert page.evaluate(column.format(4)) == [*shown, '–']
        assert page.evaluate('document.querySelectorAll("[aria-sort]").length') == 1
        click('recall')
        assert page.evaluate(column.format(4)) == [*shown[::-1], '–']
        click('class')
        assert page.evaluate(column.format(1)) == [str(i) for i in range(12)]  # 2 before 10
        click('#')
        click('#')
        assert page.evaluate(column.format(0)) == [str(i) for i in range(12)][::-1]
        assert page.problems() == []


def test_names_are_text(open_page, tmp_path):
    path = tmp_path / 'report.html'
    names = [HOSTILE, '"><img src=http://127.0.0.1:9/x onerror=window.hostile=1>', *'abcdefgh']
    answers = evaluation(error=0.4, class_names=names)
    for example in answers.worst:
        example['name'] = f'{HOSTILE}.png'
    given = run(answers, environment={HOSTILE: HOSTILE}, config_hash=HOSTILE)
    given['config'].update(name=HOSTILE)
    given['rows'] += [{'step': 1, 'split': HOSTILE, 'loss': 1.0}]
    given['result']['workdir'] = HOSTILE
    page_lib.write_page(path, **given)
    with open_page(path) as page:
        assert page.evaluate('window.hostile === undefined')
        assert page.evaluate('document.scripts.length') == 1
        assert page.evaluate('document.querySelector("h1").innerText') == HOSTILE
        assert page.requests() == [path.as_uri()] and page.problems() == []


def test_a_thousand_classes(open_page, tmp_path):
    path = tmp_path / 'report.html'
    answers = thousand()
    page_lib.write_page(path, **run(answers))
    assert path.stat().st_size < 3_000_000
    with open_page(path, width=400) as page:
        assert page.evaluate('document.querySelectorAll(".sortable tbody tr").length') == 1000
        assert page.evaluate('document.querySelectorAll(".pairs tbody tr").length') == 25
        assert 'would make the page too large' in page.evaluate('document.body.innerText')
        assert page.evaluate('document.documentElement.scrollWidth') <= 400
        assert page.problems() == []


def test_the_browser_would_have_told(open_page, tmp_path):
    path = tmp_path / 'bad.html'
    path.write_text('<img src="http://127.0.0.1:9/x.png"><script>console.error(1); nope()</script>')
    with open_page(path) as page:
        assert page.requests() == [path.as_uri(), 'http://127.0.0.1:9/x.png']
        assert len(page.problems()) >= 2
