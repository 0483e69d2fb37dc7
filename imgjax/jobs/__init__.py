"""Job files for clusters: a training command, and the script that restarts it after a failure."""

import json
import os
import re
import shlex
import sys

import jinja2
from absl import flags
from ml_collections import config_flags

from imgjax.errors import ConfigError
from imgjax.rundir import outputs

# Exit codes after which a restart cannot help: wrong flags or config, wrong data, divergence, a run
# directory that another process has locked.
FINAL_CODES = (2, 3, 4, 5)


def flag_values(defined) -> dict:
    """Returns {name: value} of an entry point's flags, with the config file and its overrides.

    `config` is the name of the config file as the user gave it, '' if there is none; `fields` is
    what `overrides` returns.

    Args:
      defined: the flags that the entry point defines.

    Raises:
      ConfigError: see `overrides`.
    """
    config = flags.FLAGS['config']
    return {'config': config_flags.get_config_filename(config) if config.present else '',
            'fields': overrides(sys.argv[1:]), **{flag.name: flag.value for flag in defined}}


def overrides(arguments: list[str]) -> list[str]:
    """Returns the arguments that set fields of the config, as launch.train takes them.

    Raises:
      ConfigError: an argument has no =, so that the end of its value is unknown.
    """
    fields = [text for text in arguments if re.match(r'--?(no)?config\.', text)]
    for text in fields:
        if '=' not in text:
            raise ConfigError(f'{text}: in a job file it takes the form --config.FIELD=VALUE')
    return fields


def train_command(python: str, config: str, fields: list[str], workdir: str,
                  heartbeat_seconds: int) -> list[str]:
    """Returns the words of the training command; `fields` are what `overrides` returns."""
    return [python, '-m', 'launch.train', f'--config={config}', *fields, f'--workdir={workdir}',
            f'--heartbeat_seconds={heartbeat_seconds}']


def study_command(python: str, study: str, workdir: str, cells: str,
                  heartbeat_seconds: int) -> list[str]:
    """Returns the words of the command that runs a study."""
    return [python, '-m', 'launch.study', f'--study={study}', f'--workdir={workdir}',
            f'--cells={cells}', f'--heartbeat_seconds={heartbeat_seconds}']


def write(flag: str, path: str, text: str, command: str, mark: str) -> None:
    """Writes a job file, and makes its folder where that is missing.

    Args:
      flag: the flag that names the file.
      path: the path of the file.
      text: the content to write.
      command: the command that writes the file.
      mark: a line that every file of this command has; a file without it is not replaced.

    Raises:
      ConfigError: there is another file at `path`, or the folder cannot be used.
    """
    outputs.check_file(flag, path, command, (mark.encode(),), makes_folder=True)
    outputs.make_folder(os.path.dirname(os.path.realpath(path)))
    with outputs.replacing(path) as file:
        file.write(text)


def check(**fields) -> None:
    """Checks that values can be written into a job file.

    Args:
      **fields: {flag: a text, a list of texts, or a value of another type, which is not checked}.

    Raises:
      ConfigError: a text has a line break or another control character, or a required one is empty.
    """
    for name, value in fields.items():
        for text in value if isinstance(value, (list, tuple)) else [value]:
            if not isinstance(text, str):
                continue
            if re.search(r'[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufeff]', text):
                raise ConfigError(f'--{name}: takes no line break or control character, '
                                  f'got {text!r}')
            if not text and name in ('config', 'workdir', 'name', 'image'):
                raise ConfigError(f'--{name}: missing')


def check_name(name: str) -> None:
    """Checks that a name is a DNS label, as the names of a JobSet and a TPU VM have to be.

    Raises:
      ConfigError: it is not.
    """
    if not re.fullmatch(r'[a-z]([-a-z0-9]{0,38}[a-z0-9])?', name):
        raise ConfigError('--name: takes lower-case letters, digits and - (40 at most, a letter '
                          f'first), got {name!r}')


def render(template: str, **values) -> str:
    """Returns a template of launch/ with its values filled in; each value is quoted by a filter.

    `sh` writes one word for a shell, `words` several words, `sbatch` the value of an #SBATCH line,
    and `yaml` any value in YAML.
    """
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True,
                                     lstrip_blocks=True, keep_trailing_newline=True)
    environment.filters |= {'sh': shlex.quote, 'words': shlex.join, 'sbatch': _sbatch,
                            'yaml': _yaml}
    return environment.from_string(template).render(values)


def _sbatch(text: str) -> str:
    # Within double quotes sbatch drops a backslash; outside of them a blank ends the value.
    return '"' + re.sub(r'(["\\])', r'\\\1', text) + '"'


def _yaml(value) -> str:
    # JSON is valid YAML except for surrogate pairs such as \uD83D, which YAML does not join.
    return json.dumps(value, ensure_ascii=False)
