"""The page of a study: its bytes, and what a browser makes of it."""

import re

import pytest

from imgjax.report import study_page
from tests.report.studies import HOSTILE, sample

HALF_DONE = {(1, 0): 'diverged', (2, 1): 'missing', (3, 0): 'older', (3, 1): 'failed'}
STUDIES = {
    'full': dict(),
    'loss': dict(metric='loss', arms=2),
    'one seed': dict(seeds=1, arms=2),
    'one arm': dict(arms=1),
    'grid': dict(grid=([1e-4, 1e-3, 1e-2, 1e-1, 1.0], [0.0, 0.01, 0.05, 0.2, 1.0]), seeds=3,
                 comparisons=[], states={(7, 1): 'diverged'}),
    'slice': dict(grid=([1e-4, 1e-3, 1e-2],), seeds=3, comparisons=[]),
    'words': dict(grid=(['relu', 'tanh'],), seeds=2, comparisons=[]),
    'many': dict(arms=42, seeds=3),
    'nothing run': dict(arms=2, seeds=1, states={(0, 0): 'missing', (1, 0): 'missing'}),
    'half done': dict(seeds=2, states=HALF_DONE),
    'hostile': dict(arms=len(HOSTILE), names=list(HOSTILE)),
}


@pytest.fixture(scope='module')
def pages(tmp_path_factory):
    """The page of each study, by its name."""
    place = tmp_path_factory.mktemp('pages')
    for name, options in STUDIES.items():
        study_page.write_page(place / f'{name}.html', sample(**options))
    return {name: place / f'{name}.html' for name in STUDIES}


@pytest.mark.parametrize('name', STUDIES)
def test_a_page_is_whole_small_and_without_nan(pages, name):
    text = pages[name].read_text()
    assert text == study_page.render_page(sample(**STUDIES[name]), str(pages[name].parent))
    assert len(text) < 400_000 and text.endswith('</html>')
    shown = re.sub(r'<(style|script)>.*?</\1>', '', text, flags=re.DOTALL)
    assert not re.search(r'\bnan\b', shown, re.IGNORECASE)
    assert not re.search(r'(src|href)="(?!data:|#|\./)', text), 'an address that is not relative'


def test_what_is_missing_is_said_and_no_winner_named(pages):
    text = pages['half done'].read_text()
    assert 'Incomplete, so that no winner is named.' in text and 'is better</td>' not in text
    for state in set(HALF_DONE.values()):
        assert f'<span class="state {state}"' in text


def test_links_lead_to_the_run_directories():
    text = study_page.render_page(sample(), '/runs/study')
    assert 'href="./../cells/0-0/report.html"' in text


@pytest.mark.parametrize('name, dark, width', [
    *((name, False, 1200) for name in STUDIES), ('full', True, 1200), ('grid', True, 390),
    ('full', False, 390), ('many', False, 390), ('hostile', False, 390)])
def test_in_a_browser(pages, open_page, name, dark, width):
    with open_page(pages[name], dark=dark, width=width) as page:
        assert page.problems() == [] and len(page.requests()) == 1
        assert page.evaluate('document.documentElement.scrollWidth') <= width
        assert page.evaluate("[...document.querySelectorAll('svg')].every("
                             'svg => svg.getBoundingClientRect().height > 50)')
        light = page.evaluate('getComputedStyle(document.body).backgroundColor')
        assert (light == 'rgb(17, 19, 23)') == dark


def test_every_table_sorts_by_every_column(pages, open_page):
    with open_page(pages['full']) as page:
        count = page.evaluate("document.querySelectorAll('table.sortable').length")
        assert count >= 6
        for table in range(count):
            columns = page.evaluate(
                f"document.querySelectorAll('table.sortable')[{table}].tHead.rows[0].cells.length")
            for column in range(columns):
                for direction in ('ascending', 'descending'):
                    values = page.evaluate(f"""(() => {{
                        const table = document.querySelectorAll('table.sortable')[{table}];
                        const head = table.tHead.rows[0].cells[{column}];
                        head.querySelector('button').click();
                        return [head.getAttribute('aria-sort'), [...table.tBodies[0].rows].map(
                            row => row.cells[{column}].dataset.v)];
                    }})()""")
                    assert values[0] == direction
                    if all(value is not None for value in values[1]):
                        numbers = [float(value) for value in values[1]]
                        assert numbers == sorted(numbers, reverse=direction == 'descending')


def test_hostile_names_are_text(pages, open_page):
    with open_page(pages['hostile']) as page:
        names = page.evaluate(
            "[...document.querySelectorAll('#arm-table tbody th')].map(th => th.textContent)")
        assert names == list(HOSTILE)
