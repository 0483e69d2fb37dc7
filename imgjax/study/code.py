"""The version of the code that a cell runs: a digest of its modules and of the libraries.

The modules are found by their import statements and by the config; no module is run. The digest
covers

- the modules that compute the numbers (`MAKERS`: the step and its state, the batches, the
  evaluation) and every module of the package that they import, also inside a function;
- the parts that the config names, because parts are imported by their name: the family of the
  model, the source of the data, the operations of the augmentation, an objective, a file of the
  user's `projects/`, and what these import. A part that the config does not name is left out;
- the modules that call the makers (`CALLERS`): they decide on the initial state, the order of the
  steps and which evaluation is the result. What they import besides the makers is left out, because
  it receives numbers and changes none: pages, logs, locks, and checkpoints, which compare every
  array that they read with its digest.

A module enters the digest as its syntax tree without docstrings, so that a change of comments,
docstrings or line breaks makes no cell old.
"""

import ast
import functools
import hashlib
import importlib.util
import json
import pathlib
from collections.abc import Iterable, Iterator
from importlib import metadata
from typing import NamedTuple

from imgjax import config as config_lib
from imgjax import models
from imgjax.config import Config
from imgjax.process import projects

ROOT = pathlib.Path(__file__).parents[2]  # the folder that holds the package

MAKERS = ('imgjax.build', 'imgjax.data.pipeline', 'imgjax.evaluate', 'imgjax.feed',
          'imgjax.state', 'imgjax.step')
CALLERS = ('imgjax.loop', 'imgjax.members', 'imgjax.rundir.result', 'imgjax.study.population',
           'imgjax.train')

_PACKAGES = ('jax', 'jaxlib', 'flax', 'optax', 'numpy',
             'pillow', 'opencv-python-headless', 'simplejpeg')  # the last three decode images


def version(config: Config, root: pathlib.Path = ROOT) -> str:
    """Returns the version, 8 hex digits, of the code that the result of a run depends on.

    Each file is read once per process.

    Args:
      config: as build.describe returns it.
      root: the folder that holds the package.

    Raises:
      FileNotFoundError: a module that `MAKERS`, `CALLERS` or the config names does not exist.
    """
    return _digest(frozenset(_named(config, root)), root)


def modules(config: Config, root: pathlib.Path = ROOT) -> list[str]:
    """Returns the sorted names of the modules in the digest; see `version` for the arguments."""
    return sorted(_counted(_named(config, root), root))


def version_of(module: str, root: pathlib.Path = ROOT) -> str:
    """Returns the version, 8 hex digits, of one module and all that it imports from the package.

    Raises:
      FileNotFoundError: there is no such module.
    """
    trees = {name: found.digest for name, found in _reachable([module], root).items()}
    return hashlib.sha256(json.dumps(trees, sort_keys=True).encode()).hexdigest()[:8]


@functools.cache
def _digest(named: frozenset[str], root: pathlib.Path) -> str:
    versions = {name: metadata.version(name) for name in _PACKAGES}
    trees = {name: module.digest for name, module in _counted(named, root).items()}
    text = json.dumps([versions, trees], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


class _Module(NamedTuple):
    """A Python file.

    Attributes:
      digest: the digest of its syntax tree without docstrings, in hex.
      imported: the full names that it imports: modules, and names that it imports from modules.
    """

    digest: str
    imported: tuple[str, ...]


def _counted(named: Iterable[str], root: pathlib.Path) -> dict[str, _Module]:
    """Returns {name: module} of the digest's modules; `named` are those that the config names."""
    counted = _reachable([*MAKERS, *named], root)
    for name in CALLERS:
        counted[name] = _read(_existing_file(name, root).read_bytes(), name.rpartition('.')[0])
    return counted


def _reachable(names: list[str], root: pathlib.Path) -> dict[str, _Module]:
    """Returns {name: module} of these modules and all they import from imgjax and projects/."""
    for name in names:
        _existing_file(name, root)
    pending, reached = list(names), {}
    while pending:
        name = pending.pop()
        file = _file(name, root)
        if name in reached or file is None:  # None: the name is a function or class of a module
            continue
        package = name if file.name == '__init__.py' else name.rpartition('.')[0]
        reached[name] = _read(file.read_bytes(), package)
        pending += [*reached[name].imported, name.rpartition('.')[0]]
    return reached


def _existing_file(name: str, root: pathlib.Path) -> pathlib.Path:
    file = _file(name, root)
    if file is None:
        raise FileNotFoundError(f'{root}: no module {name}, on which the results of runs depend; '
                                'imgjax/study/code.py names it')
    return file


@functools.cache
def _file(name: str, root: pathlib.Path) -> pathlib.Path | None:
    """Returns the file of a module of imgjax or projects/; None if there is no such file."""
    top, *inner = name.split('.')
    parent = {'imgjax': root, 'projects': pathlib.Path.cwd()}.get(top)
    if parent is None:
        return None
    folder = parent.joinpath(top, *inner)
    files = (folder / '__init__.py', folder.with_name(f'{folder.name}.py'))
    return next((file for file in files if file.is_file()), None)


@functools.cache
def _read(source: bytes, package: str) -> _Module:
    tree = ast.parse(source)
    imported = dict.fromkeys(name for node in ast.walk(tree) for name in _imported(node, package))
    return _Module(hashlib.sha256(projects.tree_text(tree).encode()).hexdigest(), tuple(imported))


def _imported(node: ast.AST, package: str) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        base = importlib.util.resolve_name('.' * node.level + (node.module or ''), package)
        return [base, *(f'{base}.{alias.name}' for alias in node.names)]
    if isinstance(node, ast.Call) and getattr(node.func, 'attr', '') == 'import_module':
        return [word.value for word in node.args[:1]
                if isinstance(word, ast.Constant) and isinstance(word.value, str)]
    return []


def _named(config: Config, root: pathlib.Path) -> set[str]:
    """Returns the modules that a run imports because its config names them.

    A field `kind` or `kind.name` names a file in the folder `kind` or `kind` + s of the package:
    `optimizer.name` names a file in `optimizers`. Options may name more files in these folders, but
    those of the model, such as an activation `sigmoid`, name models only.
    """
    flat = {field: value for field, value in config_lib.flatten(config).items()
            if not field.startswith(config_lib.INVOCATION)}
    words = set(_words(list(flat.values())))
    elsewhere = set(_words([value for field, value in flat.items()
                            if not field.startswith('model.options')]))
    variants = _variants()
    words |= {variants[word] for word in words if word in variants}
    kinds = {field.removesuffix('.name').rpartition('.')[2] for field in flat}
    modules_of = _modules_by_folder(root)
    named = {f'imgjax.{folder}.{word}' for kind in kinds for folder in (kind, f'{kind}s')
             for word in modules_of.get(folder, set()) & (
                 words if folder == 'models' else elsewhere)}
    source = config.data.name
    named.add(f'imgjax.data.sources.{source if source in modules_of["data/sources"] else "tfds"}')
    operations = _operations(root)
    named |= {operations[name] for name, _ in config.augment if name in operations}
    if config.init.weights:
        layout = config.init.weights.partition(':')[0]
        named |= {'imgjax.interop.load'} | {
            f'imgjax.interop.{word}' for word in {layout} & modules_of['interop']}
    return named | {word for word in words if word.startswith('projects.') and _file(word, root)}


def _words(value) -> Iterator[str]:
    """Yields the strings in plain data, except the keys of dicts."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list | tuple):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _words(inner)


@functools.cache
def _variants() -> dict[str, str]:
    return models.variants()


@functools.cache
def _modules_by_folder(root: pathlib.Path) -> dict[str, set[str]]:
    """Returns {a folder of the package, such as 'data/sources': the names of its modules}."""
    package, folders = root / 'imgjax', {}
    for file in package.rglob('*.py'):
        if file.name != '__init__.py':
            folders.setdefault(file.parent.relative_to(package).as_posix(), set()).add(file.stem)
    return folders


@functools.cache
def _operations(root: pathlib.Path) -> dict[str, str]:
    """Returns {function in augment/: its module}, by the last module if two have the function."""
    operations = {}
    for name in sorted(_modules_by_folder(root)['augment']):
        module = f'imgjax.augment.{name}'
        operations |= {
            node.name: module for node in ast.parse(_file(module, root).read_bytes()).body
            if isinstance(node, ast.FunctionDef)}
    return operations
