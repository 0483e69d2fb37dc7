"""The worked examples of CONTRIBUTING.md, written into a copy of the checkout and used there."""

import os
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).parent.parent.parent
TEXT = (ROOT / 'CONTRIBUTING.md').read_text()


def test_each_example_works_as_its_section_says(checkout, compiled):
    paths = []
    for text in re.findall(r'```(?:python|html)\n(.*?)```', TEXT, re.DOTALL):
        path = re.match(r'(?:# |{# )([\w/.]+)', text)[1]
        (checkout / path).write_text(text)
        paths.append(path)
    kinds = {path.rpartition('/')[0] for path in paths}
    assert kinds == {'projects', 'imgjax/explain', 'imgjax/evals', 'imgjax/card/parts',
                     'imgjax/report/card', 'configs', 'configs/studies'}
    _insert(checkout / 'imgjax/explain/__init__.py', 'DOES = {', _quoted("'rows': "))
    _insert(checkout / 'imgjax/card/parts/__init__.py', "NAMES = (", "'sureness'")
    commands = [re.sub(r' *\\\n *', ' ', text).strip() for text in re.findall(
        r'^    python -m (launch\.(?:[^\\\n]|\\\n)*)$', TEXT, re.MULTILINE)]
    assert len(commands) == 8, commands
    commands.insert(0, 'launch.train --config=configs/digits.py --workdir=runs/digits')
    for command in commands:
        if command.startswith('launch.train'):
            command += ' --config.steps=20'
        if command.startswith('launch.study'):
            command += ' --list'
        printed = _run(checkout, compiled, command)
    assert '"cells": 8' in printed, 'the last one is the study'
    assert 'Mean confidence of the right answers' in (
        checkout / 'runs/digits/card/card.html').read_text()


def _insert(path, after: str, line: str) -> None:
    text = path.read_text()
    assert after in text
    path.write_text(text.replace(after, f'{after}{line}, ', 1))


def _quoted(start: str) -> str:
    """Returns the line of the text that the section quotes."""
    return re.search(f'`({re.escape(start)}[^`]*)`', TEXT.replace('\n', ' '))[1]


def _run(checkout, compiled, command: str) -> str:
    env = os.environ | compiled | {'PYTHONPATH': str(checkout)}
    done = subprocess.run(f'{sys.executable} -m {command}', shell=True, cwd=checkout, env=env,
                          text=True, capture_output=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout
