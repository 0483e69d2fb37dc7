"""The site that `make docs` builds: links, search, the console, a phone, and no network."""

import html.parser
import json
import pathlib
import re
import time
import urllib.parse

import nbformat
import pytest

from tests.site.conftest import PAGES, SITE

ROOT = SITE.parent.parent
TUTORIALS = sorted(path for path in (ROOT / 'docs' / 'tutorials').glob('*.md')
                   if path.stem != 'index')
PHONE = 390  # pixels
BUDGET = 12 * 60  # seconds for all tutorials together


class Links(html.parser.HTMLParser):
    """The anchors of a page, where its links lead, and what it loads."""

    def __init__(self, text: str):
        super().__init__()
        self.anchors, self.links, self.loaded = set(), [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.anchors |= {attributes[name] for name in ('id', 'name') if attributes.get(name)}
        if tag == 'a' and attributes.get('href'):
            self.links.append(attributes['href'])
        elif tag != 'a':
            self.loaded += [attributes[name] for name in ('src', 'href') if attributes.get(name)]


@pytest.fixture(scope='module')
def pages(site) -> dict[pathlib.Path, Links]:
    return {path: Links(path.read_text()) for path in PAGES}


def test_every_link_inside_leads_to_a_page_and_a_heading(pages):
    dead = []
    for page, found in pages.items():
        for link in found.links:
            address = urllib.parse.urlsplit(link)
            if address.scheme:
                assert address.scheme in ('https', 'http', 'mailto'), f'{page}: {link}'
                continue
            path = page.parent / urllib.parse.unquote(address.path) if address.path else page
            path = pathlib.Path(path).resolve()
            anchor = urllib.parse.unquote(address.fragment)
            if not path.exists() or anchor and path in pages and anchor not in pages[path].anchors:
                dead.append(f'{page.relative_to(SITE)}: {link}')
    assert not dead


def test_nothing_is_loaded_from_a_network(pages):
    for page, found in pages.items():
        outside = [one for one in found.loaded if '//' in one and not one.startswith('data:')]
        assert not outside, page
        assert not [one for one in found.loaded if one.startswith('/')], page


def test_all_tutorials_are_on_the_site_as_pages_and_as_notebooks(pages, site):
    assert len(TUTORIALS) == 15
    for tutorial in TUTORIALS:
        page = site / 'tutorials' / f'{tutorial.stem}.html'
        downloads = [link for link in pages[page].links if link.endswith('.ipynb')]
        assert len(downloads) == 1, tutorial
        path = page.parent / downloads[0]
        notebook = nbformat.read(path, as_version=4)
        nbformat.validate(notebook)
        assert notebook.metadata.kernelspec.name == 'python3'
        cells = [cell for cell in notebook.cells if cell.cell_type == 'code']
        assert all(cell.execution_count for cell in cells), 'it was not executed'
        early = [output.get('data', {}) for cell in cells[:3] for output in cell.outputs]
        assert any('image/png' in data for data in early), f'{tutorial}: no picture early'
        solutions = [cell for cell in cells if 'hide-cell' in cell.metadata.get('tags', ())]
        assert len(solutions) >= 3, f'{tutorial}: no three exercises with solutions'


def test_the_tutorials_take_no_longer_than_a_pause(site):
    """By the clock of the machine that built them, which executes two at a time."""
    rows = re.findall(r'>tutorials/(\w+)<(?:(?!</tr>).)*?<p>(\d+\.\d+)</p>',
                      (site / 'tutorials' / 'index.html').read_text(), re.DOTALL)
    seconds = {name: float(time) for name, time in rows}
    print('\nseconds:', json.dumps(seconds))
    assert set(seconds) == {path.stem for path in TUTORIALS}
    assert sum(seconds.values()) < 2 * BUDGET, seconds


@pytest.mark.parametrize('path', PAGES, ids=lambda path: str(path.relative_to(SITE)))
def test_a_page_has_no_error_and_fits_a_phone(path, open_page):
    with open_page(path, width=PHONE) as page:
        assert page.problems() == []
        assert page.evaluate('document.documentElement.scrollWidth') <= PHONE
        assert all(url.startswith('file://') for url in page.requests())


@pytest.mark.parametrize('words, wanted', [
    ('calibration', 'guides/card.html'), ('vanishing gradients', 'tutorials/sequences.html'),
    ('train_batches', 'reference/api/data.html'), ('resnet50', 'reference/models.html')])
def test_search_finds(site, open_page, words, wanted):
    address = site / 'search.html'
    with open_page(address) as page:
        page('Page.navigate', url=f'{address.as_uri()}?q={urllib.parse.quote(words)}')
        deadline = time.monotonic() + 30
        found = []
        while wanted not in found and time.monotonic() < deadline:
            time.sleep(0.2)
            found = page.evaluate(
                '[...document.querySelectorAll("ul.search li a")].map(a => a.getAttribute("href")'
                '.split(/[?#]/)[0])')
        assert wanted in found
        assert page.problems() == []
