"""Gives tests of pages a browser; started once a module, since a start takes a second."""

import pytest

from tests import chromium


@pytest.fixture(scope='module')
def open_page():
    """A context manager `open_page(path, dark=..., width=...)`: see `chromium.opened`."""
    with chromium.browser() as call:
        yield lambda path, **options: chromium.opened(call, path, **options)
