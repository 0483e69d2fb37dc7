"""Parts of the user's own: the name `projects.<file>` stands for the file `projects/<file>.py`.

The folder `projects` is looked for in the directory where the command is run, and nowhere else: not
on the path of Python, and not in a run directory, whose files are never executed.
"""

import ast
import contextlib
import hashlib
import importlib
import importlib.machinery
import importlib.util
import os
import re
import sys
import traceback
import types

from imgjax.errors import ConfigError, first_line

_DEFINITIONS = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def load(name: str) -> types.ModuleType:
    """Imports `projects/<file>.py` of the current directory, or returns it where it is imported.

    What other code has imported as `projects` from elsewhere is forgotten first. The file may
    import other files of the folder, by `from projects import other`.

    Args:
      name: such as 'projects.my_model', or 'projects.vision.my_model' for a folder inside.

    Raises:
      ValueError: in one line that names the file: `name` is no such name (letters a-z, digits and
        _ between the dots), the current directory is a run directory, the file is missing, it is
        a link out of the folder `projects`, or it does not import.
    """
    files = _files(name)
    path = files[name][0]
    _enter(_folder())
    for module, (file, _) in files.items():
        if getattr(sys.modules.get(module), '__file__', None) not in (None, file):
            del sys.modules[module]
    importlib.invalidate_caches()  # a file that was made a moment ago is found
    try:
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.origin == path:
            return importlib.import_module(name)
    except (Exception, SystemExit) as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__)
                 if frame.filename == path]
        raise _no_import(path, lines[-1] if lines else None, error) from error
    raise ValueError(f'{_short(path)}: Python imports {spec.origin if spec else "nothing"} as '
                     f'{name}; rename one of the two')


def digest(name: str) -> str:
    """Returns 16 hex digits of the code of a file that `load` takes.

    They are those of its syntax tree and of the trees of all files of the folder that its import
    statements name, so that comments, docstrings and the layout do not change them, and code does.
    They are the same under each version of Python.

    Args:
      name: as of `load`.

    Raises:
      ValueError: as of `load`, but the file is only read.
    """
    plain = ''.join(f'{module}: {tree_text(tree)}\n'
                    for module, (_, tree) in sorted(_files(name).items()))
    return hashlib.sha256(plain.encode()).hexdigest()[:16]


def blame(error: BaseException) -> str:
    """Returns one line about an error that code of the folder `projects` raised; '' of any other.

    It names the file, the line and what stands there: the last one of the folder that was being
    executed, also where the error comes from what that line calls.
    """
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if frame.filename.startswith(_folder() + os.sep)]
    if not own:
        return ''
    where = f'{_short(own[-1].filename)}, line {own[-1].lineno}'
    if own[-1] is frames[-1] and type(error) is ValueError:  # the file's own words
        return f'{where}: {first_line(error)}'
    fix = ''
    if isinstance(error, KeyError):
        fix = ("; a number that a part reads is declared in its HPARAMS, an option in its OPTIONS, "
               "and `out` has what the model names")
    return f'{where}: {type(error).__name__}: {first_line(error)} at `{own[-1].line}`{fix}'


@contextlib.contextmanager
def blame_errors():
    """Turns an error that is raised by code in projects/ into a ConfigError of one line."""
    try:
        yield
    except Exception as error:
        said = '' if isinstance(error, ConfigError) else blame(error)
        if not said:
            raise
        raise ConfigError(said) from error


def _folder() -> str:
    return os.path.join(os.getcwd(), 'projects')


def _short(path: str) -> str:
    return os.path.relpath(path)


def _no_import(path: str, line: int | None, error: BaseException) -> ValueError:
    where = _short(path) + (f', line {line}' if line else '')
    return ValueError(f'{where}: does not import: {type(error).__name__}: {first_line(error)}')


def _files(name: str) -> dict[str, tuple[str, ast.Module]]:
    """Returns module name -> (path, syntax tree) of a file and of what it imports of the folder."""
    if not isinstance(name, str) or not re.fullmatch(r'projects(\.[a-z0-9_]+)+', name):
        raise ValueError(f'the name {name!r} is refused: a file of your own is named '
                         f'projects.<file>, where <file> has only a-z, 0-9 and _')
    if os.path.isfile('config.json') and os.path.isdir('checkpoints'):
        raise ValueError(f'{name} is refused: {os.getcwd()} is a run directory, whose files are '
                         f'not executed; run the command in the directory that has projects/')
    path = _path(name)
    if path is None:
        wanted = os.path.join(*name.split('.')) + '.py'
        raise ValueError(f'{wanted}: there is no such file in {os.getcwd()}, where {name} is '
                         f'looked for')
    found, rest = {}, [name]
    while rest:
        module = rest.pop()
        path = _path(module)
        if path is not None and module not in found:
            found[module] = path, _tree(path)
            rest += _imported(module, *found[module])
    return found


def _path(module: str) -> str | None:
    """Returns the file of a module of the folder `projects`, or None where it has none."""
    stem = os.path.join(_folder(), *module.split('.')[1:])
    for path in (os.path.join(stem, '__init__.py'), f'{stem}.py'):
        if os.path.isfile(path) and path != f'{_folder()}.py':
            folder = os.path.realpath(_folder())
            if not os.path.realpath(path).startswith(folder + os.sep):
                raise ValueError(f'{_short(path)}: is a link to {os.path.realpath(path)}, out of '
                                 f'the folder projects; put the file itself there')
            return path
    return None


def _tree(path: str) -> ast.Module:
    try:
        with open(path, 'rb') as file:
            return ast.parse(file.read(), path)
    except SyntaxError as error:
        raise _no_import(path, error.lineno, error) from error
    except (OSError, ValueError, RecursionError) as error:
        raise _no_import(path, None, error) from error


def _imported(module: str, path: str, tree: ast.Module) -> list[str]:
    """Returns names in `projects` that may be modules: what is imported, and the packages above."""
    names = [module]
    package = module if path.endswith('__init__.py') else module.rpartition('.')[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level < 1 + len(package.split('.')):
            above = package.rsplit('.', node.level - 1)[0] if node.level else ''
            base = '.'.join(filter(None, (above, node.module)))
            names += [base, *(f'{base}.{alias.name}' for alias in node.names)]
    parts = [name.split('.') for name in names]
    return ['.'.join(one[:end]) for one in parts if one[0] == 'projects'
            for end in range(1, len(one) + 1)]


def _enter(folder: str) -> None:
    """Makes `projects` in sys.modules the package whose one place is `folder`."""
    package = sys.modules.get('projects')
    if package is not None and list(getattr(package, '__path__', [])) == [folder]:
        return
    for module in [one for one in sys.modules if one.split('.')[0] == 'projects']:
        del sys.modules[module]
    init = _path('projects')
    if init is None:
        spec = importlib.machinery.ModuleSpec('projects', None, is_package=True)
        spec.submodule_search_locations = [folder]
        sys.modules['projects'] = importlib.util.module_from_spec(spec)
        return
    spec = importlib.util.spec_from_file_location(
        'projects', init, submodule_search_locations=[folder])
    package = sys.modules['projects'] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(package)
    except (Exception, SystemExit) as error:
        del sys.modules['projects']
        raise _no_import(init, None, error) from error


def tree_text(node) -> str:
    """Writes a syntax tree down without docstrings, positions and fields that are empty.

    Unlike ast.dump it gives the same text where a version of Python adds a field to a node.
    """
    if isinstance(node, list):
        return f'[{", ".join(map(tree_text, node))}]'
    if not isinstance(node, ast.AST):
        return ascii(node)
    fields = dict(ast.iter_fields(node))
    if isinstance(node, _DEFINITIONS) and ast.get_docstring(node, clean=False) is not None:
        fields['body'] = node.body[1:]
    inner = ', '.join(f'{field}={tree_text(value)}' for field, value in fields.items()
                      if value is not None and value != [])
    return f'{type(node).__name__}({inner})'
