"""How Sphinx builds the site: `make docs`.

The tutorials are executed while they are read: an error in a cell ends the build. A result is
cached under a digest of the package's source, so that a change of the code runs them again.
"""

import hashlib
import os
import pathlib
import sys

from docutils import nodes
from docutils.utils.math import latex2mathml
from sphinx.errors import SphinxError

import imgjax

ROOT = pathlib.Path(__file__).parent.parent

project = 'imgjax'
author = 'the imgjax team'
copyright = '2026, ' + author
version = release = imgjax.__version__

extensions = [
    'myst_nb', 'sphinx.ext.autodoc', 'sphinx.ext.napoleon', 'sphinx.ext.viewcode',
    'sphinx_copybutton', 'sphinx_design',
]
exclude_patterns = ['_build', 'digits']
nitpicky = False
default_role = 'code'  # `name` in a docstring is code, as in Markdown

# Markdown ------------------------------------------------------------------------------------
myst_enable_extensions = ['dollarmath', 'amsmath', 'colon_fence', 'deflist', 'attrs_inline']
myst_heading_anchors = 4
myst_links_external_new_tab = True

# Tutorials -----------------------------------------------------------------------------------
def _source_digest() -> str:
    """Returns a digest of all Python files that a tutorial can call."""
    digest = hashlib.sha256()
    for folder in ('imgjax', 'configs', 'launch', 'projects'):
        for path in sorted((ROOT / folder).rglob('*.py')):
            digest.update(str(path.relative_to(ROOT)).encode() + b'\0' + path.read_bytes())
    return digest.hexdigest()[:16]


# What the cells see: `python` is the one that builds, and their plots have one style.
os.environ['PATH'] = f'{pathlib.Path(sys.executable).parent}{os.pathsep}{os.environ["PATH"]}'
os.environ['MATPLOTLIBRC'] = str(ROOT / 'docs' / 'tutorials' / 'matplotlibrc')
nb_execution_mode = 'force' if os.environ.get('CI') else 'cache'
nb_execution_cache_path = str(ROOT / '.cache' / 'docs' / _source_digest())
nb_execution_timeout = 240  # seconds of a cell
nb_execution_raise_on_error = True
nb_execution_show_tb = True
nb_merge_streams = True

# Pages ---------------------------------------------------------------------------------------
html_theme = 'furo'
html_title = 'imgjax'
html_static_path = ['_static']
html_css_files = ['imgjax.css']
html_show_sphinx = False
html_theme_options = {
    'light_css_variables': {'color-brand-primary': '#0b6e4f', 'color-brand-content': '#0b6e4f'},
    'dark_css_variables': {'color-brand-primary': '#5fd3a8', 'color-brand-content': '#5fd3a8'},
}
copybutton_exclude = '.linenos, .gp, .go'

# Reference -----------------------------------------------------------------------------------
autodoc_default_options = {'members': True, 'member-order': 'bysource'}
autodoc_typehints = 'signature'
autodoc_typehints_format = 'short'
napoleon_numpy_docstring = False
python_use_unqualified_type_names = True

# Mathematics as MathML, which browsers draw themselves: no script, no font, no network ---------
html_math_renderer = 'mathml'


def _mathml(self, node, block: bool) -> None:
    try:
        self.body.append(latex2mathml.tex2mathml(node.astext(), as_block=block))
    except Exception as error:  # docutils raises several kinds
        raise SphinxError(
            f'{node.source}:{node.line}: {node.astext()!r} is no formula: {error}') from error


def _inline(self, node):
    _mathml(self, node, block=False)
    raise nodes.SkipNode


def _block(self, node):
    self.body.append(self.starttag(node, 'div', CLASS='math'))
    _mathml(self, node, block=True)
    self.body.append('</div>\n')
    raise nodes.SkipNode


def setup(app):
    app.add_html_math_renderer('mathml', (_inline, None), (_block, None))
    return {'parallel_read_safe': True, 'parallel_write_safe': True}
