"""Measures the parts of a card, and writes its page."""

import functools
import importlib
import json
import logging
import os
import time
from collections.abc import Sequence
from importlib import metadata

from imgjax.card import parts, store
from imgjax.card.inputs import Inputs
from imgjax.errors import ConfigError, DataError, nearest
from imgjax.process import lock, terminal
from imgjax.report import card_page
from imgjax.rundir import files, metrics_log, outputs
from imgjax.study import code

log = logging.getLogger('imgjax')

# What the commands write into their folder besides the page and its JSON.
MORE_FILES = {'card': ('calibration.json', 'reject.safetensors'),
              'audit': ('relabel.csv', 'listing.csv', 'cells', 'plan.json', 'corrected')}
LIBRARIES = ('jax', 'numpy', 'scipy', 'scikit-learn', 'umap-learn')


def open_folder(folder: str, command: str) -> None:
    """Makes the folder of a card or an audit, which was checked, and marks it as the command's.

    Raises:
      ConfigError: something in it that the command writes is a link.
    """
    kind = command.rpartition('.')[2]
    for name in (store.FOLDER, *MORE_FILES[kind]):
        if os.path.islink(os.path.join(folder, name)):
            raise ConfigError(f'{folder}: {name!r} is a link, and nothing there is followed to '
                              'elsewhere; move it away')
    os.makedirs(folder, exist_ok=True)
    outputs.mark(folder, command, {
        *(outputs.marked(folder, command) or ()), f'{kind}.html', f'{kind}.json', 'lock',
        store.FOLDER, *MORE_FILES[kind]})


def run(inputs: Inputs, names: Sequence[str], known: Sequence[str], title: str, command: str,
        about: dict, options: dict[str, dict] | None = None) -> dict:
    """Measures parts, writes their page and a JSON file with the same figures.

    A part that was measured before, of the same model, data and code, is read from the folder. So
    are the other known parts, where they were measured: the page has all that is valid.

    Args:
      inputs: what the parts read; its folder is the folder of the page, as `open_folder` makes it.
      names: the parts to measure.
      known: all parts that the page may have, in its order.
      title: of the page; its file is the last word of `command`, card.html or audit.html.
      command: the command that writes the folder, such as launch.card.
      about: what identifies the model and the data, for the page and the result.
      options: {part: arguments of its `measure`}.

    Returns `about`, the page, the figures of all parts, `parts`, their names, and `left_out`, the
    parts that could not be measured.

    Raises:
      DataError: no part could be measured.
      PreemptedError: asked to stop; parts that were measured are stored.
    """
    kind, options = command.rpartition('.')[2], options or {}
    page = os.path.join(inputs.folder, f'{kind}.html')
    with lock.run_lock(inputs.folder):
        measured = _measure(inputs, names, known, options)
        if all('not_measured' in measured[name] for name in names):
            raise DataError('; '.join(measured[name]['not_measured'] for name in names))
        sections = [_section(name, found) for name, found in measured.items()]
        card_page.write_page(page, title=title, about=about, inputs=inputs, parts=sections)
        findings = [{'part': section['name']} | finding._asdict()
                    for section in sections for finding in section['findings']]
        with files.replacing(os.path.join(inputs.folder, f'{kind}.json')) as file:
            json.dump(metrics_log.jsonable({'about': about, 'findings': findings,
                                            'parts': measured}), file, indent=1)
    figures = {}
    for name, found in measured.items():
        if 'not_measured' not in found:
            figures |= _module(name).figures(found)
    left_out = [name for name, found in measured.items() if 'not_measured' in found]
    return {**about, **figures, 'page': os.path.abspath(page), 'parts': list(measured),
            'left_out': left_out}


def check_names(only: str, known: Sequence[str]) -> list[str]:
    """Returns the parts that --only names, in the order of the page; '' names all of `known`.

    Raises:
      ConfigError: there is no such part.
    """
    chosen = [name.strip() for name in only.split(',') if name.strip()]
    for name in chosen:
        if name not in known:
            raise ConfigError(f'--only: no part {name!r}{nearest(name, known) or "."} There are '
                              f'{", ".join(known)}')
    return [name for name in known if not chosen or name in chosen]


def _measure(inputs: Inputs, names: Sequence[str], known: Sequence[str],
             options: dict) -> dict[str, dict]:
    """Returns {part: what its `measure` gave, or {'not_measured': why}} in the order of `known`."""
    measured = {}
    with terminal.progress(len(names), 0, 'part') as bar:
        for name in known:
            given, started = options.get(name, {}), time.monotonic()
            key = store.key_of(_code(name), inputs.key, given, _versions(), inputs.other and (
                inputs.other.state_digest if name in parts.COMPARING else None))
            if name not in names:
                found = store.stored(inputs.folder, name, key)
                measured |= {name: found} if found else {}
                if found is None and store.is_there(inputs.folder, name):
                    log.info('%s is left off the page: it was measured with other flags, data or '
                             'code; --only=%s measures it again', name, name)
                continue
            bar.set_description(name)
            try:
                measured[name] = store.result(inputs.folder, name, key, functools.partial(
                    _module(name).measure, inputs, **given))
                log.info('%s: %.1f s', name, time.monotonic() - started)
            except DataError as error:
                log.warning('%s is left out: %s', name, error)
                measured[name] = {'not_measured': str(error)}
            bar.update()
    return measured


@functools.cache
def _versions() -> list[str]:
    """Returns the versions of the libraries that compute numbers."""
    there = {one.name for one in metadata.distributions()} & set(LIBRARIES)
    return [f'{name} {metadata.version(name)}' for name in sorted(there)]


def _code(name: str) -> list[str]:
    """Returns the versions of the code that a part runs."""
    return [code.version_of(module) for module in (
        f'imgjax.card.parts.{name}', *getattr(_module(name), 'CODE', ()))]


def _section(name: str, found: dict) -> dict:
    """Returns a part as the page shows it."""
    module = _module(name)
    section = {'name': name, 'title': module.TITLE, 'question': module.QUESTION, 'found': found,
               'findings': []}
    return section if 'not_measured' in found else section | {'findings': module.findings(found)}


def _module(name: str):
    return importlib.import_module(f'imgjax.card.parts.{name}')
