"""How Sphinx builds the site: `make docs`.

The tutorials are executed while they are read, and an error in a cell ends the build. Results are
cached under a digest of the code that a tutorial can call, so that a change of it runs them again.
"""

import hashlib
import os
import pathlib
import re
import sys

import nbclient
import traitlets
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
    'myst_nb', 'sphinx.ext.autodoc', 'sphinx.ext.napoleon', 'sphinx_copybutton', 'sphinx_design',
]
exclude_patterns = ['_build', 'digits']

# ---- Markdown -------------------------------------------------------------------------------
myst_enable_extensions = ['dollarmath', 'amsmath', 'colon_fence', 'deflist', 'attrs_inline']
myst_heading_anchors = 4
myst_links_external_new_tab = True


# ---- Tutorials ------------------------------------------------------------------------------
def source_digest() -> str:
    """Returns a digest of all Python files that a tutorial can call."""
    digest = hashlib.sha256()
    for folder in ('imgjax', 'configs', 'launch', 'projects'):
        for path in sorted((ROOT / folder).rglob('*.py')):
            digest.update(str(path.relative_to(ROOT)).encode() + b'\0' + path.read_bytes())
    return digest.hexdigest()[:16]


class WholeStreams(nbclient.NotebookClient):
    """Joins the pieces in which a command's output arrives, which MyST-NB joins by line breaks."""

    coalesce_streams = traitlets.Bool(True)


nbclient.client.NotebookClient = WholeStreams

# What the cells see: `python` is the one that builds, and all plots have one style.
os.environ['PATH'] = f'{pathlib.Path(sys.executable).parent}{os.pathsep}{os.environ["PATH"]}'
os.environ['MATPLOTLIBRC'] = str(ROOT / 'docs' / 'tutorials' / 'matplotlibrc')
nb_execution_mode = 'force' if os.environ.get('CI') else 'cache'
nb_execution_cache_path = str(ROOT / '.cache' / 'docs' / source_digest())
nb_execution_timeout = 300  # seconds for one cell
nb_execution_raise_on_error = True
nb_execution_show_tb = True
nb_merge_streams = True
nb_code_prompt_show = 'Show the code'
nb_code_prompt_hide = 'Hide the code'


def offer_notebook(app, name: str, source: list[str]) -> None:
    """Puts a link to the executed notebook under the title of a tutorial."""
    folder, _, stem = name.rpartition('/')
    if folder == 'tutorials' and stem != 'index':
        source[0] = re.sub(
            '^(# .*)$', rf'\1\n\n{{nb-download}}`Download this page as a notebook <{stem}.ipynb>`',
            source[0], count=1, flags=re.MULTILINE)


# ---- Pages ----------------------------------------------------------------------------------
html_theme = 'furo'
html_title = 'imgjax'
html_static_path = ['_static']
html_css_files = ['imgjax.css']
html_show_sphinx = False
html_show_search_summary = False  # it is fetched, which a browser refuses for file://
html_theme_options = {
    'light_css_variables': {'color-brand-primary': '#0b6e4f', 'color-brand-content': '#0b6e4f'},
    'dark_css_variables': {'color-brand-primary': '#5fd3a8', 'color-brand-content': '#5fd3a8'},
}

# ---- Reference from docstrings --------------------------------------------------------------
suppress_warnings = ['ref.python']  # a field named `bytes` in two classes
default_role = 'code'  # `name` in a docstring is code, as in Markdown
autodoc_default_options = {'members': True, 'member-order': 'bysource'}
autodoc_typehints_format = 'short'
napoleon_numpy_docstring = False
napoleon_use_ivar = True
python_use_unqualified_type_names = True

# {page: (title, its modules)}; a name with a star is every public module of the folder.
API = {
    'config': ('Config and errors', ['config', 'parts', 'errors']),
    'training': ('Training and evaluation', [
        'build', 'state', 'step', 'feed', 'loop', 'train', 'evaluate', 'sharding', 'members',
        'process.backend']),
    'models': ('Models', ['models', 'models.parts.*']),
    'objectives': ('Objectives', ['objectives', 'objectives.*', 'objectives.parts.*']),
    'optimizers': ('Optimizers, metrics, samplers', [
        'optimizers', 'optimizers.*', 'optimizers.parts.*', 'metrics', 'metrics.*', 'samplers',
        'samplers.*']),
    'augment': ('Augmentation', ['augment', 'augment.*']),
    'data': ('Data', [
        'data', 'data.pipeline', 'data.splits', 'data.decode', 'data.crop', 'data.jpeg',
        'data.modes', 'data.relabel', 'data.sources.*']),
    'evals': ('Evaluators', ['evals', 'evals.*']),
    'explain': ('Explanations', ['explain', 'explain.*', 'explain.metrics', 'explain.metrics.*']),
    'study': ('Studies and statistics', ['study', 'study.*', 'report.statistics']),
    'weights': ('Weights and export', ['interop.load', 'interop.export', 'interop.*']),
    'rundir': ('Run directories', [
        'rundir.checkpoint', 'rundir.metrics_log', 'rundir.result', 'rundir.files']),
    'perf': ('What a program costs', ['perf.*']),
}


def modules_of(pattern: str) -> list[str]:
    """Returns the modules of imgjax that a name in API stands for, sorted."""
    folder, _, name = pattern.rpartition('.')
    if name != '*':
        return [pattern]
    found = (ROOT / 'imgjax').joinpath(*folder.split('.')).glob('*.py')
    return sorted(f'{folder}.{path.stem}' for path in found if not path.stem.startswith('_'))


def write_api_pages(app) -> None:
    """Writes docs/reference/api/, a page per row of API."""
    folder = ROOT / 'docs' / 'reference' / 'api'
    folder.mkdir(exist_ok=True)
    for page, (title, patterns) in API.items():
        lines = [title, '=' * len(title), '']
        for module in dict.fromkeys(one for pattern in patterns for one in modules_of(pattern)):
            lines += [f'imgjax.{module}', '-' * (len(module) + 7), '',
                      f'.. automodule:: imgjax.{module}', '']
        text, path = '\n'.join(lines), folder / f'{page}.rst'
        if not path.exists() or path.read_text() != text:  # Sphinx reads what has changed
            path.write_text(text)


def mark_blocks(app, what, name, obj, options, lines: list[str]) -> None:
    """Marks what is indented in a docstring as reStructuredText wants it.

    After a blank line it is code. After a sentence, `name: meaning` is an item of a list.
    """
    if what == 'module':  # Sphinx takes away an indentation that all lines but the first have
        lines[:] = (obj.__doc__ or '').splitlines()
    marked, before, items = [], '', None
    for i, line in enumerate(lines):
        indent = len(line) - len(line.lstrip())
        outer = len(before) - len(before.lstrip())
        if not line.strip():
            marked.append(line)
            continue
        if items is not None and (indent < items or indent == items and not ITEM.match(line)):
            marked.append('')
            items = None
        if i and indent > outer and before:
            if lines[i - 1].strip():  # no blank line between them
                if (ITEM.match(line) and before.endswith(('.', ':'))
                        and before.strip() not in SECTIONS):
                    if before.strip() == 'Returns:':  # which takes `name: text` for a type
                        marked.append(f"{' ' * indent}A dict with these values.")
                    marked.append('')
                    items = indent
                elif COLUMNS.match(line):
                    marked += ['', ' ' * outer + '::', '']
            elif not before.endswith('::') and not before.lstrip().startswith(
                    ('.. ', ':', '- ', '* ', '>>>', '``')):
                marked += [' ' * outer + '::', '']
        if items == indent and (item := ITEM.match(line)):
            names = item[1].replace('`', '')
            line = f"{' ' * indent}- ``{names}``: {item[2]}"
        marked.append(line)
        before = line
    lines[:] = marked


def leave_out(app, what, name, obj, skip, options) -> bool | None:
    """Leaves out the fields of named tuples, whose meaning stands in the docstring of the tuple."""
    return True if type(obj).__name__ == '_tuplegetter' else None


ITEM = re.compile(r'\s*(`?[a-z]\w*`?(?:, `?\w+`?)*): (.*)')
COLUMNS = re.compile(r'\s*\w+ {2,}\S')
SECTIONS = ('Args:', 'Raises:', 'Attributes:')


# ---- Formulas as MathML, which browsers draw themselves: no script, no font, no network -------
html_math_renderer = 'mathml'


def visit_math(translator, node) -> None:
    block = isinstance(node, nodes.math_block)
    try:
        text = latex2mathml.tex2mathml(node.astext(), as_block=block)
    except Exception as error:  # docutils raises several kinds
        raise SphinxError(
            f'{node.source}:{node.line}: {node.astext()!r} is no formula: {error}') from error
    translator.body.append(f'<div class="math">{text}</div>' if block else text)
    raise nodes.SkipNode


def setup(app):
    app.add_html_math_renderer('mathml', (visit_math, None), (visit_math, None))
    app.connect('source-read', offer_notebook)
    app.connect('builder-inited', write_api_pages)
    app.connect('autodoc-process-docstring', mark_blocks, priority=400)  # before napoleon
    app.connect('autodoc-skip-member', leave_out)
    return {'parallel_read_safe': True, 'parallel_write_safe': True}
