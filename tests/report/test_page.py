"""The report page of a run: its bytes, and what a browser makes of it."""

import dataclasses
import math
import re
import subprocess
import sys

import numpy as np
import pytest
import sklearn.metrics

from configs import digits
from imgjax import config as config_lib
from imgjax.report import answers as answers_lib
from imgjax.report import page as page_lib
from imgjax.report import run as run_page
from tests.report.samples import evaluation, metrics, run, thousand

HOSTILE = '<script>window.hostile = 1</script>'


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


def test_what_every_page_shows_has_no_tile_of_its_own():
    config = digits.get_config()
    config.metrics = (('accuracy', {}), ('projects.margin', {}))
    assert run_page.own_metrics(config_lib.checked(config)) == ['margin', 'feature_norm']


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


def test_classes_without_images_are_said():
    answers = evaluation()
    kept = np.asarray(answers.labels) > 1
    text = page_lib.render_page(**run(dataclasses.replace(
        answers, **{name: np.asarray(getattr(answers, name))[kept]
                    for name in ('labels', 'predictions', 'confidences')})))
    first, second = answers.class_names[:2]
    assert (f'has no images of 2 of the 10 classes ({first}, {second}): all figures are about the '
            'others.') in text
    assert not re.search(r'\bnan\b', text, re.IGNORECASE)


def test_bare_run_has_a_page():
    empty = answers_lib.Evaluation('test', ['a', 'b'], np.zeros(0, int), np.zeros(0, int),
                                np.zeros(0), [], math.nan)
    for answers in (empty, evaluation(error=0.0)):
        text = page_lib.render_page(config={}, config_hash='', rows=[], evaluation=answers,
                                    environment={}, result={})
        assert not re.search(r'\bnan\b', text, re.IGNORECASE)


def test_import_is_cheap():
    heavy = ('matplotlib', 'scipy', 'jax', 'tensorflow', 'torch')
    code = f'import sys, imgjax.report.page; print([m for m in {heavy} if m in sys.modules])'
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
    recall = [row['recall'] for row in answers_lib.per_class(answers)]
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
    answers.class_names[:] = [f'automated dispenser, {name}' for name in answers.class_names]
    given = run(answers)
    page_lib.write_page(path, **given | {'result': given['result'] | {'top5_accuracy': 0.91}})
    assert path.stat().st_size < 3_000_000
    with open_page(path, width=400) as page:
        assert page.evaluate('document.querySelectorAll(".sortable tbody tr").length') == 1000
        assert page.evaluate('document.querySelectorAll(".pairs tbody tr").length') == 25
        assert 'would make the page too large' in page.evaluate('document.body.innerText')
        assert page.evaluate('document.documentElement.scrollWidth') <= 400
        assert page.evaluate('document.querySelector("#top5").innerText') == 'top-5 accuracy 91.00%'
        # Names break between words, and the table stays within its card.
        assert page.evaluate('[...document.querySelectorAll(".pairs tbody th")].every('
                             'th => th.scrollWidth <= th.clientWidth && th.clientWidth > 80)')
        assert page.evaluate('(c => c.scrollWidth <= c.clientWidth)'
                             '(document.querySelector(".pairs").parentElement)')
        assert page.problems() == []


def test_the_browser_would_have_told(open_page, tmp_path):
    path = tmp_path / 'bad.html'
    path.write_text('<img src="http://127.0.0.1:9/x.png"><script>console.error(1); nope()</script>')
    with open_page(path) as page:
        assert page.requests() == [path.as_uri(), 'http://127.0.0.1:9/x.png']
        assert len(page.problems()) >= 2
