"""How much of the package says what it returns; `make lint` checks what is said."""

import ast
import pathlib

import imgjax

LEAST = 0.9  # of the public functions and methods


def public(body: list[ast.stmt]) -> list[ast.FunctionDef]:
    """Returns the public functions of a module, and the public methods of its public classes."""
    named = [node for node in body if isinstance(node, ast.FunctionDef | ast.ClassDef)
             and not node.name.startswith('_')]
    return [function for node in named for function in (
        [node] if isinstance(node, ast.FunctionDef) else public(node.body))]


def test_public_functions_say_what_they_return():
    root = pathlib.Path(imgjax.__file__).parent
    found = [(path, function) for path in sorted(root.rglob('*.py'))
             for function in public(ast.parse(path.read_text('utf-8')).body)]
    silent = [f'{path.relative_to(root)}:{function.lineno} {function.name}'
              for path, function in found if function.returns is None]
    assert len(found) > 500
    assert len(silent) <= (1 - LEAST) * len(found), '\n'.join(silent)


def test_others_may_use_the_types():
    assert pathlib.Path(imgjax.__file__).with_name('py.typed').exists()
