"""The site as `make docs` has built it, and a browser to open it."""

import pathlib

import pytest

from tests import chromium

SITE = pathlib.Path(__file__).parent.parent.parent / 'build' / 'docs'
PAGES = sorted(path for path in SITE.rglob('*.html') if '_static' not in path.parts)


@pytest.fixture(scope='session')
def site() -> pathlib.Path:
    assert PAGES, f'{SITE} has no page; `make docs` builds it'
    return SITE


@pytest.fixture(scope='module')
def open_page():
    """A context manager `open_page(path, dark=..., width=...)`: see `chromium.opened`."""
    with chromium.browser() as call:
        yield lambda path, **options: chromium.opened(call, path, **options)
